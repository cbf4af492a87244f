"""Speed and memory of the forms of one network, side by side (tools/analysis/benchmark.py)."""

from .device import AMP_DTYPES, Device, machine
from .forms import DEFAULT_FORMS, FORMS, form_forwards, released, replaced
from .profile import profile_call
from .report import LEGEND, as_json, describe, draw, tables
from .subjects import BACKBONES, AttentionSubject, BackboneSubject, ConfigSubject, Subject
from .timing import MIN_ROUNDS, Row, measure
from .traffic import KeptBytes, MovedBytes

__all__ = [
    'AMP_DTYPES',
    'BACKBONES',
    'DEFAULT_FORMS',
    'FORMS',
    'LEGEND',
    'MIN_ROUNDS',
    'AttentionSubject',
    'BackboneSubject',
    'ConfigSubject',
    'Device',
    'KeptBytes',
    'MovedBytes',
    'Row',
    'Subject',
    'as_json',
    'describe',
    'draw',
    'form_forwards',
    'machine',
    'measure',
    'profile_call',
    'released',
    'replaced',
    'tables',
]
