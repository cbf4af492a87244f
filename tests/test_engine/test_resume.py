import os

import pytest
import torch

from mmlab_inline.engine import find_checkpoint, is_whole
from mmlab_inline.runs import iterations_done
from mmlab_inline.utils import UserError


@pytest.fixture
def save(tmp_path):
    """Saves checkpoints in the order of the calls; the last one is the one that is named."""
    clock = iter(range(10))

    def save(name):
        path = tmp_path / name
        torch.save(dict(weights=torch.rand(100), name=name), path)
        os.utime(path, (next(clock),) * 2)
        (tmp_path / 'last_checkpoint').write_text(str(path))
        return path

    return save


def tear(path, kept=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])


def test_empty_folder(tmp_path):
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / 'absent') is None


def test_newest_of_whole_ones(save, tmp_path):
    save('epoch_9.pth')  # of an earlier run
    save('epoch_1.pth')
    newest = save('epoch_2.pth')
    save('best_bbox_epoch_2.pth').unlink()
    (tmp_path / 'last_checkpoint').write_text(str(newest))
    assert find_checkpoint(tmp_path) == newest


def test_torn_ones_are_passed_over(save, tmp_path, capsys):
    whole, *torn = (save(name) for name in ('iter_5.pth', 'iter_10.pth', 'interrupted.pth'))
    for path in torn:
        tear(path)
    assert find_checkpoint(tmp_path) == whole
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(' is torn')[0] for line in lines] == [str(path) for path in torn[::-1]]


def test_all_torn(save, tmp_path):
    for name in ('iter_5.pth', 'iter_10.pth'):
        tear(save(name))
    with pytest.raises(UserError, match=r'every checkpoint in .* is torn'):
        find_checkpoint(tmp_path)


def test_torn_pointer(save, tmp_path):
    save('iter_5.pth')
    newest = save('iter_10.pth')
    (tmp_path / 'last_checkpoint').write_text('')
    assert find_checkpoint(tmp_path) == newest


def test_moved_folder(save, tmp_path):
    newest = save('iter_10.pth')
    save('iter_20.pth').unlink()
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/run/iter_10.pth')
    assert find_checkpoint(tmp_path) == newest


@pytest.mark.parametrize('pointer', ['{}/epoch_2.pth', '/elsewhere/epoch_2.pth', ''])
def test_sharded_checkpoint_is_no_reason_to_start_over(save, tmp_path, pointer):
    save('epoch_1.pth')  # of an earlier run
    (tmp_path / 'epoch_2.pth').mkdir()
    (tmp_path / 'last_checkpoint').write_text(pointer.format(tmp_path))
    with pytest.raises(UserError, match=r'epoch_2\.pth is a folder of shards'):
        find_checkpoint(tmp_path)
    newest = save('epoch_3.pth')
    assert find_checkpoint(tmp_path) == newest


@pytest.mark.parametrize('kept', [0, 0.01, 0.5, 0.99, 0.999])
def test_cut_off_file_is_not_whole(save, kept):
    path = save('a.pth')
    assert is_whole(path)
    tear(path, kept)
    assert not is_whole(path)


def test_changed_byte_is_noticed(save):
    path = save('a.pth')
    content = bytearray(path.read_bytes())
    place = content.index(torch.load(path)['weights'].numpy().tobytes())
    content[place + 17] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)


def test_tells_how_far_a_run_has_come(build_run, tmp_path):
    build_run(length=2)[0].train()
    assert iterations_done(tmp_path / 'run/epoch_2.pth') == 10


@pytest.mark.parametrize(
    'content',
    [
        dict(state_dict=dict(weight=torch.zeros(2))),
        dict(weight=torch.zeros(2)),
        # What mmengine publishes and what it saves as the best.
        dict(meta=dict(iter=3), state_dict={}, message_hub={}),
        dict(meta={}, state_dict={}, message_hub={}, optimizer={}),
        [torch.zeros(2)],
    ],
)
def test_weights_alone_are_no_run_to_resume(content, tmp_path):
    torch.save(content, tmp_path / 'net.pth')
    with pytest.raises(UserError, match=r'net.pth holds no state of a run: --load-from'):
        iterations_done(tmp_path / 'net.pth')
