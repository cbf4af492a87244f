"""Starting from a checkpoint of a detector or segmentor with other classes."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmlab_inline.engine import load_config, prepare_load_from, use_safe_loading
from mmlab_inline.engine.load_from import class_shaped
from mmlab_inline.utils import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTION = CONFIGS / 'detection'
SEGMENTATION = CONFIGS / 'segmentation'
SHAPED = {
    DETECTION / 'inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py': {
        'roi_head.bbox_head.fc_cls.weight',
        'roi_head.bbox_head.fc_cls.bias',
        'roi_head.bbox_head.fc_reg.weight',
        'roi_head.bbox_head.fc_reg.bias',
        'roi_head.mask_head.conv_logits.weight',
        'roi_head.mask_head.conv_logits.bias',
    },
    DETECTION / 'inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco.py': {
        'bbox_head.retina_cls.weight',
        'bbox_head.retina_cls.bias',
    },
    DETECTION / 'inline_swin/cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco.py': {
        f'roi_head.{name}.{stage}.{part}.{kind}'
        for stage in range(3)
        for name, part in (
            ('bbox_head', 'fc_cls'),
            ('bbox_head', 'fc_reg'),
            ('mask_head', 'conv_logits'),
        )
        for kind in ('weight', 'bias')
    },
    SEGMENTATION / 'inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py': {
        'decode_head.conv_seg.weight',
        'decode_head.conv_seg.bias',
    },
    SEGMENTATION / 'inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py': {
        f'{head}_head.conv_seg.{kind}'
        for head in ('decode', 'auxiliary')
        for kind in ('weight', 'bias')
    },
}


def with_classes(node: object, number: int) -> object:
    """A model config for another number of classes."""
    if isinstance(node, dict):
        return ConfigDict(
            (key, number if key == 'num_classes' else with_classes(value, number))
            for key, value in node.items()
        )
    return [with_classes(child, number) for child in node] if isinstance(node, list) else node


@pytest.mark.parametrize('path', SHAPED, ids=lambda path: path.stem.split('_')[0])
def test_class_shaped_tensors_of_published_configs(path, no_random_init):
    library = 'mmdet' if path.is_relative_to(DETECTION) else 'mmseg'
    pytest.importorskip(library)
    init_default_scope(library)
    cfg = load_config(str(path)).model
    narrow = dict(embed_dims=(8, 16, 24, 32), mlp_ratios=(2, 2, 2, 2))
    if 'swin' in path.stem:
        narrow = dict(embed_dims=8, mlp_ratios=2)
    cfg.backbone.arch = dict(narrow, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4))
    cfg.backbone.pop('attention', None)
    with torch.device('meta'):
        own = MODELS.build(cfg).state_dict()
        for number in (1, 2, 81, 400):
            given = MODELS.build(with_classes(cfg, number)).state_dict()
            counts, names = class_shaped(cfg, own, given)
            assert set(names) == SHAPED[path], number
            assert counts == f'{number} classes instead of {150 if library == "mmseg" else 80}'


@MODELS.register_module()
class ToyClassifier(BaseModel):
    """Class tensors along the first and the second axis, and one that only looks like one."""

    def __init__(self, num_classes: int, width: int = 4, num_anchors: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(2, width)
        self.head = nn.Linear(width, num_classes + 1)
        self.point_head = nn.Conv1d(width + num_classes, 2, 1)
        self.anchors = nn.Linear(width, num_anchors)

    def forward(self, *inputs: Tensor, mode: str) -> dict[str, Tensor]:
        x = self.body(torch.stack(inputs))
        x = torch.cat([x, self.head(x)[:, 1:]], dim=1)
        anchors = self.anchors(x[:, : self.body.out_features])
        return {'loss': self.point_head(x[:, :, None]).mean() + anchors.mean()}


HEADS = ['head.weight', 'head.bias', 'point_head.weight']


@pytest.fixture(autouse=True)
def safe():
    use_safe_loading()


def build_runner(folder: Path, path: object, **settings: object) -> Runner:
    model = dict(type='ToyClassifier', num_classes=5)
    dataset = [torch.ones(2)] * 2
    loader = dict(dataset=dataset, sampler=dict(type='DefaultSampler'), batch_size=2)
    cfg = Config(dict(model=model, load_from=path and str(path), **settings))
    return Runner(
        model=dict(model),
        work_dir=str(folder / 'run'),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        custom_hooks=[dict(type='EMAHook')],
        load_from=cfg.load_from,
        resume=cfg.get('resume', False),
        experiment_name=folder.name,
        cfg=cfg,
    )


@pytest.fixture
def saved(tmp_path):
    def save(name: str = 'a.pth', key: str | None = 'state_dict', **settings: int) -> tuple:
        weights = ToyClassifier(**settings).state_dict()
        path = tmp_path / name
        torch.save({key: weights} if key else weights, path)
        return path, weights

    return save


@pytest.mark.parametrize('key', ['state_dict', 'model', None])
def test_same_classes_are_loaded_whole(key, saved, tmp_path):
    path, weights = saved(key=key, num_classes=5)
    runner = build_runner(tmp_path, path)
    prepare_load_from(runner)
    path.unlink()  # it is read once
    runner.train()
    own = runner.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())


@pytest.mark.parametrize('key', ['state_dict', 'model'])
@pytest.mark.parametrize('number', [1, 4, 6, 80])
def test_new_classes_start_afresh_and_the_rest_is_loaded(number, key, saved, tmp_path):
    path, weights = saved(key=key, num_classes=number)
    runner = build_runner(tmp_path, path)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    prepare_load_from(runner, new_classes=True)
    path.unlink()
    runner.train()
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert f'{number} classes instead of 5' in log
    averaged = runner.model.state_dict()
    ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook').ema_model.module
    for own in (averaged, ema.state_dict()):
        for name, value in own.items():
            if name in HEADS:
                assert name in log
                assert torch.equal(value, before[name]), name
            else:
                assert torch.equal(value, weights[name]), name


def test_same_number_of_classes_says_so(saved, tmp_path):
    path, weights = saved(num_classes=5)
    runner = build_runner(tmp_path, path)
    prepare_load_from(runner, new_classes=True)
    runner.train()
    assert torch.equal(runner.model.head.weight, weights['head.weight'])
    assert 'as many classes' in next((tmp_path / 'run').glob('*/*.log')).read_text()


def test_without_the_request_the_remedy_is_named(saved, tmp_path):
    path, _ = saved(num_classes=80)
    with pytest.raises(
        UserError, match=r'80 classes instead of 5; with --new-classes .* 3 tensors'
    ):
        prepare_load_from(build_runner(tmp_path, path))


@pytest.mark.parametrize('new_classes', [False, True])
@pytest.mark.parametrize(
    'settings',
    [
        dict(num_classes=5, width=6),
        dict(num_classes=5, num_anchors=9),
        dict(num_classes=7, num_anchors=5),  # two more of each: only the classes may
        dict(num_classes=80, width=6),
    ],
    ids=str,
)
def test_anything_else_that_does_not_fit_is_refused(settings, new_classes, saved, tmp_path):
    path, _ = saved(**settings)
    with pytest.raises(UserError, match='of another model') as info:
        prepare_load_from(build_runner(tmp_path, path), new_classes)
    assert 'new-classes' not in str(info.value)


@pytest.mark.parametrize('harm', ['missing', 'unknown'])
def test_missing_or_unknown_tensors_are_refused(harm, saved, tmp_path):
    path, weights = saved(num_classes=80)
    if harm == 'missing':
        del weights['body.weight']
    else:
        weights['body.gate'] = torch.ones(1)
    torch.save(dict(state_dict=weights), path)
    with pytest.raises(UserError, match=rf'1 .*{harm}.* \(such as body'):
        prepare_load_from(build_runner(tmp_path, path), new_classes=True)


def test_unreadable_checkpoints(tmp_path):
    path = tmp_path / 'a.pth'
    with pytest.raises(UserError, match=r'a\.pth'):
        prepare_load_from(build_runner(tmp_path, path))
    path.write_bytes(b'<html>')
    with pytest.raises(UserError, match=r'a\.pth is no checkpoint'):
        prepare_load_from(build_runner(tmp_path, path))


def test_new_classes_need_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match='--load-from'):
        prepare_load_from(build_runner(tmp_path, None), new_classes=True)
    prepare_load_from(build_runner(tmp_path, None))


def test_a_resumed_run_is_left_alone(tmp_path):
    prepare_load_from(build_runner(tmp_path, tmp_path / 'absent.pth', resume=True), True)
