"""Every config says what the recipes say, builds at full size, trains a step and predicts."""

import ast
import copy
import functools
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmlab_inline.backbones import inline_cswin, inline_deit, inline_pvt, inline_swin, l2vit
from mmlab_inline.engine import drop_pretrained, load_config
from mmlab_inline.engine.config import pretrained_settings
from mmlab_inline.layers import Block
from mmlab_inline.mixers import CSWIN_ATTENTIONS, TOKEN_MIXERS, as_options, resolve_attention
from mmlab_inline.weights.released import RELEASED_WEIGHTS, model_of

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parents[1] / 'configs'
DEMO = sorted(
    str(path.relative_to(CONFIGS))
    for folder in ('demo', 'comparison')
    for path in (CONFIGS / folder).glob('*.py')
)

# Of each macro-architecture: the folder of its own configs, that of their softmax twins, the class,
# and the module with its archs.
FAMILIES = {
    'pvt': ('inline_pvt', 'pvt', 'InLinePVT', inline_pvt),
    'swin': ('inline_swin', 'swin', 'InLineSwin', inline_swin),
    'cswin': ('inline_cswin', 'cswin', 'InLineCSwin', inline_cswin),
    'l2vit': ('l2vit', None, 'L2ViT', l2vit),
    'deit': ('inline_deit', 'deit', 'InLineDeiT', inline_deit),
}
# Method, macro-architecture, schedule, archs; drop path rates of its own rows and of their
# softmax twins.
TABLE = [
    ('mask-rcnn', 'pvt', '1x', 'tsml', (0.1, 0.2, 0.1, 0.2), (0.1, 0.1, 0.0, 0.0)),
    ('retinanet', 'pvt', '1x', 'tsml', (0.1, 0.1, 0.2, 0.3), ()),
    ('mask-rcnn', 'swin', '1x', 'ts', (0.1, 0.1), (0.1, 0.1)),
    ('mask-rcnn', 'swin', '3x', 'ts', (0.1, 0.1), (0.1, 0.1)),
    ('cascade-mask-rcnn', 'swin', '1x', 't', (0.1,), (0.1,)),
    ('cascade-mask-rcnn', 'swin', '3x', 'tsb', (0.1, 0.1, 0.4), (0.1, 0.1, 0.1)),
    ('sem-fpn', 'pvt', '40k', 'tsml', (0.1, 0.1, 0.2, 0.1), (0.1, 0.1, 0.1, 0.1)),
    ('upernet', 'swin', '160k', 'tsb', (0.3, 0.3, 0.5), (0.3, 0.3, 0.3)),
    ('mask-rcnn', 'l2vit', '1x', 'tsb', (0.1, 0.1, 0.2), ()),
    ('mask-rcnn', 'l2vit', '3x', 'tsb', (0.2, 0.2, 0.3), ()),
    ('retinanet', 'l2vit', '1x', 'tsb', (0.1, 0.1, 0.2), ()),
    ('upernet', 'l2vit', '160k', 'tsb', (0.3, 0.3, 0.3), ()),
    ('mask-rcnn', 'cswin', '1x', 'tsb', (0.1, 0.1, 0.4), (0.1, 0.1, 0.4)),
    ('cascade-mask-rcnn', 'cswin', '3x', 'tsb', (0.1, 0.1, 0.4), (0.1, 0.1, 0.4)),
    ('upernet', 'cswin', '160k', 'tsb', (0.3, 0.4, 0.6), (0.3, 0.4, 0.6)),
    ('mask-rcnn', 'deit', '1x', 'tsb', (0.1, 0.1, 0.1), (0.1, 0.1, 0.1)),
    ('upernet', 'deit', '160k', 'tsb', (0.1, 0.1, 0.1), (0.1, 0.1, 0.1)),
]
# The rows that other linear attentions have published, with the recipe of InLine's row beside them.
PUBLISHED = [
    ('flatten', 'mask-rcnn', 'pvt', '1x', 't'),
    ('flatten', 'sem-fpn', 'pvt', '40k', 't'),
    ('flatten', 'mask-rcnn', 'swin', '1x', 't'),
    ('flatten', 'mask-rcnn', 'swin', '3x', 't'),
    ('flatten', 'cascade-mask-rcnn', 'swin', '3x', 'ts'),
    ('flatten', 'upernet', 'swin', '160k', 'ts'),
    ('agent', 'mask-rcnn', 'pvt', '1x', 'tsml'),
    ('agent', 'retinanet', 'pvt', '1x', 'tsml'),
    ('agent', 'sem-fpn', 'pvt', '40k', 'tsml'),
    ('agent', 'mask-rcnn', 'swin', '1x', 'ts'),
    ('agent', 'mask-rcnn', 'swin', '3x', 'ts'),
    ('agent', 'cascade-mask-rcnn', 'swin', '3x', 'tsb'),
    ('agent', 'upernet', 'swin', '160k', 'tsb'),
]
FILES = {
    '1x': 'detection/{folder}/{method}_{name}_fpn_{crop}{schedule}_coco.py',
    '3x': 'detection/{folder}/{method}_{name}_fpn_{crop}{schedule}_coco.py',
    '40k': 'segmentation/{folder}/{method}_{name}_8xb2-{schedule}_ade20k-512x512.py',
    '160k': 'segmentation/{folder}/{method}_{name}_8xb2-{schedule}_ade20k-512x512.py',
}
ARCHS = {'t': 'tiny', 's': 'small', 'm': 'medium', 'l': 'large', 'b': 'base'}
# What begins the names of a class's archs that are of its twin.
TWIN_ARCHS = {'deit': 'vit-', 'cswin': 'cswin-'}
# Rate, weight decay, and whether norms and position biases go without decay.
OPTIMIZERS = {
    ('mask-rcnn', 'pvt'): (2e-4, 1e-4, False),
    ('retinanet', 'pvt'): (1e-4, 1e-4, False),
    ('mask-rcnn', 'swin'): (1e-4, 0.05, True),
    ('cascade-mask-rcnn', 'swin'): (1e-4, 0.05, True),
    ('sem-fpn', 'pvt'): (2e-4, 1e-4, False),
    ('upernet', 'swin'): (6e-5, 0.01, True),
    ('mask-rcnn', 'l2vit'): (1e-4, 0.05, False),
    ('retinanet', 'l2vit'): (1e-4, 0.05, False),
    ('upernet', 'l2vit'): (6e-5, 0.01, False),
    ('mask-rcnn', 'cswin'): (1e-4, 0.05, True),
    ('cascade-mask-rcnn', 'cswin'): (1e-4, 0.05, True),
    ('upernet', 'cswin'): (6e-5, 0.01, True),
    ('mask-rcnn', 'deit'): (1e-4, 0.05, True),
    ('upernet', 'deit'): (6e-5, 0.01, True),
}
# By what rates fall from block to block towards the image.
LAYER_DECAY = {('mask-rcnn', 'deit'): 0.8}
# Million parameters, auxiliary heads included; the softmax twins' are the published ones.
SIZES = {
    ('mask-rcnn', 'inline_pvt'): {'t': 31.7, 's': 41.2, 'm': 57.3, 'l': 70.8},
    ('mask-rcnn', 'inline_swin'): {'t': 48.7, 's': 69.3},
    ('sem-fpn', 'inline_pvt'): {'t': 15.8, 's': 25.3, 'm': 41.4, 'l': 54.9},
    ('upernet', 'inline_swin'): {'t': 60.9, 's': 81.5, 'b': 121.9},
    ('mask-rcnn', 'swin'): {'t': 48, 's': 69},
    ('cascade-mask-rcnn', 'swin'): {'t': 86, 's': 107, 'b': 145},
    ('sem-fpn', 'pvt'): {'t': 17, 's': 28, 'm': 48, 'l': 65},
    ('upernet', 'swin'): {'t': 60, 's': 81, 'b': 121},
    ('mask-rcnn', 'l2vit'): {'t': 48.1, 's': 69.7, 'b': 108.0},
    ('upernet', 'l2vit'): {'t': 60.3, 's': 81.9, 'b': 122.1},
    ('mask-rcnn', 'inline_cswin'): {'t': 40.2, 's': 52.7, 'b': 92.9},
    ('upernet', 'inline_cswin'): {'t': 50.4, 's': 62.8, 'b': 105.1},
    ('mask-rcnn', 'inline_deit'): {'t': 26.5, 's': 37.0, 'b': 44.3},
}


