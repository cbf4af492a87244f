"""Predictions: batches and tiles against single whole images, masks against pycocotools."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmlab_inline.datasets import draw_image
from mmlab_inline.engine import load_config
from mmlab_inline.utils import UserError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import cv2
import mmcv
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmlab_inline.inference import (
    Frame,
    Instances,
    LabelMapMerger,
    MaskCrop,
    Painter,
    Predictor,
    ResultWriter,
    Source,
    class_colours,
    find_sources,
    merge_instances,
    pictures,
    tile_corners,
)
from mmlab_inline.inference.predictor import _category_ids
from mmlab_inline.inference.sources import IMAGE_SUFFIXES

ROOT = Path(__file__).parents[1]
DEMO = {
    'mmdet': ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py',
    'mmseg': ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py',
}
# Sides of the images; some become equal only by padding, some only by resizing.
SIZES = ((160, 160), (120, 160), (128, 160), (160, 160), (160, 120), (240, 320), (120, 160))


def frames(sizes):
    source = Source(Path('a.png'), 'a')
    for number, size in enumerate(sizes, start=1):
        image = draw_image(3, 'val', number, (160, 320)).image[: size[0], : size[1], ::-1]
        if image.shape[:2] != size:
            image = np.tile(image, (2, 1, 1))[: size[0], : size[1]]
        yield Frame(number, str(number), f'{number}.png', image, source)


@pytest.fixture(scope='module')
def build(tmp_path_factory, randomised):
    """Predictor of an untrained model: of a task's demo config, or of a config."""
    folder = tmp_path_factory.mktemp('checkpoints')

    def save(cfg, name):
        path = folder / f'{name}.pth'
        if not path.exists():
            torch.manual_seed(2)
            init_default_scope(cfg.default_scope)
            torch.save({'state_dict': randomised(MODELS.build(cfg.model)).state_dict()}, path)
        return str(path)

    def make(task, cfg=None, **settings):
        cfg = cfg or load_config(str(DEMO[task]))
        return Predictor(cfg, save(cfg, cfg.model.backbone.type), 'cpu', **settings)

    return make


def assert_same(actual, expected):
    if isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype == np.uint8
        assert (actual != expected).mean() < 1e-3  # ties of two classes
        return
    assert np.array_equal(actual.labels, expected.labels)
    assert np.allclose(actual.scores, expected.scores, atol=1e-4)
    assert np.allclose(actual.boxes, expected.boxes, atol=1e-2)
    for mask, other in zip(actual.masks, expected.masks, strict=True):
        assert mask.pixels.sum() == pytest.approx(other.pixels.sum(), rel=2e-3, abs=2)
        assert abs(mask.left - other.left) + abs(mask.top - other.top) <= 1


@pytest.mark.parametrize('task', ['mmdet', 'mmseg'])
def test_no_prediction_depends_on_its_neighbours(task, build):
    alone = {frame.number: found for frame, found in build(task)(frames(SIZES))}
    assert len(alone) == len(SIZES)
    if task == 'mmdet':
        assert all(len(found.boxes) for found in alone.values())
    for batch_size in (2, 3, 16):
        predictor = build(task, batch_size=batch_size)
        seen = []
        run = predictor._run
        predictor._run = lambda batch, run=run, seen=seen: seen.append(len(batch)) or run(batch)
        together = {frame.number: found for frame, found in predictor(frames(SIZES))}
        assert max(seen) == min(batch_size, {'mmdet': 4, 'mmseg': 2}[task])
        assert together.keys() == alone.keys()
        for number, found in together.items():
            assert_same(found, alone[number])


def test_waiting_images_are_bounded(build):
    predictor = build('mmseg', batch_size=2)
    read = []

    def stream():
        for frame in frames([(32 * number, 32) for number in (*range(1, 5), *range(1, 5))] * 6):
            read.append(frame.number)
            yield frame

    predictor._padded_shape = lambda data: (len(read),)  # no two fit together
    next(iter(predictor(stream())))
    assert len(read) == 16


