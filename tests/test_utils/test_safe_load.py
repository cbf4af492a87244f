import argparse
import collections
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import Tensor, nn

from mmlab_inline.utils import (
    UnsafeCheckpointError,
    load_checkpoint,
    safe_load,
    unwrap_state_dict,
)


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


formats = pytest.mark.parametrize('save', [save_zip, save_legacy])


class Calls:
    """Pickles as a call of ``function``, which is what an attacker would write."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call


class Custom:
    """A class of its own project, such as configuration objects are."""

    def __setstate__(self, state: dict) -> None:
        Path(state['path']).touch()


def attacks(marker: Path) -> dict[str, object]:
    custom = Custom()
    custom.path = str(marker)
    return {
        f'{os.system.__module__}.system': Calls(os.system, f'touch {marker}'),
        'builtins.exec': Calls(exec, f'open({str(marker)!r}, "w")'),
        'io.open': Calls(open, str(marker), 'w'),
        'builtins.eval': Calls(eval, f'open({str(marker)!r}, "w")'),
        'Custom': custom,
        'torch.serialization.load': Calls(torch.serialization.load, str(marker)),
        'torch.hub.load': Calls(torch.hub.load, str(marker)),
    }


@pytest.mark.parametrize('save', [save_zip, save_legacy, save_pickle])
@pytest.mark.parametrize('name', attacks(Path('marker')))
def test_files_that_would_run_something_are_refused_by_name(name, save, tmp_path):
    marker = tmp_path / 'marker'
    path = tmp_path / 'evil.pth'
    weights = {'weight': torch.ones(2)} if save is not save_pickle else {}
    save({'model': weights, 'config': attacks(marker)[name]}, path)
    with pytest.raises(UnsafeCheckpointError) as info:
        load_checkpoint(path)
    # Old pickle protocols write Python 2's name.
    assert name in str(info.value).replace('__builtin__', 'builtins')
    assert str(path) in str(info.value)
    assert not marker.exists()


def test_the_attacks_would_work(tmp_path):
    """Otherwise the test above would prove nothing."""
    for number, name in enumerate(attacks(tmp_path)):
        if name.startswith('torch'):
            continue  # no file comes of these
        marker = tmp_path / str(number)
        pickle.loads(pickle.dumps(attacks(marker)[name]))
        assert marker.exists(), name


@pytest.mark.parametrize('protocol', [2, 4])
def test_dotted_names_do_not_lead_around_the_list(protocol, tmp_path):
    """From protocol 4 on, a pickle may ask for attributes of an allowed module's attributes."""
    path = tmp_path / 'evil.pth'
    name = 'serialization.os.system'
    if protocol == 4:
        lookup = b'\x8c\x05torch\x8c' + bytes([len(name)]) + name.encode() + b'\x93'
    else:
        lookup = b'ctorch\n' + name.encode() + b'\n'
    marker = tmp_path / 'marker'
    argument = f'touch {marker}'.encode()
    call = b'X' + len(argument).to_bytes(4, 'little') + argument + b'\x85R.'
    path.write_bytes(b'\x80' + bytes([protocol]) + lookup + call)
    with pytest.raises(UnsafeCheckpointError, match=r'torch\.serialization\.os\.system'):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.fixture
