"""BatchNorm as configs ask for it, and its running statistics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from ..utils import one_of

_TYPES = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}


def build_batch_norm(norm_cfg: Mapping, channels: int) -> nn.Module:
    """A BatchNorm of maps (B, C, H, W).

    Args:
        norm_cfg: ``dict(type='BN')``, or ``dict(type='SyncBN')`` for statistics over all
            processes; ``requires_grad=False`` beside it trains neither scale nor shift.
        channels: C.

    Raises:
        ValueError: Another type, another key, or no dict.
    """
    if not isinstance(norm_cfg, Mapping):
        raise ValueError(f"norm_cfg={norm_cfg!r} must be a dict such as dict(type='SyncBN')")
    options = {key: value for key, value in norm_cfg.items() if key != '_scope_'}
    for key in options:
        one_of('norm_cfg key', key, ('type', 'requires_grad'))
    norm = _TYPES[one_of('norm_cfg type', options.get('type'), _TYPES)](channels)
    return norm.requires_grad_(options.get('requires_grad', True))


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The BatchNorms in a module, of either type."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Run a module in training without another update of its BatchNorms' running statistics."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in batch_norms(module)]
    for norm, _, count in before:
        # A copy to count on: SyncBatchNorm refuses to train without.
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
