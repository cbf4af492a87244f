"""InLine attention as a module (arXiv 2412.06590)."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..layers import LocalKernels, is_plain
from ..ops import (
    KERNELS,
    InLineWeights,
    dynamic_depthwise3x3,
    inline_attention,
    inline_attention_of_qkv,
    merge_heads,
    split_heads,
    token_mean,
)
from ..utils import check_flag, one_of
from .base import QKVMixer, token_mixer
from .weights import FactoredWeights, Weights


@token_mixer('inline')
class InLineAttention(QKVMixer):
    """Injective linear attention with a predicted 3x3 local residual, usable in any model.

    Cost grows linearly with the number of tokens. The whole map is attended at once unless
    ``window_size`` is given.

    The layers inside may be replaced (adapters, quantisation) and hooked: they are called then, in
    the textbook's linear form. Otherwise the form is the cheapest, and takes their weights only.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` projections ``q`` and ``kv`` (as in InLine-PVT) or ``'joint'``, one
            ``qkv`` (as in InLine-Swin).
        kernel: Kernel function on queries and keys: ``'identity'``, ``'relu'``, ``'leakyrelu'``
            or ``'exp'``.
        window_size: Attend within windows of this side in tokens; means, covariances and residual
            kernels are then per window. None: the whole map.
        shift: Roll the map by half a window first (unmasked: a linear form cannot mask pairs).
        local_residual: Add the predicted 3x3 convolution of the values.
        class_token: A token of no place comes before those of the map: it is attended to as any,
            and has no local residual.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, a number is not positive, an unknown
            name, ``local_residual`` is not True or False, or windows and a class token.
    """

    paper = 'InLine, NeurIPS 2024'
    looks_like = ('spatial_reduction', 'global')

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        kernel: str = 'identity',
        window_size: int | None = None,
        shift: bool = False,
        local_residual: bool = True,
        class_token: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, window_size=window_size, shift=shift)
        self.take_class_token(class_token)
        self.kernel = one_of('kernel', kernel, KERNELS)
        check_flag(local_residual=local_residual)
        self.residual = LocalKernels(dim, num_heads) if local_residual else None

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        # Shapes alone go through the definition, by which costs are counted.
        if x.is_meta or not self._is_plain():
            q, k, v = self.project(x)
            kernel = self.local_kernel(token_mean(x).to(x.dtype))
            out = inline_attention_of_qkv(
                q, k, v, hw_shape, kernel, self.num_heads, self.kernel, self.class_token
            )
            return self.proj(out)
        projection = self.proj.weight, self.proj.bias
        return inline_attention(
            x, hw_shape, self.params(), self.residual, projection, self.class_token
        )

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        kernels = self.local_kernel(token_mean(x).to(x.dtype))
        qkv = self.project(x)
        own = self.num_heads, self.kernel, self.proj, self.class_token
        return weights_of_qkv(qkv, hw_shape, kernels, None, *own)

    def local_kernel(self, mean: Tensor) -> Tensor | None:
        """Kernels (B, C, 3, 3) of the local residual by the mean token (B, 1, C), if it is on."""
        return None if self.residual is None else self.residual(mean[:, 0])

    def params(self) -> InLineWeights:
        """The projections to queries, keys and values, as the ops take them."""
        return joined_weights(self.projections(), self.num_heads, self.kernel)

    def _is_plain(self) -> bool:
        return projections_are_plain(self.projections(), self.proj)

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        first = weights.get('residual.0.weight')  # a grouped convolution (C, C / heads, 1)
        if first is None:
            return None
        return dict(num_heads=first.shape[0] // first.shape[1], local_residual=True)


def joined_weights(projections: Sequence[nn.Linear], num_heads: int, kernel: str) -> InLineWeights:
    """Joint or separate projections to queries, keys and values, as the ops take them."""
    dim = projections[0].in_features
    weights, biases = (
        tuple(part for layer in projections for part in getattr(layer, name).split(dim))
        for name in ('weight', 'bias')
    )
    return InLineWeights(weights, biases, num_heads, kernel)


def projections_are_plain(projections: Sequence[nn.Linear], proj: nn.Linear) -> bool:
    """Whether projections before and behind the attention may be computed by their weights."""
    layers = (*projections, proj)
    if not all(is_plain(layer, nn.Linear) for layer in layers):
        return False
    return sum(layer.out_features for layer in layers) == 4 * proj.in_features


def weights_of_qkv(
    qkv: Sequence[Tensor],
    hw_shape: tuple[int, int],
    local_kernel: Tensor | None,
    local_bias: Tensor | None,
    num_heads: int,
    kernel: str,
    proj: nn.Module,
    class_token: bool = False,
) -> FactoredWeights:
    """The weights of InLine attention, for looking at.

    Args:
        qkv: Queries, keys and values, each (B, N, C).
        hw_shape: Map size (H, W) in tokens, H * W == N.
        local_kernel: Of the local residual (B, C, 3, 3); None: there is none.
        local_bias: What it adds beside (B, C), if anything.
        num_heads: Number of heads; divides C.
        kernel: Name in :data:`.KERNELS`.
        proj: The output projection.
        class_token: A token before those of the map, N == 1 + H * W, has no local residual.
    """
    q, k, v = qkv
    q, k = (split_heads(KERNELS[kernel](t), num_heads) for t in (q, k))
    local = 0
    if local_kernel is not None:
        local = dynamic_depthwise3x3(v, local_kernel, hw_shape, local_bias, class_token=class_token)
        local_kernel = local_kernel.unflatten(1, (num_heads, -1))
    return FactoredWeights(
        split_heads(v, num_heads),
        lambda out: proj(merge_heads(out) + local),
        local_kernel,
        q=q * q.shape[-1] ** -0.5,
        k=(k - k.mean(-2, keepdim=True)) / v.shape[1],
        shift=1 / v.shape[1],
    )
