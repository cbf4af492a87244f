"""What the site (mkdocs.yml) needs beyond MkDocs: pages from other folders, and equations."""

import html
import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from mmlab_inline.mixers import TOKEN_MIXERS

ROOT = Path(__file__).parents[1]
# Pages outside docs/.
OUTSIDE = ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'configs/**/README.md')


def place(path: str) -> str:
    """Where a file of the repository lies in the site."""
    return 'index.md' if path == 'README.md' else path.removeprefix('docs/')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pages outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            add(files, config, str(path.relative_to(ROOT)))
    return files


def add(files: Files, config: MkDocsConfig, path: str) -> None:
    """Take in a file of the repository."""
    files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their places in the site, and take those in."""
    source = Path(page.file.abs_src_path).relative_to(ROOT)

    def relink(match: re.Match) -> str:
        target = os.path.normpath(source.parent / match[1])
        if not (ROOT / target).is_file():
            return match[0]  # another site, or a broken link, which fails the build
        if files.get_file_from_path(place(target)) is None:
            add(files, config, target)
        uri = os.path.relpath(place(target), os.path.dirname(page.file.src_uri))
        return f']({uri}{match[2] or ""})'

    markdown = markdown.replace('<!-- attentions -->', table_of_attentions())
    return re.sub(r'\]\(([^)#\s]+)(#[^)\s]*)?\)', relink, markdown)


def table_of_attentions() -> str:
    """What the token mixers declare of themselves."""
    rows = [
        '| name | from | linear in tokens | heads | options | no weight decay |',
        '|---|---|---|---|---|---|',
    ]
    for name, cls in sorted(TOKEN_MIXERS.items()):
        options = ', '.join(f'`{key}={value!r}`' for key, value in cls.options().items())
        no_decay = ', '.join(f'`{key}`' for key in cls.no_decay)
        linear = 'yes' if cls.linear else 'no'
        rows.append(f'| `{name}` | {cls.paper} | {linear} | {cls.heads} | {options} | {no_decay} |')
    return '\n'.join(rows)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn equations into MathML, which browsers draw by themselves, and roles into code."""

    def mathml(match: re.Match) -> str:
        display = 'block' if match[1] == 'div' else 'inline'
        return convert(html.unescape(match[2]), display=display)

    content = re.sub(
        r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', mathml, content, flags=re.DOTALL
    )
    # Docstrings name objects as Sphinx does: :func:`~package.name`.
    return re.sub(
        r':(?:class|data|func|meth|mod):<code>(?:~[\w.]*\.|\.)?(\w[\w.]*)', r'<code>\1', content
    )
