"""Names compare whatever machine or tool wrote them, and folders and lists are known by words."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from mmlab_inline.datasets.checks import IMAGE_SUFFIXES
from mmlab_inline.own_data.readers.folder import Folder
from mmlab_inline.own_data.readers.lists import assign
from mmlab_inline.own_data.readers.names import list_split, normal, preference, role_of, split_word
from mmlab_inline.utils import UserError

mmcv = pytest.importorskip('mmcv')


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (4, 3)).save(path)
    return path


def folder_of(root, *names):
    for name in names:
        picture(root / name)
    return Folder(root)


@pytest.mark.parametrize('suffix', IMAGE_SUFFIXES)
def test_every_suffix_of_a_picture_is_read_as_training_reads_it(tmp_path, suffix):
    path = picture(tmp_path / f'a{suffix}')
    assert Folder(tmp_path).pictures == [path]
    assert mmcv.imread(str(path)).shape == (3, 4, 3)


def test_other_pictures_are_named(tmp_path):
    for name in ('a.heic', 'b.HEIC', 'c.svg'):
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(UserError, match=r'holds no picture .* but 2 \.heic, 1 \.svg; save'):
        Folder(tmp_path)
    folder = folder_of(tmp_path, 'd.jpg')
    assert folder.notes == [
        'pictures that are not read, left out: 2 .heic, 1 .svg; save them as JPEG or PNG'
    ]
    with pytest.raises(UserError, match=r'1 of the 3 .* of a kind that is not read, such as a\.h'):
        folder.refuse_missing(['C:/x/A.jpg'], 3, 'it')


@pytest.mark.parametrize(
    ('there', 'named'),
    [
        ('Übung 1.jpg', unicodedata.normalize('NFD', 'Übung 1.jpg')),
        (unicodedata.normalize('NFD', 'é/ñ.png'), 'é/ñ.png'),
        ('日本 (2).jpg', '%E6%97%A5%E6%9C%AC%20%282%29.jpg'),
        ('a b.jpg', 'a%2520b.jpg'),  # encoded twice
        ('a%20b.jpg', 'a b.jpg'),
        ('IMG_1.JPG', 'img_1.jpg'),
        ('x.jpg', 'https://host/some/x.jpg?X-Signature=a/b%3D&t=1'),
        ('x.jpg', '/data/local-files/?d=sets%2Fone%2Fx.jpg'),
        ('x.jpg', '/data/local-files/?d=x.jpg'),
        ('x.jpg', 's3://bucket/x.jpg'),
        ('x.jpg', r'D:\set one\x.jpg'),
        ('what?=1.jpg', 'what?=1.jpg'),
        ('foto 1.jpg', 'foto+1.jpg'),
        ('foto.jpg', '/data/upload/3/cb06ab12-foto.jpg'),
        ('x.y.jpg', 'x.y'),
    ],
)
def test_names_of_other_machines(tmp_path, there, named):
    folder = folder_of(tmp_path, there, 'another.jpg')
    assert folder.find_picture(named, tmp_path / 'a.json') == tmp_path / there


def test_the_very_name_comes_first(tmp_path):
    names = 'A.jpg', 'a.jpg', '100%25.jpg', '100%.jpg'
    folder = folder_of(tmp_path, *names)
    for name in names:
        assert folder.find_picture(name, tmp_path / 'a.json').name == name
    assert normal(normal('100%25.jpg')) == normal('100%.jpg')


@pytest.mark.parametrize(
    ('path', 'split'),
    [
        ('train2017', 'train'),
        ('images/Validation', 'val'),
        ('valid/images', 'val'),
        ('test-dev2017', 'test'),
        ('obj_train_data', 'train'),
        ('VOC/trainval', 'train'),
        ('autosplit_val.txt', 'val'),
        ('trains', None),
        ('evalue/photos', None),
        ('train/val', 'val'),
    ],
)
def test_words_of_splits(path, split):
    assert split_word(Path(path).parts) == split


@pytest.mark.parametrize(
    ('stem', 'split'),
    [
        ('TrainVal', 'trainval'),
        ('Validation', 'val'),
        ('autosplit_train', 'train'),
        ('test_images', 'test'),
        ('cat_train', None),  # of one class, in Pascal VOC
        ('default', None),
        ('images', None),
    ],
)
def test_names_of_lists(stem, split):
    assert list_split(stem) == split


@pytest.mark.parametrize(
    ('name', 'role'),
    [
        ('SegmentationClassPNG', 'label map'),
        ('SegmentationClassVisualization', 'neither'),
        ('SegmentationObjectPNG', 'neither'),
        ('ann_dir', 'label map'),
        ('gtFine', 'label map'),
        ('a_segmentations', 'label map'),
        ('ground_truth', 'label map'),
        ('label_images', 'label map'),
        ('leftImg8bit', 'photograph'),
        ('img_dir', 'photograph'),
        ('JPEGImages', 'photograph'),
        ('colour_photos', 'photograph'),
        ('image-overlays', 'neither'),
        ('masked', None),
        ('depth', None),
        ('objects', None),
    ],
)
def test_words_of_folders(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize(
    ('photograph', 'label_map', 'others'),
    [
        # What else has the name of the picture: overlays, depth, objects, other splits.
        ('JPEGImages/a.jpg', 'SegmentationClass/a.png', ['SegmentationObject/a.png', 'vis/a.jpg']),
        ('images/a.jpg', 'masks/a.png', ['overlays/a.jpg', 'image_overlays/a.png', 'depth/a.png']),
        ('rgb/a.png', 'labels/a.png', ['thermal/a.png', 'depth/a.png']),
        ('a.jpg', 'masks/a.png', ['nir/a.jpg']),
        ('img_dir/val/a.jpg', 'ann_dir/val/a.png', ['img_dir/train/a.jpg']),
        ('train/images/a.jpg', 'train/masks/a.png', ['val/images/a.jpg']),
        ('images/train/a.jpg', 'masks/a.png', []),
        ('frames/a.jpg', 'masks/a.png', []),
        ('two/images/a.jpg', 'two/masks/a.png', ['one/images/a.jpg']),
        ('x_images/a.jpg', 'x_segmentations/a.png', ['y_images/a.jpg']),
        ('images/img_01.jpg', 'labels/label_01.png', []),
        ('images/a b.jpg', 'masks/a%20b.png', []),
        ('Images/A.JPG', 'Masks/a_mask.PNG', ['Images/A_overlay.png']),
        ('a.jpg', 'a_mask.png', ['a_preview.png']),
        ('p/car_color.jpg', 'masks/car_color_mask.png', []),
        (
            'leftImg8bit/val/ulm/ulm_0_leftImg8bit.png',
            'gtFine/val/ulm/ulm_0_gtFine_labelIds.png',
            [f'gtFine/val/ulm/ulm_0_gtFine_{kind}.png' for kind in ('color', 'instanceIds')],
        ),
        (
            'leftImg8bit/val/ulm/ulm_0_leftImg8bit.png',
            'gtFine/val/ulm/ulm_0_gtFine_labelTrainIds.png',
            ['gtFine/val/ulm/ulm_0_gtFine_labelIds.png'],
        ),
        (
            'leftImg8bit/train/ulm/ulm_0_leftImg8bit.png',
            'gtFine/train/ulm/ulm_0_gtFine_labelTrainIds.png',
            ['gtFine/train/ulm/ulm_0_gtFine_labelIds.png'],
        ),
    ],
)
def test_one_photograph_per_label_map(tmp_path, photograph, label_map, others):
    found = folder_of(tmp_path, photograph, label_map, *others).label_maps()
    assert found == {tmp_path / label_map: tmp_path / photograph}


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (
            ('left/a.jpg', 'right/a.jpg', 'masks/a.png'),
            r'may be left/a\.jpg or right/a\.jpg; name .* --im',
        ),
        (('images/a.jpg', 'images/a.png', 'masks/a.png'), r'images/a\.jpg or images/a\.png'),
        (('a.jpg', 'masks/a.png', 'labels/a.png'), r'labels/a\.png and masks/a\.png may both be'),
    ],
)
def test_two_that_may_be_meant_are_named(tmp_path, names, words):
    with pytest.raises(UserError, match=words):
        folder_of(tmp_path, *names).label_maps()


def test_label_maps_of_another_sequence_are_no_ones(tmp_path):
    folder = folder_of(tmp_path, 'one/images/a.jpg', 'two/masks/a.png')
    assert folder.label_maps() == {tmp_path / 'two/masks/a.png': None}


def test_folders_may_be_named(tmp_path):
    names = 'raw one/a.jpg', 'truth/a.png', 'masks/a.png', 'images/a.jpg'
    for name in names:
        picture(tmp_path / name)
    maps = Folder(tmp_path, {'truth': 'label map', 'raw one': 'photograph'}).label_maps()
    assert maps == {tmp_path / 'truth/a.png': tmp_path / 'raw one/a.jpg'}
    maps = Folder(tmp_path, {'truth': 'label map'}).label_maps()
    assert maps == {tmp_path / 'truth/a.png': tmp_path / 'images/a.jpg'}
    with pytest.raises(UserError, match='nowhere is no folder below'):
        Folder(tmp_path, {'nowhere': 'label map'})


def test_of_several_label_maps_numbers_come_before_colours():
    names = ['a_labelTrainIds', 'a_labelIds', 'a_color']
    assert sorted(names, key=preference) == names


@pytest.mark.parametrize(
    ('members', 'expected', 'note'),
    [
        (dict(trainval='abc', test='d'), dict(train='abc', test='d'), None),
        (dict(trainval='abc', train='ab'), dict(train='ab', val='c'), None),
        (dict(trainval='abc', val='c'), dict(train='ab', val='c'), None),
        (dict(trainval='abcd', test='d'), dict(train='abc', test='d'), None),
        (dict(train='ab', val='c', trainval='abc'), dict(train='ab', val='c'), None),
        # In two of them: never trained on what is test, and evaluated on what is not trained on.
        (dict(train='abcd', test='d'), dict(train='abc', test='d'), 'several splits: 1'),
        (dict(train='abc', val='c'), dict(train='ab', val='c'), 'several splits: 1'),
        (dict(train='a', val='abc'), dict(train='a', val='bc'), 'several splits: 1'),
        (dict(train='ab', val='ab'), {}, 'train and val name the same pictures'),
        (dict(train='ab', val='ab', test='c'), dict(test='c'), 'the same pictures'),
        (dict(test='ab'), dict(test='ab'), None),
    ],
)
def test_lists_together(members, expected, note):
    notes = []
    splits = assign({split: set(names) for split, names in members.items()}, notes)
    assert splits == {name: split for split, names in expected.items() for name in names}
    assert [note in text for text in notes] == ([True] if note else [])
