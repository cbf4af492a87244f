import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab_inline import InLineCSwin
from mmlab_inline.analysis.attention import look, measure
from mmlab_inline.layers import Block, CSwinBlock
from mmlab_inline.mixers import TOKEN_MIXERS
from mmlab_inline.ops import apply_in_stripes

GOLDEN_ARCH = dict(embed_dims=6, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 4), mlp_ratios=2)
OWN = ('inline', 'inline', 'softmax', 'softmax')


@pytest.mark.parametrize('form', ['as chosen', 'linear', 'fast', 'hooked'])
@pytest.mark.parametrize(
    ('dtype', 'tolerance', 'of_parameters'),
    [(torch.float32, 1e-5, 5e-5), (torch.float64, 1e-6, 1e-6)],
    ids=['float32', 'float64'],
)
def test_released_backbone(
    dtype, tolerance, of_parameters, form, golden, use_form, assert_near, assert_as_stored
):
    weights, fixture = golden('inline_cswin_narrow')
    model = InLineCSwin(GOLDEN_ARCH, attention=OWN, drop_path_rate=0.0)
    model.load_state_dict(weights, strict=True)
    model = model.to(dtype).eval()
    if form == 'hooked':
        for block in (*model.stage1, *model.stage2):
            block.proj.register_forward_hook(lambda *_: None)
    elif form != 'as chosen':
        use_form(form)
    assert_as_stored(model, fixture, tolerance, of_parameters)
    with torch.no_grad():  # which may take another form
        for stage, out in enumerate(model(fixture['x'].to(dtype))):
            assert_near(out, fixture[f'y.{stage}'], tolerance, f'stage {stage}')


@pytest.mark.parametrize(
    ('arch', 'dense', 'classifier'),
    [
        ('tiny', '20.092', '20.605'),
        ('small', '32.521', '33.033'),
        ('base', '72.646', '73.414'),
        ('base-384', '72.646', '73.414'),
        ('cswin-tiny', '21.808', None),
        ('cswin-small', '34.131', None),
        ('cswin-base', '76.615', None),
    ],
)
def test_parameter_counts(arch, dense, classifier):
    with torch.device('meta'):
        model = InLineCSwin(arch)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f'{count / 1e6:.3f}' == dense
    channels = model.out_channels[-1]
    count -= 2 * sum(model.out_channels)  # output norms
    count += 2 * channels + channels * 1000 + 1000  # final norm and head
    assert classifier is None or f'{count / 1e6:.3f}' == classifier


