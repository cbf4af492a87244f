import importlib

import pytest
import torch
import torch.nn.functional as F

from mmlab_inline.ops import softmax_attention

module = importlib.import_module('mmlab_inline.ops.softmax_attention')


@pytest.mark.parametrize('bias_shape', [None, (1, 7, 4, 5), (2, 1, 4, 5), (1, 1, 1, 5)])
def test_more_heads_than_a_kernel_takes(bias_shape, monkeypatch):
    q, k, v = torch.randn(2, 7, 4, 3), torch.randn(2, 7, 5, 3), torch.randn(2, 7, 5, 3)
    bias = None if bias_shape is None else torch.randn(bias_shape)
    expected = softmax_attention(q, k, v, bias)
    heads = []

    def attend(*args: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
        heads.append(args[0].shape[1])
        return whole(*args, attn_mask=attn_mask)

    whole = F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', attend)
    monkeypatch.setattr(module, '_MOST_HEADS', 3)
    torch.testing.assert_close(softmax_attention(q, k, v, bias), expected)
    assert heads == [3, 3, 1]
