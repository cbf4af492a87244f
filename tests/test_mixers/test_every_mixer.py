"""What holds for every token mixer in the table: one more needs no line here but its variants.

Values and gradients are held against fixtures: tests/data/mixers has one or more for each mixer
that came after InLine, PVT's and Swin's, which have test files of their own.
"""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mmlab_inline import InLinePVT, InLineSwin, backbones, build_attention
from mmlab_inline.mixers import TOKEN_MIXERS, Site, TokenMixer, build_token_mixer
from mmlab_inline.utils import CheckpointError
from mmlab_inline.weights.recognition import recognise

FIXTURES = sorted((Path(__file__).parents[1] / 'data/mixers').glob('*.safetensors'))
GRID = (5, 6)


def told_by(path: Path) -> dict:
    """What a fixture says of itself: attention, num_heads, map, and grid where it has tables."""
    with safe_open(path, 'pt') as file:
        return {key: json.loads(value) for key, value in file.metadata().items()}


# By name with default options, and as the fixtures have them.
VARIANTS = [
    *TOKEN_MIXERS,
    dict(type='inline', kernel='relu'),
    dict(type='spatial_reduction', sr_ratio=2),
    dict(type='spatial_reduction', sr_ratio=2, self_adjust=True),
    *(told_by(path)['attention'] for path in FIXTURES),
]
HEADS = (1, 2, 2, 4)  # widths of 8 and more in the narrow backbones
every = pytest.mark.parametrize('choice', VARIANTS, ids=str)
layouts = pytest.mark.parametrize('qkv', ['separate', 'joint'])


def build(choice: str | dict, **settings: object) -> TokenMixer:
    """In evaluation mode, in which batch mates do not matter to a BatchNorm either."""
    return build_attention(choice, 16, 2, grid=GRID, **settings).eval()


