import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab_inline import InLineAttention, InLinePVT
from mmlab_inline.backbones.inline_pvt import ALIASES, ARCH_ZOO
from mmlab_inline.backbones.key_converters import to_own_format
from mmlab_inline.mixers import SpatialReductionAttention

GOLDEN_ARCH = dict(
    embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2,) * 4
)


@pytest.mark.parametrize('form', ['fast', 'linear'])
@pytest.mark.parametrize('size', ['224x224', '96x160'])
def test_released_backbone(size, form, golden, use_form, assert_near):
    use_form(form)
    weights, fixture = golden('inline_pvt_narrow')
    model = InLinePVT(GOLDEN_ARCH).eval()
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        outs = model(fixture[f'x.{size}'])
    assert len(outs) == 4
    for stage, out in enumerate(outs, start=1):
        assert_near(out, fixture[f'stage{stage}.{size}'], 1e-5, f'stage {stage}')


@pytest.mark.parametrize(
    ('arch', 'millions'),
    [('tiny', '12.032'), ('small', '21.556'), ('medium', '37.619'), ('large', '51.154')],
)
def test_parameter_counts_of_classifiers(arch, millions, no_random_init):
    model = InLinePVT(arch)
    head = 512 * 1000 + 1000
    count = sum(parameter.numel() for parameter in model.parameters()) + head
    assert f'{count / 1e6:.3f}' == millions


