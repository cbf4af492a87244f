"""Agent attention (ECCV 2024, arXiv 2312.08874)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..layers import convolve_tokens, trunc_normal_
from ..ops import merge_heads, pool_map, resize_map, softmax_attention, split_heads
from ..utils import check_whole, whole_pair
from .base import QKVMixer, Site, token_mixer
from .weights import FactoredWeights, Weights

_TABLE_SIDE = 7  # of an_bias and na_bias, whatever the map


@token_mixer('agent')
class AgentAttention(QKVMixer):
    """A few agents, pooled queries, gather from all tokens by softmax; queries read the agents.

    Two products of N x n instead of one of N x N, position biases in both, and a depthwise 3x3
    convolution of the values. The biases are stored for ``grid`` and ``agent_num`` and resized
    from both to the map and to ``agent_grid``.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        grid: Map size (H, W) in tokens that the biases are stored for.
        agent_num: Agents that the biases are stored for, a square number. In a backbone of
            stages 9, 16, and 49 from the third on.
        agent_grid: Agents (rows, columns) to use; None: the square of ``agent_num``. The authors'
            detectors take more than their classifiers.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: Neither ``grid`` nor ``window_size`` is given, or ``agent_num`` is no square.
    """

    paper = 'Agent Attention, ECCV 2024'
    heads = 'softmax'
    no_decay = ('an_bias', 'na_bias', 'ah_bias', 'aw_bias', 'ha_bias', 'wa_bias')

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        grid: tuple[int, int] | None = None,
        agent_num: int = 49,
        agent_grid: tuple[int, int] | None = None,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, grid=grid, window_size=window_size, shift=shift)
        check_whole(agent_num=agent_num)
        agent_grid = whole_pair('agent_grid', agent_grid)
        side = math.isqrt(agent_num)
        if side**2 != agent_num:
            raise ValueError(f'agent_num={agent_num} must be a square number')
        self.stored_agents = (side, side)
        self.agent_grid = agent_grid or self.stored_agents
        height, width = self.table_shape()
        shapes = dict(
            an_bias=(num_heads, agent_num, _TABLE_SIDE, _TABLE_SIDE),
            na_bias=(num_heads, agent_num, _TABLE_SIDE, _TABLE_SIDE),
            ah_bias=(1, num_heads, agent_num, height, 1),
            aw_bias=(1, num_heads, agent_num, 1, width),
            ha_bias=(1, num_heads, height, 1, agent_num),
            wa_bias=(1, num_heads, 1, width, agent_num),
        )
        for name, shape in shapes.items():
            table = nn.Parameter(torch.empty(shape))
            trunc_normal_(table, std=0.02)
            self.register_parameter(name, table)
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    @classmethod
    def defaults(cls, site: Site) -> dict[str, object]:
        return {} if site.stage is None else dict(agent_num=(9, 16, 49, 49)[min(site.stage, 3)])

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q, k, v, agents, gather, read = self._parts(x, hw_shape)
        gathered = softmax_attention(agents, k, split_heads(v, self.num_heads), gather)
        return self._finish(softmax_attention(q, agents, gathered, read), v, hw_shape)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v, agents, gather, read = self._parts(x, hw_shape)
        scale = q.shape[-1] ** -0.5
        return FactoredWeights(
            split_heads(v, self.num_heads),
            lambda out: self._finish(out, v, hw_shape),
            self.dwc.weight.view(1, self.num_heads, -1, 3, 3),
            q=(scale * q @ agents.mT + read).softmax(-1),
            k=(scale * agents @ k.mT + gather).softmax(-1).mT,
        )

    def _parts(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, ...]:
        """Queries, keys, values (B, N, C), agents, and the biases of both softmaxes."""
        q, k, v = self.project(x)
        agents = pool_map(q.transpose(1, 2).unflatten(2, hw_shape), self.agent_grid).flatten(2)
        q, k, agents = (split_heads(t, self.num_heads) for t in (q, k, agents.transpose(1, 2)))
        gather, read = (bias.to(q.dtype) for bias in self._biases(hw_shape))
        return q, k, v, agents, gather, read

    def _finish(self, out: Tensor, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.proj(merge_heads(out) + convolve_tokens(self.dwc, v, hw_shape))

    def _biases(self, hw_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Of agents over tokens (1, heads, n, N), and of tokens over agents (1, heads, N, n)."""
        gather = self._bias(
            self.an_bias, self.ah_bias[0, ..., 0], self.aw_bias[0, :, :, 0], hw_shape
        )
        rows, columns = self.ha_bias[0, :, :, 0], self.wa_bias[0, :, 0]
        rows, columns = (t.transpose(1, 2) for t in (rows, columns))
        return gather, self._bias(self.na_bias, rows, columns, hw_shape).transpose(2, 3)

    def _bias(
        self, table: Tensor, rows: Tensor, columns: Tensor, hw_shape: tuple[int, int]
    ) -> Tensor:
        """One bias (1, heads, n, N) at its run-time size.

        Args:
            table: (heads, n0, 7, 7).
            rows: (heads, n0, H0), added along rows.
            columns: (heads, n0, W0), added along columns.
            hw_shape: (H, W).
        """
        height, width = hw_shape
        # Bilinear resizing is separable: neither the stored map nor all agents' maps are formed.
        rows, columns = (self._regrid(t[..., None]) for t in (rows, columns))  # (heads, n, H0, 1)
        bias = resize_map(self._regrid(table), hw_shape)
        bias = (
            bias + resize_map(rows, (height, 1)) + resize_map(columns, (width, 1)).transpose(2, 3)
        )
        return bias.flatten(2)[None]

    def _regrid(self, table: Tensor) -> Tensor:
        """Tables (heads, n0, ...) for the run-time agents (heads, n, ...)."""
        if self.agent_grid == self.stored_agents:
            return table
        image = table.flatten(2).transpose(1, 2).unflatten(2, self.stored_agents)
        image = resize_map(image, self.agent_grid).flatten(2).transpose(1, 2)
        return image.unflatten(2, table.shape[2:])

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        if 'an_bias' not in weights:
            return None
        heads, agent_num = weights['an_bias'].shape[:2]
        grid = weights['ah_bias'].shape[3], weights['aw_bias'].shape[4]
        return dict(num_heads=heads, grid=grid, agent_num=agent_num)
