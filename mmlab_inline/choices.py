"""What the tools' options choose from, apart from what makes use of it: --help needs no torch."""

# Of tools/analysis/benchmark.py, in the order of its table. The name of any attention is another.
FORMS = {
    'released': "attention and MLP step by step, as the paper's released classifiers have them",
    'released-attention': 'the attention alone step by step, everything else as shipped',
    'textbook': 'inline_attention_linear in every block',
    'fast': 'inline_attention_fast in every block',
    'auto': 'what the package does by itself',
    'compile': 'the same through torch.compile',
    'graph': 'the same as one CUDA graph, whose kernels are launched at once',
    'softmax': 'softmax attention in every block: another network, PVT or Swin',
    'floor': 'every token mixer reduced to its value and output projections',
}
DEFAULT_FORMS = tuple(form for form in FORMS if form not in ('compile', 'graph'))
# Class and arch.
BACKBONES = {
    **{f'inline-pvt-{arch}': ('InLinePVT', arch) for arch in 'tsml'},
    **{f'inline-swin-{arch}': ('InLineSwin', arch) for arch in 'tsb'},
    **{f'inline-cswin-{arch}': ('InLineCSwin', arch) for arch in 'tsb'},
    **{f'inline-deit-{arch}': ('InLineDeiT', arch) for arch in 'tsb'},
    **{f'l2vit-{arch}': ('L2ViT', arch) for arch in 'tsb'},
}
MIN_ROUNDS = 3
# With the names of torch's types.
AMP_DTYPES = {'bf16': 'bfloat16', 'fp16': 'float16'}

# Of tools/export.py, with the endings of their files.
EXPORT_FORMATS = {'onnx': '.onnx', 'torch': '.pt2'}
EXPORT_PARTS = ('model', 'backbone')

# Of tools/dataset/new_config.py.
DATA_FORMATS = ('coco', 'yolo', 'voc', 'yolo-polygons', 'yolo-pose', 'label-maps')
