from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from mmlab_inline import InLineCSwin, InLineDeiT, InLinePVT, InLineSwin, L2ViT
from mmlab_inline.utils import CheckpointError
from mmlab_inline.weights.recognition import recognise

MIXED = ('inline', ('inline', 'softmax'), 'inline', 'softmax')


def shapes(cls: type[nn.Module], *args: object, **settings: object) -> dict[str, Tensor]:
    with torch.device('meta'):
        return cls(*args, **settings).state_dict()


NAMES = {
    (InLinePVT, 'tiny', 'inline'): 'InLine-PVT-T',
    (InLinePVT, 'small', 'inline'): 'InLine-PVT-S',
    (InLinePVT, 'medium', 'inline'): 'InLine-PVT-M',
    (InLinePVT, 'large', 'inline'): 'InLine-PVT-L',
    (InLinePVT, 'tiny', 'softmax'): 'PVT-T',
    (InLinePVT, 'small', 'softmax'): 'PVT-S',
    (InLinePVT, 'medium', 'softmax'): 'PVT-M',
    (InLinePVT, 'large', 'softmax'): 'PVT-L',
    (InLineSwin, 'tiny', None): 'InLine-Swin-T',
    (InLineSwin, 'small', None): 'InLine-Swin-S',
    (InLineSwin, 'base', None): 'InLine-Swin-B',
    (InLineSwin, 'tiny', 'softmax'): 'Swin-T',
    (InLineSwin, 'small', 'softmax'): 'Swin-S',
    (InLineSwin, 'base', 'softmax'): 'Swin-B',
    (L2ViT, 'tiny', None): 'L2ViT-T',
    (L2ViT, 'small', None): 'L2ViT-S',
    (L2ViT, 'base', None): 'L2ViT-B',
    (InLineCSwin, 'tiny', None): 'InLine-CSwin-T',
    (InLineCSwin, 'small', None): 'InLine-CSwin-S',
    (InLineCSwin, 'base', None): 'InLine-CSwin-B',
    (InLineCSwin, 'cswin-tiny', None): 'CSwin-T',
    (InLineCSwin, 'cswin-small', None): 'CSwin-S',
    (InLineCSwin, 'cswin-base', None): 'CSwin-B',
    (InLineCSwin, 'tiny', 'softmax'): "InLine-CSwin-T with attention='softmax'",
    (InLineDeiT, 'tiny', None): 'InLine-DeiT-T',
    (InLineDeiT, 'small', None): 'InLine-DeiT-S',
    (InLineDeiT, 'base', None): 'InLine-DeiT-B',
    (InLineDeiT, 'vit-tiny', None): 'ViT-T',
    (InLineDeiT, 'vit-small', None): 'ViT-S',
    (InLineDeiT, 'vit-base', None): 'ViT-B',
    (InLineDeiT, 'small', 'softmax'): 'DeiT-S',
}


@pytest.mark.parametrize(('cls', 'arch', 'attention'), NAMES)
def test_zoo(cls, arch, attention):
    model = recognise(shapes(cls, arch, attention=attention))
    assert model.name == NAMES[cls, arch, attention]
    assert model.cls is cls
    assert model.settings['arch'] == arch
    assert set(model.settings) <= {'arch', 'attention'}


@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin])
@pytest.mark.parametrize('attention', ['inline', 'softmax', MIXED, 'inline softmax inline inline'])
def test_custom_arch_is_rebuilt(cls, attention, build_narrow):
    if ' ' in attention:
        attention = tuple(attention.split())
    model = build_narrow(cls, attention=attention)
    found = recognise(model.state_dict())
    rebuilt = found.build_empty()
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert found.settings['arch']['depths'] == (1, 2, 2, 1)
    assert 'depths=(1, 2, 2, 1)' in found.name
    assert found.name.startswith('InLine-') == (attention != 'softmax')
    heads = found.settings['arch']['num_heads']
    if attention == 'softmax' and cls is InLinePVT:
        assert heads == (None,) * 4  # nothing in the weights tells
    elif attention == 'inline' or cls is InLineSwin:
        assert heads == (1, 2, 4, 4)


