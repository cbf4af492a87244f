"""What tools write beside the rule: numbers, lists, key points, groups, nearly binary masks."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from mmlab_inline.own_data.readers import arrange_splits, draw_label_map, has_masks, read_folder
from mmlab_inline.own_data.readers.label_names import resolve_coding
from mmlab_inline.utils import UserError

from .test_readers import (
    HEIGHT,
    WIDTH,
    altered_coco,
    coco_content,
    label_map_folder,
    photograph,
    stripes,
    voc_object,
    write_json,
    yolo_folder,
)

pytest.importorskip('mmcv')

SQUARE = [[10, 10, 50, 10, 50, 60, 10, 60]]


def names_of(data):
    return {split: sorted(p.path.stem for p in pics) for split, pics in data.splits.items()}


def boxes_of(data):
    return [item['bbox'] for picture in data.pictures() for item in picture.objects]


def yolo(root, *lines, names='names: [cat, dog]', count=3):
    """The same lines for each picture."""
    for number in range(count):
        photograph(root / f'images/{number}.jpg', number)
        (root / 'labels').mkdir(exist_ok=True)
        (root / f'labels/{number}.txt').write_text('\n'.join(lines))
    (root / 'data.yaml').write_text(names)


BOX = '.5 .5 .4 .6'
POSES = {
    'marked': f'1 {BOX} .4 .4 2 .6 .7 1 0 0 0 .5 .5 2',
    'odd': f'1 {BOX} .4 .4 1 .6 .7 1 .5 .5 0',
    'astray': f'1 {BOX} .1 .1 2 .9 .9 1',  # points out of the box
    'plain': f'1 {BOX} .4 .4 .6 .7 .5 .5',
}


@pytest.mark.parametrize(
    ('line', 'yaml', 'form', 'pose'),
    [
        (POSES['marked'], '', None, True),
        (POSES['odd'], '', None, True),
        (POSES['astray'], '', None, True),
        (POSES['marked'], 'kpt_shape: [4, 3]', None, True),
        (POSES['plain'], 'kpt_shape: [3, 2]', None, True),
        (POSES['plain'], '', 'yolo-pose', True),
        (POSES['plain'], '', 'yolo-polygons', False),
        ('1 .1 .1 .3 .1 .3 .4 .1 .4', '', None, False),
        ('1 .8 .7 .9 .7 .9 .8 .8 .8', '', None, False),
    ],
)
def test_key_points_are_no_corners(tmp_path, line, yaml, form, pose):
    yolo(tmp_path, line, names=f'names: [cat, dog]\n{yaml}')
    data = read_folder(tmp_path, 'det', form)
    assert has_masks(data) is not pose
    assert any('key points' in note for note in data.notes) is pose
    if pose:
        expected = [0.3 * WIDTH, 0.2 * HEIGHT, 0.4 * WIDTH, 0.6 * HEIGHT]
        assert np.allclose(boxes_of(data), expected)


def test_polygons_or_key_points_is_asked(tmp_path):
    yolo(tmp_path, POSES['plain'])
    with pytest.raises(UserError, match=r'line 1 may be .* --format yolo-polygons or --format y'):
        read_folder(tmp_path, 'det')
    # A line that is no box with points in it decides.
    yolo(tmp_path, POSES['plain'], '0 .1 .1 .3 .1 .3 .4 .1 .4 .1 .3')
    assert has_masks(read_folder(tmp_path, 'det'))


@pytest.mark.parametrize('word', ['1.0', '1e0', '+1', '01'])
def test_numbers_of_classes_as_tools_write_them(tmp_path, word):
    yolo(tmp_path, f'{word} {BOX}')
    assert read_folder(tmp_path, 'det').classes == ['dog']


@pytest.mark.parametrize('word', ['1.5', 'dog', '-1', 'nan'])
def test_what_is_no_class_is_quoted(tmp_path, word):
    yolo(tmp_path, f'{word} {BOX}')
    with pytest.raises(UserError, match=rf"0\.txt line 1 is neither .* but '{word} \.5 .*; export"):
        read_folder(tmp_path, 'det')


def test_label_files_without_a_picture_are_told(tmp_path):
    yolo(tmp_path, f'0 {BOX}')
    (tmp_path / 'images/1.jpg').unlink()
    (tmp_path / 'README.txt').write_text('made in 2020\n')
    with pytest.raises(UserError, match=r'1 of 3 label files fit no .*, such as labels/1\.txt'):
        read_folder(tmp_path, 'det')


def test_encoded_names_of_label_files(tmp_path):
    yolo(tmp_path, f'0 {BOX}')
    (tmp_path / 'images/1.jpg').rename(tmp_path / 'images/Zoë & co.JPG')
    (tmp_path / 'labels/1.txt').rename(tmp_path / 'labels/Zoe%CC%88%20%26%20co.txt')
    assert len(boxes_of(read_folder(tmp_path, 'det'))) == 3


def test_overlays_are_no_background(tmp_path):
    yolo_folder(tmp_path, splits=('train', 'val'))
    for seed, name in enumerate(('predicted/train/a', 'vis/b', 'depth/c', 'more/d')):
        photograph(tmp_path / f'{name}.jpg', 50 + seed)
    data = read_folder(tmp_path, 'det')
    assert names_of(data) == {'train': list('abc'), 'val': list('abc'), None: ['c', 'd']}
    assert 'in folders where none is annotated, left out: 1' in data.notes[0]


@pytest.mark.parametrize(
    ('yaml', 'files', 'expected'),
    [
        ('train: one.txt\nval: two.txt', dict(one='012', two='34'), dict(train='012', val='34')),
        ('train: [one.txt, two.txt]\nvalid: x.txt', dict(one='01', two='2', x='34'), None),
        ('path: /home/me/set\ntrain: one.txt\nval: two.txt', dict(one='012', two='34'), None),
        ('train: /x/y/one.txt\nval: ../two.txt', dict(one='012', two='34'), None),
        ('train: images/images\nval: images', {}, {None: '01234'}),
        ('train: images\nval: images\ntest: two.txt', dict(two='34'), {None: '012', 'test': '34'}),
        ('train: images\nval: two.txt', dict(two='34'), dict(train='012', val='34')),
        ('train: lost\nval: lost', {}, {None: '01234'}),
        ('nc: 2', dict(autosplit_train='012', autosplit_val='34'), None),
        ('nc: 2', dict(Train='012', Validation='34'), None),
    ],
)
@pytest.mark.parametrize('line', ['./images/{}.jpg', '{}', r'D:\old\{}.JPG'])
def test_splits_of_a_yaml_and_of_lists(tmp_path, yaml, files, expected, line):
    yolo(tmp_path, f'0 {BOX}', count=5)
    (tmp_path / 'data.yaml').rename(tmp_path / 'own.yaml')
    (tmp_path / 'own.yaml').write_text(f'{yaml}\nnames: [cat, dog]\n')
    for name, members in files.items():
        (tmp_path / f'{name}.txt').write_text('\n'.join(line.format(n) for n in members))
    data = read_folder(tmp_path, 'det', keep_empty=True)
    expected = expected or dict(train='012', val='34')
    assert names_of(data) == {split: list(members) for split, members in expected.items()}
    lost, same = 'lost' in yaml, expected.keys() <= {None, 'test'}
    assert any('has train: lost, where no picture lies' in note for note in data.notes) is lost
    assert any('same pictures: split anew' in note for note in data.notes) is (same and not lost)


def test_folders_of_a_yaml(tmp_path):
    """Roboflow's, which are wrong by one level, and folders whose names say nothing."""
    yolo_folder(tmp_path, splits=('one', 'two'))
    (tmp_path / 'data.yaml').write_text('train: ../images/one\nval: [images/two]\nnames: [a, b]')
    assert names_of(read_folder(tmp_path, 'det')) == dict(train=list('abc'), val=list('abc'))
    (tmp_path / 'second.yaml').write_text('names: [c, d]')
    assert read_folder(tmp_path, 'det').classes == ['a', 'b']
    (tmp_path / 'data.yaml').rename(tmp_path / 'first.yaml')
    with pytest.raises(UserError, match=r'first\.yaml and second\.yaml both name classes; leave'):
        read_folder(tmp_path, 'det')