class Recipe(NamedTuple):
    """What the tables say of one config."""

    method: str
    macro: str
    schedule: str
    arch: str
    family: str
    drop_path: float

    @property
    def folder(self) -> str:
        own, twin, *_ = FAMILIES[self.macro]
        alone = {'own': own, 'softmax': twin}
        return alone.get(self.family, f'{self.family}_{self.macro}')

    @property
    def weights(self) -> str:
        return f'{self.folder}_{ARCHS[self.arch]}'

    @property
    def arch_name(self) -> str:
        """Plain ViT's widths and heads, and CSwin's depths, have archs of their own."""
        return TWIN_ARCHS.get(self.folder, '') + ARCHS[self.arch]

    @property
    def path(self) -> str:
        return FILES[self.schedule].format(
            folder=self.folder,
            method=self.method,
            name=f'{self.folder.replace("_", "-")}-{self.arch}',
            crop='' if self.macro == 'pvt' else 'ms-crop-',
            schedule=self.schedule,
        )

    @property
    def detects(self) -> bool:
        return self.schedule in ('1x', '3x')


RECIPES = [
    Recipe(method, macro, schedule, arch, family, rate)
    for method, macro, schedule, archs, *rates in TABLE
    for family, rates_of_kind in zip(('own', 'softmax'), rates, strict=True)
    for arch, rate in zip(archs, rates_of_kind, strict=False)
]
RECIPES += [
    recipe._replace(family=family)
    for family, *row, archs in PUBLISHED
    for recipe in RECIPES
    if recipe.family == 'own' and list(recipe[:3]) == row and recipe.arch in archs
]
TWINS = [recipe for recipe in RECIPES if recipe.family != 'own']
LARGER = [recipe for recipe in TWINS if recipe.family != 'softmax' and recipe.arch != 't']
DETECTORS = [recipe for recipe in RECIPES if recipe.detects]
SEGMENTORS = [recipe for recipe in RECIPES if not recipe.detects]
# One of each family, at full size.
SHORT = {
    (recipe.method, recipe.macro): recipe.path
    for recipe in RECIPES
    if recipe.family == 'own' and recipe.arch == 't'
}.values()


