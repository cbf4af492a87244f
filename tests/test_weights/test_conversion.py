"""Checkpoints as others save them into backbone weights, and from there into backbones."""

import copy
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmlab_inline import InLineCSwin, InLineDeiT, InLinePVT, InLineSwin, L2ViT, backbones
from mmlab_inline.utils import CheckpointError, UserError, safe_load
from mmlab_inline.weights.conversion import convert, convert_file

TOOL = 'tools/convert_checkpoint.py'
every = pytest.mark.parametrize('cls', [getattr(backbones, name) for name in backbones.__all__])
MIXED = ('inline', ('inline', 'softmax'), 'inline', 'softmax')
# L2ViT's windows are told by its linear attention beside them.
MIXED_L2VIT = ('inline', ('inline', 'l2vit'), ('softmax', 'l2vit'), 'softmax')


@pytest.fixture
def source(cls, build_narrow, randomised) -> nn.Module:
    return randomised(build_narrow(cls, attention=MIXED_L2VIT if cls is L2ViT else MIXED))


def body(model: nn.Module) -> dict[str, Tensor]:
    """Without output norms and pyramid, as classification checkpoints are."""
    own = ('fpn',) if isinstance(model, InLineDeiT) else ('norm',)
    return {k: v for k, v in model.state_dict().items() if not k.startswith(own)}


def classifier(model: nn.Module) -> dict[str, Tensor]:
    width = model.out_channels[-1]
    weights = body(model)
    if not isinstance(model, InLineDeiT):  # of which the final norm is a part
        weights['norm.weight'], weights['norm.bias'] = torch.ones(width), torch.ones(width)
    weights['head.weight'], weights['head.bias'] = torch.ones(10, width), torch.ones(10)
    if isinstance(model, InLineSwin):
        weights['layers.3.blocks.0.attn.relative_position_index'] = torch.zeros(49, 49).long()
        weights['layers.1.blocks.1.attn_mask'] = torch.zeros(4, 49, 49)
    return weights


def detector(model: nn.Module) -> dict[str, Tensor]:
    weights = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    return {**weights, 'neck.conv.weight': torch.ones(2, 2), 'roi_head.fc.bias': torch.ones(2)}


LAYOUTS = {
    'released': lambda m: {'model': classifier(m), 'optimizer': {}, 'epoch': 299},
    'bare': classifier,
    'distributed': lambda m: {f'module.{k}': v for k, v in classifier(m).items()},
    'detector': lambda m: {'meta': {'epoch': 1}, 'state_dict': detector(m), 'optimizer': {}},
    'own': lambda m: {'state_dict': body(m)},
    'averaged': lambda m: {
        'model': {k: v + 1 for k, v in classifier(m).items()},
        'model_ema': classifier(m),
    },
    'compiled': lambda m: {f'_orig_mod.{k}': v for k, v in classifier(m).items()},
    'lightning': lambda m: {'state_dict': {f'model.{k}': v for k, v in detector(m).items()}},
}


@pytest.mark.parametrize('layout', LAYOUTS)
@every
def test_every_tensor_arrives(layout, source):
    conversion = convert(LAYOUTS[layout](source))
    whole = layout in ('detector', 'lightning')
    expected = source.state_dict() if whole else body(source)
    assert set(conversion.weights) == set(expected)
    assert all(torch.equal(conversion.weights[name], expected[name]) for name in expected)
    assert set(conversion.missing) == set(source.state_dict()) - set(expected)


@every
def test_says_which_weights_were_taken(cls, source, monkeypatch):
    said = []
    monkeypatch.setattr(safe_load, 'print_log', lambda text, logger: said.append(text))
    conversion = convert(LAYOUTS['averaged'](source))
    assert len(said) == 1 and 'averaged (EMA) weights' in said[0] and 'model_ema' in said[0]
    assert 'model' in conversion.left_over


@every
def test_everything_else_is_named(cls, source):
    conversion = convert(LAYOUTS['released'](source))
    others = {'norm.weight', 'norm.bias', 'head.weight', 'head.bias', 'optimizer', 'epoch'}
    if cls is InLineDeiT:
        others -= {'norm.weight', 'norm.bias'}
    buffers = {n for n in classifier(source) if n.endswith(('index', 'attn_mask'))}
    assert set(conversion.left_over) == others | buffers
    text = conversion.describe()
    assert 'head (2)' in text
    assert 'optimizer' in text
    assert ('attn_mask' in text) == (cls is InLineSwin)
    conversion = convert(LAYOUTS['detector'](source))
    assert set(conversion.left_over) == {
        'meta',
        'optimizer',
        'neck.conv.weight',
        'roi_head.fc.bias',
    }