def voc(root, lists, names='abcd'):
    for seed, name in enumerate(names):
        photograph(root / f'JPEGImages/{name}.jpg', seed)
        (root / 'Annotations').mkdir(exist_ok=True)
        xml = f'<annotation>{voc_object("dog", 20, 10, 60, 40)}</annotation>'
        (root / f'Annotations/{name}.xml').write_text(xml)
    for name, lines in lists.items():
        path = root / f'ImageSets/Main/{name}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(lines))


@pytest.mark.parametrize(
    ('lists', 'expected'),
    [
        (dict(trainval='ab', test='cd'), dict(train='ab', val='cd')),
        (dict(trainval='abc', val='c', test='d'), dict(train='ab', val='c', test='d')),
        (dict(Train='ab', Validation=['data/c.jpg', '"d"']), dict(train='ab', val='cd')),
        (dict(TRAIN=['a 1', 'b -1'], valid=['c', 'd']), dict(train='ab', val='cd')),
        (dict(train='ab', val='c', dog_train='d'), dict(train='ab', val='c')),
        (dict(train=['A.JPG', r'x\b'], val='c'), dict(train='ab', val='c')),
    ],
)
def test_lists_of_voc(tmp_path, lists, expected):
    voc(tmp_path, lists)
    data = read_folder(tmp_path, 'det')
    arrange_splits(data, 0.5)
    assert names_of(data) == {split: list(members) for split, members in expected.items()}


