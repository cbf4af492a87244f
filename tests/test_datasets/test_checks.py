"""Every kind of bad input is found by name: file, problem, remedy and severity."""

import gc
import io
import json
import re
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from mmlab_inline.datasets import write_dataset
from mmlab_inline.datasets.checked_loading import CheckedLoading
from mmlab_inline.datasets.checks import (
    ImageLoading,
    LabelLoading,
    check_annotations,
    check_image,
    check_label_map,
    check_split,
)
from mmlab_inline.datasets.checks.annotations import _decode_counts
from mmlab_inline.engine import check_data
from mmlab_inline.engine.runner import CheckedRunner
from mmlab_inline.utils import UserError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

WIDTH, HEIGHT = 64, 48
NAMES = ('a.jpg', 'b.jpg', 'c.jpg')


@pytest.fixture(scope='module', autouse=True)
def fast_collection():
    """mmengine collects garbage for each dataset it builds; spare it the imported libraries."""
    gc.freeze()
    yield
    gc.unfreeze()


def photograph(width=WIDTH, height=HEIGHT, seed=0):
    """A picture of noise, of which no byte can be lost unnoticed."""
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def write_photographs(folder):
    folder.mkdir(parents=True)
    for name in NAMES:
        photograph().save(folder / name, quality=90)


class Data:
    """Three images; what the cases below damage."""

    split = 'train'

    def __init__(self, root):
        self.root = root
        self.images = root / 'images'
        write_photographs(self.images)

    def save_first(self, image, **options):
        image.save(self.images / 'a.jpg', **options)

    def check(self, **options):
        return check_split(self.config(), self.split, **options)[0]


class Coco(Data):
    """A small detection set; what the cases below damage."""

    classes = ('cat', 'dog')

    def __init__(self, root):
        super().__init__(root)
        self.file = root / 'annotations.json'
        self.color_type = 'color'
        self.filter_cfg = dict(filter_empty_gt=True, min_size=8)
        self.heads = dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2))
        self.ann_type = 'CocoDataset'
        self.evaluator_file = None
        polygon = [8, 8, 24, 8, 24, 24, 8, 24]
        self.content = dict(
            images=[
                dict(id=number, file_name=name, width=WIDTH, height=HEIGHT)
                for number, name in enumerate(NAMES, 1)
            ],
            annotations=[
                dict(
                    id=number,
                    image_id=number,
                    category_id=1 + number % 2,
                    bbox=[8, 8, 16, 16],
                    area=256,
                    iscrowd=0,
                    segmentation=[polygon],
                )
                for number in (1, 2, 3)
            ],
            categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        )

    @property
    def first(self):
        return self.content['annotations'][0]

    def config(self):
        if self.content is not None:
            self.file.write_text(json.dumps(self.content))
        dataset = dict(
            type=self.ann_type,
            ann_file=str(self.file),
            data_prefix=dict(img=str(self.images)),
            metainfo=dict(classes=self.classes),
            filter_cfg=self.filter_cfg,
            test_mode=self.split != 'train',
            pipeline=[
                dict(type='LoadImageFromFile', color_type=self.color_type),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                dict(type='Resize', scale=(64, 64), keep_ratio=True),
                dict(type='PackDetInputs', meta_keys=('img_path',)),
            ],
        )
        wrapped = dict(type='RepeatDataset', times=1, dataset=dataset)
        return Config(
            {
                'default_scope': 'mmdet',
                'model': dict(roi_head=self.heads, rpn_head=dict(num_classes=1)),
                f'{self.split}_dataloader': loader(wrapped),
                f'{self.split}_evaluator': dict(ann_file=self.evaluator_file),
            }
        )


class Ade(Data):
    """A small segmentation set with four classes."""

    def __init__(self, root):
        super().__init__(root)
        self.maps = root / 'maps'
        self.reduce = False
        self.load = dict(type='LoadAnnotations')
        self.suffix = '.jpg'
        self.settings = dict(metainfo=dict(classes=('a', 'b', 'c', 'd')))
        self.heads = dict(decode_head=dict(num_classes=4), auxiliary_head=[dict(num_classes=4)])
        self.maps.mkdir()
        rows = np.arange(HEIGHT)[:, None] % 4
        for name in NAMES:
            self.save(name.replace('jpg', 'png'), np.tile(rows, (1, WIDTH)))

    def save(self, name, values, dtype=np.uint8):
        Image.fromarray(np.asarray(values).astype(dtype)).save(self.maps / name)

    def save_all(self, *values):
        """All maps hold just these values."""
        rows = np.array(values)[np.arange(HEIGHT) % len(values)]
        for name in NAMES:
            self.save(name.replace('jpg', 'png'), np.tile(rows[:, None], (1, WIDTH)))

    def config(self):
        dataset = dict(
            type='BaseSegDataset',
            img_suffix=self.suffix,
            reduce_zero_label=self.reduce,
            data_prefix=dict(img_path=str(self.images), seg_map_path=str(self.maps)),
            pipeline=[dict(type='LoadImageFromFile'), self.load, dict(type='PackSegInputs')],
            **self.settings,
        )
        return Config(
            dict(default_scope='mmseg', model=self.heads, train_dataloader=loader(dataset))
        )


