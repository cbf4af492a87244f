"""tools/dataset/new_config.py: from a folder to a run, without a file edited."""

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from mmlab_inline.datasets import write_dataset
from mmlab_inline.datasets.checks import check_split
from mmlab_inline.datasets.checks.settings import transforms
from mmlab_inline.engine import check_data, drop_pretrained, load_config
from mmlab_inline.engine.runner import CheckedRunner

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/dataset/new_config.py'
CLASSES = ('circle', 'cross', 'ring')
ARCH = """
arch=dict(
    _delete_=True, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4),
    mlp_ratios=(2, 2, 2, 2)), init_cfg=None"""
# Published configs with a backbone that takes no time.
NARROW = {
    'det': f"""
_base_ = 'mmlab_inline::detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py'
model = dict(
    backbone=dict({ARCH}),
    neck=dict(in_channels=[8, 16, 24, 32]),
    roi_head=dict(bbox_head=dict(fc_out_channels=64)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=50, max_per_img=50), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20)),
)
""",
    'seg': f"""
_base_ = (
    'mmlab_inline::segmentation/inline_pvt/'
    'sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py')
model = dict(backbone=dict({ARCH}), neck=dict(in_channels=[8, 16, 24, 32]))
""",
}
QUICK = ('--short-side', '96', '--epochs', '1')


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Drawn shapes without a split: as COCO, and as pictures with label maps."""
    monkeypatch.chdir(tmp_path)
    write_dataset('drawn', 8, 1, size=96, classes=CLASSES)
    coco, maps = Path('drawn/coco'), Path('drawn/ade/ADEChallengeData2016')
    roots = {'det': Path('pets'), 'seg': Path('streets')}
    roots['det'].mkdir()
    (coco / 'train2017').rename('pets/images')
    (coco / 'annotations/instances_train2017.json').rename('pets/result.json')
    roots['seg'].mkdir()
    (maps / 'images/training').rename('streets/images')
    (maps / 'annotations/training').rename('streets/masks')
    Path('streets/classes.txt').write_text('\n'.join(['ground', *CLASSES]))
    for task, text in NARROW.items():
        Path(f'{task}.py').write_text(text)
    return roots


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the tool; its exit status, output and last line of error."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['new_config.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name='__main__')
        printed = capsys.readouterr()
        return stop.value.code, printed.out, (printed.err.splitlines() or [''])[-1]

    return run


def no_workers(cfg):
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    return cfg


def files_of(root):
    return {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_config_trains_a_step(data, run, task):
    before = files_of(data[task])
    code, printed, _ = run(
        '--task', task, '--data', data[task], '--base', f'{task}.py', *QUICK, '--out', 'out'
    )
    assert code == 0
    assert files_of(data[task]) == before
    assert 'pictures: 6 train, 2 val' in printed
    assert 'python tools/train.py out/' in printed
    assert Image.open('out/contact_sheet.png').width > 1000
    cfg = no_workers(load_config(f'out/{data[task].name}_{task}.py'))
    check_data(cfg, 'train', 'val', 'test')
    if task == 'seg':  # for mmseg's own script
        pipelines = cfg.tta_pipeline, cfg.test_dataloader.dataset.pipeline
        scales = [next(transforms(pipeline, 'Resize'))['scale'] for pipeline in pipelines]
        assert scales[0] == scales[1]
    # One picture's shapes may all be hidden from its split; nothing else is worth a word.
    for split in ('train', 'val', 'test'):
        assert not [f for f in check_split(cfg, split)[0] if f.severity != 'note']
    cfg.work_dir, cfg.randomness, cfg.train_cfg.val_interval = 'run', dict(seed=0), 100
    if task == 'det':
        cfg.train_dataloader.dataset.indices = 2
    else:
        cfg.train_cfg.max_iters = 1
    runner = CheckedRunner.from_cfg(cfg)
    names, weights = zip(*runner.model.named_parameters(), strict=True)
    old = [weight.detach().clone() for weight in weights]
    runner.train()
    assert runner.iter == 1
    moved = [n for n, w, o in zip(names, weights, old, strict=True) if not torch.equal(w, o)]
    assert any(name.startswith('backbone.') for name in moved)
    assert any('head' in name for name in moved)


def test_programs_without_this_package_read_it(data, run, monkeypatch):
    """Such as mmdet's own scripts: mmengine knows the configs of mm's packages alone."""
    assert run('--task', 'det', '--data', data['det'])[0] == 0
    monkeypatch.delitem(MODULE2PACKAGE, 'mmlab_inline')
    cfg = Config.fromfile('work_dirs/own/pets_det/pets_det.py')
    assert cfg.model.backbone.type == 'mmlab_inline.InLinePVT'


def test_what_a_detection_config_says(data, run):
    arguments = '--task', 'det', '--data', data['det']
    code, _, _ = run(*arguments)
    assert code == 0
    text = Path('work_dirs/own/pets_det/pets_det.py').read_text()
    assert text.count('# ') >= 5
    assert 'inline-pvt-t_fpn_1x_coco' in text
    cfg = Config.fromfile('work_dirs/own/pets_det/pets_det.py')
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 3
    for split in ('train', 'val', 'test'):
        metainfo = cfg[f'{split}_dataloader'].dataset.metainfo
        assert metainfo.classes == CLASSES
        assert len(set(map(tuple, metainfo.palette))) == 3
    assert cfg.test_evaluator.ann_file == cfg.test_dataloader.dataset.ann_file
    assert cfg.auto_scale_lr.base_batch_size == 2
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(2e-4 * 8**-0.5, rel=0.01)
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (100, 10)
    assert cfg.train_cfg.type == 'mmlab_inline.ResumableEpochBasedTrainLoop'


def test_options_for_small_sets(data, run):
    torch.save({'state_dict': {}}, 'coco.pth')
    code, printed, _ = run(
        *('--task', 'det', '--data', data['det'], '--out', 'out', '--batch-size', '4'),
        *('--base', 'mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco'),
        *('--frozen-stages', '2', '--layer-decay', '0.8', '--load-from', 'coco.pth'),
    )
    assert code == 0
    assert '--new-classes' in printed
    cfg = load_config('out/pets_det.py')
    assert cfg.model.backbone.frozen_stages == 2
    assert cfg.optim_wrapper.constructor == 'mmlab_inline.LayerDecayConstructor'
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay == 0.8
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult == 0
    assert cfg.load_from == str(Path('coco.pth').absolute())
    assert cfg.model.rpn_head.anchor_generator.scales == [8]  # the checkpoint's
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 4


@pytest.mark.parametrize(
    ('base', 'most'),
    [
        ('mask-rcnn_inline-deit-t_fpn_ms-crop-1x_coco', 12),
        ('mask-rcnn_inline-pvt-t_fpn_1x_coco', 4),
    ],
)
def test_as_many_stages_are_frozen_as_the_base_has(base, most, data, run):
    arguments = '--task', 'det', '--data', data['det'], '--base', base, '--overwrite'
    assert run(*arguments, '--out', 'out', '--frozen-stages', most)[0] == 0
    assert load_config('out/pets_det.py').model.backbone.frozen_stages == most
    code, _, error = run(*arguments, '--out', 'other', '--frozen-stages', most + 1)
    assert code == 2
    expected = f'--frozen-stages {most + 1}: the backbone does not build: '
    assert f'{expected}frozen_stages={most + 1} must lie in -1..{most}' in error
    assert not Path('other/pets_det.py').exists()


def test_every_head_of_a_cascade(data, run):
    base = 'cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco'
    code, _, _ = run(
        '--task', 'det', '--data', data['det'], '--base', base, '--out', 'out', '--from-scratch'
    )
    assert code == 0
    cfg = load_config('out/pets_det.py')
    assert [head.num_classes for head in cfg.model.roi_head.bbox_head] == [3, 3, 3]
    published = load_config(str(ROOT / f'configs/detection/inline_swin/{base}.py'))
    for own, theirs in zip(
        cfg.model.roi_head.bbox_head, published.model.roi_head.bbox_head, strict=True
    ):
        assert own.bbox_coder.target_stds == theirs.bbox_coder.target_stds
    assert cfg.model.backbone.init_cfg is None
    cfg.model.backbone.update(
        arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4), mlp_ratios=2)
    )
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    init_default_scope('mmdet')
    with torch.device('meta'):
        assert MODELS.build(cfg.model).roi_head.bbox_head[2].fc_cls.out_features == 4


def test_boxes_alone_become_a_detector_of_boxes(data, run):
    path = data['det'] / 'result.json'
    content = json.loads(path.read_text())
    for item in content['annotations']:
        del item['segmentation']
    path.write_text(json.dumps(content))
    code, _, _ = run('--task', 'det', '--data', data['det'], '--out', 'out')
    assert code == 0
    cfg = load_config('out/pets_det.py')
    assert (cfg.model.type, cfg.model.bbox_head.num_classes) == ('RetinaNet', 3)
    drop_pretrained(cfg)
    init_default_scope('mmdet')
    sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    assert len(sample['data_samples'].gt_instances.bboxes)
    _, _, error = run(
        *('--task', 'det', '--data', data['det'], '--out', 'other'),
        *('--base', 'mask-rcnn_inline-pvt-t_fpn_1x_coco'),
    )
    assert 'learns masks, but not every object has one' in error


def test_an_existing_folder_is_not_overwritten(data, run):
    arguments = '--task', 'seg', '--data', data['seg'], '--out', 'out'
    assert run(*arguments)[0] == 0
    before = files_of(Path('out'))
    code, _, error = run(*arguments)
    assert code == 2
    assert 'out exists; give another --out, or --overwrite' in error
    assert files_of(Path('out')) == before
    assert run(*arguments, '--overwrite')[0] == 0
    assert files_of(Path('out')) == before


def test_commands_survive_the_shell(data, run):
    folder = data['det'].rename("my pets' (2), $HOME")
    code, printed, _ = run('--task', 'det', '--data', folder, '--from-scratch')
    assert code == 0
    commands = [shlex.split(line) for line in printed.splitlines() if 'python tools/' in line]
    assert len(commands) == 2
    for _, tool, config in commands:
        assert (ROOT / tool).is_file()
        assert load_config(config).classes == CLASSES


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_training_stops_early(data, run, task):
    arguments = '--task', task, '--data', data[task], '--base', f'{task}.py', '--patience', '2'
    assert run(*arguments, *QUICK, '--out', 'out')[0] == 0
    path = f'out/{data[task].name}_{task}.py'
    assert 'stops after 2 evaluations without a better' in Path(path).read_text()
    cfg = no_workers(load_config(path))
    cfg.work_dir = 'run'
    runner = CheckedRunner.from_cfg(cfg)
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
    for score in (0.2, 0.3, 0.3, 0.1):
        assert not runner.train_loop.stop_training
        hook.after_val_epoch(runner, {'mIoU' if task == 'seg' else 'coco/bbox_mAP': score})
    assert runner.train_loop.stop_training


def test_what_few_pictures_get(data, run):
    assert run('--task', 'det', '--data', data['det'], '--out', 'out')[0] == 0
    text = Path('out/pets_det.py').read_text()
    assert 'with 4 images it gives 0.00014, the root 0.0001.' in ' '.join(text.split()).replace(
        '# ', ''
    )
    cfg = load_config('out/pets_det.py')
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert {'PhotoMetricDistortion', 'RandomResize', 'RandomCrop', 'RandomFlip'} <= set(steps)
    assert 'Of fewer than 1000 pictures' in text
    init_default_scope('mmdet')
    drop_pretrained(cfg)
    sizes = {
        tuple(DATASETS.build(cfg.train_dataloader.dataset)[0]['inputs'].shape) for _ in range(4)
    }
    assert len(sizes) > 1


def test_the_source_is_to_be_corrected(data, run):
    path = data['det'] / 'result.json'
    content = json.loads(path.read_text())
    for item in content['annotations'][:2]:
        del item['segmentation']
        item['bbox'][2] = -0.1 / 3
    path.write_text(json.dumps(content))
    _, printed, _ = run('--task', 'det', '--data', data['det'], '--out', 'out')
    printed = ' '.join(printed.split())
    assert 'box [' in printed
    assert ', -0.0333333, ' in printed
    assert 'Correct it in pets and run this again with --overwrite.' in printed


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--task', 'det', '--data', 'absent'], '--data absent is no folder'),
        (['--task', 'det'], '--data'),
        (['--task', 'det', '--data', 'pets', '--val-share', '1'], 'between 0 and 1'),
        (['--task', 'det', '--data', 'pets', '--layer-decay', 'x'], 'between 0 and 1'),
        (['--task', 'det', '--data', 'pets', '--load-from', 'x.pth'], 'x.pth does not exist'),
        (['--task', 'det', '--data', 'pets', '--base', 'mask-rcn'], 'neither a file nor'),
        (['--task', 'seg', '--data', 'pets', '--base', 'det.py'], 'is not a config of --task seg'),
        (['--task', 'det', '--data', 'pets', '--classes', 'x'], '--classes has 1 name,'),
        (['--task', 'det', '--data', 'streets'], 'use --task seg'),
        (['--task', 'det', '--data', '.'], 'which stays as it is; give another --out'),
    ],
)
def test_wrong_usage(data, run, arguments, words):
    code, _, error = run(*arguments, '--out', 'out')
    assert code == 2
    assert error.startswith('error: ')
    assert words in error


@pytest.mark.long
def test_from_folder_to_predictions(data, tmp_path):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}

    def call(tool, *arguments):
        command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    arguments = '--task', 'det', '--data', 'pets', '--base', 'det.py', *QUICK
    call('dataset/new_config.py', *arguments)
    config = 'work_dirs/own/pets_det/pets_det.py'
    call('dataset/check.py', config)
    printed = call('train.py', config, '--seed', '0')
    checkpoint = printed.rsplit(maxsplit=1)[-1]
    call('test.py', config, checkpoint)
    assert 'coco/segm_mAP' in json.loads(Path('work_dirs/pets_det/metrics.json').read_text())
    call('infer.py', config, checkpoint, 'pets/images', '--score-thr', '0')
    assert len(list(Path('work_dirs/infer/pictures').iterdir())) == 8
    # The same pictures with two classes fewer, from that checkpoint.
    path = Path('pets/result.json')
    content = json.loads(path.read_text())
    kept = content['annotations'][0]['category_id']
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] == kept]
    path.write_text(json.dumps(content))
    call('dataset/new_config.py', *arguments, '--out', 'fewer', '--load-from', checkpoint)
    printed = call('train.py', 'fewer/pets_det.py', '--new-classes', '--work-dir', 'again')
    assert '3 classes instead of 1' in Path(next(Path('again').glob('2*/*.log'))).read_text()
