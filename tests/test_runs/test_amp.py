"""Mixed precision stays within networks, and says what it is."""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.structures import InstanceData
from torch import nn

from mmlab_inline.engine import build_model, drop_pretrained, load_config
from mmlab_inline.runs import amp, check_amp, confine_autocast, describe_amp, enable_amp, replaced
from mmlab_inline.utils import UserError

RETINANET = (
    Path(__file__).parents[2] / 'configs/detection/inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco.py'
)
NETWORKS = ('backbone', 'bbox_head', 'roi_head.mask_head')


def network():
    return nn.Sequential(nn.Linear(4, 4))


class DETRHead(nn.Sequential):
    """Named as mmdet's."""


class QueryHead(DETRHead):
    """A kind of it."""


class BaseRoIHead(nn.Module):
    """Named as mmdet's; called by its parts."""

    def __init__(self):
        super().__init__()
        self.bbox_roi_extractor = network()
        self.mask_head = network()


class Detector(BaseModel):
    """Its networks give float32, whatever they compute in."""

    def __init__(self):
        super().__init__()
        self.backbone = network()
        self.bbox_head = nn.ModuleList([network(), network()])
        self.query_head = QueryHead(nn.Linear(4, 4))
        self.roi_head = BaseRoIHead()
        self.reference_points = network()

    def forward(self, x):
        out = x
        in_roi_head = self.roi_head.bbox_roi_extractor, self.roi_head.mask_head
        outside = self.query_head, self.reference_points
        for part in (self.backbone, *self.bbox_head, *in_roi_head, *outside):
            out = part(out)
            assert out.dtype is torch.float32
        return out @ out.mT


def dtypes(model, *arguments):
    """Of the products within the parts of a model, by name."""
    seen = {}

    def watch(name):
        return lambda layer, x, out: seen.update({name: out.dtype})

    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    hooks = [layer.register_forward_hook(watch(name)) for name, layer in linears]
    assert model(*arguments).dtype is torch.float32
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(linears)
    return seen


def test_autocast_reaches_networks_alone():
    model = Detector()
    confine_autocast(model)
    x = torch.randn(2, 4)
    # A copy, as for a moving average of the weights, is a model of its own.
    for twin in (model, copy.deepcopy(model)):
        assert twin.forward.args[0].__self__ is twin
        with torch.autocast('cpu', torch.bfloat16):
            for name, dtype in dtypes(twin, x).items():
                assert (dtype is torch.bfloat16) == name.startswith(NETWORKS), name
            assert (x @ x.mT).dtype is torch.bfloat16  # on again behind it
        assert set(dtypes(twin, x).values()) == {torch.float32}


class Levels(nn.Module):
    """Notes the order of the maps that it is given, and gives maps in that order."""

    def forward(self, maps, roi_map):
        assert not is_channels_last(roi_map)
        self.seen = [is_channels_last(x) for x in maps]
        return [x.bfloat16() * 2 for x in maps]


class BaseDecodeHead(Levels):
    """Named as mmseg's."""


def is_channels_last(x):
    return x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('head', [Levels, BaseDecodeHead])
def test_order_of_maps(head):
    """On a CPU the networks of detectors get it as it convolves; who follows them does not."""

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.neck, self.bbox_head = Levels(), head()

        def forward(self, maps):
            return self.bbox_head(self.neck(maps, maps[0]), maps[0])

    model = Model()
    for _ in range(2):  # a second time changes nothing
        confine_autocast(model)
    maps = [torch.randn(2, 3, size, 5) for size in (6, 4)]
    for lower in (True, False):
        with torch.autocast('cpu', torch.bfloat16, enabled=lower):
            out = model(maps)
        reordered = lower and head is Levels
        assert model.neck.seen == model.bbox_head.seen == [reordered] * 2
        for x, y in zip(maps, out, strict=True):
            assert torch.equal(x.bfloat16() * 4, y) and y.is_contiguous()


class Norm(nn.LayerNorm):
    def forward(self, x, where='last'):
        assert where == 'last'
        return super().forward(x)


def test_gradients_of_norms_over_many_tokens(assert_near):
    class Classifier(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(8, 8), Norm(8), nn.Linear(8, 8))

        def forward(self, x):
            return self.backbone(x).square().mean()

    model = Classifier()
    confine_autocast(model)
    x = torch.randn(1, 16000, 8)
    norm = [*model.backbone[1].parameters()]
    expected = torch.autograd.grad(model(x), norm)
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(x)
    for found, grad in zip(torch.autograd.grad(loss, norm), expected, strict=True):
        assert_near(found, grad, 2e-2)
    with torch.autocast('cpu', torch.bfloat16):
        model.backbone[1](x=x)
        model.double()(x.double())
        with pytest.raises(AssertionError):
            model.backbone[1](x.bfloat16(), 'first')


