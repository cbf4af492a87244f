"""tools/export.py as a user calls it: its files run at sizes that are not the example's."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope

from mmlab_inline.engine import drop_pretrained, load_config
from mmlab_inline.export import build_export_module, compare_export
from mmlab_inline.export.program import ExportModule
from mmlab_inline.utils import UserError

DetDataSample = pytest.importorskip('mmdet.structures').DetDataSample
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
TOOL = str(ROOT / 'tools/export.py')
PVT = """
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1),
            num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2),
        ),
    ),
"""
SWIN = """
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 4), mlp_ratios=2
        ),
        attention=('inline', 'inline', ('inline', 'softmax'), 'softmax'),
    ),
"""
L2VIT = """
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=(8, 16, 24, 32),
            depths=(2, 1, 2, 1),
            num_heads=(1, 2, 4, 4),
            mlp_ratios=2,
        ),
    ),
"""
CSWIN = """
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=8, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), mlp_ratios=2
        ),
        attention=('inline', 'softmax', 'softmax', 'softmax'),
    ),
"""
DEIT = """
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=16, depths=2, num_heads=2, mlp_ratios=2),
    ),
"""
MODELS_AT_TINY_WIDTH = {
    'sem-fpn': (
        'segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py',
        f"""{PVT}
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=8),
    decode_head=dict(in_channels=[8] * 4, channels=8, num_classes=5),
""",
    ),
    'upernet': (
        'segmentation/inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py',
        f"""{SWIN}
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=8, num_classes=5),
    auxiliary_head=dict(in_channels=32, channels=8, num_classes=5),
""",
    ),
    'upernet-l2vit': (
        'segmentation/l2vit/upernet_l2vit-t_8xb2-160k_ade20k-512x512.py',
        f"""{L2VIT}
    decode_head=dict(in_channels=[8, 16, 24, 32], channels=8, num_classes=5),
    auxiliary_head=dict(in_channels=24, channels=8, num_classes=5),
""",
    ),
    'upernet-cswin': (
        'segmentation/inline_cswin/upernet_inline-cswin-t_8xb2-160k_ade20k-512x512.py',
        f"""{CSWIN}
    decode_head=dict(in_channels=[8, 16, 32, 64], channels=8, num_classes=5),
    auxiliary_head=dict(in_channels=32, channels=8, num_classes=5),
""",
    ),
    'upernet-deit': (
        'segmentation/inline_deit/upernet_inline-deit-t_8xb2-160k_ade20k-512x512.py',
        f"""{DEIT}
    decode_head=dict(in_channels=[4, 8, 16, 16], channels=8, num_classes=5),
    auxiliary_head=dict(in_channels=16, channels=8, num_classes=5),
""",
    ),
    'mask-rcnn': (
        'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py',
        f"""{PVT}
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=8),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8),
    ),
""",
    ),
    'retinanet': (
        'detection/inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco.py',
        f"""{PVT}
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=8),
    bbox_head=dict(in_channels=8, feat_channels=8),
""",
    ),
    'fcos': (
        'detection/inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco.py',
        f"""{PVT}
    type='FCOS',
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=8),
    bbox_head=dict(
        _delete_=True, type='FCOSHead', num_classes=5, in_channels=8, feat_channels=8,
        norm_cfg=None, strides=[8, 16, 32, 64, 128],
    ),
""",
    ),
    'cascade': (
        'detection/inline_swin/cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco.py',
        f"""{SWIN}
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=[
            dict(
                type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=8, num_classes=5,
                reg_class_agnostic=agnostic,
            )
            for agnostic in (True, False, True)
        ],
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8),
    ),
