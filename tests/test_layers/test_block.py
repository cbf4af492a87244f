import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab_inline.layers import Block


class Half(nn.Module):
    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        assert hw_shape == (2, 3)
        return x / 2


def test_formula(randomised, assert_near):
    block = randomised(Block(4, Half(), mlp_ratio=3, drop_path=0.0, norm_eps=1e-3)).double()
    x = torch.randn(2, 6, 4).double()
    y = x + F.layer_norm(x, (4,), block.norm1.weight, block.norm1.bias, 1e-3) / 2
    z = F.layer_norm(y, (4,), block.norm2.weight, block.norm2.bias, 1e-3)
    hidden = F.gelu(F.linear(z, block.mlp.fc1.weight, block.mlp.fc1.bias))
    assert hidden.shape[-1] == 12
    expected = y + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
    assert_near(block(x, (2, 3)), expected, 1e-12)


def test_drop_path_in_training_only(randomised):
    block = randomised(Block(4, Half(), mlp_ratio=3, drop_path=0.5, norm_eps=1e-6))
    x = torch.randn(64, 6, 4)
    block.eval()
    assert torch.equal(block(x, (2, 3)), block(x, (2, 3)))
    block.train()
    unchanged = (block(x, (2, 3)) == x).flatten(1).all(1)  # both branches dropped
    assert 0 < unchanged.sum() < 64