@pytest.mark.parametrize(
    ('cls', 'settings'),
    [
        (InLineSwin, dict(arch='base', window_size=12)),
        (InLineSwin, dict(arch='tiny', attention='inline')),
        (InLineSwin, dict(arch='tiny', in_channels=4)),
        (InLinePVT, dict(arch='small', pretrain_img_size=384)),
        (InLinePVT, dict(arch='tiny', attention='softmax', sr_ratios=(4, 2, 2, 1))),
        (InLinePVT, dict(arch='tiny', attention=MIXED)),
        (L2ViT, dict(arch='small', attention='inline')),
        (InLineDeiT, dict(arch='tiny', in_channels=1, pretrain_img_size=384)),
        (InLineDeiT, dict(arch='base', pretrain_img_size=224)),
        (InLineDeiT, dict(arch='base', cls_token=False)),
        (InLineDeiT, dict(arch='vit-base', pretrain_img_size=384)),
        (InLineDeiT, dict(arch='vit-base', attention='inline')),
        (InLineDeiT, dict(arch='tiny', attention=(('inline',) * 6 + ('softmax',) * 6,))),
        (InLineDeiT, dict(arch='tiny', attention='agent', cls_token=False)),
        (InLineCSwin, dict(arch='cswin-base', attention=('inline', 'softmax', 'agent', 'softmax'))),
        (InLineCSwin, dict(arch='small', attention='inline', in_channels=1)),
        (L2ViT, dict(arch='tiny', attention=('softmax', 'l2vit', 'l2vit', 'l2vit'), in_channels=1)),
        (
            L2ViT,
            dict(
                arch='tiny',
                attention=('l2vit', dict(type='softmax', position_bias=True), 'l2vit', 'l2vit'),
                window_size=12,
            ),
        ),
    ],
)
def test_settings_that_are_not_the_archs_own(cls, settings):
    model = recognise(shapes(cls, **settings))
    assert model.settings == settings
    for key in settings.keys() - {'arch'}:
        assert key in model.name or settings[key] == 'softmax'


@pytest.mark.parametrize('drop', ['fc1', 'pos_embed1', 'patch_embed', 'block'])
def test_unknown_models(drop):
    weights = {k: v for k, v in shapes(InLinePVT, 'tiny').items() if drop not in k}
    with pytest.raises(CheckpointError, match='no weights of a model known here'):
        recognise(weights)


def test_heads_of_plain_vit_are_those_of_its_name(build_narrow):
    """Of two archs with the same shapes, the one whose own attention it is; and this is said."""
    found = recognise(shapes(InLineDeiT, 'tiny', attention='softmax'))
    assert found.settings == dict(arch='vit-tiny')
    assert 'arch vit-tiny; weights of tiny look the same' in found.assumed
    assert recognise(shapes(InLineDeiT, 'tiny')).settings == dict(arch='tiny')
    narrow = recognise(build_narrow(InLineDeiT, attention='softmax').state_dict())
    assert narrow.settings['arch']['num_heads'] == (None,)
    assert 'num_heads, which are to be filled in' in narrow.assumed
    inline = recognise(build_narrow(InLineDeiT).state_dict())
    assert inline.settings['arch']['num_heads'] == (4,)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'patch_embed.proj.weight': (192, 3, 32, 32)}, 'patches are of 32x32 pixels, those here'),
        ({'dist_token': (1, 1, 192)}, 'it has a distillation token, which no model'),
        ({'pos_embed': (1, 199, 192)}, 'position embeddings are of a map that is not square'),
        ({'pos_embed': (1, 196, 192)}, 'not square, or have none for the class token'),
    ],
)
def test_other_plain_networks(change, message):
    weights = shapes(InLineDeiT, 'vit-tiny')
    weights |= {name: torch.empty(shape, device='meta') for name, shape in change.items()}
    with pytest.raises(CheckpointError, match=message):
        recognise(weights)


def test_windows_of_l2vit_have_the_names_of_any_attention(build_narrow):
    """Beside its linear attention they are told, and else asked for."""
    model = build_narrow(L2ViT, depths=(2, 2, 2, 2))
    found = recognise(model.state_dict())
    assert 'attention' not in found.settings
    assert found.settings['arch']['num_heads'] == (1, 2, 4, 4)
    assert any(line.startswith('window with window_size=7') for line in found.assumed)
    twin = build_narrow(L2ViT, attention='softmax').state_dict()
    with pytest.raises(CheckpointError, match='do not tell which attention'):
        recognise(twin)
    assert recognise(twin, 'softmax').settings['attention'] == 'softmax'


