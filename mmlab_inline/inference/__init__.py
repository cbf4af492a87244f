"""Predictions for images and videos: what tools/infer.py does."""

from .failures import recorded
from .pictures import Painter, class_colours, legend
from .predictions import Instances, MaskCrop, Prediction
from .predictor import Predictor
from .results import ResultWriter
from .sources import Frame, Source, count_frames, find_sources, read_frames
from .tiles import LabelMapMerger, merge_instances, tile_corners
from .tta import enable_tta

__all__ = [
    'Frame',
    'Instances',
    'LabelMapMerger',
    'MaskCrop',
    'Painter',
    'Prediction',
    'Predictor',
    'ResultWriter',
    'Source',
    'class_colours',
    'count_frames',
    'enable_tta',
    'find_sources',
    'legend',
    'merge_instances',
    'read_frames',
    'recorded',
    'tile_corners',
]
