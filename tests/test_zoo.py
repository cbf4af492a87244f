"""The model zoo's pages: complete, alive, and as generated from the metafiles."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
METAFILES = sorted(ROOT.glob('configs/*/*/metafile.yml'))
ZOO = runpy.run_path(str(ROOT / 'tools/analysis/update_zoo.py'))


def models():
    return [model for file in METAFILES for model in yaml.safe_load(file.read_text())['Models']]


def test_pages_are_up_to_date():
    for path, text in ZOO['pages'](count=False):
        assert path.read_text() == text, f'run tools/analysis/update_zoo.py: {path.name} differs'


@pytest.mark.long
def test_counts_are_up_to_date():
    for path, text in ZOO['pages']():
        assert path.read_text() == text, f'run tools/analysis/update_zoo.py: {path.name} differs'


def test_every_config_is_listed_once():
    configs = [
        str(path.relative_to(ROOT))
        for task in ('detection', 'segmentation')
        for path in ROOT.glob(f'configs/{task}/[!_]*/*.py')
    ]
    listed = [model['Config'] for model in models()]
    assert sorted(listed) == sorted(configs)
    assert [model['Name'] for model in models()] == [Path(config).stem for config in listed]


def test_paths_are_alive():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == [str(path.relative_to(ROOT)) for path in METAFILES]
    pages = [ROOT / 'README.md', ROOT / 'CHANGELOG.md', *ROOT.glob('docs/*.md')]
    pages += [path.with_name('README.md') for path in METAFILES]
    for page in pages:
        for target in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', page.read_text()):
            assert (page.parent / target).exists(), f'{page.name}: {target}'


def test_index_is_what_mim_reads():
    """mim loads the index by this library."""
    modelindex = pytest.importorskip('modelindex')
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    # Paths are relative to the root, as in all mm packages, not to the metafile.
    errors = [error for error in index.check(silent=True) if 'Path to README' not in error]
    assert not errors
    assert len(index.models) == len(models())
    model = next(m for m in index.models if m.name == 'mask-rcnn_pvt-t_fpn_1x_coco')
    assert model.metadata.data['Epochs'] == 12


@pytest.mark.parametrize('family', ['pvt', 'inline-pvt'])
def test_only_confirmed_figures_stand_in_the_table(family):
    row = f'mask-rcnn_{family}-t_fpn_1x_coco'
    (model,) = (model for model in models() if model['Name'] == row)
    page = (ROOT / model['Config']).with_name('README.md').read_text()
    (line,) = (line for line in page.splitlines() if f'[{row}]' in line)
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    assert cells[0].endswith('\\*')  # not trained by us yet
    assert cells[6:8] == ['', '']
    assert cells[8].startswith('[ImageNet](https://')
    if family == 'inline-pvt':
        assert all(cell.startswith('[table 7](https://arxiv.org/') for cell in cells[4:6])
    else:
        assert cells[4:6] == ['36.7', '35.1']