class Teaching(BaseModel):
    """Calls the models in it past their own ``forward``."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = Detector(), Detector()

    def forward(self, x):
        return Detector.forward(self.student, x) + Detector.forward(self.teacher, x)


def test_models_in_a_model():
    model = Teaching()
    confine_autocast(model)
    with torch.autocast('cpu', torch.bfloat16):
        found = dtypes(model, torch.randn(2, 4))
    for name, dtype in found.items():
        inner = name.partition('.')[2]
        assert (dtype is torch.bfloat16) == inner.startswith(NETWORKS), name


def test_mmdets_semi_supervised_detectors(no_random_init):
    pytest.importorskip('mmdet')
    from mmdet.structures import DetDataSample

    cfg = load_config(str(RETINANET))
    drop_pretrained(cfg)
    detector = cfg.model
    channels = [8, 16, 24, 32]
    detector.backbone.arch = dict(
        embed_dims=channels, depths=[1] * 4, num_heads=[1] * 4, mlp_ratios=[1] * 4
    )
    detector.neck.in_channels = channels
    semi = dict(type='SemiBaseDetector', detector=detector, semi_train_cfg=dict(cls_pseudo_thr=0.0))
    model = build_model({**semi, 'data_preprocessor': detector.data_preprocessor}, 'mmdet')
    confine_autocast(model)
    seen = set()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            whose = name.partition('.')[0]
            layer.register_forward_hook(
                lambda layer, x, out, whose=whose: seen.add((whose, out.dtype))
            )
    sizes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (64, 64))
    sample = DetDataSample(metainfo={**sizes, 'homography_matrix': np.eye(3, dtype=np.float32)})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[9.0, 9.0, 50.0, 50.0]]), labels=torch.tensor([1])
    )
    branches = ('sup', 'unsup_teacher', 'unsup_student')
    images = {branch: torch.randn(1, 3, 64, 64) for branch in branches}
    samples = {branch: [copy.deepcopy(sample)] for branch in branches}
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(images, samples, mode='loss')
    assert seen == {('student', torch.bfloat16), ('teacher', torch.bfloat16)}
    total, _ = model.parse_losses(losses)
    assert total.dtype is torch.float32 and total.isfinite()


def test_mmdets_classes_have_these_names():
    models = pytest.importorskip('mmdet.models')
    for head in (models.DeformableDETRHead, models.DINOHead, models.DABDETRHead):
        assert 'DETRHead' in {base.__name__ for base in head.__mro__}
    for head in (models.StandardRoIHead, models.CascadeRoIHead):
        assert 'BaseRoIHead' in {base.__name__ for base in head.__mro__}


def test_what_was_replaced_before_comes_back():
    layer = nn.Linear(2, 2)
    with replaced({layer: lambda x: 'outer'}):
        with pytest.raises(KeyError), replaced({layer: lambda x: 'inner'}):
            assert layer(0) == 'inner'
            raise KeyError
        assert layer(0) == 'outer'
    assert 'forward' not in vars(layer)


@pytest.mark.parametrize(
    ('flags', 'fast'),
    [
        ('flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_tile amx_int8\n', False),
        ('flags\t\t: fpu sse2 avx2 avx512f avx512_bf16\n', True),
        ('flags\t\t: fpu sse2 amx_tile amx_bf16 arat\n', True),
        ('Features\t: fp asimd sve i8mm bf16 dgh\n', True),
        ('Features\t: fp asimd atomics sve svei8mm svebf16x\n', False),
        (None, True),  # another system
    ],
)
def test_a_processor_without_bfloat16_is_told(flags, fast, tmp_path, monkeypatch):
    path = tmp_path / 'cpuinfo'
    if flags:
        path.write_text(f'processor\t: 0\n{flags}bogomips\t: 50\n')
    monkeypatch.setattr(amp, '_CPU_INFO', path)
    line = describe_amp('cpu')
    assert 'bfloat16 autocast on the CPU' in line
    assert ('not faster' in line) != fast
    assert 'not faster' not in describe_amp('cuda:1')


def test_compiled_ops_are_refused_on_a_cpu(monkeypatch):
    ops = SimpleNamespace(__file__='/somewhere/mm cv/_ext.cpython-312.so')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', ops)
    with pytest.raises(UserError, match=r"--amp: .* rm '/somewhere/mm cv/_ext.*so'"):
        check_amp('cpu', 'mmdet')
    check_amp('cpu', 'mmseg')
    check_amp('cuda', 'mmdet')
    ops.__file__ = '/somewhere/mmcv/_ext.py'
    check_amp('cpu', 'mmdet')


@pytest.mark.parametrize('device', ['xpu', 'mps:0'])
def test_devices_that_autocast_is_not_confined_on(device, monkeypatch):
    refused = pytest.raises(UserError, match=f'^--amp: .* not for {device}; leave it out$')
    with refused:
        check_amp(device, 'mmseg')
    monkeypatch.setattr(amp, 'get_device', lambda: device)
    with refused:
        enable_amp(Config(dict(optim_wrapper={}, test_cfg={})), train=True)
    check_amp('cuda:1', 'mmseg')


@pytest.mark.parametrize('gpu', [False, True])
def test_settings_are_those_of_mmengine(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper'), test_cfg=dict(type='TestLoop')))
    assert ('GPU' in enable_amp(cfg, train=False)) == gpu
    assert cfg.test_cfg.fp16 and cfg.optim_wrapper.type == 'OptimWrapper'
    assert ('loss scaling' in enable_amp(cfg, train=True)) == gpu
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if gpu else 'CPUAmpOptimWrapper')


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({}, 'float16 autocast with dynamic loss scaling'),
        ({'dtype': 'bfloat16'}, 'bfloat16 autocast with dynamic loss scaling'),
        ({'dtype': None, 'loss_scale': 512.0}, 'float16 autocast with loss_scale=512.0'),
        ({'loss_scale': {'enabled': False}}, "float16 autocast with loss_scale={'enabled': False}"),
    ],
)
def test_precision_of_the_config(settings, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', **settings)))
    dtype, scaling = words.split(' autocast ')
    assert enable_amp(cfg, train=True) == (
        f'mixed precision: {dtype} autocast on the GPU {scaling}'
    )
    wrapper = cfg.optim_wrapper.to_dict()
    assert wrapper.pop('type') == 'AmpOptimWrapper'
    assert wrapper == {'loss_scale': 'dynamic', **settings}
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    used = AmpOptimWrapper(**wrapper, optimizer=optimizer).cast_dtype
    assert str(used or torch.float16).removeprefix('torch.') == dtype
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    enable_amp(cfg, train=True)
    OPTIM_WRAPPERS.build({**cfg.optim_wrapper, 'optimizer': optimizer})
