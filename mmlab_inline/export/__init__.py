"""Models as ONNX files and as torch.export programs, each for any batch, height and width."""

from .program import (
    TOLERANCE,
    IntegerUpsample,
    MatrixAdaptiveAvgPool2d,
    build_export_module,
    check_packages,
    compare_export,
    export_program,
    load_export,
    save_onnx,
    save_program,
)

__all__ = [
    'TOLERANCE',
    'IntegerUpsample',
    'MatrixAdaptiveAvgPool2d',
    'build_export_module',
    'check_packages',
    'compare_export',
    'export_program',
    'load_export',
    'save_onnx',
    'save_program',
]
