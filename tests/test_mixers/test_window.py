import pytest
import torch
from torch import Tensor

from mmlab_inline.mixers import WindowAttention


def naive(attention: WindowAttention, x: Tensor, hw_shape: tuple[int, int], shift: bool) -> Tensor:
    """Swin's attention as loops over queries; regions by whether a token was wrapped around."""
    (height, width), size, heads = hw_shape, attention.window_size, attention.num_heads
    rows, cols = -(-height // size), -(-width // size)
    step_row = size // 2 if shift and rows > 1 else 0
    step_col = size // 2 if shift and cols > 1 else 0
    batch, channels = len(x), x.shape[-1]
    padded = torch.zeros(batch, rows * size, cols * size, channels, dtype=x.dtype)
    padded[:, :height, :width] = x.view(batch, height, width, channels)
    # Padding tokens are zeros before the projection, not after.
    q, k, v = attention.qkv(padded).chunk(3, dim=-1)
    table = attention.relative_position_bias_table
    out = torch.zeros_like(padded)
    head_dim = channels // heads
    for i in range(rows * size):
        for j in range(cols * size):
            # Place of the query, of its window and of that window's keys in the rolled map.
            row, col = (i - step_row) % (rows * size), (j - step_col) % (cols * size)
            keys = []
            for u in range(row // size * size, row // size * size + size):
                for w in range(col // size * size, col // size * size + size):
                    key = ((u + step_row) % (rows * size), (w + step_col) % (cols * size))
                    wrapped = (u + step_row >= rows * size, w + step_col >= cols * size)
                    query_wrapped = (row + step_row >= rows * size, col + step_col >= cols * size)
                    if wrapped == query_wrapped:
                        index = (row - u + size - 1) * (2 * size - 1) + col - w + size - 1
                        keys.append((*key, index))
            key_rows, key_cols, indices = (list(part) for part in zip(*keys, strict=True))
            for head in range(heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                scores = torch.einsum(
                    'bc,bkc->bk', q[:, i, j, part], k[:, key_rows, key_cols, part]
                )
                scores = scores * head_dim**-0.5 + table[indices, head]
                values = v[:, key_rows, key_cols, part]
                out[:, i, j, part] = torch.einsum('bk,bkc->bc', scores.softmax(-1), values)
    return attention.proj(out[:, :height, :width].reshape(batch, -1, channels))


@pytest.mark.parametrize('shift', [False, True])
@pytest.mark.parametrize('hw_shape', [(8, 8), (9, 6), (5, 3), (4, 7), (4, 4), (1, 1)])
@pytest.mark.parametrize('window_size', [4, 3])
def test_equals_loops(hw_shape, window_size, shift, randomised, assert_near):
    attention = WindowAttention(6, 2, window_size=window_size, shift=shift)
    attention = randomised(attention).double()
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 6).double()
    with torch.no_grad():
        assert_near(attention(x, hw_shape), naive(attention, x, hw_shape, shift), 1e-12)


@pytest.mark.parametrize('shift', [False, True])
def test_without_position_bias_is_with_a_table_of_zeros(shift, randomised, assert_near):
    plain = randomised(WindowAttention(8, 2, 3, shift, position_bias=False)).double()
    biased = WindowAttention(8, 2, 3, shift).double()
    zeros = torch.zeros_like(biased.relative_position_bias_table)
    biased.load_state_dict({**plain.state_dict(), 'relative_position_bias_table': zeros})
    assert not plain.no_decay
    x = torch.randn(2, 56, 8, dtype=torch.float64)
    assert_near(plain(x, (8, 7)), biased(x, (8, 7)).detach(), 1e-12)


def test_state_dict():
    state_dict = WindowAttention(12, 3, window_size=7).state_dict()
    assert {name: tuple(value.shape) for name, value in state_dict.items()} == {
        'qkv.weight': (36, 12),
        'qkv.bias': (36,),
        'proj.weight': (12, 12),
        'proj.bias': (12,),
        'relative_position_bias_table': (169, 3),
    }


def test_indivisible_heads():
    with pytest.raises(ValueError, match='num_heads=3 does not divide dim=8'):
        WindowAttention(8, 3)


def test_training_after_inference_mode(randomised):
    attention = randomised(WindowAttention(6, 2, window_size=3, shift=True))
    x = torch.randn(1, 7 * 11, 6)
    with torch.inference_mode():
        attention(x, (7, 11))
    attention(x, (7, 11)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_half_precision(dtype, randomised, assert_near):
    attention = randomised(WindowAttention(16, 2, window_size=4, shift=True))
    x = torch.randn(2, 9 * 14, 16)
    with torch.autocast('cpu', dtype):
        out = attention(x, (9, 14))
    assert_near(out, attention(x, (9, 14)), 10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize('name', ['num_heads', 'window_size'])
def test_numbers_that_cannot_be_meant(name):
    with pytest.raises(ValueError, match=f'{name}=0 must be a positive'):
        WindowAttention(**{'dim': 8, 'num_heads': 2, name: 0})
