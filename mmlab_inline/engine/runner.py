"""mmengine's runner, with data that name the file where they fail."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..datasets.checked_loading import check_loading, innermost
from ..datasets.checks import innermost_datasets
from ..utils import UserError, one_line


class CheckedRunner(Runner):
    """Stops with one line where a dataset does not build, is empty, or a file does not load."""

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a dataloader, as mmengine does, on a checked dataset.

        Raises:
            UserError: The dataset does not build, or has no image or not all of its classes.
        """
        if isinstance(dataloader, dict) and isinstance(dataloader.get('dataset'), dict):
            settings = dataloader['dataset']
            dataloader = {**dataloader, 'dataset': dict(type=_build_dataset, settings=settings)}
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    def train(self) -> nn.Module:
        """Train.

        Raises:
            UserError: A file does not load.
        """
        with _errors_of_workers():
            return super().train()

    def test(self) -> dict[str, float]:
        """Test.

        Raises:
            UserError: A file does not load.
        """
        with _errors_of_workers():
            return super().test()


def _build_dataset(settings: Mapping) -> object:
    places = [
        dataset.get('ann_file') or dataset.get('data_root')
        for dataset in innermost_datasets(settings)
    ]
    advice = 'tools/dataset/check.py CONFIG says what is wrong'
    try:
        dataset = DATASETS.build(settings)
        dataset.full_init()
    except Exception as error:  # whatever settings or annotations provoke
        # mmengine cannot pack an empty list.
        if 'at least one array' in str(error):
            problem = (
                'no image is left after filter_cfg: do the class names match those of the file?'
            )
        else:
            problem = f'does not load ({one_line(error)});'
        raise UserError(f'dataset {", ".join(map(str, places))}: {problem} {advice}') from error
    for inner in innermost(dataset):
        classes = inner.metainfo.get('classes') or ()
        known = getattr(inner, 'cat_ids', classes)
        if len(inner) == 0:
            raise UserError(f'dataset {inner.ann_file or inner.data_root} has no image; {advice}')
        if len(known) < len(classes):
            raise UserError(
                f'dataset {inner.ann_file}: only {len(known)} of the {len(classes)} classes of the '
                'config are categories of the file; set metainfo=dict(classes=...) to the names in '
                f'the file ({advice})'
            )
    check_loading(dataset)
    return dataset


@contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Loader processes send an error with its traceback; keep its message."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).rsplit('UserError: ', 1)[-1].strip()) from None
