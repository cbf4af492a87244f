import pytest
import torch
from torch import nn

from mmlab_inline import InLineAttention, InLineDeiT, build_attention
from mmlab_inline.backbones.inline_deit import ALIASES, ARCH_ZOO
from mmlab_inline.mixers import TOKEN_MIXERS, GlobalAttention

GOLDEN_ARCH = dict(embed_dims=24, depths=2, num_heads=2, mlp_ratios=4)


@pytest.mark.parametrize('form', ['as chosen', 'linear', 'fast', 'hooked'])
@pytest.mark.parametrize(
    ('dtype', 'tolerance', 'of_parameters'),
    [(torch.float32, 1e-5, 5e-5), (torch.float64, 1e-6, 1e-6)],
    ids=['float32', 'float64'],
)
def test_released_backbone(
    dtype, tolerance, of_parameters, form, golden, use_form, assert_as_stored
):
    weights, fixture = golden('inline_deit_narrow')
    model = InLineDeiT(GOLDEN_ARCH, pretrain_img_size=64, drop_path_rate=0.0)
    model.load_state_dict(weights, strict=True)
    model = model.to(dtype).eval()
    if form == 'hooked':
        for block in model.blocks:
            block.attn.proj.register_forward_hook(lambda *_: None)
    elif form != 'as chosen':
        use_form(form)
    assert_as_stored(model, fixture, tolerance, of_parameters)


@pytest.mark.parametrize(
    ('arch', 'dense', 'classifier'),
    [
        ('tiny', 6.451, 6.478),
        ('small', 16.875, 16.735),
        ('base', 24.077, 23.797),
        # As timm's vit_tiny_patch16_224 and its sisters.
        ('vit-tiny', None, 5.717),
        ('vit-small', None, 22.051),
        ('vit-base', None, 86.568),
    ],
)
def test_parameter_counts(arch, dense, classifier):
    with torch.device('meta'):
        model = InLineDeiT(arch)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert dense is None or round(sum(counts.values()) / 1e6, 3) == dense
    pyramid = sum(count for name, count in counts.items() if name.startswith('fpn'))
    head = model.out_channels[-1] * 1000 + 1000
    assert round((sum(counts.values()) - pyramid + head) / 1e6, 3) == classifier


