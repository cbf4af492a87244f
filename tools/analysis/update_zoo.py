"""Bring the model zoo's pages up to date with the metafiles.

    python tools/analysis/update_zoo.py [--check]

Reads configs/*/*/metafile.yml; counts parameters and FLOPs of their configs into them, writes the
tables in the README.md beside each, and model-index.yml, which mim reads. --check writes nothing
and exits with status 1, naming the files, if anything would change.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from mmengine.config import Config
from rich.progress import track

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import UserError, exit_on_user_error
from mmlab_inline.weights.released import RELEASED_WEIGHTS

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = '<!-- models -->', '<!-- /models -->'
METRICS = {'detection': ('box AP', 'mask AP'), 'segmentation': ('mIoU', 'mAcc')}
# Rows without a confirmed figure point to where the paper prints it.
PAPER_TABLES = {
    'detection': '[table 7](https://arxiv.org/abs/2412.06590)',
    'segmentation': '[table 8](https://arxiv.org/abs/2412.06590)',
}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='write nothing; 1 if out of date')
    args = parser.parse_args()
    with exit_on_user_error():
        changed = [(path, text) for path, text in pages() if text != read(path)]
    for path, text in changed:
        print(f'{path.relative_to(ROOT)} {"is out of date" if args.check else "updated"}')
        if not args.check:
            path.write_text(text)
    sys.exit(1 if args.check and changed else 0)


def pages(count: bool = True) -> Iterator[tuple[Path, str]]:
    """Every generated file and what it should hold.

    Args:
        count: Count parameters and FLOPs afresh (a minute), or take the metafiles' word.
    """
    from mmlab_inline.analysis.flops import count_config
    from mmlab_inline.engine import load_config

    metafiles = sorted((ROOT / 'configs').glob('*/*/metafile.yml'))
    index = {'Import': [str(path.relative_to(ROOT)) for path in metafiles]}
    yield ROOT / 'model-index.yml', dump(index)
    for metafile in metafiles:
        content = yaml.safe_load(metafile.read_text())
        folder = metafile.parent
        configs = [load_config(str(ROOT / model['Config'])) for model in content['Models']]
        if count:
            jobs = track(configs, f'Counting {folder.relative_to(ROOT)}', transient=True)
            for model, cfg in zip(content['Models'], jobs, strict=True):
                cost = count_config(cfg)['']
                model['Metadata'].update({'Parameters': cost.params, 'FLOPs': cost.flops})
        yield metafile, dump(content)
        readme = metafile.with_name('README.md')
        before, _, rest = readme.read_text().partition(BEGIN)
        _, found, after = rest.partition(END)
        if not found:
            raise UserError(f'{readme} lacks the lines {BEGIN} and {END}')
        rows = table(content['Models'], configs, task=folder.parent.name)
        yield readme, f'{before}{BEGIN}\n\n{rows}\n\n{END}{after}'


def table(models: list[dict], configs: list[Config], task: str) -> str:
    """Markdown table of one folder; figures of papers and our own stand apart."""
    metrics = METRICS[task]
    header = ['config', 'params (M)', 'FLOPs (G)', 'schedule']
    header += [f'*published* {name}' for name in metrics] + [f'*ours* {name}' for name in metrics]
    header += ['weights']
    rows = [header, ['---'] * len(header)]
    for model, cfg in zip(models, configs, strict=True):
        metadata = model['Metadata']
        length = 'Epochs' if 'Epochs' in metadata else 'Iterations'
        ours = {
            name: value
            for result in model.get('Results', [])
            for name, value in result['Metrics'].items()
        }
        link = f'[{model["Name"]}]({Path(model["Config"]).name})'
        rows.append(
            [
                link if ours else f'{link}\\*',
                f'{metadata["Parameters"] / 1e6:.1f}',
                f'{metadata["FLOPs"] / 1e9:.1f}',
                f'{metadata[length]} {length.lower()}',
                *(paper_cell(model, name, task) for name in metrics),
                *(str(ours.get(name, '')) for name in metrics),
                ', '.join(weights(model, cfg)),
            ]
        )
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def paper_cell(model: dict, metric: str, task: str) -> str:
    """A confirmed figure, a link to where InLine's paper prints it, or nothing.

    Nothing where the metafile has no figure for this metric, but others, or says that there is none
    (``Paper Results: {}``).
    """
    if metric == 'mask AP' and 'RetinaNet' in model['Metadata']['Architecture']:
        return ''
    paper = model.get('Paper Results')
    return PAPER_TABLES[task] if paper is None else str(paper.get(metric, ''))


def weights(model: dict, cfg: Config) -> Iterator[str]:
    """Links to the trained model, once there is one, and to the ImageNet weights it starts from."""
    from mmlab_inline.engine.config import pretrained_settings

    if 'Weights' in model:
        yield f'[model]({model["Weights"]})'
    for _, settings in pretrained_settings(cfg):
        page = RELEASED_WEIGHTS[Path(settings['checkpoint']).stem]
        yield f'[ImageNet]({page})'


def read(path: Path) -> str:
    """Text of a file that may not exist yet."""
    return path.read_text() if path.is_file() else ''


def dump(content: dict) -> str:
    """YAML in the order of the keys."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


if __name__ == '__main__':
    main()
