"""tools/dataset/check.py, and how training and testing stop on bad data."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmlab_inline.datasets import write_dataset

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py'
SEGMENTOR = ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py'


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The demo's data, smaller, below the current folder."""
    monkeypatch.chdir(tmp_path)
    root = Path('work_dirs/demo/data')
    write_dataset(root, 4, 2, classes=('circle', 'ring', 'cross'), size=160)
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a tool; its exit status, output and last line of error."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        printed = capsys.readouterr()
        return stop.value.code, printed.out, (printed.err.splitlines() or [''])[-1]

    return run


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTOR])
def test_the_demo_data_are_good(data, run, config):
    code, printed, _ = run('dataset/check.py', config, '--workers', '0')
    assert code == 0
    assert '0 fatal, 0 warning, 0 note' in printed
    assert 'test: the same data as val' in printed
    assert re.search(r'Read 6 images in .* s: .* s per thousand', printed)


def test_findings_are_printed_and_written(data, run):
    images = sorted((data / 'coco/train2017').iterdir())
    for image in images:
        image.write_bytes(b'')
    arguments = '--splits', 'train', '--workers', '2', '--json', 'report.json'
    code, printed, _ = run('dataset/check.py', DETECTOR, *arguments)
    assert code == 1
    assert 'fatal: image-empty (4)' in printed
    assert f'{images[2]}: is an empty file' in printed
    assert str(images[3]) not in printed
    assert '-> copy it anew from its source' in printed
    report = json.loads(Path('report.json').read_text())
    assert [found['file'] for found in report['findings']] == list(map(str, images))
    assert {found['severity'] for found in report['findings']} == {'fatal'}
    assert report['images'] == 4


def test_warnings_alone_are_no_failure(data, run):
    path = data / 'coco/annotations/instances_train2017.json'
    edit(path, lambda content: content['annotations'][0].update(bbox=[0, 0, 0, 9]))
    code, printed, _ = run('dataset/check.py', DETECTOR, '--fast', '--workers', '0')
    assert code == 0
    assert '0 fatal, 1 warning, 0 note' in printed


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['absent.py'], 'config absent.py does not exist'),
        ([DETECTOR, '--splits', 'other'], '--splits'),
        ([DETECTOR, '--workers', '-1'], '--workers must be at least 0'),
        ([DETECTOR, '--json', 'absent/report.json'], 'is no folder'),
        ([DETECTOR, '--cfg-options', 'train_dataloader.dataset.fast=1'], "unknown key 'fast'"),
    ],
)
def test_wrong_usage(data, run, arguments, words):
    code, _, error = run('dataset/check.py', *arguments)
    assert code == 2
    assert error.startswith('error: ')
    assert words in error


def test_a_split_that_the_config_lacks(data, run):
    config = Path('short.py')
    config.write_text(f"_base_ = '{DETECTOR}'\ntest_dataloader = None\n")
    code, _, error = run('dataset/check.py', config, '--splits', 'test')
    assert (code, error) == (2, 'error: --splits test: the config has only train, val data')


def empty_image(data):
    path = sorted((data / 'coco/train2017').iterdir())[1]
    path.write_bytes(b'')
    return f'{path}: is an empty file; copy it anew'


def swap_sizes(data):
    path = data / 'coco/annotations/instances_train2017.json'
    edit(path, lambda content: content['images'][0].update(width=80))
    return 'is 160x160, annotated as 80x160'


def rename_classes(data):
    path = data / 'coco/annotations/instances_train2017.json'

    def rename(content):
        for category in content['categories']:
            category['name'] = category['name'].title()

    edit(path, rename)
    return f"{path}: classes 'circle', 'ring', 'cross' of the config are not among"


def all_crowds(data):
    path = data / 'coco/annotations/instances_train2017.json'
    edit(path, lambda content: [item.update(iscrowd=1) for item in content['annotations']])
    return 'no image has an object to learn'


def empty_map(data):
    path = sorted((data / 'ade/ADEChallengeData2016/annotations/training').iterdir())[2]
    path.write_bytes(b'')
    return f'{path}: is an empty file; copy it anew'


def lose_suffix(data):
    for path in (data / 'ade/ADEChallengeData2016/images/training').iterdir():
        path.rename(path.with_suffix('.jpg'))
    return 'no image is left'


@pytest.mark.parametrize(
    ('config', 'damage', 'workers'),
    [
        (DETECTOR, empty_image, 0),
        (DETECTOR, swap_sizes, 1),
        (DETECTOR, rename_classes, 0),
        (DETECTOR, all_crowds, 0),
        (SEGMENTOR, empty_map, 1),
        (SEGMENTOR, lose_suffix, 0),
    ],
)
def test_training_stops_with_one_line(data, run, config, damage, workers):
    words = damage(data)
    options = f'train_dataloader.num_workers={workers}', 'train_dataloader.batch_size=2'
    code, _, error = run('train.py', config, '--cfg-options', *options)
    assert code == 2
    assert error.startswith('error: ')
    assert words in error
    assert 'tools/dataset/check.py' in error


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        (
            {'model.roi_head.mask_head.num_classes': 80},
            'model.roi_head.mask_head.num_classes=80, but the dataset has 3 classes',
        ),
        (
            {'train_dataloader.dataset.metainfo.classes': 'circle'},
            "a tuple of one name needs a comma: classes=('circle',)",
        ),
    ],
)
def test_training_stops_before_anything_is_built(data, run, option, words):
    config = Config.fromfile(DETECTOR)
    config.merge_from_dict(option)
    config.dump('changed.py')
    code, printed, error = run('train.py', 'changed.py')
    assert code == 2
    assert words in error
    assert 'mmengine' not in printed
