"""A training step and a prediction of every family of models, with and without --amp."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmlab_inline.analysis.benchmark.subjects import _detection_batch, _segmentation_batch
from mmlab_inline.engine import build_model, drop_pretrained, load_config
from mmlab_inline.runs import confine_autocast, enable_amp

ROOT = Path(__file__).parents[2]
FILES = {
    'Mask R-CNN': 'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py',
    'Cascade Mask R-CNN': (
        'detection/inline_swin/cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco.py'
    ),
    'RetinaNet': 'detection/inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco.py',
    'Semantic FPN': 'segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py',
    'UperNet': 'segmentation/inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py',
}
# Headings of docs/plug_in.md.
EXAMPLES = {
    'Deformable DETR': 'Deformable DETR, InLine-Swin tiny',
    'DINO': 'DINO, InLine-PVT small',
    'Mask2Former, instances': 'Mask2Former for instances, InLine-Swin base',
    'Mask2Former, semantic': 'Mask2Former for semantic segmentation, InLine-PVT medium',
}


def read(family: str, folder: Path) -> Config:
    if family in FILES:
        return load_config(str(ROOT / 'configs' / FILES[family]))
    page = (ROOT / 'docs/plug_in.md').read_text()
    section = page.partition(f'### {EXAMPLES[family]}\n')[2]
    path = folder / 'example.py'
    path.write_text(re.search(r'^```python\n(.*?)^```$', section, re.MULTILINE | re.DOTALL)[1])
    return load_config(str(path))


def num_classes(model: Mapping) -> int:
    for value in model.values():
        if isinstance(value, Mapping) and 'num_classes' in value:
            return value['num_classes']
    return 80


@pytest.mark.parametrize('amp', [False, True], ids=['float32', 'amp'])
@pytest.mark.parametrize('family', [*FILES, *EXAMPLES])
def test_step_and_prediction(family, amp, device, on_card, kernels, tmp_path, record):
    cfg = read(family, tmp_path)
    drop_pretrained(cfg)
    segments = cfg.default_scope == 'mmseg'
    size = (512, 512) if on_card else (64, 64)
    model_cfg = cfg.model
    model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    model_cfg.data_preprocessor.pop('batch_augments', None)
    if family == 'DINO' and not on_card:
        model_cfg.num_queries = 20
    if segments:
        model_cfg.data_preprocessor.size = size
    model = build_model(model_cfg, cfg.default_scope, what=family)
    model.init_weights()
    model = model.to(device)
    confine_autocast(model)
    if amp:
        enable_amp(cfg, train=True)
    cfg.optim_wrapper.optimizer.lr = 1e-5
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    torch.manual_seed(0)
    make = _segmentation_batch if segments else _detection_batch
    batch = make(2, size, num_classes(model_cfg))
    model.train()
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    losses = []
    for _ in range(3 if not amp else 8):  # loss scaling skips the first steps, which overflow
        torch.manual_seed(0)
        losses.append(model.train_step(batch, wrapper)['loss'].item())
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_card else 0
    model.eval()
    with torch.no_grad():
        predicted = model.test_step(make(1, size, num_classes(model_cfg)))
    record(
        'Model families: training steps and a prediction, 2 images',
        family=family,
        precision='amp' if amp else 'float32',
        size='x'.join(map(str, size)),
        losses=f'{losses[0]:.3f} to {losses[-1]:.3f}',
        **{'peak MiB': f'{peak:.0f}'},
    )
    assert all(0 < loss < float('inf') for loss in losses)
    assert losses[-1] != losses[0]
    assert all(p.isfinite().all() for p in model.parameters())
    assert len(predicted) == 1
    result = predicted[0].pred_sem_seg.data if segments else predicted[0].pred_instances.scores
    assert result.device.type == device
