import math

import pytest
import torch
from torch import Tensor

import mmlab_inline
from mmlab_inline import InLineAttention, InLinePVT, InLineSwin
from mmlab_inline.mixers import (
    TOKEN_MIXERS,
    QKVMixer,
    Site,
    SpatialReductionAttention,
    TokenMixer,
    WindowAttention,
    build_token_mixer,
    resolve_attention,
    shortest_attention,
    token_mixer,
)

PVT = dict(
    embed_dims=(4, 8, 8, 8), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2), mlp_ratios=(1,) * 4
)
SWIN = dict(embed_dims=4, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2), mlp_ratios=1)


@pytest.fixture
def mean_mixer(monkeypatch) -> type[TokenMixer]:
    """A mixer of somebody's own, in the table for one test."""
    monkeypatch.setattr('mmlab_inline.mixers.base.TOKEN_MIXERS', dict(TOKEN_MIXERS))
    monkeypatch.setattr(
        'mmlab_inline.mixers.build.TOKEN_MIXERS', mmlab_inline.mixers.base.TOKEN_MIXERS
    )

    @token_mixer('mean')
    class MeanMixer(QKVMixer):
        def __init__(self, dim, num_heads, qkv, grid, stage, factor=1.0, window_size=None):
            super().__init__(dim, num_heads, qkv, grid=grid, window_size=window_size)
            self.stage, self.factor = stage, factor

        def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
            assert x.shape[1:] == (hw_shape[0] * hw_shape[1], self.dim)
            return self.proj(self.factor * self.project(x)[2].mean(1, keepdim=True) + x)

    return MeanMixer


@pytest.mark.parametrize(
    ('backbone', 'arch', 'qkv'), [(InLinePVT, PVT, 'separate'), (InLineSwin, SWIN, 'joint')]
)
def test_a_new_mixer_needs_no_change_to_a_backbone(backbone, arch, qkv, mean_mixer):
    doubled = dict(type='mean', factor=2.0, window_size=3, _scope_='mmdet')
    model = backbone(arch, attention=('mean', 'inline', ['softmax', doubled], 'mean'))
    mixers = [module for module in model.modules() if isinstance(module, mean_mixer)]
    assert [mixer.dim for mixer in mixers] == [model.out_channels[i] for i in (0, 2, 3)]
    assert [mixer.num_heads for mixer in mixers] == [1, 2, 2]
    assert [mixer.stage for mixer in mixers] == [0, 2, 3]
    assert [mixer.grid for mixer in mixers] == [(56, 56), (3, 3), (7, 7)]
    assert [mixer.factor for mixer in mixers] == [1, 2, 1]
    assert all(hasattr(mixer, 'qkv') == (qkv == 'joint') for mixer in mixers)
    assert sum(isinstance(module, InLineAttention) for module in model.modules()) == 1
    shapes = [tuple(out.shape[2:]) for out in model(torch.randn(1, 3, 45, 70))]
    assert shapes == [(12, 18), (6, 9), (3, 5), (2, 3)]


def test_a_name_is_taken_once(mean_mixer):
    with pytest.raises(ValueError, match="'mean' is MeanMixer already"):
        token_mixer('mean')(mean_mixer)


def test_softmax_is_what_the_architecture_has():
    mixer = build_token_mixer('softmax', Site(12, 4, 3, qkv='joint', window=5, shift=True))
    assert isinstance(mixer, WindowAttention)
    assert (mixer.num_heads, mixer.window_size, mixer.shift) == (3, 5, True)
    mixer = build_token_mixer('softmax', Site(12, 4, 3, sr_ratio=4))
    assert isinstance(mixer, SpatialReductionAttention)
    assert (mixer.num_heads, mixer.sr_ratio, mixer.self_adjust) == (3, 4, False)
    for name in ('self_adjust', dict(type='softmax', self_adjust=True)):
        mixer = build_token_mixer(name, Site(12, 4, 3, sr_ratio=4))
        assert (mixer.num_heads, mixer.sr_ratio, mixer.self_adjust) == (3, 4, True)
        mixer = build_token_mixer(name, Site(12, 4, 3, qkv='joint', window=5))
        assert (mixer.num_heads, mixer.window_size, mixer.self_adjust) == (3, 5, True)
    # Each is built in the other architecture too.
    assert build_token_mixer('window', Site(12, 3)).window_size == 7
    assert build_token_mixer('spatial_reduction', Site(12, 3, window=7)).sr_ratio == 1


