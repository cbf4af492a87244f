import pytest
import torch
from torch import nn

from mmlab_inline import InLineAttention, InLineSwin
from mmlab_inline.backbones.inline_swin import ALIASES, ARCH_ZOO
from mmlab_inline.backbones.key_converters import to_own_format
from mmlab_inline.mixers import WindowAttention

GOLDEN_ARCH = dict(embed_dims=16, depths=(1, 1, 3, 2), num_heads=(1, 2, 4, 8), mlp_ratios=2)
GOLDEN_ATTENTION = ('inline', 'inline', ('inline', 'softmax', 'softmax'), 'softmax')


@pytest.mark.parametrize('form', ['fast', 'linear'])
def test_released_backbone(form, golden, use_form, assert_near):
    use_form(form)
    weights, fixture = golden('inline_swin_narrow')
    model = InLineSwin(GOLDEN_ARCH, attention=GOLDEN_ATTENTION).eval()
    for stage in range(4):
        setattr(model, f'norm{stage}', nn.Identity())
    final_norm = {'norm.weight', 'norm.bias'}
    weights = {name: value for name, value in weights.items() if name not in final_norm}
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        outs = model(fixture['x.224x224'])
    assert len(outs) == 4
    for stage, out in enumerate(outs, start=1):
        assert_near(out, fixture[f'stage{stage}.224x224'], 1e-5, f'stage {stage}')


@pytest.mark.parametrize(
    ('arch', 'millions'), [('tiny', '29.224'), ('small', '49.793'), ('base', '88.350')]
)
def test_parameter_counts_of_classifiers(arch, millions, no_random_init):
    model = InLineSwin(arch)
    channels = model.out_channels[-1]
    count = 2 * channels + channels * 1000 + 1000  # final norm and head
    for name, parameter in model.named_parameters():
        if name.split('.')[0] not in ('norm0', 'norm1', 'norm2', 'norm3'):
            count += parameter.numel()
    assert f'{count / 1e6:.3f}' == millions


