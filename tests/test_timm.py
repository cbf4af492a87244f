"""The models registered with timm: the checks timm makes of its own, and what ties them to ours."""

import subprocess
import sys
from argparse import Namespace
from types import ModuleType

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.optim._param_groups import group_parameters
from torch import Tensor, nn

import mmlab_inline.timm
from mmlab_inline import InLineCSwin, InLinePVT, InLineSwin, L2ViT
from mmlab_inline.backbones import inline_cswin, inline_deit, inline_pvt, inline_swin, l2vit
from mmlab_inline.layers import DropPath
from mmlab_inline.utils import load_checkpoint

BACKBONES = {
    'inline_pvt_tiny': InLinePVT,
    'inline_swin_tiny': InLineSwin,
    'inline_cswin_tiny': InLineCSwin,
    'l2vit_tiny': L2ViT,
}
every = pytest.mark.parametrize('name', BACKBONES)
ZOOS = {'inline_pvt': inline_pvt, 'inline_swin': inline_swin, 'l2vit': l2vit}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The tiny archs at a fraction of their width."""
    widths = dict(num_heads=(1, 2, 4, 4), depths=(1, 2, 2, 1))
    pvt = dict(widths, embed_dims=(8, 16, 24, 32), mlp_ratios=(2, 2, 2, 2))
    swin = dict(widths, embed_dims=8, mlp_ratios=2)
    swin['attention'] = ('inline', 'inline', ('inline', 'softmax'), 'softmax')
    monkeypatch.setitem(inline_pvt.ARCH_ZOO, 'tiny', pvt)
    monkeypatch.setitem(inline_swin.ARCH_ZOO, 'tiny', swin)
    monkeypatch.setitem(l2vit.ARCH_ZOO, 'tiny', pvt)
    monkeypatch.setitem(inline_cswin.ARCH_ZOO, 'tiny', {**swin, 'num_heads': (1, 2, 4, 4)})


@pytest.fixture
def model(name, randomised) -> nn.Module:
    return randomised(timm.create_model(name, num_classes=10)).eval()


@pytest.mark.parametrize(
    ('name', 'millions'),
    [
        ('inline_pvt_small', 21.556),
        ('inline_pvt_medium', 37.619),
        ('inline_pvt_large', 51.154),
        ('inline_swin_small', 49.793),
        ('inline_swin_base', 88.350),
        ('inline_cswin_small', 33.033),
        ('inline_cswin_base', 73.414),
        ('inline_deit_tiny', 6.478),
        ('inline_deit_small', 16.735),
        ('inline_deit_base', 23.797),
        ('l2vit_small', 50.199),
        ('l2vit_base', 88.577),
    ],
)
def test_parameters_with_head(name, millions):
    """Counts of the released classifiers."""
    model = timm.create_model(name, device='meta')
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize(
    ('name', 'millions'),
    [
        ('inline_pvt_tiny', 12.032),
        ('inline_swin_tiny', 29.224),
        ('inline_cswin_tiny', 20.605),
        ('l2vit_tiny', 28.597),
    ],
)
def test_parameters_of_tiny(name, millions, monkeypatch):
    monkeypatch.undo()  # narrow
    test_parameters_with_head(name, millions)


def test_registry():
    names = [f'{family}_{arch}' for family, module in ZOOS.items() for arch in module.ARCH_ZOO]
    for family in ('inline_deit', 'inline_cswin'):  # whose zoos have softmax twins, too
        names += [f'{family}_{arch}' for arch in ('tiny', 'small', 'base')]
    assert sorted(timm.list_models(['inline_*', 'l2vit_*'])) == sorted(names)
    assert all(timm.is_model(name) for name in names)
    # timm's own packages are still found from within the module of that name.
    assert sys.modules['timm'] is timm
    assert mmlab_inline.timm.register_model is timm.models.register_model


def test_mm_libraries_are_not_imported():
    program = (
        'import sys, timm, mmlab_inline.timm; '
        "timm.create_model('inline_pvt_tiny', device='meta'); "
        "print([name for name in ('mmcv', 'mmdet', 'mmseg') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert run.stdout.strip() == '[]', run.stderr


@every
def test_forward(name, model):
    with torch.no_grad():
        out = model(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 10)
    assert out.isfinite().all()


@every
def test_default_cfg(name):
    """As timm's test_model_default_cfgs."""
    model = timm.create_model(name).eval()
    cfg = model.default_cfg
    assert f'{cfg["classifier"]}.weight' in model.state_dict()
    assert f'{cfg["first_conv"]}.weight' in model.state_dict()
    data = resolve_data_config(model=model)
    assert data['input_size'] == (3, 224, 224)
    assert data['interpolation'] == 'bicubic'
    assert [round(255 * x, 3) for x in data['mean']] == [123.675, 116.28, 103.53]
    image = torch.randn(1, *cfg['input_size'])
    with torch.no_grad():
        assert model(image).shape == (1, cfg['num_classes'])
        features = model.forward_features(image)
        assert features.shape == (1, model.num_features, *cfg['pool_size'])
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert torch.equal(model(image), pooled)
        model.reset_classifier(0, '')
        assert torch.equal(model(image), features)
        model.reset_classifier(7, 'avg')
        assert model(image).shape == (1, 7)
        assert model.get_classifier().out_features == 7
    bare = timm.create_model(name, num_classes=0, global_pool='').eval()
    assert isinstance(bare.get_classifier(), nn.Identity)


