"""Datasets that come with the package."""

from .shapes import CLASSES, Drawing, draw_image, write_dataset

__all__ = ['CLASSES', 'Drawing', 'draw_image', 'write_dataset']
