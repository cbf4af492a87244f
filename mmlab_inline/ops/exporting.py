"""Whether a graph is being exported."""

import torch


def is_exporting() -> bool:
    """Whether torch.export or torch.onnx's tracer is at work.

    A branch on a size would then bake the example's size in, and the tracer of ONNX knows fewer
    operations.
    """
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