def test_stripes_leave_no_trace(build_narrow):
    """Which widths are taken is said; beside softmax, one branch is no attention for sure."""
    found = recognise(shapes(InLineCSwin, 'base-384'))
    assert found.settings == dict(arch='base')
    assert 'arch base; weights of base-384 look the same' in found.assumed
    assert 'stripes=(1, 2, 7, None)' in found.assumed
    plain = dict(type='inline', local_residual=False)
    weights = build_narrow(InLineCSwin, attention=('inline', plain, 'softmax', 'softmax'))
    with pytest.raises(CheckpointError, match=r'below stage2\.0\.attns\. do not tell which'):
        recognise(weights.state_dict())


AGENT_7 = dict(type='agent', window_size=7)


@pytest.mark.parametrize(
    ('attention', 'size', 'tables'),
    [
        (
            (AGENT_7, 'agent', 'softmax', 'softmax'),
            384,
            'stage 1 .* 7x7 tokens, of stage 2 .* 48x48',
        ),
        ((AGENT_7, 'agent', 'softmax', 'softmax'), 64, 'stage 1 .* 7x7 tokens, of stage 2 .* 8x8'),
        (('agent', 'agent', 'agent', AGENT_7), 384, 'stage 1 .* 96x96 tokens, .* of stage 4'),
        ((AGENT_7, 'agent', 'softmax', 'softmax'), (224, 448), '7x7 tokens, of stage 2 .* 28x56'),
        (
            (dict(type='focused', window_size=5), 'softmax', ('agent', 'softmax'), 'softmax'),
            384,
            '5x5 tokens, of stage 3 .* 24x24',
        ),
    ],
)
@pytest.mark.parametrize('cls', [InLineSwin, L2ViT])
def test_maps_and_windows_are_told_apart_or_asked_for(cls, attention, size, tables, build_narrow):
    """Tables that are not of one size are never taken for windows of unlikely sizes."""
    settings = dict(attention=attention, depths=(2, 2, 2, 2), pretrain_img_size=size)
    weights = build_narrow(cls, **settings).state_dict()
    with pytest.raises(CheckpointError, match=rf'tables of .*{tables}.*--attention'):
        recognise(weights)
    found = recognise(weights, attention)
    assert found.settings['pretrain_img_size'] == size
    assert same_shapes(found, weights)


def same_shapes(found: object, weights: dict[str, Tensor]) -> bool:
    rebuilt = found.build_empty().state_dict()
    return {k: v.shape for k, v in rebuilt.items()} == {k: v.shape for k, v in weights.items()}


@pytest.mark.parametrize(
    ('attention', 'size', 'told'),
    [
        ((AGENT_7, 'agent', 'softmax', 'softmax'), 224, ['pretrain_img_size=224', '7x7']),
        (AGENT_7, 384, ['pretrain_img_size=224', '7x7']),
        (('agent', 'softmax', 'softmax', AGENT_7), 64, ['pretrain_img_size=224', '16x16']),
        ('agent', 224, []),
        ('agent', 250, []),  # of which 248, 240 and 224 pixels are seen
        (('agent', 'softmax', 'softmax', 'softmax'), (224, 448), []),
    ],
)
def test_what_tables_are_taken_for_is_said(attention, size, told, build_narrow):
    settings = dict(attention=attention, depths=(2, 2, 2, 2), pretrain_img_size=size)
    weights = build_narrow(InLineSwin, **settings).state_dict()
    found = recognise(weights)
    assert same_shapes(found, weights)
    told = told[:1] + [f'windows where tables are of {text} tokens' for text in told[1:]]
    assert [line for line in found.assumed if ' with ' not in line] == told
    assert ('window_size' in str(found.settings['attention'])) == bool(told)


