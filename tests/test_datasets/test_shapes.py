"""Tests of the drawn shapes: pixels that never drift, exact annotations, safe writing."""

import contextlib
import io
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmlab_inline.datasets import shapes
from mmlab_inline.datasets.shapes import CLASSES, Drawing, draw_image, write_dataset

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'tools' / 'dataset' / 'draw_shapes.py'
COCO_SPLITS = {'train': 'train2017', 'val': 'val2017'}
ADE_SPLITS = {'train': 'training', 'val': 'validation'}
SMALL = {'num_train': 7, 'num_val': 3, 'size': (64, 80), 'seed': 5}

# If these fail, the drawing has changed: raise shapes.VERSION along with them.
DIGESTS = {
    (0, 'train', 0): ('34ed97d47ee48bc3262d911b6153f090baad1355db6e222f9a1bd29d94e2852e'),
    (0, 'train', 1): ('9be34802a8f9648540add9fc3639bb01c08e66178f375c23db0c918940fad933'),
    (0, 'val', 0): ('58ac0de99e3de2032fd41baa443c0af2158e333603b2ec59ab5c1f9820a8cb75'),
    (7, 'val', 99, (96, 160)): ('e201449011d3c32857328047b2d008402043757e0a89074716068236d132fdf9'),
    (2**32 - 1, 'train', 5, (80, 64), ('ring', 'star')): (
        'd39c52d05ffb18c236e29fc1df7946534d4157912ebbefb97ea209711ffd514a'
    ),
    (1, 'train', 400, 256): ('43199eb31ae691503ee365618ae921c65259f734cea11298bee3e4cd2fcaa443'),
}


@pytest.fixture(scope='module')
def drawings() -> list[Drawing]:
    return [draw_image(0, 'train', index) for index in range(60)]


@pytest.fixture(scope='module')
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('shapes')
    assert write_dataset(root, **SMALL)
    return root


def load_coco(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / 'coco' / 'annotations' / f'instances_{split}2017.json'))


def small_drawing(split: str, number: int) -> Drawing:
    return draw_image(SMALL['seed'], split, number - 1, SMALL['size'])


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time stamp and content of every file below a folder."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob('*')
        if path.is_file()
    }


@pytest.mark.parametrize('arguments', DIGESTS)
def test_pixels_and_masks_never_drift(arguments: tuple) -> None:
    assert draw_image(*arguments).digest() == DIGESTS[arguments]


def test_sine_table_is_rounded_sine() -> None:
    assert [shapes._sine(turn) for turn in range(-60, 120)] == [
        round(2**14 * math.sin(math.radians(6 * turn))) for turn in range(-60, 120)
    ]


def test_drawing_depends_on_seed_split_and_index_only(drawings: list[Drawing]) -> None:
    np.random.seed(1)
    assert draw_image(0, 'train', 41).digest() == drawings[41].digest()
    others = [draw_image(1, 'train', 41), draw_image(0, 'val', 41), draw_image(0, 'train', 42)]
    assert len({drawing.digest() for drawing in [drawings[41], *others]}) == 4