def each(recipes: list[Recipe]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('recipe', recipes, ids=[recipe.path for recipe in recipes])


@pytest.fixture(autouse=True)
def networks_are_freed(request):
    """Those of full size lie in cycles, which Python alone lets grow to 20 GB."""
    yield
    if request.node.get_closest_marker('long'):
        gc.collect()


@functools.cache
def parsed(path: str) -> Config:
    """For reading only."""
    return load_config(str(CONFIGS / path))


def build(path: str) -> tuple[Config, nn.Module]:
    cfg = copy.deepcopy(parsed(path))
    drop_pretrained(cfg)
    return cfg, build_model(cfg)


def build_model(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    # One process has no SyncBN; the runner reverts it likewise.
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def plain(node: object) -> object:
    """Without the scope that bases of another library bring along."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items() if key != '_scope_'}
    return [plain(value) for value in node] if isinstance(node, list) else node


@pytest.fixture
def no_random_init(no_random_init, monkeypatch):
    """Of heads and necks too: memory stays untouched, so that even the largest build at once."""
    for name in ('kaiming_normal_', 'kaiming_uniform_', 'normal_', 'trunc_normal_', 'uniform_'):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


def test_configs_are_those_of_the_table():
    published = {
        str(path.relative_to(CONFIGS))
        for task in ('detection', 'segmentation')
        for path in (CONFIGS / task).glob('[!_]*/*.py')
    }
    paths = [recipe.path for recipe in RECIPES]
    assert len(set(paths)) == len(paths)
    assert set(paths) == published


def bases(path: Path) -> list[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            value = ast.literal_eval(node.value)
            return [value] if isinstance(value, str) else value
    return []


def published_bases(path: Path) -> list[Path]:
    """The configs that a config changes; building blocks and the libraries' files left out."""
    return [
        (path.parent / base).resolve()
        for base in bases(path)
        if '::' not in base and '/_base_/' not in base
    ]


def depth(path: Path) -> int:
    return 1 + max(map(depth, published_bases(path)), default=0)


def test_inheritance_is_shallow():
    paths = [CONFIGS / recipe.path for recipe in RECIPES]
    assert max(map(depth, paths)) <= 3
    full = [recipe for recipe, path in zip(RECIPES, paths, strict=True) if depth(path) == 1]
    families = [(recipe.method, recipe.macro) for recipe in full]
    assert sorted(families) == sorted(OPTIMIZERS)
    assert all(recipe.family == 'own' for recipe in full)
    for block in CONFIGS.glob('*/_base_/*.py'):
        assert all(base.startswith('mmdet::') for base in bases(block)), block


@each(RECIPES)
def test_backbone(recipe):
    cfg = parsed(recipe.path)
    backbone = cfg.model.backbone
    _, _, name, _ = FAMILIES[recipe.macro]
    assert backbone.type == f'mmlab_inline.{name}'
    assert backbone.arch == recipe.arch_name
    assert backbone.drop_path_rate == recipe.drop_path
    ((_, weights),) = pretrained_settings(cfg)
    assert weights == dict(type='Pretrained', checkpoint=f'pretrained/{recipe.weights}.pth')
    assert recipe.weights in RELEASED_WEIGHTS


# Of the detectors and segmentors of Agent's authors, who store smaller ones.
AGENT_GRIDS = {
    'pvt': [(12, 12), (16, 16), (28, 28), (28, 28)],
    'swin': [(9, 9), (12, 12), (14, 14), (7, 7)],
}


@each(RECIPES)
def test_attention_is_that_of_the_weights(recipe):
    attention = parsed(recipe.path).model.backbone.get('attention')
    cls, settings = model_of(recipe.weights)
    assert cls == FAMILIES[recipe.macro][2]
    assert settings.pop('arch') == recipe.arch_name
    if recipe.family == 'own' or recipe.folder in TWIN_ARCHS:
        assert attention is None
        assert not settings
        return
    zoo = FAMILIES[recipe.macro][3].ARCH_ZOO
    depths = zoo[ARCHS[recipe.arch]]['depths']
    stages = resolve_attention(attention, depths)
    names = [tuple(as_options(choice)['type'] for choice in stage) for stage in stages]
    assert names == resolve_attention(settings['attention'], depths)
    for stage, grid in zip(stages, AGENT_GRIDS[recipe.macro], strict=True):
        for options in map(as_options, stage):
            expected = dict(agent_grid=grid) if options.pop('type') == 'agent' else {}
            assert options == expected


def test_every_released_checkpoint_is_used():
    assert {recipe.weights for recipe in RECIPES} == set(RELEASED_WEIGHTS)


@each(RECIPES)
def test_optimizer(recipe):
    cfg = parsed(recipe.path)
    rate, decay, exempt = OPTIMIZERS[recipe.method, recipe.macro]
    expected = dict(type='AdamW', lr=rate, weight_decay=decay)
    wrapper = dict(type='OptimWrapper', optimizer=expected)
    if recipe.macro != 'pvt':
        expected['betas'] = (0.9, 0.999)
    if exempt:
        wrapper['constructor'] = 'mmlab_inline.BackboneConstructor'
        wrapper['paramwise_cfg'] = dict(
            declared_no_decay=True, custom_keys={'norm': dict(decay_mult=0.0)}
        )
    if (recipe.method, recipe.macro) in LAYER_DECAY:
        wrapper['paramwise_cfg']['layer_decay'] = LAYER_DECAY[recipe.method, recipe.macro]
    # Nothing else either: no clipping, no mixed precision.
    assert cfg.optim_wrapper == wrapper
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)


@each(DETECTORS)
def test_detection_schedule(recipe):
    cfg = plain(parsed(recipe.path).to_dict())
    epochs, milestones = {'1x': (12, [8, 11]), '3x': (36, [27, 33])}[recipe.schedule]
    loop = 'mmlab_inline.ResumableEpochBasedTrainLoop'
    assert cfg['train_cfg'] == dict(type=loop, max_epochs=epochs, val_interval=1)
    warm_up, steps = cfg['param_scheduler']
    assert warm_up == dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500)
    assert steps == dict(
        type='MultiStepLR', begin=0, end=epochs, by_epoch=True, milestones=milestones, gamma=0.1
    )