def expected_shapes(
    dim: int, depths: tuple, heads: tuple, types: tuple, ratio: int = 4, window: int = 7
) -> dict[str, tuple[int, ...]]:
    """The released names, from the rules by which they are made, and the output norms."""
    shapes = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f'{name}.weight'] = weight
        shapes[f'{name}.bias'] = weight[:1]

    layer('patch_embed.proj', dim, 3, 4, 4)
    layer('patch_embed.norm', dim)
    for stage in range(4):
        c = dim * 2**stage
        for index in range(depths[stage]):
            block = f'layers.{stage}.blocks.{index}'
            name = types[stage] if isinstance(types[stage], str) else types[stage][index]
            layer(f'{block}.norm1', c)
            layer(f'{block}.attn.qkv', 3 * c, c)
            layer(f'{block}.attn.proj', c, c)
            if name == 'inline':
                layer(f'{block}.attn.residual.0', c, c // heads[stage], 1)
                layer(f'{block}.attn.residual.2', 9 * c, c // heads[stage], 1)
            else:
                table = ((2 * window - 1) ** 2, heads[stage])
                shapes[f'{block}.attn.relative_position_bias_table'] = table
            layer(f'{block}.norm2', c)
            layer(f'{block}.mlp.fc1', ratio * c, c)
            layer(f'{block}.mlp.fc2', c, ratio * c)
        if stage < 3:
            layer(f'layers.{stage}.downsample.norm', 4 * c)
            shapes[f'layers.{stage}.downsample.reduction.weight'] = (2 * c, 4 * c)
        layer(f'norm{stage}', c)
    return shapes


@pytest.mark.parametrize(
    ('arch', 'dim', 'depths', 'heads', 'types'),
    [
        (
            'tiny',
            96,
            (2, 2, 6, 2),
            (3, 6, 12, 24),
            ('inline', 'inline', 'inline', 'softmax'),
        ),
        (
            'small',
            96,
            (2, 2, 18, 2),
            (3, 6, 12, 24),
            ('inline', 'inline', 'softmax', 'softmax'),
        ),
        (
            'base',
            128,
            (2, 2, 18, 2),
            (4, 8, 16, 32),
            ('inline', 'inline', ('inline',) * 2 + ('softmax',) * 16, 'softmax'),
        ),
    ],
)
def test_state_dict_of_named_arch(arch, dim, depths, heads, types, no_random_init):
    state_dict = InLineSwin(arch).state_dict()
    assert {name: tuple(value.shape) for name, value in state_dict.items()} == expected_shapes(
        dim, depths, heads, types
    )


def test_state_dict_of_own_arch():
    depths, heads = (1, 1, 3, 2), (1, 2, 4, 8)
    model = InLineSwin(GOLDEN_ARCH, attention=GOLDEN_ATTENTION, window_size=12)
    assert {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    } == expected_shapes(16, depths, heads, GOLDEN_ATTENTION, ratio=2, window=12)


@pytest.mark.parametrize('alias', ['t', 's', 'b'])
def test_aliases(alias):
    names = [name for name in ARCH_ZOO if name.startswith(alias)]
    assert names == [ALIASES[alias]]


def test_every_norm_has_swins_epsilon(build_narrow):
    model = build_narrow(InLineSwin)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 1 + 2 * 6 + 3 + 4
    assert {norm.eps for norm in norms} == {1e-5}


def test_shift_parity_counts_all_blocks_of_a_stage():
    model = InLineSwin(GOLDEN_ARCH, attention=GOLDEN_ATTENTION)
    shifts = [block.attn.shift for block in model.layers[2].blocks]
    assert shifts == [False, True, False]
    mixed = ('inline', 'softmax', 'inline')
    model = InLineSwin(GOLDEN_ARCH, attention=('inline', 'inline', mixed, 'softmax'))
    assert model.layers[2].blocks[1].attn.shift


def test_settings_reach_every_attention(build_narrow):
    model = build_narrow(
        InLineSwin,
        attention=('inline', 'softmax', ('inline', 'softmax'), 'inline'),
        kernel='exp',
        window_size=5,
        inline_window_size=14,
    )
    inline = [module for module in model.modules() if isinstance(module, InLineAttention)]
    assert [(attention.kernel, attention.window_size) for attention in inline] == [('exp', 14)] * 3
    softmax = [module for module in model.modules() if isinstance(module, WindowAttention)]
    assert [(attention.window_size, attention.shift) for attention in softmax] == [
        (5, False),
        (5, True),
        (5, True),
    ]


def test_window_size_that_cannot_be_meant(build_narrow):
    with pytest.raises(ValueError, match='window_size=0 must be positive'):
        build_narrow(InLineSwin, window_size=0)


def test_mlp_ratio_per_stage():
    model = InLineSwin({**GOLDEN_ARCH, 'mlp_ratios': (1, 2, 3, 4)})
    hidden = [layer.blocks[0].mlp.fc1.out_features for layer in model.layers]
    assert hidden == [16, 2 * 32, 3 * 64, 4 * 128]


def pair(reference_class: type[nn.Module], depths: tuple[int, ...], heads: tuple[int, ...]):
    arch = dict(embed_dims=8, depths=depths, num_heads=heads, mlp_ratios=2)
    stages = tuple(range(len(depths)))
    model = InLineSwin(arch, attention='softmax', out_indices=stages)
    reference = reference_class(
        embed_dims=8, depths=depths, num_heads=heads, mlp_ratio=2, out_indices=stages
    )
    model.eval()
    reference.eval()  # returns None
    return model, reference


def copy_weights(reference: nn.Module, model: InLineSwin) -> None:
    missing, unexpected = model.load_state_dict(to_own_format(reference.state_dict()), strict=False)
    assert not missing
    assert all(name.endswith('relative_position_index') for name in unexpected)


@pytest.mark.parametrize('size', [(64, 64), (128, 96), (67, 109), (60, 200), (224, 224)])
def test_all_softmax_is_mmdets_swin(size, randomised, assert_near):
    """On maps of several windows along both axes, in every block that shifts."""
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    depths = (2, 2, 2, 1) if size == (224, 224) else (2, 2, 1, 1)
    model, reference = pair(swin.SwinTransformer, depths, (1, 2, 4, 4))
    copy_weights(randomised(reference), model)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        outs, expected = model(image), reference(image)
    for stage in range(4):
        assert_near(outs[stage], expected[stage], 1e-5, f'stage {stage}')


@pytest.mark.parametrize(('size', 'single'), [((28, 28), 2), ((28, 56), 1), ((20, 28), 2)])
def test_single_windows_are_not_shifted_unlike_mmdets(size, single, randomised, assert_near):
    """mmdet shifts and masks even where the padded map is one window, Swin itself does not."""
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    model, reference = pair(swin.SwinTransformer, (2,), (2,))
    copy_weights(randomised(reference), model)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        (out,), (expected,) = model(image), reference(image)
        assert (out - expected).abs().max() > 0.01 * expected.abs().max()
        if single == 2:
            reference.stages[0].blocks[1].attn.shift_size = 0
            assert_near(out, reference(image)[0], 1e-5)