@every
def test_types_and_shapes_stay(source):
    weights = classifier(source.half())
    found = {v.dtype for v in convert(weights).weights.values() if v.is_floating_point()}
    assert found == {torch.float16}


@every
def test_the_checkpoint_is_not_changed(source):
    checkpoint = LAYOUTS['released'](source)
    before = copy.deepcopy(checkpoint)
    convert(checkpoint)
    assert list(checkpoint) == list(before)
    assert list(checkpoint['model']) == list(before['model'])


@every
@pytest.mark.parametrize('harm', ['missing', 'unknown', 'reshaped'])
def test_one_tensor_off_is_refused(harm, source):
    weights = classifier(source)
    name = next(name for name in weights if name.endswith(('.attn.proj.weight', '.0.proj.weight')))
    if harm == 'missing':
        del weights[name]
    elif harm == 'unknown':
        name = name.replace('proj', 'logit_scale')
        weights[name] = torch.ones(2)
    else:
        weights[name] = torch.ones(3, 5)
    with pytest.raises(CheckpointError, match=f'it looks like .*{name}'):
        convert(weights)


@pytest.mark.parametrize('shape', [(), (0,), (5, 3), (0, 9, 1)], ids=str)
@pytest.mark.parametrize('part', ['mlp.fc1.weight', 'residual.0.weight', 'proj.weight'])
@every
def test_misshapen_tensors_are_refused(part, shape, source):
    weights = classifier(source)
    name = next(name for name in weights if name.endswith(part))
    weights[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError):
        convert(weights)


def test_a_foreign_model_is_refused():
    with pytest.raises(CheckpointError, match='no weights of a model known here'):
        convert(nn.Linear(2, 3).state_dict())


def test_position_embeddings_are_not_resized(build_narrow):
    model = build_narrow(InLinePVT, pretrain_img_size=64)
    conversion = convert(classifier(model))
    assert conversion.model.settings['pretrain_img_size'] == 64
    assert conversion.weights['pos_embed1'].shape == (1, 256, 8)


PUBLIC = dict(depths=(1, 2, 1, 1), num_heads=(1, 2, 5, 8))


def public_pvt() -> nn.Module:
    arch = dict(PUBLIC, embed_dims=(8, 16, 40, 64), mlp_ratios=(2, 2, 2, 2))
    return InLinePVT(arch, attention='softmax')


def public_swin() -> nn.Module:
    arch = dict(PUBLIC, embed_dims=8, num_heads=(1, 2, 4, 4), mlp_ratios=2)
    return InLineSwin(arch, attention='softmax')


def test_public_pvt_loses_its_class_token(randomised):
    source = randomised(public_pvt())
    weights = classifier(source)
    weights['cls_token'] = torch.full((1, 1, 64), 7.0)
    weights['pos_embed4'] = torch.cat([weights['cls_token'], weights['pos_embed4']], dim=1)
    conversion = convert(weights)
    assert conversion.model.name.startswith('PVT with')
    for name, value in source.state_dict().items():
        assert torch.equal(conversion.weights[name], value), name


def test_public_swin(randomised):
    source = randomised(public_swin())
    conversion = convert({'model': classifier(source)})
    assert conversion.model.name.startswith('Swin with')
    assert conversion.model.settings['arch']['num_heads'] == (1, 2, 4, 4)


def mmdet_swin() -> nn.Module:
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    arch = dict(embed_dims=8, depths=PUBLIC['depths'], num_heads=(1, 2, 4, 4), mlp_ratio=2)
    return swin.SwinTransformer(**arch, drop_path_rate=0.0)


def mmdet_pvt() -> nn.Module:
    pvt = pytest.importorskip('mmdet.models.backbones.pvt')
    heads = PUBLIC['num_heads']
    arch = dict(embed_dims=8, num_layers=PUBLIC['depths'], num_heads=heads, mlp_ratios=(2, 2, 2, 2))
    return pvt.PyramidVisionTransformer(**arch, drop_path_rate=0.0)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('build', [mmdet_swin, mmdet_pvt])
