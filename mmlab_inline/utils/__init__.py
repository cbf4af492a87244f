"""What every part may use; it imports nothing else of this package."""

from typing import TYPE_CHECKING

from .atomic import write_atomically, written_atomically
from .errors import UserError, exit_on_user_error, is_for_user, one_line
from .lazy import lazy_names
from .names import check_keywords, did_you_mean, one_of
from .numbers import check_flag, check_positive, check_whole, counted, is_whole, whole_pair

if TYPE_CHECKING:
    from .safe_load import (
        CheckpointError,
        UnsafeCheckpointError,
        load_checkpoint,
        read_weights,
        unwrap_state_dict,
    )
    from .state_dicts import Difference, compare_state_dict, of_another_model

__all__ = [
    'CheckpointError',
    'Difference',
    'UnsafeCheckpointError',
    'UserError',
    'check_flag',
    'check_keywords',
    'check_positive',
    'check_whole',
    'compare_state_dict',
    'counted',
    'did_you_mean',
    'exit_on_user_error',
    'is_for_user',
    'is_whole',
    'lazy_names',
    'load_checkpoint',
    'of_another_model',
    'one_line',
    'one_of',
    'read_weights',
    'unwrap_state_dict',
    'whole_pair',
    'write_atomically',
    'written_atomically',
]

# These take torch.
__getattr__ = lazy_names(
    __name__,
    {
        'safe_load': (
            'CheckpointError',
            'UnsafeCheckpointError',
            'load_checkpoint',
            'read_weights',
            'unwrap_state_dict',
        ),
        'state_dicts': ('Difference', 'compare_state_dict', 'of_another_model'),
    },
)
