import math

import pytest
import torch
from torch import Tensor

from mmlab_inline.mixers import Site, build_token_mixer
from mmlab_inline.mixers.rmt import RMTAttention


def naive(attention: RMTAttention, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """All pairs by complex rotations and loops over heads; the decomposed form as two matrices."""
    height, width = hw_shape
    q, k, v = (layer(x) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    places = torch.arange(height * width)
    rows, columns = places // width, places % width
    far = [(place[:, None] - place).abs().double() for place in (rows, columns)]
    head_dim = attention.dim // attention.num_heads
    frequency = [10000 ** -(pair / max(head_dim // 2 - 1, 1)) for pair in range(head_dim // 2)]
    angle = places[:, None].double() * torch.tensor(frequency, dtype=torch.float64)
    turn = torch.polar(torch.ones_like(angle), angle)
    out = torch.zeros_like(x)
    for head in range(attention.num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        power = attention.decay_start + attention.decay_span * head / attention.num_heads
        fall = math.log(1 - 2**-power)
        turned = (
            turn * torch.view_as_complex(t[..., part].unflatten(-1, (-1, 2)).contiguous())
            for t in (q, k)
        )
        first, second = turned
        scores = (first @ second.conj().mT).real * head_dim**-0.5
        if attention.decomposed:
            along_row = (scores + far[1] * fall).masked_fill(far[0] > 0, -math.inf).softmax(-1)
            along_column = (scores + far[0] * fall).masked_fill(far[1] > 0, -math.inf).softmax(-1)
            weights = along_column @ along_row
        else:
            weights = (scores + (far[0] + far[1]) * fall).softmax(-1)
        out[..., part] = weights @ v[..., part]
    image = v.mT.unflatten(2, hw_shape)
    return attention.out_proj(out + attention.lepe.conv(image).flatten(2).mT)


@pytest.mark.parametrize('hw_shape', [(7, 5), (3, 11), (1, 6), (4, 1), (1, 1)])
@pytest.mark.parametrize('decomposed', [True, False])
@pytest.mark.parametrize('num_heads', [1, 3])
def test_equals_definition(hw_shape, decomposed, num_heads, randomised, assert_near):
    attention = randomised(RMTAttention(12, num_heads, decomposed, 1.5, 6)).double()
    x = torch.randn(2, math.prod(hw_shape), 12).double()
    with torch.no_grad():
        assert_near(attention(x, hw_shape), naive(attention, x, hw_shape), 1e-12)


@pytest.mark.parametrize('hw_shape', [(1, 13), (13, 1)])
def test_on_a_line_both_forms_are_one(hw_shape, randomised, assert_near):
    attention = randomised(RMTAttention(16, 2)).double()
    full = RMTAttention(16, 2, decomposed=False).double()
    full.load_state_dict(attention.state_dict())
    x = torch.randn(2, 13, 16).double()
    assert_near(attention(x, hw_shape), full(x, hw_shape), 1e-12)


def test_form_by_stage():
    chosen = [build_token_mixer('rmt', Site(16, 2, stage=stage)) for stage in range(4)]
    assert [(mixer.decomposed, mixer.decay_span) for mixer in chosen] == [
        (True, 4),
        (True, 4),
        (True, 6),
        (False, 6),
    ]
