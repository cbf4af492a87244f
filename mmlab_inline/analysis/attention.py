"""What the attentions of a backbone do on an image: their weights, and figures of these.

Confusion, locality and masking are the analyses of InLine's paper (arXiv 2412.06590).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import backbones
from ..backbones.base import Blocks, DenseBackbone
from ..layers import Block
from ..mixers import CSWIN_ATTENTIONS, TOKEN_MIXERS, TokenMixer, Weights
from ..utils import UserError

PAIRS = 1024
"""Pairs of queries that are compared, and queries whose locality is measured, a head."""
SAME = 1e-3
"""Two rows are the same if their difference is at most so much of their mean size, in L1 norm."""
ALONE = 1e-4
"""A row whose weights beyond the 3x3 tokens sum up to no more of its sum is not rescaled, but 0."""
# Numbers that rows hold at most at a time.
_MOST = 2**24


@dataclass(frozen=True)
class Figures:
    """What is measured of a block, each a number a head but the last.

    Attributes:
        confusion: Share of pairs of queries whose rows are the same; None for one query.
        locality: Share of the absolute weights on the 3x3 tokens around the query, mean over
            queries; None where keys are no tokens of the map.
        locality_with_local: The same of the weights plus the kernels of the local part, mean over
            channels too; None where there is no such part.
        masking: Relative L2 change of the block's output when the weights of the 3x3 tokens are 0
            and what is left of a row has its old sum; of a row that has next to nothing elsewhere,
            nothing is left.
    """

    confusion: list[float] | None
    locality: list[float] | None
    locality_with_local: list[float] | None
    masking: float | None


@dataclass
class BlockLook:
    """A block with what came into it.

    Attributes:
        stage: From 0.
        index: Within the stage, from 0.
        stride: Pixels of the backbone's input to a token.
        block: The block.
        x: What came into it, tokens (1, N, C); None once forgotten.
        tokens: What came into its attention, likewise.
        hw_shape: Map size (H, W) in tokens.
        others: What came into its attention beside.
    """

    stage: int
    index: int
    stride: int
    block: nn.Module
    x: Tensor | None
    tokens: Tensor | None = None
    hw_shape: tuple[int, int] = (0, 0)
    others: tuple = ()

    @property
    def mixer(self) -> TokenMixer:
        return self.block.attn

    @property
    def attention(self) -> str:
        """The name of its attention."""
        kind = type(self.mixer)
        named = (*TOKEN_MIXERS.items(), *CSWIN_ATTENTIONS.items())
        return next((name for name, cls in named if cls is kind), kind.__name__)

    @torch.no_grad()
    def weights(self) -> Weights | None:
        """The weights of its attention; None if it has none."""
        return self.mixer.weights(self.tokens, self.hw_shape, *self.others)

    def forget(self) -> None:
        """Let go of what came in, where its figures are all that is needed from here on."""
        self.x, self.tokens, self.others = None, None, ()


@torch.no_grad()
def look(backbone: nn.Module, images: Tensor) -> list[BlockLook]:
    """Run a backbone on an image (1, C, H, W), and keep what comes into its blocks.

    Raises:
        UserError: It is none of this package.
    """
    if not isinstance(backbone, DenseBackbone):
        names = ' or '.join(backbones.__all__)
        raise UserError(f'{type(backbone).__name__} has no attention to look at; take {names}')
    looks: list[BlockLook] = []
    handles = []
    stages = [module for module in backbone.modules() if isinstance(module, Blocks)]
    for stage, (blocks, stride) in enumerate(zip(stages, backbone.block_strides, strict=True)):
        for index, block in enumerate(m for m in blocks.modules() if isinstance(m, Block)):

            def note_block(block, arguments, place=(stage, index, stride)) -> None:
                looks.append(BlockLook(*place, block, arguments[0]))

            def note_attention(_, arguments) -> None:
                tokens, hw_shape, *others = arguments
                looks[-1].tokens, looks[-1].hw_shape = tokens, tuple(hw_shape)
                looks[-1].others = tuple(others)

            handles.append(block.register_forward_pre_hook(note_block))
            handles.append(block.attn.register_forward_pre_hook(note_attention))
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return looks


@torch.no_grad()
def measure(seen: BlockLook, seed: int = 0) -> Figures | None:
    """Confusion, locality and masking of a block; None if its attention has no weights.

    Args:
        seen: The block.
        seed: Of the queries that are drawn.
    """
    weights = seen.weights()
    if weights is None:
        return None
    count = math.prod(seen.hw_shape)
    generator = torch.Generator().manual_seed(seed)
    locality = with_local = change = None
    if weights.key_shape is None:
        queries = torch.randperm(count, generator=generator)[:PAIRS]
        locality, with_local = _locality(weights, queries.to(seen.x.device), seen.hw_shape)
        change = _masking(seen, weights)
    return Figures(_confusion(weights, count, generator), locality, with_local, change)


def neighbours(hw_shape: tuple[int, int], side: int, device: object = None) -> tuple[Tensor, ...]:
    """The tokens around each token, row-major as a kernel.

    Returns:
        Their numbers (N, side ** 2), and whether they lie on the map.
    """
    height, width = hw_shape
    reach = torch.arange(side, device=device) - side // 2
    rows = torch.arange(height, device=device)[:, None, None, None] + reach[:, None]
    columns = torch.arange(width, device=device)[:, None, None] + reach
    rows, columns = torch.broadcast_tensors(rows, columns)
    exists = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    keys = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return keys.flatten(2).flatten(0, 1), exists.flatten(2).flatten(0, 1)


def _confusion(weights: Weights, count: int, generator: torch.Generator) -> list[float] | None:
    if count < 2:
        return None
    first = torch.randint(count, (PAIRS,), generator=generator)
    other = (first + torch.randint(1, count, (PAIRS,), generator=generator)) % count
    same = []
    for pairs in _chunks(torch.stack([first, other]).to(weights.values.device), weights):
        a, b = weights.rows(pairs.flatten()).chunk(2, 2)
        size = (a.abs().sum(-1) + b.abs().sum(-1)) / 2
        same.append((a - b).abs().sum(-1) <= SAME * size)
    return torch.cat(same, 2)[0].double().mean(-1).tolist()


def _locality(
    weights: Weights, queries: Tensor, hw_shape: tuple[int, int]
) -> tuple[list[float], list[float] | None]:
    """Without and with the local part."""
    shares, shares_with_local = [], []
    for some in _chunks(queries, weights):
        rows = weights.rows(some)
        near, _ = _near(rows, weights, some, hw_shape, 3)
        shares.append(_ratio(near.abs().sum(-1), rows.abs().sum(-1)))
        kernels = weights.local_at(some)
        if kernels is None:
            continue
        side = kernels.shape[-1]
        near, exists = _near(rows, weights, some, hw_shape, side)
        far = rows.abs().sum(-1) - near.abs().sum(-1)
        # Of every channel (B, heads, Q, width, k * k).
        both = (near[..., None, :] + kernels.flatten(-2)).abs() * exists[..., None, :]
        inner = F.pad(both.new_ones(3, 3), [(side - 3) // 2] * 4).flatten()
        share = _ratio((both * inner).sum(-1), far[..., None] + both.sum(-1))
        shares_with_local.append(share.mean(-1))
    means = [
        torch.cat(parts, 2)[0].double().mean(-1).tolist() if parts else None
        for parts in (shares, shares_with_local)
    ]
    return means[0], means[1]


def _near(
    rows: Tensor, weights: Weights, queries: Tensor, hw_shape: tuple[int, int], side: int
) -> tuple[Tensor, Tensor]:
    """Of rows (B, heads, Q, N) the weights around their queries, and which tokens there count."""
    keys, exists = neighbours(hw_shape, side, rows.device)
    exists = (exists & weights.reaches(keys))[:, queries]  # (heads or 1, Q, K)
    return rows.gather(-1, keys[queries].expand(*rows.shape[:2], -1, -1)) * exists, exists


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=torch.finfo(whole.dtype).tiny)


def _masking(seen: BlockLook, weights: Weights) -> float:
    near, exists = neighbours(seen.hw_shape, 3, seen.x.device)
    exists = exists & weights.reaches(near)
    attended, sums = weights.attended(), weights.sums()
    rest, rest_sums = attended.clone(), sums.clone()
    for keys, exist in zip(near.split(1, -1), exists.split(1, -1), strict=True):
        weight = weights.pairs(keys[None]) * exist
        rest -= weight * weights.values[:, :, keys[:, 0]]
        rest_sums -= weight
    alone = rest_sums.abs() <= ALONE * sums.abs()
    rest = torch.where(alone, 0, rest * (sums / rest_sums.masked_fill(alone, 1)))
    expected = seen.block(seen.x, seen.hw_shape)
    changed = weights.finish(rest)
    handle = seen.mixer.register_forward_hook(lambda *_: changed)
    try:
        masked = seen.block(seen.x, seen.hw_shape)
    finally:
        handle.remove()
    return float((masked - expected).norm() / expected.norm())


def _chunks(queries: Tensor, weights: Weights) -> Iterator[Tensor]:
    """Parts of queries (..., Q) whose rows are not too many numbers."""
    size = max(1, _MOST // weights.values[..., 0].numel())
    return iter(queries.split(size, -1))
