"""The attentions of InLine-CSwin and CSwin, whose projections are their block's.

Papers: "CSWin Transformer", CVPR 2022 (arXiv 2107.00652); InLine attention: arXiv 2412.06590. They
have no name in the table: :data:`CSWIN_ATTENTIONS` is what a :class:`.Site` there has of its own.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import LocalKernels, convolve_tokens, is_plain
from ..ops import (
    KERNELS,
    apply_in_stripes,
    inline_attention,
    inline_attention_of_qkv,
    merge_heads,
    self_adjusted_attention,
    softmax_attention,
    split_heads,
    token_mean,
    without_autocast,
)
from ..utils import check_flag, check_whole, one_of
from .base import Site, TokenMixer
from .inline import joined_weights, projections_are_plain, weights_of_qkv
from .weights import HeadGroupWeights, Weights, softmax_weights, windowed_weights


class CSwinBranch(nn.Module):
    """What a branch of an attention has beside the projections, under the released names.

    Args:
        dim: Channels C of the branch.
        num_kernel_heads: Groups of the predictor of a local residual; None: there is none.
    """

    def __init__(self, dim: int, num_kernel_heads: int | None = None) -> None:
        super().__init__()
        self.get_v = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.residual = None if num_kernel_heads is None else LocalKernels(dim, num_kernel_heads)


class CSwinAttention(TokenMixer, nn.ModuleList):
    """A token mixer that lists its branches, and is called with the projections of its block."""

    def forward(
        self,
        x: Tensor,
        hw_shape: tuple[int, int],
        before: Tensor,
        qkv: nn.Module,
        proj: nn.Module,
    ) -> Tensor:
        """Attend over a map.

        Args:
            x: Normalised tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens, H * W == N.
            before: The same tokens before the norm.
            qkv: The projection to queries, keys and values.
            proj: The output projection.

        Returns:
            (B, N, C).
        """
        raise NotImplementedError

    def weights(
        self,
        x: Tensor,
        hw_shape: tuple[int, int],
        before: Tensor,
        qkv: nn.Module,
        proj: nn.Module,
    ) -> Weights:
        """The weights by which :meth:`forward` attends, with the same arguments."""
        raise NotImplementedError


class CSwinInLineAttention(CSwinAttention):
    """InLine attention over the whole map, with a static beside the predicted 3x3 convolution.

    The convolution is predicted from the mean token before the norm; both are computed as one.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        kernel: Kernel function on queries and keys, as of :class:`.InLineAttention`.
        local_residual: Add the predicted convolution.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, an unknown kernel function, or
            ``local_residual`` is not True or False.
    """

    def __init__(
        self, dim: int, num_heads: int, kernel: str = 'identity', local_residual: bool = True
    ) -> None:
        super().__init__(dim, num_heads)
        self.kernel = one_of('kernel', kernel, KERNELS)
        check_flag(local_residual=local_residual)
        self.append(CSwinBranch(dim, num_heads if local_residual else None))

    def forward(
        self,
        x: Tensor,
        hw_shape: tuple[int, int],
        before: Tensor,
        qkv: nn.Module,
        proj: nn.Module,
    ) -> Tensor:
        get_v = self[0].get_v
        plain = is_plain(get_v, nn.Conv2d) and projections_are_plain((qkv,), proj)
        # Shapes alone go through the definition, by which costs are counted.
        if x.is_meta or not plain:
            q, k, v = qkv(x).chunk(3, 2)
            predicted = self._predicted(before)
            out = inline_attention_of_qkv(q, k, v, hw_shape, predicted, self.num_heads, self.kernel)
            return proj(out + convolve_tokens(get_v, v, hw_shape))
        with without_autocast(x):  # what is added to every value goes through the projection
            bias = F.linear(get_v.bias, proj.weight, proj.bias)
        params = joined_weights((qkv,), self.num_heads, self.kernel)
        kernels = partial(self._kernels, before)
        return inline_attention(x, hw_shape, params, kernels, (proj.weight, bias))

    def weights(
        self,
        x: Tensor,
        hw_shape: tuple[int, int],
        before: Tensor,
        qkv: nn.Module,
        proj: nn.Module,
    ) -> Weights:
        bias = self[0].get_v.bias.expand(len(x), -1)
        parts, kernels = qkv(x).chunk(3, 2), self._kernels(before)
        return weights_of_qkv(parts, hw_shape, kernels, bias, self.num_heads, self.kernel, proj)

    def _predicted(self, before: Tensor) -> Tensor | None:
        residual = self[0].residual
        return None if residual is None else residual(token_mean(before)[:, 0].to(before.dtype))

    def _kernels(self, before: Tensor, mean: Tensor | None = None) -> Tensor:
        """Both kernels as one (B, C, 3, 3); of tokens, not of the mean after the norm."""
        static = self[0].get_v.weight.squeeze(1)
        predicted = self._predicted(before)
        if predicted is None:
            return static.expand(before.shape[0], -1, -1, -1)
        return static + predicted


class CSwinStripeAttention(CSwinAttention):
    """Softmax attention in stripes, half of the heads in vertical and half in horizontal ones.

    Queries, keys and values are padded with zeros to whole stripes, unmasked. Each stripe has a
    convolution of its values.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        stripe_size: Width of a stripe in tokens; None: all heads attend over the whole map.
        self_adjust: Weigh each key by its place between the smallest and the largest score, too.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or is odd where there are stripes; or a
            number is not positive.
    """

    heads = 'softmax'
    linear = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        stripe_size: int | None = None,
        self_adjust: bool = False,
    ) -> None:
        super().__init__(dim, num_heads)
        check_whole(stripe_size=stripe_size)
        check_flag(self_adjust=self_adjust)
        self.stripe_size, self.self_adjust = stripe_size, self_adjust
        branches = 1 if stripe_size is None else 2
        if num_heads % branches:
            raise ValueError(
                f'num_heads={num_heads} must be even: half of them attend in vertical stripes, '
                'half in horizontal ones; stripe_size=None attends over the whole map'
            )
        self.extend(CSwinBranch(dim // branches) for _ in range(branches))

    @classmethod
    def defaults(cls, site: Site) -> dict[str, object]:
        return dict(stripe_size=site.stripe)

    def forward(
        self,
        x: Tensor,
        hw_shape: tuple[int, int],
        before: Tensor,
        qkv: nn.Module,
        proj: nn.Module,
    ) -> Tensor:
        # (B, H, W, 3, branches, C / branches)
        parts = qkv(x).unflatten(2, (3, len(self), -1)).unflatten(1, hw_shape)
        outs = [
            self._attend_in_stripes(branch, part, vertical=index == 0)
            for index, (branch, part) in enumerate(zip(self, parts.unbind(4), strict=True))
        ]
        out = outs[0] if len(outs) == 1 else torch.cat(outs, -1)
        return proj(out.flatten(1, 2))

    def weights(
        self,
        x: Tensor,
        hw_shape: tuple[int, int],
        before: Tensor,
        qkv: nn.Module,
        proj: nn.Module,
    ) -> Weights:
        # (B, H, W, branches, 3 * C / branches)
        parts = qkv(x).unflatten(2, (3, len(self), -1)).transpose(2, 3).flatten(3)
        parts = parts.unflatten(1, hw_shape).unbind(3)
        branches = zip(self, parts, (True, False), strict=False)
        return HeadGroupWeights([self._weigh_in_stripes(*branch) for branch in branches], proj)

    def _weigh_in_stripes(self, branch: CSwinBranch, qkv: Tensor, vertical: bool) -> Weights:
        weigh = partial(self._weigh, branch)
        if self.stripe_size is None:
            return weigh(qkv)
        apply = partial(apply_in_stripes, width=self.stripe_size, vertical=vertical)
        return windowed_weights(apply, qkv, weigh)

    def _weigh(self, branch: CSwinBranch, qkv: Tensor) -> Weights:
        """Of queries, keys and values (B, H, W, 3 * C) of maps, before the output projection."""
        hw_shape = qkv.shape[1:3]
        q, k, v = qkv.flatten(1, 2).chunk(3, 2)
        local = convolve_tokens(branch.get_v, v, hw_shape)
        num_heads = self.num_heads // len(self)
        return softmax_weights(
            self._softmax,
            *(split_heads(t, num_heads) for t in (q, k, v)),
            finish=lambda out: merge_heads(out) + local,
            local=branch.get_v.weight.squeeze(1).unflatten(0, (num_heads, -1))[None],
        )

    def _attend_in_stripes(self, branch: CSwinBranch, qkv: Tensor, vertical: bool) -> Tensor:
        attend = partial(self._attend, branch)
        if self.stripe_size is None:
            return attend(qkv)
        return apply_in_stripes(attend, qkv, self.stripe_size, vertical)

    def _attend(self, branch: CSwinBranch, qkv: Tensor) -> Tensor:
        """From queries, keys and values (B, H, W, 3, C) of maps to (B, H, W, C)."""
        hw_shape = qkv.shape[1:3]
        q, k, v = qkv.flatten(1, 2).unbind(2)
        heads = (split_heads(t, self.num_heads // len(self)) for t in (q, k, v))
        out = merge_heads(self._softmax(*heads)) + convolve_tokens(branch.get_v, v, hw_shape)
        return out.unflatten(1, hw_shape)

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return (self_adjusted_attention if self.self_adjust else softmax_attention)(q, k, v, bias)


CSWIN_ATTENTIONS = {'inline': CSwinInLineAttention, 'softmax': CSwinStripeAttention}
"""Names that stand for them in CSwin's blocks."""