def yacs_node(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A stand-in for yacs while a file is saved; the returned function takes it away again."""
    config = ModuleType('yacs.config')

    class CfgNode(dict):
        def __init__(self, content: dict) -> None:
            super().__init__(content)
            self.__dict__['__immutable__'] = True
            self.__dict__['__deprecated_keys__'] = set()
            self.__dict__['__renamed_keys__'] = {}

    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    config.CfgNode = CfgNode
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'yacs', ModuleType('yacs'))
        patch.setitem(sys.modules, 'yacs.config', config)
        yield config.CfgNode
    assert sys.modules.get('yacs.config') is not config


@formats
def test_released_layout_with_a_yacs_config(save, yacs_node, tmp_path, monkeypatch):
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        'model': layer.state_dict(),
        'optimizer': optimizer.state_dict(),
        'lr_scheduler': {'base_values': [1e-3], 'metric': None},
        'max_accuracy': 78.2,
        'epoch': 299,
        'config': yacs_node({'MODEL': yacs_node({'NAME': 'x', 'DEPTHS': [2, 2]}), 'AMP': True}),
    }
    path = tmp_path / 'released.pth'
    save(content, path)
    for name in ('yacs', 'yacs.config'):
        monkeypatch.setitem(sys.modules, name, None)  # not installed
    # mmlab_inline.timm, wherever it has been imported, adds to what torch allows.
    allowed = 'torch._weights_only_unpickler._marked_safe_globals_set'
    monkeypatch.setattr(allowed, set(), raising=False)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    loaded = load_checkpoint(path)
    assert loaded['epoch'] == 299
    assert loaded['config']['MODEL']['DEPTHS'] == [2, 2]
    for name, value in layer.state_dict().items():
        assert torch.equal(loaded['model'][name], value)
    state = loaded['optimizer']['state'][0]
    assert torch.equal(state['exp_avg'], optimizer.state_dict()['state'][0]['exp_avg'])


@formats
def test_harmless_content_of_training_checkpoints(save, tmp_path):
    history = HistoryBuffer()
    history.update(1.5)
    counts = collections.defaultdict(collections.OrderedDict)
    counts['train']['steps'] = 3
    content = {
        'state_dict': {
            'float': torch.randn(2, 3),
            'half': torch.randn(2).half(),
            'bfloat': torch.randn(2).bfloat16(),
            'double': torch.randn(2).double(),
            'integer': torch.arange(3),
            'flag': torch.tensor([True, False]),
            'parameter': nn.Parameter(torch.randn(2)),
            'transposed': torch.randn(2, 3).T,
            'empty': torch.empty(0, 3),
        },
        'message_hub': {'log_scalars': collections.OrderedDict(loss=history)},
        'array': np.arange(6.0).reshape(2, 3),
        'scalar': np.float64(0.5),
        'arguments': argparse.Namespace(lr=0.1),
        'names': {'a', 'b'},
        'counts': counts,
        'size': torch.Size([2, 3]),
        'device': torch.device('cpu'),
        'dtype': torch.float16,
        'bytes': b'abc',
    }
    for name, value in content.items():
        path = tmp_path / f'{name}.pth'
        save({name: value}, path)
        loaded = load_checkpoint(path)[name]
        if name == 'state_dict':
            for key, tensor in value.items():
                assert torch.equal(loaded[key], tensor), key
                assert loaded[key].dtype is tensor.dtype, key
        elif name == 'array':
            assert (loaded == value).all()
        elif name not in ('message_hub', 'arguments'):
            assert loaded == value, name


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('kind', ['PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath'])
@pytest.mark.parametrize('module', ['pathlib', 'pathlib._local'])
def test_paths_among_the_arguments(module, kind, protocol, tmp_path, monkeypatch):
    """Of any system and Python, of which this one can make only some."""
    made = type(kind, (), {'__reduce__': lambda self: (type(self), ('/', 'data'))})
    made.__module__, made.__init__ = module, lambda self, *parts: None
    home = ModuleType(module)
    setattr(home, kind, made)
    content = {'model': {'a': torch.ones(1)}, 'args': argparse.Namespace(output=made())}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, home)
        torch.save(content, tmp_path / 'a.pth', pickle_protocol=protocol)
    assert load_checkpoint(tmp_path / 'a.pth')['model']['a'].tolist() == [1]


@formats
def test_tensors_that_share_storage(save, tmp_path):
    base = torch.arange(12.0)
    save({'a': base[:6], 'b': base[6:].view(2, 3)}, tmp_path / 'shared.pth')
    loaded = load_checkpoint(tmp_path / 'shared.pth')
    assert torch.equal(loaded['a'], base[:6])
    assert torch.equal(loaded['b'], base[6:].view(2, 3))


def test_safetensors(tmp_path):
    save_file({'weight': torch.arange(3.0)}, tmp_path / 'a.safetensors')
    assert load_checkpoint(tmp_path / 'a.safetensors')['weight'].tolist() == [0, 1, 2]
    assert load_checkpoint(str(tmp_path / 'a.safetensors'))['weight'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('name', ['none.pth', 'none.safetensors', '.'])
def test_missing_file(name, tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize('kind', [str, Path])
@pytest.mark.parametrize('url', ['https://example.org/a.pth', 's3://bucket/a.safetensors'])
def test_urls_are_not_fetched(url, kind):
    with pytest.raises(FileNotFoundError, match=rf'{url} is a URL.*tools/download_weights\.py'):
        load_checkpoint(kind(url))


def written(kind: str, path: Path) -> bytes:
    content = {'state_dict': {'weight': torch.arange(40.0), 'bias': torch.arange(7.0)}}
    if kind == 'safetensors':
        save_file(content['state_dict'], path)
    else:
        {'zip': save_zip, 'legacy': save_legacy, 'pickle': save_pickle}[kind](content, path)
    return path.read_bytes()


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_torn_file(kind, tmp_path):
    path = tmp_path / ('torn.safetensors' if kind == 'safetensors' else 'torn.pth')
    whole = written(kind, path)
    for length in sorted({*range(0, len(whole), max(len(whole) // 60, 1)), len(whole) - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r'torn\.'):
            load_checkpoint(path)


DAMAGE = {
    'text': b'X\x02\x00\x00\x00\xff\xff.',  # no UTF-8
    'number': b'Fone\n.',
    'call': b'K\x01)R.',  # of a number
    'storage': b'X\x01\x00\x00\x00aQ.',  # named by a string
    'no-storage': b')Q.',  # named by an empty tuple
    'length': b'\x8e' + b'\xff' * 8 + b'.',
    'stack': b'.',
}


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('kind', ['zip', 'plain'])
def test_damaged_pickle(kind, damage, tmp_path):
    """Damage shows as all kinds of exceptions inside of pickle and torch."""
    path = tmp_path / 'torn.pth'
    content = b'\x80\x04' + DAMAGE[damage]
    if kind == 'zip':
        save_zip({'weight': torch.ones(2)}, tmp_path / 'whole.pth')
        with zipfile.ZipFile(tmp_path / 'whole.pth') as whole, zipfile.ZipFile(path, 'w') as torn:
            for name in whole.namelist():
                torn.writestr(name, content if name.endswith('data.pkl') else whole.read(name))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r'torn\.pth'):
        load_checkpoint(path)


@pytest.mark.parametrize('protocol', [2, 4])
def test_getattr_is_never_called(protocol, tmp_path):
    """It is on the list because mmengine's HistoryBuffer asks for it."""
    content = {'config': Calls(getattr, 'text', 'upper')}
    torch.save(content, tmp_path / 'a.pth', pickle_protocol=protocol)
    assert load_checkpoint(tmp_path / 'a.pth')['config'] is None


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize(
    'content',
    [b'', b'\n', b'<!DOCTYPE html><html>not found</html>', b'version https://git-lfs', bytes(300)],
    ids=['empty', 'line', 'html', 'lfs', 'zeros'],
)
def test_file_of_another_kind(content, suffix, tmp_path):
    path = tmp_path / f'other.{suffix}'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'other\.'):
        load_checkpoint(path)


