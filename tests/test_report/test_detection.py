import numpy as np
import pytest

from mmlab_inline.report.detection import DetectionCollector, _confusion, _match


def objects(*boxes, crowds=()):
    """Of (label, left, top, width, height)."""
    return dict(
        labels=np.array([label for label, *_ in boxes], int),
        boxes=np.array([box for _, *box in boxes], float).reshape(-1, 4),
        crowds=np.array([index in crowds for index in range(len(boxes))], bool),
    )


def test_matches_one_to_one_and_its_own_class_first():
    truth = objects((0, 0, 0, 10, 10), (1, 30, 30, 10, 10), (2, 60, 60, 10, 10))
    found = objects(
        (1, 0, 0, 10, 10),  # right place, wrong class: the third has the right one
        (1, 30, 31, 10, 10),  # found
        (0, 0, 1, 10, 10),  # found, though less sure than the first
        (1, 30, 30, 10, 10),  # again
        (2, 66, 66, 10, 10),  # IoU below one half
    )
    pairs = _match(found, truth)
    assert sorted(pairs) == [(-1, 2), (0, -1), (1, 1), (2, 0), (3, -1), (4, -1)]
    confusion = _confusion(pairs, found['labels'], truth['labels'], 3)
    assert confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 2, 1, 0]]


def test_mistaken_class_is_a_confusion():
    pairs = _match(objects((1, 0, 0, 10, 10)), objects((0, 0, 0, 10, 10)))
    assert pairs == [(0, 0)]


def test_what_lies_in_a_crowd_does_not_count():
    truth = objects((0, 0, 0, 50, 50), (0, 100, 0, 10, 10), crowds=[0])
    found = objects((0, 5, 5, 4, 4), (1, 20, 20, 4, 4), (0, 100, 0, 10, 10), (0, 200, 0, 9, 9))
    assert sorted(_match(found, truth)) == [(2, 1), (3, -1)]


def test_nothing_there_or_nothing_found():
    assert _match(objects(), objects()) == []
    assert _match(objects((0, 0, 0, 9, 9)), objects()) == [(0, -1)]
    assert _match(objects(), objects((0, 0, 0, 9, 9))) == [(-1, 0)]


@pytest.mark.parametrize('num_classes', [1, 3, 20])
def test_agrees_with_the_metric(evaluate_objects, num_classes):
    metrics, report, _ = evaluate_objects(num_classes)
    table = report['per_class']
    for kind, prefix in (('box', 'bbox'), ('mask', 'segm')):
        for column, name in (('AP', 'mAP'), ('AP50', 'mAP_50'), ('AP75', 'mAP_75')):
            values = [value for value in table[f'{kind} {column}'] if value is not None]
            expected = metrics[f'coco/{prefix}_{name}']
            assert 0 < np.mean(values) < 1
            assert np.mean(values) == pytest.approx(expected, abs=0.0006)
        # The area below the mean curve is the mean AP at that overlap.
        area = np.mean(report['curves'][kind])
        assert area == pytest.approx(metrics[f'coco/{prefix}_mAP_50'], abs=0.0006)
    assert report['headline'] == 'mask AP'


def test_counts_and_pictures(evaluate_objects, monkeypatch):
    found = []
    finish = DetectionCollector.finish
    monkeypatch.setattr(
        DetectionCollector, 'finish', lambda self: found.append(finish(self)) or found[-1]
    )
    _, report, samples = evaluate_objects(3, score_thr=0.5, num_pictures=2)
    (found,) = found
    num_sure = sum(int((s.pred_instances.scores >= 0.5).sum()) for s in samples)
    assert found.confusion[:, :3].sum() == num_sure
    assert found.confusion[:3].sum() == sum(report['per_class']['objects'])
    assert found.confusion[3, 3] == 0
    assert len(found.best) == len(found.worst) == 2
    assert found.best[0].score >= found.best[1].score >= found.worst[1].score
    assert 0 <= found.worst[0].score <= found.worst[1].score


def test_nothing_detected_at_all(evaluate_objects, tmp_path):
    _, report, _ = evaluate_objects(3, find=False)
    page = (tmp_path / 'run/report.html').read_text()
    assert 'Nothing was detected' in page
    assert sum(report['per_class']['objects']) > 0
    assert report['per_class']['recall'] == [0, 0, 0]
