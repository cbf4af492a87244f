"""Everything about one split of a config's data."""

import contextlib
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from mmengine.config import Config
from mmengine.registry import DATASETS

from ...utils import one_line
from .annotations import EXPORT, check_annotations, read_annotations
from .classes import check_classes
from .finding import Finding, fatal, first_fatal, recorder
from .images import ImageLoading, check_image
from .label_maps import LabelLoading, check_label_map, check_label_values
from .paths import check_paths
from .settings import dataset_class, dataset_scope, innermost_datasets, transforms

_CHUNK = 16


def check_split(
    cfg: Config,
    split: str,
    workers: int = 0,
    fast: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Finding], int]:
    """Check the data of a split: settings, annotations, and every image and label map.

    Args:
        cfg: The config.
        split: ``'train'``, ``'val'`` or ``'test'``.
        workers: Processes beside this one that read images; 0 reads them here.
        fast: Read only the headers of images and label maps.
        progress: Told the number of images done, from 0 on, and of all images.

    Returns:
        The findings, and the number of images read.
    """
    findings: list[Finding] = []
    count = 0
    for dataset in innermost_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
        found, images = _check_dataset(cfg, split, dataset, workers, fast, progress)
        findings += found
        count += images
    return findings, count


def _check_dataset(
    cfg: Config,
    split: str,
    dataset: Mapping,
    workers: int,
    fast: bool,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Finding], int]:
    cls = dataset_class(dataset, cfg.get('default_scope'))
    loads = getattr(getattr(cls, 'load_data_list', None), '__qualname__', '')
    check = {
        'CocoDataset.load_data_list': _check_coco,
        'BaseSegDataset.load_data_list': _check_segmentation,
    }.get(loads)
    if check is None or '://' in str(dataset.get('data_root')):
        findings, add = recorder('config')
        add(
            'warning',
            'not-checked',
            f'{split} dataset {dataset.get("type")} is not checked: it is not read as COCO '
            'instances or as images with label maps from local files',
            'check it by other means',
        )
        return findings, 0
    findings = check_paths(dataset)
    if findings:
        return findings, 0
    findings = check_classes(cfg, dataset)
    if any(finding.kind == 'classes-string' for finding in findings):
        return findings, 0
    try:
        built = DATASETS.build(
            {
                '_scope_': dataset_scope(dataset, cfg.get('default_scope')),
                **dataset,
                'pipeline': [],
                'lazy_init': True,
                'serialize_data': False,
            }
        )
    except Exception as error:  # whatever its settings provoke
        findings.append(
            fatal(
                'dataset-fails',
                'config',
                f'{split} dataset {dataset.get("type")} does not build ({one_line(error)})',
                'correct its settings',
            )
        )
        return findings, 0
    loading = ImageLoading.from_settings(dataset.get('pipeline'), cfg.get('model') or {})
    run = partial(_for_each, workers=workers, progress=progress)
    found, count = check(cfg, split, dataset, built, partial(run, loading=loading, fast=fast))
    return findings + found, count