def test_mmdets_backbones_compute_the_same(build, suffix, randomised, assert_near, tmp_path):
    reference = randomised(build())
    reference.eval()
    weights = {f'backbone.{name}': value for name, value in reference.state_dict().items()}
    source, target = tmp_path / 'epoch_12.pth', tmp_path / f'converted.{suffix}'
    torch.save({'state_dict': weights, 'meta': {}}, source)
    convert_file(source, target)
    model = public_swin() if build is mmdet_swin else public_pvt()
    model.init_cfg = dict(type='Pretrained', checkpoint=str(target))
    model.init_weights()
    for module in (*model.modules(), *reference.modules()):
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # mmdet has one epsilon for all
    image = torch.randn(1, 3, 64, 160)
    with torch.no_grad():
        for out, expected in zip(model.eval()(image), reference(image), strict=True):
            assert_near(out, expected, 2e-5)


def saved(content: dict, path: Path) -> Path:
    if path.suffix == '.safetensors':
        save_file({name: value.contiguous() for name, value in content.items()}, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize('prefix', ['', 'mmlab_inline.'])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
@pytest.mark.parametrize('layout', ['released', 'detector'])
@every
def test_converted_files_through_init_cfg(layout, suffix, prefix, cls, source, tmp_path):
    """By the registry, under the bare and the prefixed name; the detector also unconverted."""
    path = saved(LAYOUTS[layout](source), tmp_path / 'source.pth')
    target = tmp_path / f'converted.{suffix}'
    settings = convert_file(path, target).model.settings
    type_name = f'{prefix}{cls.__name__}'
    files = [dict(checkpoint=str(target))]
    files.append(
        dict(checkpoint=str(path), **({'prefix': 'backbone.'} if layout != 'released' else {}))
    )
    if settings['arch']['num_heads'][-1] is None:
        heads = tuple(n or 4 for n in settings['arch']['num_heads'])
        settings = {**settings, 'arch': {**settings['arch'], 'num_heads': heads}}
    for file in files:
        init_cfg = dict(type='Pretrained', **file)
        model = MODELS.build(dict(type=type_name, **settings, init_cfg=init_cfg))
        model.init_weights()
        whole = layout in ('detector', 'lightning')
        expected = source.state_dict() if whole else body(source)
        assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)
        image = torch.randn(1, 3, 40, 70)
        if layout == 'detector':
            for out, wanted in zip(model.eval()(image), source.eval()(image), strict=True):
                assert torch.equal(out, wanted)


@every
def test_converting_again_changes_nothing(source, tmp_path):
    path = saved(LAYOUTS['released'](source), tmp_path / 'source.pth')
    first = convert_file(path, tmp_path / 'a.safetensors')
    again = convert_file(tmp_path / 'a.safetensors', tmp_path / 'b.pth')
    assert again.left_over == ()
    assert again.model == first.model
    content = torch.load(tmp_path / 'b.pth', weights_only=True)
    assert list(content) == ['state_dict']
    read = load_file(tmp_path / 'a.safetensors')
    assert set(read) == set(content['state_dict']) == set(body(source))
    assert all(torch.equal(read[name], value) for name, value in content['state_dict'].items())


def test_a_slice_is_saved_without_the_rest(build_narrow, tmp_path):
    model = build_narrow(InLinePVT)
    weights = body(model)
    name = 'pos_embed4'
    weights[name] = torch.zeros(1000, *weights[name].shape[1:])[:1]
    convert_file(saved(weights, tmp_path / 'a.pth'), tmp_path / 'b.pth')
    parameters = sum(value.numel() for value in weights.values())
    assert (tmp_path / 'b.pth').stat().st_size < 4 * parameters + 100_000


def test_tool_prints_what_came_of_it(tool, build_narrow, tmp_path):
    source = saved(LAYOUTS['released'](build_narrow(InLineSwin)), tmp_path / 'source.pth')
    status, out, _ = tool(source, tmp_path / 'new/target.pth')
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith('recognised  InLine-Swin with embed_dims=8')
    assert lines[1].startswith('matched ')
    assert lines[2].endswith('norm0 (2), norm1 (2), norm2 (2), norm3 (2)')
    assert 'head (2)' in lines[3]
    # The printed backbone is what it says.
    settings = eval(lines[-1].strip().removeprefix('backbone='))
    MODELS.build(settings).init_weights()