@each(SEGMENTORS)
def test_segmentation_schedule(recipe):
    cfg = parsed(recipe.path)
    iterations = {'40k': 40000, '160k': 160000}[recipe.schedule]
    assert cfg.train_cfg.type == 'mmlab_inline.ResumableIterBasedTrainLoop'
    assert cfg.train_cfg.max_iters == iterations
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval == iterations // 10
    *warm_up, decay = cfg.param_scheduler
    begin, power = (0, 0.9) if recipe.method == 'sem-fpn' else (1500, 1.0)
    assert decay == dict(
        type='PolyLR', eta_min=0.0, power=power, begin=begin, end=iterations, by_epoch=False
    )
    if begin:
        linear = dict(type='LinearLR', start_factor=1e-6, begin=0, end=begin, by_epoch=False)
        assert warm_up == [linear]
    else:
        assert warm_up == []


@each(RECIPES)
def test_data(recipe):
    cfg = parsed(recipe.path)
    assert cfg.train_dataloader.batch_size * 8 == 16
    # Means run over the whole batch's padding: no result may depend on its neighbours.
    assert cfg.val_dataloader.batch_size == cfg.test_dataloader.batch_size == 1
    root = 'data/coco/' if recipe.detects else 'data/ade/ADEChallengeData2016'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == root
    assert 'flip' not in str(cfg.test_dataloader).lower()
    best = {'retinanet': 'coco/bbox_mAP'}.get(recipe.method, 'coco/segm_mAP')
    assert cfg.default_hooks.checkpoint.save_best == (best if recipe.detects else 'mIoU')
    images = cfg.model.data_preprocessor
    assert images.mean == [123.675, 116.28, 103.53]
    assert images.std == [58.395, 57.12, 57.375]
    assert images.bgr_to_rgb
    if recipe.detects:
        assert images.pad_size_divisor == 32
    else:
        assert images.size == (512, 512)


