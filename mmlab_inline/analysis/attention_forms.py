"""Which form of InLine attention runs on which device, as ``python -m mmlab_inline`` says it."""

import warnings

import torch
from torch import Tensor

from ..ops.dispatch import fewest_values_worth_launches
from ..ops.eager import runs_eagerly_on_cpu
from ..ops.inline_attention_fused import triton_is_available


def forms_by_device() -> dict[str, str]:
    """The forms of whole maps on the CPU and on each GPU, and why a GPU has no kernels."""
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
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        forms = [
            f'in {name} {_form_of(torch.zeros(1, 192, 64, dtype=dtype, device=device))}'
            for name, dtype in (('float32', torch.float32), ('half types', torch.float16))
        ]
    return '; '.join([*forms, *dict.fromkeys(str(warning.message) for warning in said)])


def _form_of(tokens: Tensor) -> str:
    if runs_eagerly_on_cpu(tokens):
        return 'banded'
    kernels = triton_is_available(tokens)
    form = 'fused (Triton kernels)' if kernels else 'fast (plain PyTorch)'
    if tokens.device.type != 'cuda':
        return form
    fewest = fewest_values_worth_launches(tokens.dtype.itemsize == 2, kernels)
    if fewest is None:
        return 'linear'
    return f'{form} from {fewest >> 20} million values on, else linear' if fewest else form