""",
    ),
}


@pytest.fixture
def written(tmp_path, randomised):
    """Writes a config at tiny width and a checkpoint of it; both paths, and the model."""

    def write(name):
        base, settings = MODELS_AT_TINY_WIDTH[name]
        config = tmp_path / f'{name}.py'
        config.write_text(f"_base_ = '{ROOT / 'configs' / base}'\nmodel = dict({settings})\n")
        cfg = load_config(str(config))
        drop_pretrained(cfg)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = revert_sync_batchnorm(randomised(MODELS.build(cfg.model))).eval()
        checkpoint = tmp_path / f'{name}.pth'
        content = dict(state_dict=model.state_dict())
        if name == 'mask-rcnn':
            content['meta'] = dict(dataset_meta=dict(classes=('nut', 'bolt')))
        torch.save(content, checkpoint)
        return config, checkpoint, model

    return write


@pytest.fixture
def export(monkeypatch, capsys):
    """Runs the tool; what it printed, or its error line if it must fail."""

    def run(*arguments, fails=False):
        monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, arguments)])
        if not fails:
            runpy.run_path(TOOL, run_name='__main__')
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(TOOL, run_name='__main__')
        assert stop.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith('error: ')
        return line

    return run


@pytest.fixture
def session():
    """Opens an ONNX file; a function of an image, and the file's metadata."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')

    def load(path):
        inference = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        (image,) = inference.get_inputs()
        assert image.shape == ['batch', 3, 'height', 'width']
        names = [out.name for out in inference.get_outputs()]

        def run(x):
            outs = inference.run(None, {'image': x.numpy()})
            return dict(zip(names, map(torch.from_numpy, outs), strict=True))

        meta = inference.get_modelmeta().custom_metadata_map
        assert json.loads(meta['outputs']) == names
        return run, meta

    return load


def preprocessed(model, image):
    """A batch of images as mm's own data preprocessor hands it to the network."""
    # It takes BGR, as images are read.
    return model.data_preprocessor(dict(inputs=list(image.flip(1))), False)['inputs']


IMAGES = [(1, 64, 96), (2, 233, 41)]


def draw(shape):
    batch, height, width = shape
    return 255 * torch.rand(batch, 3, height, width)


@torch.no_grad()
@pytest.mark.long
def test_sem_fpn_is_what_mmseg_predicts(written, export, session, tmp_path, assert_near):
    config, checkpoint, model = written('sem-fpn')
    printed = export(config, checkpoint, tmp_path / 'a/model.onnx', '--verify')
    assert printed.count('off by') == 3
    assert 'outputs  logits' in printed
    run, meta = session(tmp_path / 'a/model.onnx')
    for shape in IMAGES:
        image = draw(shape)
        inputs = preprocessed(model, image)
        metas = [dict(img_shape=shape[1:])] * shape[0]
        assert_near(run(image)['logits'], model.encode_decode(inputs, metas), 1e-4)
    assert meta['channel_order'] == 'RGB'
    assert json.loads(meta['mean']) == pytest.approx([123.675, 116.28, 103.53])
    assert json.loads(meta['normalised_inside']) is True
    classes = json.loads(meta['classes'])
    assert (len(classes), classes[0]) == (150, 'wall')  # the dataset's


@pytest.mark.long
@torch.no_grad()
def test_upernet_as_a_program(written, export, tmp_path):
    """Label maps by torch.export; images as small as one patch of the last stage."""
    config, checkpoint, model = written('upernet')
    out = tmp_path / 'model.pt2'
    assert 'off by' in export(config, checkpoint, out, '--label-map', '--verify')
    files = {'metadata.json': ''}
    program = torch.export.load(out, extra_files=files).module()
    assert json.loads(json.loads(files['metadata.json'])['outputs']) == ['labels']
    for shape in [*IMAGES, (1, 32, 32)]:
        image = draw(shape)
        logits = model.encode_decode(
            preprocessed(model, image), [dict(img_shape=shape[1:])] * shape[0]
        )
        (labels,) = program(image)
        assert labels.shape == shape
        assert (labels != logits.argmax(1)).float().mean() < 1e-3


