import pytest
import torch
from torch import Tensor, nn

from mmlab_inline import InLineAttention, InLinePVT, InLineSwin
from mmlab_inline.mixers import (
    TOKEN_MIXERS,
    MixerContext,
    SpatialReductionAttention,
    WindowAttention,
    build_token_mixer,
)

PVT = dict(
    embed_dims=(4, 8, 8, 8), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2), mlp_ratios=(1,) * 4
)
SWIN = dict(embed_dims=4, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2), mlp_ratios=1)


class MeanMixer(nn.Module):
    """The least a token mixer can be."""

    def __init__(self, context: MixerContext) -> None:
        super().__init__()
        self.context = context
        self.proj = nn.Linear(context.dim, context.dim)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        assert x.shape[1:] == (hw_shape[0] * hw_shape[1], self.context.dim)
        return self.proj(x + x.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ('backbone', 'arch', 'qkv'), [(InLinePVT, PVT, 'separate'), (InLineSwin, SWIN, 'joint')]
)
def test_a_new_mixer_needs_no_change_to_a_backbone(backbone, arch, qkv, monkeypatch):
    monkeypatch.setitem(TOKEN_MIXERS, 'mean', MeanMixer)
    model = backbone(arch, attention=('mean', 'inline', ('softmax', 'mean'), 'mean'))
    mixers = [module for module in model.modules() if isinstance(module, MeanMixer)]
    assert [mixer.context.dim for mixer in mixers] == [
        model.out_channels[0],
        model.out_channels[2],
        model.out_channels[3],
    ]
    assert [mixer.context.num_heads for mixer in mixers] == [1, 2, 2]
    assert [mixer.context.shift for mixer in mixers] == [False, True, False]
    assert {mixer.context.qkv for mixer in mixers} == {qkv}
    assert sum(isinstance(module, InLineAttention) for module in model.modules()) == 1
    shapes = [tuple(out.shape[2:]) for out in model(torch.randn(1, 3, 45, 70))]
    assert shapes == [(12, 18), (6, 9), (3, 5), (2, 3)]


def test_inline_gets_what_the_context_says():
    context = MixerContext(
        12, 3, qkv='joint', kernel='relu', linear_window_size=5, softmax_window_size=7, shift=True
    )
    mixer = build_token_mixer('inline', context)
    assert isinstance(mixer, InLineAttention)
    assert hasattr(mixer, 'qkv')
    settings = (mixer.dim, mixer.num_heads, mixer.kernel, mixer.window_size, mixer.shift)
    assert settings == (12, 3, 'relu', 5, True)


def test_softmax_is_windowed_or_reduced():
    windowed = MixerContext(12, 3, qkv='joint', softmax_window_size=7, shift=True)
    mixer = build_token_mixer('softmax', windowed)
    assert isinstance(mixer, WindowAttention)
    assert (mixer.num_heads, mixer.window_size, mixer.shift) == (3, 7, True)
    mixer = build_token_mixer('softmax', MixerContext(12, 3, qkv='separate', sr_ratio=4))
    assert isinstance(mixer, SpatialReductionAttention)
    assert (mixer.num_heads, mixer.sr_ratio) == (3, 4)


def test_unknown_mixer_lists_the_table(monkeypatch):
    monkeypatch.setitem(TOKEN_MIXERS, 'mean', MeanMixer)
    with pytest.raises(ValueError, match=r"'nope'.*'inline', 'softmax', 'mean'"):
        build_token_mixer('nope', MixerContext(4, 1, qkv='joint'))