def transforms(pipeline: list[dict]) -> list[dict]:
    """The transforms between loading and packing."""
    inner = plain(pipeline)
    assert inner[0]['type'] == 'LoadImageFromFile'
    assert inner[-1]['type'].startswith('Pack')
    return [step for step in inner if not step['type'].startswith(('Load', 'Pack'))]


@each(DETECTORS)
def test_detection_augmentation(recipe):
    cfg = parsed(recipe.path)
    whole = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    flip = dict(type='RandomFlip', prob=0.5)
    expected = [whole, flip]
    if recipe.macro != 'pvt':
        sides = range(480, 801, 32)
        resize = dict(
            type='RandomChoiceResize', scales=[(side, 1333) for side in sides], keep_ratio=True
        )
        first = {**resize, 'scales': [(400, 1333), (500, 1333), (600, 1333)]}
        crop = dict(
            type='RandomCrop',
            crop_type='absolute_range',
            crop_size=(384, 600),
            allow_negative_crop=True,
        )
        expected = [flip, dict(type='RandomChoice', transforms=[[resize], [first, crop, resize]])]
    assert transforms(cfg.train_dataloader.dataset.pipeline) == expected
    assert transforms(cfg.test_dataloader.dataset.pipeline) == [whole]
    metrics = 'bbox' if recipe.method == 'retinanet' else ['bbox', 'segm']
    assert cfg.test_evaluator.metric == metrics


@each(SEGMENTORS)
def test_segmentation_augmentation(recipe):
    cfg = parsed(recipe.path)
    scale = dict(scale=(2048, 512), keep_ratio=True)
    assert transforms(cfg.train_dataloader.dataset.pipeline) == [
        dict(type='RandomResize', ratio_range=(0.5, 2.0), **scale),
        dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
    ]
    assert transforms(cfg.test_dataloader.dataset.pipeline) == [dict(type='Resize', **scale)]
    assert cfg.model.test_cfg.mode == 'whole'
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        (labels,) = (t for t in loader.dataset.pipeline if t.type == 'LoadAnnotations')
        assert labels.reduce_zero_label