def loader(dataset):
    sampler = dict(type='DefaultSampler', shuffle=False)
    return dict(dataset=dataset, batch_size=1, num_workers=0, sampler=sampler)


def encode(image, format='JPEG', **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def vast_png(width, height):
    """The header of a PNG of any size; no pixels."""

    def chunk(name, content):
        check = struct.pack('>I', zlib.crc32(name + content))
        return struct.pack('>I', len(content)) + name + content + check

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')


# Each case: name, damage, severity, kind, file, words of problem and remedy.
def truncate(data):
    path = data.images / 'a.jpg'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_png(data):
    content = encode(photograph(), 'PNG')
    (data.images / 'a.jpg').write_bytes(content[: len(content) // 2])


def unlink(data):
    (data.images / 'a.jpg').unlink()
    if isinstance(data, Ade):  # a folder lists what it has; a file of names may list more
        names = data.root / 'names.txt'
        names.write_text('a\nb\nc\n')
        data.settings['ann_file'] = str(names)


def write(content):
    return lambda data: (data.images / 'a.jpg').write_bytes(content)


def save(convert, format='PNG', **options):
    """Save the first photograph in another form."""
    return write(encode(convert(photograph()), format, **options))


def sixteen_bits(image):
    return Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 16)  # 12 bits used


def resized(width, height):
    def damage(data):
        data.save_first(photograph(width, height))
        if isinstance(data, Coco):
            data.content['images'][0].update(width=width, height=height)
            data.first['bbox'] = [0, 0, width, height]
            data.filter_cfg = None  # min_size would leave it out
        else:
            data.save('a.png', np.zeros((height, width)))

    return damage


IMAGES = [
    ('absent', unlink, 'fatal', 'image-absent', 'does not exist', 'put it there'),
    ('empty', write(b''), 'fatal', 'image-empty', 'empty file', 'copy it anew'),
    ('text', write(b'<html>'), 'fatal', 'image-unreadable', 'is no image', 'copy it anew'),
    ('truncated jpeg', truncate, 'fatal', 'image-truncated', 'ends before', 'copy it anew'),
    ('truncated png', truncate_png, 'fatal', 'image-truncated', 'ends before', 'copy it anew'),
    (
        'torn header',
        write(encode(photograph(), 'PNG')[:33]),
        'fatal',
        'image-unreadable',
        'is no image',
        'copy it anew',
    ),
    (
        'float tiff',
        save(lambda image: Image.fromarray(np.asarray(image)[..., 0] / np.float32(255)), 'TIFF'),
        'fatal',
        'image-unreadable',
        'is F and does not load with cv2',
        '8-bit RGB',
    ),
    (
        'grayscale',
        save(lambda image: image.convert('L')),
        'note',
        'image-grayscale',
        'three equal channels',
        'nothing to do',
    ),
    (
        'rgba',
        save(lambda image: image.convert('RGBA')),
        'warning',
        'image-alpha',
        'drops the transparency',
        'flatten',
    ),
    (
        'gray with alpha',
        save(lambda image: image.convert('LA')),
        'warning',
        'image-alpha',
        'drops the transparency',
        'flatten',
    ),
    (
        '16 bits',
        save(sixteen_bits),
        'warning',
        'image-16-bit',
        'brightest value is 15',
        'save 8 bits',
    ),
    (
        'cmyk',
        save(lambda image: image.convert('CMYK'), 'JPEG'),
        'warning',
        'image-cmyk',
        'CMYK',
        'RGB',
    ),
    (
        'exif half turn',
        save(lambda image: image, 'JPEG', exif=exif(3)),
        'warning',
        'image-exif',
        'orientation 3, which the loader applies',
        'look at it',
    ),
    (
        'one pixel',
        resized(1, 1),
        'warning',
        'image-tiny',
        'is 1x1 pixels',
        'no photograph',
    ),
    ('one row', resized(64, 1), 'warning', 'image-tiny', 'is 64x1 pixels', 'no photograph'),
    ('aspect', resized(400, 20), 'warning', 'image-aspect', 'is 400x20', 'tiles'),
    (
        'vast',
        write(vast_png(70_000, 60_000)),
        'fatal',
        'image-too-large',
        'is 70000x60000: OpenCV refuses',
        'tiles',
    ),
]


@pytest.mark.parametrize('Data', [Coco, Ade])
@pytest.mark.parametrize('case', IMAGES, ids=lambda case: case[0])
def test_bad_image(tmp_path, Data, case):
    data = Data(tmp_path)
    _, damage, severity, kind, problem, remedy = case
    damage(data)
    (finding,) = [found for found in data.check() if found.kind == kind]
    assert finding.severity == severity
    assert finding.file == str(data.images / 'a.jpg')
    assert problem in finding.problem
    assert remedy in finding.remedy


def test_image_larger_than_memory(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(vast_png(8000, 6000))
    findings, size = check_image(str(path), ImageLoading(memory=2**28))
    assert size is None
    assert [(found.severity, found.kind) for found in findings] == [('fatal', 'image-too-large')]
    assert 'takes about 0.402 GiB' in findings[0].problem


def test_8000x6000_is_fine(tmp_path):
    path = str(tmp_path / 'a.png')
    Image.new('RGB', (8000, 6000)).save(path, compress_level=1)
    assert check_image(path, ImageLoading(), fast=True) == ([], (6000, 8000))


def exif_sideways(data):
    # Annotated as stored; cv2 turns it.
    data.save_first(photograph(), exif=exif(6))


def exif_ignored(data):
    # Annotated as seen; the loader does not turn it.
    data.save_first(photograph(HEIGHT, WIDTH), exif=exif(6))
    data.color_type = 'color_ignore_orientation'


def of_another_size(data):
    data.save_first(photograph(WIDTH // 2, HEIGHT // 2))


def unchanged(data):
    data.color_type = 'unchanged'
    data.save_first(photograph().convert('L'))


def annotate(**changes):
    return lambda data: data.first.update(changes)


def attribute(**changes):
    return lambda data: data.__dict__.update(changes)


def add_category(id, name):
    return lambda data: data.content['categories'].append(dict(id=id, name=name))


def drop(part, key):
    return lambda data: data.content[part][0].pop(key)


def number_from(start, step=1):
    def damage(data):
        for category in data.content['categories']:
            category['id'] = start + step * (category['id'] - 1)
        for item in data.content['annotations']:
            item['category_id'] = start + step * (item['category_id'] - 1)

    return damage


def repeat_id(part):
    return lambda data: data.content[part].append(dict(data.content[part][0]))


def rename_repeated(data):
    data.content['categories'][1]['name'] = 'cat'


def list_twice(data):
    data.content['images'].append({**data.content['images'][0], 'id': 9})


def replace_all(part, **changes):
    def damage(data):
        for item in data.content[part]:
            item.update(changes)

    return damage


def no_objects_in_first(data):
    del data.content['annotations'][0]


def no_objects_kept(data):
    no_objects_in_first(data)
    data.filter_cfg = None


def raw_annotations(text):
    def damage(data):
        data.content = None
        data.file.write_text(text)

    return damage


def rle(**changes):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    mask[8:24, 8:24] = 1
    whole = coco_mask.encode(mask)
    whole['counts'] = whole['counts'].decode()
    return annotate(segmentation={**whole, **changes})


def one_class(classes):
    def damage(data):
        data.classes = classes
        data.heads = dict(bbox_head=dict(num_classes=1))

    return damage


ON_FILE = 'annotations.json'
ON_IMAGE = 'a.jpg'
ON_CONFIG = 'config'
# Name, damage, severity, kind, file, words of problem and remedy.
DETECTION = [
    (
        'exif applied',
        exif_sideways,
        'fatal',
        'image-exif-mismatch',
        ON_IMAGE,
        'is 48x64 as loaded, annotated as 64x48: EXIF orientation 6, which the loader applies',
        "color_type='color_ignore_orientation'",
    ),
    (
        'exif ignored',
        exif_ignored,
        'fatal',
        'image-exif-mismatch',
        ON_IMAGE,
        'is 48x64 as loaded',
        "color_type='color'",
    ),
    (
        'another size',
        of_another_size,
        'fatal',
        'image-size-mismatch',
        ON_IMAGE,
        'is 32x24, annotated as 64x48',
        'annotate this very file',
    ),
    (
        'channels',
        unchanged,
        'fatal',
        'image-channels',
        ON_IMAGE,
        'has 1 channels as loaded',
        "color_type='color'",
    ),
    (
        'not json',
        raw_annotations('{"images": ['),
        'fatal',
        'annotations-not-json',
        ON_FILE,
        'is no JSON (Expecting value: line 1',
        'export',
    ),
    (
        'a list',
        raw_annotations('[]'),
        'fatal',
        'annotations-lack-lists',
        ON_FILE,
        "'images', 'annotations', 'categories'",
        'export',
    ),
    (
        'no categories',
        lambda data: data.content.pop('categories'),
        'fatal',
        'annotations-lack-lists',
        ON_FILE,
        "'categories'",
        'export',
    ),
    *(
        (
            f'{part} without {key}',
            drop(part, key),
            'fatal',
            'annotations-lack-keys',
            ON_FILE,
            f'1 of {count} {part} have no usable {key!r}',
            'export',
        )
        for part, key, count in (
            ('images', 'height', 3),
            ('images', 'file_name', 3),
            ('annotations', 'bbox', 3),
            ('annotations', 'area', 3),
            ('annotations', 'category_id', 3),
            ('categories', 'name', 2),
        )
    ),
    *(
        (
            f'repeated ids of {part}',
            repeat_id(part),
            'fatal',
            'ids-repeated',
            ON_FILE,
            f'1 ids of {part} occur more than once',
            'number them anew',
        )
        for part in ('images', 'annotations', 'categories')
    ),
    (
        'image listed twice',
        list_twice,
        'warning',
        'image-listed-twice',
        ON_FILE,
        'such as a.jpg',
        'list each once',
    ),
    (
        'repeated category name',
        rename_repeated,
        'fatal',
        'category-names-repeated',
        ON_FILE,
        "'cat' occur more than once",
        'merge',
    ),
    (
        'unknown image',
        annotate(image_id=77),
        'warning',
        'image-id-unknown',
        ON_FILE,
        'such as 77 in annotation 1: they are left out',
        'add the images',
    ),
    (
        'unknown category',
        annotate(category_id=77),
        'warning',
        'category-id-unknown',
        ON_FILE,
        'such as 77 in annotation 1',
        'add the categories',
    ),
    (
        'ids from 0',
        number_from(0),
        'note',
        'category-ids',
        ON_FILE,
        'category ids 0..1 for 2 categories',
        'nothing to do: labels come from the names',
    ),
    (
        'ids with gaps',
        number_from(3, 10),
        'note',
        'category-ids',
        ON_FILE,
        'category ids 3..13',
        'nothing to do',
    ),
    (
        'no class matches',
        attribute(classes=('Cat', 'Dog')),
        'fatal',
        'classes-not-in-file',
        ON_FILE,
        "(did you mean 'cat'?): no class has any object",
        'metainfo=dict(classes=...)',
    ),
    (
        'one class does not match',
        attribute(classes=('cat', 'cow')),
        'fatal',
        'classes-not-in-file',
        ON_FILE,
        "'cow' of the config",
        'metainfo=dict(classes=...)',
    ),
    (
        'another order',
        attribute(classes=('dog', 'cat')),
        'warning',
        'classes-order',
        ON_FILE,
        'carry the wrong names',
        "'cat', 'dog'",
    ),
    (
        'unused category',
        add_category(3, 'cow'),
        'note',
        'categories-unused',
        ON_FILE,
        "'cow'",
        'add them',
    ),
    (
        'one class without comma',
        one_class('cat'),
        'fatal',
        'classes-string',
        ON_CONFIG,
        "classes='cat' is a string, so its 3 letters",
        "classes=('cat',)",
    ),
    (
        'num_classes',
        attribute(heads=dict(bbox_head=[dict(num_classes=80)], mask_head=dict(num_classes=2))),
        'fatal',
        'num-classes',
        ON_CONFIG,
        'model.roi_head.bbox_head.0.num_classes=80, but the dataset has 2',
        'num_classes=2',
    ),
    (
        'evaluator reads another file',
        attribute(split='val', evaluator_file='other.json'),
        'fatal',
        'evaluator-other-file',
        ON_CONFIG,
        'val_evaluator.ann_file is other.json',
        'same file',
    ),
    (
        'no iscrowd',
        lambda data: (data.first.pop('iscrowd'), attribute(split='val')(data)),
        'fatal',
        'annotations-lack-iscrowd',
        ON_FILE,
        '1 of 3 annotations lack iscrowd',
        "'iscrowd': 0",
    ),
    (
        'box of three numbers',
        annotate(bbox=[1, 2, 3]),
        'fatal',
        'box-malformed',
        ON_FILE,
        'annotation 1 of a.jpg: bbox [1, 2, 3] is not four numbers',
        'export',
    ),
    (
        'nan in a box',
        annotate(bbox=[1, 2, 3, float('nan')]),
        'fatal',
        'box-malformed',
        ON_FILE,
        'is not four numbers',
        'export',
    ),
    (
        'negative box',
        annotate(bbox=[20, 20, -8, 8]),
        'warning',
        'box-negative',
        ON_FILE,
        'annotation 1 of a.jpg: box [20, 20, -8, 8] has a negative side',
        'x, y, width, height',
    ),
    (
        'empty box',
        annotate(bbox=[20, 20, 0, 8]),
        'warning',
        'box-empty',
        ON_FILE,
        'less than a pixel: the object is left out',
        'x, y, width, height',
    ),
    (
        'box outside',
        annotate(bbox=[70, 8, 8, 8]),
        'warning',
        'box-outside',
        ON_FILE,
        'lies outside of 64x48',
        'correct it',
    ),
    (
        'box partly outside',
        annotate(bbox=[50, 8, 40, 8]),
        'warning',
        'box-partly-outside',
        ON_FILE,
        'reaches out of 64x48',
        'correct it',
    ),
    (
        'no area',
        annotate(area=0),
        'warning',
        'area-not-positive',
        ON_FILE,
        'area 0 is not positive: the object is left out',
        'area of mask',
    ),
    (
        'polygon of two points',
        annotate(segmentation=[[8, 8, 24, 24]]),
        'warning',
        'polygon-short',
        ON_FILE,
        '1 of 1 polygons are not three points or more: the object is left out',
        'draw them again',
    ),
    (
        'odd polygon',
        annotate(segmentation=[[8, 8, 24, 24, 8, 24, 9], [8, 8, 24, 8, 24, 24]]),
        'warning',
        'polygon-short',
        ON_FILE,
        '1 of 2 polygons are not three points or more: they are left out',
        'draw them again',
    ),
    (
        'flat polygon',
        annotate(segmentation=[8, 8, 24, 24, 8, 24]),
        'fatal',
        'mask-malformed',
        ON_FILE,
        'neither a list of polygons',
        'export',
    ),
    (
        'no mask',
        annotate(segmentation=[]),
        'fatal',
        'mask-absent',
        ON_FILE,
        'the pipeline loads masks',
        'without masks',
    ),
    (
        'rle of another size',
        rle(size=[WIDTH, HEIGHT]),
        'fatal',
        'mask-rle',
        ON_FILE,
        'size [64, 48] is not [height, width]',
        'encode',
    ),
    (
        'garbled rle',
        rle(counts='ab\x01'),
        'fatal',
        'mask-rle',
        ON_FILE,
        'counts are not run lengths',
        'encode',
    ),
    (
        'short rle',
        rle(counts=[5, 5]),
        'fatal',
        'mask-rle',
        ON_FILE,
        'counts cover 10 pixels of 3072',
        'encode',
    ),
    (
        'rle without counts',
        rle(counts=None),
        'warning',
        'mask-rle-incomplete',
        ON_FILE,
        'without size and counts',
        'encode',
    ),
    (
        'image without objects, left out',
        no_objects_in_first,
        'note',
        'images-left-out',
        ON_FILE,
        '1 of 3 images are left out',
        'filter_empty_gt=False',
    ),
    (
        'image without objects, kept',
        no_objects_kept,
        'note',
        'images-without-objects',
        ON_FILE,
        '1 of 3 images have no object and count as background',
        'filter_empty_gt=True',
    ),
    (
        'a crowd only',
        annotate(iscrowd=1),
        'warning',
        'images-crowd-only',
        ON_FILE,
        '1 of 3 images have crowds',
        'annotate single objects',
    ),
    (
        'crowds everywhere',
        replace_all('annotations', iscrowd=1),
        'fatal',
        'no-objects',
        ON_FILE,
        'none of the 3 images has an object',
        'iscrowd flags',
    ),
    (
        'boxes all outside',
        replace_all('annotations', bbox=[70, 8, 8, 8]),
        'fatal',
        'no-objects',
        ON_FILE,
        'none of the 3 images',
        'correct boxes',
    ),
    (
        'no image left',
        lambda data: data.content['annotations'].clear(),
        'fatal',
        'no-images',
        ON_FILE,
        'no image is left of 3 after filter_cfg',
        'relax filter_cfg',
    ),
    (
        'no annotation file',
        lambda data: (
            setattr(data, 'file', data.file.with_name('absent.json'))
            or setattr(data, 'content', None)
        ),
        'fatal',
        'data-absent',
        'absent.json',
        'does not exist',
        'correct data_root',
    ),
    (
        'another dataset type',
        attribute(ann_type='VOCDataset'),
        'warning',
        'not-checked',
        ON_CONFIG,
        'VOCDataset is not checked',
        'other means',
    ),
]


def check_case(data, case):
    _, damage, severity, kind, file, problem, remedy = case
    damage(data)
    (finding,) = [found for found in data.check() if found.kind == kind]
    assert finding.severity == severity
    assert finding.file.rsplit('/', 1)[-1] == file
    assert problem in finding.problem
    assert remedy in finding.remedy


@pytest.mark.parametrize('case', DETECTION, ids=lambda case: case[0])
def test_bad_detection_data(tmp_path, case):
    check_case(Coco(tmp_path), case)


def save_map(values, dtype=np.uint8):
    return lambda data: data.save('a.png', values, dtype)


def fill(*values, reduce=False):
    def damage(data):
        data.reduce = reduce
        data.save_all(*values)

    return damage


def palette_map(data):
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8), mode='P')
    image.putpalette([255, 0, 0])
    image.save(data.maps / 'a.png')
    data.load['imdecode_backend'] = 'cv2'


ONE = np.ones((HEIGHT, WIDTH))
SEGMENTATION = [
    (
        'one row',
        resized(64, 1),
        'fatal',
        'label-map-line',
        'a.png',
        'is 64x1: mmseg takes a side of one pixel away',
        'take its image out',
    ),
    (
        'no label map',
        lambda data: (data.maps / 'a.png').unlink(),
        'fatal',
        'label-map-absent',
        'a.png',
        'does not exist',
        'put it there',
    ),
    (
        'empty label map',
        lambda data: (data.maps / 'a.png').write_bytes(b''),
        'fatal',
        'label-map-empty',
        'a.png',
        'empty file',
        'copy it anew',
    ),
    (
        'unreadable label map',
        lambda data: (data.maps / 'a.png').write_bytes(b'no picture'),
        'fatal',
        'label-map-unreadable',
        'a.png',
        'is no image',
        'copy it anew',
    ),
    (
        'another size',
        save_map(np.zeros((HEIGHT, WIDTH // 2))),
        'fatal',
        'label-map-size',
        'a.png',
        'is 32x48, its image 64x48 as loaded',
        'nearest neighbour',
    ),
    (
        'exif turns the image only',
        exif_sideways,
        'fatal',
        'label-map-size',
        'a.png',
        'is 64x48, its image 48x64 as loaded',
        'nearest neighbour',
    ),
    (
        'colours',
        save_map(np.zeros((HEIGHT, WIDTH, 3))),
        'fatal',
        'label-map-rgb',
        'a.png',
        'has 3 channels: colours',
        'one channel of 8 bits',
    ),
    (
        'palette read as colours',
        palette_map,
        'fatal',
        'label-map-rgb',
        'a.png',
        'has 3 channels',
        "imdecode_backend='pillow'",
    ),
    (
        'sixteen bits',
        save_map(300 * ONE, np.uint16),
        'fatal',
        'label-map-deep',
        'a.png',
        'values from 300 to 300',
        'one channel of 8 bits',
    ),
    (
        'beyond the classes',
        save_map(7 * ONE),
        'fatal',
        'label-map-beyond',
        'a.png',
        'has the values 7, the 4 classes have 0..3',
        'add the classes',
    ),
    (
        'beyond by one',
        save_map(4 * ONE),
        'fatal',
        'label-map-beyond',
        'a.png',
        'has the values 4',
        'reduce_zero_label=True if classes count from 1',
    ),
    (
        'beyond, reduced',
        lambda data: (fill(1, 2, 3, 4, reduce=True)(data), data.save('a.png', 5 * ONE)),
        'fatal',
        'label-map-beyond',
        'a.png',
        'the 4 classes have 1..4, and 0 for none',
        'add the classes',
    ),
    (
        'all ignored',
        save_map(255 * ONE),
        'warning',
        'label-map-ignored',
        'a.png',
        'has no labelled pixel: its values 255',
        'take its image out',
    ),
    (
        '0 and 255',
        fill(0, 255),
        'fatal',
        'label-maps-0-255',
        'maps',
        '255 is ignored',
        'write 1 in place of 255',
    ),
    (
        'all maps ignored',
        fill(255),
        'fatal',
        'label-maps-ignored',
        'maps',
        'hold 255 only, all of it ignored',
        'class numbers',
    ),
    (
        'reduced zeros only',
        fill(0, reduce=True),
        'fatal',
        'label-maps-ignored',
        'maps',
        'hold 0 only',
        'reduce_zero_label=False',
    ),
    (
        'reduced without need',
        fill(0, 1, 2, 3, reduce=True),
        'warning',
        'reduce-zero-label-doubtful',
        'maps',
        'hold 0 (25% of the pixels), which reduce_zero_label=True ignores, and never 4',
        'reduce_zero_label=False',
    ),
    (
        'not reduced',
        fill(1, 2, 3, 4),
        'fatal',
        'reduce-zero-label-missing',
        'maps',
        'hold 1..4 and never 0',
        'reduce_zero_label=True',
    ),
    (
        'dataset and loading disagree',
        lambda data: data.load.update(reduce_zero_label=True),
        'fatal',
        'reduce-zero-label',
        'config',
        'LoadAnnotations has reduce_zero_label=True, its dataset False',
        'set both alike',
    ),
    (
        'no image of that suffix',
        attribute(suffix='.jpeg'),
        'fatal',
        'no-images',
        'images',
        "no file ends in '.jpeg'",
        'img_suffix',
    ),
    (
        'num_classes of the auxiliary head',
        lambda data: data.heads['auxiliary_head'][0].update(num_classes=150),
        'fatal',
        'num-classes',
        'config',
        'model.auxiliary_head.0.num_classes=150, but the dataset has 4',
        'num_classes=4',
    ),
    (
        'palette of another length',
        lambda data: data.settings['metainfo'].update(palette=[[0, 0, 0]]),
        'fatal',
        'dataset-fails',
        'config',
        'palette does not match classes',
        'correct its settings',
    ),
    (
        'no folder of label maps',
        attribute(maps=type('Absent', (), {'__str__': lambda self: '/absent/maps'})()),
        'fatal',
        'data-absent',
        'maps',
        '/absent/maps does not exist',
        'correct data_root',
    ),
]


@pytest.mark.parametrize('case', SEGMENTATION, ids=lambda case: case[0])
def test_bad_segmentation_data(tmp_path, case):
    check_case(Ade(tmp_path), case)


DATA_AND_CASES = [
    *((Data, case) for Data in (Coco, Ade) for case in IMAGES),
    *((Coco, case) for case in DETECTION),
    *((Ade, case) for case in SEGMENTATION),
]


@pytest.mark.parametrize(
    ('Data', 'case'),
    DATA_AND_CASES,
    ids=[f'{Data.__name__}-{case[0]}' for Data, case in DATA_AND_CASES],
)
def test_training_loads_every_image_or_stops_with_one_line(tmp_path, Data, case):
    data = Data(tmp_path)
    case[1](data)
    cfg = data.config()
    init_default_scope(cfg.default_scope)
    stopped = None
    try:
        check_data(cfg, data.split)
        dataloader = CheckedRunner.build_dataloader(cfg[f'{data.split}_dataloader'], seed=0)
        assert len(list(dataloader)) > 0
    except UserError as error:
        stopped = str(error)
    if stopped:
        assert len(stopped.splitlines()) == 1
        assert any(place in stopped for place in (str(tmp_path), 'absent', 'classes', 'reduce'))
        # What stops a run was called fatal; not all that is fatal stops a run.
        assert 'not-checked' in case or any(found.severity == 'fatal' for found in data.check())


@pytest.mark.parametrize('fast', [False, True])
@pytest.mark.parametrize('Data', [Coco, Ade])
def test_good_data_give_no_findings(tmp_path, Data, fast):
    assert Data(tmp_path).check(fast=fast) == []


def test_an_own_ignored_label_is_fine(tmp_path):
    data = Ade(tmp_path)
    data.save('a.png', 100 * ONE)
    data.settings['ignore_index'] = 100
    assert {found.severity for found in data.check()} == {'warning'}  # nothing else in that map
    init_default_scope('mmseg')
    settings = data.config().train_dataloader
    assert len(list(CheckedRunner.build_dataloader(settings, seed=0))) == 3


def test_rle_and_polygons_are_both_fine(tmp_path):
    data = Coco(tmp_path)
    rle()(data)
    assert data.check() == []


def test_compressed_run_lengths():
    # pycocotools writes them; here they are read by other code.
    for seed in range(20):
        mask = np.random.RandomState(seed).rand(37, 53) < seed / 20
        runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel('F'), [2]])))
        expected = np.diff(np.concatenate([[0], runs])).tolist()
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))['counts'].decode()
        assert _decode_counts(encoded) == expected