@every
def test_every_parameter_gets_a_gradient(name):
    model = timm.create_model(name, num_classes=10, drop_path_rate=0.0)
    model(torch.randn(2, 3, 64, 64)).mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@every
def test_checkpointing_changes_nothing(name, randomised):
    model = randomised(timm.create_model(name, num_classes=10, drop_path_rate=0.0)).train()
    image = torch.randn(2, 3, 48, 64)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        out = model(image)
        out.square().mean().backward()
        grads.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    for plain, recomputed in zip(*grads, strict=True):
        assert torch.equal(plain, recomputed)


@every
@pytest.mark.parametrize('size', [(33, 65), (224, 96), (32, 32)])
def test_any_size_and_channels(name, size):
    model = timm.create_model(name, in_chans=1, num_classes=10).eval()
    with torch.no_grad():
        image = torch.randn(1, 1, *size)
        assert model(image).shape == (1, 10)
        shape = tuple(-(-side // 32) for side in size)
        assert model.forward_features(image).shape == (1, model.num_features, *shape)


@every
def test_drop_rates(name):
    model = timm.create_model(name, num_classes=10, drop_path_rate=0.5, drop_rate=0.25)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.1 * index for index in range(6)])
    assert model.head_drop.p == 0.25
    image = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model.train()(image), model(image))
    assert torch.equal(model.eval()(image), model(image))


def dense_maps(backbone: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """Maps of an mm backbone, without the output norms that no classifier has."""
    for stage in backbone.out_indices:
        if hasattr(backbone, f'norm{stage}'):
            setattr(backbone, f'norm{stage}', nn.Identity())
    with torch.no_grad():
        return backbone.eval()(image)


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, 1e-5)


@every
def test_features_are_those_of_the_mm_backbone(name, model, tmp_path):
    """Bit for bit, with weights that went through a file of timm's layout."""
    path = tmp_path / 'timm.pth'
    torch.save({'state_dict': model.state_dict(), 'epoch': 3, 'arch': name}, path)
    backbone = BACKBONES[name]('tiny', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    backbone.init_weights()
    source = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path), num_classes=10))
    features = timm.create_model(name, features_only=True, **source).eval()
    some = timm.create_model(name, features_only=True, out_indices=(0, 2), **source).eval()
    image = torch.randn(2, 3, 50, 70)
    expected = dense_maps(backbone, image)
    with torch.no_grad():
        maps, chosen = features(image), some(image)
        final, intermediates = model.forward_intermediates(image)
        for got in (maps, intermediates):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        for got, stage in zip(chosen, (0, 2), strict=True):
            assert torch.equal(got, expected[stage])
        assert torch.equal(final, model.forward_features(image))
        # InLine-Swin and InLine-CSwin normalise the map, L2ViT its mean.
        last = expected[-1].permute(0, 2, 3, 1)
        if 'swin' in name:
            last = layer_norm(model.norm, last)
        assert torch.equal(final, last.permute(0, 3, 1, 2))
        mean = last.mean((1, 2))
        if name.startswith('l2vit'):
            mean = layer_norm(model.norm, mean)
        torch.testing.assert_close(model(image), mean @ model.head.weight.T + model.head.bias)


