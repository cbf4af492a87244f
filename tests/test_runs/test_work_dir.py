import os

import pytest

from mmlab_inline.runs.work_dir import (
    clear,
    holds_run,
    work_dir_of_test,
    work_dir_of_training,
)
from mmlab_inline.utils import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, age=0):
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        file.write('x')
    os.utime(path, (1000 - age,) * 2)


@pytest.mark.parametrize(
    'trace',
    [
        'best_mIoU_iter_3.pth',
        'iter_3.pth',
        'last_checkpoint',
        'interrupted.pth',
        'report.html',
        'metrics.json',
        '20260101_000000/vis_data/scalars.json',
    ],
)
def test_a_new_run_never_goes_where_another_has_been(trace, capsys):
    assert work_dir_of_training('work/a', named=False) == 'work/a'
    write('work/a/notes.txt')  # of the user's
    assert work_dir_of_training('work/a', named=False) == 'work/a'
    write(f'work/a/{trace}')
    assert work_dir_of_training('work/a', named=False) == 'work/a_2'
    assert 'work/a holds a run already' in capsys.readouterr().out
    write(f'work/a_2/{trace}')
    assert work_dir_of_training('work/a', named=False) == 'work/a_3'
    with pytest.raises(UserError, match=r'--resume .* --overwrite .* --work-dir'):
        work_dir_of_training('work/a', named=True)


def test_overwriting_removes_the_run_alone():
    for name in ('epoch_1.pth', '2026/vis_data/scalars.json', '2026/2026.log', 'report.json'):
        write(f'work/a/{name}')
    write('work/a/notes.txt')
    write('work/a/config.py')
    assert work_dir_of_training('work/a', named=True, overwrite=True) == 'work/a'
    assert sorted(os.listdir('work/a')) == ['config.py', 'notes.txt']
    assert not holds_run('work/a')


def test_other_processes_remove_nothing(monkeypatch):
    write('work/a/epoch_1.pth')
    monkeypatch.setenv('RANK', '1')
    work_dir_of_training('work/a', named=True, overwrite=True)
    assert holds_run('work/a')


def test_resuming_finds_the_newest():
    assert work_dir_of_training('work/a', named=False, resume='auto') == 'work/a'
    for number, age in (('', 9), ('_2', 3), ('_10', 5), ('b', 0)):
        write(f'work/a{number}/last_checkpoint', age)
    assert work_dir_of_training('work/a', named=False, resume='auto') == 'work/a_2'
    assert work_dir_of_training('work/a', named=True, resume='auto') == 'work/a'


def test_resuming_a_checkpoint_stays_with_its_run():
    for name in ('a', 'a_2', 'other'):
        write(f'work/{name}/epoch_1.pth')
    path = os.path.abspath('work/a_2/epoch_1.pth')
    assert work_dir_of_training('work/a', False, path) == os.path.dirname(path)
    assert work_dir_of_training('work/a_2', True, path) == 'work/a_2'
    # Another run's state starts a run of its own.
    assert work_dir_of_training('work/a', False, 'work/other/epoch_1.pth') == 'work/a_3'
    with pytest.raises(UserError, match='holds a run already'):
        work_dir_of_training('work/a', True, path)


def test_an_evaluation_goes_to_the_run_of_its_checkpoint():
    write('work/a_2/2026/vis_data/scalars.json')
    assert work_dir_of_test('work/a', False, 'work/a_2/epoch_1.pth') == 'work/a_2'
    assert work_dir_of_test('work/a', True, 'work/a_2/epoch_1.pth') == 'work/a'
    assert work_dir_of_test('work/a', False, 'released/net.pth') == 'work/a'


def test_clearing_an_absent_folder_is_nothing():
    clear('nowhere')
