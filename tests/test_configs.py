"""Every config parses, builds at full size and takes a training and a prediction step."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mmlab_inline.engine import drop_pretrained, load_config
from mmlab_inline.engine.config import pretrained_settings
from mmlab_inline.engine.released_weights import RELEASED_WEIGHTS

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parents[1] / 'configs'
PUBLISHED = sorted(
    str(path.relative_to(CONFIGS))
    for task in ('detection', 'segmentation')
    for path in (CONFIGS / task).glob('[!_]*/*.py')
)
DEMO = sorted(str(path.relative_to(CONFIGS)) for path in (CONFIGS / 'demo').glob('*.py'))
# Million parameters, auxiliary heads included.
SIZES = {
    'mask-rcnn_inline-pvt-t': 31.7,
    'sem-fpn_inline-pvt-t': 15.8,
    'upernet_inline-swin-t': 60.9,
}


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    # One process has no SyncBN; the runner reverts it likewise.
    return revert_sync_batchnorm(MODELS.build(cfg.model))


@pytest.fixture
def cfg(request):
    cfg = load_config(str(CONFIGS / request.param))
    drop_pretrained(cfg)
    return cfg


@pytest.mark.parametrize('path', PUBLISHED)
def test_published_settings(path):
    cfg = load_config(str(CONFIGS / path))
    weights = [Path(node['init_cfg']['checkpoint']) for node in pretrained_settings(cfg)]
    assert [file.parent for file in weights] == [Path('pretrained')]
    assert weights[0].stem in RELEASED_WEIGHTS
    # Means run over the whole batch's padding: no result may depend on its neighbours.
    assert cfg.val_dataloader.batch_size == cfg.test_dataloader.batch_size == 1
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert not cfg.auto_scale_lr.enable
    root = {'mmdet': 'data/coco/', 'mmseg': 'data/ade/ADEChallengeData2016'}[cfg.default_scope]
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == root
    assert cfg.train_dataloader.batch_size * 8 == 16


@pytest.mark.parametrize('cfg', PUBLISHED, indirect=True, ids=PUBLISHED)
def test_build_and_size(cfg, request):
    model = build(cfg)
    inputs = (
        cfg.model.neck.in_channels if 'neck' in cfg.model else cfg.model.decode_head.in_channels
    )
    assert tuple(inputs) == model.backbone.out_channels
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    name = request.node.callspec.id.split('/')[-1]
    for prefix, size in SIZES.items():
        if name.startswith(prefix):
            assert millions == pytest.approx(size, abs=0.05)


@pytest.mark.parametrize('cfg', PUBLISHED + DEMO, indirect=True, ids=PUBLISHED + DEMO)
def test_loss_and_prediction(cfg):
    size = (96, 128)
    if cfg.default_scope == 'mmdet':
        few_proposals(cfg.model)
    else:
        cfg.model.data_preprocessor.size = size
    model = build(cfg)
    batch = {'mmdet': detection_batch, 'mmseg': segmentation_batch}[cfg.default_scope](model, size)

    model.train()
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    without = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert not without

    model.eval()
    with torch.no_grad():
        batch = model.data_preprocessor({key: value[:1] for key, value in batch.items()}, False)
        (sample,) = model(**batch, mode='predict')
    if cfg.default_scope == 'mmdet':
        assert torch.isfinite(sample.pred_instances.bboxes).all()
    else:
        assert sample.pred_sem_seg.data.shape == (1, *size)


def few_proposals(model: dict) -> None:
    """A step in seconds: heads see tens of boxes instead of a thousand."""
    for settings in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        settings.update(nms_pre=20, max_per_img=20)
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 8


def detection_batch(model: torch.nn.Module, size: tuple[int, int]) -> dict:
    from mmdet.testing import demo_mm_inputs

    shapes = [(3, *size)] * 2
    return demo_mm_inputs(2, shapes, num_items=[2, 1], num_classes=3, with_mask=True)


def segmentation_batch(model: torch.nn.Module, size: tuple[int, int]) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4)
        )
        labels = torch.randint(0, model.decode_head.num_classes, (1, *size))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)
