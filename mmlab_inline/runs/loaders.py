"""Settings of loaders."""

from collections.abc import Mapping

from mmengine.logging import print_log


def without_contradictions(dataloader: Mapping) -> dict:
    """Settings of a loader without those that only worker processes take, if it has none."""
    dataloader = dict(dataloader)
    if dataloader.get('num_workers', 0) == 0:
        for name, neutral in (('persistent_workers', False), ('prefetch_factor', None)):
            if dataloader.pop(name, neutral) != neutral:
                print_log(f'num_workers is 0, so {name} is left out', 'current')
    return dataloader
