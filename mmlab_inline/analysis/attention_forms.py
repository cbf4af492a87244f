"""Which form of InLine attention runs on which device, as ``python -m mmlab_inline`` says it."""

import warnings

import torch

from ..ops.eager import runs_eagerly_on_cpu
from ..ops.inline_attention_fused import triton_is_available


def forms_by_device() -> dict[str, str]:
    """The form for a float32 map on the CPU and on each GPU, and why a GPU has no kernels."""
    forms = {'cpu': _form('cpu')}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = f'cuda:{index}'
            try:
                forms[f'{device} {torch.cuda.get_device_name(index)}'] = _form(device)
            except RuntimeError as error:  # of a card that is there, but does not work
                forms[device] = f'fails: {str(error).strip().partition(chr(10))[0]}'
    return forms


def _form(device: str) -> str:
    tokens = torch.zeros(1, 192, 64, device=device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        if triton_is_available(tokens):
            return 'fused (Triton kernels) on large maps'
    if runs_eagerly_on_cpu(tokens):
        return 'banded'
    return '; '.join(['fast (plain PyTorch)', *(str(warning.message) for warning in said)])
