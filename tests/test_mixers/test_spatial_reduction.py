import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab_inline.mixers import SpatialReductionAttention


def naive(attention: SpatialReductionAttention, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    (height, width), ratio = hw_shape, attention.sr_ratio
    batch, _, channels = x.shape
    reduced = x
    if ratio > 1:
        # What does not divide is left out, unless nothing would remain.
        cells = []
        image = torch.zeros(batch, max(height, ratio), max(width, ratio), channels, dtype=x.dtype)
        image[:, :height, :width] = x.view(batch, height, width, channels)
        for row in range(max(height // ratio, 1)):
            for col in range(max(width // ratio, 1)):
                rows = slice(row * ratio, (row + 1) * ratio)
                cols = slice(col * ratio, (col + 1) * ratio)
                cell = torch.einsum('bijc,dcij->bd', image[:, rows, cols], attention.sr.weight)
                cells.append(cell + attention.sr.bias)
        norm = attention.norm
        reduced = torch.stack(cells, dim=1)
        reduced = F.layer_norm(reduced, (channels,), norm.weight, norm.bias, 1e-5)
    q, (k, v) = attention.q(x), attention.kv(reduced).chunk(2, dim=-1)
    out = torch.zeros_like(x)
    head_dim = channels // attention.num_heads
    for head in range(attention.num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        scores = q[..., part] @ k[..., part].transpose(1, 2) * head_dim**-0.5
        out[..., part] = scores.softmax(-1) @ v[..., part]
    return attention.proj(out)


@pytest.mark.parametrize('hw_shape', [(8, 8), (9, 14), (7, 5), (3, 2), (2, 9), (1, 1)])
@pytest.mark.parametrize('sr_ratio', [1, 2, 4])
def test_equals_definition(hw_shape, sr_ratio, randomised, assert_near):
    attention = randomised(SpatialReductionAttention(6, 2, sr_ratio)).double()
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 6).double()
    assert_near(attention(x, hw_shape), naive(attention, x, hw_shape), 1e-12)


@pytest.mark.parametrize('sr_ratio', [1, 4])
def test_state_dict(sr_ratio):
    state_dict = SpatialReductionAttention(12, 3, sr_ratio).state_dict()
    reduction = {
        'sr.weight': (12, 12, 4, 4),
        'sr.bias': (12,),
        'norm.weight': (12,),
        'norm.bias': (12,),
    }
    assert {name: tuple(value.shape) for name, value in state_dict.items()} == {
        'q.weight': (12, 12),
        'q.bias': (12,),
        'kv.weight': (24, 12),
        'kv.bias': (24,),
        'proj.weight': (12, 12),
        'proj.bias': (12,),
        **(reduction if sr_ratio > 1 else {}),
    }


def test_indivisible_heads():
    with pytest.raises(ValueError, match='num_heads=3 does not divide dim=8'):
        SpatialReductionAttention(8, 3)


@pytest.mark.parametrize('name', ['num_heads', 'sr_ratio'])
def test_numbers_that_cannot_be_meant(name):
    with pytest.raises(ValueError, match=f'{name}=0 must be a positive'):
        SpatialReductionAttention(**{'dim': 8, 'num_heads': 2, name: 0})
