"""Where the ImageNet checkpoints of every config are, and fetching them.

InLine's, FLatten's and Agent's are those of the READMEs of LeapLabTHU, L2ViT's of
ChuanyangZheng/L2ViT; PVT's, Swin's, CSwin's and DeiT's are of whai362/PVT,
SwinTransformer/storage, microsoft/CSWin-Transformer and facebookresearch/deit, for the softmax
twins.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils import UserError, write_atomically
from .download import Report, download

if TYPE_CHECKING:
    from .conversion import Conversion

_LEAPLAB = 'https://cloud.tsinghua.edu.cn/f/{}/?dl=1'
_L2VIT = (
    'https://github.com/ChuanyangZheng/L2ViT/releases/download/v1.0/'
    'L2ViT-{}-checkpoint-best-ema.pth'
)
_DEIT = 'https://dl.fbaipublicfiles.com/deit/deit_{}_patch16_224-{}.pth'
_DEIT_FILES = {'tiny': 'a1311bcf', 'small': 'cd65a155', 'base': 'b5f2ef4d'}
_PVT = 'https://github.com/whai362/PVT/releases/download/v2/pvt_{}.pth'
_SWIN = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
    'swin_{}_patch4_window7_224.pth'
)
_CSWIN = 'https://github.com/microsoft/CSWin-Transformer/releases/download/v0.1.0/cswin_{}_224.pth'

RELEASED_WEIGHTS = {
    **{
        name: _LEAPLAB.format(share)
        for name, share in {
            'inline_pvt_tiny': '90ac52b1555b401eb5e6',
            'inline_pvt_small': '1ab953b2479d433080a3',
            'inline_pvt_medium': 'a72aec31e6084bc0a280',
            'inline_pvt_large': 'efd91318ba964f01b288',
            'inline_swin_tiny': '32810869fcc34410966b',
            'inline_swin_small': 'e9657fd247c04c7cb1a1',
            'inline_swin_base': 'bf23564bb64c420aafe1',
            'inline_cswin_tiny': '49fa2ecc543647c4b970',
            'inline_cswin_small': '59f4e65f776f4052b93c',
            'inline_cswin_base': '91e17121df284ae38521',
            'inline_deit_tiny': '1d6b8191ad6d4114b291',
            'inline_deit_small': '2f3898b07e9247f3beb3',
            'inline_deit_base': '10bdd726d4b0435eb34e',
            'flatten_pvt_tiny': '3ab1d773f19d45648690',
            'flatten_swin_tiny': 'e1518e76703e4e57a7f2',
            'flatten_swin_small': '94188e52af354bf4a88b',
            'agent_pvt_tiny': '13fdf0e0a7c5498c934f',
            'agent_pvt_small': '36b8be9a8863456685a3',
            'agent_pvt_medium': '4d00ecacf18b45f9b88c',
            'agent_pvt_large': '040cfe0cfbbe4762ad09',
            'agent_swin_tiny': 'a2ddc1190c224f768a41',
            'agent_swin_small': 'f607172c9fea4d6e99bb',
            'agent_swin_base': '4fcd2d0114bb490483c3',
        }.items()
    },
    **{f'l2vit_{arch}': _L2VIT.format(arch.title()) for arch in ('tiny', 'small', 'base')},
    **{f'deit_{arch}': _DEIT.format(arch, digest) for arch, digest in _DEIT_FILES.items()},
    **{f'pvt_{arch}': _PVT.format(arch) for arch in ('tiny', 'small', 'medium', 'large')},
    **{f'swin_{arch}': _SWIN.format(arch) for arch in ('tiny', 'small', 'base')},
    **{f'cswin_{arch}': _CSWIN.format(arch) for arch in ('tiny', 'small', 'base')},
}

# Of the networks that are not their arch's own: for a family, or for one of its archs.
_ATTENTIONS = {
    'pvt': 'softmax',
    'swin': 'softmax',
    'flatten_pvt': 'focused',
    'flatten_swin': ('focused', 'focused', 'softmax', 'softmax'),
    'agent_pvt': 'agent',
    'agent_swin_tiny': ('agent', 'agent', 'agent', 'softmax'),
    'agent_swin_small': ('agent', 'agent', 'softmax', 'softmax'),
    'agent_swin_base': ('agent', 'agent', ('agent',) * 2 + ('softmax',) * 16, 'softmax'),
}


def model_of(name: str) -> tuple[str, dict[str, object]]:
    """The backbone that released weights are of: its class, and settings as recognition has them.

    Args:
        name: Out of :data:`RELEASED_WEIGHTS`.
    """
    family, arch = name.rsplit('_', 1)
    attention = _ATTENTIONS.get(name, _ATTENTIONS.get(family))
    classes = {
        'pvt': 'InLinePVT',
        'swin': 'InLineSwin',
        'cswin': 'InLineCSwin',
        'deit': 'InLineDeiT',
        'l2vit': 'L2ViT',
    }
    cls = classes[family.rpartition('_')[2]]
    if family in ('deit', 'cswin'):  # which have archs of their own
        arch = f'{"vit" if family == "deit" else family}-{arch}'
    return cls, dict(arch=arch) if attention is None else dict(arch=arch, attention=attention)


def fetch_weights(
    name: str,
    folder: str | Path,
    url: str | None = None,
    force: bool = False,
    report: Report = lambda done, total: None,
) -> Conversion | None:
    """Download released weights and convert them to ``folder/NAME.pth``.

    ``folder/NAME.json`` records where they came from and the sha256 of the file that was downloaded
    and of the one that came of it; both are held against it the next time.

    Args:
        name: Out of :data:`RELEASED_WEIGHTS`.
        folder: Where they go; the configs look in ``pretrained``.
        url: A mirror instead of the authors' page.
        force: Replace what is there, and accept another file than the recorded one.
        report: Told about bytes so far and in all.

    Returns:
        What came of it, or None if the weights are there and as recorded.

    Raises:
        UserError: The download fails, a file is not what it was or what it should be, or
            ``NAME.pth`` is there but was not downloaded.
    """
    # The table above is read without torch, too.
    from ..utils import CheckpointError
    from .conversion import read_and_convert, save_weights

    folder = Path(folder)
    target, note = folder / f'{name}.pth', folder / f'{name}.json'
    url = url or RELEASED_WEIGHTS[name]
    recorded = json.loads(note.read_text()) if note.is_file() and not force else {}
    if target.exists() and not force:
        if not recorded:
            raise UserError(f'{target} exists and was not downloaded; --force replaces it')
        if sha256(target) != recorded['sha256']:
            raise UserError(f'{target} has changed since its download; --force replaces it')
        return None
    source = folder / f'{name}.download'
    if force:
        source.unlink(missing_ok=True)
    download(url, source, report)
    try:
        digest = sha256(source)
        if recorded and digest != recorded['download_sha256']:
            raise CheckpointError(
                f'{url}: the file has sha256 {digest}, but {note} says '
                f'{recorded["download_sha256"]}; --force accepts it'
            )
        conversion = read_and_convert(source)
        model = conversion.model
        if (model.cls.__name__, model.settings) != model_of(name):
            raise CheckpointError(f'{url}: these are weights of {model.name}')
    except CheckpointError:
        source.unlink()  # no use in keeping it
        raise
    save_weights(conversion.weights, target)
    record = dict(url=url, download_sha256=digest, sha256=sha256(target))
    write_atomically(note, f'{json.dumps(record, indent=1)}\n'.encode())
    source.unlink()
    return conversion


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
