"""Checkpoints of PVT, Swin and CSwin as others store them, under the names used here.

Pure functions on state dicts. The published classification checkpoints of Swin and InLine have
these names already; PVT's differ by a class token; mmdet has its own names and layouts for both.
CSwin's detectors and segmentors count output norms from 1.
"""

import re
from collections.abc import Mapping

from torch import Tensor

_MMDET_SWIN = {
    r'^patch_embed\.projection\.': 'patch_embed.proj.',
    r'^stages\.': 'layers.',
    r'\.attn\.w_msa\.': '.attn.',
    r'\.ffn\.layers\.0\.0\.': '.mlp.fc1.',
    r'\.ffn\.layers\.1\.': '.mlp.fc2.',
}
_MMDET_PVT = re.compile(
    r'layers\.(?P<stage>\d+)\.(0\.(?P<patch>.+)|1\.0\.pos_embed|1\.(?P<block>\d+)\.(?P<part>.+))'
)
_MMDET_PVT_PARTS = {
    'attn.attn.out_proj.': 'attn.proj.',
    'ffn.layers.0.': 'mlp.fc1.',
    'ffn.layers.3.': 'mlp.fc2.',
}


def to_own_format(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names and in the layouts of the backbones here.

    The format is told by its keys: PVT's classification checkpoints, mmdet's (and mmseg's)
    SwinTransformer, mmdet's PyramidVisionTransformer and CSwin's own detectors and segmentors are
    converted; anything else comes back as it is. Keys that no rule knows are kept, so that the
    loader can name them.

    Args:
        state_dict: Weights of a backbone or classifier, without prefix. Not changed.
    """
    if 'cls_token' in state_dict and not is_plain_vit(state_dict):
        return _from_pvt_classifier(state_dict)
    if 'stages.0.blocks.0.attn.w_msa.qkv.weight' in state_dict:
        return _from_mmdet_swin(state_dict)
    if 'layers.0.1.0.pos_embed' in state_dict:
        return _from_mmdet_pvt(state_dict)
    return count_norms_from_0(state_dict)


def is_plain_vit(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of DeiT and timm's ViT, which keep their class token and norm."""
    return 'pos_embed' in state_dict and 'blocks.0.norm1.weight' in state_dict


def count_norms_from_0(state_dict: Mapping[str, Tensor], prefix: str = '') -> dict[str, Tensor]:
    """Output norms of CSwin's own detectors and segmentors under the names used here.

    Args:
        state_dict: Of anything; only what has CSwin's names and a fourth norm is changed.
        prefix: Of the backbone's names.
    """
    if not {f'{prefix}stage1_conv_embed.0.weight', f'{prefix}norm4.weight'} <= state_dict.keys():
        return dict(state_dict)
    norms = {f'{prefix}norm{number}': f'{prefix}norm{number - 1}' for number in (1, 2, 3, 4)}
    weights = {}
    for key, value in state_dict.items():
        module, _, part = key.rpartition('.')
        weights[f'{norms[module]}.{part}' if module in norms else key] = value
    return weights


def _from_pvt_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the class token, which joins the last stage as the first of its tokens."""
    weights = {key: value for key, value in state_dict.items() if key != 'cls_token'}
    if 'pos_embed4' in weights:
        weights['pos_embed4'] = weights['pos_embed4'][:, 1:]
    return weights


def _from_mmdet_swin(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {}
    for key, value in state_dict.items():
        for pattern, name in _MMDET_SWIN.items():
            key = re.sub(pattern, name, key)
        if '.downsample.' in key:
            # mmdet's nn.Unfold lists (channel, row, column), here it is (column, row, channel).
            value = value.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)
        weights[key] = value
    return weights


def _from_mmdet_pvt(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {}
    for key, value in state_dict.items():
        match = _MMDET_PVT.fullmatch(key)
        if match is None:
            weights[key] = value
            continue
        number = int(match['stage']) + 1
        if match['patch']:
            name = match['patch'].replace('projection.', 'proj.')
            weights[f'patch_embed{number}.{name}'] = value
        elif match['block'] is None:
            weights[f'pos_embed{number}'] = value
        else:
            # mmdet counts the position embedding as the first of a stage's layers.
            block = f'block{number}.{int(match["block"]) - 1}'
            part = match['part']
            if part.startswith('attn.attn.in_proj_'):
                kind = part.removeprefix('attn.attn.in_proj_')
                channels = value.shape[0] // 3
                weights[f'{block}.attn.q.{kind}'] = value[:channels]
                weights[f'{block}.attn.kv.{kind}'] = value[channels:]
                continue
            for old, new in _MMDET_PVT_PARTS.items():
                part = part.replace(old, new)
            if part.startswith('mlp.'):
                value = value.reshape(value.shape[:2])  # mmdet's are 1x1 convolutions
            weights[f'{block}.{part}'] = value
    return weights