@pytest.mark.parametrize('path', [*(recipe.path for recipe in RECIPES), *DEMO])
def test_runs_survive(path):
    hooks = plain(parsed(path).default_hooks.to_dict())
    assert hooks['checkpoint']['type'] == 'mmlab_inline.AtomicCheckpointHook'
    assert hooks['termination'] == dict(type='mmlab_inline.TerminationHook')
    stop = dict(type='mmlab_inline.NonFiniteLossHook', on_non_finite='stop')
    assert hooks['non_finite_loss'] == stop


@each([recipe for recipe in RECIPES if recipe.macro == 'l2vit'])
def test_one_batch_norm_evaluates(recipe):
    """Each GPU has its own statistics, one of which the checkpoint holds."""
    assert parsed(recipe.path).custom_hooks == [dict(type='mmlab_inline.BroadcastStatisticsHook')]


@pytest.mark.parametrize('path', [*(recipe.path for recipe in RECIPES), *DEMO])
def test_runs_can_be_seen(path):
    cfg = parsed(path)
    hooks = plain(cfg.default_hooks.to_dict())
    assert hooks['curves'] == dict(type='mmlab_inline.CurvesHook')
    assert hooks['report'] == dict(type='mmlab_inline.ReportHook')
    assert not hooks['logger']['log_metric_by_epoch']
    backends = [backend.type for backend in cfg.visualizer.vis_backends]
    assert backends == ['LocalVisBackend', 'mmlab_inline.TensorBoardScalars']


@each(RECIPES)
def test_heads(recipe):
    model = parsed(recipe.path).model
    if recipe.method == 'cascade-mask-rcnn':
        for head in model.roi_head.bbox_head:
            assert (head.num_shared_convs, head.num_shared_fcs) == (4, 1)
            assert head.fc_out_channels == 1024
            assert head.norm_cfg.type == 'SyncBN'
            assert head.reg_decoded_bbox
            assert not head.reg_class_agnostic
            assert head.loss_bbox == dict(type='GIoULoss', loss_weight=10.0)
    if recipe.method == 'retinanet':
        strides = [4 * 2**index for index in model.backbone.get('out_indices', range(4))]
        assert strides[model.neck.start_level] == 8
        assert model.neck.add_extra_convs == 'on_input'
    if recipe.method == 'sem-fpn':
        assert model.neck.out_channels == 256
        assert model.decode_head.channels == 128
    if recipe.method == 'upernet':
        assert model.decode_head.channels == 512
        assert model.auxiliary_head.in_index == 2
        assert model.auxiliary_head.loss_decode.loss_weight == 0.4


def leaves(node: object, place: str = '') -> Iterator[tuple[str, object]]:
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in children:
        path = f'{place}.{key}' if place else str(key)
        if isinstance(value, dict | list | tuple) and value:
            yield from leaves(value, path)
        else:
            yield path, value


@each(TWINS)
def test_twin_changes_the_attention_only(recipe):
    twin = dict(leaves(parsed(recipe.path).to_dict()))
    own = dict(leaves(parsed(recipe._replace(family='own').path).to_dict()))
    absent = object()
    changed = {key for key in {*twin, *own} if twin.get(key, absent) != own.get(key, absent)}
    places = ('model.backbone.attention', 'model.backbone.arch')
    attention = {key for key in changed if key.startswith(places)}
    assert attention
    if recipe.family == 'softmax':
        changed.discard('model.backbone.drop_path_rate')
    if recipe.folder == 'deit':  # whose arch stands for the attention, and widths of its own
        changed = {key for key in changed if '.in_channels' not in key}
    assert changed - attention == {'model.backbone.init_cfg.checkpoint'}


