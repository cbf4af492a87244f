"""Real photographs through the real configs.

MMLAB_INLINE_SAMPLES names the folder with fruits_nuts, pothole60, coco33 and ade20k14, each
with its annotations; without it these tests are skipped.
"""

import json
import os
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from torch import nn

from mmlab_inline.datasets.checks import check_split
from mmlab_inline.datasets.checks.settings import transforms
from mmlab_inline.engine import build_model, drop_pretrained, load_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

SAMPLES = Path(os.environ.get('MMLAB_INLINE_SAMPLES', 'unset')).absolute()
pytestmark = pytest.mark.skipif(
    'MMLAB_INLINE_SAMPLES' not in os.environ,
    reason='MMLAB_INLINE_SAMPLES, the folder of sample photographs, is not set',
)

ROOT = Path(__file__).parents[1]
DETECTOR = ROOT / 'configs/detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py'
SEGMENTOR = ROOT / 'configs/segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py'
# Images, annotation file, classes.
DETECTION_SETS = {
    'fruits_nuts': ('images/', 'trainval.json', ('date', 'fig', 'hazelnut')),
    'pothole60': ('images/', 'instances.json', ('pothole',)),
    'coco33': ('train2017/', 'annotations/instances_train2017.json', None),
}


@pytest.mark.parametrize('name', DETECTION_SETS)
def test_detection_set_reaches_the_loss(name):
    folder, annotations, classes = DETECTION_SETS[name]
    cfg = load_config(str(DETECTOR))
    drop_pretrained(cfg)
    init_default_scope(cfg.default_scope)
    settings = cfg.train_dataloader.dataset
    settings.update(
        data_root=str(SAMPLES / name), ann_file=annotations, data_prefix=dict(img=folder)
    )
    if classes:
        settings.metainfo = dict(classes=classes)
        cfg.model.roi_head.bbox_head.num_classes = len(classes)
        cfg.model.roi_head.mask_head.num_classes = len(classes)
    for step in settings.pipeline:
        if step.type == 'Resize':
            step.scale = (160, 120)
    for proposals in (cfg.model.train_cfg.rpn_proposal, cfg.model.test_cfg.rpn):
        proposals.update(nms_pre=50, max_per_img=50)
    dataset = DATASETS.build(settings)
    content = json.loads((SAMPLES / name / annotations).read_text())
    with_objects = {item['image_id'] for item in content['annotations'] if not item.get('iscrowd')}
    assert len(dataset) == len(with_objects)
    sample = dataset[0]
    # Category ids may start at 0 or have gaps; labels never do.
    assert sample['data_samples'].gt_instances.labels.min() >= 0
    model = MODELS.build(cfg.model)
    batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    # The classic silent failure: class names that do not match give no positive boxes at all.
    assert losses['loss_mask'] > 0
    assert losses['loss_bbox'] > 0


def test_ade20k_labels_are_reduced():
    cfg = load_config(str(SEGMENTOR))
    init_default_scope(cfg.default_scope)
    settings = cfg.val_dataloader.dataset
    settings.update(
        data_root=str(SAMPLES / 'ade20k14'),
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
    )
    dataset = DATASETS.build(settings)
    assert len(dataset) == 14
    for index in range(3):
        raw = np.array(Image.open(dataset.get_data_info(index)['seg_map_path'])).astype(int)
        labels = dataset[index]['data_samples'].gt_sem_seg.data[0].numpy()
        assert np.array_equal(labels, np.where(raw == 0, 255, raw - 1))