def largest_difference(actual: Tensor, expected: Tensor) -> float:
    with torch.no_grad():
        return float((actual.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@layouts
@pytest.mark.parametrize('path', FIXTURES, ids=lambda path: path.stem)
def test_fixture(path, qkv, dtype, tolerance):
    told = told_by(path)
    given = {key: value.to(dtype) for key, value in load_file(path).items()}
    if qkv == 'joint':
        if 'param.kv.weight' not in given:
            pytest.skip('has no projections to join')
        for kind in ('param', 'grad'):
            for part in ('weight', 'bias'):
                parts = (given.pop(f'{kind}.{name}.{part}') for name in ('q', 'kv'))
                given[f'{kind}.qkv.{part}'] = torch.cat(list(parts))
    dim = given['x'].shape[2]
    mixer = build_attention(
        told['attention'], dim, told['num_heads'], qkv=qkv, grid=told.get('grid')
    )
    if qkv == 'separate' and hasattr(mixer, 'qkv'):
        pytest.skip('has joint projections only')
    weights = {k.partition('.')[2]: v for k, v in given.items() if k[:6] in ('param.', 'buffer')}
    missing, unexpected = mixer.to(dtype).eval().load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith('num_batches_tracked') for name in missing)
    x = given['x'].requires_grad_()
    y = mixer(x, told['map'])
    y.backward(given['grad_y'])
    found = {'y': y, 'grad_x': x.grad}
    found |= {f'grad.{name}': parameter.grad for name, parameter in mixer.named_parameters()}
    assert found.keys() == {k for k in given if k == 'y' or k.startswith('grad')} - {'grad_y'}
    scale = max(float(given[k].abs().max()) for k in found if k.startswith('grad.'))
    for key, value in found.items():
        # Some biases have no gradient: what is there is rounding noise.
        noise = given[key].abs().max() < 1e-6 * scale
        error = (
            value.abs().max() / scale if noise else largest_difference(value, given[key].double())
        )
        assert error <= tolerance, f'{key} is off by {error:.1e}'


def test_every_newer_mixer_has_a_fixture():
    named = {told_by(path)['attention']['type'] for path in FIXTURES}
    assert named | {'inline', 'window', 'spatial_reduction'} == TOKEN_MIXERS.keys()


def kind_of(choice: str | dict) -> str:
    return choice if isinstance(choice, str) else choice['type']


@every
@layouts
@pytest.mark.parametrize('window_size', [None, 3])
def test_any_map_any_batch(choice, qkv, window_size, randomised):
    options = {} if window_size is None else {'window_size': window_size}
    if window_size and 'spatial_reduction' in str(choice):
        pytest.skip('reduces whole maps')
    mixer = randomised(build(choice, qkv=qkv, shift=bool(window_size), **options)).double()
    for hw_shape in ((1, 1), (1, 5), (7, 1), GRID, (6, 5), (9, 14)):
        x = torch.randn(2, hw_shape[0] * hw_shape[1], 16, dtype=torch.float64)
        x.requires_grad_()
        both = mixer(x, hw_shape)
        assert both.shape == x.shape
        assert largest_difference(mixer(x[:1], hw_shape), both[:1].detach()) < 1e-12
        assert mixer(x[:0], hw_shape).shape == x[:0].shape
        (gradient,) = torch.autograd.grad(both.square().sum(), x)
        assert gradient.isfinite().all()
        # Another layout in memory is the same tokens.
        strided = x.detach().mT.contiguous().mT
        assert largest_difference(mixer(strided, hw_shape), both.detach()) < 1e-12
    with pytest.raises(ValueError, match='does not hold 126 tokens'):
        mixer(torch.randn(1, 126, 16, dtype=torch.float64), (10, 14))


@every
def test_an_image_twice_has_twice_the_gradients(choice, randomised):
    """While training: BatchNorm takes statistics over the batch, here of equal images."""
    mixer = randomised(build(choice)).double().train()
    x = torch.randn(1, 54, 16, dtype=torch.float64)
    once, twice = (
        torch.autograd.grad(mixer(x.expand(n, -1, -1), (6, 9)).square().sum(), mixer.parameters())
        for n in (1, 2)
    )
    for one, two in zip(once, twice, strict=True):
        assert (two - 2 * one).abs().max() <= 1e-10 * max(g.abs().max() for g in twice)


@every
@pytest.mark.parametrize('kind', ['large', 'shared', 'dead'])
def test_gradients_stay_finite(choice, kind, randomised):
    """Of inputs beyond what a network sees, and where features die out."""
    for seed in range(8):
        torch.manual_seed(seed)
        mixer = randomised(build(choice))
        if kind == 'dead' and hasattr(mixer, 'kv'):
            with torch.no_grad():
                mixer.kv.bias[:4] = -45.5 * (1 + 4 * (seed % 2))
        for hw_shape in ((1, 1), (2, 2), (8, 9)):
            x = torch.randn(1, hw_shape[0] * hw_shape[1], 16)
            x = 30 * x if kind == 'large' else 20 * torch.randn(1, 1, 16) + 0.1 * x
            x.requires_grad_()
            gradients = torch.autograd.grad(mixer(x, hw_shape).sum(), (x, *mixer.parameters()))
            assert all(gradient.isfinite().all() for gradient in gradients)


@every
def test_layers_may_be_replaced(choice):
    """By one of another width, or without a bias."""
    for out_features, bias in ((24, True), (16, False)):
        mixer = build(choice)
        if not hasattr(mixer, 'proj') or hasattr(mixer, 'se_fc') or hasattr(mixer, 'norm3'):
            pytest.skip('has no projection of its own at the end')
        mixer.proj = nn.Linear(16, out_features, bias=bias)
        x = torch.randn(1, 90, 16)
        with torch.no_grad():
            out = mixer(x, (9, 10))
        assert out.shape == (1, 90, out_features)
        assert torch.allclose(mixer(x, (9, 10)), out, atol=1e-5)


@every
def test_forward_mode(choice, randomised):
    mixer = randomised(build(choice)).double()
    x, tangent = torch.randn(2, 1, 54, 16, dtype=torch.float64)
    call = lambda x: mixer(x, (6, 9))  # noqa: E731
    forward = torch.func.jvp(call, (x,), (tangent,))[1]
    with torch.no_grad():
        difference = (call(x + 1e-6 * tangent) - call(x - 1e-6 * tangent)) / 2e-6
    assert largest_difference(forward, difference) < 1e-6


@every
def test_every_parameter_counts(choice, randomised):
    """A gradient reaches each, at the size of the tables and at another."""
    mixer = randomised(build(choice)).double()
    for hw_shape in (GRID, (9, 4)):
        x = torch.randn(1, hw_shape[0] * hw_shape[1], 16, dtype=torch.float64)
        gradients = torch.autograd.grad(
            (mixer(x, hw_shape) * torch.randn_like(x)).sum(), mixer.parameters()
        )
        for (name, _), gradient in zip(mixer.named_parameters(), gradients, strict=True):
            assert gradient.abs().max() > 0, name


@every
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [0.0, 1.0, 30.0])
def test_half_precision_stays_finite(choice, dtype, scale):
    mixer = build(choice).to(dtype)
    x = (scale * torch.randn(1, 64 * 64, 16)).to(dtype)
    out = mixer(x, (64, 64))
    assert out.dtype is dtype
    assert out.isfinite().all()
    exact = mixer.float()(x.float(), (64, 64))
    if scale:
        assert largest_difference(out, exact.double()) < 0.06
    with torch.autocast('cpu', dtype):
        assert mixer(x.float(), (64, 64)).isfinite().all()


