"""What every part may use; it imports nothing else of this package."""

from .names import check_keywords, did_you_mean, one_of
from .safe_load import UnsafeCheckpointError, load_checkpoint, unwrap_state_dict

__all__ = [
    'UnsafeCheckpointError',
    'check_keywords',
    'did_you_mean',
    'load_checkpoint',
    'one_of',
    'unwrap_state_dict',
]
