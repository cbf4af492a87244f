"""The drawn pictures that configs/demo and configs/comparison are trained on."""

from pathlib import Path

from ..utils import UserError
from .shapes import write_dataset

FOLDER = Path('work_dirs/demo')  # relative, as in the configs: below the folder one starts in
CLASSES = ('circle', 'ring', 'cross')


def write_demo_dataset(num_train: int = 1200, num_val: int = 120) -> None:
    """Draw the pictures, over those of another version or number.

    Raises:
        UserError: The folder holds files of something else.
    """
    settings = dict(num_train=num_train, num_val=num_val, classes=CLASSES)
    try:
        write_dataset(FOLDER / 'data', **settings)
    except ValueError:
        try:
            write_dataset(FOLDER / 'data', **settings, force=True)
        except ValueError as error:
            raise UserError(str(error)) from None
