"""A config that inherits a published one and states what differs for some data, and why."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

import mmlab_inline

from ..datasets.checks import class_counts
from ..datasets.checks.settings import transforms
from ..engine.config import load_config
from ..engine.model import build_model
from ..inference import class_colours
from ..utils import UserError, counted, did_you_mean, write_atomically
from .readers import OwnData
from .recipe import (
    DetectionRecipe,
    ObjectSizes,
    SegmentationRecipe,
    base_epochs,
    choose_epochs,
    scale_pipeline,
    scale_schedulers,
    vary_more,
)

_PUBLISHED = Path(mmlab_inline.__file__).parent / '.mim/configs'
_BASES = {
    'masks': 'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py',
    'boxes': 'detection/inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco.py',
    'seg': 'segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py',
}
_WIDTH = 100
# With fewer pictures to train on, flips alone let a detector learn them by heart.
_FEW_PICTURES = 1000
_SCALES = (0.5, 1.5)


@dataclass(frozen=True)
class Options:
    """What the user chooses; None leaves it to the data.

    Attributes:
        epochs: Epochs to train.
        short_side: Short side of resized pictures in pixels.
        batch_size: Images a step on one GPU.
        frozen_stages: Stages of the backbone, or a plain one's blocks, that are not trained, the
            stem counted as 0.
        layer_decay: Factor of the learning rate from a block to the one before it.
        load_from: Checkpoint of the same model, with other classes or not.
        from_scratch: Random weights instead of ImageNet's.
        patience: Evaluations without a better score after which training stops.
    """

    epochs: int | None = None
    short_side: int | None = None
    batch_size: int | None = None
    frozen_stages: int | None = None
    layer_decay: float | None = None
    load_from: Path | None = None
    from_scratch: bool = False
    patience: int | None = None


def choose_base(task: str, with_masks: bool) -> str:
    """The published config that suits a task by default."""
    return _BASES['seg' if task == 'seg' else 'masks' if with_masks else 'boxes']


def find_base(name: str) -> tuple[str, Config]:
    """A config to build on.

    Args:
        name: A published config, by its path below configs or its name alone; or a file.

    Returns:
        What ``_base_`` is to be, and the config.

    Raises:
        UserError: There is none, or it does not parse.
    """
    if Path(name).is_file():
        return str(Path(name).absolute()), load_config(name)
    published = {p.stem: p for p in _PUBLISHED.rglob('*.py') if '_base_' not in p.parts}
    path = published.get(Path(name).stem)
    if path is None:
        near = did_you_mean(Path(name).stem, published)
        raise UserError(f'--base {name} is neither a file nor a published config{near}')
    return f'mmlab_inline::{path.relative_to(_PUBLISHED).as_posix()}', load_config(str(path))


@dataclass
class _Sections:
    """Settings in the order of the file, each with its comment."""

    parts: list[str] = field(default_factory=list)

    def start(self, comment: str = '') -> None:
        """Begin a new paragraph."""
        lines = textwrap.wrap(comment, _WIDTH - 2, break_on_hyphens=False)
        self.parts += ['', *(f'# {line}' for line in lines)]

    def add(self, **settings: object) -> None:
        """Write settings."""
        self.parts += [f'{name} = {_source(value)}' for name, value in settings.items()]


def write_config(
    path: Path, data: OwnData, task: str, base: tuple[str, Config], options: Options
) -> None:
    """Write the config, for annotations or label maps that lie beside it.

    Args:
        path: File to write.
        data: The data, with train and val split.
        task: ``'det'`` or ``'seg'``.
        base: As :func:`find_base` returns it.
        options: What the user chooses.

    Raises:
        UserError: The base is of another task or model or has not so many stages, or the file
            cannot be written.
    """
    name, cfg = base
    if (cfg.get('default_scope') == 'mmseg') != (task == 'seg'):
        raise UserError(f'--base {name} is not a config of --task {task}')
    train = data.splits['train']
    counts = ', '.join(f'{len(data.splits[split])} {split}' for split in data.splits)
    out = _Sections()
    out.start(
        f'{data.root.name}: {counted(len(data.classes), "class")}, {counts}. Written by '
        f'tools/dataset/new_config.py from {data.format} in {data.root}; edit it as you like.'
    )
    out.add(_base_=_base(name))
    palette = [tuple(colour) for colour in class_colours(len(data.classes)).tolist()]
    out.start()
    out.add(
        classes=tuple(data.classes),
        metainfo=dict(classes=_Code('classes'), palette=palette),
    )
    sizes = ObjectSizes.of(train, task == 'seg')
    model: dict = {}
    for place, _ in class_counts(cfg.model, 'model'):
        _set(model, cfg.model, [*place.split('.')[1:], 'num_classes'], _Code('len(classes)'))
    if not model:
        raise UserError(f'--base {name} has no head with num_classes; choose another')
    settings = _segmentation if task == 'seg' else _detection
    why = settings(out, path, data, cfg, options, sizes, model)
    if options.frozen_stages is not None:
        backbone = dict(cfg.model.backbone, frozen_stages=options.frozen_stages)
        what = f'--frozen-stages {options.frozen_stages}: the backbone'
        build_model(backbone, cfg.default_scope, 'meta', what)  # which knows how many it has
        _set(model, cfg.model, ['backbone', 'frozen_stages'], options.frozen_stages)
    if options.from_scratch:
        _set(model, cfg.model, ['backbone', 'init_cfg'], None)
    out.start(f'Every head is told the number of classes. {why}')
    out.add(model=model)
    _schedule(out, len(train), cfg, options)
    if options.load_from:
        out.start(
            'What the number of classes shapes starts afresh where the checkpoint has another '
            '(tools/train.py --new-classes).'
        )
        out.add(load_from=str(options.load_from.absolute()))
    write_atomically(path, ('\n'.join(out.parts[1:]) + '\n').encode())


def _detection(
    out: _Sections,
    path: Path,
    data: OwnData,
    cfg: Config,
    options: Options,
    sizes: ObjectSizes,
    model: dict,
) -> str:
    """Write scale and data; set the anchors in ``model`` and say why."""
    train_pipeline = _plain(cfg.train_dataloader.dataset.pipeline)
    test_pipeline = _plain(cfg.val_dataloader.dataset.pipeline)
    resize = next(transforms(test_pipeline, 'Resize'), {})
    if 'scale' not in resize:
        raise UserError('--base resizes to no scale in its test pipeline; choose another')
    recipe = DetectionRecipe.of(sizes, resize['scale'], options.short_side)
    small, _, median, large = sizes.percentiles
    after = ', '.join(f'{size * recipe.factor:.0f}' for size in (small, median, large))
    out.start(
        f'Objects measure {small:.0f}, {median:.0f} and {large:.0f} pixels (5th, 50th, 95th '
        f'percentile of the square roots of the box areas) in pictures of {sizes.long:.0f}x'
        f'{sizes.short:.0f} (median). Short side {recipe.scale[1]}: {recipe.why}. The three are '
        f'{after} pixels then.'
    )
    factor = recipe.scale[1] / min(resize['scale'])
    varied = len(data.splits['train']) < _FEW_PICTURES and vary_more(train_pipeline, _SCALES)
    if varied:
        train_pipeline = varied
    if varied:
        out.start(
            f'Of fewer than {_FEW_PICTURES} pictures a model learns more if they vary: beside '
            f'flips, sizes of {_SCALES[0]} to {_SCALES[1]} times the scale, crops of its long side '
            'and other light and colours. The published recipe, for 118,000 pictures, only flips.'
        )
    if factor != 1 or varied:
        out.add(
            train_pipeline=scale_pipeline(train_pipeline, factor),
            test_pipeline=scale_pipeline(test_pipeline, factor),
        )
    out.start('Pictures stay where they are; annotations lie beside this file.')
    out.add(data_root=f'{data.root.as_posix()}/', annotations=str(path.parent / 'annotations'))
    for split in data.splits:
        dataset: dict = dict(
            data_root=_Code('data_root'),
            ann_file=_Code(f"annotations + '/{split}.json'"),
            data_prefix=dict(img=''),
            metainfo=_Code('metainfo'),
        )
        if factor != 1 or varied:
            dataset['pipeline'] = _Code(f'{"train" if split == "train" else "test"}_pipeline')
        _add_loader(out, split, dataset, options)
        if split != 'train':
            out.add(**{f'{split}_evaluator': dict(ann_file=dataset['ann_file'])})
    if 'test' not in data.splits:
        out.add(test_dataloader=_Code('val_dataloader'), test_evaluator=_Code('val_evaluator'))
    return _set_anchors(cfg, options, sizes, recipe, model)


def _set_anchors(
    cfg: Config, options: Options, sizes: ObjectSizes, recipe: DetectionRecipe, model: dict
) -> str:
    for head in ('rpn_head', 'bbox_head'):
        generator = (cfg.model.get(head) or {}).get('anchor_generator')
        changes = recipe.anchors(generator, sizes) if generator else {}
        if not changes:
            continue
        if options.load_from:
            return "Anchors stay the checkpoint's, though they do not span the objects."
        for key, value in changes.items():
            _set(model, cfg.model, [head, 'anchor_generator', key], value)
        scale = generator.get('octave_base_scale') or min(generator['scales'])
        return (
            f'Anchors: the smallest published ones are {scale * generator["strides"][0]} pixels '
            f'with ratios {list(generator["ratios"])}; the 5th percentile of the objects is '
            f'{sizes.percentiles[0] * recipe.factor:.0f} pixels after resizing, and height / width '
            f'goes from {sizes.aspects[0]:.2f} to {sizes.aspects[1]:.2f} (5th and 95th percentile).'
        )
    return ''


def _segmentation(
    out: _Sections,
    path: Path,
    data: OwnData,
    cfg: Config,
    options: Options,
    sizes: ObjectSizes,
    model: dict,
) -> str:
    """Write scale and data; set the size of crops in ``model``."""
    recipe = SegmentationRecipe.of(sizes, options.short_side)
    train_pipeline = _plain(cfg.train_dataloader.dataset.pipeline)
    test_pipeline = _plain(cfg.val_dataloader.dataset.pipeline)
    resize = next(transforms(test_pipeline, 'Resize'), {})
    factor = recipe.short / min(resize.get('scale', [recipe.short]))
    crop = (recipe.crop, recipe.crop)
    for pipeline in (train_pipeline, test_pipeline):
        for node in transforms(pipeline, 'LoadAnnotations'):
            node['reduce_zero_label'] = False
    small, _, median, large = sizes.percentiles
    out.start(
        f'Regions of the label maps measure {small:.0f}, {median:.0f} and {large:.0f} pixels (5th, '
        '50th, 95th percentile of the square roots of their areas) in pictures of '
        f'{sizes.long:.0f}x{sizes.short:.0f} (median). Short side {recipe.short}: {recipe.why}. '
        'Labels count from 0, 255 is ignored.'
    )
    out.add(
        train_pipeline=scale_pipeline(train_pipeline, factor, crop),
        test_pipeline=scale_pipeline(test_pipeline, factor, crop),
    )
    if 'tta_pipeline' in cfg:  # mmseg's own test.py --tta takes it for the test pipeline
        out.add(tta_pipeline=scale_pipeline(_plain(cfg.tta_pipeline), factor, crop))
    size = cfg.model.data_preprocessor.get('size')
    if size and tuple(size) != crop and next(transforms(train_pipeline, 'RandomCrop'), None):
        _set(model, cfg.model, ['data_preprocessor', 'size'], crop)
    out.start('Pictures stay where they are; label maps and lists lie beside this file.')
    out.add(
        dataset=dict(
            type='BaseSegDataset',
            data_root=data.root.as_posix(),
            data_prefix=dict(img_path='', seg_map_path=str(path.parent / 'label_maps')),
            img_suffix='',
            reduce_zero_label=False,
            metainfo=_Code('metainfo'),
        ),
        splits=str(path.parent / 'splits'),
    )
    for split in data.splits:
        kind = 'train' if split == 'train' else 'test'
        code = f"dict(**dataset, ann_file=splits + '/{split}.txt', pipeline={kind}_pipeline)"
        _add_loader(out, split, _Code(code), options)
    if 'test' not in data.splits:
        out.add(test_dataloader=_Code('val_dataloader'))
    return ''


def _add_loader(out: _Sections, split: str, dataset: object, options: Options) -> None:
    batch = {}
    if split == 'train' and options.batch_size:
        batch = dict(batch_size=options.batch_size)
    out.add(**{f'{split}_dataloader': dict(**batch, dataset=dataset)})


def _schedule(out: _Sections, num_pictures: int, cfg: Config, options: Options) -> None:
    loop = cfg.train_cfg
    batch = options.batch_size or cfg.train_dataloader.batch_size
    base_batch = (cfg.get('auto_scale_lr') or {}).get('base_batch_size') or batch
    epochs, why = choose_epochs(num_pictures, base_epochs(loop, base_batch), options.epochs)
    steps = epochs * math.ceil(num_pictures / batch)
    key = 'max_epochs' if 'max_epochs' in loop else 'max_iters'
    length = epochs if key == 'max_epochs' else steps
    interval = max(1, length // 10)
    hooks: dict = dict(checkpoint=dict(interval=interval))
    if steps < 500:
        hooks['logger'] = dict(interval=10)
    out.start(
        f'Schedule: {counted(epochs, "epoch")} ({why}) * {counted(num_pictures, "picture")} / '
        f'{batch} a step = {counted(steps, "iteration")}.'
    )
    schedulers = _plain(cfg.get('param_scheduler') or [])
    out.add(
        train_cfg={key: length, 'val_interval': interval},
        param_scheduler=scale_schedulers(schedulers, loop, length, steps),
        default_hooks=hooks,
    )
    if options.patience:
        out.start(
            f'Training stops after {counted(options.patience, "evaluation")} without a better '
            'score (box AP, or mIoU); the best checkpoint is kept.'
        )
        score = 'mIoU' if cfg.default_scope == 'mmseg' else 'coco/bbox_mAP'
        stop = dict(type='EarlyStoppingHook', monitor=score, rule='greater')
        # The hook takes an equal score for a better one where min_delta is 0.
        stop.update(patience=options.patience, min_delta=1e-6)
        out.add(custom_hooks=[*_plain(cfg.get('custom_hooks') or []), stop])
    wrapper: dict = {}
    if batch != base_batch:
        rate = cfg.optim_wrapper.optimizer.lr
        new_rate = float(f'{rate * math.sqrt(batch / base_batch):.2g}')
        wrapper['optimizer'] = dict(lr=new_rate)
        out.start(
            f'The published rate, {rate:g} for {base_batch} images a step, times sqrt({batch} / '
            f'{base_batch}), as Adam takes it. --auto-scale-lr goes on from {batch} images a step '
            f'in proportion, as mm does: with {2 * batch} images it gives {2 * new_rate:.2g}, the '
            f'root {new_rate * math.sqrt(2):.2g}.'
        )
        out.add(auto_scale_lr=dict(base_batch_size=batch))
    if options.layer_decay:
        wrapper['constructor'] = 'mmlab_inline.LayerDecayConstructor'
        wrapper['paramwise_cfg'] = dict(layer_decay=options.layer_decay)
    if wrapper:
        out.add(optim_wrapper=wrapper)


class _Code(str):
    """A Python expression, to be written as it is."""


def _base(name: str) -> str:
    """What finds the base in programs, too, that do not import this package, as mmdet's own.

    mmengine evaluates what stands behind ``_base_``, but knows no packages beside mm's.
    """
    package, _, path = name.partition('::')
    if not path:
        return name
    return _Code(f"__import__('{package}').__path__[0] + '/.mim/configs/{path}'")


def _set(tree: dict, base: object, place: list[str], value: object) -> None:
    """Set a value in a tree of changes to ``base``; lists replace those of the base as a whole."""
    key, *rest = place
    if not rest:
        tree[key] = value
        return
    inner = base.get(key) or {}
    if isinstance(inner, list):
        items = tree.setdefault(key, _plain(inner))
        index, *rest = rest
        _set(items[int(index)], inner[int(index)], rest, value)
        return
    _set(tree.setdefault(key, {}), inner, rest, value)


def _plain(node: object) -> object:
    """A part of a config without the scopes that inheritance left in it."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items() if key != '_scope_'}
    return type(node)(map(_plain, node)) if isinstance(node, list | tuple) else node


