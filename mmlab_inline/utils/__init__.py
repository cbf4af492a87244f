"""What every part may use; it imports nothing else of this package."""

from .errors import UserError, exit_on_user_error, one_line
from .names import check_keywords, did_you_mean, one_of
from .safe_load import UnsafeCheckpointError, load_checkpoint, unwrap_state_dict

__all__ = [
    'UnsafeCheckpointError',
    'UserError',
    'check_keywords',
    'did_you_mean',
    'exit_on_user_error',
    'load_checkpoint',
    'one_line',
    'one_of',
    'unwrap_state_dict',
]
