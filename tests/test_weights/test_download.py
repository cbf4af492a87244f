"""Downloads from a server of this machine, one that drops connections, ignores ranges and so on."""

import json
import os
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmlab_inline import InLinePVT
from mmlab_inline.utils import UserError
from mmlab_inline.weights import download as module
from mmlab_inline.weights.download import download
from mmlab_inline.weights.released import RELEASED_WEIGHTS, fetch_weights, sha256

TOOL = 'tools/download_weights.py'
CONTENT = os.urandom(1_000_003)


class Handler(BaseHTTPRequestHandler):
    """Serves one file, as the server's attributes say."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(self.headers.get('Range'))
        if server.status != 200:
            self.send_error(server.status)
            return
        start, content = 0, server.content
        unchanged = self.headers.get('If-Range') in (None, server.etag)
        if server.has_ranges and 'Range' in self.headers and unchanged:
            start = int(self.headers['Range'].removeprefix('bytes=').removesuffix('-'))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            end = len(content)
            self.send_header('Content-Range', f'bytes {start}-{end - 1}/{end}')
        else:
            self.send_response(200)
        self.send_header('Content-Type', server.content_type)
        if server.etag:
            self.send_header('ETag', server.etag)
        if server.has_length:
            self.send_header('Content-Length', str(len(content) - start))
        else:
            self.send_header('Connection', 'close')
        self.end_headers()
        drop = server.drops.pop(0) if server.drops else len(content)
        self.wfile.write(content[start : start + drop])
        self.close_connection = start + drop < len(content) or not server.has_length

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr(module, 'PAUSE', 0.0)
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.content, server.content_type, server.etag = CONTENT, 'application/zip', '"one"'
        server.status, server.has_ranges, server.has_length = 200, True, True
        server.drops = []  # bytes after which each connection is closed
        server.requests = []
        server.handle_error = lambda *args: None  # clients may hang up
        server.url = f'http://127.0.0.1:{server.server_port}/file?dl=1'
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'new/file.pth'


def assert_arrived(path: Path) -> None:
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == [path.name]


def test_whole_file(server, path):
    reports = []
    download(server.url, path, lambda done, total: reports.append((done, total)))
    assert_arrived(path)
    assert reports[0] == (0, len(CONTENT))
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(reports) == reports
    download(server.url, path)
    assert server.requests == [None]


def test_dropped_connections_are_taken_up(server, path):
    server.drops = [300_000, 0, 200_001, 1]
    download(server.url, path)
    assert_arrived(path)
    first = 'bytes=300000-'
    assert server.requests == [None, first, first, 'bytes=500001-', 'bytes=500002-']


def test_a_server_without_ranges_sends_all_again(server, path):
    server.has_ranges = False
    server.drops = [300_000]
    download(server.url, path)
    assert_arrived(path)
    assert len(server.requests) == 2


def interrupted(server: ThreadingHTTPServer, path: Path, size: int = 400_000) -> None:
    """Leave what a killed download leaves."""
    server.drops = [size, *[0] * (module.MAX_FAILURES + 1)]
    with pytest.raises(UserError, match=r'0\.4 MB have arrived, the same command continues'):
        download(server.url, path)
    assert not path.exists()
    assert path.with_name('file.pth.part').stat().st_size == size
    server.drops, server.requests = [], []


def test_another_call_continues(server, path):
    interrupted(server, path)
    download(server.url, path)
    assert_arrived(path)
    assert server.requests == ['bytes=400000-']


@pytest.mark.parametrize('has_ranges', [True, False])
def test_a_server_that_always_breaks_off_at_the_same_place(has_ranges, server, path):
    server.has_ranges = has_ranges
    server.drops = [400_000 if not has_ranges else 0] * 100
    with pytest.raises(UserError, match='broke off at'):
        download(server.url, path)
    assert len(server.requests) <= module.MAX_FAILURES + 2


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, path):
    server.content = bytes(len(CONTENT))
    interrupted(server, path)
    server.content, server.etag = CONTENT, '"two"'
    download(server.url, path)
    assert_arrived(path)


def test_a_file_of_another_size_without_a_version_is_fetched_anew(server, path):
    server.content, server.etag = bytes(len(CONTENT) + 1), None
    interrupted(server, path)
    server.content = CONTENT
    download(server.url, path)
    assert_arrived(path)


def test_another_url_starts_anew(server, path):
    interrupted(server, path)
    download(f'{server.url}&mirror', path)
    assert_arrived(path)
    assert server.requests == [None]


def test_killed_between_the_last_byte_and_the_renaming(server, path):
    interrupted(server, path)
    path.with_name('file.pth.part').write_bytes(CONTENT)
    download(server.url, path)
    assert_arrived(path)


def test_more_than_there_is(server, path):
    """What has arrived is longer than the file: start again."""
    interrupted(server, path)
    path.with_name('file.pth.part').write_bytes(CONTENT + b'more')
    download(server.url, path)
    assert_arrived(path)


def test_no_length_given(server, path):
    server.has_length = False
    reports = []
    download(server.url, path, lambda done, total: reports.append(total))
    assert_arrived(path)
    assert set(reports) == {None}


@pytest.mark.parametrize('status', [403, 404, 410])
def test_refusals_are_final(status, server, path):
    server.status = status
    with pytest.raises(UserError, match=f'the server says {status} .*--url'):
        download(server.url, path)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server, path):
    server.status = 503
    with pytest.raises(UserError, match='the server says 503'):
        download(server.url, path)
    assert len(server.requests) == module.MAX_FAILURES + 1


@pytest.mark.parametrize('content_type', ['text/html; charset=utf-8', 'application/octet-stream'])
def test_a_web_page_instead_of_the_file(content_type, server, path):
    server.content, server.content_type = b'\n<!DOCTYPE html><html>log in</html>', content_type
    with pytest.raises(UserError, match='a web page instead of the file'):
        download(server.url, path)
    assert not path.exists()


@pytest.mark.parametrize('url', ['ftp://host/file', 'file:///etc/passwd', 'pretrained/a.pth'])
def test_other_addresses(url, path):
    with pytest.raises(UserError, match='no http'):
        download(url, path)


def test_nobody_there(path):
    with pytest.raises(UserError, match=r'cannot be reached .*refused'):
        download('http://127.0.0.1:9/file', path)
    with pytest.raises(UserError, match='cannot be reached'):
        download('http://host.invalid/file', path)


def test_too_little_space_is_said_before_anything_is_fetched(server, path, monkeypatch):
    usage = namedtuple('usage', 'free')(400_000)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda folder: usage)
    with pytest.raises(UserError, match='0 MB left on its disk, 1 MB are needed'):
        download(server.url, path)


def test_a_full_disk_keeps_what_has_arrived(server, path, full_disk):
    message = 'cannot be written: File too large; put that right, the same command continues'
    with full_disk(500_000), pytest.raises(UserError, match=message):
        download(server.url, path)
    kept = path.with_name('file.pth.part').stat().st_size
    assert 0 < kept <= 500_000
    download(server.url, path)
    assert_arrived(path)
    assert server.requests[-1] == f'bytes={kept}-'


@pytest.fixture(scope='module')
def weights() -> dict[str, Tensor]:
    """What an InLine-PVT-T has, in half precision to be quick."""
    with torch.device('meta'):
        names = InLinePVT('tiny').state_dict()
    return {name: torch.randn(value.shape).half() for name, value in names.items()}


@pytest.fixture
def released(server, weights, tmp_path):
    head = {'head.weight': torch.ones(10, 512), 'head.bias': torch.ones(10)}
    torch.save({'model': {**weights, **head}, 'epoch': 299}, tmp_path / 'released')
    server.content = (tmp_path / 'released').read_bytes()
    return server


def test_tool_from_the_page_into_the_backbone(
    tool, released, weights, tmp_path, monkeypatch, no_random_init
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RELEASED_WEIGHTS, 'inline_pvt_tiny', released.url)
    released.drops = [10_000_000]
    status, out, error = tool('inline_pvt_tiny')
    assert (status, len(released.requests)) == (0, 2), error
    assert 'recognised  InLine-PVT-T\n' in out
    assert 'head (2)' in out
    assert sorted(os.listdir('pretrained')) == ['inline_pvt_tiny.json', 'inline_pvt_tiny.pth']
    # The path is that of the configs.
    path = Path('pretrained/inline_pvt_tiny.pth')
    model = InLinePVT('tiny', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name].float()), name

    record = json.loads(Path('pretrained/inline_pvt_tiny.json').read_text())
    assert record == dict(
        url=released.url, download_sha256=sha256(tmp_path / 'released'), sha256=sha256(path)
    )
    status, out, _ = tool('inline_pvt_tiny')
    assert (status, len(released.requests)) == (0, 2)
    assert 'is there and as it was downloaded' in out

    path.write_bytes(path.read_bytes()[:-1])
    status, _, error = tool('inline_pvt_tiny')
    assert (status, 'has changed since its download' in error) == (2, True)
    assert tool('inline_pvt_tiny', '--force')[0] == 0
    assert sha256(path) == record['sha256']


def test_a_page_that_changed(released, tmp_path):
    fetch_weights('inline_pvt_tiny', tmp_path, released.url)
    (tmp_path / 'inline_pvt_tiny.pth').unlink()
    released.content += b'0'
    with pytest.raises(UserError, match='--force accepts it'):
        fetch_weights('inline_pvt_tiny', tmp_path, released.url)
    assert not (tmp_path / 'inline_pvt_tiny.pth').exists()


def test_weights_put_there_by_hand_are_kept(released, tmp_path):
    (tmp_path / 'inline_pvt_tiny.pth').write_text('mine')
    with pytest.raises(UserError, match='was not downloaded'):
        fetch_weights('inline_pvt_tiny', tmp_path, released.url)
    assert (tmp_path / 'inline_pvt_tiny.pth').read_text() == 'mine'


@pytest.mark.parametrize('name', ['inline_pvt_small', 'pvt_tiny', 'inline_deit_tiny', 'l2vit_tiny'])
def test_weights_of_another_model(name, released, tmp_path):
    with pytest.raises(UserError, match='these are weights of InLine-PVT-T'):
        fetch_weights(name, tmp_path, released.url)
    assert os.listdir(tmp_path) == ['released']


def test_no_checkpoint_at_all(server, tmp_path):
    with pytest.raises(UserError, match='is no checkpoint'):
        fetch_weights('swin_tiny', tmp_path, server.url)
    assert os.listdir(tmp_path) == []


def test_tool_fails_in_one_line(tool, server, tmp_path):
    server.status = 404
    status, out, error = tool('swin_tiny', '--url', server.url, '--out', tmp_path)
    assert (status, out) == (2, '')
    assert [line for line in error.splitlines() if line.startswith('error: ')]
    assert 'Traceback' not in error


def test_tool_lists(tool):
    status, out, _ = tool('--list')
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()} == set(RELEASED_WEIGHTS)
    assert 'inline_swin_tiny' in tool('inline_swin_tin')[2]
    assert tool()[0] == 2
