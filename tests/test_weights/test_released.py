"""Checkpoints as the authors of FLatten and Agent Transformer release them, by name and shape."""

import pytest
import torch
from torch import Tensor

from mmlab_inline import InLinePVT, InLineSwin
from mmlab_inline.weights.conversion import convert
from mmlab_inline.weights.released import RELEASED_WEIGHTS, model_of

FLATTEN_SWIN = ('focused', 'focused', 'softmax', 'softmax')
AGENT_SWIN_T = ('agent', 'agent', 'agent', 'softmax')
AGENT_SWIN_S = ('agent', 'agent', 'softmax', 'softmax')
AGENT_SWIN_B = ('agent', 'agent', ('agent',) * 2 + ('softmax',) * 16, 'softmax')
LARGE = dict(pretrain_img_size=384, window_size=12)
# Class, settings, million parameters of the classifier.
NETWORKS = {
    'FLatten-PVT-T': (InLinePVT, dict(arch='tiny', attention='focused'), 12.151),
    'FLatten-PVT-S': (InLinePVT, dict(arch='small', attention='focused'), 21.670),
    'FLatten-PVT-M': (InLinePVT, dict(arch='medium', attention='focused'), 37.242),
    'FLatten-PVT-L': (InLinePVT, dict(arch='large', attention='focused'), 50.649),
    'FLatten-Swin-T': (InLineSwin, dict(arch='tiny', attention=FLATTEN_SWIN), 29.192),
    'FLatten-Swin-S': (InLineSwin, dict(arch='small', attention=FLATTEN_SWIN), 50.510),
    'FLatten-Swin-B': (InLineSwin, dict(arch='base', attention=FLATTEN_SWIN), 88.972),
    'FLatten-Swin-B 384': (InLineSwin, dict(arch='base', attention=FLATTEN_SWIN, **LARGE), 91.434),
    'Agent-PVT-T': (InLinePVT, dict(arch='tiny', attention='agent'), 11.570),
    'Agent-PVT-S': (InLinePVT, dict(arch='small', attention='agent'), 20.635),
    'Agent-PVT-M': (InLinePVT, dict(arch='medium', attention='agent'), 35.922),
    'Agent-PVT-L': (InLinePVT, dict(arch='large', attention='agent'), 48.738),
    'Agent-PVT-M 256': (
        InLinePVT,
        dict(arch='medium', attention='agent', pretrain_img_size=256),
        36.084,
    ),
    'Agent-Swin-T': (
        InLineSwin,
        dict(arch='tiny', attention=('agent',) * 3 + ('softmax',)),
        28.903,
    ),
    'Agent-Swin-S': (InLineSwin, dict(arch='small', attention=AGENT_SWIN_S), 49.667),
    'Agent-Swin-S 288': (
        InLineSwin,
        dict(arch='small', attention=AGENT_SWIN_S, pretrain_img_size=288, window_size=9),
        49.708,
    ),
    'Agent-Swin-B': (InLineSwin, dict(arch='base', attention=AGENT_SWIN_B), 88.095),
    'Agent-Swin-B 384': (InLineSwin, dict(arch='base', attention=AGENT_SWIN_B, **LARGE), 88.305),
}
# Of one attention in each kind of network.
SHAPES = {
    ('FLatten-PVT-T', 'block1.0.attn.'): {
        'scale': (1, 1, 64),
        'positional_encoding': (1, 3136, 64),
        'q.weight': (64, 64),
        'q.bias': (64,),
        'kv.weight': (128, 64),
        'kv.bias': (128,),
        'proj.weight': (64, 64),
        'proj.bias': (64,),
        'dwc.weight': (64, 1, 5, 5),
        'dwc.bias': (64,),
    },
    ('FLatten-PVT-T', 'block3.1.attn.'): {
        'scale': (1, 1, 320),
        'positional_encoding': (1, 196, 320),
        'q.weight': (320, 320),
        'q.bias': (320,),
        'kv.weight': (640, 320),
        'kv.bias': (640,),
        'proj.weight': (320, 320),
        'proj.bias': (320,),
        'dwc.weight': (64, 1, 5, 5),
        'dwc.bias': (64,),
    },
    ('FLatten-Swin-T', 'layers.0.blocks.0.attn.'): {
        'scale': (1, 1, 96),
        'positional_encoding': (1, 3136, 96),
        'qkv.weight': (288, 96),
        'qkv.bias': (288,),
        'proj.weight': (96, 96),
        'proj.bias': (96,),
        'dwc.weight': (32, 1, 5, 5),
        'dwc.bias': (32,),
    },
    ('Agent-PVT-T', 'block1.0.attn.'): {
        'an_bias': (1, 9, 7, 7),
        'na_bias': (1, 9, 7, 7),
        'ah_bias': (1, 1, 9, 56, 1),
        'aw_bias': (1, 1, 9, 1, 56),
        'ha_bias': (1, 1, 56, 1, 9),
        'wa_bias': (1, 1, 1, 56, 9),
        'q.weight': (64, 64),
        'q.bias': (64,),
        'kv.weight': (128, 64),
        'kv.bias': (128,),
        'proj.weight': (64, 64),
        'proj.bias': (64,),
        'dwc.weight': (64, 1, 3, 3),
        'dwc.bias': (64,),
    },
    ('Agent-Swin-T', 'layers.2.blocks.1.attn.'): {
        'an_bias': (12, 49, 7, 7),
        'na_bias': (12, 49, 7, 7),
        'ah_bias': (1, 12, 49, 14, 1),
        'aw_bias': (1, 12, 49, 1, 14),
        'ha_bias': (1, 12, 14, 1, 49),
        'wa_bias': (1, 12, 1, 14, 49),
        'qkv.weight': (1152, 384),
        'qkv.bias': (1152,),
        'proj.weight': (384, 384),
        'proj.bias': (384,),
        'dwc.weight': (384, 1, 3, 3),
        'dwc.bias': (384,),
    },
}