@pytest.mark.parametrize('task', ['mmdet', 'mmseg'])
def test_one_tile_is_the_whole_image(task, build):
    whole = [found for _, found in build(task)(frames(SIZES[:2]))]
    tiled = [found for _, found in build(task, tile=400, overlap=100)(frames(SIZES[:2]))]
    for found, expected in zip(tiled, whole, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize('tile', [None, 96])
def test_mixed_precision(tile, build):
    """Nearly the same label map, and the same objects in kind, of the same dtypes."""
    for task in DEMO:
        ((_, exact),), ((_, found),) = (
            build(task, amp=amp, tile=tile, overlap=16)(frames(SIZES[:1])) for amp in (False, True)
        )
        if task == 'mmseg':
            assert found.dtype == exact.dtype
            assert 0 < (found != exact).mean() < 0.1
        else:
            assert len(found.boxes) and len(found.masks) == len(found.boxes)
            assert found.boxes.dtype == exact.boxes.dtype
            assert not np.array_equal(found.scores[:9], exact.scores[:9])


def test_results_are_those_of_the_libraries(build):
    """The same pixels and weights through mmdet.apis and mmseg.apis."""
    from mmdet.apis import inference_detector
    from mmseg.apis import inference_model

    for task, infer in (('mmdet', inference_detector), ('mmseg', inference_model)):
        predictor = build(task)
        [(frame, found)] = predictor(frames([(160, 160)]))
        model = predictor.model
        model.cfg = load_config(str(DEMO[task]))
        sample = infer(model, frame.image)
        if task == 'mmseg':
            assert np.array_equal(found, sample.pred_sem_seg.data[0].numpy())
            continue
        instances = sample.pred_instances
        assert torch.equal(torch.from_numpy(found.boxes), instances.bboxes)
        assert torch.equal(torch.from_numpy(found.labels), instances.labels)
        for crop, mask in zip(found.masks, instances.masks, strict=True):
            assert np.array_equal(coco_mask.decode(crop.rle(160, 160)), mask.numpy())


def test_score_threshold(build):
    [(_, everything)] = build('mmdet')(frames([(160, 160)]))
    limit = float(np.median(everything.scores))
    [(_, sure)] = build('mmdet', score_thr=limit)(frames([(160, 160)]))
    assert len(sure.scores) == len(sure.masks) == (everything.scores >= limit).sum()
    assert len(sure.scores) < len(everything.scores)


# Tiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('height', [1, 99, 100, 101, 350])
@pytest.mark.parametrize('overlap', [0, 30, 99])
def test_tiles_cover_the_image_with_the_overlap(height, overlap):
    corners, (tall, wide) = tile_corners(height, 230, 100, overlap)
    assert (tall, wide) == (min(height, 100), 100)
    covered = np.zeros((height, 230), int)
    for top, left in corners:
        part = covered[top : top + tall, left : left + wide]
        assert part.shape == (tall, wide)
        part += 1
    assert covered.min() == 1
    lefts = sorted({left for _, left in corners})
    assert all(right - left <= 100 - overlap for left, right in itertools.pairwise(lefts))
    assert corners == sorted(set(corners))


def test_label_maps_are_of_the_mean_logits():
    height, width = 70, 90
    corners, (tall, wide) = tile_corners(height, width, 40, 13)
    logits = torch.randn(len(corners), 5, tall, wide)
    sums, counts = torch.zeros(5, height, width), torch.zeros(height, width)
    merger = LabelMapMerger(height, width, tall, 0.5)
    for (top, left), tile in zip(corners, logits, strict=True):
        merger.add(top, left, tile)
        sums[:, top : top + tall, left : left + wide] += tile
        counts[top : top + tall, left : left + wide] += 1
    assert np.array_equal(merger.result(), (sums / counts).argmax(0).numpy())


def test_tiled_label_map_is_the_whole_one_away_from_borders(build):
    """A segmentor that sees 32 pixels far, on a drawing of 6 tiles."""
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(
                    type='SegDataPreProcessor', mean=[128] * 3, std=[60] * 3, bgr_to_rgb=True
                ),
                backbone=dict(
                    type='ResNet',
                    depth=18,
                    base_channels=8,
                    stem_channels=8,
                    num_stages=1,
                    strides=(1,),
                    dilations=(1,),
                    out_indices=(0,),
                ),
                decode_head=dict(
                    type='FCNHead',
                    in_channels=8,
                    in_index=0,
                    channels=8,
                    num_convs=0,
                    concat_input=False,
                    num_classes=4,
                ),
                test_cfg=dict(mode='whole'),
            ),
            test_dataloader=dict(
                dataset=dict(
                    type='BaseSegDataset',
                    metainfo=dict(classes=tuple('abcd')),
                    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')],
                )
            ),
        )
    )
    image = draw_image(1, 'val', 0, (304, 448)).image
    frame = Frame(1, 'a', 'a.png', image, Source(Path('a.png'), 'a'))
    [(_, whole)] = build('mmseg', cfg)([frame])
    [(_, tiled)] = build('mmseg', cfg, tile=160, overlap=16, batch_size=2)([frame])
    away = np.ones(image.shape[:2], bool)
    corners, _ = tile_corners(304, 448, 160, 16)
    assert len(corners) == 6
    for top, left in corners:
        for border in (top, top + 160):
            if 0 < border < 304:
                away[border - 32 : border + 32, left : left + 160] = False
        for border in (left, left + 160):
            if 0 < border < 448:
                away[top : top + 160, border - 32 : border + 32] = False
    assert away.mean() > 0.4
    assert len(np.unique(whole)) > 1
    assert (tiled != whole)[away].mean() < 1e-3
    assert (tiled != whole).mean() < 0.1