def test_drawings_have_the_promised_form(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        count = len(drawing.labels)
        assert 1 <= count <= 5
        assert drawing.image.shape == (160, 160, 3) and drawing.image.dtype == np.uint8
        assert drawing.masks.shape == (count, 160, 160) and drawing.masks.dtype == bool
        assert drawing.labels.dtype == np.int64
        assert drawing.masks.sum(axis=0).max() == 1
    counts = [len(drawing.labels) for drawing in drawings]
    assert set(counts) >= {2, 3, 4, 5}


def test_any_pictures_in_a_row_show_every_class(drawings: list[Drawing]) -> None:
    for start in range(0, 60, len(CLASSES)):
        row = drawings[start : start + len(CLASSES)]
        labels = np.concatenate([drawing.labels for drawing in row])
        assert set(labels) == set(range(len(CLASSES)))


def test_enough_of_every_shape_is_visible(drawings: list[Drawing]) -> None:
    visible = np.concatenate([drawing.masks.sum(axis=(1, 2)) for drawing in drawings])
    whole = np.concatenate([drawing.whole_areas for drawing in drawings])
    assert visible.min() >= shapes.MIN_VISIBLE_PIXELS
    assert np.all(100 * visible >= shapes.MIN_VISIBLE_PERCENT * whole)
    assert np.any(visible < whole), 'no shape hides another'
    assert np.all(visible <= whole)


def test_shapes_span_a_fifth_to_half_of_the_side(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        whole = drawing.masks.sum(axis=(1, 2)) == drawing.whole_areas
        sides = drawing.boxes()[whole, 2:].max(axis=1)
        # The diameter is that of the circle around a shape, of which a square fills 70 percent.
        assert np.all((sides >= 0.7 * 32 - 1) & (sides <= 80))


def test_shapes_stand_out_from_ground_and_each_other(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        pixels = drawing.image.astype(int)
        ground = ~drawing.masks.any(axis=0)
        means = [pixels[mask].mean(axis=0) for mask in [ground, *drawing.masks]]
        for position, mean in enumerate(means):
            for other in means[:position]:
                assert np.abs(mean - other).sum() > 60


def test_colours_do_not_tell_the_class() -> None:
    pairs = [
        (
            draw_image(2, 'val', index, 64, CLASSES[:1]),
            draw_image(2, 'val', index, 64, CLASSES[1:2]),
        )
        for index in range(20)
    ]
    for circles, squares in pairs:
        pixels = [each.image[each.masks[0]].astype(int).mean(axis=0) for each in (circles, squares)]
        assert np.abs(pixels[0] - pixels[1]).max() < 40


@pytest.mark.parametrize(
    ('name', 'share'),
    [
        ('circle', math.pi / 4),
        ('square', 0.5),
        ('triangle', 3**1.5 / 16),
        ('star', 0.2806),
        ('ring', math.pi / 4 * (1 - 81 / 256)),
        ('cross', 125 / 256),
    ],
)
@pytest.mark.parametrize('turn', [0, 7, 33])
def test_shapes_have_their_geometric_area(name: str, share: float, turn: int) -> None:
    across, down = (axis - 401 for axis in shapes._pixel_centres(400, 400))
    mask = shapes._shape_mask(name, across, down, 390, turn)
    assert mask.sum() / 390**2 == pytest.approx(share, rel=0.01)
    assert not mask[:4].any() and not mask[:, -4:].any()


def test_boxes_are_the_extents_of_the_masks(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        for mask, (left, top, width, height) in zip(drawing.masks, drawing.boxes(), strict=True):
            inside = np.zeros_like(mask)
            inside[top : top + height, left : left + width] = True
            assert not mask[~inside].any()
            edges = mask[[top, top + height - 1]].any(axis=1).tolist()
            edges += mask[:, [left, left + width - 1]].any(axis=0).tolist()
            assert all(edges)


@pytest.mark.parametrize('split', shapes.SPLITS)
def test_coco_annotations_equal_the_drawings(small_set: Path, split: str) -> None:
    coco = load_coco(small_set, split)
    assert sorted(coco.getImgIds()) == list(range(1, SMALL[f'num_{split}'] + 1))
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert min(coco.getAnnIds()) == 1 and len(set(coco.getAnnIds())) == len(coco.getAnnIds())
    for number, picture in coco.imgs.items():
        drawing = small_drawing(split, number)
        path = small_set / 'coco' / COCO_SPLITS[split] / picture['file_name']
        assert np.array_equal(np.asarray(Image.open(path)), drawing.image)
        assert (picture['height'], picture['width']) == SMALL['size']
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert [each['category_id'] - 1 for each in annotations] == drawing.labels.tolist()
        assert [each['bbox'] for each in annotations] == drawing.boxes().tolist()
        for annotation, mask in zip(annotations, drawing.masks, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
            assert annotation['area'] == mask.sum() and annotation['iscrowd'] == 0
            run = annotation['segmentation']
            drawn = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert coco_mask.iou([run], [drawn], [0]) == 1.0
            assert coco_mask.toBbox(run).tolist() == annotation['bbox']


@pytest.mark.parametrize('split', shapes.SPLITS)
def test_label_maps_equal_the_drawings(small_set: Path, split: str) -> None:
    ade = small_set / 'ade' / 'ADEChallengeData2016'
    paths = sorted((ade / 'annotations' / ADE_SPLITS[split]).iterdir())
    assert [path.name for path in paths] == [
        f'{number:06d}.png' for number in range(1, SMALL[f'num_{split}'] + 1)
    ]
    for number, path in enumerate(paths, 1):
        drawing = small_drawing(split, number)
        image = Image.open(ade / 'images' / ADE_SPLITS[split] / path.name)
        assert np.array_equal(np.asarray(image), drawing.image)
        labels = Image.open(path)
        assert labels.mode == 'L'
        values = np.asarray(labels)
        for mask, label in zip(drawing.masks, drawing.labels, strict=True):
            assert np.all(values[mask] == label + 2)
        assert np.all(values[~drawing.masks.any(axis=0)] == 1)
    names = (ade / 'classes.txt').read_text().split()
    assert names == [
        word
        for number, name in enumerate(['background', *CLASSES], 1)
        for word in (str(number), name)
    ]


def test_classes_are_labelled_in_the_order_given(tmp_path: Path) -> None:
    write_dataset(tmp_path, 2, 1, 64, classes=['ring', 'circle'])
    categories = load_coco(tmp_path, 'train').cats
    assert [categories[number]['name'] for number in (1, 2)] == ['ring', 'circle']
    drawing = draw_image(0, 'train', 0, 64, ['ring', 'circle'])
    width, height = drawing.boxes()[0, 2:]
    assert drawing.labels[0] == 0
    assert drawing.whole_areas[0] < 0.7 * width * height
    assert set(drawing.labels) <= {0, 1}


def test_larger_set_begins_with_the_smaller_one(small_set: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, **{**SMALL, 'num_train': 3, 'num_val': 1})
    name = 'coco/train2017/000003.png'
    assert (tmp_path / name).read_bytes() == (small_set / name).read_bytes()


def test_same_parameters_write_nothing(small_set: Path) -> None:
    before = snapshot(small_set)
    assert not write_dataset(small_set, **SMALL)
    assert snapshot(small_set) == before


@pytest.mark.parametrize(
    'changes',
    [{'num_train': 8}, {'num_val': 2}, {'size': 64}, {'seed': 6}, {'classes': CLASSES[:2]}],
)
def test_other_parameters_are_refused(small_set: Path, changes: dict) -> None:
    before = snapshot(small_set)
    with pytest.raises(ValueError, match=f'other parameters .{next(iter(changes))}.*--force'):
        write_dataset(small_set, **{**SMALL, **changes})
    assert snapshot(small_set) == before


def test_force_replaces_its_own_files_only(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'set', **SMALL)
    foreign = tmp_path / 'set' / 'coco' / 'train2017' / 'mine.png'
    foreign.write_bytes(b'mine')
    fewer = {**SMALL, 'num_train': 2, 'seed': 6}
    assert write_dataset(tmp_path / 'set', **fewer, force=True)
    assert foreign.read_bytes() == b'mine'
    foreign.unlink()
    write_dataset(tmp_path / 'fresh', **fewer)
    contents = [
        {name: content for name, (_, content) in snapshot(tmp_path / root).items()}
        for root in ('set', 'fresh')
    ]
    assert contents[0] == contents[1]


def test_interrupted_writing_is_taken_up_again(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 10
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, **SMALL, progress=interrupt)
    assert not (tmp_path / shapes.MANIFEST).exists()
    with pytest.raises(ValueError, match='other parameters'):
        write_dataset(tmp_path, **{**SMALL, 'seed': 6})
    assert write_dataset(tmp_path, **SMALL)
    assert json.loads((tmp_path / shapes.MANIFEST).read_text())['num_train'] == 7
    assert not list(tmp_path.rglob('*.part'))


@pytest.mark.parametrize('force', [False, True])
@pytest.mark.parametrize('name', ['coco/annotations/instances_train2017.json', 'shapes.json'])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str, force: bool) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_text('{}')
    with pytest.raises(ValueError, match='choose another folder'):
        write_dataset(tmp_path, **SMALL, force=force)
    assert list(snapshot(tmp_path)) == [name]
    assert foreign.read_text() == '{}'


@pytest.mark.parametrize(
    ('draw', 'message'),
    [
        (lambda: draw_image(-1, 'train', 0), 'seed is -1, allowed are .* 0 to 4294967295'),
        (lambda: draw_image(0.5, 'train', 0), 'seed is 0.5, allowed'),
        (lambda: draw_image(0, 'test', 0), "split is 'test', allowed are train, val"),
        (lambda: draw_image(0, 'val', -1), 'index is -1, allowed'),
        (lambda: draw_image(0, 'val', 0, 63), 'size is 63, allowed are .* 64 to 2048'),
        (lambda: draw_image(0, 'val', 0, (64, 64, 3)), 'size is .64, 64, 3., allowed'),
        (lambda: draw_image(0, 'val', 0, '64'), "size is '64', allowed"),
        (lambda: draw_image(0, 'val', 0, 64, ()), 'classes are none, allowed .* circle, square'),
        (lambda: draw_image(0, 'val', 0, 64, ('ring', 'ring')), 'classes are ring, ring, allowed'),
        (lambda: draw_image(0, 'val', 0, 64, ('disc',)), 'classes are disc, allowed'),
    ],
)
def test_wrong_arguments_are_told_in_one_line(draw: Callable[[], Drawing], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        draw()
    assert '\n' not in str(caught.value)


@pytest.fixture
def run_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the tool in this process; it returns the exit status, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOL), run_name='__main__')
        return ended.value.code, *capsys.readouterr()

    return run


def test_tool_draws_once(tmp_path: Path, run_tool: Callable[..., tuple[int, str, str]]) -> None:
    root = tmp_path / 'new' / 'set'
    arguments = [root, '--train', '2', '--val', '1', '--size', '64', '80', '--classes', 'star']
    status, out, _ = run_tool(*arguments)
    assert status == 0
    assert str(root / 'coco') in out and 'ADEChallengeData2016' in out
    before = snapshot(root)
    assert len(before) == 3 * 3 + 2 + 1 + 1
    status, out, _ = run_tool(*arguments)
    assert status == 0 and 'nothing to do' in out
    assert snapshot(root) == before


def test_tool_runs_as_a_program(tmp_path: Path) -> None:
    paths = [str(REPOSITORY), *filter(None, [os.environ.get('PYTHONPATH')])]
    result = subprocess.run(
        [sys.executable, str(TOOL), str(tmp_path), '--seed', '-1'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: seed is -1')
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'ROOT'),
        (['set', '--train', 'many'], '--train'),
        (['set', '--size', '8'], 'allowed are'),
        (['file'], 'is a file'),
        (['file/set'], 'Not a directory'),
    ],
)
def test_tool_tells_wrong_input_in_one_line(
    tmp_path: Path,
    run_tool: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / 'file').touch()
    if arguments:
        arguments = [str(tmp_path / arguments[0]), *arguments[1:]]
    status, out, err = run_tool(*arguments)
    assert (status, out) == (2, '')
    assert err.startswith('error: ') and err.count('\n') == 1
    assert message in err
    assert not (tmp_path / 'set').exists()


def test_mmdet_loads_boxes_and_masks(small_set: Path) -> None:
    pytest.importorskip('mmdet')
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    dataset = CocoDataset(
        data_root=str(small_set / 'coco'),
        ann_file='annotations/instances_val2017.json',
        data_prefix={'img': 'val2017/'},
        metainfo={'classes': CLASSES},
        pipeline=[],
    )
    assert len(dataset) == SMALL['num_val']
    load = LoadAnnotations(with_bbox=True, with_mask=True)
    for index in range(len(dataset)):
        drawing = draw_image(SMALL['seed'], 'val', index, SMALL['size'])
        info = dataset.get_data_info(index)
        assert Path(info['img_path']).is_file()
        results = load({**info, 'ori_shape': (info['height'], info['width'])})
        assert results['gt_bboxes_labels'].tolist() == drawing.labels.tolist()
        corners = drawing.boxes()
        corners[:, 2:] += corners[:, :2]
        assert results['gt_bboxes'].numpy().tolist() == corners.tolist()
        assert np.array_equal(results['gt_masks'].masks.astype(bool), drawing.masks)
        assert not results['gt_ignore_flags'].any()


def test_mmseg_loads_label_maps(small_set: Path) -> None:
    pytest.importorskip('mmseg')
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    # ADE20KDataset differs in its class names only, and takes no others.
    classes = ('background', *CLASSES)
    dataset = BaseSegDataset(
        data_root=str(small_set / 'ade' / 'ADEChallengeData2016'),
        data_prefix={'img_path': 'images/validation', 'seg_map_path': 'annotations/validation'},
        img_suffix='.png',
        reduce_zero_label=True,
        metainfo={'classes': classes, 'palette': [[0, 0, 0]] * len(classes)},
        pipeline=[],
    )
    assert len(dataset) == SMALL['num_val']
    load = LoadAnnotations()
    for index in range(len(dataset)):
        drawing = draw_image(SMALL['seed'], 'val', index, SMALL['size'])
        info = dataset.get_data_info(index)
        assert Path(info['img_path']).is_file()
        labels = load(info)['gt_seg_map']
        assert np.array_equal(labels, drawing.label_map() - 1)
        assert labels.max() < len(classes)
