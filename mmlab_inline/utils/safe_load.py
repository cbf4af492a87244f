"""Reading checkpoints without running code from them.

A ``.pth`` file is a pickle, and a pickle may call anything. Here only an allow-list of harmless
types is ever looked up, so that released files (which hold a yacs config beside their weights and
which ``weights_only=True`` therefore refuses) load, and files that need more are refused by name.
"""

import os
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from .errors import UserError

# Set to 1, files that the allow-list refuses are unpickled after all, and may run anything.
UNSAFE_VARIABLE = 'MMLAB_INLINE_UNSAFE_CHECKPOINTS'

# Where checkpoints have their weights, the first that has any.
_AVERAGED = ('state_dict_ema', 'model_ema')
_TRAINED = ('state_dict', 'model')

_torch_load = torch.load  # what it is before anybody replaces it


class CheckpointError(UserError, ValueError):
    """The file is no checkpoint, or none that serves here."""


class NoCheckpointError(CheckpointError, FileNotFoundError):
    """There is no such file."""


class UnsafeCheckpointError(CheckpointError):
    """The file needs a type that is not known to be harmless."""


class _PlainDict(dict):
    """Stands in for configuration dicts, so that their package need not exist."""

    def __init__(self, *args: object) -> None:
        super().__init__()


class _PlainObject:
    """Stands in for harmless objects that nothing is read from."""

    def __init__(self, *args: object) -> None:
        pass


class _PlainHistory(HistoryBuffer):
    """Reads mmengine's log history; its own reader would take over methods that a file names."""

    def __setstate__(self, state: dict) -> None:
        self.__class__ = HistoryBuffer
        self.__init__(state['_log_history'], state['_count_history'], state['max_length'])


def _no_attribute(*args: object) -> None:
    """Stands in for getattr, by which mmengine's HistoryBuffer names its own methods."""


_TORCH_TYPES = {
    ('torch._utils', '_rebuild_tensor'),
    ('torch._utils', '_rebuild_tensor_v2'),
    ('torch._utils', '_rebuild_parameter'),
    ('torch', 'Size'),
    ('torch', 'device'),
    ('torch.serialization', '_get_layout'),
}
_NUMPY_TYPES = {
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    ('_codecs', 'encode'),  # the bytes of a NumPy scalar
    *(
        (f'numpy.{core}.multiarray', name)
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ),
}
_PLAIN_TYPES = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('collections', 'Counter'): Counter,  # the milestones of a scheduler
    ('collections', 'defaultdict'): _PlainDict,
    ('builtins', 'getattr'): _no_attribute,
    ('__builtin__', 'getattr'): _no_attribute,
    ('builtins', 'set'): set,
    ('__builtin__', 'set'): set,
    ('yacs.config', 'CfgNode'): _PlainDict,
    ('argparse', 'Namespace'): _PlainObject,
    # A path of another system than this one could not be made.
    **{
        (module, name): _PlainObject
        for module in ('pathlib', 'pathlib._local')
        for name in (
            *('Path', 'PosixPath', 'WindowsPath'),
            *('PurePath', 'PurePosixPath', 'PureWindowsPath'),
        )
    },
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): _PlainHistory,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        plain = _PLAIN_TYPES.get((module, name))
        if plain is not None:
            return plain
        key = (module, name)
        is_torch_name = module == 'torch' and (
            name.endswith('Storage') or isinstance(getattr(torch, name, None), torch.dtype)
        )
        if is_torch_name or key in _TORCH_TYPES or key in _NUMPY_TYPES:
            return super().find_class(module, name)
        raise UnsafeCheckpointError(f'it would run {module}.{name}')


# torch.load takes a module; this is one that holds just what it looks up.
_PICKLE_MODULE = SimpleNamespace(
    __name__='mmlab_inline.utils.safe_load',
    Unpickler=_Unpickler,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(),
)


