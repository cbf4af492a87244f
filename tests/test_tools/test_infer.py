"""tools/infer.py as a user calls it, and mmdet's and mmseg's own inferencers with our configs."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from mmlab_inline.datasets import draw_image
from mmlab_inline.engine import load_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2]
CONFIGS = {
    'mmdet': str(ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py'),
    'mmseg': str(ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py'),
}
NAMES = ('1', '2', '3')


@pytest.fixture(scope='module')
def folder(tmp_path_factory, randomised):
    """Checkpoints of untrained models, as training names them, and a folder of drawings."""
    folder = tmp_path_factory.mktemp('infer')
    torch.manual_seed(0)
    for task, config in CONFIGS.items():
        cfg = load_config(config)
        init_default_scope(task)
        model = randomised(MODELS.build(cfg.model))
        classes = tuple(f'{task} {number}' for number in range(4 if task == 'mmseg' else 3))
        palette = [(40 * number, 100, 200) for number in range(len(classes))]
        meta = dict(dataset_meta=dict(classes=classes, palette=palette))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f'{task}.pth')
    (folder / 'images').mkdir()
    for name, size in zip(NAMES, ((160, 160), (96, 160), (160, 160)), strict=True):
        image = draw_image(0, 'val', int(name), size).image
        Image.fromarray(image).save(folder / f'images/{name}.png')
    return folder


@pytest.fixture
def infer(folder, tmp_path, monkeypatch, capsys):
    """Runs the tool in an empty folder; what it printed, and its errors."""
    monkeypatch.chdir(tmp_path)

    def run(task, *inputs, code=0, checkpoint=None):
        checkpoint = checkpoint or str(folder / f'{task}.pth')
        arguments = ['infer.py', CONFIGS[task], checkpoint, *map(str, inputs), '--device', 'cpu']
        monkeypatch.setattr(sys, 'argv', arguments)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / 'tools/infer.py'), run_name='__main__')
        printed = capsys.readouterr()
        assert stop.value.code == code, printed.err
        errors = [line for line in printed.err.splitlines() if line.startswith('error: ')]
        return errors if code else printed.out

    return run


def test_detector(infer, folder, tmp_path):
    printed = infer('mmdet', folder / 'images', '--json', '--score-thr', '0.1', '--out', 'seen')
    assert '3 images in' in printed and 'images/s' in printed
    for name, size in zip(NAMES, ((480, 480), (480, 288), (480, 480)), strict=True):
        assert Image.open(tmp_path / f'seen/pictures/{name}.jpg').size == size
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO('seen/images.json')
        found = index.loadRes('seen/predictions.json')
    assert [Path(image['file_name']).stem for image in index.loadImgs([1, 2, 3])] == [*NAMES]
    assert [each['name'] for each in index.loadCats([1, 2, 3])] == ['mmdet 0', 'mmdet 1', 'mmdet 2']
    assert set(found.getImgIds()) == {1, 2, 3}
    assert found.anns
    for each in found.anns.values():
        image = index.imgs[each['image_id']]
        assert each['score'] >= 0.1
        assert found.annToMask(each).shape == (image['height'], image['width'])
        left, top, width, height = each['bbox']
        assert min(left, top, width, height) >= 0
        assert left + width <= image['width'] and top + height <= image['height']


def test_segmentor(infer, folder, tmp_path):
    infer('mmseg', folder / 'images/*.png', '--json', '--batch-size', '2', '--out', 'seen')
    index = json.loads(Path('seen/images.json').read_text())
    assert [each['name'] for each in index['categories']] == [f'mmseg {n}' for n in range(4)]
    assert [each['id'] for each in index['categories']] == [0, 1, 2, 3]
    assert [Path(each['file_name']).stem for each in index['images']] == [*NAMES]
    for image in index['images']:
        label_map = Image.open(tmp_path / 'seen' / image['label_map'])
        assert label_map.size == (image['width'], image['height'])
        assert set(np.unique(label_map)) <= {0, 1, 2, 3}
        assert label_map.getpalette()[3:6] == [40, 100, 200]
        assert (tmp_path / f'seen/pictures/{Path(image["file_name"]).stem}.jpg').is_file()


def test_mixed_precision(infer, folder, tmp_path):
    for task in CONFIGS:
        printed = infer(task, folder / 'images/1.png', '--amp', '--out', task)
        assert 'bfloat16 autocast on the CPU\n' in printed
        assert (tmp_path / f'{task}/pictures/1.jpg').is_file()


def test_tiles_without_pictures(infer, folder, tmp_path):
    options = ['--tile', '96', '--overlap', '32', '--batch-size', '3', '--json', '--no-pictures']
    for task in CONFIGS:
        infer(task, folder / 'images', *options, '--out', task)
        assert not (tmp_path / task / 'pictures').exists()
    with contextlib.redirect_stdout(io.StringIO()):
        COCO('mmdet/images.json').loadRes('mmdet/predictions.json')
    assert Image.open('mmseg/label_maps/2.png').size == (160, 96)


def test_video(infer, tmp_path):
    size = (160, 128)
    clip = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 12, size)
    assert clip.isOpened()
    for index in range(5):
        clip.write(draw_image(0, 'val', index, size[::-1]).image)
    clip.release()
    printed = infer('mmseg', 'clip.avi', '--json', '--batch-size', '2')
    assert '5 images in' in printed
    index = json.loads(Path('work_dirs/infer/images.json').read_text())
    assert [each['file_name'] for each in index['images']] == [
        f'clip.avi/{number:06}' for number in range(1, 6)
    ]
    assert len(list(Path('work_dirs/infer/label_maps/clip').glob('*.png'))) == 5
    drawn = cv2.VideoCapture('work_dirs/infer/pictures/clip.mp4')
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert drawn.get(cv2.CAP_PROP_FPS) == 12
    assert drawn.get(cv2.CAP_PROP_FRAME_WIDTH) == 480


def test_unreadable_files_do_not_stop_the_others(infer, folder, tmp_path):
    Path('torn.png').write_bytes((folder / 'images/1.png').read_bytes()[:40])
    Path('torn.mp4').write_bytes(b'no video')
    errors = infer('mmseg', 'torn.png', 'torn.mp4', folder / 'images/2.png', code=1)
    assert len(errors) == 2
    assert 'torn.png cannot be read: it is ' in errors[0] and 'torn.mp4 cannot be read' in errors[1]
    assert 'Error' not in ''.join(errors)  # words of a person
    assert [path.name for path in Path('work_dirs/infer/pictures').iterdir()] == ['2.jpg']


def test_images_that_fail_do_not_stop_the_others(infer, folder):
    """One has a side that resizing rounds to 0."""
    Image.new('RGB', (5000, 1)).save('0.png')
    [line] = infer('mmdet', '0.png', folder / 'images', '--json', '--batch-size', '4', code=1)
    assert line.startswith('error: 0.png cannot be predicted: ')
    index = json.loads(Path('work_dirs/infer/images.json').read_text())
    assert [Path(image['file_name']).stem for image in index['images']] == [*NAMES]
    assert len(list(Path('work_dirs/infer/pictures').iterdir())) == 3
    found = json.loads(Path('work_dirs/infer/predictions.json').read_text())
    assert {each['image_id'] for each in found} <= {image['id'] for image in index['images']}


def failing_model(monkeypatch, error, *widths):
    """Raises for every batch with an image of these widths, or for every batch."""
    from mmseg.models import EncoderDecoder

    def test_step(self, data, step=EncoderDecoder.test_step):
        if not widths or any(s.ori_shape[1] in widths for s in data['data_samples']):
            raise error
        return step(self, data)

    monkeypatch.setattr(EncoderDecoder, 'test_step', test_step)


@pytest.mark.parametrize('options', [(), ('--batch-size', '3'), ('--tile', '200')])
def test_too_little_memory_for_one_image(infer, folder, monkeypatch, options):
    memory = torch.cuda.OutOfMemoryError('CUDA out of memory')
    failing_model(monkeypatch, memory, 96)
    Path('more').mkdir()
    for name in '4567':
        size = (96 if name == '6' else 160, 160)
        Image.fromarray(draw_image(0, 'val', int(name), size[::-1]).image).save(f'more/{name}.png')
    [line] = infer('mmseg', 'more', '--json', '--out', 'seen', *options, code=1)
    assert 'more/6.png cannot be predicted' in line
    assert 'the GPU has too little memory: lower --batch-size, or give --tile' in line
    index = json.loads(Path('seen/images.json').read_text())
    assert [Path(image['file_name']).stem for image in index['images']] == [*'457']


@pytest.mark.parametrize('interrupted', [True, False])
def test_what_is_there_when_it_stops_is_written(infer, folder, monkeypatch, interrupted):
    """By Ctrl-C, or because a file cannot be written."""
    Path('seen/pictures').mkdir(parents=True)
    if interrupted:
        failing_model(monkeypatch, KeyboardInterrupt(), 96)
        Image.new('RGB', (96, 160)).save('2.png')
    else:
        Path('seen/pictures/2.jpg').mkdir()
        Image.new('RGB', (160, 160)).save('2.png')
    inputs = folder / 'images/1.png', '2.png', folder / 'images/3.png'
    errors = infer('mmseg', *inputs, '--json', '--out', 'seen', code=130 if interrupted else 2)
    assert 'stopped after 1 of 3 images; the results are of these alone' in errors[0]
    assert len(errors) == (1 if interrupted else 2)
    index = json.loads(Path('seen/images.json').read_text())
    assert [Path(image['file_name']).stem for image in index['images']] == ['1']


@pytest.mark.parametrize('options', [(), ('--batch-size', '3'), ('--tile', '64')])
def test_an_op_that_is_not_served_is_one_line(infer, folder, monkeypatch, options):
    """Not one for each image."""
    refused = NotImplementedError('carafe_forward of mmcv.ops needs a compiled mmcv, ...')
    failing_model(monkeypatch, refused)
    assert infer('mmseg', folder / 'images', *options, code=2) == [f'error: {refused}']


def test_a_video_is_closed_when_it_stops(infer, monkeypatch):
    clip = cv2.VideoWriter('clip.avi', cv2.VideoWriter_fourcc(*'MJPG'), 12, (160, 128))
    for index in range(5):
        clip.write(draw_image(0, 'val', index, (128, 160)).image)
    clip.release()
    Image.new('RGB', (96, 160)).save('2.png')
    failing_model(monkeypatch, KeyboardInterrupt(), 96)
    infer('mmseg', 'clip.avi', '2.png', code=130)
    drawn = cv2.VideoCapture('work_dirs/infer/pictures/clip.mp4')
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5


def test_wrong_input_is_one_line(infer, folder):
    image = folder / 'images/1.png'
    Path('empty').mkdir()
    wrong = [
        (['absent.png'], 'input absent.png does not exist'),
        (['empty'], 'no image or video in the folder empty'),
        ([image, '--no-pictures'], '--json'),
        ([image, '--tile', '64', '--overlap', '64'], 'less than --tile'),
        ([image, '--overlap', '6'], 'needs --tile'),
        ([image, '--batch-size', '0'], '--batch-size'),
        ([image, '--score-thr', 'high'], '--score-thr'),
    ]
    for inputs, said in wrong:
        [line] = infer('mmseg', *inputs, code=2)
        assert said in line
    for checkpoint, said in (
        ('absent.pth', 'absent.pth does not exist'),
        (str(folder / 'mmdet.pth'), 'is of another model'),
    ):
        [line] = infer('mmseg', image, code=2, checkpoint=checkpoint)
        assert said in line
    wrong_arch = ('--cfg-options', 'model.backbone.arch=tinny')
    [line] = infer('mmseg', image, *wrong_arch, code=2)
    assert 'the model does not build: ' in line and "'tinny'" in line
    assert not Path('work_dirs').exists()


@pytest.mark.parametrize('device', ['gpu', 'cuda:63'])
def test_no_such_device(infer, folder, device):
    from mmlab_inline.inference import Predictor
    from mmlab_inline.utils import UserError

    with pytest.raises(UserError, match=f'--device {device} cannot be used'):
        Predictor(load_config(CONFIGS['mmseg']), str(folder / 'mmseg.pth'), device)


def test_mmdets_inferencer(folder, tmp_path):
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(CONFIGS['mmdet'], str(folder / 'mmdet.pth'), device='cpu')
    image = str(folder / 'images/2.png')
    [found] = inferencer(image, out_dir=str(tmp_path), pred_score_thr=0.1)['predictions']
    assert found['bboxes'] and len(found['masks']) == len(found['scores'])
    assert (tmp_path / 'vis/2.png').is_file()


def test_mmsegs_inferencer(folder, tmp_path):
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(CONFIGS['mmseg'], str(folder / 'mmseg.pth'), device='cpu')
    label_map = inferencer(str(folder / 'images/2.png'), out_dir=str(tmp_path))['predictions']
    assert label_map.shape == (96, 160)
    assert (tmp_path / 'vis/2.png').is_file()
