"""Stochastic depth (arXiv 1603.09382)."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch at random, for each image of the batch by itself, while training.

    What stays is scaled up, so that the expectation is the branch.

    Args:
        drop_prob: Probability of dropping it, below 1.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """A branch (B, ...) of the same shape."""
        if not (self.training and self.drop_prob):
            return x
        keep_prob = 1 - self.drop_prob
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep_prob)
        return x * kept.div_(keep_prob)

    def extra_repr(self) -> str:
        return f'{self.drop_prob:.3g}'