@pytest.mark.long
@torch.no_grad()
def test_mask_rcnn_up_to_its_proposals(written, export, session, tmp_path, assert_near):
    config, checkpoint, model = written('mask-rcnn')
    export(config, checkpoint, tmp_path / 'model.onnx')
    run, meta = session(tmp_path / 'model.onnx')
    for shape in IMAGES:
        image = draw(shape)
        maps = model.extract_feat(preprocessed(model, image))
        classes, boxes = model.rpn_head(maps)
        expected = [*maps, *classes, *boxes]
        outputs = run(image)
        for (name, out), reference in zip(outputs.items(), expected, strict=True):
            assert_near(out, reference, 1e-4, name)
    assert list(outputs)[::5] == ['feat0', 'rpn_cls0', 'rpn_bbox0']
    assert json.loads(meta['padded_inside_to_multiple_of']) == 32
    assert json.loads(meta['classes']) == ['nut', 'bolt']  # the checkpoint's
    assert json.loads(meta['anchor_generator'])['strides'] == [4, 8, 16, 32, 64]


@pytest.mark.parametrize('name', ['mask-rcnn', 'retinanet', 'fcos', 'cascade'])
@torch.no_grad()
def test_boxes_are_those_that_mmdet_finds(name, written):
    shape = 203, 149
    _, _, model = written(name)
    for part, parameter in model.named_parameters():
        if part.rsplit('.', 2)[-2] in ('rpn_cls', 'fc_cls', 'retina_cls', 'conv_cls'):
            parameter.mul_(0.4)  # or scores would be 1 and their order chance
    module = ExportModule(model, boxes=True)
    image = F.interpolate(255 * torch.rand(1, 3, 20, 20), shape, mode='bilinear')
    sizes = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=sizes)
    data = model.data_preprocessor(dict(inputs=[image[0].flip(0)], data_samples=[sample]), False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        expected = model.predict(data['inputs'], data['data_samples'])[0].pred_instances
    found = module.named_outputs(image)
    assert len(found['scores']) == len(expected.scores) > 20
    for key in ('boxes', 'scores', 'labels'):
        value = expected['bboxes' if key == 'boxes' else key]
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ('part', 'method'),
    [
        ('rpn_head', '_predict_by_feat_single'),
        ('roi_head', '_bbox_forward'),
        ('roi_head.bbox_roi_extractor', 'forward'),
        ('roi_head.bbox_head', '_predict_by_feat_single'),
    ],
)
def test_heads_that_work_otherwise_are_refused(written, part, method):
    _, _, model = written('mask-rcnn')
    module = model.get_submodule(part)
    module.__class__ = type('OwnHead', (type(module),), {method: None})
    with pytest.raises(UserError, match='--boxes: OwnHead'):
        ExportModule(model, boxes=True)


def test_boxes_that_are_not_supported(written, export, tmp_path):
    config, checkpoint, _ = written('retinanet')
    call = config, checkpoint, tmp_path / 'model.onnx', '--boxes'
    soft = '--cfg-options', 'model.test_cfg.nms.type=soft_nms'
    assert 'soft_nms' in export(*call, *soft, fails=True)
    assert 'whole detectors' in export(*call, '--part', 'backbone', fails=True)


@pytest.mark.long
@torch.no_grad()
def test_retinanet_without_preprocessing(written, export, tmp_path, assert_near):
    config, checkpoint, model = written('retinanet')
    out = tmp_path / 'model.pt2'
    printed = export(config, checkpoint, out, '--no-preprocess')
    assert 'cls0, cls1, cls2, cls3, cls4, bbox0' in printed
    program = torch.export.load(out).module()
    for batch, height, width in IMAGES:
        image = torch.randn(batch, 3, height, width)
        classes, boxes = model.bbox_head(model.extract_feat(image))
        for actual, expected in zip(program(image), [*classes, *boxes], strict=True):
            assert_near(actual, expected, 1e-4)


@torch.no_grad()
@pytest.mark.long
@pytest.mark.parametrize('name', ['upernet', 'upernet-cswin', 'upernet-l2vit', 'upernet-deit'])
def test_backbone_alone(name, written, export, session, tmp_path, assert_near):
    """Shifted windows, also where the map is a single one; stripes; BatchNorm; DeiT's pyramid."""
    config, checkpoint, model = written(name)
    export(config, checkpoint, tmp_path / 'model.onnx', '--part', 'backbone')
    run, meta = session(tmp_path / 'model.onnx')
    assert meta['kind'] == 'backbone'
    for shape in [*IMAGES, (1, 32, 32), (1, 224, 520)]:
        image = draw(shape)
        expected = model.backbone(preprocessed(model, image))
        for (output, out), reference in zip(run(image).items(), expected, strict=True):
            assert_near(out, reference, 1e-4, output)