def test_a_list_that_fits_nothing(tmp_path):
    voc(tmp_path, dict(train='ab', val='xy'))
    with pytest.raises(UserError, match=r'/val\.txt lists 2 pictures, none of which .* such as x'):
        read_folder(tmp_path, 'det')
    voc(tmp_path, dict(train='ab', val='cx'))
    assert 'ImageSets/Main/val.txt lists 1 of 2 pictures that are not there, such as x' in (
        read_folder(tmp_path, 'det').notes
    )


def test_what_is_called_test_is_not_trained_on(tmp_path):
    voc(tmp_path, dict(test='cd'))
    data = read_folder(tmp_path, 'det')
    arrange_splits(data, 0.5)
    assert names_of(data)['test'] == ['c', 'd']
    voc(tmp_path, dict(test='abcd'))
    with pytest.raises(UserError, match='are called test; --new-split parts them'):
        arrange_splits(read_folder(tmp_path, 'det'), 0.5)
    data = read_folder(tmp_path, 'det')
    arrange_splits(data, 0.5, anew=True)
    assert {split: len(pictures) for split, pictures in data.splits.items()} == dict(train=2, val=2)


def test_pictures_beside_a_val_folder_are_trained_on(tmp_path):
    yolo_folder(tmp_path, splits=('', 'val'))
    data = read_folder(tmp_path, 'det')
    (note,) = arrange_splits(data, 0.5)
    assert 'there is no train split' in note
    assert names_of(data) == dict(val=list('abc'), train=list('abc'))


def test_a_list_of_test_alone_leaves_the_folders_be(tmp_path):
    yolo_folder(tmp_path, splits=('train', 'val'))
    (tmp_path / 'test.txt').write_text('images/train/a.jpg')
    data = read_folder(tmp_path, 'det')
    assert names_of(data) == dict(train=['b', 'c'], val=list('abc'), test=['a'])


def test_lists_beside_one_coco_file(tmp_path):
    coco(tmp_path, coco_content('abcd'))
    (tmp_path / 'train.txt').write_text('a.jpg\nb.jpg\nc.jpg')
    (tmp_path / 'val.txt').write_text('images/d.jpg')
    data = read_folder(tmp_path, 'det')
    assert names_of(data) == dict(train=list('abc'), val=['d'])


def coco(root, content):
    write_json(root / 'a.json', content)
    for seed, image in enumerate(content['images']):
        photograph(root / str(image['file_name']), seed)


