"""Folders of every format give what is in them, against pycocotools and pixels drawn by hand."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmlab_inline.datasets import write_dataset
from mmlab_inline.own_data.readers import (
    arrange_splits,
    draw_label_map,
    has_masks,
    read_folder,
    write_coco,
    write_label_maps,
)
from mmlab_inline.own_data.readers.label_names import read_names, resolve_coding
from mmlab_inline.own_data.readers.split import exact_duplicates
from mmlab_inline.utils import UserError

pytest.importorskip('mmcv')

WIDTH, HEIGHT = 120, 80
POLYGONS = {  # corners in pixels, class
    'a': [([(10, 10), (50, 10), (50, 60)], 1), ([(60, 20), (110, 20), (110, 70), (60, 70)], 0)],
    'b': [([(5, 5), (35, 8), (30, 70), (8, 60)], 1)],
    'c': [],
}


def photograph(path, seed=0, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco_content(names=('a', 'b'), categories=('cat', 'dog')):
    """Two pictures with one box each."""
    return dict(
        images=[
            dict(id=i, file_name=f'{name}.jpg', width=WIDTH, height=HEIGHT)
            for i, name in enumerate(names)
        ],
        annotations=[
            dict(id=i, image_id=i, category_id=i % 2, bbox=[10, 10, 20, 30])
            for i in range(len(names))
        ],
        categories=[dict(id=i, name=name) for i, name in enumerate(categories)],
    )


def read_back(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_coco_comes_out_as_it_went_in(tmp_path):
    write_dataset(tmp_path, 3, 2, size=96)
    data = read_folder(tmp_path / 'coco', 'det')
    assert {split: len(pictures) for split, pictures in data.splits.items()} == dict(train=3, val=2)
    assert has_masks(data)
    for split in data.splits:
        write_coco(tmp_path / 'own.json', data, data.splits[split])
        given = read_back(tmp_path / f'coco/annotations/instances_{split}2017.json')
        own = read_back(tmp_path / 'own.json')
        names = {image['file_name']: image['id'] for image in given.imgs.values()}
        assert sorted(own.cats) == list(range(1, len(own.cats) + 1))
        assert len(own.anns) == len(given.anns) > 0
        for image in own.imgs.values():
            assert (data.root / image['file_name']).is_file()
            number = names[image['file_name'].split('/')[-1]]
            pairs = zip(own.imgToAnns[image['id']], given.imgToAnns[number], strict=True)
            for mine, theirs in pairs:
                name = given.cats[theirs['category_id']]['name']
                assert own.cats[mine['category_id']]['name'] == name
                assert mine['area'] == given.annToMask(theirs).sum()
                assert mine['bbox'] == theirs['bbox']
                assert (own.annToMask(mine) == given.annToMask(theirs)).all()


def test_what_coco_exports_lack_or_have_too_much(tmp_path):
    content = coco_content()
    # Roboflow's grouping category, whose id 0 no object has; Label Studio's and Windows's paths.
    names = {0: 'pets', 7: 'dog', 3: 'cat'}
    content['categories'] = [dict(id=number, name=name) for number, name in names.items()]
    content['images'][0]['file_name'] = '../../upload/1/a.jpg'
    content['images'][1]['file_name'] = 'C:\\data\\b.jpg'
    del content['images'][1]['width'], content['annotations'][0]['bbox']
    content['annotations'][0].update(category_id=7, segmentation=[[10, 10, 50, 10, 50, 60, 10, 60]])
    content['annotations'][1].update(category_id=3)
    write_json(tmp_path / 'result.json', content)
    for seed, name in enumerate('ab'):
        photograph(tmp_path / f'images/{name}.jpg', seed)
    data = read_folder(tmp_path, 'det')
    assert data.classes == ['cat', 'dog']
    assert 'pets' in data.notes[0]
    (first,), (second,) = (picture.objects for picture in data.splits[None])
    assert (first['label'], first['bbox'], first['area']) == (1, [10, 10, 40, 50], 2000)
    assert (second['label'], second['area'], second['iscrowd']) == (0, 600, 0)
    assert data.splits[None][1].size == (HEIGHT, WIDTH)
    assert not has_masks(data)
    assert read_folder(tmp_path, 'det', keep_empty=True).classes == ['pets', 'cat', 'dog']


def yolo_folder(root, boxes=False, splits=('',)):
    for number, split in enumerate(splits):
        for seed, (name, objects) in enumerate(POLYGONS.items()):
            photograph(root / f'images/{split}/{name}.jpg', seed + 10 * number)
            lines = []
            for points, label in objects:
                numbers = [n for x, y in points for n in (x / WIDTH, y / HEIGHT)]
                if boxes:
                    xs, ys = zip(*points, strict=True)
                    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
                    numbers = [
                        (left + right) / 2 / WIDTH,
                        (top + bottom) / 2 / HEIGHT,
                        (right - left) / WIDTH,
                        (bottom - top) / HEIGHT,
                    ]
                lines.append(' '.join(map(str, [label, *numbers])))
            if lines:
                path = root / f'labels/{split}/{name}.txt'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text('\n'.join(lines) + '\n')
    (root / 'data.yaml').write_text('names: {0: cat, 1: dog}\nnc: 2\n')


@pytest.mark.parametrize('boxes', [False, True])
def test_yolo(tmp_path, boxes):
    yolo_folder(tmp_path, boxes, splits=('train', 'val'))
    data = read_folder(tmp_path, 'det')
    assert (data.format, data.classes, data.notes) == ('YOLO', ['cat', 'dog'], [])
    assert {split: len(pictures) for split, pictures in data.splits.items()} == dict(train=3, val=3)
    assert has_masks(data) is not boxes
    write_coco(tmp_path / 'own.json', data, data.splits['train'])
    own = read_back(tmp_path / 'own.json')
    for image in own.imgs.values():
        objects = POLYGONS[image['file_name'].split('/')[-1][0]]
        assert len(own.imgToAnns[image['id']]) == len(objects)
        for item, (points, label) in zip(own.imgToAnns[image['id']], objects, strict=True):
            corners = np.array(points)
            extent = [*corners.min(0), *(corners.max(0) - corners.min(0))]
            assert np.allclose(item['bbox'], extent)
            assert own.cats[item['category_id']]['name'] == data.classes[label]
            code = coco_mask.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH)
            area = extent[2] * extent[3] if boxes else coco_mask.area(code)[0]
            assert item['area'] == pytest.approx(area, rel=1e-6)


@pytest.mark.parametrize(
    ('content', 'classes'),
    [
        ("names: {'0': cat, '1': dog}", ['cat', 'dog']),
        ('\ufeffnames: [Kätzchen, "big, brown dog"]', ['Kätzchen', 'big, brown dog']),
    ],
)
def test_names_of_yolo(tmp_path, content, classes):
    yolo_folder(tmp_path)
    (tmp_path / 'data.yaml').write_text(content, encoding='utf-8')
    assert read_folder(tmp_path, 'det').classes == classes
    (tmp_path / 'data.yaml').unlink()
    (tmp_path / 'classes.txt').write_text('\n'.join(['\ufeff' + classes[0], classes[1]]))
    assert read_folder(tmp_path, 'det').classes == classes


def test_yolo_files_of_windows(tmp_path):
    """A mark of UTF-8 before the first number, blanks and other letters in the names."""
    yolo_folder(tmp_path, boxes=True)
    for path in (tmp_path / 'images/b.jpg', tmp_path / 'labels/b.txt'):
        path.rename(path.with_stem('Foto Übung, 2'))
    path = tmp_path / 'labels/Foto Übung, 2.txt'
    path.write_text('\ufeff' + path.read_text(), encoding='utf-8')
    found = {p.path.stem: len(p.objects) for p in read_folder(tmp_path, 'det').pictures()}
    assert found == {'a': 2, 'Foto Übung, 2': 1, 'c': 0}


def voc_object(name, left, top, right, bottom, difficult=0):
    corners = dict(xmin=left, ymin=top, xmax=right, ymax=bottom)
    box = ''.join(f'<{side}>{value}</{side}>' for side, value in corners.items())
    return (
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox>'
        '</object>'
    )


def test_voc_boxes_hold_their_pixels(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[9:40, 19:60] = 1  # pixels 20..60 and 10..40 counted from 1
    (tmp_path / 'Annotations').mkdir()
    for seed, name in enumerate('abc'):
        photograph(tmp_path / f'JPEGImages/{name}.jpg', seed)
        objects = voc_object('dog', 20, 10, 60, 40) + voc_object('cat', 1, 1, 120, 80, 1)
        xml = f'<annotation><filename>old.jpg</filename>{objects}</annotation>'
        (tmp_path / f'Annotations/{name}.xml').write_text(xml)
    lists = tmp_path / 'ImageSets/Main'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('a\n')
    (lists / 'val.txt').write_text('b\n')
    data = read_folder(tmp_path, 'det')
    assert data.classes == ['cat', 'dog']
    assert [p.path.name for p in data.splits['train'] + data.splits['val']] == ['a.jpg', 'b.jpg']
    assert data.notes == ['pictures in no list of ImageSets/Main, left out: 1']
    dog, cat = data.splits['train'][0].objects
    assert dog['bbox'] == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist()
    assert dog['area'] == mask.sum()
    assert (cat['bbox'], cat['iscrowd']) == ([0, 0, WIDTH, HEIGHT], 1)


def test_voc_names_with_blanks(tmp_path):
    names = 'photo 1', 'photo 2', 'photo'
    for seed, name in enumerate(names):
        photograph(tmp_path / f'{name}.jpg', seed)
        xml = f'<annotation>{voc_object("dog", 20, 10, 60, 40)}</annotation>'
        (tmp_path / f'{name}.xml').write_text(xml)
    lists = tmp_path / 'ImageSets/Main'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('photo\n"photo 1"\n')
    (lists / 'val.txt').write_text('photo 2\n')
    splits = read_folder(tmp_path, 'det').splits
    found = {split: {p.path.stem for p in pictures} for split, pictures in splits.items()}
    assert found == {'train': {'photo', 'photo 1'}, 'val': {'photo 2'}}


def test_voc_sizes_are_the_annotated_ones(tmp_path):
    """So that checks tell a picture that is loaded otherwise, such as turned by its EXIF data."""
    size = '<size><width>{}</width><height>{}</height><depth>3</depth></size>'
    for name, (width, height) in {'a': (300, 200), 'b': (0, 0)}.items():
        photograph(tmp_path / f'{name}.jpg', ord(name))
        xml = size.format(width, height) + voc_object('dog', 20, 10, 60, 40)
        (tmp_path / f'{name}.xml').write_text(f'<annotation>{xml}</annotation>')
    found = {p.path.stem: p.size for p in read_folder(tmp_path, 'det').pictures()}
    assert found == {'a': (200, 300), 'b': (HEIGHT, WIDTH)}


def test_both_tasks_of_a_whole_voc_folder(tmp_path):
    """Pictures of one name in four folders."""
    palette = np.random.RandomState(0).randint(0, 256, 768).tolist()
    for folder in ('SegmentationClass', 'SegmentationObject'):
        (tmp_path / folder).mkdir()
        for name in 'ab':
            image = Image.fromarray(stripes(0, 1, 255)).convert('P')
            image.putpalette(palette)
            image.save(tmp_path / folder / f'{name}.png')
    (tmp_path / 'Annotations').mkdir()
    for seed, name in enumerate('abc'):
        photograph(tmp_path / f'JPEGImages/{name}.jpg', seed)
        xml = f'<annotation>{voc_object("dog", 20, 10, 60, 40)}</annotation>'
        (tmp_path / f'Annotations/{name}.xml').write_text(xml)
    for kind, names in (('Main', 'abc'), ('Segmentation', 'ab')):
        (tmp_path / 'ImageSets' / kind).mkdir(parents=True)
        for split, name in zip(('train', 'val', 'test'), names, strict=False):
            (tmp_path / 'ImageSets' / kind / f'{split}.txt').write_text(f'{name}\n')
    boxes, maps = read_folder(tmp_path, 'det'), read_folder(tmp_path, 'seg', classes=['no', 'dog'])
    for data, names in ((boxes, 'abc'), (maps, 'ab')):
        found = {split: [p.path.name for p in parts] for split, parts in data.splits.items()}
        expected = zip(('train', 'val', 'test'), names, strict=False)
        assert found == {split: [f'{name}.jpg'] for split, name in expected}
    assert maps.format == 'label maps'
    assert (draw_label_map(maps, maps.splits['val'][0]) == stripes(0, 1, 255)).all()


def label_map_folder(root, values, mode='L', tail='', names='ab', palette=None):
    for seed, name in enumerate(names):
        photograph(root / f'images/{name}.jpg', seed)
        image = Image.fromarray(values)
        if palette:
            image = image.convert('P')
            image.putpalette(palette)
        path = root / f'masks/{name}{tail}.png'
        path.parent.mkdir(exist_ok=True)
        image.save(path)


def stripes(*values):
    """Values in vertical stripes of equal width."""
    return np.repeat(np.array(values, np.uint8), WIDTH // len(values))[None].repeat(HEIGHT, 0)


@pytest.mark.parametrize(
    ('names', 'values', 'zero', 'classes', 'labels'),
    [
        # Names without values: counted from 0, or from 1 with 0 ignored, as in ADE20K.
        (['x', 'y', 'z'], (0, 1, 2), None, ['x', 'y', 'z'], (0, 1, 2)),
        (['x', 'y', 'z'], (0, 1, 3), None, ['x', 'y', 'z'], (255, 0, 2)),
        (['x', 'y', 'z'], (0, 1, 3), 'background', ['background', 'x', 'y', 'z'], (0, 1, 3)),
        (['x', 'y'], (0, 0, 0, 1, 2), None, ['background', 'x', 'y'], (0, 0, 0, 1, 2)),
        ({1: 'x', 2: 'y'}, (1, 2, 255), None, ['x', 'y'], (0, 1, 255)),
        ({3: 'x', 7: 'y'}, (3, 7, 7), None, ['x', 'y'], (0, 1, 1)),
        # One class and its background.
        (['x'], (0, 1), None, ['background', 'x'], (0, 1)),
        (['x'], (0, 255), None, ['background', 'x'], (0, 1)),
        (['x', 'y'], (0, 255), None, ['x', 'y'], (0, 1)),
        (None, (0, 255), None, ['background', 'foreground'], (0, 1)),
        # No name at all.
        (None, (2, 5, 255), None, ['class_2', 'class_5'], (0, 1, 255)),
    ],
)
def test_values_of_label_maps(tmp_path, names, values, zero, classes, labels):
    label_map_folder(tmp_path, stripes(*values), tail='_mask')
    if isinstance(names, dict):
        rows = ''.join(f'{value}, {name}\n' for value, name in names.items())
        (tmp_path / '_classes.csv').write_text('Pixel Value, Class\n' + rows)
    data = read_folder(
        tmp_path, 'seg', None, names if isinstance(names, list) else None, zero, keep_empty=True
    )
    assert data.classes == classes
    write_label_maps(tmp_path / 'out', data)
    written = np.array(Image.open(tmp_path / 'out/images/a.jpg.png'))
    assert (written == stripes(*labels)).all()
    counted = {label for label in labels if label != 255}
    assert set(data.splits[None][0].pixels) == counted


def test_coloured_label_maps(tmp_path):
    colours = {'sky': (0, 0, 255), 'background': (0, 0, 0), 'road': (90, 60, 30)}
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:20], pixels[20:30] = colours['sky'], colours['road']
    pixels[30:32] = 224, 224, 192  # VOC's border
    label_map_folder(tmp_path, pixels)
    with pytest.raises(UserError, match=r'is RGB: colours, .*labelmap\.txt'):
        read_folder(tmp_path, 'seg')
    lines = [f'{name}:{",".join(map(str, colour))}::' for name, colour in colours.items()]
    (tmp_path / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\n' + '\n'.join(lines))
    data = read_folder(tmp_path, 'seg')
    assert data.classes == ['background', 'sky', 'road']
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:20], expected[20:30] = data.classes.index('sky'), data.classes.index('road')
    expected[30:32] = 255
    assert (draw_label_map(data, data.splits[None][0]) == expected).all()
    # A picture of one class alone may be saved as grey.
    Image.new('L', (WIDTH, HEIGHT)).save(tmp_path / 'masks/b.png')
    data = read_folder(tmp_path, 'seg')
    assert set(data.splits[None][1].pixels) == {0}
    assert (draw_label_map(data, data.splits[None][1]) == 0).all()


@pytest.mark.parametrize(
    ('colours', 'values', 'classes', 'labels'),
    [
        # As CVAT writes them, in any order; black is what the file says it is.
        (('road:255', 'background:0'), (0, 255), ['background', 'road'], (0, 1)),
        (('road:0', 'sky:255'), (0, 255), ['road', 'sky'], (0, 1)),
        (('sky:255', 'road:0'), (0, 255), ['sky', 'road'], (1, 0)),
        (('c:255', 'a:0', 'b:128'), (0, 128, 255), ['c', 'a', 'b'], (1, 2, 0)),
        (('b:2', 'a:1', 'c:0'), (0, 1, 2, 255), ['b', 'a', 'c'], (2, 1, 0, 255)),
        # Not named: as with names alone.
        (('x:0', 'y:128'), (0, 255), ['x', 'y'], (0, 1)),
        (('x:0', 'y:128'), (0, 1), ['x', 'y'], (0, 1)),
    ],
)
def test_greys_are_what_the_file_of_colours_says(tmp_path, colours, values, classes, labels):
    label_map_folder(tmp_path, stripes(*values))
    lines = [f'{name}:{grey},{grey},{grey}::' for name, grey in (c.split(':') for c in colours)]
    (tmp_path / 'labelmap.txt').write_text('\n'.join(lines))
    data = read_folder(tmp_path, 'seg')
    assert data.classes == classes
    assert (draw_label_map(data, data.splits[None][0]) == stripes(*labels)).all()


def test_grey_in_three_channels_is_a_number(tmp_path):
    label_map_folder(tmp_path, np.stack([stripes(0, 1, 2)] * 3, -1))
    data = read_folder(tmp_path, 'seg', classes=['x', 'y', 'z'])
    assert (draw_label_map(data, data.splits[None][0]) == stripes(0, 1, 2)).all()


def test_palette_images_hold_numbers(tmp_path):
    label_map_folder(tmp_path, stripes(0, 1, 2), palette=[10, 20, 30, 40, 50, 60, 70, 80, 90])
    data = read_folder(tmp_path, 'seg', classes=['x', 'y', 'z'])
    assert (draw_label_map(data, data.splits[None][0]) == stripes(0, 1, 2)).all()


def test_names_of_ade20k(tmp_path):
    path = tmp_path / 'objectInfo150.txt'
    path.write_text('Idx\tRatio\tTrain\tVal\tName\n1\t.1\t2\t3\twall\n2\t.1\t2\t3\tbed, cot\n')
    assert read_names(path) == {1: 'wall', 2: 'bed, cot'}
    classes, coding, _ = resolve_coding(read_names(path), {0: 0.1, 1: 0.5, 2: 0.4}, None, 'a')
    assert (classes, coding) == (['wall', 'bed, cot'], {0: 255, 1: 0, 2: 1, 255: 255})


def test_label_maps_out_of_polygons(tmp_path):
    yolo_folder(tmp_path)
    data = read_folder(tmp_path, 'seg')
    assert data.classes == ['background', 'cat', 'dog']
    drawn = draw_label_map(data, data.splits[None][0])
    image = Image.new('L', (WIDTH, HEIGHT))
    for points, label in POLYGONS['a']:
        ImageDraw.Draw(image).polygon(points, fill=label + 1)
    # Two programs fill polygons; they may differ along the edges.
    assert (drawn != np.array(image)).mean() < 0.02
    assert data.splits[None][0].pixels.total() == WIDTH * HEIGHT
    assert set(data.splits[None][2].pixels) == {0}


def test_smaller_objects_lie_on_top(tmp_path):
    content = coco_content(['a'])
    square = dict(id=0, image_id=0, category_id=1, segmentation=[[20, 20, 40, 20, 40, 40, 20, 40]])
    whole = dict(id=1, image_id=0, category_id=0, segmentation=[[0, 0, 120, 0, 120, 80, 0, 80]])
    content['annotations'] = [square, whole]
    write_json(tmp_path / 'a.json', content)
    photograph(tmp_path / 'a.jpg')
    data = read_folder(tmp_path, 'seg')
    expected = np.full((HEIGHT, WIDTH), 1)
    expected[20:40, 20:40] = 2
    assert (draw_label_map(data, data.splits[None][0]) == expected).all()


@pytest.fixture
def many(tmp_path):
    """Twenty pictures: class dog in two, cat in the others; two pairs of copies."""
    content = coco_content([f'{number:02}' for number in range(20)])
    for item in content['annotations']:
        item['category_id'] = int(item['image_id'] in (3, 11))
    for number in range(20):
        photograph(tmp_path / f'{number:02}.jpg', number % 18)  # 18 and 19 are 0 and 1 again
    write_json(tmp_path / 'all.json', content)
    return tmp_path


def test_split(many):
    first, again, other = (read_folder(many, 'det') for _ in range(3))
    arrange_splits(first, 0.2, seed=0)
    arrange_splits(again, 0.2, seed=0)
    arrange_splits(other, 0.2, seed=1)
    names = [
        {split: [p.path.name for p in pictures] for split, pictures in data.splits.items()}
        for data in (first, again, other)
    ]
    assert names[0] == names[1] != names[2]
    for split in names:
        train, val = set(split['train']), set(split['val'])
        assert not train & val
        assert len(train | val) == 20
        assert len(val) == 4
        assert len({'00.jpg', '18.jpg'} & val) in (0, 2)
        assert len({'01.jpg', '19.jpg'} & val) in (0, 2)
        assert len({'03.jpg', '11.jpg'} & val) == 1  # the rare class is on both sides
    assert exact_duplicates(list(read_folder(many, 'det').pictures())) == [[0, 18], [1, 19]]


def test_splits_of_the_folder_are_kept(tmp_path):
    yolo_folder(tmp_path, splits=('train', 'valid', 'test'))
    data = read_folder(tmp_path, 'det')
    assert arrange_splits(data, 0.2) == []
    assert {split: len(p) for split, p in data.splits.items()} == dict(train=3, val=3, test=3)
    shutil.copy(tmp_path / 'images/train/a.jpg', tmp_path / 'images/valid/b.jpg')
    (note,) = arrange_splits(read_folder(tmp_path, 'det'), 0.2)
    assert 'in both train and val: 1' in note
    data = read_folder(tmp_path, 'det')
    arrange_splits(data, 0.4, anew=True)
    assert {split: len(p) for split, p in data.splits.items()} == dict(train=5, val=4)


def test_a_test_split_stands_in_for_val(tmp_path):
    yolo_folder(tmp_path, splits=('train', 'test'))
    data = read_folder(tmp_path, 'det')
    (note,) = arrange_splits(data, 0.2)
    assert 'no val split' in note
    assert data.splits.keys() == {'train', 'val'}
    assert data.splits['val'][0].path.parent.name == 'test'


def no_picture(root):
    write_json(root / 'a.json', coco_content())


def no_annotation(root):
    photograph(root / 'a.jpg')


def missing_picture(root):
    write_json(root / 'a.json', coco_content())
    photograph(root / 'a.jpg')


def two_formats(root):
    yolo_folder(root)
    write_json(root / 'a.json', coco_content())


def lacking_key(root):
    content = coco_content()
    del content['annotations'][1]['image_id']
    write_json(root / 'a.json', content)
    photograph(root / 'a.jpg', 0)
    photograph(root / 'b.jpg', 1)


def two_files(root):
    for name in ('x', 'y'):
        write_json(root / f'{name}.json', coco_content())
    photograph(root / 'a.jpg')


def one_name_twice(root):
    write_json(root / 'x.json', coco_content(['a']))
    photograph(root / 'one/a.jpg')
    photograph(root / 'two/a.jpg')


def yolo_file(text):
    def make(root):
        yolo_folder(root)
        (root / 'labels/b.txt').write_text(text)

    return make


def maps_only(root):
    label_map_folder(root, stripes(0, 1))


def map_beyond(root):
    label_map_folder(root, stripes(0, 1, 9))
    (root / 'classes.txt').write_text('x\ny\n')


def map_size(root):
    label_map_folder(root, stripes(0, 1)[:-1])


def maps_apart(root):
    photograph(root / 'images/a.jpg')
    photograph(root / 'masks/b.png')


def boxes_only(root):
    yolo_folder(root, boxes=True)


def torn_picture(root):
    yolo_folder(root)
    (root / 'images/a.jpg').write_bytes(b'no image')


COMMAS = '0 .5 .5 .2 .2\n0 0,5 0,5 .1 .1\n'


def yolo_comma_without_names(root):
    yolo_file(COMMAS)(root)
    (root / 'data.yaml').unlink()


def yolo_latin(root):
    yolo_folder(root)
    (root / 'data.yaml').unlink()
    (root / 'classes.txt').write_bytes('Kätzchen\nHund'.encode('latin-1'))


def yolo_names(content):
    def make(root):
        yolo_folder(root)
        (root / 'data.yaml').write_bytes(content.encode('latin-1'))

    return make


def voc(box=None, head=b'', size=''):
    def make(root):
        photograph(root / 'a.jpg')
        box_xml = box or voc_object('dog', 20, 10, 60, 40)
        xml = f'<annotation>{size}{box_xml}</annotation>'
        (root / 'a.xml').write_bytes(head + xml.encode())

    return make


def altered_coco(**changes):
    """With an annotation altered, or a list replaced."""

    def make(root):
        content = coco_content()
        for key, value in changes.items():
            if key in content:
                content[key] = value
            else:
                content['annotations'][1][key] = value
        write_json(root / 'a.json', content)
        photograph(root / 'a.jpg', 0)
        photograph(root / 'b.jpg', 1)

    return make


def torn_split(root):
    write_json(root / 'train/a.json', coco_content(['a']))
    photograph(root / 'train/a.jpg', 0)
    (root / 'val').mkdir()
    (root / 'val/a.json').write_text(json.dumps(coco_content(['b']))[:-9])
    photograph(root / 'val/b.jpg', 1)


def no_categories(root):
    content = coco_content(['a'])
    del content['categories']
    write_json(root / 'a.json', content)
    photograph(root / 'a.jpg')


def jpeg_map(root):
    label_map_folder(root, stripes(0, 1, 2))
    for path in (root / 'masks').iterdir():
        Image.open(path).save(path.with_suffix('.jpg'))
        path.unlink()


def colour_of_two(root):
    label_map_folder(root, stripes(0, 1))
    (root / 'labelmap.txt').write_text('road:255,255\nsky:0,0\n')


@pytest.mark.parametrize(
    ('task', 'make', 'words'),
    [
        ('det', no_picture, 'holds no picture'),
        ('det', no_annotation, 'holds 1 picture but no annotations as COCO'),
        ('det', missing_picture, r'1 of the 2 pictures that a\.json names .* such as b\.jpg; put'),
        ('det', two_formats, r'coco \(a\.json\), yolo \(labels/a\.txt\); choose one by --format'),
        ('det', altered_coco(annotations=[]), 'none of the 2 pictures .* has any object; annotate'),
        ('det', altered_coco(category_id=9), 'annotation 1 has category_id 9, which .*; export'),
        ('det', lacking_key, 'is damaged .*image_id.*; export'),
        ('det', two_files, r'x\.json and y\.json both hold annotations .*; move one'),
        ('det', one_name_twice, r'a\.jpg, which may be one/a\.jpg or two/a\.jpg; give'),
        (
            'det',
            yolo_file('2 .5 .5 .1 .1\n'),
            r'b\.txt line 1 is of class 2, but there are names for 2',
        ),
        (
            'det',
            yolo_file('1 50 50 10 10\n'),
            'holds 50: YOLO has parts of the picture, not pixels; divide',
        ),
        ('det', yolo_file('1 .5 .5 .1\n'), 'is neither "class x y width height" nor .*; export'),
        ('det', maps_only, 'do not tell objects apart; use --task seg'),
        ('seg', map_beyond, r'hold the value 9 \(33.33% of the pixels\), which is none of the 2'),
        ('seg', map_size, '120x79, its picture 120x80; resize'),
        ('seg', maps_apart, 'none of the 1 pictures .* has a label map; give both the same name'),
        ('seg', boxes_only, 'objects without a mask.* use --task det'),
        ('det', torn_picture, r'a\.jpg is no image'),
        ('det', yolo_file(COMMAS), r'b\.txt line 2 is neither "class x y width height" nor'),
        ('det', yolo_comma_without_names, r'b\.txt line 2 is neither'),
        ('det', yolo_file('0 .5 nan .2 .2\n'), r'b\.txt line 1 holds nan'),
        ('det', yolo_latin, r'classes\.txt is not UTF-8; save'),
        ('det', yolo_names('names:'), r'data\.yaml has no list of names; write'),
        ('det', yolo_names('names: cat'), r'data\.yaml has no list of names; write'),
        ('det', yolo_names('names: {}'), r'data\.yaml has no list of names; write'),
        ('det', yolo_names('names: {a: cat}'), r'data\.yaml has no list of names; write'),
        ('det', yolo_names('names: [Kätzchen]'), r'data\.yaml has no list of names; write'),
        ('det', voc(voc_object('dog', '1,5', 1, 9, 9)), r"<xmin> is '1,5', which is no number"),
        ('det', voc(voc_object('dog', 1, 1, 'nan', 9)), "<xmax> is 'nan', which is no number"),
        ('det', voc(size='<size><width>a</width></size>'), "<size/width> is 'a', which is no"),
        ('det', voc(head=b'<?xml version="1.0" encoding="gbk"?>'), r'a\.xml is no XML in UTF-8'),
        ('det', altered_coco(categories=[dict(id=0)]), r'is damaged .*name.*; export'),
        ('det', altered_coco(categories=['cat']), 'is damaged .*; export'),
        ('det', altered_coco(bbox=[1, 2, 3]), 'is damaged .*; export'),
        (
            'det',
            altered_coco(segmentation=[['x'] * 6]),
            "polygon is 'x', which is no number; export",
        ),
        (
            'det',
            altered_coco(images=[dict(id=1, file_name=f'{name}.jpg') for name in 'ab']),
            'several images have the id 1; export',
        ),
        ('det', torn_split, r'val/a\.json is no JSON; export it again'),
        ('det', no_categories, r'no annotations as COCO \(\.json with .* categories\)'),
        ('seg', jpeg_map, r'masks/a\.jpg is JPEG, which alters values; export'),
        ('seg', colour_of_two, r'labelmap\.txt does not tell what label maps mean; write'),
    ],
)
def test_bad_folders(tmp_path, task, make, words):
    make(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        read_folder(tmp_path, task)
    assert '\n' not in str(error.value)
    assert ';' in str(error.value) or make is no_picture


def test_one_picture_cannot_be_split(tmp_path):
    write_json(tmp_path / 'a.json', coco_content(['a', 'b']))
    photograph(tmp_path / 'a.jpg')
    photograph(tmp_path / 'b.jpg')  # the same again
    with pytest.raises(UserError, match='at least two are needed'):
        arrange_splits(read_folder(tmp_path, 'det'), 0.2)
