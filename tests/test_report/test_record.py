import pytest

from mmlab_inline.report import draw_curves, draw_several, read_record


def train(step, loss=1.0, **others):
    return dict(lr=0.1, loss=loss, time=0.2, iter=step, step=step, **others)


def test_resumed_run_continues(write_log, tmp_path):
    write_log('20260101_120000', train(10, 3.0), train(20, 2.0), dict(mIoU=5.0, time=1, step=20))
    # Stopped after iteration 25, but the checkpoint is that of 20, where it was evaluated.
    write_log('20260101_130000', train(30, 9.0), torn='{"lr": 0.1, "lo')
    write_log('20260101_140000', train(30, 1.0), dict(mIoU=6.0, step=30))
    record = read_record(tmp_path)
    assert record.series('loss') == ([10, 20, 30], [3.0, 2.0, 1.0])
    assert record.series('mIoU') == ([20, 30], [5.0, 6.0])
    assert record.metrics() == ['mIoU']
    assert record.losses() == ['loss']


def test_what_is_no_text_is_left_out(write_log, tmp_path):
    write_log('1', train(10), train(20, 5.0))
    path = tmp_path / '1/vis_data/scalars.json'
    path.write_bytes(path.read_bytes().replace(b'5.0', b'\xff'))
    assert read_record(tmp_path).series('loss') == ([10], [1.0])


def test_new_run_in_the_same_folder_begins_again(write_log, tmp_path):
    write_log('20260101_120000', train(10), train(20), dict(mIoU=5.0, step=20))
    write_log('20260101_130000', train(5, 7.0))
    record = read_record(tmp_path)
    assert record.series('loss') == ([5], [7.0])
    assert record.evaluations == []


def test_cut_off_evaluation_is_made_up_for(write_log, tmp_path):
    write_log('20260101_120000', train(10))
    write_log('20260101_130000', dict(mIoU=5.0, step=10), train(20))
    assert read_record(tmp_path).series('mIoU') == ([10], [5.0])


def test_epochs_are_placed_among_iterations(write_log, tmp_path):
    """As mmdet logs them by default."""
    evaluations = (dict(epoch_ap=0.1, step=1), dict(epoch_ap=0.2, step=2))
    write_log('1', train(50), evaluations[0], train(100), evaluations[1])
    assert read_record(tmp_path).series('epoch_ap') == ([50, 100], [0.1, 0.2])


def test_missing_metrics_are_left_out(write_log, tmp_path):
    write_log('1', train(50), {'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_l': -1.0, 'step': 50})
    assert read_record(tmp_path).metrics() == ['coco/bbox_mAP']


def test_empty_folder_has_an_empty_record(tmp_path):
    record = read_record(tmp_path)
    assert record.train == record.evaluations == []


@pytest.mark.parametrize('losses', [{}, dict(loss_cls=0.5, loss_box=0.5)])
def test_figures_show_every_point(write_log, tmp_path, losses):
    write_log('1', train(1, 4.0, **losses), train(2, 3.0, **losses), dict(mIoU=5.0, step=2))
    record = read_record(tmp_path)
    panels = draw_curves(record).axes
    assert [axis.get_title() for axis in panels] == ['training losses', 'learning rate', 'metrics']
    total, *terms = panels[0].lines
    assert total.get_xydata().tolist() == [[1, 4], [2, 3]]
    assert len(terms) == len(losses)
    assert panels[2].lines[0].get_xydata().tolist() == [[2, 5]]
    panels = draw_several({'a': record, 'b': record}).axes
    assert [axis.get_title() for axis in panels] == ['training loss', 'learning rate', 'mIoU']
    assert all(len(axis.lines) == 2 for axis in panels)


def test_many_runs_look_different(write_log, tmp_path):
    write_log('1', train(1), train(2), dict(mIoU=5.0, step=2))
    records = dict.fromkeys(map(str, range(40)), read_record(tmp_path))
    figure = draw_several(records)
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y0 >= 0  # whole
    for axis in figure.axes:
        looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.lines}
        assert len(looks) == len(records)
