import copy

import pytest
import torch
from torch import Tensor, nn

from mmlab_inline import InLinePVT, InLineSwin
from mmlab_inline.backbones.key_converters import to_own_format

SWIN = dict(embed_dims=8, depths=(2, 2, 1, 1), num_heads=(1, 2, 4, 4))
PVT = dict(embed_dims=(8, 16, 40, 64), depths=(1, 2, 1, 1), num_heads=(1, 2, 5, 8))


def mmdet_swin(**settings: object) -> nn.Module:
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    model = swin.SwinTransformer(**SWIN, mlp_ratio=2, drop_path_rate=0.0, **settings)
    model.eval()  # returns None
    return model


def mmdet_pvt() -> nn.Module:
    pvt = pytest.importorskip('mmdet.models.backbones.pvt')
    return pvt.PyramidVisionTransformer(
        embed_dims=8,
        num_layers=PVT['depths'],
        num_heads=PVT['num_heads'],
        mlp_ratios=(2, 2, 2, 2),
        drop_path_rate=0.0,
    ).eval()


def own_swin(path: str, prefix: str | None = None, **settings: object) -> InLineSwin:
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
    model = InLineSwin({**SWIN, 'mlp_ratios': 2}, attention='softmax', init_cfg=init_cfg)
    return model.eval()


def own_pvt(path: str, prefix: str | None = None) -> InLinePVT:
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)
    arch = {**PVT, 'mlp_ratios': (2, 2, 2, 2)}
    return InLinePVT(arch, attention='softmax', init_cfg=init_cfg).eval()


@pytest.fixture
def saved(tmp_path):
    def save(weights: dict[str, Tensor]) -> str:
        path = tmp_path / 'weights.pth'
        torch.save({'state_dict': weights}, path)
        return str(path)

    return save


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f'{prefix}{key}': value for key, value in weights.items()}


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_mmdets_swin(prefix, saved, randomised, assert_near):
    reference = randomised(mmdet_swin())
    model = own_swin(saved(prefixed(reference.state_dict(), prefix or '')), prefix)
    model.init_weights()
    # Maps of several windows along both axes in every block that shifts: there both agree.
    image = torch.randn(2, 3, 67, 109)
    with torch.no_grad():
        for out, expected in zip(model(image), reference(image), strict=True):
            assert_near(out, expected, 1e-5)


def test_mmdets_swin_without_an_output(saved, randomised):
    """mmdet's RetinaNet takes three stages, so its backbone has no norm0."""
    reference = randomised(mmdet_swin(out_indices=(1, 2, 3)))
    model = own_swin(saved(reference.state_dict()))
    model.init_weights()
    assert (model.norm0.weight == 1).all()
    assert torch.equal(model.norm1.weight, reference.norm1.weight)


def test_mmsegs_swin_has_mmdets_names():
    swin = pytest.importorskip('mmseg.models.backbones.swin')
    settings = {**SWIN, 'mlp_ratio': 2}
    assert set(swin.SwinTransformer(**settings).state_dict()) == set(mmdet_swin().state_dict())


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_mmdets_pvt(prefix, saved, randomised, assert_near):
    reference = randomised(mmdet_pvt())
    model = own_pvt(saved(prefixed(reference.state_dict(), prefix or '')), prefix)
    model.init_weights()
    for module in (*model.modules(), *reference.modules()):
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # mmdet has one epsilon for all
    image = torch.randn(2, 3, 64, 160)
    with torch.no_grad():
        for out, expected in zip(model(image), reference(image), strict=True):
            assert_near(out, expected, 2e-5)


def test_public_pvt_has_a_class_token(saved, randomised):
    source = randomised(own_pvt('absent'))
    weights = source.state_dict()
    token = torch.full((1, 1, 64), 7.0)
    classifier = {
        **weights,
        'cls_token': token,
        'pos_embed4': torch.cat([token, weights['pos_embed4']], dim=1),
        'norm.weight': torch.ones(64),
        'norm.bias': torch.ones(64),
        'head.weight': torch.ones(10, 64),
        'head.bias': torch.ones(10),
    }
    assert classifier['pos_embed4'].shape[1] == 50
    model = own_pvt(saved(classifier))
    model.init_weights()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_public_swin_has_the_names_here(saved, randomised):
    source = randomised(own_swin('absent'))
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith('norm')}
    classifier = {
        **weights,
        'layers.0.blocks.1.attn_mask': torch.zeros(64, 49, 49),
        'layers.0.blocks.1.attn.relative_position_index': torch.zeros(49, 49).long(),
        'norm.weight': torch.ones(64),
        'norm.bias': torch.ones(64),
        'head.weight': torch.ones(10, 64),
        'head.bias': torch.ones(10),
    }
    model = own_swin(saved(classifier))
    model.init_weights()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


@pytest.mark.parametrize('build', [mmdet_swin, mmdet_pvt])
def test_conversion_leaves_its_argument_alone(build):
    weights = build().state_dict()
    before = copy.deepcopy(weights)
    to_own_format(weights)
    assert list(weights) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in weights.items())


@pytest.mark.parametrize('build', [own_swin, own_pvt])
def test_own_format_stays(build):
    weights = build('absent').state_dict()
    converted = to_own_format(weights)
    assert converted == weights
    assert converted is not weights


@pytest.mark.parametrize('build', [mmdet_swin, mmdet_pvt])
def test_unknown_keys_are_kept_and_refused(build, saved):
    weights = {**build().state_dict(), 'extra.weight': torch.ones(2)}
    assert 'extra.weight' in to_own_format(weights)
    own = own_swin if build is mmdet_swin else own_pvt
    with pytest.raises(ValueError, match=r'1 unknown \(such as extra\.weight\)'):
        own(saved(weights)).init_weights()