def seen(drawing, top, left, tile, centre):
    """What a perfect detector finds in a tile; of a cut object with a lower score."""
    boxes, scores, labels, masks = [], [], [], []
    for mask, label in zip(drawing.masks, drawing.labels, strict=True):
        part = mask[top : top + tile, left : left + tile]
        if part.sum() >= 20:
            crop = MaskCrop.of(part)
            height, width = crop.pixels.shape
            boxes.append([crop.left, crop.top, crop.left + width, crop.top + height])
            scores.append(0.5 + 0.4 * part.sum() / mask.sum() + centre * 0.01)
            labels.append(label)
            masks.append(crop)
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        masks,
    )


@pytest.mark.parametrize('number', range(4))
def test_every_object_that_fits_is_found_once(number):
    # Five shapes of at most 160 pixels, in tiles that share 170.
    drawing = draw_image(4, 'val', number, (480, 320))
    corners, shape = tile_corners(480, 320, 200, 170)
    parts = [seen(drawing, *corner, 200, i % 3) for i, corner in enumerate(corners)]
    assert sum(len(part.boxes) for part in parts) > 2 * len(drawing.labels)
    found = merge_instances(parts, corners, shape, (480, 320))
    assert np.all(np.diff(found.scores) <= 0)
    expected = {tuple(box) for box in drawing.boxes()}
    whole = {(left, top, right - left, bottom - top) for left, top, right, bottom in found.boxes}
    assert whole == expected
    assert len(found.boxes) == len(expected)
    masks = [coco_mask.decode(mask.rle(480, 320)) for mask in found.masks]
    for label, mask in zip(found.labels, masks, strict=True):
        assert any(
            drawing.labels[index] == label and np.array_equal(mask, truth)
            for index, truth in enumerate(drawing.masks)
        )


