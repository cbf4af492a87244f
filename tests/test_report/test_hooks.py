import logging
from types import SimpleNamespace

import pytest
from mmengine.evaluator import BaseMetric
from PIL import Image

from mmlab_inline.report import CurvesHook, RunReport
from mmlab_inline.report.segmentation import SegmentationCollector

from .conftest import Dataset


def fail(*args):
    raise RuntimeError('no ink')


@pytest.mark.parametrize('method', ['__init__', 'add', 'finish'])
def test_failure_costs_one_line(evaluate_label_maps, monkeypatch, caplog, method):
    monkeypatch.setattr(SegmentationCollector, method, fail)
    metrics, report, _ = evaluate_label_maps(3)
    assert report is None
    assert metrics['mIoU'] > 0
    (line,) = [entry for entry in caplog.records if entry.levelname == 'WARNING']
    assert line.getMessage() == 'no report is written: RuntimeError: no ink'


def test_unwritable_report_costs_one_line(evaluate_objects, tmp_path, caplog):
    (tmp_path / 'run').write_text('a file where the folder should be')
    metrics, report, _ = evaluate_objects(2)
    assert report is None
    assert metrics['coco/bbox_mAP'] > 0
    (line,) = [entry for entry in caplog.records if entry.levelname == 'WARNING']
    assert 'report.json cannot be written' in line.getMessage()


@pytest.mark.parametrize('kind', ['evaluate_label_maps', 'evaluate_objects'])
def test_can_be_switched_off(kind, request, tmp_path, caplog):
    metrics, report, _ = request.getfixturevalue(kind)(2, enabled=False)
    assert metrics
    assert report is None
    assert not (tmp_path / 'run').exists()
    assert not caplog.records


def test_metric_is_as_before(evaluate_objects, monkeypatch):
    """What listens to mmdet's evaluation is gone afterwards."""
    coco_metric = pytest.importorskip('mmdet.evaluation.metrics.coco_metric')
    before = coco_metric.COCOeval
    evaluate_objects(2)
    assert coco_metric.COCOeval is before


class Accuracy(BaseMetric):
    default_prefix = 'mine'

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(accuracy=0.25)


def test_other_metrics_have_a_shorter_report(evaluate, tmp_path):
    dataset = Dataset(tmp_path, [(8, 8)], dict(classes=('a',)))
    _, report = evaluate(Accuracy(), dataset, [{}], 'mmdet')
    assert report['metrics'] == {'mine/accuracy': 0.25}
    assert report['per_class'] == {}
    assert RunReport.read(tmp_path / 'run/report.json').metrics == report['metrics']


def test_page_escapes_what_it_did_not_write(evaluate_label_maps, tmp_path):
    evaluate_label_maps(2)
    page = (tmp_path / 'run/report.html').read_text()
    assert '<h1>&lt;noise&gt;</h1>' in page
    assert 'class &lt;1&gt;' in page
    assert 'class <1>' not in page


def test_curves_are_drawn_and_never_stop_a_run(write_log, tmp_path, monkeypatch, caplog):
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=logging.getLogger('curves'))
    CurvesHook().after_train(runner)
    assert not (tmp_path / 'curves.png').exists()  # nothing was trained
    write_log('1', dict(lr=0.1, loss=2.0, step=1))
    CurvesHook(enabled=False).after_train(runner)
    assert not (tmp_path / 'curves.png').exists()
    CurvesHook().after_val_epoch(runner)
    assert Image.open(tmp_path / 'curves.png').width > 800
    monkeypatch.setattr('mmlab_inline.report.hooks.draw_curves', fail)
    CurvesHook().after_train(runner)
    assert [entry.getMessage() for entry in caplog.records] == [
        'curves.png is not drawn: RuntimeError: no ink'
    ]