def expected_shapes(
    dims: tuple, depths: tuple, heads: tuple, ratios: tuple, types: tuple
) -> dict[str, tuple[int, ...]]:
    """The released names, from the rules by which they are made."""
    shapes = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f'{name}.weight'] = weight
        shapes[f'{name}.bias'] = weight[:1]

    for stage in range(4):
        number, c = stage + 1, dims[stage]
        patch = 2 if stage else 4
        layer(f'patch_embed{number}.proj', c, dims[stage - 1] if stage else 3, patch, patch)
        layer(f'patch_embed{number}.norm', c)
        shapes[f'pos_embed{number}'] = (1, (56 // 2**stage) ** 2, c)
        for index in range(depths[stage]):
            block = f'block{number}.{index}'
            layer(f'{block}.norm1', c)
            layer(f'{block}.attn.q', c, c)
            layer(f'{block}.attn.kv', 2 * c, c)
            layer(f'{block}.attn.proj', c, c)
            name = types[stage] if isinstance(types[stage], str) else types[stage][index]
            if name == 'inline':
                layer(f'{block}.attn.residual.0', c, c // heads[stage], 1)
                layer(f'{block}.attn.residual.2', 9 * c, c // heads[stage], 1)
            elif number < 4:
                ratio = (8, 4, 2)[stage]
                layer(f'{block}.attn.sr', c, c, ratio, ratio)
                layer(f'{block}.attn.norm', c)
            layer(f'{block}.norm2', c)
            layer(f'{block}.mlp.fc1', ratios[stage] * c, c)
            layer(f'{block}.mlp.fc2', c, ratios[stage] * c)
    return shapes


@pytest.mark.parametrize('arch', ['tiny', 'small'])
def test_state_dict_of_named_arch(arch, no_random_init):
    depths = {'tiny': (2, 2, 2, 2), 'small': (3, 4, 6, 3)}[arch]
    widths = ((64, 128, 320, 512), depths, (2, 4, 10, 16), (8, 8, 4, 4))
    state_dict = InLinePVT(arch).state_dict()
    assert {name: tuple(value.shape) for name, value in state_dict.items()} == expected_shapes(
        *widths, types=('inline',) * 4
    )


@pytest.mark.parametrize(
    'types',
    [
        ('inline', 'inline', 'softmax', 'softmax'),
        ('softmax',) * 4,
        ('softmax', ('inline', 'softmax'), ('softmax', 'inline'), 'inline'),
    ],
)
def test_state_dict_of_mixed_attention(types):
    widths = ((8, 16, 24, 32), (1, 2, 2, 1), (1, 2, 4, 4), (2, 3, 2, 1))
    arch = dict(zip(('embed_dims', 'depths', 'num_heads', 'mlp_ratios'), widths, strict=True))
    state_dict = InLinePVT(arch, attention=types).state_dict()
    assert {name: tuple(value.shape) for name, value in state_dict.items()} == expected_shapes(
        *widths, types
    )


@pytest.mark.parametrize('alias', ['t', 's', 'm', 'l'])
def test_aliases(alias):
    names = [name for name in ARCH_ZOO if name.startswith(alias)]
    assert names == [ALIASES[alias]]


def test_alias_builds_the_same(no_random_init):
    assert str(InLinePVT('t')) == str(InLinePVT('tiny'))


def test_norm_epsilons(build_narrow):
    model = build_narrow(InLinePVT, attention=('softmax', 'inline', 'inline', 'inline'))
    epsilons = {
        name: module.eps
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    for name, eps in epsilons.items():
        assert eps == (1e-5 if name.startswith('patch_embed') or 'attn' in name else 1e-6), name
    assert 'block1.0.attn.norm' in epsilons


def test_softmax_heads_of_named_and_own_archs(build_narrow, no_random_init):
    named = InLinePVT('tiny', attention=('softmax', 'inline', 'softmax', 'softmax'))
    heads = [getattr(named, f'block{number}')[0].attn.num_heads for number in (1, 2, 3, 4)]
    assert heads == [1, 4, 5, 8]
    own = build_narrow(InLinePVT, attention='softmax')
    heads = [getattr(own, f'block{number}')[0].attn.num_heads for number in (1, 2, 3, 4)]
    assert heads == [1, 2, 4, 4]


def test_kernel_and_window_reach_every_attention(build_narrow):
    model = build_narrow(InLinePVT, kernel='relu', inline_window_size=5)
    attentions = [module for module in model.modules() if isinstance(module, InLineAttention)]
    assert len(attentions) == 6
    assert {(attention.kernel, attention.window_size) for attention in attentions} == {('relu', 5)}
    assert [attention.shift for attention in attentions] == [False, False, True, False, True, False]


def test_sr_ratios(build_narrow):
    model = build_narrow(InLinePVT, attention='softmax', sr_ratios=(4, 2, 1, 1))
    ratios = [m.sr_ratio for m in model.modules() if isinstance(m, SpatialReductionAttention)]
    assert ratios == [4, 2, 2, 1, 1, 1]


@pytest.mark.parametrize('sr_ratios', [(8, 4, 2), (8, 4, 2, 1, 1), (8, 4, 2, 0), 8])
def test_sr_ratios_that_do_not_fit(sr_ratios, build_narrow):
    with pytest.raises(ValueError, match='sr_ratios'):
        build_narrow(InLinePVT, sr_ratios=sr_ratios)


def test_position_embeddings_compare_shapes(randomised, build_narrow, assert_near):
    """A 196x256 image has as many patches as a 224x224 one, in another shape."""
    model = randomised(build_narrow(InLinePVT)).eval()
    added = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        added.append(inputs[0])

    model.block1[0].register_forward_pre_hook(record)
    with torch.no_grad():
        image = torch.randn(1, 3, 196, 256)
        model(image)
        tokens, hw_shape = model.patch_embed1(image)
    assert hw_shape == (49, 64)
    grid = model.pos_embed1.view(1, 56, 56, 8).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (49, 64), mode='bilinear', align_corners=False)
    assert_near(added[0] - tokens, resized.flatten(2).transpose(1, 2), 1e-5)


def test_pretrain_img_size(build_narrow):
    model = build_narrow(InLinePVT, pretrain_img_size=(96, 160))
    shapes = [tuple(getattr(model, f'pos_embed{number}').shape) for number in (1, 2, 3, 4)]
    assert shapes == [(1, 24 * 40, 8), (1, 12 * 20, 16), (1, 6 * 10, 24), (1, 3 * 5, 32)]
    outs = model(torch.randn(1, 3, 97, 130))
    assert [tuple(out.shape[2:]) for out in outs] == [(25, 33), (13, 17), (7, 9), (4, 5)]


@pytest.mark.parametrize('size', [16, (31, 64), (64,), (64, 64, 64)])
def test_pretrain_img_size_that_does_not_fit(size, build_narrow):
    with pytest.raises(ValueError, match=r'pretrain_img_size=\(.*at least 32'):
        build_narrow(InLinePVT, pretrain_img_size=size)


def test_more_stages_than_patch_sizes():
    arch = dict(embed_dims=(8,) * 5, depths=(1,) * 5, num_heads=(1,) * 5, mlp_ratios=(1,) * 5)
    with pytest.raises(ValueError, match='arch has 5 stages, at most 4'):
        InLinePVT(arch, sr_ratios=(8, 4, 2, 1, 1))


@pytest.mark.parametrize('size', [(224, 224), (96, 160), (160, 64), (32, 32)])
def test_all_softmax_is_mmdets_pvt(size, randomised, no_random_init, assert_near):
    pvt = pytest.importorskip('mmdet.models.backbones.pvt')
    model = InLinePVT('tiny', attention='softmax').eval()
    reference = pvt.PyramidVisionTransformer(
        num_layers=[2, 2, 2, 2], num_heads=[1, 2, 5, 8], drop_path_rate=0.0
    ).eval()
    model.load_state_dict(to_own_format(randomised(reference).state_dict()), strict=True)
    epsilons = {
        name: module.eps
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    for module in (*model.modules(), *reference.modules()):
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # mmdet has one epsilon for all
    assert set(epsilons.values()) == {1e-5, 1e-6}
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        outs, expected = model(image), reference(image)
    for stage in range(4):
        assert_near(outs[stage], expected[stage], 2e-5, f'stage {stage}')


def test_swapped_weights_count_from_the_next_switch_to_eval(build_narrow):
    model = build_narrow(InLinePVT).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = model(image)[0]
        model.pos_embed1.data.copy_(model.pos_embed1.data + 1)
        assert (model.eval()(image)[0] - before).abs().max() > 0.1
