"""Links of all pages lead somewhere; their commands name files, options and targets that exist."""

import re

import pytest

from .blocks import ROOT

PAGES = sorted(
    path
    for pattern in ('*.md', 'docs/*.md', 'configs/**/README.md', 'tests/**/*.md')
    for path in ROOT.glob(pattern)
)
IDS = [str(path.relative_to(ROOT)) for path in PAGES]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
OWN_SCRIPT = re.compile(r'(?<![\w/])tools/[\w/]+\.(?:py|sh)')
# dist_train.sh and its like hand their options on.
BEHIND = {
    'tools/dist_train.sh': 'tools/train.py',
    'tools/slurm_train.sh': 'tools/train.py',
    'tools/dist_test.sh': 'tools/test.py',
}


def anchors(text: str) -> set[str]:
    titles = re.findall(r'^#+ (.+)$', FENCE.sub('', text), re.MULTILINE)
    words = (re.sub(r'[^\w\- ]', '', title.lower()) for title in titles)
    return {title.strip().replace(' ', '-') for title in words}


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_links(page):
    text = FENCE.sub('', page.read_text())
    for target in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'`[^`]*`', '``', text)):
        if '://' in target:
            continue
        name, _, anchor = target.partition('#')
        path = page.parent / name if name else page
        assert path.is_file(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


def commands(text: str) -> list[str]:
    """Command lines in blocks, continued lines joined, and in code between words."""
    lines = [
        line
        for language, block in FENCE.findall(text)
        if language in ('', 'bash')
        for line in block.replace('\\\n', ' ').splitlines()
    ]
    return lines + re.findall(r'`([^`\n]+)`', FENCE.sub('', text))


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_commands(page):
    targets = re.findall(r'^([a-z-]+):.*## ', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    shared = (ROOT / 'mmlab_inline/cli.py').read_text()
    for command in commands(page.read_text()):
        for target in re.findall(r'(?:^|&& )make ([a-z-]+)', command):
            assert target in targets, command
        for config in re.findall(r'\bconfigs/[\w/.-]+\.py', command):
            assert (ROOT / config).is_file(), command
        script = OWN_SCRIPT.search(command)
        if not script:
            continue
        assert (ROOT / script[0]).is_file(), command
        source = (ROOT / BEHIND.get(script[0], script[0])).read_text() + shared
        for option in re.findall(r'(?<=\s)--[a-z][\w-]*', command[script.end() :]):
            assert f"'{option}'" in source or split_option(option, source), command


def split_option(option: str, source: str) -> bool:
    """Whether a script makes the option in a loop, as f'--{split}'."""
    return "f'--{" in source and f"'{option[2:]}'" in source


def test_commands_are_found():
    """The patterns above would miss a page that is written differently."""
    found = [c for c in commands((ROOT / 'README.md').read_text()) if OWN_SCRIPT.search(c)]
    assert len(found) >= 8