@pytest.mark.parametrize(
    ('arch', 'dim', 'grid', 'heads'),
    [
        ('tiny', 192, 14, 6),
        ('small', 320, 18, 10),
        ('base', 384, 28, 12),
        ('vit-tiny', 192, 14, 3),
        ('vit-small', 384, 14, 6),
        ('vit-base', 768, 14, 12),
    ],
)
def test_state_dict_of_named_arch(arch, dim, grid, heads):
    with torch.device('meta'):
        model = InLineDeiT(arch)
    shapes = {'cls_token': (1, 1, dim), 'pos_embed': (1, 1 + grid**2, dim)}

    def layer(name: str, *weight: int, bias: int | None = None) -> None:
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = weight, (bias or weight[0],)

    layer('patch_embed.proj', dim, 3, 16, 16)
    for index in range(12):
        block = f'blocks.{index}'
        layer(f'{block}.norm1', dim)
        layer(f'{block}.attn.qkv', 3 * dim, dim)
        layer(f'{block}.attn.proj', dim, dim)
        if not arch.startswith('vit'):
            layer(f'{block}.attn.residual.0', dim, dim // heads, 1)
            layer(f'{block}.attn.residual.2', 9 * dim, dim // heads, 1)
        layer(f'{block}.norm2', dim)
        layer(f'{block}.mlp.fc1', 4 * dim, dim)
        layer(f'{block}.mlp.fc2', dim, 4 * dim)
    layer('norm', dim)
    layer('fpn1.0', dim, dim // 2, 2, 2, bias=dim // 2)
    layer('fpn1.1', dim // 2)
    layer('fpn1.3', dim // 2, dim // 4, 2, 2, bias=dim // 4)
    layer('fpn2.0', dim, dim // 2, 2, 2, bias=dim // 2)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes
    assert {block.attn.num_heads for block in model.blocks} == {heads}


@pytest.mark.parametrize('alias', ['t', 's', 'b'])
def test_aliases(alias):
    names = [name for name in ARCH_ZOO if name.startswith(alias)]
    assert names == [ALIASES[alias]]


def test_softmax_twin_is_plain_vit(build_narrow, randomised, assert_near):
    """By PyTorch's own Transformer, from the same weights."""
    model = randomised(build_narrow(InLineDeiT, attention='softmax', pretrain_img_size=64))
    model = model.double().eval()
    assert all(type(block.attn) is GlobalAttention for block in model.blocks)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    patches = model.patch_embed.proj(image).flatten(2).mT
    x = torch.cat((model.cls_token.expand(2, -1, -1), patches), 1) + model.pos_embed
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, 0.0, 'gelu', 1e-6, batch_first=True, norm_first=True
        )
        names = {
            'self_attn.in_proj_': 'attn.qkv.',
            'self_attn.out_proj.': 'attn.proj.',
            'linear1.': 'mlp.fc1.',
            'linear2.': 'mlp.fc2.',
            'norm1.': 'norm1.',
            'norm2.': 'norm2.',
        }
        own = block.state_dict()
        layer.load_state_dict(
            {
                f'{a}{kind}': own[f'{b}{kind}']
                for a, b in names.items()
                for kind in ('weight', 'bias')
            }
        )
        x = layer.double().train()(x)  # the textbook's path
    expected = model.norm(x)[:, 1:].mT.unflatten(2, (4, 4))
    assert_near(model(image)[2], expected, 1e-10)


def test_at_the_stored_grid_nothing_is_resized(build_narrow, monkeypatch):
    model = build_narrow(InLineDeiT, pretrain_img_size=(48, 80)).eval()
    image = torch.randn(1, 3, 33, 70)  # rounded up, the stored size
    expected = model(image)
    monkeypatch.setattr('torch.nn.functional.interpolate', None)
    assert all(map(torch.equal, model(image), expected))
    with pytest.raises(TypeError):
        model(torch.randn(1, 3, 80, 48))  # as many patches


def test_class_token_takes_part_but_gets_no_local_residual(build_narrow, randomised):
    model = randomised(build_narrow(InLineDeiT)).eval()
    image = torch.randn(1, 3, 45, 70)
    before = model(image)[2]
    with torch.no_grad():
        model.cls_token.neg_()
    assert not torch.allclose(model(image)[2], before, atol=1e-3)

    attention = randomised(InLineAttention(16, 2, 'joint', class_token=True)).double()
    with torch.no_grad():
        attention.proj.weight.copy_(torch.eye(16))
        attention.qkv.weight[:16] = 0
        attention.qkv.bias[:16] = 0  # without queries everyone gets the mean value
    x = torch.randn(1, 13, 16, dtype=torch.float64)
    out = attention(x, (3, 4)) - attention.proj.bias
    mean = attention.qkv(x)[..., 32:].mean(1)
    torch.testing.assert_close(out[:, 0], mean)
    assert (out[:, 1:] - mean).abs().amin() > 0


def test_without_class_token(build_narrow):
    model = build_narrow(InLineDeiT, cls_token=False, pretrain_img_size=(64, 96))
    assert model.cls_token is None
    assert 'cls_token' not in model.state_dict()
    assert model.pos_embed.shape == (1, 24, 32)
    assert [out.shape[2:] for out in model(torch.randn(1, 3, 33, 47))][2] == (3, 3)


@pytest.mark.parametrize('name', sorted(TOKEN_MIXERS.keys() - {'inline', 'global'}))
def test_other_attentions_take_no_class_token(name, build_narrow):
    attention = ('inline', 'inline', (name, 'inline'), 'inline')
    message = rf"^attention '{name}' is of maps and takes no class token; .*cls_token=False, or "
    with pytest.raises(ValueError, match=message):
        build_narrow(InLineDeiT, attention=attention, cls_token=True)


@pytest.mark.parametrize('name', TOKEN_MIXERS)
def test_other_attentions_are_those_outside_of_stages(name, build_narrow):
    """The only stage is not the first of four, for which an option may be meant."""
    model = build_narrow(InLineDeiT, attention=name, cls_token=False, pretrain_img_size=64)
    expected = build_attention(name, 32, 4, qkv='joint', grid=(4, 4))
    for option in type(expected).options().keys() & vars(expected).keys():
        assert getattr(model.blocks[0].attn, option) == getattr(expected, option)
    shapes = [
        {key: value.shape for key, value in mixer.state_dict().items()}
        for mixer in (model.blocks[0].attn, expected)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize('kind', ['inline', 'softmax'])
def test_windows_take_no_class_token(kind, build_narrow):
    attention = dict(type=kind, window_size=3)
    with pytest.raises(ValueError, match=r'^window_size=3: windows have no .*cls_token=False'):
        build_narrow(InLineDeiT, attention=attention, cls_token=True)
    model = build_narrow(InLineDeiT, attention=attention, cls_token=False)
    assert len(model(torch.randn(1, 3, 70, 90))) == 4


def test_a_map_without_room_for_the_class_token():
    mixer = InLineAttention(16, 2, class_token=True)
    with pytest.raises(ValueError, match=r'\(3, 4\) and a class token does not hold 12 tokens'):
        mixer(torch.randn(1, 12, 16), (3, 4))


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        (dict(GOLDEN_ARCH, embed_dims=(8, 16), depths=(1,)), 'different lengths'),
        (dict.fromkeys(GOLDEN_ARCH, (8, 8)), 'arch has 2 stages, a plain network has one'),
        (dict(GOLDEN_ARCH, embed_dims=18), 'embed_dims=18 must be a multiple of 4'),
        (dict(GOLDEN_ARCH, depths=0), 'arch depths=0 must be positive'),
        ('vit-tinny', r"unknown arch 'vit-tinny' \(did you mean 'vit-tiny'\?\)"),
    ],
)
def test_impossible_arch(arch, message):
    with pytest.raises(ValueError, match=message):
        InLineDeiT(arch)


def test_text_for_a_flag(build_narrow):
    with pytest.raises(ValueError, match="cls_token='False' must be True or False"):
        build_narrow(InLineDeiT, cls_token='False')


def test_what_is_frozen(build_narrow):
    model = build_narrow(InLineDeiT, frozen_stages=2)
    free = {name.split('.')[0] for name, p in model.named_parameters() if p.requires_grad}
    assert free == {'blocks', 'norm', 'fpn1', 'fpn2'}
    assert [p.requires_grad for b in model.blocks for p in [b.norm1.weight]] == [False] * 2 + [
        True
    ] * 4
    last = build_narrow(InLineDeiT, frozen_stages=6)
    free = {name.split('.')[0] for name, p in last.named_parameters() if p.requires_grad}
    assert free == {'fpn1', 'fpn2'}


def test_only_what_is_asked_for_is_built(build_narrow):
    for out_indices, parts in {(2, 3): [], (0,): ['fpn1'], (1, 2): ['fpn2']}.items():
        model = build_narrow(InLineDeiT, out_indices=out_indices)
        assert [name for name, _ in model.named_children() if 'fpn' in name] == parts
        assert model.out_channels == tuple((8, 16, 32, 32)[i] for i in out_indices)
