"""A config, a summary and a contact sheet for data of the user's own."""

from .config_file import Options, choose_base, find_base, write_config
from .contact_sheet import draw_contact_sheet
from .recipe import DetectionRecipe, ObjectSizes, SegmentationRecipe
from .summary import print_summary

__all__ = [
    'DetectionRecipe',
    'ObjectSizes',
    'Options',
    'SegmentationRecipe',
    'choose_base',
    'draw_contact_sheet',
    'find_base',
    'print_summary',
    'write_config',
]
