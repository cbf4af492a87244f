"""Finding what is wrong with a data set before a run trips over it, or silently learns nothing."""

from .annotations import check_annotations, read_annotations
from .classes import check_classes, class_counts, is_background
from .finding import Finding
from .images import IMAGE_SUFFIXES, ImageLoading, any_size, check_image
from .label_maps import LabelLoading, check_label_map, check_label_values
from .paths import check_paths
from .settings import innermost_datasets
from .split import check_split

__all__ = [
    'IMAGE_SUFFIXES',
    'Finding',
    'ImageLoading',
    'LabelLoading',
    'any_size',
    'check_annotations',
    'check_classes',
    'check_image',
    'check_label_map',
    'check_label_values',
    'check_paths',
    'check_split',
    'class_counts',
    'innermost_datasets',
    'is_background',
    'read_annotations',
]