@pytest.mark.parametrize(
    ('name', 'task', 'num_classes', 'scale'),
    [
        ('fruits_nuts', 'det', 3, (853, 512)),
        ('pothole60', 'det', 1, (853, 512)),
        ('coco33', 'det', 44, (1333, 800)),
        ('ade20k14', 'seg', 68, (2048, 512)),
    ],
)
def test_a_config_from_the_folder_alone(name, task, num_classes, scale, tmp_path, monkeypatch):
    arguments = '--task', task, '--data', str(SAMPLES / name), '--out', str(tmp_path / 'own')
    monkeypatch.setattr('sys.argv', ['new_config.py', *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools/dataset/new_config.py'), run_name='__main__')
    assert stop.value.code == 0
    cfg = load_config(str(tmp_path / f'own/{name}_{task}.py'))
    settings = [cfg[f'{split}_dataloader'].dataset for split in ('train', 'val')]
    resize = next(transforms(settings[1].pipeline, 'Resize'))
    assert resize['scale'] == scale
    init_default_scope(cfg.default_scope)
    datasets = [DATASETS.build(part) for part in settings]
    assert {len(dataset.metainfo['classes']) for dataset in datasets} == {num_classes}
    paths = [{data['img_path'] for data in dataset} for dataset in map(data_lists, datasets)]
    assert not paths[0] & paths[1]
    sample = datasets[0][0]['data_samples']
    labels = sample.gt_sem_seg.data if task == 'seg' else sample.gt_instances.labels
    assert 0 <= labels.min() < num_classes
    findings = [f for split in ('train', 'val') for f in check_split(cfg, split)[0]]
    assert not [finding for finding in findings if finding.severity == 'fatal']


@pytest.mark.long
def test_boxes_of_a_client_without_mm(tmp_path):
    """docs/export.md's client finds in photographs what tools/test.py finds."""
    pytest.importorskip('onnxruntime')
    client = re.search(
        r'```python\n(import json.*?)```', (ROOT / 'docs/export.md').read_text(), re.S
    )
    assert len(client[1].splitlines()) <= 22
    assert not re.search(r'\bmm|torch', client[1])
    (tmp_path / 'client.py').write_text(client[1])
    classes = ('date', 'fig', 'hazelnut')
    (tmp_path / 'own.py').write_text(f"""
_base_ = '{ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py'}'
resize = dict(type='Resize', scale=(320, 200), keep_ratio=True)
pack = dict(type='PackDetInputs', meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
test_dataloader = dict(dataset=dict(
    indices=3, data_root='{SAMPLES / 'fruits_nuts'}', ann_file='trainval.json',
    data_prefix=dict(img='images/'), metainfo=dict(classes={classes}),
    pipeline=[dict(type='LoadImageFromFile'), resize, dict(type='LoadAnnotations', with_bbox=True,
        with_mask=True), pack]))
test_evaluator = dict(ann_file='{SAMPLES / 'fruits_nuts/trainval.json'}')
""")
    torch.manual_seed(0)
    model = build_model(load_config(str(tmp_path / 'own.py')).model, 'mmdet')
    for name, weight in model.named_parameters():  # scores that differ, not to be ties
        if name in ('roi_head.bbox_head.fc_cls.weight', 'rpn_head.rpn_cls.weight'):
            nn.init.normal_(weight, std=0.1)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}

    def call(*command):
        command = [sys.executable, *map(str, command)]
        done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    call(ROOT / 'tools/export.py', 'own.py', 'model.pth', 'model.onnx', '--boxes')
    call(ROOT / 'tools/test.py', 'own.py', 'model.pth', '--out', 'found.pkl')
    with open(tmp_path / 'found.pkl', 'rb') as file:
        results = pickle.load(file)
    assert len(results) == 3
    for result in results:
        expected = result['pred_instances']
        lines = call('client.py', 'model.onnx', result['img_path']).splitlines()
        assert len(lines) == len(expected['scores']) > 5
        found = [(line.split()[5], np.array(line.split()[:5], float)) for line in lines]
        for score, box, label in zip(
            expected['scores'], expected['bboxes'], expected['labels'], strict=True
        ):
            wanted = np.array([score, *box], float)
            assert any(
                name == classes[label] and np.abs(numbers - wanted).max() < 0.02
                for name, numbers in found
            )


def data_lists(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


@pytest.mark.long
@pytest.mark.parametrize(
    ('name', 'task', 'metric'),
    [('fruits_nuts', 'det', 'coco/segm_mAP'), ('ade20k14', 'seg', 'mIoU')],
)
def test_from_folder_to_metric(name, task, metric, tmp_path):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}

    def call(tool, *arguments):
        command = [sys.executable, str(ROOT / 'tools' / tool), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    short = '--epochs', '1', '--short-side', '96', '--from-scratch'
    call('dataset/new_config.py', '--task', task, '--data', str(SAMPLES / name), *short)
    config = f'work_dirs/own/{name}_{task}/{name}_{task}.py'
    assert '0 fatal' in call('dataset/check.py', config)
    checkpoint = call('train.py', config).rsplit(maxsplit=1)[-1]
    call('test.py', config, checkpoint)
    assert metric in json.loads((tmp_path / f'work_dirs/{name}_{task}/metrics.json').read_text())


@pytest.mark.long
def test_train_and_test_on_photographs(tmp_path):
    config = tmp_path / 'fruits_nuts.py'
    folder, annotations, classes = DETECTION_SETS['fruits_nuts']
    config.write_text(f"""
_base_ = '{DETECTOR}'
classes = {classes!r}
head = dict(num_classes=3)
model = dict(
    backbone=dict(init_cfg=None),
    roi_head=dict(bbox_head=head, mask_head=head),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
)
size = dict(type='Resize', scale=(256, 192), keep_ratio=True)
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    size,
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
data = dict(data_root='{SAMPLES / 'fruits_nuts'}', ann_file='{annotations}',
    data_prefix=dict(img='{folder}'), metainfo=dict(classes=classes), pipeline=load)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(**data))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(**data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{SAMPLES / 'fruits_nuts' / annotations}')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False, begin=0, end=1)]
default_hooks = dict(logger=dict(interval=1))
""")
    tools = ROOT / 'tools'
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    train = [sys.executable, str(tools / 'train.py'), str(config), '--work-dir', 'run']
    subprocess.run(train, cwd=tmp_path, env=env, check=True, timeout=1200)
    (log,) = tmp_path.glob('run/2*/vis_data/scalars.json')
    records = map(json.loads, log.read_text().splitlines())
    losses = [record['loss'] for record in records if 'loss' in record]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    checkpoint = str(tmp_path / 'run/epoch_3.pth')
    test = [sys.executable, str(tools / 'test.py'), str(config), checkpoint, '--work-dir', 'run']
    subprocess.run(test, cwd=tmp_path, env=env, check=True, timeout=600)
    metrics = json.loads((tmp_path / 'run/metrics.json').read_text())
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)