def test_tool_refuses_to_write_over_anything(tool, build_narrow, tmp_path):
    source = saved(LAYOUTS['released'](build_narrow(InLineSwin)), tmp_path / 'source.pth')
    before = source.read_bytes()
    link = tmp_path / 'link.pth'
    link.symlink_to(source)
    for target in (source, link):
        for force in ((), ('--force',)):
            status, _, error = tool(source, target, *force)
            assert status == 2
            assert 'is the file to convert' in error
    target = tmp_path / 'target.pth'
    target.write_text('precious')
    status, _, error = tool(source, target)
    assert (status, target.read_text()) == (2, 'precious')
    assert '--force' in error
    assert tool(source, target, '--force')[0] == 0
    assert target.read_text(errors='replace') != 'precious'
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ('content', 'target', 'message'),
    [
        (None, 'b.pth', 'does not exist'),
        (b'<html>', 'b.pth', 'no checkpoint'),
        ({'epoch': 3}, 'b.pth', 'holds no weights'),
        (nn.Linear(2, 3).state_dict(), 'b.pth', 'no weights of a model known here'),
        ({}, 'b.bin', 'must end in .pth or .safetensors'),
    ],
    ids=['absent', 'html', 'no weights', 'foreign', 'suffix'],
)
def test_tool_refuses_in_one_line(content, target, message, tool, tmp_path):
    source = tmp_path / 'a.pth'
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        torch.save(content, source)
    status, out, error = tool(source, tmp_path / target)
    assert (status, out) == (2, '')
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert message in error
    assert {path.name for path in tmp_path.iterdir()} <= {'a.pth'}


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_a_full_disk_leaves_what_was_there(suffix, build_narrow, full_disk, tmp_path):
    source = saved(LAYOUTS['released'](build_narrow(InLinePVT)), tmp_path / 'source.pth')
    target = tmp_path / f'target.{suffix}'
    target.write_text('old')
    with full_disk(20_000), pytest.raises(UserError, match=r'target.* cannot be written: File too'):
        convert_file(source, target, force=True)
    assert target.read_text() == 'old'
    assert {path.name for path in tmp_path.iterdir()} == {'source.pth', target.name}


@every
def test_an_attention_that_weights_do_not_tell(cls, build_narrow, tmp_path, tool):
    model = build_narrow(cls, attention=('linear', 'inline', 'inline', 'inline'))
    source, target = tmp_path / 'source.pth', tmp_path / 'target.pth'
    torch.save(dict(state_dict=model.state_dict()), source)
    status, _, error = tool(source, target)
    assert status == 2
    assert 'do not tell which attention they are of' in error
    for wrong, message in (('lineer', "did you mean 'linear'"), ('[', 'no Python literal')):
        status, _, error = tool(source, target, '--attention', wrong)
        assert status == 2
        assert message in error
    assert not target.exists()
    attention = "['linear', 'inline', 'inline', 'inline']"
    if cls is InLineDeiT:  # six blocks in one stage
        attention = "[['linear', 'inline', 'inline', 'inline', 'inline', 'inline']]"
    status, printed, _ = tool(source, target, '--attention', attention)
    assert status == 0
    assert f"'attention': {attention}" in printed
    assert torch.load(target)['state_dict'].keys() == model.state_dict().keys()


def test_l2vit_as_its_training_script_saves_it(build_narrow, randomised, tmp_path, tool):
    """Settings and averaged weights beside the trained ones; counts are of parameters."""
    model = randomised(build_narrow(L2ViT, depths=(2, 2, 2, 2)))
    optimizer = torch.optim.AdamW(model.parameters())
    weights = classifier(model)
    content = dict(
        model={name: torch.zeros_like(value) for name, value in weights.items()},
        model_ema=weights,
        optimizer=optimizer.state_dict(),
        scaler={},
        epoch=299,
        args=Namespace(model='l2vit_tiny', lr=4e-3, output_dir=None),
    )
    torch.save(content, tmp_path / 'source.pth')
    status, printed, _ = tool(tmp_path / 'source.pth', tmp_path / 'target.pth')
    assert status == 0
    millions = sum(p.numel() for n, p in model.named_parameters() if n in body(model)) / 1e6
    assert f' {millions:.3f} M parameters' in printed
    assert 'norm0 (2), norm1 (2), norm2 (2), norm3 (2)\n' in printed
    loaded = build_narrow(
        L2ViT,
        depths=(2, 2, 2, 2),
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'target.pth')),
    )
    loaded.init_weights()
    for name, value in body(model).items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize('attention', ['inline', 'softmax'])
