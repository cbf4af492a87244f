"""A config that inherits a published one and states what differs for some data, and why."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

import mmlab_inline

from ...datasets.checks import class_counts
from ...datasets.checks.settings import transforms
from ...datasets.own import OwnData
from ...utils import UserError, did_you_mean, write_atomically
from ..config import load_config
from ..inference import class_colours
from .recipe import (
    DetectionRecipe,
    ObjectSizes,
    SegmentationRecipe,
    base_epochs,
    choose_epochs,
    scale_pipeline,
    scale_schedulers,
)

_PUBLISHED = Path(mmlab_inline.__file__).parent / '.mim/configs'
_BASES = {
    'masks': 'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py',
    'boxes': 'detection/inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco.py',
    'seg': 'segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py',
}
_WIDTH = 100


@dataclass(frozen=True)
class Options:
    """What the user chooses; None leaves it to the data.

    Attributes:
        epochs: Epochs to train.
        short_side: Short side of resized pictures in pixels.
        batch_size: Images a step on one GPU.
        frozen_stages: Stages of the backbone that are not trained, the stem counted as 0.
        layer_decay: Factor of the learning rate from a block to the one before it.
        load_from: Checkpoint of the same model, with other classes or not.
        from_scratch: Random weights instead of ImageNet's.
    """

    epochs: int | None = None
    short_side: int | None = None
    batch_size: int | None = None
    frozen_stages: int | None = None
    layer_decay: float | None = None
    load_from: Path | None = None
    from_scratch: bool = False


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
    published = {path.stem: path for path in sorted(_PUBLISHED.rglob('*.py'))}
    path = published.get(Path(name).stem)
    if path is None:
        near = did_you_mean(Path(name).stem, published)
        raise UserError(f'--base {name} is neither a file nor a published config{near}')
    return f'mmlab_inline::{path.relative_to(_PUBLISHED).as_posix()}', load_config(str(path))


@dataclass
class _Sections:
    """Settings in the order of the file, each with its comment."""

    parts: list[str] = field(default_factory=list)

    def add(self, comment: str, **settings: object) -> None:
        if comment:
            lines = textwrap.wrap(comment, _WIDTH - 2, break_on_hyphens=False)
            self.parts.append('\n'.join(['', *(f'# {line}' for line in lines)]))
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
        UserError: The base is of another task or model, or the file cannot be written.
    """
    name, cfg = base
    if (cfg.get('default_scope') == 'mmseg') != (task == 'seg'):
        raise UserError(f'--base {name} is not a config of --task {task}')
    train = data.splits['train']
    counts = ', '.join(f'{len(data.splits[split])} {split}' for split in data.splits)
    out = _Sections()
    out.add(
        f'{data.root.name}: {len(data.classes)} classes, {counts}. Written by '
        f'tools/dataset/new_config.py from {data.format} in {data.root}; edit it as you like.',
        _base_=name,
    )
    out.parts[0] = out.parts[0].lstrip('\n')
    palette = [tuple(colour) for colour in class_colours(len(data.classes)).tolist()]
    out.add(
        ' ',
        classes=tuple(data.classes),
        metainfo=_Code(f'dict(classes=classes, palette={_source(palette, 4)})'),
    )
    sizes = ObjectSizes.of(train, task == 'seg')
    model: dict = {}
    for place, _ in class_counts(cfg.model, 'model'):
        _set(model, cfg.model, [*place.split('.')[1:], 'num_classes'], _Code('len(classes)'))
    if not model:
        raise UserError(f'--base {name} has no head with num_classes; choose another')
    settings = _segmentation if task == 'seg' else _detection
    settings(out, path, data, cfg, options, sizes, model)
    if options.frozen_stages is not None:
        _set(model, cfg.model, ['backbone', 'frozen_stages'], options.frozen_stages)
    if options.from_scratch:
        _set(model, cfg.model, ['backbone', 'init_cfg'], None)
    out.add('The classes are counted in every head.', model=model)
    _schedule(out, len(train), cfg, options)
    if options.load_from:
        out.add(
            'The heads start afresh where the checkpoint has other classes: tools/train.py '
            '--new-classes.',
            load_from=str(options.load_from.absolute()),
        )
    write_atomically(path, ('\n'.join(out.parts) + '\n').encode())


