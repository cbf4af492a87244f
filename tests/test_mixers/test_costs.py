"""What attentions cost: by the formulas of their papers, and how that grows with the map."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmlab_inline import InLinePVT, InLineSwin, build_attention
from mmlab_inline.mixers import TOKEN_MIXERS, TokenMixer

from .test_every_mixer import build, every


def projections(c: int, count: int = 4) -> int:
    return count * (c * c + c)


def local_kernels(c: int, h: int) -> int:
    return 10 * c * (c // h) + 10 * c


# Name or options, then of n tokens with c channels in h heads: multiply-accumulates beside the
# 2 n c d of two products with the context, and parameters. Elementwise work is not counted.
COSTS = {
    'inline': (
        dict(type='inline'),
        lambda n, c, h: 4 * n * c * c + 9 * n * c + 10 * c * (c // h),
        lambda c, h: projections(c) + local_kernels(c, h),
    ),
    'inline without local residual': (
        dict(type='inline', local_residual=False),
        lambda n, c, h: 4 * n * c * c,
        lambda c, h: projections(c),
    ),
    'taylor': (
        dict(type='taylor'),
        lambda n, c, h: 4 * n * c * c,
        lambda c, h: projections(c),
    ),
    'linear': (
        dict(type='linear'),
        lambda n, c, h: 4 * n * c * c,
        lambda c, h: projections(c),
    ),
    'linear with local residual': (
        dict(type='linear', local_residual=True),
        lambda n, c, h: 4 * n * c * c + 9 * n * c + 10 * c * (c // h),
        lambda c, h: projections(c) + local_kernels(c, h),
    ),
    'efficient': (
        dict(type='efficient'),
        lambda n, c, h: 4 * n * c * c,
        lambda c, h: projections(c),
    ),
    'hydra': (
        dict(type='hydra'),
        lambda n, c, h: 4 * n * c * c - 2 * n * c * (c // h),  # no products
        lambda c, h: projections(c),
    ),
    'linear_angular': (
        dict(type='linear_angular'),
        lambda n, c, h: 4 * n * c * c + 9 * n * c,
        lambda c, h: projections(c) + 9 * h,
    ),
    'cosformer': (
        dict(type='cosformer'),
        lambda n, c, h: 4 * n * c * c + 2 * n * c * (c // h),
        lambda c, h: projections(c),
    ),
    'vicinity': (
        dict(type='vicinity'),
        lambda n, c, h: 2 * n * c * c + 2 * c * c,  # 8 / 2 ** 2 of n c d
        lambda c, h: 4 * c * (c // 2) + 3 * (c // 2) + c + 2 * c * c,
    ),
    'focused': (
        dict(type='focused'),
        lambda n, c, h: 4 * n * c * c + 25 * n * c,
        lambda c, h: projections(c) + 26 * (c // h) + c + 8 * 10 * c,
    ),
    'agent': (
        dict(type='agent', agent_num=9),
        lambda n, c, h: 4 * n * c * c + 4 * 9 * n * c + 9 * n * c - 2 * n * c * (c // h),
        lambda c, h: projections(c) + 10 * c + 9 * h * (2 * 49 + 2 * (8 + 10)),
    ),
    'mlla': (
        dict(type='mlla'),
        lambda n, c, h: 5 * n * c * c + 18 * n * c,
        lambda c, h: projections(c, 5) + 20 * c,
    ),
    'l2vit': (
        dict(type='l2vit'),
        lambda n, c, h: 4 * n * c * c,
        lambda c, h: projections(c) + h,
    ),
    'l2vit with local part': (
        dict(type='l2vit', local=True),
        lambda n, c, h: 4 * n * c * c + 98 * n * c,
        lambda c, h: projections(c) + h + 104 * c,
    ),
    'rala': (
        dict(type='rala'),
        lambda n, c, h: 5 * n * c * c + 25 * n * c,
        lambda c, h: projections(c, 5) + 26 * c,
    ),
    'mala': (
        dict(type='mala'),
        lambda n, c, h: 5 * n * c * c + 25 * n * c,
        lambda c, h: projections(c, 5) + 26 * c,
    ),
    'fcvit': (
        dict(type='fcvit'),
        lambda n, c, h: (
            2 * (121 + 2 * max(c // 8, 16)) * n * c
            - 2 * n * c * (c // h)
            + 2 * (c * c // 4 + c * c // 8)
        ),
        lambda c, h: (
            2 * (122 * c + 2 * max(c // 8, 16) * c + max(c // 8, 16) + c)
            + 2 * (c * c // 4 + c // 4 + c * c // 8 + c + 2 * 8)
        ),
    ),
    'vig': (
        dict(type='vig'),
        lambda n, c, h: 4 * n * c * c + 41 * n * c + 3 * n * 32 * c,
        lambda c, h: 4 * c * c + 43 * c + 2 * (c // h),
    ),
    'metala': (
        dict(type='metala'),
        lambda n, c, h: 4 * n * c * c + 9 * n * c + 3 * n * 32 * c,
        lambda c, h: 4 * c * c + 10 * c + c // 2,
    ),
}
PADDED = {'vig': 0.006, 'metala': 0.006}  # share of tokens beyond the last whole chunk, and states
costs = pytest.mark.parametrize('name', COSTS)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_linear_mixer_has_a_row():
    named = {choice['type'] for choice, *_ in COSTS.values()}
    assert named == {name for name, cls in TOKEN_MIXERS.items() if cls.linear} - {'window'}


@costs
@pytest.mark.parametrize('qkv', ['separate', 'joint'])
def test_one_module(name, qkv):
    choice, products, weights = COSTS[name]
    for c, h, hw_shape in ((64, 2, (40, 30)), (320, 10, (7, 9))):
        n = hw_shape[0] * hw_shape[1]
        with torch.device('meta'):
            mixer = build_attention(choice, c, h, qkv=qkv, grid=(8, 10)).eval()
            x = torch.empty(1, n, c)
        with FlopCounterMode(display=False) as counter:
            mixer(x, hw_shape)
        expected = products(n, c, h) + 2 * n * c * (c // h)
        assert counter.get_total_flops() / 2 == pytest.approx(expected, rel=PADDED.get(name, 0))
        assert parameters(mixer) == weights(c, h)


@costs
@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin])
def test_parameters_of_tiny_backbones(cls, name):
    """What the attentions weigh, over what is left of the network without them."""
    choice, _, weights = COSTS[name]
    if choice['type'] in ('agent', 'focused'):
        pytest.skip('its tables depend on the stage; the published sums are tested')
    with torch.device('meta'):
        model, known = cls('tiny', attention=choice), cls('tiny', attention='linear')
    mixers = [module for module in model.modules() if isinstance(module, TokenMixer)]
    assert len(mixers) > 7
    expected = sum(weights(m.dim, m.num_heads) - 4 * (m.dim**2 + m.dim) for m in mixers)
    assert parameters(model) - parameters(known) == expected


class Elements(TorchDispatchMode):
    """Elements of what operations put out: in total, and of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.total += tensor.numel()
                self.largest = max(self.largest, tensor.numel())
        return out


@every
def test_cost_is_linear_in_the_number_of_tokens(choice):
    """Forward and backward: no N x N tensor, and 16 times the tokens for 16 times the work."""
    mixer = build(choice)
    if not mixer.linear:
        pytest.skip('is not')
    work = {}
    for side in (32, 128):
        x = torch.randn(1, side * side, 16, requires_grad=True)
        with FlopCounterMode(display=False) as flops, Elements() as elements:
            mixer(x, (side, side)).sum().backward()
        work[side] = flops.get_total_flops(), elements.total
    assert elements.largest <= (side * side) ** 2 / 64
    assert all(large <= 18 * small for small, large in zip(*work.values(), strict=True))
