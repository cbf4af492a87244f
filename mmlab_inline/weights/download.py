"""Fetching a big file over HTTP, so that what has arrived is never fetched again."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ..utils import UserError
from ..version import __version__

MAX_FAILURES = 5  # attempts in a row that bring nothing
TIMEOUT = 30.0  # seconds without a byte
PAUSE = 1.0  # seconds before the second attempt; doubles with each
_CHUNK = 1 << 18
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_BY_HAND = 'fetch it by hand, or give a mirror by --url'

# Called with bytes so far and in all (None: unknown).
Report = Callable[[int, int | None], None]


class _Interrupted(Exception):
    """The transfer stopped; another attempt may go on."""


def download(url: str, path: str | Path, report: Report = lambda done, total: None) -> None:
    """Fetch a file; it is at ``path`` once it is complete.

    Until then it is at ``path`` + ``.part``. Where that exists, of the same URL and unchanged on
    the server, the rest is asked for; a server that does not know ranges sends all again. Lost
    connections are taken up again by themselves.

    Args:
        url: http:// or https:// address.
        path: Where the file shall be. If it is there, nothing is done.
        report: Told about the progress.

    Raises:
        UserError: The server has no such file or sends a web page instead, cannot be reached,
            breaks off again and again, or the disk is full. What has arrived is kept.
    """
    path = Path(path)
    if not re.match('https?://', url):
        raise UserError(f'{url} is no http:// or https:// address')
    transfer = _Transfer(url, path)
    failures, most = 0, transfer.size
    while not path.exists():
        try:
            transfer.run(report)
            os.replace(transfer.part, path)
            transfer.note.unlink(missing_ok=True)
        except _Interrupted as error:
            failures = 1 if transfer.size > most else failures + 1
            most = max(most, transfer.size)
            if not transfer.is_connected or failures > MAX_FAILURES:
                raise UserError(
                    f'{url}: {error}; {transfer.size / 1e6:.1f} MB have arrived, '
                    'the same command continues there'
                ) from None
            time.sleep(PAUSE * 2 ** (failures - 1))
        except OSError as error:
            raise UserError(
                f'{transfer.part} cannot be written: {error.strerror}; '
                'put that right, the same command continues'
            ) from None


class _Transfer:
    """The state of a download on disk, and one attempt to bring it further.

    Attributes:
        part: What has arrived.
        note: What is known of its source, as JSON: URL, size, and the server's mark of the version.
        is_connected: Whether the server has ever answered.
    """

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.part = path.with_name(f'{path.name}.part')
        self.note = path.with_name(f'{path.name}.part.json')
        self.is_connected = False

    @property
    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self, report: Report) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        source = self._read_note()
        if source.get('url') != self.url:
            self.part.unlink(missing_ok=True)
        elif self.size and self.size == source['total']:
            return
        with self._open(source.get('version')) as response:
            total = self._start(response, source)
            self._check_space(total)
            with self.part.open('ab') as file:
                done = file.tell()
                report(done, total)
                while chunk := self._read(response):
                    if not done:
                        self._refuse_page(chunk.lstrip().startswith(b'<'))
                    file.write(chunk)
                    done += len(chunk)
                    report(done, total)
        if total is not None and done != total:
            raise _Interrupted(f'the server broke off at {done} of {total} bytes')

    def _open(self, version: str | None) -> HTTPResponse:
        request = Request(self.url, headers={'User-Agent': f'mmlab-inline/{__version__}'})
        if self.size:
            request.add_header('Range', f'bytes={self.size}-')
            if version:
                request.add_header('If-Range', version)  # all of it, if it has changed
        try:
            response = urlopen(request, timeout=TIMEOUT)
        except HTTPError as error:
            self.is_connected = True
            if error.code == 416:  # nothing after what is here: start again
                self.part.unlink(missing_ok=True)
            elif error.code not in _TRANSIENT:
                raise UserError(
                    f'{self.url}: the server says {error.code} {error.reason}; {_BY_HAND}'
                ) from None
            raise _Interrupted(f'the server says {error.code} {error.reason}') from None
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, 'reason', error)
            raise _Interrupted(f'the server cannot be reached ({reason})') from None
        self.is_connected = True
        self._refuse_page(response.headers.get_content_type() == 'text/html')
        return response

    def _start(self, response: HTTPResponse, source: dict) -> int | None:
        """Bytes in all; drops what has arrived unless the response goes on after it."""
        if response.status == 206:
            sent = response.headers.get('Content-Range', '')
            match = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', sent)
            if match and int(match[1]) == self.size and int(match[2]) == source.get('total'):
                return source['total']
            self.part.unlink()
            raise _Interrupted(f'the server sent another part than asked for ({sent!r})')
        self.part.unlink(missing_ok=True)
        length = response.headers.get('Content-Length')
        total = int(length) if length else None
        etag = response.headers.get('ETag', '')
        version = etag if etag.startswith('"') else response.headers.get('Last-Modified')
        self.note.write_text(json.dumps(dict(url=self.url, total=total, version=version)))
        return total

    def _read_note(self) -> dict:
        try:
            return json.loads(self.note.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def _check_space(self, total: int | None) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - self.size > free:
            raise UserError(
                f'{self.part.parent} has {free / 1e6:.0f} MB left on its disk, '
                f'{(total - self.size) / 1e6:.0f} MB are needed'
            )

    def _refuse_page(self, is_page: bool) -> None:
        if is_page:
            raise UserError(
                f'{self.url}: the server sent a web page instead of the file '
                f'(a log-in, a quota or a link that has expired); {_BY_HAND}'
            )

    @staticmethod
    def _read(response: HTTPResponse) -> bytes:
        try:
            return response.read1(_CHUNK)
        except (HTTPException, OSError) as error:
            raise _Interrupted(f'the connection was lost ({error})') from None