def _detection(out, path, data, cfg, options, sizes, model) -> None:
    test_pipeline = _plain(cfg.val_dataloader.dataset.pipeline)
    base_scale = next(transforms(test_pipeline, 'Resize'))['scale']
    recipe = DetectionRecipe.of(sizes, tuple(base_scale), options.short_side)
    small, _, median, large = sizes.percentiles
    measured = (
        f'Objects measure {small:.0f}, {median:.0f} and {large:.0f} pixels (5th, 50th, 95th '
        f'percentile of the square roots of the box areas) in pictures of {sizes.long:.0f}x'
        f'{sizes.short:.0f} (median)'
    )
    pipelines = {}
    if recipe.scale != tuple(sorted(base_scale, reverse=True)):
        factor = recipe.scale[1] / min(base_scale)
        pipelines = dict(
            train_pipeline=scale_pipeline(_plain(cfg.train_dataloader.dataset.pipeline), factor),
            test_pipeline=scale_pipeline(test_pipeline, factor),
        )
    after = ', '.join(f'{size * recipe.factor:.0f}' for size in (small, median, large))
    out.add(
        f'{measured}. Short side {recipe.scale[1]}: {recipe.why}. The three are {after} pixels '
        'then.',
        **pipelines,
    )
    out.add('Pictures stay where they are; annotations lie beside this file.')
    out.add('', data_root=f'{data.root.as_posix()}/', annotations=str(path.parent / 'annotations'))
    for split, phase in _phases(data):
        dataset: dict = dict(
            data_root=_Code('data_root'),
            ann_file=_Code(f"annotations + '/{split}.json'"),
            data_prefix=dict(img=''),
            metainfo=_Code('metainfo'),
        )
        if pipelines:
            kind = 'train' if phase == 'train' else 'test'
            dataset['pipeline'] = _Code(f'{kind}_pipeline')
        loader: dict = dict(dataset=dataset)
        if phase == 'train' and options.batch_size:
            loader = dict(batch_size=options.batch_size, **loader)
        out.add('', **{f'{phase}_dataloader': loader})
        if phase != 'train':
            evaluator = dict(ann_file=dataset['ann_file'])
            out.add('', **{f'{phase}_evaluator': evaluator})
    _finish_phases(out, data)
    _anchors(out, cfg, options, sizes, recipe, model)


def _anchors(out, cfg, options, sizes, recipe, model) -> None:
    for head in ('rpn_head', 'bbox_head'):
        generator = (cfg.model.get(head) or {}).get('anchor_generator')
        changes = recipe.anchors(generator, sizes) if generator else {}
        if not changes:
            continue
        if options.load_from:
            out.add("Anchors stay the checkpoint's, though they do not span the objects.")
            return
        for key, value in changes.items():
            _set(model, cfg.model, [head, 'anchor_generator', key], value)
        out.add(
            'Anchors: with the published ones the smallest are '
            f'{_smallest_anchor(generator):.0f} pixels with ratios {list(generator["ratios"])}; '
            f'the 5th percentile of the objects is {sizes.percentiles[0] * recipe.factor:.0f} '
            f'pixels after resizing, and height / width goes from {sizes.aspects[0]:.2f} to '
            f'{sizes.aspects[1]:.2f} (5th and 95th percentile).'
        )


def _smallest_anchor(generator: Mapping) -> float:
    scale = generator.get('octave_base_scale') or min(generator['scales'])
    return scale * generator['strides'][0]