def test_ids_and_numbers_as_text(tmp_path):
    content = coco_content()
    for item in content['images']:
        item.update(id=f'{item["id"]}', width=str(WIDTH), height=float(HEIGHT))
    for item in content['annotations']:
        item.update(
            category_id=f'{item["category_id"]}.0', bbox=['10', '10.0', 20, 30], iscrowd='0'
        )
        item['segmentation'] = None
    content['categories'][0]['id'] = '0'
    coco(tmp_path, content)
    data = read_folder(tmp_path, 'det')
    assert boxes_of(data) == [[10, 10, 20, 30]] * 2
    assert [picture.size for picture in data.pictures()] == [(HEIGHT, WIDTH)] * 2
    assert data.classes == ['cat', 'dog']


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(bbox=[1, math.nan, 3, 4]), 'annotation 1: a number of its bbox is nan'),
        (dict(bbox=[1, 2, math.inf, 4]), 'annotation 1: a number of its bbox is inf'),
        (dict(bbox=[1, 2, True, 4]), 'annotation 1: a number of its bbox is True'),
        (dict(bbox=[1, 2, '3 px', 4]), "annotation 1: a number of its bbox is '3 px'"),
        (dict(bbox=[1, 2, None, 4]), 'annotation 1: a number of its bbox is None'),
        (dict(segmentation=[[1, 1, 9, 9, 1, -math.inf]]), 'a number of its polygon is -inf'),
        (dict(segmentation=[[1, 1, 9, 9, 1, 'x']]), "a number of its polygon is 'x'"),
        (dict(iscrowd='no'), "iscrowd is 'no'"),
        (
            dict(segmentation=dict(size=[HEIGHT, WIDTH], counts=[9, math.nan])),
            'annotation 1: a number of its run lengths is nan',
        ),
        (dict(images=[dict(id=0, file_name='a.jpg', width='wide', height=3)]), "0 is 'wide'"),
        (dict(category_id='cat'), "annotation 1 has category_id 'cat', which"),
    ],
)
def test_what_is_no_number_is_named(tmp_path, changes, words):
    altered_coco(**changes)(tmp_path)
    with pytest.raises(UserError, match=f'{words}.*; export the file again'):
        read_folder(tmp_path, 'det')


@pytest.mark.parametrize(
    ('categories', 'classes'),
    [
        # (name, supercategory); the two last have objects.
        ([('dog', 'none'), ('cat', 'dog'), ('dog', 'dog')], ['cat', 'dog']),
        ([('pets', None), ('cat', 'pets'), ('dog', 'pets')], ['cat', 'dog']),
        ([('dog', None), ('cat', None), ('dog', None)], ['cat', 'dog']),
        ([('bird', 'bird'), ('cat', 'cat'), ('dog', 'cat')], ['bird', 'cat', 'dog']),
    ],
)
def test_names_of_groups_are_no_classes(tmp_path, categories, classes):
    content = coco_content()
    content['categories'] = [
        dict(id=n, name=name, supercategory=above) for n, (name, above) in enumerate(categories)
    ]
    for item in content['annotations']:
        item['category_id'] += 1
    coco(tmp_path, content)
    assert read_folder(tmp_path, 'det', keep_empty=True).classes == classes


@pytest.mark.parametrize('form', ['coco', 'yolo'])
def test_masks_beside_boxes(tmp_path, form):
    if form == 'coco':
        content = coco_content()
        content['annotations'][0]['segmentation'] = SQUARE
        coco(tmp_path, content)
        first, lost = 'dog in b.jpg', '1 of 2 objects'
    else:
        yolo(tmp_path, '0 .1 .1 .3 .1 .3 .4 .1 .4', f'1 {BOX}')
        first, lost = 'dog in images/0.jpg', '3 of 6 objects'
    data = read_folder(tmp_path, 'det')
    assert not has_masks(data)
    (note,) = data.notes
    assert note == (
        f'{lost} have a box but no mask, the first of class {first}: no mask is learned; '
        '--keep-masks takes boxes for the masks'
    )
    with pytest.raises(UserError, match='draw their boxes by --keep-masks'):
        read_folder(tmp_path, 'seg')
    data = read_folder(tmp_path, 'det', keep_masks=True)
    assert has_masks(data)
    x, y, width, height = boxes_of(data)[-1]
    left, top, *_, bottom = list(data.pictures())[-1].objects[-1]['segmentation'][0]
    assert (left, top, bottom) == pytest.approx((x, y, y + height))
    drawn = read_folder(tmp_path, 'seg', keep_masks=True)
    labels = draw_label_map(drawn, list(drawn.pictures())[-1])
    assert (labels == drawn.classes.index('dog')).sum() == pytest.approx(width * height, rel=0.1)


