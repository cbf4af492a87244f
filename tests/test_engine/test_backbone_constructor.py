"""Decay as declared, and rates that fall from block to block: groups against a count by hand."""

import pytest
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmlab_inline import InLineCSwin, InLineDeiT, InLinePVT, InLineSwin, L2ViT, backbones


class Model(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 3)

    def forward(self):
        pass


def rates(model, constructor='BackboneConstructor', **paramwise):
    """Learning rate of every parameter over the base rate, by name."""
    wrapper = build_optim_wrapper(
        model,
        ConfigDict(
            optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5),
            constructor=f'mmlab_inline.{constructor}',
            paramwise_cfg=paramwise,
        ),
    )
    groups = {
        id(parameter): group
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    return {
        name: (groups[id(parameter)]['lr'] / 0.1, groups[id(parameter)]['weight_decay'])
        for name, parameter in model.named_parameters()
        if id(parameter) in groups
    }


# Depths (1, 2, 2, 1): six blocks. The power of the decay by the beginning of the name.
PVT = {
    'patch_embed1': 7,
    'pos_embed1': 7,
    'block1.0': 6,
    'patch_embed2': 5,
    'pos_embed2': 5,
    'block2.0': 5,
    'block2.1': 4,
    'patch_embed3': 3,
    'pos_embed3': 3,
    'block3.0': 3,
    'block3.1': 2,
    'patch_embed4': 1,
    'pos_embed4': 1,
    'block4.0': 1,
}
SWIN = {
    'patch_embed': 7,
    'layers.0.blocks.0': 6,
    'layers.0.downsample': 5,
    'layers.1.blocks.0': 5,
    'layers.1.blocks.1': 4,
    'layers.1.downsample': 3,
    'layers.2.blocks.0': 3,
    'layers.2.blocks.1': 2,
    'layers.2.downsample': 1,
    'layers.3.blocks.0': 1,
    'norm': 0,
}
L2VIT = {
    'downsample_layers.0': 7,
    'stages.0.0': 6,
    'downsample_layers.1': 5,
    'stages.1.0': 5,
    'stages.1.1': 4,
    'downsample_layers.2': 3,
    'stages.2.0': 3,
    'stages.2.1': 2,
    'downsample_layers.3': 1,
    'stages.3.0': 1,
    'norm': 0,
}
CSWIN = {
    'stage1_conv_embed': 7,
    'stage1.0': 6,
    'merge1': 5,
    'stage2.0': 5,
    'stage2.1': 4,
    'merge2': 3,
    'stage3.0': 3,
    'stage3.1': 2,
    'merge3': 1,
    'stage4.0': 1,
    'norm': 0,
}
DEIT = {
    'patch_embed': 7,
    'pos_embed': 7,
    'cls_token': 7,
    **{f'blocks.{index}': 6 - index for index in range(6)},
    'norm': 0,
    'fpn': 0,
}


@pytest.mark.parametrize('constructor', ['BackboneConstructor', 'LayerDecayConstructor'])
@pytest.mark.parametrize(
    ('cls', 'powers'),
    [
        (InLinePVT, PVT),
        (InLineSwin, SWIN),
        (InLineCSwin, CSWIN),
        (L2ViT, L2VIT),
        (InLineDeiT, DEIT),
    ],
)
def test_rates(build_narrow, cls, powers, constructor):
    model = Model(build_narrow(cls))
    found = rates(model, constructor, layer_decay=0.5)
    assert found.keys() == dict(model.named_parameters()).keys()
    seen = set()
    for name, (rate, decay) in found.items():
        begins = [key for key in powers if name.startswith(f'backbone.{key}')]
        seen |= set(begins)
        (power,) = {powers[key] for key in begins} or {0}
        assert rate == pytest.approx(0.5**power), name
        assert decay == 0.5
    assert seen == set(powers)
    assert found['head.weight'][0] == pytest.approx(1)


def test_other_rules_and_frozen_stages_hold(build_narrow):
    model = Model(build_narrow(InLineSwin, frozen_stages=1))
    found = rates(model, layer_decay=0.5, custom_keys={'attn.qkv': dict(lr_mult=0.1, decay_mult=0)})
    assert not any(name.startswith('backbone.layers.0') for name in found)
    rate, decay = found['backbone.layers.3.blocks.0.attn.qkv.weight']
    assert (rate, decay) == (pytest.approx(0.05), 0)


@pytest.mark.parametrize('decay', [0, 1.5, None, '0.5'])
def test_impossible_decay(build_narrow, decay):
    with pytest.raises(ValueError, match=r'layer_decay=.* must lie in \(0, 1\]'):
        rates(Model(build_narrow(InLinePVT)), layer_decay=decay)


@pytest.mark.parametrize('setting', [dict(layer_decay=0.5), dict(declared_no_decay=True)])
def test_other_backbones_are_refused(setting):
    with pytest.raises(ValueError, match=f'{next(iter(setting))} needs .* not Identity'):
        rates(Model(nn.Identity()), **setting)
    rates(Model(nn.Identity()), custom_keys=dict(head=dict(lr_mult=0.1)))


DECLARED = {
    'inline': (),
    'softmax': ('relative_position_bias_table',),
    'focused': ('scale', 'positional_encoding'),
    'agent': tuple(f'{name}_bias' for name in ('an', 'na', 'ah', 'aw', 'ha', 'wa')),
}


@pytest.mark.parametrize('attention', DECLARED)
@pytest.mark.parametrize('cls', [getattr(backbones, name) for name in backbones.__all__])
def test_decay_is_what_attentions_declare(build_narrow, cls, attention):
    model = Model(build_narrow(cls, attention=attention))
    norms = dict(custom_keys=dict(norm=dict(decay_mult=0, lr_mult=0.1)))
    plain = rates(model, **norms)
    assert rates(model, declared_no_decay=False, **norms) == plain
    found = rates(model, declared_no_decay=True, **norms)
    exempt = {
        name
        for name in plain
        if name.endswith(tuple(f'.attn.{part}' for part in DECLARED[attention]))
        or name.startswith(('backbone.pos_embed', 'backbone.cls_token'))
    }
    assert found == {
        name: (rate, 0 if name in exempt else decay) for name, (rate, decay) in plain.items()
    }
    # L2ViT's and CSwin's own softmax attention has no table of positions.
    none = ('inline', 'softmax')
    without = {InLineSwin: ('inline',), L2ViT: none, InLineCSwin: none}.get(cls, ())
    assert bool(exempt) == (attention not in without)
    both = rates(model, declared_no_decay=True, layer_decay=1)
    assert {name for name, (_, decay) in both.items() if decay == 0} == exempt
