import re

import numpy as np
import pytest
import torch

from mmlab_inline.report import segmentation
from mmlab_inline.report.compare import compare, read_runs
from mmlab_inline.report.segmentation import SegmentationCollector


def average_precision(scores, is_there):
    """By its definition: at every recall the best precision from there on."""
    order = np.argsort(-scores, kind='stable')
    found = np.cumsum(is_there[order])
    precision = found / np.arange(1, len(order) + 1)
    recall = found / found[-1]
    return np.mean([precision[recall >= r - 1e-9].max() for r in np.linspace(0, 1, 101)])


@pytest.mark.parametrize('num_classes', [2, 5, 150])
def test_agrees_with_the_metric(evaluate_label_maps, num_classes, monkeypatch):
    monkeypatch.setattr(segmentation, '_MAX_SAMPLES', 40 * 60)
    metrics, report, samples = evaluate_label_maps(num_classes)
    table = report['per_class']
    assert np.mean(table['IoU']) == pytest.approx(metrics['mIoU'], abs=0.006)
    assert np.mean(table['accuracy (recall)']) == pytest.approx(metrics['mAcc'], abs=0.006)
    assert sum(table['pixels, %']) == pytest.approx(100)
    assert report['metrics'] == pytest.approx(dict(metrics))
    assert report['classes'][1] == 'class <1>'

    # Here all pixels are looked at.
    truth = np.stack([sample.gt_sem_seg.data[0].numpy() for sample in samples])
    logits = np.stack([sample.seg_logits.data.numpy() for sample in samples], axis=1)
    counted = truth != 255
    exact = np.exp(logits) / np.exp(logits).sum(0)
    expected = [
        100 * average_precision(exact[label][counted], truth[counted] == label)
        for label in range(num_classes)
    ]
    # Probabilities are sorted into bins; of 150 classes each has a hundred pixels only.
    assert table['pixel AP'] == pytest.approx(expected, abs=3 if num_classes > 10 else 0.5)
    assert np.mean(table['pixel AP']) == pytest.approx(np.mean(expected), abs=0.5)


def test_confusion_counts_pixels(evaluate_label_maps, monkeypatch):
    found = []
    finish = SegmentationCollector.finish
    monkeypatch.setattr(
        SegmentationCollector, 'finish', lambda self: found.append(finish(self)) or found[-1]
    )
    _, _, samples = evaluate_label_maps(3, num_pictures=2)
    (found,) = found
    expected = np.zeros((3, 3), int)
    scores = []
    for sample in samples:
        part = np.zeros((3, 3), int)
        pairs = torch.stack([sample.gt_sem_seg.data.ravel(), sample.pred_sem_seg.data.ravel()])
        for t, p in pairs.T.tolist():
            if t < 3:
                part[t, p] += 1
        expected += part
        scores.append(np.mean(np.diag(part) / (part.sum(0) + part.sum(1) - np.diag(part))))
    assert np.array_equal(found.confusion, expected)
    assert [p.score for p in found.best] == pytest.approx(sorted(scores)[:-3:-1])
    assert [p.score for p in found.worst] == pytest.approx(sorted(scores)[:2])
    assert found.worst[0].name == f'{np.argmin(scores)}.png'


def test_samples_of_large_images_are_bounded(evaluate_label_maps, monkeypatch):
    monkeypatch.setattr(segmentation, '_MAX_SAMPLES', 100)
    _, every, _ = evaluate_label_maps(2, num_images=20)
    monkeypatch.undo()
    _, some, _ = evaluate_label_maps(2, num_images=20)
    assert every['per_class']['pixel AP'] == pytest.approx(some['per_class']['pixel AP'], abs=2)
    assert every['per_class']['pixel AP'] != some['per_class']['pixel AP']


def test_results_without_probabilities(evaluate_label_maps, tmp_path):
    _, report, _ = evaluate_label_maps(4, with_logits=False)
    assert report['curves'] == {}
    assert 'gives no probabilities' in (tmp_path / 'run/report.html').read_text()


def test_one_class_with_a_threshold(tmp_path):
    """A head of one channel gives one probability a pixel, of the second of two classes."""
    from mmengine.evaluator import Evaluator
    from mmengine.structures import PixelData

    IoUMetric = pytest.importorskip('mmseg.evaluation').IoUMetric
    SegDataSample = pytest.importorskip('mmseg.structures').SegDataSample
    evaluator = Evaluator(IoUMetric())
    evaluator.dataset_meta = dict(classes=('ground', 'crack'))
    collector = SegmentationCollector(evaluator, 1, num_pictures=0)
    probability = torch.rand(1, 30, 30, generator=torch.Generator().manual_seed(0))
    sample = SegDataSample(metainfo=dict(img_path=''))
    data = dict(seg_logits=probability, pred_sem_seg=(probability > 0.3).float())  # as mmseg's
    data['gt_sem_seg'] = (probability > 0.5).long()
    sample.set_data({name: PixelData(data=value) for name, value in data.items()})
    collector.add([sample])
    collector.gather()
    found = collector.finish()
    assert found.per_class['pixel AP'] == pytest.approx(100, abs=1)
    assert found.confusion[1].tolist() == [0, int((probability > 0.5).sum())]


def test_one_unit_on_the_page(evaluate_label_maps, tmp_path):
    _, report, _ = evaluate_label_maps(50, num_pictures=1)
    page = (tmp_path / 'run/report.html').read_text()
    assert page.count('In percent.') == 2
    assert re.search(r'mIoU of the image \d+\.\d %', page)
    assert 'share of the truth, %' in page
    # More classes than the matrix can name: the table of confusions has its numbers too.
    assert re.search(r'>\d+ class ', page)
    assert 'in run' in report['about'][1]


def test_a_section_without_pictures_says_so(evaluate_label_maps, tmp_path):
    evaluate_label_maps(3, num_images=1, num_pictures=2)
    page = (tmp_path / 'run/report.html').read_text()
    worst, best = (page.split(f'>{kind} images</h2>')[1] for kind in ('Worst', 'Best'))
    assert worst.index('<img') < worst.index('Best images')
    assert best.index('None beside the others.') < best.index('Truth on the left')


def test_figures_are_in_the_unit_of_the_tables(evaluate_label_maps, tmp_path):
    evaluate_label_maps(3)
    run = tmp_path / 'run'
    pages = (run / 'report.html').read_text(), compare(read_runs([run]))
    for page, curve in zip(pages, ('mean', 'run'), strict=True):
        figures = page[page.index('>Precision and recall<') :]
        assert re.search(rf'>{curve} \d\d\.\d %<', figures)
        assert '>60 %<' in figures
        assert 'In percent.' in page
        assert not re.search(r'>0\.\d', figures)  # neither on axes nor in the matrix
