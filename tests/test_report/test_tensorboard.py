import sys

import pytest

from mmlab_inline.report import TensorBoardScalars, tensorboard


def write(tmp_path, start, points):
    backend = TensorBoardScalars(str(tmp_path / start / 'vis_data'))
    backend.add_config(None)
    for step, value in points:
        backend.add_scalars({'loss': value}, step=step)
    backend.close()


def test_resumed_run_is_one_curve(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, '1', [(10, 3.0), (20, 2.0), (30, 9.0)])
    # The checkpoint was that of iteration 20.
    write(tmp_path, '2', [(30, 1.0), (40, 0.5)])
    events = EventAccumulator(str(tmp_path / 'tensorboard')).Reload().Scalars('loss')
    assert [(event.step, event.value) for event in events] == [
        (10, 3.0),
        (20, 2.0),
        (30, 1.0),
        (40, 0.5),
    ]


def test_evaluations_leave_no_file(tmp_path):
    write(tmp_path, '1', [])
    assert not list(tmp_path.iterdir())


def test_goes_without_tensorboard(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(tensorboard, 'print_log', lambda line, logger: lines.append(line))
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    write(tmp_path, '1', [(1, 1.0), (2, 2.0)])
    (line,) = lines
    assert 'TensorBoard is not installed' in line
    assert not list(tmp_path.iterdir())
