"""Speed and memory of the forms of one network, side by side (tools/analysis/benchmark.py)."""

from .device import Device, machine
from .forms import form_forwards, forms_of, released
from .profile import profile_call
from .report import LEGEND, as_json, describe, draw, tables
from .subjects import AttentionSubject, BackboneSubject, ConfigSubject, Subject
from .timing import Row, measure
from .traffic import KeptBytes, MovedBytes

__all__ = [
    'LEGEND',
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
    'forms_of',
    'machine',
    'measure',
    'profile_call',
    'released',
    'tables',
]