@pytest.mark.parametrize(
    ('arch', 'dim', 'depths', 'heads', 'linear', 'stripes'),
    [
        ('tiny', 64, (2, 4, 18, 1), 2, 2, 7),
        ('base-384', 96, (3, 6, 29, 2), 4, 2, 12),
        ('cswin-small', 64, (2, 4, 32, 2), 2, 0, 7),
    ],
)
def test_state_dict_of_named_arch(arch, dim, depths, heads, linear, stripes):
    with torch.device('meta'):
        model = InLineCSwin(arch)
    shapes = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = weight, weight[:1]

    layer('stage1_conv_embed.0', dim, 3, 7, 7)
    layer('stage1_conv_embed.2', dim)
    for stage, depth in enumerate(depths):
        c, h = dim * 2**stage, heads * 2**stage
        if stage:
            layer(f'merge{stage}.conv', c, c // 2, 3, 3)
            layer(f'merge{stage}.norm', c)
        for index in range(depth):
            block = f'stage{stage + 1}.{index}'
            layer(f'{block}.norm1', c)
            layer(f'{block}.qkv', 3 * c, c)
            layer(f'{block}.proj', c, c)
            if stage < linear:
                layer(f'{block}.attns.0.residual.0', c, c // h, 1)
                layer(f'{block}.attns.0.residual.2', 9 * c, c // h, 1)
            branches = 2 if linear <= stage < 3 else 1
            for branch in range(branches):
                layer(f'{block}.attns.{branch}.get_v', c // branches, 1, 3, 3)
            layer(f'{block}.norm2', c)
            layer(f'{block}.mlp.fc1', 4 * c, c)
            layer(f'{block}.mlp.fc2', c, 4 * c)
        layer(f'norm{stage}', c)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes
    widths = [getattr(stage[0].attn, 'stripe_size', 0) for stage in stages_of(model)]
    assert widths == [0, 0, stripes, None] if linear else [1, 2, stripes, None]
    assert {b.attn.num_heads for b in model.stage3} == {4 * heads}


def stages_of(model: InLineCSwin) -> list[nn.Module]:
    return [model.stage1, model.stage2, model.stage3, model.stage4]


@pytest.mark.parametrize('vertical', [False, True])
@pytest.mark.parametrize(('side', 'width', 'before'), [(9, 7, 2), (3, 7, 2), (14, 7, 0), (5, 1, 0)])
def test_stripes_are_padded_on_both_sides(side, width, before, vertical):
    """By a stripe at a time; half of what is missing, rounded down, at the top or left."""
    x = torch.randn(2, side, 4, 3)
    count = -(-side // width)
    padded = F.pad(x, (0, 0, 0, 0, before, count * width - side - before))
    stripes = padded.split(width, 1)
    # What depends on the whole of a stripe and on the place in it.
    expected = torch.cat([stripe.cumsum(1).cumsum(2) for stripe in stripes], 1)
    expected = expected[:, before : before + side]
    if vertical:
        found = apply_in_stripes(lambda s: s.cumsum(2).cumsum(1), x.transpose(1, 2), width, True)
        found = found.transpose(1, 2)
    else:
        found = apply_in_stripes(lambda s: s.cumsum(1).cumsum(2), x, width, False)
    torch.testing.assert_close(found, expected)


def by_definition(block: CSwinBlock, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Softmax attention of a block, a stripe and a head at a time."""
    attention = block.attn
    width = attention.stripe_size
    image = block.qkv(block.norm1(x)).unflatten(1, hw_shape)
    q, k, v = (t.movedim(3, 1) for t in image.chunk(3, 3))  # (B, C, H, W)
    outs = []
    for index, branch in enumerate(attention):
        part = slice(index * q.shape[1] // 2, (index + 1) * q.shape[1] // 2)
        dim = 3 - index  # columns, then rows
        missing = -q.shape[dim] % width
        around = (missing // 2, missing - missing // 2)
        around = around if dim == 3 else (0, 0, *around)
        stripes = (F.pad(t[:, part], around).split(width, dim) for t in (q, k, v))
        found = []
        for qs, ks, vs in zip(*stripes, strict=True):
            heads = attention.num_heads // 2
            qh, kh, vh = (t.flatten(2).unflatten(1, (heads, -1)) for t in (qs, ks, vs))
            scores = qh.mT @ kh / qh.shape[2] ** 0.5
            attended = (vh @ scores.softmax(-1).mT).flatten(1, 2).view_as(vs)
            found.append(attended + branch.get_v(vs))
        found = torch.cat(found, dim).narrow(dim, missing // 2, q.shape[dim])
        outs.append(found.flatten(2).mT)
    return block.proj(torch.cat(outs, 2))


@pytest.mark.parametrize('hw_shape', [(9, 3), (5, 16), (1, 1), (14, 14)])
def test_softmax_in_stripes(hw_shape, build_narrow, randomised, assert_near):
    """Also on maps that are smaller than a stripe."""
    model = randomised(build_narrow(InLineCSwin, attention='softmax')).double()
    block = model.stage3[0]
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 32, dtype=torch.float64)
    found = block.attns(block.norm1(x), hw_shape, x, block.qkv, block.proj)
    assert_near(found, by_definition(block, x, hw_shape), 1e-12)


def test_attention_of_choice(build_narrow):
    """CSwin's own by their names, all others with projections of their own."""
    chosen = ('inline', ('agent', 'inline'), ('self_adjust', 'linear'), 'global')
    model = build_narrow(InLineCSwin, attention=chosen)
    assert type(model.stage2[0]) is type(model.stage4[0]) is Block
    assert isinstance(model.stage2[0].attn, TOKEN_MIXERS['agent'])
    assert model.stage2[0].attn.qkv.weight.shape == (48, 16)
    assert not hasattr(model.stage2[0], 'qkv')
    assert model.stage3[0].attn.self_adjust
    names = set(model.state_dict())
    assert {
        'stage2.0.attn.proj.weight',
        'stage2.1.proj.weight',
        'stage3.1.attn.proj.weight',
    } < names


@pytest.mark.parametrize('stripes', [(1, 2, None, 3), [5, 5, 5, 5]])
def test_stripes_of_choice(stripes, build_narrow):
    wider = dict(type='softmax', stripe_size=4)
    attention = ('softmax', (wider, 'softmax'), 'softmax', 'softmax')
    model = build_narrow(InLineCSwin, attention=attention, stripes=stripes)
    found = [[block.attn.stripe_size for block in stage] for stage in stages_of(model)]
    assert found == [[stripes[0]], [4, stripes[1]], [stripes[2]] * 2, [stripes[3]]]
    assert [len(out) for out in model(torch.randn(1, 3, 45, 70))] == [1] * 4


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(stripes=(1, 2, 7)), r'stripes=\(1, 2, 7\) must be one number or None for each stage'),
        (dict(stripes=7), 'stripes=7 must be one number or None for each stage'),
        (
            dict(stripes=(1, 2, 0, None), attention='softmax'),
            r'stripes\[2\]=0 must be',
        ),
        (
            dict(attention=dict(type='inline', window_size=7)),
            "attention 'inline' has no option 'window_size'; it takes kernel, local_residual",
        ),
        (dict(attention=dict(type='softmax', stripe_size=1.5)), 'stripe_size=1.5 must be'),
        (dict(arch='cswin-tinny'), r"unknown arch 'cswin-tinny' \(did you mean 'cswin-tiny'\?\)"),
        (
            dict(arch=GOLDEN_ARCH, attention='softmax'),
            r'num_heads=1 must be even: half of them .* stripe_size=None attends over the whole',
        ),
    ],
)
def test_what_cannot_be_meant(settings, message, build_narrow):
    with pytest.raises(ValueError, match=message):
        InLineCSwin(**settings) if 'arch' in settings else build_narrow(InLineCSwin, **settings)


def test_the_predictor_sees_the_mean_before_the_norm(build_narrow, randomised):
    block = randomised(build_narrow(InLineCSwin)).stage2[0]
    x = torch.randn(2, 60, 16)
    y = block.norm1(x)
    means = []
    block.attns[0].residual[0].register_forward_hook(lambda _, args, __: means.append(args[0]))
    block.attns(y, (6, 10), x, block.qkv, block.proj)
    torch.testing.assert_close(means[0][..., 0], x.mean(1))


def test_looking_at_its_weights(build_narrow, randomised, assert_near):
    model = randomised(build_narrow(InLineCSwin, depths=(1, 1, 1, 1), attention=OWN)).double()
    looks = look(model.eval(), torch.randn(1, 3, 70, 90, dtype=torch.float64))
    assert [seen.attention for seen in looks] == list(OWN)
    for seen in looks:
        weights, block = seen.weights(), seen.block
        out = block.attns(seen.tokens, seen.hw_shape, seen.x, block.qkv, block.proj)
        assert_near(weights.finish(weights.attended()), out, 1e-10)
        assert measure(seen).masking > 0
