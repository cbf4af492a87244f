"""The module `mmcv._ext` itself: its names, what it needs, and who comes before it."""

import ast
import importlib.machinery
import re
import sys
from pathlib import Path

import mmcv.ops
import pytest
import torch
import torchvision

from .conftest import SOURCE

FOLDER = Path(mmcv.ops.__file__).parent
# All that mmcv.ops asks for when it is imported.
NAMES = sorted(
    {
        name
        for path in FOLDER.glob('*.py')
        for names in re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", path.read_text(), re.DOTALL)
        for name in re.findall(r"'(\w+)'", names)
    }
)
SERVED = {
    'get_compiler_version',
    'get_compiling_cuda_version',
    'nms',
    'softnms',
    *(
        f'{op}_{way}'
        for op in (
            'roi_align',
            'sigmoid_focal_loss',
            'softmax_focal_loss',
            'ms_deform_attn',
            'modulated_deform_conv',
        )
        for way in ('forward', 'backward')
    ),
    'deform_conv_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
}


def test_names_of_mmcv_are_found():
    assert len(NAMES) >= 100 and set(NAMES) > SERVED


@pytest.mark.parametrize('name', NAMES)
def test_every_op_of_mmcv_is_served_or_refuses(ext, name):
    op = getattr(ext, name)
    assert callable(op) and op.__name__ == name
    if name in SERVED:
        assert name in vars(ext)
        return
    assert name not in vars(ext)
    with pytest.raises(NotImplementedError) as error:
        op(torch.rand(1), key=1)
    message = str(error.value)
    assert message.startswith(f'{name} of mmcv.ops needs a compiled mmcv')
    assert '\n' not in message and 'docs/install.md' in message


@pytest.mark.parametrize('op', ['carafe_forward', 'roi_pool_forward'])
@pytest.mark.parametrize('installed', [('onedl-mmcv', '2.3.6'), ('mmcv-lite', '2.1.0')])
def test_command_is_that_of_a_tried_compile(ext, monkeypatch, op, installed):
    def version(name):
        if name == installed[0]:
            return installed[1]
        raise ext.PackageNotFoundError(name)

    monkeypatch.setattr(ext, 'version', version)
    with pytest.raises(NotImplementedError) as error:
        getattr(ext, op)()
    message = str(error.value)
    assert 'no such op' not in message  # torchvision has another roi_pool
    if installed[0] == 'onedl-mmcv':
        assert message.endswith(' --no-cache-dir onedl-mmcv==2.3.6')
    else:
        assert 'pip' not in message and message.endswith('docs/install.md of mmlab-inline')


def test_max_mode_of_roi_align_is_refused(served):
    with pytest.raises(NotImplementedError, match='max'):
        mmcv.ops.roi_align(torch.rand(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, 'max')


def test_other_attributes_are_absent(ext):
    assert not hasattr(ext, '__path__') and not hasattr(ext, '_anything')


def test_versions(ext):
    assert torchvision.__version__ in ext.get_compiler_version()
    assert ext.get_compiling_cuda_version() in (torch.version.cuda, 'not available')


@pytest.mark.parametrize(
    ('torch_cuda', 'torchvision_cuda', 'hip', 'said'),
    [
        ('13.0', 13000, None, '13.0'),
        ('13.0', None, None, 'not available'),
        (None, None, None, 'not available'),
        (None, None, '6.4.1', '6.4.1'),
    ],
)
def test_release_of_cuda(ext, monkeypatch, torch_cuda, torchvision_cuda, hip, said):
    """torchvision has the name `version.cuda` in its builds for CUDA only."""
    monkeypatch.setattr(torch.version, 'cuda', torch_cuda)
    monkeypatch.setattr(torch.version, 'hip', hip)
    monkeypatch.delattr(torchvision.version, 'cuda', raising=False)
    if torchvision_cuda:
        monkeypatch.setattr(torchvision.version, 'cuda', torchvision_cuda, raising=False)
    assert ext.get_compiling_cuda_version() == said


# Called by name, and no part of what torchvision documents.
SCHEMAS = {
    'nms': 'Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'roi_align': 'Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, '
    'SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor',
    '_roi_align_backward': 'Tensor grad, Tensor rois, float spatial_scale, SymInt pooled_height, '
    'SymInt pooled_width, SymInt batch_size, SymInt channels, SymInt height, SymInt width, '
    'int sampling_ratio, bool aligned) -> Tensor',
    'deform_conv2d': 'Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, '
    'SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, '
    'SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor',
    '_deform_conv2d_backward': 'Tensor grad, Tensor input, Tensor weight, Tensor offset, '
    'Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, '
    'SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) '
    '-> (Tensor, Tensor, Tensor, Tensor, Tensor)',
}


def test_every_torchvision_op_called_has_its_schema_here():
    called = set(re.findall(r'\b_ops\.(\w+)', SOURCE.read_text()))
    assert called == SCHEMAS.keys()


@pytest.mark.parametrize('name', SCHEMAS)
def test_schema(name):
    op = getattr(torch.ops.torchvision, name)
    assert str(op.default._schema) == f'torchvision::{name}({SCHEMAS[name]}'


def test_only_torch_and_torchvision_are_imported():
    """Any program that imports mmcv.ops imports this."""
    imported = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition('.')[0])
    assert imported - set(sys.stdlib_module_names) == {'torch', 'torchvision'}


def test_a_compiled_module_comes_first(tmp_path):
    for name in ('_ext.py', f'_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}'):
        (tmp_path / name).touch()
    spec = importlib.machinery.PathFinder.find_spec('_ext', [str(tmp_path)])
    assert isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)


@pytest.mark.parametrize(
    'source',
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "raise OSError('_C.so: undefined symbol')",
        "raise ModuleNotFoundError('No module named torchvision')",
    ],
)
def test_torchvision_that_does_not_fit_is_one_line(load_ext, monkeypatch, tmp_path, source):
    (tmp_path / 'torchvision.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'torchvision')
    with pytest.raises(ImportError) as error:
        load_ext()
    message = str(error.value)
    assert '\n' not in message and message.endswith('&& pip install torch torchvision')