def masks(root, values):
    """Label maps of given shares (in 24ths) of values."""
    label_map_folder(root, stripes(*[v for value, n in values.items() for v in [value] * n]))


@pytest.mark.parametrize(
    ('shares', 'names', 'classes', 'labels'),
    [
        # Stray or smoothed values between black and white.
        ({0: 0.6, 255: 0.39, 1: 0.005, 254: 0.005}, None, ['background', 'foreground'], '0101'),
        ({0: 0.6, 255: 0.35, **dict.fromkeys(range(1, 51), 0.001)}, ['x'], ['background', 'x'], 0),
        ({0: 0.8, 254: 0.19, 3: 0.01}, ['no', 'yes'], ['no', 'yes'], '010'),
        ({0: 0.9, 128: 0.1}, None, ['background', 'foreground'], '01'),
        ({255: 0.9, 0: 0.09, 250: 0.01}, None, ['background', 'foreground'], '101'),
        ({255: 1.0}, ['x'], ['background', 'x'], '1'),
        ({0: 1.0}, ['x'], ['background', 'x'], '0'),
        # Numbers of classes, and a wide border to ignore.
        ({0: 0.95, 1: 0.01, 255: 0.04}, ['no', 'x'], ['no', 'x'], '01x'),
        ({0: 0.5, 1: 0.3, 255: 0.2}, None, ['class_0', 'class_1'], '01x'),
        ({0: 0.7, 15: 0.29, 255: 0.01}, None, ['class_0', 'class_15'], '01x'),
        ({0: 0.9, 1: 0.02, 2: 0.02, 255: 0.06}, None, ['class_0', 'class_1', 'class_2'], '012x'),
    ],
)
def test_nearly_binary_masks(shares, names, classes, labels):
    found, coding, notes = resolve_coding(names, shares, None, 'a.png')
    assert found == classes
    if labels:
        expected = {v: 255 if s == 'x' else int(s) for v, s in zip(shares, labels, strict=True)}
        assert {value: coding[value] for value in shares} == expected
    if 'x' not in str(labels):
        assert any('values, ' in note or 'only' in note for note in notes)
        assert coding[255 if 255 in shares else max(shares)] == 1 or max(shares) == 0
    rest = [0, *(share for value, share in shares.items() if value not in (0, 255))]
    told = any(note.startswith('255, the most frequent value beside 0') for note in notes)
    assert told is (coding.get(255) == 255 and shares.get(255, 0) > max(rest))


@pytest.mark.parametrize(
    ('names', 'zero', 'values', 'classes', 'labels'),
    [
        (None, 'ignore', (0, 1, 2), ['class_1', 'class_2'], (255, 0, 1)),
        (None, 'background', (0, 1, 2), ['background', 'class_1', 'class_2'], (0, 1, 2)),
        (None, None, (0, 1, 2), ['class_0', 'class_1', 'class_2'], (0, 1, 2)),
        (None, 'ignore', (0, 255), ['foreground'], (255, 0)),
        (None, 'background', (0, 255), ['background', 'foreground'], (0, 1)),
        (['x'], 'ignore', (0, 255), ['x'], (255, 0)),
        (['x'], 'ignore', (0, 1), ['x'], (255, 0)),
        (['x', 'y'], 'ignore', (0, 1, 2), ['x', 'y'], (255, 0, 1)),
        (['x', 'y'], 'ignore', (0, 1), ['x', 'y'], (0, 1)),  # named
        ({128: 'x', 255: 'y'}, 'ignore', (0, 128, 255), ['x', 'y'], (255, 0, 1)),
        (
            {128: 'x', 255: 'y'},
            None,
            (0, 0, 0, 128, 255),
            ['background', 'x', 'y'],
            (0, 0, 0, 1, 2),
        ),
    ],
)
def test_what_zero_is(tmp_path, names, zero, values, classes, labels):
    label_map_folder(tmp_path, stripes(*values))
    if isinstance(names, dict):
        lines = [f'{name}:{grey},{grey},{grey}::' for grey, name in names.items()]
        (tmp_path / 'labelmap.txt').write_text('\n'.join(lines))
        names = None
    data = read_folder(tmp_path, 'seg', classes=names, zero=zero)
    assert data.classes == classes
    assert (draw_label_map(data, data.splits[None][0]) == stripes(*labels)).all()