def test_heads_are_those_that_the_mixer_says():
    site = Site(16, 4, 2, grid=(7, 7))
    heads = {name: build_token_mixer(name, site).num_heads for name in TOKEN_MIXERS}
    assert heads == {name: {'inline': 4, 'softmax': 2}[TOKEN_MIXERS[name].heads] for name in heads}
    assert {heads['inline'], heads['softmax' if 'softmax' in heads else 'window']} == {4, 2}


@pytest.mark.parametrize('nest', [tuple, list])
def test_choices_of_blocks_survive_json(nest):
    choice = dict(type='inline', kernel='relu')
    nested = nest(('inline', nest((choice, 'softmax')), choice, 'softmax'))
    stages = resolve_attention(nested, (1, 2, 2, 1))
    assert stages == [('inline',), (choice, 'softmax'), (choice, choice), ('softmax',)]
    assert shortest_attention(stages) == ('inline', (choice, 'softmax'), choice, 'softmax')
    assert shortest_attention(resolve_attention(choice, (1, 2))) == choice
    assert shortest_attention(resolve_attention((('a', 'b'), 'a'), (2, 2))) == (('a', 'b'), 'a')


@pytest.mark.parametrize(('backbone', 'arch'), [(InLinePVT, PVT), (InLineSwin, SWIN)])
def test_older_keywords_say_what_to_write(backbone, arch):
    message = "write attention={'type': 'inline', 'kernel': 'relu', 'window_size': 5}"
    with pytest.warns(FutureWarning, match=message):
        old = backbone(arch, kernel='relu', inline_window_size=5)
    new = backbone(arch, attention=dict(type='inline', kernel='relu', window_size=5))
    new.load_state_dict(old.state_dict())
    x = torch.randn(1, 3, 45, 70)
    assert all(map(torch.equal, old.eval()(x), new.eval()(x)))