def test_plain_network_as_others_save_it(attention, build_narrow, randomised, tmp_path, tool):
    """Class token and final norm are kept, the pyramid is nobody's; nothing is taken for PVT."""
    model = randomised(build_narrow(InLineDeiT, attention=attention))
    content = dict(model=classifier(model), args=Namespace(model='deit'), epoch=299)
    torch.save(content, tmp_path / 'source.pth')
    status, printed, _ = tool(tmp_path / 'source.pth', tmp_path / 'target.pth')
    assert status == 0
    assert printed.startswith('recognised  InLine-DeiT' if attention == 'inline' else 'recognised')
    assert 'missing     fpn1 (6), fpn2 (2)\n' in printed
    assert 'left over   head (2), args, epoch\n' in printed
    for name in ('source.pth', 'target.pth'):
        loaded = build_narrow(
            InLineDeiT,
            attention=attention,
            init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / name)),
        )
        loaded.init_weights()
        for key, value in body(model).items():
            assert torch.equal(loaded.state_dict()[key], value), key
    without = build_narrow(
        InLineDeiT,
        attention=attention,
        cls_token=False,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'source.pth')),
    )
    with pytest.raises(CheckpointError, match=r'cls_token.*Nothing was loaded'):
        without.init_weights()


@pytest.mark.parametrize(('names', 'placed'), [('timm', False), ('authors', False), ('timm', True)])
def test_deit_iii_computes_the_same(names, placed, randomised, assert_near):
    """LayerScale and a class token without a position: both are in other weights afterwards."""
    timm = pytest.importorskip('timm')
    reference = randomised(
        timm.models.VisionTransformer(
            img_size=64,
            embed_dim=32,
            depth=2,
            num_heads=4,
            mlp_ratio=2,
            init_values=0.1,
            no_embed_class=not placed,
            num_classes=10,
        )
    ).eval()
    weights = reference.state_dict()
    if names == 'authors':
        weights = {k.replace('ls1.gamma', 'gamma_1'): v for k, v in weights.items()}
        weights = {k.replace('ls2.gamma', 'gamma_2'): v for k, v in weights.items()}
    converted = convert(dict(model=weights))
    assert converted.model.settings['pretrain_img_size'] == 64
    arch = dict(embed_dims=32, depths=2, num_heads=4, mlp_ratios=2)
    model = InLineDeiT(arch, attention='softmax', pretrain_img_size=64).eval()
    model.load_state_dict(converted.weights, strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_near(model.run_blocks(image)[0], reference.forward_features(image), 2e-6)
    for name in ('blocks.0.attn.proj.bias', 'blocks.1.mlp.fc2.weight'):
        with pytest.raises(CheckpointError, match='it looks like'):
            convert({**weights, name: torch.ones(5, 3)})


def test_cswin_as_its_authors_save_it(build_narrow, randomised, tmp_path, tool):
    """Averaged weights beside the trained ones; a segmentor's output norms are counted from 1."""
    model = randomised(build_narrow(InLineCSwin, attention='softmax'))
    weights = classifier(model)
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    content = dict(model=zeros, state_dict_ema=weights, epoch=299, config=Namespace(amp=True))
    torch.save(content, tmp_path / 'source.pth')
    status, printed, _ = tool(tmp_path / 'source.pth', tmp_path / 'target.pth')
    assert status == 0
    assert printed.startswith('recognised  InLine-CSwin with embed_dims=8')
    assert "attention='softmax'" in printed
    found = torch.load(tmp_path / 'target.pth')['state_dict']
    assert all(torch.equal(found[name], value) for name, value in body(model).items())

    renamed = {}
    for name, value in model.state_dict().items():
        if name.startswith('norm'):
            name = f'norm{int(name[4]) + 1}{name[5:]}'
        renamed[f'backbone.{name}'] = value
    conversion = convert(dict(state_dict=renamed, meta={}))
    assert not conversion.missing
    for name, value in model.state_dict().items():
        assert torch.equal(conversion.weights[name], value), name