@every
def test_features_describe_themselves(name):
    dense = BACKBONES[name]('tiny')
    for indices in ((0, 1, 2, 3), (1, 3), (2,), (-2, -1)):
        features = timm.create_model(name, features_only=True, out_indices=indices).eval()
        with torch.no_grad():
            maps = features(torch.randn(1, 3, 96, 64))
        assert features.feature_info.channels() == [m.shape[1] for m in maps]
        assert [96 // m.shape[2] for m in maps] == features.feature_info.reduction()
        assert [64 // m.shape[3] for m in maps] == features.feature_info.reduction()
        wanted = [dense.out_channels[index] for index in indices]
        assert features.feature_info.channels() == wanted
        names = dict(features.model.named_modules())
        assert all(module in names for module in features.feature_info.module_name())
        loss = sum(m.mean() for m in features.train()(torch.randn(2, 3, 32, 32)))
        loss.backward()
        unused = [key for key, p in features.named_parameters() if p.grad is None]
        assert not unused


@every
def test_intermediates(name, model):
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        final, maps = model.forward_intermediates(image)
        only = model.forward_intermediates(image, indices=2, intermediates_only=True)
        last, early = model.forward_intermediates(image, indices=[1], stop_early=True)
        normed = model.forward_intermediates(image, norm=True, intermediates_only=True)
        assert [torch.equal(a, b) for a, b in zip(only, maps[2:], strict=True)] == [True, True]
        assert torch.equal(last, maps[1])
        assert torch.equal(early[0], maps[1])
        assert torch.equal(normed[-1], final)
        assert torch.equal(normed[0], maps[0])
        with pytest.raises(ValueError, match='NCHW'):
            model.forward_intermediates(image, output_fmt='NLC')
        # Pruned to the second stage, the model gives the same maps with fewer parameters.
        before = sum(p.numel() for p in model.parameters())
        assert model.prune_intermediate_layers([0, 1]) == [0, 1]
        assert sum(p.numel() for p in model.parameters()) < before
        _, pruned = model.train().eval().forward_intermediates(image)
        assert all(torch.equal(a, b) for a, b in zip(pruned, maps[:2], strict=True))
        assert torch.equal(model(image), maps[1])


@every
def test_wrong_arguments(name):
    with pytest.raises(TypeError, match=r"'drop_path'.*did you mean 'drop_path_rate'"):
        timm.create_model(name, drop_path=0.1)
    with pytest.raises(ValueError, match='global_pool'):
        timm.create_model(name, global_pool='max')
    with pytest.raises(ValueError, match='global_pool'):
        timm.create_model(name, global_pool='', num_classes=3)


@every
def test_pretrained_says_where_the_weights_are(name):
    with pytest.raises(RuntimeError, match='checkpoint_path') as error:
        timm.create_model(name, pretrained=True)
    assert timm.models.get_pretrained_cfg(name).origin_url in str(error.value)


def test_window_size():
    model = timm.create_model('inline_swin_tiny', window_size=12)
    assert {m.window_size for m in model.modules() if hasattr(m, 'window_size')} == {None, 12}


@pytest.fixture
def released(name, model, tmp_path, monkeypatch):
    """A file laid out as the authors' are: settings and buffers beside the weights."""
    yacs = ModuleType('yacs.config')
    yacs.CfgNode = type('CfgNode', (dict,), {'__module__': 'yacs.config'})
    node = yacs.CfgNode({'MODEL': yacs.CfgNode({'NAME': name}), 'AMP': True})
    node.__dict__.update(__immutable__=True, __deprecated_keys__=set(), __renamed_keys__={})
    weights = model.state_dict()
    if name.startswith('inline_swin'):
        weights['layers.3.blocks.0.attn.relative_position_index'] = torch.zeros(49, 49).long()
        weights['layers.1.blocks.1.attn_mask'] = torch.zeros(4, 49, 49)
    path = tmp_path / 'released.pth'
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'yacs', ModuleType('yacs'))
        patch.setitem(sys.modules, 'yacs.config', yacs)
        content = dict(model=weights, epoch=299, config=node, args=Namespace(model=name))
        torch.save(content, path)
    return path


@every
def test_released_checkpoint(name, model, released):
    image = torch.randn(1, 3, 64, 64)
    loaded = timm.create_model(name, num_classes=10, checkpoint_path=str(released)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
        # As pretrained weights, another head and one channel are adapted.
        overlay = dict(file=str(released), num_classes=10)
        other = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1
        ).eval()
        assert other(image[:, :1]).shape == (1, 3)
        first = other.default_cfg['first_conv']
        summed = model.get_submodule(first).weight.sum(1, keepdim=True)
        torch.testing.assert_close(other.get_submodule(first).weight, summed)
    with pytest.raises(RuntimeError, match=r'head\.weight'):
        timm.create_model(name, num_classes=4, checkpoint_path=str(released))


@every
def test_released_checkpoint_by_the_safe_reader(name, model, released):
    """The way that is left where torch knows no add_safe_globals."""
    loaded = timm.create_model(name, num_classes=10)
    loaded.load_state_dict(load_checkpoint(released)['model'])
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_layers_of_pvt():
    model = timm.create_model('inline_pvt_tiny', num_classes=10)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    expected = {
        'patch_embed1.proj.weight': 0,
        'pos_embed1': 0,
        'block1.0.attn.q.weight': 1,
        'patch_embed2.proj.weight': 2,
        'pos_embed2': 2,
        'block2.0.mlp.fc1.weight': 2,
        'block2.1.mlp.fc1.weight': 3,
        'pos_embed3': 4,
        'block3.1.norm1.weight': 5,
        'block4.0.norm1.weight': 6,
        'head.weight': 7,
    }
    assert {key: layers[key] for key in expected} == expected
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    names = ('pos_embed1', 'block1.0.norm1.bias', 'pos_embed2', 'block4.0.norm1.bias', 'head.bias')
    assert [coarse[key] for key in names] == [0, 1, 2, 4, 5]


def test_layers_of_swin():
    model = timm.create_model('inline_swin_tiny', num_classes=10)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    expected = {
        'patch_embed.proj.weight': 0,
        'layers.0.blocks.0.attn.qkv.weight': 1,
        'layers.0.downsample.reduction.weight': 1,
        'layers.1.blocks.0.attn.qkv.weight': 2,
        'layers.1.blocks.1.attn.qkv.weight': 3,
        'layers.1.downsample.norm.weight': 3,
        'layers.3.blocks.0.attn.relative_position_bias_table': 6,
        'norm.weight': 6,
        'head.weight': 7,
    }
    assert {key: layers[key] for key in expected} == expected
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    names = (
        'patch_embed.norm.bias',
        'layers.0.downsample.norm.bias',
        'layers.1.blocks.1.norm1.bias',
    )
    assert [coarse[key] for key in names] == [0, 1, 2]


def test_layers_of_l2vit():
    model = timm.create_model('l2vit_tiny', num_classes=10)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    expected = {
        'downsample_layers.0.proj.proj.0.weight': 0,
        'stages.0.0.cpe.0.proj.weight': 1,
        'downsample_layers.1.proj.weight': 2,
        'stages.1.0.cpe.1.proj.weight': 2,
        'stages.1.1.local_mp.bn.weight': 3,
        'downsample_layers.3.norm.weight': 6,
        'stages.3.0.attn.qkv.weight': 6,
        'norm.weight': 6,
        'head.weight': 7,
    }
    assert {key: layers[key] for key in expected} == expected
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    names = ('downsample_layers.0.norm', 'downsample_layers.1.norm', 'stages.3.0.norm1')
    assert [coarse[f'{name}.bias'] for name in names] == [0, 2, 4]


def test_layers_of_cswin():
    model = timm.create_model('inline_cswin_tiny', num_classes=10)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    expected = {
        'stage1_conv_embed.0.weight': 0,
        'stage1.0.attns.0.residual.0.weight': 1,
        'merge1.conv.weight': 1,
        'stage2.0.qkv.weight': 2,
        'stage2.1.proj.weight': 3,
        'merge2.norm.weight': 3,
        'stage4.0.attns.0.get_v.weight': 6,
        'norm.weight': 6,
        'head.weight': 7,
    }
    assert {key: layers[key] for key in expected} == expected
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    names = ('stage1_conv_embed.2', 'merge1.norm', 'stage4.0.norm1')
    assert [coarse[f'{name}.bias'] for name in names] == [0, 1, 4]


@every
def test_training_step_with_layer_decay(name):
    """What timm's training script does with --opt adamw --layer-decay 0.5."""
    model = timm.create_model(name, num_classes=10, drop_path_rate=0.0).train()
    settings = dict(opt='adamw', lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    optimizer = create_optimizer_v2(model, **settings)
    scales = {
        key: (group['lr_scale'], group['weight_decay'])
        for group in optimizer.param_groups
        for key, parameter in model.named_parameters()
        if any(parameter is p for p in group['params'])
    }
    assert len(scales) == len(list(model.parameters()))
    assert scales['head.weight'] == (1.0, 0.05)
    assert scales[f'{model.default_cfg["first_conv"]}.weight'] == (0.5**7, 0.05)
    exempt = model.no_weight_decay()
    assert len(exempt) == {'inline_pvt_tiny': 4, 'inline_swin_tiny': 2}.get(name, 0)
    assert all(scales[key][1] == 0 for key in exempt)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    image, target = torch.randn(4, 3, 64, 64), torch.arange(4)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    unchanged = [key for key, p in model.named_parameters() if torch.equal(p, before[key])]
    assert not unchanged


@every
def test_features_by_hooks_and_by_graph(name, model):
    """What feature_info names is called, and timm's tracer takes what it cannot trace as a leaf."""
    image = torch.randn(1, 3, 50, 70)
    for cls in ('hook', 'fx'):
        other = timm.create_model(name, features_only=True, feature_cls=cls).eval()
        weights = {key: value for key, value in model.state_dict().items() if 'head.' not in key}
        body = other.body if cls == 'hook' else other.graph_module
        left = body.load_state_dict(weights, strict=False)
        assert not left.missing_keys
        with torch.no_grad():
            maps = other(image)
            expected = model.forward_intermediates(image, intermediates_only=True)
            assert [m.shape[1] for m in maps] == other.feature_info.channels()
            assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize('train', [False, True])
@every
def test_traced(name, train, randomised):
    """As timm's test_model_forward_fx and test_model_backward_fx."""
    model = randomised(timm.create_model(name, num_classes=10, drop_path_rate=0.0)).train(train)
    nodes = timm.models.get_graph_node_names(model)[0 if train else 1]
    traced = timm.models.create_feature_extractor(model, [nodes[-1]])
    image = torch.randn(2, 3, 50, 70)
    (out,) = traced(image).values()
    assert torch.equal(out, model(image))
    out.mean().backward()
    unused = [key for key, parameter in traced.named_parameters() if parameter.grad is None]
    assert not unused


def test_own_constructor():
    class Own(mmlab_inline.timm.InLinePVTClassifier):
        def __init__(self, extra: int = 1, **others: object) -> None:
            super().__init__(**others)
            self.extra = extra

    assert Own(extra=2, num_classes=3).num_classes == 3
    with pytest.raises(TypeError, match=r"Own has no keyword 'out_indices'.*it takes extra, arch"):
        Own(out_indices=(1,))


@pytest.fixture
def plain(monkeypatch, randomised) -> nn.Module:
    arch = dict(embed_dims=(16,), depths=(3,), num_heads=(2,), mlp_ratios=(2,))
    monkeypatch.setitem(inline_deit.ARCH_ZOO, 'tiny', arch)
    return randomised(timm.create_model('inline_deit_tiny', num_classes=10)).eval()


def test_plain_network(plain, tmp_path):
    """The class token of the mm backbone's tokens; the map of its last block, normalised."""
    image = torch.randn(2, 3, 50, 70)
    torch.save({'state_dict': plain.state_dict()}, tmp_path / 'timm.pth')
    checkpoint = dict(type='Pretrained', checkpoint=str(tmp_path / 'timm.pth'))
    backbone = mmlab_inline.InLineDeiT('tiny', init_cfg=checkpoint)
    backbone.init_weights()
    with torch.no_grad():
        tokens, hw_shape = backbone.eval().run_blocks(image)
        assert hw_shape == (4, 5)
        assert torch.equal(plain.forward_features(image), tokens)
        expected = nn.functional.linear(tokens[:, 0], plain.head.weight, plain.head.bias)
        torch.testing.assert_close(plain(image), expected)
        final, maps = plain.forward_intermediates(image, norm=True)
        assert torch.equal(final, tokens)
        assert torch.equal(maps[2], backbone(image)[2])
        early, some = plain.forward_intermediates(image, indices=[0], stop_early=True)
        assert len(some) == 1 and not torch.equal(early, final)
    loaded = timm.create_model(
        'inline_deit_tiny', num_classes=10, checkpoint_path=str(tmp_path / 'timm.pth')
    )
    assert torch.equal(loaded.eval()(image), plain(image))


def test_features_of_a_plain_network(plain):
    image = torch.randn(2, 3, 64, 96)
    features = timm.create_model('inline_deit_tiny', features_only=True, out_indices=(0, 2)).eval()
    assert features.feature_info.channels() == [16, 16]
    assert features.feature_info.reduction() == [16, 16]
    assert [tuple(m.shape) for m in features(image)] == [(2, 16, 4, 6)] * 2
    _, maps = plain.forward_intermediates(image)
    before = sum(p.numel() for p in plain.parameters())
    assert plain.prune_intermediate_layers([0, 1]) == [0, 1]
    assert sum(p.numel() for p in plain.parameters()) < before
    _, pruned = plain.forward_intermediates(image)
    assert all(map(torch.equal, pruned, maps[:2]))


@pytest.mark.parametrize('cls', ['getter', 'hook', 'fx'])
def test_features_of_a_plain_network_are_of_its_last_blocks(cls, monkeypatch):
    arch = dict(embed_dims=(16,), depths=(6,), num_heads=(2,), mlp_ratios=(2,))
    monkeypatch.setitem(inline_deit.ARCH_ZOO, 'tiny', arch)
    features = timm.create_model('inline_deit_tiny', features_only=True, feature_cls=cls)
    names = [f'blocks.{index}' for index in (2, 3, 4, 5)]
    assert features.feature_info.module_name() == names
    assert len(features(torch.randn(1, 3, 32, 48))) == 4


def test_layers_and_pooling_of_a_plain_network(plain):
    layers = group_parameters(plain, plain.group_matcher(), reverse=True)
    expected = {
        'patch_embed.proj.weight': 0,
        'pos_embed': 0,
        'cls_token': 0,
        'blocks.0.norm1.weight': 1,
        'blocks.2.attn.qkv.weight': 3,
        'norm.weight': 3,
        'head.weight': 4,
    }
    assert {key: layers[key] for key in expected} == expected
    assert plain.no_weight_decay() == {'pos_embed', 'cls_token'}
    for arguments in (dict(global_pool='avg'), dict(global_pool='', num_classes=3)):
        with pytest.raises(ValueError, match=r"global_pool=.*'token'"):
            timm.create_model('inline_deit_tiny', **arguments)
    assert timm.get_pretrained_cfg('inline_deit_base').input_size == (3, 448, 448)
    plain.train().set_grad_checkpointing()
    plain(torch.randn(2, 3, 32, 48)).sum().backward()
    assert all(p.grad is not None for p in plain.parameters())