@pytest.mark.parametrize('key', ['state_dict', 'model', None])
def test_unwrap_finds_the_weights(key):
    weights = {'weight': torch.ones(1), 'module.bias': torch.zeros(1), 'note': 'text'}
    state_dict = unwrap_state_dict({key: weights, 'epoch': 3} if key else weights)
    assert {name: float(value) for name, value in state_dict.items()} == {'weight': 1, 'bias': 0}


def test_state_dict_comes_before_model():
    weights = {'a': torch.ones(1)}
    assert unwrap_state_dict({'model': {'b': torch.ones(1)}, 'state_dict': weights}) == weights


AVERAGED = {'module.0.weight': torch.ones(1), 'module.0.bias': torch.zeros(1)}


@pytest.mark.parametrize('key', ['model_ema', 'state_dict_ema'])
@pytest.mark.parametrize(
    ('entry', 'taken'),
    [
        ({}, False),
        (None, False),
        ({'decay': 0.9, 'updates': torch.tensor(3)}, False),
        ({'module': {}, 'decay': 0.9}, False),
        ({0: torch.ones(1)}, False),
        (AVERAGED, True),
        ({f'backbone.{name}': value for name, value in AVERAGED.items()}, True),
        ({'module': AVERAGED, 'decay': torch.tensor(0.9)}, True),
        ({'state_dict': AVERAGED, 'decay': 0.9}, True),
        ({'model': AVERAGED, 'updates': 3}, True),
    ],
    ids=str,
)
def test_averaged_weights_are_found_where_there_are_any(key, entry, taken, monkeypatch):
    """An entry without weights hides nothing, a wrapper's are taken, and this is said."""
    said = []
    monkeypatch.setattr(safe_load, 'print_log', lambda text, logger: said.append(text))
    trained = {'0.weight': torch.full((1,), 2.0), '0.bias': torch.zeros(1)}
    weights = unwrap_state_dict({'model': trained, key: entry})
    found = next(value for name, value in weights.items() if name.endswith('0.weight'))
    assert float(found) == (1 if taken else 2)
    assert len(weights) == 2
    assert [key in text for text in said] == [True] * taken
    if taken:
        assert unwrap_state_dict({key: entry}).keys() == weights.keys()


