"""Data of the user's own, as annotation tools export them, in one form for all formats."""

from .coco import write_coco
from .data import OwnData, Picture, has_masks, listed, mask_of
from .formats import read_folder
from .label_maps import draw_label_map, write_label_maps
from .names import SPLITS
from .split import arrange_splits

__all__ = [
    'SPLITS',
    'OwnData',
    'Picture',
    'arrange_splits',
    'draw_label_map',
    'has_masks',
    'listed',
    'mask_of',
    'read_folder',
    'write_coco',
    'write_label_maps',
]
