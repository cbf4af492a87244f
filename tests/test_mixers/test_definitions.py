"""Attentions whose arithmetic is in their own file, against N x N weights and loops in float64."""

import cmath

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab_inline import build_attention
from mmlab_inline.mixers import TokenMixer
from mmlab_inline.ops import merge_heads, split_heads

MAPS = [(1, 1), (1, 6), (5, 7), (9, 4)]


def heads(mixer: TokenMixer, *tokens: Tensor) -> list[Tensor]:
    return [split_heads(t, mixer.num_heads) for t in tokens]


def positive(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def l2vit_weights(mixer: TokenMixer, q: Tensor, k: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    scores = q.relu() @ k.relu().mT
    return mixer.temperature * scores / scores.sum(-1, keepdim=True).clamp(min=100)


def rotated(x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Pairs of channels as complex numbers, one pair and one token at a time."""
    turned, quarter = x.clone(), x.shape[-1] // 4
    for token in range(x.shape[-2]):
        for pair in range(2 * quarter):
            place = divmod(token, hw_shape[1])[pair // quarter]
            rate = 10000 ** (-(pair % quarter) / max(quarter - 1, 1))
            number = torch.complex(x[..., token, 2 * pair], x[..., token, 2 * pair + 1])
            number = number * cmath.exp(1j * place * rate)
            turned[..., token, 2 * pair], turned[..., token, 2 * pair + 1] = (
                number.real,
                number.imag,
            )
    return turned


def scores_of(mixer: TokenMixer, q: Tensor, k: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    return rotated(q, hw_shape) @ rotated(k, hw_shape).mT if mixer.rotary else q @ k.mT


def rala_weights(mixer: TokenMixer, q: Tensor, k: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    q, k = positive(q), positive(k)
    scale = q.shape[-1] ** -0.5
    weighted = k * (scale * k @ q.mean(-2, keepdim=True).mT).softmax(-2)
    divisor = (q @ weighted.mT).sum(-1, keepdim=True) + 1e-6
    return scores_of(mixer, q, weighted, hw_shape) / divisor


def mala_weights(mixer: TokenMixer, q: Tensor, k: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    q, k = positive(q), positive(k)
    scale = q.shape[-1] ** -0.5
    z = (scale * q @ k.mT).mean(-1, keepdim=True)
    scores = scale * scores_of(mixer, q, k, hw_shape)
    return ((1 + 1 / (z + 1e-6)) * scores - z) / k.shape[-2]


def gated(mixer: TokenMixer, out: Tensor, v: Tensor, gate: Tensor, hw_shape) -> Tensor:
    image = v.mT.unflatten(2, hw_shape)
    local = F.conv2d(image, mixer.lepe.weight, mixer.lepe.bias, padding=2, groups=mixer.dim)
    return mixer.proj((out + local.flatten(2).mT) * gate)


WEIGHTS = {'l2vit': l2vit_weights, 'rala': rala_weights, 'mala': mala_weights}


@pytest.mark.parametrize('hw_shape', MAPS)
@pytest.mark.parametrize(
    'choice',
    [
        'l2vit',
        'rala',
        'mala',
        dict(type='rala', rotary=False),
        dict(type='mala', rotary=False),
    ],
    ids=str,
)
def test_n_by_n_weights(choice, hw_shape, randomised, assert_near):
    name = choice if isinstance(choice, str) else choice['type']
    mixer = randomised(build_attention(choice, 24, 3)).double()
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 24, dtype=torch.float64)
    if name == 'l2vit':
        q, k, v = mixer.project(3 * x)
    else:
        q, k, v, gate = mixer.qkvo(x).chunk(4, 2)
    q, k, values = heads(mixer, q, k, v)
    weights = WEIGHTS[name](mixer, q, k, hw_shape)
    out = merge_heads(weights @ values)
    if name == 'l2vit':
        assert_near(mixer(3 * x, hw_shape), mixer.proj(out), 1e-12)
    else:
        assert_near(mixer(x, hw_shape), gated(mixer, out, v, gate, hw_shape), 1e-12)


@pytest.mark.parametrize('rotary', [False, True])
def test_mala_is_inline_with_a_gain(rotary, assert_near):
    """Rows sum to 1 by subtraction, unless positions turn them."""
    mixer = build_attention('mala', 16, 2, rotary=rotary)
    q, k = torch.randn(2, 1, 2, 35, 8, dtype=torch.float64)
    v = torch.randn(1, 2, 35, 8, dtype=torch.float64)
    weights = mala_weights(mixer, q, k, (5, 7))
    out = mixer.attend(positive(q), positive(k), v, (5, 7))
    assert_near(out, weights @ v, 1e-12)
    off = (weights.sum(-1) - 1).abs().max()
    assert off > 0.1 if rotary else off < 1e-5


def test_rows_of_l2vit_sum_to_the_temperature(randomised):
    mixer = randomised(build_attention('l2vit', 16, 2)).double()
    q, k = 2 * torch.randn(2, 1, 2, 60, 8, dtype=torch.float64)
    sums = l2vit_weights(mixer, q, k, (6, 10)).sum(-1)
    clamped = (q.relu() @ k.relu().mT).sum(-1) < 100
    assert clamped.any() and not clamped.all()
    expected = mixer.temperature[..., 0].expand_as(sums)
    assert torch.allclose(sums[~clamped], expected[~clamped])
    assert (sums[clamped] < expected[clamped]).all()


def fcvit_context(gc: torch.nn.Module, image: Tensor) -> Tensor:
    """Of the tokens (N, C) of one image, a token and a group at a time."""
    mean = image.mean(0)
    first, second = (gc.fc1.weight @ mean + gc.fc1.bias).chunk(2)
    context = gc.fc2.weight @ torch.maximum(first, second) + gc.fc2.bias
    groups = len(gc.rescale_weight)
    width = image.shape[1] // groups
    alike = torch.stack(
        [
            torch.stack(
                [token[i : i + width] @ mean[i : i + width] / width**0.5 for token in image]
            )
            for i in range(0, image.shape[1], width)
        ]
    )  # (groups, N)
    alike = (alike - alike.mean()) / (alike.std() + 1e-5)
    share = gc.rescale_weight[:, None] * alike + gc.rescale_bias[:, None]
    return torch.cat(
        [share[g][:, None] * context[g * width : (g + 1) * width] for g in range(groups)], dim=1
    )


@pytest.mark.parametrize('groups', [2, 8])
@pytest.mark.parametrize('hw_shape', MAPS)
def test_fcvit_by_loops(hw_shape, groups, randomised, assert_near):
    mixer = randomised(build_attention('fcvit', 16, 2, groups=groups)).double()
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 16, dtype=torch.float64)
    expected = []
    for image in x:
        for gc, conv, fc in (
            (mixer.gc1, mixer.dw1, mixer.fc1),
            (mixer.gc2, mixer.dw2, mixer.fc2),
        ):
            image = image + fcvit_context(gc, image)
            image = conv(image.T.unflatten(1, hw_shape)).flatten(1).T
            image = F.gelu(fc[2](F.gelu(fc[0](image))))
        expected.append(image)
    assert_near(mixer(x, hw_shape), torch.stack(expected), 1e-12)


def test_fcvit_of_a_map_without_contrast(randomised):
    mixer = randomised(build_attention('fcvit', 16, 2))
    x = torch.ones(1, 35, 16, requires_grad=True)
    gradients = torch.autograd.grad(mixer(x, (5, 7)).sum(), (x, *mixer.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    'choice',
    [
        dict(type='inline', local_residual=False),
        'taylor',
        'linear',
        'efficient',
        'hydra',
        'l2vit',
        dict(type='fcvit', groups=4),
    ],
    ids=str,
)
def test_order_of_tokens(choice, randomised, assert_near):
    """Where nothing knows a place, tokens may change theirs."""
    mixer = randomised(build_attention(choice, 16, 2)).double()
    if hasattr(mixer, 'dw1'):  # all that knows one
        mixer.dw1 = mixer.dw2 = torch.nn.Identity()
    x = torch.randn(1, 54, 16, dtype=torch.float64)
    order = torch.randperm(54)
    assert_near(mixer(x[:, order], (6, 9)), mixer(x, (6, 9))[:, order], 1e-10)
