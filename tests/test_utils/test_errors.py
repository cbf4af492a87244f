import pytest

from mmlab_inline.utils import UserError, exit_on_user_error


def test_user_error_is_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as info, exit_on_user_error():
        raise UserError('no such file: x')
    assert info.value.code == 2
    assert capsys.readouterr().err == 'error: no such file: x\n'


def test_traceback_on_demand(monkeypatch):
    monkeypatch.setenv('MMLAB_INLINE_TRACEBACK', '1')
    with pytest.raises(UserError, match='no such file: x'), exit_on_user_error():
        raise UserError('no such file: x')


def test_other_errors_pass():
    with pytest.raises(KeyError), exit_on_user_error():
        raise KeyError('x')


def test_no_error():
    with exit_on_user_error():
        pass


def test_interrupt_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == 'error: stopped by Ctrl-C\n'