@pytest.mark.parametrize('zero', ['ignore', 'background'])
def test_what_black_is_in_colours(tmp_path, zero):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:20] = 0, 0, 255
    label_map_folder(tmp_path, pixels)
    (tmp_path / 'labelmap.txt').write_text('sky:0,0,255::')
    data = read_folder(tmp_path, 'seg', zero=zero)
    labels = draw_label_map(data, data.splits[None][0])
    assert data.classes == (['sky'] if zero == 'ignore' else ['background', 'sky'])
    assert labels[0, 0] == data.classes.index('sky')
    assert labels[-1, 0] == (255 if zero == 'ignore' else 0)


def test_names_of_labelme(tmp_path):
    label_map_folder(tmp_path, stripes(0, 1, 2))
    (tmp_path / 'class_names.txt').write_text('_background_\nx\ny\n')
    assert read_folder(tmp_path, 'seg').classes == ['_background_', 'x', 'y']
    (tmp_path / 'class_names.txt').write_text('__ignore__\n_background_\nx\ny\n')
    assert read_folder(tmp_path, 'seg').classes == ['_background_', 'x', 'y']


def test_the_background_is_no_region(tmp_path):
    label_map_folder(tmp_path, stripes(0, 0, 0, 0, 1, 255))
    for name, count in (('_background_', 1), ('ground', 2)):
        (tmp_path / 'classes.txt').write_text(f'{name}\nx\n')
        data = read_folder(tmp_path, 'seg')
        assert len(data.splits[None][0].region_sizes) == count
    assert max(data.splits[None][0].pixels) == 1


def test_what_has_no_partner_is_told(tmp_path):
    label_map_folder(tmp_path, stripes(0, 1))
    photograph(tmp_path / 'images/z.jpg')
    (tmp_path / 'masks/b.png').rename(tmp_path / 'masks/y.png')
    notes = read_folder(tmp_path, 'seg').notes
    assert 'pictures without a label map, left out: 2, such as images/b.jpg' in notes
    assert 'label maps without a picture, left out: 1, such as masks/y.png' in notes


def test_large_label_maps_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    label_map_folder(tmp_path, stripes(0, 1, 2))
    assert read_folder(tmp_path, 'seg').classes == ['class_0', 'class_1', 'class_2']
    assert Image.MAX_IMAGE_PIXELS == 100


def test_layouts_that_are_not_known_name_the_folders(tmp_path):
    photograph(tmp_path / 'a/1.jpg')
    photograph(tmp_path / 'b/1.png')
    with pytest.raises(UserError, match=r'no annotations .*; put photographs in .* --label-maps'):
        read_folder(tmp_path, 'seg')
    Image.fromarray(stripes(0, 1)).save(tmp_path / 'b/1.png')
    data = read_folder(tmp_path, 'seg', images='a', label_maps='b')
    assert [p.path.name for p in data.pictures()] == ['1.jpg']


def test_annotations_of_a_page_of_json(tmp_path):
    """NaN and Infinity are no JSON, though Python writes and reads them."""
    content = coco_content()
    content['annotations'][0]['area'] = math.nan  # not used: made anew
    coco(tmp_path, content)
    assert 'NaN' in (tmp_path / 'a.json').read_text()
    json.dumps(boxes_of(read_folder(tmp_path, 'det')), allow_nan=False)