def _check_coco(cfg, split, dataset, built, for_each) -> tuple[list[Finding], int]:
    content, findings = read_annotations(built.ann_file)
    if content is None:
        return findings, 0
    with_mask = any(
        load.get('with_mask') for load in transforms(dataset.get('pipeline'), 'LoadAnnotations')
    )
    findings = check_annotations(
        content, built.ann_file, built.metainfo['classes'], with_mask, split != 'train'
    )
    evaluators = cfg.get(f'{split}_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        other = evaluator.get('ann_file')
        if other and os.path.abspath(other) != os.path.abspath(built.ann_file):
            findings.append(
                fatal(
                    'evaluator-other-file',
                    'config',
                    f'{split}_evaluator.ann_file is {other}, the dataset reads {built.ann_file}',
                    'set both to the same file',
                )
            )
    if first_fatal(findings):
        folder = built.data_prefix.get('img') or ''
        jobs = [
            (os.path.join(folder, image['file_name']), (image['height'], image['width']))
            for image in content['images']
        ]
    else:
        found, jobs = _load_as_mmdet(content, built)
        findings += found
    found, _ = for_each(jobs)
    return findings + found, len(jobs)


def _load_as_mmdet(content: dict, built) -> tuple[list[Finding], list[tuple]]:
    """What mmdet itself makes of the annotations, and path and size of the images it keeps."""
    findings, add = recorder(built.ann_file)

    def parsed(path: str):
        api = type(built).COCOAPI()
        api.dataset = content
        api.createIndex()
        api.img_ann_map, api.cat_img_map = api.imgToAnns, api.catToImgs  # mmdet's other names
        return api

    built.COCOAPI = parsed  # the file is parsed already
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            built.full_init()
    except Exception as error:  # whatever the content provokes
        add('fatal', 'annotations-fail', f'does not load ({one_line(error)})', EXPORT)
        return findings, []
    kept, listed = built.data_list, content['images']
    objects = [[not instance['ignore_flag'] for instance in info['instances']] for info in kept]
    empty = sum(not flags for flags in objects)
    crowded = sum(bool(flags) and not any(flags) for flags in objects)
    filters = dict(built.filter_cfg or {})
    if not kept:
        add(
            'fatal',
            'no-images',
            f'no image is left of {len(listed)} after filter_cfg={filters}',
            'correct classes or annotations, or relax filter_cfg',
        )
        return findings, []
    if not built.test_mode and not any(map(any, objects)):
        add(
            'fatal',
            'no-objects',
            f'none of the {len(kept)} images has an object to learn',
            'correct boxes, iscrowd flags or classes',
        )
    if len(kept) < len(listed) and built._indices is None:
        add(
            'note',
            'images-left-out',
            f'{len(listed) - len(kept)} of {len(listed)} images are left out by '
            f'filter_cfg={filters}: without objects, or too small',
            'set filter_empty_gt=False to train on images without objects as background',
        )
    if empty:
        add(
            'note',
            'images-without-objects',
            f'{empty} of {len(kept)} images have no object and count as background',
            'nothing to do if they are background; filter_empty_gt=True leaves them out',
        )
    if crowded:
        add(
            'warning',
            'images-crowd-only',
            f'{crowded} of {len(kept)} images have crowds (iscrowd=1) only and nothing to learn',
            'annotate single objects, or take the images out',
        )
    return findings, [(info['img_path'], (info['height'], info['width'])) for info in kept]


def _check_segmentation(cfg, split, dataset, built, for_each) -> tuple[list[Finding], int]:
    findings, add = recorder(built.data_prefix['img_path'])
    try:
        built.full_init()
    except Exception as error:  # whatever its settings provoke
        add('fatal', 'dataset-fails', f'does not load ({one_line(error)})', 'correct its settings')
        return findings, 0
    if not built.data_list:
        add(
            'fatal',
            'no-images',
            f'no file ends in {built.img_suffix!r}',
            'set img_suffix of the dataset to that of the files, or correct data_prefix',
        )
        return findings, 0
    load = next(transforms(dataset.get('pipeline'), 'LoadAnnotations'), None)
    classes = built.metainfo.get('classes')
    if load is None or not classes:  # label maps are not read
        found, _ = for_each([(info['img_path'], None) for info in built.data_list])
        return findings + found, len(built.data_list)
    labels = LabelLoading(
        len(classes),
        built.reduce_zero_label,
        built.label_map,
        load.get('imdecode_backend', 'pillow'),
        built.ignore_index,
    )
    jobs = [(info['img_path'], info['seg_map_path']) for info in built.data_list]
    found, values = for_each(jobs, labels=labels)
    findings += found
    findings += check_label_values(values, built.data_prefix['seg_map_path'], labels)
    return findings, len(jobs)


def _check_files(
    job: tuple, loading: ImageLoading, fast: bool, labels: LabelLoading | None
) -> tuple[list[Finding], Counter]:
    path, other = job  # with its label map, or the annotated height and width
    findings, size = check_image(path, loading, None if labels else other, fast)
    if not labels:
        return findings, Counter()
    found, values = check_label_map(other, size, labels, fast)
    return findings + found, values


def _for_each(
    jobs: Sequence[tuple],
    *,
    loading: ImageLoading,
    fast: bool,
    workers: int,
    progress: Callable[[int, int], None] | None,
    labels: LabelLoading | None = None,
) -> tuple[list[Finding], Counter]:
    """Check all files; findings in the order of the jobs, and the label values of all."""
    check = partial(_check_files, loading=loading, fast=fast, labels=labels)
    findings: list[Finding] = []
    values: Counter = Counter()
    with contextlib.ExitStack() as stack:
        results = map(check, jobs)
        if workers and len(jobs) > _CHUNK:
            import cv2

            # One process a core is enough. Set before they are forked: in them, OpenCV would wait
            # for ever for threads that only this process has.
            stack.callback(cv2.setNumThreads, cv2.getNumThreads())
            cv2.setNumThreads(1)
            pool = stack.enter_context(ProcessPoolExecutor(workers, get_context('fork')))
            results = pool.map(check, jobs, chunksize=_CHUNK)
        if progress:
            progress(0, len(jobs))
        for done, (found, counts) in enumerate(results, 1):
            findings += found
            values.update(counts)
            if progress:
                progress(done, len(jobs))
    return findings, values