def test_tiled_objects_are_those_of_the_whole_image(build):
    """The whole way with a detector of bright blobs in place of the model, on drawn shapes."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    image = np.zeros((300, 400, 3), np.uint8)
    for index in range(12):
        mask = draw_image(0, 'val', index, 64).masks[0]
        y, x = 100 * (index // 4) + 5 * (index % 3), 100 * (index % 4) + 7 * (index % 5)
        image[y : y + 64, x : x + 64][mask] = 255

    def find_blobs(data):
        samples = []
        for tile in data['inputs']:
            _, parts = cv2.connectedComponents((tile[0].numpy() > 0).astype(np.uint8))
            masks = torch.stack([torch.from_numpy(parts == i) for i in range(parts.max() + 1)])[1:]
            crops = [MaskCrop.of(mask.numpy()) for mask in masks]
            ends = [(c.left + c.pixels.shape[1], c.top + c.pixels.shape[0]) for c in crops]
            boxes = [(c.left, c.top, *end) for c, end in zip(crops, ends, strict=True)]
            found = InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                scores=torch.tensor([0.9 - 1e-4 * mask.sum() / 64 for mask in masks]),
                labels=torch.zeros(len(masks), dtype=torch.int64),
                masks=masks,
            )
            samples.append(DetDataSample(pred_instances=found))
        return samples

    def predict(pixels, **settings):
        cfg = load_config(str(DEMO['mmdet']))
        cfg.test_dataloader.dataset.pipeline.pop(1)  # the resize
        predictor = build('mmdet', cfg, **settings)
        predictor.model.test_step = find_blobs
        [(_, found)] = predictor([Frame(1, 'a', 'a.png', pixels, Source(Path('a.png'), 'a'))])
        codes = [mask.rle(300, 400)['counts'] for mask in found.masks]
        return sorted(zip(found.boxes.tolist(), codes, strict=True))

    whole = predict(image)
    assert len(whole) >= 12
    for batch_size in (1, 4):
        assert predict(image, tile=160, overlap=75, batch_size=batch_size) == whole
    assert not predict(image * 0, tile=160, overlap=75)


def test_other_classes_and_far_objects_stay():
    def one(box, label):
        return Instances(
            np.array([box], np.float32), np.array([0.9], np.float32), np.array([label]), None
        )

    corners, shape = tile_corners(100, 150, 100, 50)
    assert corners == [(0, 0), (0, 50)]
    # The same place in the image: of two classes, of one, and two neighbours.
    parts = [one([60, 20, 80, 40], 0), one([10, 20, 30, 40], 1)]
    assert len(merge_instances(parts, corners, shape, (100, 150)).boxes) == 2
    parts = [one([60, 20, 80, 40], 0), one([10, 20, 30, 40], 0)]
    assert merge_instances(parts, corners, shape, (100, 150)).boxes.tolist() == [[60, 20, 80, 40]]
    parts = [one([60, 20, 80, 40], 0), one([32, 20, 52, 40], 0)]
    assert len(merge_instances(parts, corners, shape, (100, 150)).boxes) == 2


# Files, masks, pictures --------------------------------------------------------------------------


def test_masks_are_coded_as_pycocotools_does():
    rng = np.random.RandomState(0)
    masks = [np.zeros((9, 13), bool), np.ones((9, 13), bool)]
    masks += [rng.rand(9, 13) < share for share in (0.02, 0.1, 0.5, 0.9)]
    masks.append(np.pad(np.ones((2, 3), bool), ((7, 0), (10, 0))))
    for mask in masks:
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        code = MaskCrop.of(mask).rle(9, 13)
        assert code == dict(size=[9, 13], counts=expected['counts'].decode())
        assert json.dumps(code)


def test_sources(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    for name in ('a/2.png', 'a/1.JPG', 'a/notes.txt', 'b/2.jpg', 'b/clip.mp4'):
        (tmp_path / name).touch()
    found = find_sources([str(tmp_path / 'a'), str(tmp_path / '[b]/*'), str(tmp_path / 'a/2.png')])
    assert [(str(each.path.relative_to(tmp_path)), each.name) for each in found] == [
        ('a/1.JPG', '1'),
        ('a/2.png', '2.png'),
        ('b/2.jpg', '2.jpg'),
        ('b/clip.mp4', 'clip'),
    ]
    assert [each.is_video for each in found] == [False, False, False, True]
    (tmp_path / 'empty').mkdir()
    for name, said in (
        ('absent.png', 'does not exist'),
        ('*.tif', 'no file matches'),
        ('empty', 'no image or video in the folder'),
        ('', 'name its subfolders'),
    ):
        with pytest.raises(UserError, match=said):
            find_sources([f'{tmp_path}/{name}'])


def test_names_tell_which_file_they_are_of(tmp_path):
    for name in ('a/p.BMP', 'a/p.tiff', 'a/p.webp', 'b/p.tiff', 'b/q.jpg', 'c/a/p.tiff', 'b/p.gif'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_sources([str(tmp_path / folder) for folder in ('a', 'b', 'c/a')])
    assert {str(each.path.relative_to(tmp_path)): each.name for each in found} == {
        'a/p.BMP': 'p.BMP',
        'a/p.tiff': 'a_p.tiff',
        'a/p.webp': 'p.webp',
        'b/p.gif': 'p.gif',
        'b/p.tiff': 'b_p.tiff',
        'b/q.jpg': 'q',
        'c/a/p.tiff': 'a_p.tiff_2',
    }


def test_what_a_folder_holds_beside_images_is_named(tmp_path):
    for name in ('1.jpg', 'b.heic', 'a.txt', '.hidden'):
        (tmp_path / name).touch()
    (tmp_path / 'below').mkdir()
    left_out = []
    find_sources([str(tmp_path)], left_out)
    assert [path.name for path in left_out] == ['a.txt', 'b.heic']


@pytest.mark.parametrize('form', ['GIF', 'AVIF', 'JPEG2000', 'PPM', 'WEBP', 'TIFF', 'BMP'])
def test_every_suffix_is_read(form, tmp_path):
    suffix = {'JPEG2000': '.jp2'}.get(form, f'.{form.lower()}')
    assert suffix in IMAGE_SUFFIXES
    try:
        Image.new('RGB', (8, 6), (200, 30, 30)).save(tmp_path / f'p{suffix}', form)
    except (KeyError, OSError):
        pytest.skip('Pillow does not write it here')
    assert mmcv.imread(str(tmp_path / f'p{suffix}')).shape == (6, 8, 3)


def test_category_ids_are_those_of_the_annotations(build, tmp_path):
    cfg = load_config(str(DEMO['mmdet']))
    assert build('mmdet').category_ids == [1, 2, 3]
    categories = [dict(id=i, name=name) for i, name in ((7, 'cross'), (9, 'circle'), (4, 'ring'))]
    (tmp_path / 'data.json').write_text(json.dumps(dict(categories=categories)))
    dataset = cfg.test_dataloader.dataset
    dataset.data_root, dataset.ann_file = str(tmp_path), 'data.json'
    assert build('mmdet', cfg).category_ids == [9, 4, 7]


def test_category_ids_of_coco(tmp_path):
    from mmdet.datasets import CocoDataset

    dataset = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='absent.json')
    names = CocoDataset.METAINFO['classes']
    ids = dict(zip(names, _category_ids(dataset, names), strict=True))
    expected = {'person': 1, 'fire hydrant': 11, 'stop sign': 13, 'chair': 62, 'toothbrush': 90}
    assert {name: ids[name] for name in expected} == expected


def test_unnamed_classes_are_an_error(build):
    cfg = load_config(str(DEMO['mmseg']))
    cfg.test_dataloader.dataset.metainfo = dict(classes=('ground', 'circle'), palette=[[0] * 3] * 2)
    with pytest.raises(UserError, match='4 classes, but only 2 have a name'):
        build('mmseg', cfg)


def test_colours_are_one_per_class():
    few, many = class_colours(3), class_colours(150)
    assert np.array_equal(few, many[:3])
    assert len({tuple(colour) for colour in many}) == 150
    own = [[1, 2, 3], [4, 5, 6]]
    assert class_colours(2, own).tolist() == own
    assert class_colours(3, own).tolist() == few.tolist()


def test_numbers_in_pictures_are_explained(build, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, '_system_fonts', list)
    predictor = build('mmdet')
    assert len(ResultWriter(str(tmp_path), predictor, True, False).finish()) == 1
    predictor.classes = ('circle', '\u6d51', 'cross')
    said = ResultWriter(str(tmp_path), predictor, True, False).finish()
    assert said[1].endswith('pictures show numbers in their place: 1 \u6d51')


def test_synonyms_are_left_out_of_pictures():
    names = 'person, individual, someone', 'a name that is longer than pictures can show', 'x'
    painter = Painter(names, class_colours(3))
    assert painter.classes == ['person', 'a name that is…', 'x']


def test_a_picture_without_objects_may_say_so():
    painter = Painter(('a',), np.array([[200, 0, 0]], np.uint8))
    grey = np.full((300, 500, 3), 90, np.uint8)
    nothing = Instances(np.zeros((0, 4), np.float32), None, np.zeros(0, np.int64), None)
    assert (painter.draw(grey, nothing) == 90).all()
    said = painter.draw(grey, nothing, 'nothing found')
    assert (said != 90).any()
    assert (said[60:] == 90).all()
    label_map = np.zeros((300, 500), np.uint8)
    assert (painter.draw(grey, label_map, 'x') == painter.draw(grey, label_map)).all()


def test_pictures_show_class_and_colour():
    palette = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
    painter = Painter(('a', 'b'), palette)
    black = np.zeros((120, 240, 3), np.uint8)
    mask = MaskCrop(150, 40, np.ones((60, 60), bool))
    found = Instances(
        np.array([[150, 40, 210, 100]], np.float32),
        np.array([0.5], np.float32),
        np.array([1]),
        [mask],
    )
    picture = painter.draw(black, found)
    assert picture.shape == (240, 480, 3)  # twice as large
    assert picture[140, 360].tolist() == [0, 0, 100]
    assert picture[81, 340].tolist() == [0, 0, 200]  # the box
    assert (picture[40:80, 300:420] > 128).all(axis=-1).sum() > 20  # white text above it
    assert not picture[:, :290].any()

    label_map = np.zeros((120, 240), np.uint8)
    label_map[:, 120:] = 1
    picture = painter.draw(black, label_map)
    assert picture[30, 30].tolist() == [100, 0, 0]
    assert picture[30, 450].tolist() == [0, 0, 100]
    assert picture[30, 240].tolist() == [255, 255, 255]  # the border
    grey = np.full((120, 240), 100, np.uint8)
    assert painter.draw(grey, label_map)[30, 30].tolist() == [150, 50, 50]
