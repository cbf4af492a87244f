import pytest
import torch

from mmlab_inline.ops import (
    POSITIVE_KERNELS,
    kernel_attention,
    normalised_attention,
    normalised_weights,
)


@pytest.mark.parametrize('num_tokens', [1, 5, 63])
@pytest.mark.parametrize('kernel', POSITIVE_KERNELS)
def test_linear_form_is_the_definition(kernel, num_tokens, assert_near):
    """The N x N weights written out, times the values; more queries than keys, wider values."""
    q = torch.randn(2, 3, num_tokens + 2, 4, dtype=torch.float64)
    k, v = (torch.randn(2, 3, num_tokens, n, dtype=torch.float64) for n in (4, 6))
    phi = POSITIVE_KERNELS[kernel]
    weights = normalised_weights(phi(q), phi(k))
    assert (weights >= 0).all()
    assert_near(normalised_attention(phi(q), phi(k), v), weights @ v, 1e-12)
    # The shift that keeps 'exp' from overflowing changes no more than the epsilon.
    assert_near(kernel_attention(q, k, v, kernel), weights @ v, 1e-5)


@pytest.mark.parametrize('offset', [100, 300, 3000])
def test_exp_of_channels_far_apart(offset, assert_near):
    """The largest channel of the queries is not that of the keys."""
    q, k, v = torch.randn(3, 1, 2, 63, 8, dtype=torch.float64)
    q[..., 0] += offset
    k[..., 5] += offset
    weights = (0.2 * (q[..., None, :] + k[..., None, :, :])).logsumexp(-1).softmax(-1)
    assert_near(kernel_attention(q, k, v, 'exp'), weights @ v, 1e-9)
