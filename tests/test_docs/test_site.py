"""The site builds without a warning, without the network, and holds every page and equation."""

import os
import re
import subprocess
import sys

import pytest

from .blocks import DOCS, ROOT

pytest.importorskip('mkdocs')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    # What tries to reach the network meets a closed port.
    offline = dict.fromkeys(('http_proxy', 'https_proxy'), 'http://127.0.0.1:9')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', folder],
        cwd=ROOT,
        env={**os.environ, **offline, 'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site):
    for path in DOCS.glob('*.md'):
        assert (site / path.name).with_suffix('.html').is_file()
    zoo = list(ROOT.glob('configs/*/*/README.md'))
    assert len(zoo) >= 8
    for path in zoo:
        page = (site / path.parent.relative_to(ROOT) / 'index.html').read_text()
        first = re.search(r'\[([\w-]+)\]\(\1\.py\)', path.read_text())[1]
        assert f'href="{first}.py"' in page
        assert (site / path.parent.relative_to(ROOT) / f'{first}.py').is_file()


def test_equations_are_drawn_by_the_browser_itself(site):
    source = (DOCS / 'attention.md').read_text()
    page = (site / 'attention.html').read_text()
    assert page.count('<math') == len(re.findall(r'\$\$.+?\$\$|\$[^$]+\$', source)) > 50
    assert 'arithmatex' not in page and '\\frac' not in page


def test_docstrings_are_there(site):
    page = (site / 'api.html').read_text()
    for text in ('pretrain_img_size', 'Textbook linear form', 'Predicts objects'):
        assert text in page
    assert ':func:' not in page and ':class:' not in page


def test_nothing_is_fetched(site):
    for path in site.rglob('*.html'):
        fetched = re.findall(
            r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)', path.read_text()
        )
        assert not fetched, path
    for path in site.rglob('*.css'):
        assert not re.search(r'url\(["\']?https?:|@import', path.read_text()), path