def _segmentation(out, path, data, cfg, options, sizes, model) -> None:
    recipe = SegmentationRecipe.of(sizes, options.short_side)
    test_pipeline = _plain(cfg.val_dataloader.dataset.pipeline)
    train_pipeline = _plain(cfg.train_dataloader.dataset.pipeline)
    resize = next(transforms(test_pipeline, 'Resize'), None)
    crop = (recipe.crop, recipe.crop)
    factor = recipe.short / min(resize['scale']) if resize else 1
    for pipeline in (train_pipeline, test_pipeline):
        for node in transforms(pipeline, 'LoadAnnotations'):
            node['reduce_zero_label'] = False
    small, _, median, large = sizes.percentiles
    out.add(
        f'Regions of the label maps measure {small:.0f}, {median:.0f} and {large:.0f} pixels (5th, '
        '50th, 95th percentile of the square roots of their areas) in pictures of '
        f'{sizes.long:.0f}x{sizes.short:.0f} (median). Short side {recipe.short}: {recipe.why}. '
        'Labels count from 0, 255 is ignored.',
        train_pipeline=scale_pipeline(train_pipeline, factor, crop),
        test_pipeline=scale_pipeline(test_pipeline, factor, crop),
    )
    size = cfg.model.data_preprocessor.get('size')
    if size and tuple(size) != crop:
        _set(model, cfg.model, ['data_preprocessor', 'size'], crop)
    folder = path.parent
    out.add('Pictures stay where they are; label maps and lists lie beside this file.')
    dataset = dict(
        type='BaseSegDataset',
        data_root=data.root.as_posix(),
        data_prefix=dict(img_path='', seg_map_path=str(folder / 'label_maps')),
        img_suffix='',
        reduce_zero_label=False,
        metainfo=_Code('metainfo'),
    )
    out.add('', dataset=dataset, splits=str(folder / 'splits'))
    for split, phase in _phases(data):
        kind = 'train' if phase == 'train' else 'test'
        inner = _Code(
            f"dict(**dataset, ann_file=splits + '/{split}.txt', pipeline={kind}_pipeline)"
        )
        loader: dict = dict(dataset=inner)
        if phase == 'train' and options.batch_size:
            loader = dict(batch_size=options.batch_size, **loader)
        out.add('', **{f'{phase}_dataloader': loader})
    _finish_phases(out, data, evaluators=False)


def _phases(data: OwnData) -> list[tuple[str, str]]:
    """Split and phase of the dataloaders to write."""
    phases = [('train', 'train'), ('val', 'val')]
    return [*phases, ('test', 'test')] if 'test' in data.splits else phases


def _finish_phases(out: _Sections, data: OwnData, evaluators: bool = True) -> None:
    if 'test' not in data.splits:
        out.add('', test_dataloader=_Code('val_dataloader'))
        if evaluators:
            out.add('', test_evaluator=_Code('val_evaluator'))


def _schedule(out: _Sections, num_pictures: int, cfg: Config, options: Options) -> None:
    loop, base_batch = cfg.train_cfg, (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    batch = options.batch_size or cfg.train_dataloader.batch_size
    base_batch = base_batch or batch
    base = base_epochs(loop, base_batch)
    epochs, why = choose_epochs(num_pictures, base, options.epochs)
    steps = epochs * math.ceil(num_pictures / batch)
    length = epochs if 'max_epochs' in loop else steps
    interval = max(1, length // 10)
    key = 'max_epochs' if 'max_epochs' in loop else 'max_iters'
    out.add(
        f'Schedule: {epochs} epochs ({why}) * {num_pictures} pictures / {batch} a step = {steps} '
        f'iterations, evaluated ten times.',
        train_cfg={key: length, 'val_interval': interval},
        param_scheduler=scale_schedulers(
            _plain(cfg.get('param_scheduler') or []), loop, length, steps
        ),
        default_hooks=dict(
            checkpoint=dict(interval=interval),
            **({'logger': dict(interval=10)} if steps < 500 else {}),
        ),
    )
    rate = cfg.optim_wrapper.optimizer.lr
    wrapper: dict = {}
    comment = ''
    if batch != base_batch:
        new = float(f'{rate * math.sqrt(batch / base_batch):.2g}')
        wrapper['optimizer'] = dict(lr=new)
        comment = (
            f'The published rate, {rate:g} for {base_batch} images a step, times sqrt({batch} / '
            f'{base_batch}) as AdamW takes it; --auto-scale-lr counts from {batch} images a step.'
        )
        out.add(comment, auto_scale_lr=dict(base_batch_size=batch))
    if options.layer_decay:
        wrapper['constructor'] = 'mmlab_inline.LayerDecayConstructor'
        wrapper['paramwise_cfg'] = dict(layer_decay=options.layer_decay)
    if wrapper:
        out.add('', optim_wrapper=wrapper)


class _Code(str):
    """A Python expression, to be written as it is."""


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
    if not any(isinstance(item, dict | list) for item in _children(value)):
        # Many short items, such as names and colours: as many a line as fit.
        width = _WIDTH - indent - 4
        body = textwrap.wrap(', '.join(parts) + ',', width, break_long_words=False)
        return _broken(start, body, end.lstrip(','), indent)
    return _broken(start, [part + ',' for part in parts], end.lstrip(','), indent)


def _children(value: object) -> list:
    return list(value.values()) if isinstance(value, dict) else list(value)


def _broken(start: str, lines: list[str], end: str, indent: int) -> str:
    pad = ' ' * (indent + 4)
    return '\n'.join([start, *(pad + line for line in lines), ' ' * indent + end])