@pytest.fixture
def written_grey(written, randomised, tmp_path):
    """Config, checkpoint and model of a segmentor for images of one channel."""
    config, _, _ = written('sem-fpn')
    text = config.read_text().replace('backbone=dict(', 'backbone=dict(in_channels=1, ')
    text += "model['data_preprocessor'] = dict(mean=[128], std=[60], bgr_to_rgb=False)\n"
    config.write_text(text)
    cfg = load_config(str(config))
    drop_pretrained(cfg)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = revert_sync_batchnorm(randomised(MODELS.build(cfg.model))).eval()
    checkpoint = tmp_path / 'grey.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    return config, checkpoint, model


def test_images_of_one_channel(written_grey, assert_near):
    config, checkpoint, model = written_grey
    cfg = load_config(str(config))
    module, metadata = build_export_module(cfg, str(checkpoint), 'model', True, False)
    assert metadata['input'] == 'image: float32 (batch, 1, height, width)'
    assert metadata['channel_order'] == 'as loaded'
    image = 255 * torch.rand(1, 1, 96, 64)
    with torch.no_grad():
        expected = model.encode_decode((image - 128) / 60, [dict(img_shape=(96, 64))])
        assert_near(module(image)[0], expected, 1e-4)
    assert set(compare_export(module, module).values()) == {0.0}


@pytest.mark.long
def test_a_file_for_images_of_one_channel(written_grey, export, tmp_path):
    config, checkpoint, _ = written_grey
    printed = export(config, checkpoint, tmp_path / 'grey.pt2', '--verify')
    assert '(batch, 1, height, width), as loaded' in printed
    assert printed.count('off by') == 3


def test_a_model_that_does_not_run_is_one_line(written, export, tmp_path, monkeypatch):
    """Such as one whose backbone says nothing of its channels, and has others than three."""
    from mmlab_inline.export import program as engine

    config, checkpoint, _ = written('retinanet')
    monkeypatch.setattr(engine, 'image_channels', lambda model: 4)
    line = export(config, checkpoint, tmp_path / 'model.pt2', fails=True)
    assert 'the model does not run on an image of 4 channels' in line


def test_wrong_input_is_one_line(written, export, tmp_path, monkeypatch):
    config, checkpoint, _ = written('retinanet')
    out = tmp_path / 'model.pt2'
    assert 'absent.pth does not exist' in export(config, 'absent.pth', out, fails=True)
    assert 'must end in .onnx' in export(config, checkpoint, 'model.pb', fails=True)
    mismatch = export(config, checkpoint, out, '--format', 'onnx', fails=True)
    assert 'must end in .onnx' in mismatch
    assert 'segmentors' in export(config, checkpoint, out, '--label-map', fails=True)
    assert 'cannot be written' in export(config, checkpoint, '/proc/absent/a.pt2', fails=True)
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    missing = export(config, checkpoint, tmp_path / 'model.onnx', fails=True)
    assert "pip install 'mmlab-inline[export]'" in missing
    assert not (tmp_path / 'model.onnx').exists()


def test_unsupported_model(export, tmp_path):
    config = tmp_path / 'detr.py'
    config.write_text("_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'\n")
    cfg = load_config(str(config))
    drop_pretrained(cfg)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'detr.pth')
    line = export(config, tmp_path / 'detr.pth', tmp_path / 'detr.onnx', fails=True)
    assert 'DETR is not supported' in line
    assert '--part backbone' in line


@pytest.mark.long
def test_upernet_at_full_width(export, session, tmp_path):
    pytest.importorskip('onnxruntime')
    config = ROOT / 'configs' / MODELS_AT_TINY_WIDTH['upernet'][0]
    cfg = load_config(str(config))
    drop_pretrained(cfg)
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'model.pth')
    printed = export(config, tmp_path / 'model.pth', tmp_path / 'model.onnx', '--verify')
    assert printed.count('off by') == 3