def load_checkpoint(path: str | Path, map_location: object = 'cpu') -> dict:
    """Read a ``.pth`` or ``.safetensors`` file.

    Args:
        path: The file.
        map_location: Where the tensors go, as :func:`torch.load` takes it.

    Returns:
        What it holds: for safetensors the state dict, else whatever was saved, with configuration
        objects replaced by plain ones.

    Raises:
        NoCheckpointError: There is no such file, or it is a URL.
        UnsafeCheckpointError: The file needs a type that is not known to be harmless, and the
            environment variable :data:`UNSAFE_VARIABLE` is not 1.
        CheckpointError: The file is no checkpoint.
    """
    given, path = path, Path(path)
    if not path.is_file():
        url = re.sub(r'^(\w{2,}:)/(?!/)', r'\1//', str(given))  # which a Path has made shorter
        if '://' in url:
            raise NoCheckpointError(
                f'checkpoint {url} is a URL, and none is fetched here: fetch the file, released '
                'ones by tools/download_weights.py, and give its path'
            )
        raise NoCheckpointError(f'checkpoint {path} does not exist')
    if path.suffix == '.safetensors':
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f'{path} is no safetensors file: {error}') from None
    try:
        return _torch_load(
            path, map_location=map_location, pickle_module=_PICKLE_MODULE, weights_only=False
        )
    except UnsafeCheckpointError as error:
        if os.environ.get(UNSAFE_VARIABLE) == '1':
            warnings.warn(f'{path}: {error}, as {UNSAFE_VARIABLE}=1 allows', stacklevel=2)
            return _torch_load(path, map_location=map_location, weights_only=False)
        raise UnsafeCheckpointError(
            f'{path} is refused, {error}: save its weights alone '
            "(torch.save({'state_dict': ...}) or safetensors) where you trust it, "
            f'or set {UNSAFE_VARIABLE}=1 to let it run whatever it holds'
        ) from None
    except Exception as error:  # a damaged pickle fails in any way
        raise CheckpointError(f'{path} is no checkpoint, or a torn one: {error}') from None


def find_weights(checkpoint: object) -> tuple[str | None, dict[str, Tensor]]:
    """The state dict in a checkpoint, and its key there; None where it is a state dict itself.

    The rule is timm's: averaged (EMA) weights before those that were trained. An entry that holds
    none, or averages of something else than was trained, is passed over.

    Returns:
        Key, and tensors without the prefixes of DistributedDataParallel and of torch.compile; no
        tensors if there are none.
    """
    if not isinstance(checkpoint, dict):
        return None, {}
    found = {key: _tensors(checkpoint.get(key)) for key in (*_AVERAGED, *_TRAINED)}
    trained = next((found[key] for key in _TRAINED if found[key]), None)
    for key, weights in found.items():
        if weights and (trained is None or _ends(weights) & _ends(trained)):
            return key, weights
    return None, _tensors(checkpoint)


def _tensors(entry: object) -> dict[str, Tensor]:
    """The state dict in an entry, which may be that of a wrapper with settings of its own."""
    if not isinstance(entry, dict):
        return {}
    for inner in (*(entry.get(key) for key in ('state_dict', 'module', 'model')), entry):
        tensors = {
            # A compiled part inside has its prefix inside too.
            name.replace('_orig_mod.', '').removeprefix('module.'): value
            for name, value in (inner.items() if isinstance(inner, dict) else ())
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        if tensors:
            return tensors
    return {}


def _ends(names: Iterable[str]) -> set[tuple[str, ...]]:
    """What is the same whatever prefix the names have."""
    return {tuple(name.split('.')[-2:]) for name in names}


def unwrap_state_dict(checkpoint: dict) -> dict[str, Tensor]:
    """The state dict in what mm tools (``state_dict``), timm and the authors (``model``) save.

    Averaged (EMA) weights come before the others, which a line says. The prefixes of
    DistributedDataParallel and of torch.compile are taken off.

    Raises:
        CheckpointError: There is none.
    """
    key, weights = find_weights(checkpoint)
    if not weights:
        raise CheckpointError("it holds no weights: no 'state_dict', no 'model', no tensors")
    if key in _AVERAGED:
        print_log(f'the averaged (EMA) weights of the checkpoint are taken: {key}', 'current')
    return weights


def read_weights(
    path: str | Path, read: Callable[[str | Path], dict] = load_checkpoint
) -> tuple[dict[str, Tensor], dict]:
    """The state dict in a file, and what the file says about itself (``meta``).

    Args:
        path: The file, or what else ``read`` takes.
        read: Reads it.

    Raises:
        CheckpointError: It does not exist, cannot be read or holds no weights; says which.
    """
    checkpoint = read(path)
    try:
        return unwrap_state_dict(checkpoint), checkpoint.get('meta') or {}
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from None