def test_the_public_door():
    assert {'inline', 'softmax', 'window', 'spatial_reduction'} <= set(
        mmlab_inline.list_attentions()
    )
    build = mmlab_inline.build_attention
    mixer = build(dict(type='inline', kernel='relu'), 12, 3, qkv='joint', window_size=5, shift=True)
    settings = (mixer.dim, mixer.num_heads, mixer.kernel, mixer.window_size, mixer.shift)
    assert settings == (12, 3, 'relu', 5, True)
    assert hasattr(mixer, 'qkv')
    assert mixer(torch.randn(2, 35, 12), (5, 7)).shape == (2, 35, 12)
    with pytest.raises(ValueError, match=r"unknown attention 'sofmax' \(did you mean 'softmax'"):
        build('sofmax', 12, 3)
    with pytest.raises(ValueError, match=r"no option 'kernal' \(did you mean 'kernel'"):
        build('inline', 12, 3, kernal='relu')
    with pytest.raises(ValueError, match='does not divide'):
        build('inline', 12, 5)
    with pytest.raises(ValueError, match='does not hold'):
        mixer(torch.randn(2, 35, 12), (6, 6))
    with pytest.raises(ValueError, match=r"unknown qkv 'jont' \(did you mean 'joint'"):
        build('mlla', 12, 3, qkv='jont')
    with pytest.raises(ValueError, match="shift='False' must be True or False"):
        build('inline', 12, 3, window_size=5, shift='False')
    with pytest.raises(ValueError, match='shift=True moves windows: give window_size'):
        build('inline', 12, 3, shift=True)
    assert build('window', 12, 3, shift=True).shift  # windows of its own
    assert build('self_adjust', 12, 3).self_adjust
    assert not build(dict(type='self_adjust', self_adjust=False), 12, 3).self_adjust
    for name in mmlab_inline.list_attentions():
        for num_heads in (0, '3'):
            with pytest.raises(ValueError, match=f'num_heads={num_heads!r} must be'):
                build(name, 12, num_heads, grid=(7, 7))
        with pytest.raises(ValueError, match='grid=7 must be two numbers'):
            build(name, 12, 3, grid=7)


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(type='inline', window_size=7.0), 'window_size=7.0 must be a positive whole number'),
        (dict(type='inline', window_size=True), 'window_size=True must be'),
        (dict(type='inline', window_size=(7, 7)), r'window_size=\(7, 7\) must be'),
        (dict(type='focused', kernel_size=-1), 'kernel_size=-1 must be'),
        (dict(type='focused', kernel_size='5'), "kernel_size='5' must be"),
        (dict(type='focused', kernel_size=4), 'kernel_size=4 must be odd'),
        (dict(type='focused', focusing_factor='3'), "focusing_factor='3' must be"),
        (dict(type='softmax', self_adjust='no'), "self_adjust='no' must be True or False"),
        (dict(type='vig', activation=1), 'activation=1 must be True or False'),
        (dict(type='rmt', decomposed='no'), "decomposed='no' must be True or False"),
        (dict(type='rmt', decay_span=-1), 'decay_span=-1 must be positive'),
        (dict(type='rmt', decay_start=math.inf), 'decay_start=inf must be positive'),
        (dict(type='window', window_size=None), 'window_size=None: .*global'),
        (dict(type='agent', agent_num=9.0), 'agent_num=9.0 must be'),
        (dict(type='agent', agent_num=8), 'agent_num=8 must be a square number'),
        (dict(type='agent', agent_grid=12), 'agent_grid=12 must be two numbers'),
        (dict(type='agent', agent_grid=(12,)), r'agent_grid=\(12,\) must be two numbers'),
        (dict(type='agent', agent_grid=(2.5, 3)), r'agent_grid\[0\]=2.5 must be'),
        (dict(type='linear', local_residual='False'), "local_residual='False' must be True or"),
        (dict(type='inline', local_residual=0), 'local_residual=0 must be True or False'),
        (dict(type='l2vit', local=None), 'local=None must be True or False'),
        (dict(type='mala', rotary='no'), "rotary='no' must be True or False"),
        (dict(type='fcvit', groups=3), 'dim=16 must be a multiple of 3'),
        (dict(type='linear', kernel='identity'), "attention 'inline' takes it"),
        (dict(kernel='relu'), 'lacks its name'),
        (5, 'neither a name nor a dict'),
    ],
)
def test_values_that_cannot_be_meant(choice, message):
    with pytest.raises(ValueError, match=message):
        mmlab_inline.build_attention(choice, 16, 2, grid=(7, 7))
    with pytest.raises(ValueError, match=r'stores tables: give grid=\(H, W\)'):
        mmlab_inline.build_attention('agent', 16, 2)


@pytest.mark.parametrize(
    'attention', [[], (), {}, '', 0, 5, False, ['inline', 5, 'inline', 'inline']]
)
@pytest.mark.parametrize(('backbone', 'arch'), [(InLinePVT, PVT), (InLineSwin, SWIN)])
def test_attention_that_is_none(backbone, arch, attention):
    with pytest.raises(ValueError, match='attention'):
        backbone(arch, attention=attention)


def test_older_keywords_are_merged():
    with pytest.warns(FutureWarning, match="'window_size': 5, 'kernel': 'relu'"):
        model = InLinePVT(PVT, kernel='relu', attention=dict(type='inline', window_size=5))
    assert {m.kernel for m in model.modules() if isinstance(m, InLineAttention)} == {'relu'}