@pytest.mark.parametrize(
    'recipe',
    [
        pytest.param(recipe, id=recipe.path, marks=pytest.mark.long if recipe in LARGER else ())
        for recipe in RECIPES
    ],
)
def test_model_at_full_size(recipe, no_random_init):
    cfg, model = build(recipe.path)
    backbone = model.backbone

    if 'neck' in cfg.model:
        assert tuple(cfg.model.neck.in_channels) == backbone.out_channels
    else:
        assert tuple(cfg.model.decode_head.in_channels) == backbone.out_channels
        auxiliary = cfg.model.auxiliary_head
        assert auxiliary.in_channels == backbone.out_channels[auxiliary.in_index]

    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    size = SIZES.get((recipe.method, recipe.folder), {}).get(recipe.arch)
    assert size is None or millions == pytest.approx(size, rel=0.01)

    zoo = FAMILIES[recipe.macro][-1].ARCH_ZOO
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    last = sum(zoo[recipe.arch_name]['depths']) - 1
    rates = [block.drop_path.drop_prob for block in blocks]
    linear = [recipe.drop_path * index / last for index in range(last + 1)]
    assert rates == pytest.approx(linear, abs=1e-6)
    names = {'flatten': 'focused', 'agent': 'agent', 'softmax': 'inline'}
    default = 'l2vit' if recipe.macro == 'l2vit' else 'inline'
    table = CSWIN_ATTENTIONS if recipe.macro == 'cswin' else TOKEN_MIXERS
    own = table[names.get(recipe.family, default)]
    assert any(isinstance(block.attn, own) for block in blocks) == (recipe.family != 'softmax')

    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {parameter: name for name, parameter in model.named_parameters()}
    trained = {parameter for group in optimizer.param_groups for parameter in group['params']}
    assert trained == set(names)
    rate, decay, exempt = OPTIMIZERS[recipe.method, recipe.macro]
    rates = {group['lr'] for group in optimizer.param_groups}
    falling = LAYER_DECAY.get((recipe.method, recipe.macro))
    expected = [rate * falling**power for power in range(last + 3)] if falling else [rate]
    assert sorted(rates, reverse=True) == pytest.approx(expected)
    decays = {
        names[parameter]: group['weight_decay']
        for group in optimizer.param_groups
        for parameter in group['params']
    }
    for name, value in decays.items():
        last = name.rpartition('.')[2]
        without = exempt and (
            'norm' in name
            or last in (*own.no_decay, 'relative_position_bias_table', 'pos_embed', 'cls_token')
        )
        assert value == (0 if without else decay), name
    assert (0 in decays.values()) == exempt


@pytest.mark.parametrize(
    'path',
    [
        *SHORT,
        *DEMO,
        *(
            pytest.param(recipe.path, marks=pytest.mark.long)
            for recipe in RECIPES
            if recipe.path not in SHORT
        ),
    ],
)
def test_loss_and_prediction(path, try_mixed_precision):
    cfg = copy.deepcopy(parsed(path))
    drop_pretrained(cfg)
    size = (64, 96)
    if cfg.default_scope == 'mmdet':
        few_proposals(cfg.model)
    else:
        cfg.model.data_preprocessor.size = size
    model = build_model(cfg)
    batch = {'mmdet': detection_batch, 'mmseg': segmentation_batch}[cfg.default_scope](model, size)

    model.train()
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    without = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert not without

    model.eval()
    with torch.no_grad():
        one = model.data_preprocessor({key: value[:1] for key, value in batch.items()}, False)
        (sample,) = model(**one, mode='predict')
    if cfg.default_scope == 'mmdet':
        assert torch.isfinite(sample.pred_instances.bboxes).all()
    else:
        assert sample.pred_sem_seg.data.shape == (1, *size)
    try_mixed_precision(model, batch)


def few_proposals(model: dict) -> None:
    """A step in seconds: heads see tens of boxes instead of a thousand."""
    if model.type == 'RetinaNet':
        model.test_cfg.update(nms_pre=20, max_per_img=20)
        return
    for settings in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        settings.update(nms_pre=20, max_per_img=20)
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 8


def detection_batch(model: nn.Module, size: tuple[int, int]) -> dict:
    from mmdet.testing import demo_mm_inputs

    shapes = [(3, *size)] * 2
    return demo_mm_inputs(2, shapes, num_items=[2, 1], num_classes=3, with_mask=True)


def segmentation_batch(model: nn.Module, size: tuple[int, int]) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4)
        )
        labels = torch.randint(0, model.decode_head.num_classes, (1, *size))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('path', [*(recipe.path for recipe in RECIPES), *DEMO])
def test_evaluation_takes_images_one_by_one_and_in_order(path):
    # Otherwise a result would depend on batch mates, or on the number of processes.
    cfg = parsed(path)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.get('batch_size', 1) == 1
        assert loader.sampler.type == 'DefaultSampler'
        assert not loader.sampler.shuffle
        assert loader.sampler.get('round_up', True)
