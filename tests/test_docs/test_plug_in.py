"""Every Python block of docs/plug_in.md works: configs take a training step, programs run."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmlab_inline import InLinePVT
from mmlab_inline.backbones.inline_cswin import ARCH_ZOO as CSWIN_ZOO
from mmlab_inline.backbones.inline_deit import ARCH_ZOO as DEIT_ZOO
from mmlab_inline.backbones.inline_pvt import ARCH_ZOO as PVT_ZOO
from mmlab_inline.backbones.inline_swin import ARCH_ZOO as SWIN_ZOO
from mmlab_inline.backbones.l2vit import ARCH_ZOO as L2VIT_ZOO
from mmlab_inline.engine import drop_pretrained, load_config
from mmlab_inline.engine.config import pretrained_settings
from mmlab_inline.weights.released import RELEASED_WEIGHTS

PAGE = Path(__file__).parents[2] / 'docs' / 'plug_in.md'
SIZE = (64, 64)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def python_blocks() -> dict[str, str]:
    """The page's Python blocks by the heading that each stands under."""
    blocks = {}
    for section in re.split(r'^#+ ', PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title = section.partition('\n')[0]
        codes = re.findall(r'^```python\n(.*?)^```$', section, flags=re.MULTILINE | re.DOTALL)
        assert len(codes) <= 1, f'{title!r} has more than one block: give each a heading'
        if codes:
            blocks[title] = codes[0]
    return blocks


BLOCKS = python_blocks()
CONFIGS = {title: code for title, code in BLOCKS.items() if code.startswith('_base_ =')}
PROGRAMS = {title: code for title, code in BLOCKS.items() if title not in CONFIGS}


def read(title: str, folder: Path) -> Config:
    for library in re.findall(r'\bmm(?:det|seg|pretrain)\b', CONFIGS[title]):
        pytest.importorskip(library)
    path = folder / 'example.py'
    path.write_text(CONFIGS[title])
    return load_config(str(path))


def test_page():
    assert PAGE.read_text().count('```python') == len(BLOCKS)
    for name in ('InLinePVT', 'InLineSwin'):
        assert sum(name in code for code in CONFIGS.values()) >= 4
    for title, code in CONFIGS.items():
        assert len(code.splitlines()) <= 25, title


def test_channels():
    """The table lists what the arch zoos have."""
    rows = re.findall(r'^\| `(\w+)` \| (.+) \| ([\d, ]+) \|$', PAGE.read_text(), re.MULTILINE)
    listed = {
        (name, arch): [int(number) for number in channels.split(', ')]
        for name, archs, channels in rows
        for arch in archs.split(', ')
    }
    expected = {
        (name, arch): list(settings['embed_dims'])
        for name, zoo in (('InLinePVT', PVT_ZOO), ('L2ViT', L2VIT_ZOO))
        for arch, settings in zoo.items()
    }
    for arch, settings in DEIT_ZOO.items():
        (dim,) = settings['embed_dims']
        expected['InLineDeiT', arch] = [dim // 4, dim // 2, dim, dim]
    for name, zoo in (('InLineSwin', SWIN_ZOO), ('InLineCSwin', CSWIN_ZOO)):
        for arch, settings in zoo.items():
            expected[name, arch] = [settings['embed_dims'] * 2**stage for stage in range(4)]
    assert listed == expected


@pytest.mark.parametrize('title', CONFIGS)
def test_config(title, tmp_path, no_random_init, try_mixed_precision):
    cfg = read(title, tmp_path)
    check_weights(cfg)
    drop_pretrained(cfg)
    # As the runner does: mmpretrain's configs have it beside the model.
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    make_small(cfg)
    init_default_scope(cfg.default_scope)
    # One process has no SyncBN; the runner reverts it likewise.
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    backbone = model.backbone
    kind = type(backbone).__name__.replace('InLine', 'InLine-')
    assert f'{kind} {cfg.model.backbone.arch}' in title

    model.init_weights()
    model.train()
    channels = cfg.model.backbone.get('in_channels', 3)
    batch = BATCHES[cfg.default_scope](channels)
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    # A trained parameter without gradient would stop a run on several GPUs.
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [p for p in backbone.parameters() if not p.requires_grad]
    assert bool(frozen) == (backbone.frozen_stages >= 0)

    if cfg.default_scope in ('mmdet', 'mmseg'):
        try_mixed_precision(model, batch)
    check_statistics(model.data_preprocessor, channels)
    check_optimizer(cfg, model)


@pytest.mark.parametrize('title', PROGRAMS)
def test_program(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    widens = 'pretrained/' in PROGRAMS[title]
    if widens:
        Path('pretrained').mkdir()
        torch.save({'model': InLinePVT('tiny').state_dict()}, 'pretrained/inline_pvt_tiny.pth')
    exec(compile(PROGRAMS[title], title, 'exec'), {'__name__': title})
    if widens:
        (config,) = (title for title in CONFIGS if '_4ch' in CONFIGS[title])
        settings = read(config, tmp_path).model.backbone
        backbone = MODELS.build(settings)
        backbone.init_weights()
        weight = backbone.patch_embed1.proj.weight
        assert torch.equal(weight[:, 3], weight[:, :3].mean(dim=1))


def check_weights(cfg: Config) -> None:
    """The backbone's, and nobody else's, come from a released file of its arch."""
    if cfg.default_scope == 'mmpretrain':
        assert not list(pretrained_settings(cfg))
        return
    ((node, settings),) = pretrained_settings(cfg)
    name = Path(settings['checkpoint']).stem.removesuffix('_4ch')
    assert name in RELEASED_WEIGHTS
    kind = node['type'].rpartition('.')[2].replace('InLine', 'inline_').lower()
    assert name == f'{kind}_{node["arch"]}'


def check_statistics(preprocessor: nn.Module, channels: int) -> None:
    """Three channels are normalised as they were for the ImageNet weights."""
    if channels == 3:
        for key, expected in IMAGENET.items():
            assert torch.allclose(getattr(preprocessor, key).flatten(), torch.tensor(expected))
        swaps = ('_channel_conversion', 'channel_conversion', 'to_rgb')
        assert any(getattr(preprocessor, name, False) for name in swaps)


def check_optimizer(cfg: Config, model: nn.Module) -> None:
    """It can be built, and what the page says about decay and rates holds."""
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {names[p]: group for group in wrapper.optimizer.param_groups for p in group['params']}
    rate = cfg.optim_wrapper.optimizer.lr
    if cfg.optim_wrapper.optimizer.weight_decay >= 0.01:
        norms = [f'backbone.{n}.' for n, m in model.backbone.named_modules() if is_norm(m)]
        for name, group in groups.items():
            if name.startswith(tuple(norms)) or name.endswith('relative_position_bias_table'):
                assert group['weight_decay'] == 0, name
    rules = cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    if 'backbone' in rules:
        for name, group in groups.items():
            if name.startswith('backbone.'):
                assert group['lr'] == pytest.approx(0.1 * rate), name
            elif group['weight_decay'] == 0:
                assert group['lr'] == rate, name


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm)


def make_small(cfg: Config) -> None:
    """Tiny images, and no more queries and points than they have room for."""
    model = cfg.model
    if cfg.default_scope == 'mmseg':
        model.data_preprocessor.size = SIZE
        heads = model.decode_head if isinstance(model.decode_head, list) else [model.decode_head]
        settings = [model.train_cfg, *(head.get('train_cfg', {}) for head in heads)]
    else:
        settings = [model.get('train_cfg') or {}]
        model.data_preprocessor.pop('batch_augments', None)
    for train_cfg in settings:
        if 'num_points' in train_cfg:
            train_cfg.num_points = 64
    if model.get('type') == 'DINO':
        model.num_queries = 20


def detection_batch(channels: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    shapes = [(channels, *SIZE)] * 2
    return demo_mm_inputs(2, shapes, num_items=[2, 1], num_classes=3, with_mask=True)


def segmentation_batch(channels: int) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, *SIZE)))
        samples.append(sample)
    return dict(inputs=images(channels), data_samples=samples)


def classification_batch(channels: int) -> dict:
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in (0, 1)]
    return dict(inputs=images(channels), data_samples=samples)


def images(channels: int) -> list[torch.Tensor]:
    return [torch.randint(0, 256, (channels, *SIZE), dtype=torch.uint8) for _ in range(2)]


BATCHES = dict(mmdet=detection_batch, mmseg=segmentation_batch, mmpretrain=classification_batch)