@every
def test_half_precision_with_channels_of_very_different_size(choice):
    # Of some seeds a head has no channel that is large in queries and keys: its weights, rotated
    # but for the normaliser, are truly in the millions.
    torch.manual_seed(4)
    mixer = build(choice).half()
    for layer in mixer.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            layer.bias.data = torch.where(torch.rand(layer.bias.shape) < 0.2, 4.0, -14.0).half()
    x = torch.randn(1, 256, 16).half()
    with torch.no_grad():
        out, exact = mixer(x, (16, 16)), mixer.float()(x.float(), (16, 16))
    assert largest_difference(out, exact.double()) < 0.06


@pytest.mark.long
@pytest.mark.parametrize('name', [name for name, cls in TOKEN_MIXERS.items() if cls.linear])
@pytest.mark.parametrize('dtype', [torch.float16])
def test_sums_over_256000_tokens_do_not_overflow(name, dtype):
    mixer = build(name).to(dtype)
    x = (30 * torch.randn(1, 512 * 500, 16)).to(dtype).requires_grad_()
    out = mixer(x, (512, 500))
    assert out.isfinite().all()
    gradients = torch.autograd.grad(out.float().mean(), (x, *mixer.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('name', TOKEN_MIXERS)
def test_compiles_without_graph_breaks(name, randomised):
    torch._dynamo.reset()
    mixer = randomised(build(name))
    # PyTorch 2.1 breaks the graph at generators and unpacked modules.
    fullgraph = hasattr(torch.compiler, 'is_compiling')
    compiled = torch.compile(mixer, backend='eager', fullgraph=fullgraph, dynamic=False)
    x = torch.randn(2, 126, 16)
    assert largest_difference(compiled(x, (9, 14)), mixer(x, (9, 14)).detach().double()) < 1e-5


# A gain of one over a small sum, and norms, make more of what rounding leaves.
ROUGHER = {'l2vit': 0.04, 'mala': 0.05, 'metala': 0.06}


@every
@pytest.mark.parametrize('dtype', [torch.bfloat16])
def test_autocast_rounds_and_no_more(choice, dtype, randomised):
    fresh = build_attention(choice, 64, 2, grid=(14, 14))
    for mixer in (fresh, randomised(copy.deepcopy(fresh))):
        # bfloat16 does not count up to 300.
        for hw_shape in ((28, 30), (2, 300)):
            x = torch.randn(2, hw_shape[0] * hw_shape[1], 64)
            with torch.no_grad():
                exact = mixer(x, hw_shape)
                with torch.autocast('cpu', dtype):
                    out = mixer(x, hw_shape)
            assert out.dtype is dtype
            assert largest_difference(out, exact.double()) < ROUGHER.get(kind_of(choice), 0.02)


@every
def test_state_dict_and_declarations(choice):
    mixer = build(choice)
    names = {name for name, _ in mixer.named_parameters()}
    assert set(mixer.no_decay) <= names
    norms = [f'{k}.' for k, m in mixer.named_modules() if isinstance(m, nn.BatchNorm2d)]
    stored = mixer.state_dict().keys() - names
    assert all(name.startswith(tuple(norms)) for name in stored)
    twin = build(choice)
    twin.load_state_dict(mixer.state_dict())
    x = torch.randn(1, 12, 16)
    assert torch.equal(twin(x, (3, 4)), mixer(x, (3, 4)))
    assert type(mixer).paper
    assert 'Args:' in type(mixer).__doc__


@pytest.mark.parametrize(
    ('name', 'choice'),
    [
        (name, choice)
        for name in backbones.__all__
        for choice in VARIANTS
        # Options go the same way in every backbone.
        if isinstance(choice, str) or name in ('InLinePVT', 'InLineSwin')
    ],
    ids=str,
)
def test_backbone_with_it(name, choice, build_narrow):
    """Built per network, stage and block, recomputed, recognised or refused, at an odd size."""
    cls = getattr(backbones, name)
    mixed = [choice, ['inline', choice], 'softmax', choice]
    model = build_narrow(cls, attention=mixed, num_heads=HEADS, with_cp=True)
    image = torch.randn(1, 3, 97, 130, requires_grad=True)
    maps = model.train()(image)
    assert [tuple(out.shape[2:]) for out in maps] == [(25, 33), (13, 17), (7, 9), (4, 5)]
    sum(out.square().sum() for out in maps).backward()
    assert image.grad.isfinite().all()
    whole = build_narrow(cls, attention=choice, num_heads=HEADS).state_dict()
    try:
        told = recognise(whole)
    except CheckpointError as error:
        assert 'do not tell which attention' in str(error)
        told = recognise(whole, attention=choice)
        assert told.settings['attention'] == choice
    assert {k: v.shape for k, v in told.build_empty().state_dict().items()} == {
        k: v.shape for k, v in whole.items()
    }


@pytest.mark.parametrize(
    ('cls', 'settings'),
    [
        (InLineSwin, dict(attention=dict(type='focused', window_size=7))),
        (
            InLineSwin,
            dict(attention=('agent', 'agent', 'inline', 'softmax'), pretrain_img_size=384),
        ),
        (InLineSwin, dict(attention='agent', pretrain_img_size=(128, 192))),
        (InLineSwin, dict(attention=dict(type='agent', window_size=7))),
        (InLinePVT, dict(attention=dict(type='focused', window_size=7))),
        (InLinePVT, dict(attention=('agent', 'softmax', 'agent', 'agent'), pretrain_img_size=256)),
    ],
)
def test_tables_are_of_maps_or_windows(cls, settings):
    with torch.device('meta'):
        weights = cls('tiny', **settings).state_dict()
    assert recognise(weights).settings == dict(arch='tiny', **settings)


def test_tables_of_one_stage_are_not_guessed():
    attention = ('agent', 'inline', 'inline', 'softmax')
    with torch.device('meta'):
        weights = InLineSwin('tiny', attention=attention, pretrain_img_size=384).state_dict()
    with pytest.raises(CheckpointError, match='stage 1 are for 96x96 tokens'):
        recognise(weights)
    assert recognise(weights, attention).settings['pretrain_img_size'] == 384


def test_what_weights_do_not_tell_is_said(build_narrow):
    def assumed(cls, **settings):
        return recognise(build_narrow(cls, **settings).state_dict()).assumed

    (told,) = assumed(InLineSwin, attention=dict(type='linear', local_residual=True))
    assert told == "inline or linear with kernel='identity', window_size=None"
    told, heads = assumed(InLinePVT, attention='softmax')
    assert told.startswith('spatial_reduction or ') and ' or linear ' in told
    assert heads == 'num_heads, which are to be filled in'
    (told,) = assumed(InLineSwin, attention='agent', pretrain_img_size=224)
    assert told == 'agent with agent_grid=None, window_size=None'


def test_bare_projections_are_not_guessed(build_narrow):
    """Nothing in them tells which attention they are of."""
    bare = dict(type='spatial_reduction', sr_ratio=1)
    for cls in (InLinePVT, InLineSwin):
        for attention in (bare, (bare, 'inline', 'inline', 'inline'), ('inline', bare, bare, bare)):
            weights = build_narrow(cls, attention=attention).state_dict()
            with pytest.raises(CheckpointError, match=r'0\.attn\. do not tell .*--attention'):
                recognise(weights)


@every
def test_exported_graph_computes_the_same_at_another_size(choice, randomised):
    class Tokens(nn.Module):
        """From a map, whose sides torch.export can let vary."""

        def __init__(self, mixer: TokenMixer) -> None:
            super().__init__()
            self.mixer = mixer

        def forward(self, x: Tensor) -> Tensor:
            return self.mixer(x.flatten(2).mT, x.shape[2:])

    module = Tokens(randomised(build(choice)).eval())
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = torch.randn(1, 16, 9, 15)
    program = torch.export.export(module, (example,), dynamic_shapes=(sides,)).module()
    for hw_shape in ((9, 15), (12, 16), (8, 10)):
        x = torch.randn(1, 16, *hw_shape)
        with torch.no_grad():
            assert largest_difference(program(x), module(x).double()) < 1e-5


@pytest.mark.parametrize('name', TOKEN_MIXERS)
def test_defaults_fit_every_stage(name):
    for stage in (None, *range(5)):
        site = Site(16, 2, grid=(7, 7), window=7, stage=stage)
        mixer = build_token_mixer(name, site)
        assert mixer(torch.randn(1, 35, 16), (5, 7)).shape == (1, 35, 16)


@every
@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin])
def test_nothing_is_kept_of_weights(cls, choice, build_narrow, randomised):
    """They may change by .data, which no version counter tells, between two evaluations."""
    model = randomised(build_narrow(cls, attention=choice, num_heads=HEADS)).eval()
    image = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        before = model(image)
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
        fresh = build_narrow(cls, attention=choice, num_heads=HEADS).eval()
        fresh.load_state_dict(model.state_dict())
        for old, new, expected in zip(before, model(image), fresh(image), strict=True):
            assert torch.equal(new, expected)
            assert not torch.equal(new, old)