def _source(value: object, indent: int = 0) -> str:
    """Python source of plain data, dicts as calls, broken where a line gets long."""
    if isinstance(value, _Code):
        return str(value)
    if isinstance(value, dict):
        named = all(isinstance(key, str) and key.isidentifier() for key in value)
        start, end = ('dict(', ')') if named else ('{', '}')
        parts = [
            (f'{key}=' if named else f'{key!r}: ') + _source(item, indent + 4)
            for key, item in value.items()
        ]
    elif isinstance(value, list | tuple):
        start, end = '[]' if isinstance(value, list) else '()'
        parts = [_source(item, indent + 4) for item in value]
        if isinstance(value, tuple) and len(value) == 1:
            end = ',)'
    else:
        return repr(value)
    line = start + ', '.join(parts) + end
    if '\n' not in line and len(line) + indent < _WIDTH - 20:
        return line
    if isinstance(value, list | tuple) and not any(isinstance(i, dict | list) for i in value):
        # Many short items, such as names and colours: as many a line as fit.
        lines = ['']
        for part in parts:
            if lines[-1] and len(lines[-1]) + len(part) + indent + 6 > _WIDTH:
                lines.append('')
            lines[-1] += f'{" " if lines[-1] else ""}{part},'
        return _broken(start, lines, end.lstrip(','), indent)
    return _broken(start, [part + ',' for part in parts], end.lstrip(','), indent)


def _broken(start: str, lines: list[str], end: str, indent: int) -> str:
    pad = ' ' * (indent + 4)
    return '\n'.join([start, *(pad + line for line in lines), ' ' * indent + end])
