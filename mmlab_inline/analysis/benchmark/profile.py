"""Where the time of one call goes: shares of operations, and of the backbone and its attention."""

import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from ...mixers import TokenMixer
from ...runs import replaced
from .subjects import Subject

# The first kind whose pattern is found in an operator's name counts it.
KINDS = {
    'RoIAlign': 'RoIAlign|roi_align',
    'convolutions': 'conv|::local_residual',
    # addmm, bmm, _addmm_activation ...; attention in one operator; what this package has of its own
    'matrix products': r'::\w*mm(_|$)|_attention|mmlab_inline|StreamedMlp|Banded|CentredGram',
    'normalisation': 'norm(?!al)',
    'softmax and its logarithm': 'softmax',
    'interpolation': 'upsample|interpolate|grid_sampl',
    'copies': '::(copy_|_foreach_copy|cat|clone|contiguous)',
}
OTHER = 'everything else'
PARTS = {'backbone': "the backbone's forward pass", 'attention': 'its attention'}


def profile_call(
    subject: Subject, phase: str, size: tuple[int, int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Profile one call of a subject, after two that warm up.

    Args:
        subject: With a model that has a ``backbone``.
        phase: Key of ``subject.passes``.
        size: (H, W) of the images.

    Returns:
        Share of the time by kind of operation, largest first, and by part of the network (parts
        are inside the whole and inside each other, and do not add up to 1).
    """
    model = subject.model()
    run = subject.prepare(model, phase, size)
    mixers = [module for module in model.modules() if isinstance(module, TokenMixer)]
    labelled = {model.backbone: 'backbone', **dict.fromkeys(mixers, 'attention')}
    forwards = {
        module: partial(_labelled, PARTS[part], module.forward) for module, part in labelled.items()
    }
    activities = [ProfilerActivity.CPU]
    if subject.device.type == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    with replaced(forwards), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch, that it forgets earlier profiles
        run()
        run()
        with profile(activities=activities) as record:
            run()
    return _shares(record.key_averages(), subject.device.type)


def _labelled(name: str, forward: Callable[..., Tensor], *args: object) -> Tensor:
    with record_function(name):
        return forward(*args)


def _shares(events: Iterable, device: str) -> tuple[dict[str, float], dict[str, float]]:
    clock = 'cpu_time_total' if device == 'cpu' else 'device_time_total'
    kinds: dict[str, float] = {}
    parts = dict.fromkeys(PARTS.values(), 0.0)
    on_gpu = 0.0
    for event in events:
        if event.device_type != DeviceType.CPU:
            # The time of a kernel is in the row of the operator that launched it too, and in that
            # of every annotation around it.
            on_gpu += 0 if event.is_user_annotation else event.self_device_time_total
            continue
        if event.key in parts:
            parts[event.key] += getattr(event, clock)
        kind = next((kind for kind, names in KINDS.items() if re.search(names, event.key)), OTHER)
        kinds[kind] = kinds.get(kind, 0) + getattr(event, f'self_{clock}')
    by_operators = sum(kinds.values())
    if on_gpu > by_operators:
        kinds[OTHER] = kinds.get(OTHER, 0) + on_gpu - by_operators
    total = max(on_gpu, by_operators)
    ordered = sorted(kinds, key=kinds.get, reverse=True)
    return (
        {kind: kinds[kind] / total for kind in ordered},
        {part: time / total for part, time in parts.items()},
    )