def test_a_wrapped_state_dict():
    weights = {'0.weight': torch.ones(1)}
    for wrapper in ('state_dict', 'module', 'model'):
        assert unwrap_state_dict({'model': {wrapper: weights, 'step': 3}}) == weights


@pytest.mark.parametrize(
    'checkpoint',
    [
        {},
        {'model_ema': {}, 'model': {}},
        {'state_dict': {'model': {}}},
        {'state_dict': {}},
        {'model': {'a': 1}},
        {'epoch': 3},
        [torch.ones(1)],
        torch.ones(1),
        None,
    ],
)
def test_no_weights(checkpoint: dict | list | Tensor | None):
    with pytest.raises(ValueError, match='holds no weights'):
        unwrap_state_dict(checkpoint)


@formats
def test_log_history_comes_back_whole(save, tmp_path):
    """A resumed run averages its losses over what was logged before."""
    history = HistoryBuffer()
    for value in (1.5, 2.5, 5.0):
        history.update(value, 2)
    save({'loss': history}, tmp_path / 'a.pth')
    loaded = load_checkpoint(tmp_path / 'a.pth')['loss']
    assert type(loaded) is HistoryBuffer
    assert loaded.mean(2) == history.mean(2)
    assert loaded.statistics('max') == 5.0
    loaded.update(1.0)
    save({'loss': loaded}, tmp_path / 'b.pth')
    assert load_checkpoint(tmp_path / 'b.pth')['loss'].data[0].tolist() == [1.5, 2.5, 5.0, 1.0]
    assert HistoryBuffer([1.0], [1]).statistics('min') == 1.0


@formats
def test_the_variable_lets_a_file_run_what_it_holds(save, tmp_path, monkeypatch):
    marker, path = tmp_path / 'marker', tmp_path / 'evil.pth'
    save({'weight': torch.ones(2), 'x': Calls(os.system, f'touch {marker}')}, path)
    for value in ('', '0', 'no'):
        monkeypatch.setenv('MMLAB_INLINE_UNSAFE_CHECKPOINTS', value)
        with pytest.raises(UnsafeCheckpointError, match='MMLAB_INLINE_UNSAFE_CHECKPOINTS=1'):
            load_checkpoint(path)
    assert not marker.exists()
    monkeypatch.setenv('MMLAB_INLINE_UNSAFE_CHECKPOINTS', '1')
    with pytest.warns(UserWarning, match=f'it would run {os.system.__module__}.system'):
        loaded = load_checkpoint(path)
    assert loaded['weight'].tolist() == [1, 1]
    assert marker.exists()
