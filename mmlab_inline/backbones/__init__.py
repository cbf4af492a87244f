"""Backbones; they import layers, ops and mmengine, neither mmcv nor mmdet nor mmseg."""

from .inline_cswin import InLineCSwin
from .inline_deit import InLineDeiT
from .inline_pvt import InLinePVT
from .inline_swin import InLineSwin
from .l2vit import L2ViT

__all__ = ['InLineCSwin', 'InLineDeiT', 'InLinePVT', 'InLineSwin', 'L2ViT']
