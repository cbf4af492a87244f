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