def test_fast_reads_headers_only(tmp_path):
    data = Coco(tmp_path)
    truncate(data)
    assert data.check(fast=True) == []
    (data.images / 'b.jpg').write_bytes(b'')
    assert [found.kind for found in data.check(fast=True)] == ['image-empty']


def test_processes_find_the_same(tmp_path):
    write_dataset(tmp_path, 40, 2, size=64)
    root = tmp_path / 'ade/ADEChallengeData2016'
    next((root / 'images/training').iterdir()).write_bytes(b'')
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        img_suffix='.png',
        reduce_zero_label=True,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        metainfo=dict(classes=('background', 'circle')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))
    steps = []
    alone = check_split(cfg, 'train')
    assert check_split(cfg, 'train', workers=2, progress=lambda *step: steps.append(step)) == alone
    assert steps == [(done, 40) for done in range(41)]
    assert {'image-empty', 'label-map-beyond'} <= {found.kind for found in alone[0]}


def test_processes_do_not_wait_for_threads_of_this_one(tmp_path):
    """OpenCV's threads are not in a forked process, which must not wait for them."""
    cv2 = pytest.importorskip('cv2')
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.connectedComponentsWithStats(np.random.RandomState(0).randint(0, 2, (2000, 2000), 'u1'))
        write_dataset(tmp_path, 40, 2, size=64)
        folder = tmp_path / 'ade/ADEChallengeData2016'
        dataset = dict(
            type='BaseSegDataset',
            data_root=str(folder),
            img_suffix='.png',
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            metainfo=dict(classes=('background', 'circle')),
            pipeline=[dict(type='LoadImageFromFile')],
        )
        cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))
        assert check_split(cfg, 'train', workers=2)[1] == 40
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize('fast', [False, True])
def test_large_label_maps_are_checked(tmp_path, monkeypatch, fast):
    Image.fromarray(np.eye(30, dtype=np.uint8)).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    findings, values = check_label_map(str(tmp_path / 'a.png'), (30, 30), LabelLoading(2), fast)
    assert not findings
    assert values == ({} if fast else {0: 870, 1: 30})
    # As training loads it.
    dataset = SimpleNamespace(
        metainfo=dict(classes=('a', 'b')), reduce_zero_label=False, label_map=None, ignore_index=255
    )
    load = TRANSFORMS.build(dict(type='mmseg.LoadAnnotations'))
    results = dict(seg_map_path=str(tmp_path / 'a.png'), seg_fields=[], reduce_zero_label=False)
    loaded = CheckedLoading(load, dataset)({**results, 'ori_shape': (30, 30), 'label_map': None})
    assert loaded['gt_seg_map'].sum() == 30


@pytest.mark.parametrize(
    'content', [b'\x89PNG\r\n\x1a\nxx', b'BM' + bytes(40), b'GIF89a' + bytes(9)]
)
def test_damage_is_told_in_words(tmp_path, content):
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    findings, _ = check_image(str(path), ImageLoading())
    more, _ = check_label_map(str(path), None, LabelLoading(2))
    for finding in [*findings, *more]:
        assert finding.severity == 'fatal'
        assert not re.search(r'Error|-215|\(\)|Exception', finding.problem)


def test_boxes_are_told_in_short_numbers(tmp_path):
    content = dict(
        images=[dict(id=0, file_name='a.jpg', width=90, height=90)],
        annotations=[
            dict(id=0, image_id=0, category_id=0, bbox=[1 / 3, 2 / 3, -8.1 / 7, 9.0], area=1)
        ],
        categories=[dict(id=0, name='x')],
    )
    findings = check_annotations(content, 'a.json', ['x'])
    assert [f.problem.split(': ')[1] for f in findings if f.kind == 'box-negative'] == [
        'box [0.333333, 0.666667, -1.15714, 9] has a negative side'
    ]