def classifier(name: str) -> dict[str, Tensor]:
    """Names and shapes of a released classifier, buffers of Swin's softmax blocks included."""
    cls, settings, _ = NETWORKS[name]
    with torch.device('meta'):
        model = cls(**settings)
        weights = {k: v for k, v in model.state_dict().items() if not k.startswith('norm')}
        dim = model.out_channels[-1]
        weights |= {'head.weight': torch.empty(1000, dim), 'head.bias': torch.empty(1000)}
        if not name.startswith('Agent-PVT'):  # FLatten-PVT's is not used
            weights |= {'norm.weight': torch.empty(dim), 'norm.bias': torch.empty(dim)}
    return weights


@pytest.mark.parametrize('name', NETWORKS)
def test_classifier_is_recognised_and_fits(name, no_random_init):
    cls, settings, millions = NETWORKS[name]
    weights = classifier(name)
    assert sum(value.numel() for value in weights.values()) / 1e6 == pytest.approx(
        millions, abs=6e-4
    )
    buffers = {}
    for key in list(weights):
        if key.endswith('relative_position_bias_table'):
            block = key.rpartition('.attn.')[0]
            buffers[f'{block}.attn.relative_position_index'] = torch.empty(49, 49, device='meta')
            buffers[f'{block}.attn_mask'] = torch.empty(4, 49, 49, device='meta')
    conversion = convert({'model': {**weights, **buffers}, 'epoch': 299})
    assert conversion.model.cls is cls
    assert conversion.model.settings == settings
    norms = {f'norm{i}.{part}' for i in range(4) for part in ('weight', 'bias')}
    assert set(conversion.missing) == (norms if cls is InLineSwin else set())
    head = {key for key in weights if key.startswith(('head.', 'norm.'))}
    assert set(conversion.left_over) == {*head, *buffers, 'epoch'}
    assert conversion.weights.keys() == weights.keys() - head


@pytest.mark.parametrize(('name', 'place'), SHAPES)
def test_names_and_shapes_of_attentions(name, place, no_random_init):
    found = {
        key.removeprefix(place): tuple(value.shape)
        for key, value in classifier(name).items()
        if key.startswith(place)
    }
    assert found == SHAPES[name, place]


def test_downloads_are_of_these_networks():
    """The 224-pixel ones that configs start from."""
    known = [(cls.__name__, settings) for cls, settings, _ in NETWORKS.values()]
    for name in RELEASED_WEIGHTS:
        if name.startswith(('flatten', 'agent')):
            assert model_of(name) in known, name
    assert model_of('inline_swin_tiny') == ('InLineSwin', dict(arch='tiny'))
    assert model_of('pvt_large') == ('InLinePVT', dict(arch='large', attention='softmax'))