@pytest.mark.parametrize(
    ('attention', 'window'),
    [
        (('inline', 'inline', dict(type='softmax', window_size=5), 'softmax'), 7),
        (('softmax', 'inline', dict(type='window', window_size=7), 'softmax'), 5),
        (('inline', ('softmax', dict(type='softmax', window_size=5)), 'inline', 'inline'), 6),
        (dict(type='softmax', window_size=5), 7),
    ],
)
def test_the_networks_window_is_that_of_blocks_without_their_own(attention, window, build_narrow):
    settings = dict(attention=attention, window_size=window)
    weights = build_narrow(InLineSwin, **settings).state_dict()
    for given in (attention, None):
        assert same_shapes(recognise(weights, given), weights)
    found = recognise(weights, attention)
    assert found.settings.get('window_size', 7) == window
    assert found.settings['attention'] == attention


@pytest.mark.parametrize(
    ('cls', 'attention', 'told'),
    [
        (InLineSwin, 'hydra', ['pretrain_img_size=224']),
        (InLineSwin, ('inline', 'hydra', 'softmax', 'softmax'), ['pretrain_img_size=224']),
        (InLineSwin, dict(type='hydra', reference_tokens=9), []),
        (InLineSwin, dict(type='hydra', window_size=7), []),
        (InLineSwin, 'efficient', []),
        (InLineSwin, ('agent', 'agent', 'hydra', 'hydra'), []),  # tables tell
        (InLinePVT, 'hydra', []),  # position embeddings tell
        (L2ViT, 'hydra', ['pretrain_img_size=224']),
        (
            L2ViT,
            ('hydra', 'softmax', 'softmax', 'softmax'),
            ['pretrain_img_size=224', 'window_size=7'],
        ),
        (L2ViT, dict(type='softmax', window_size=9), []),
        (InLineCSwin, 'hydra', ['pretrain_img_size=224']),
    ],
    ids=str,
)
def test_settings_that_a_given_attention_follows_are_said(cls, attention, told, build_narrow):
    weights = build_narrow(cls, attention=attention, pretrain_img_size=64).state_dict()
    assumed = recognise(weights, attention).assumed
    assert sorted(line for line in assumed if '_size=' in line and ' with ' not in line) == told


@pytest.mark.parametrize(
    ('attention', 'message'),
    [
        (('inline', 'softmax'), 'attention has 2 stages, depths'),
        ('hidra', "did you mean 'hydra'"),
        (dict(window_size=7), 'lacks its name'),
    ],
)
@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin, InLineCSwin, InLineDeiT, L2ViT])
def test_an_attention_that_fits_no_network(cls, attention, message, build_narrow):
    with pytest.raises(CheckpointError, match=message):
        recognise(build_narrow(cls).state_dict(), attention)


@pytest.mark.parametrize('ratio', [4.3, 2.7, 3.999, 1 / 3, 4])
@pytest.mark.parametrize(('cls', 'dim'), [(InLineDeiT, 112), (InLineSwin, 12), (InLinePVT, 100)])
def test_every_width_of_mlps_is_read(cls, dim, ratio):
    stages = 1 if cls is InLineDeiT else 4
    arch = dict(depths=(1,) * stages, num_heads=(4,) * stages)
    arch |= dict(embed_dims=dim, mlp_ratios=ratio)
    if cls is InLinePVT:
        arch |= dict(embed_dims=(dim,) * 4, mlp_ratios=(ratio,) * 4)
    weights = shapes(cls, arch)
    assert same_shapes(recognise(weights), weights)


@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin, InLineDeiT, L2ViT])
def test_position_tables_of_maps_that_are_not_square(cls, build_narrow):
    settings = dict(attention='focused', pretrain_img_size=(224, 448))
    if cls is InLineDeiT:
        settings['cls_token'] = False
    weights = build_narrow(cls, **settings).state_dict()
    for given in (None, 'focused'):
        with pytest.raises(CheckpointError, match='of a map that is not square'):
            recognise(weights, given)


def test_only_attentions_with_a_class_token_are_offered_beside_one():
    for name in ('vit-tiny', 'base'):
        assumed = recognise(shapes(InLineDeiT, name)).assumed
        offered = [line.partition(' with ')[0].split(' or ')[1:] for line in assumed]
        for other in chain(*offered):
            shapes(InLineDeiT, name, attention=other)
        assert ('inline' in chain(*offered)) == (name == 'vit-tiny')
