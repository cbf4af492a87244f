import pytest
import torch
import torch.nn.functional as F

from mmlab_inline.layers import PatchEmbed, PatchMerging


@pytest.mark.parametrize('size', [(8, 12), (9, 15), (1, 1), (3, 30)])
def test_patch_embed_pads_bottom_and_right(size, randomised, assert_near):
    embed = randomised(PatchEmbed(3, 5, 4))
    image = torch.randn(2, 3, *size)
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    padded = torch.zeros(2, 3, 4 * height, 4 * width)
    padded[:, :, : size[0], : size[1]] = image
    expected = embed.norm(
        torch.stack(
            [
                torch.einsum(
                    'bcij,dcij->bd',
                    padded[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4],
                    embed.proj.weight,
                )
                + embed.proj.bias
                for row in range(height)
                for col in range(width)
            ],
            dim=1,
        )
    )
    tokens, hw_shape = embed(image)
    assert hw_shape == (height, width)
    assert_near(tokens, expected, 1e-5)
    assert embed.norm.eps == 1e-5


@pytest.mark.parametrize('hw_shape', [(4, 6), (5, 7), (1, 1), (1, 8)])
def test_patch_merging_concatenates_down_first(hw_shape, randomised, assert_near):
    merging = randomised(PatchMerging(3))
    (height, width), (rows, cols) = hw_shape, (-(-hw_shape[0] // 2), -(-hw_shape[1] // 2))
    x = torch.randn(2, height * width, 3)
    grid = torch.zeros(2, 2 * rows, 2 * cols, 3)
    grid[:, :height, :width] = x.view(2, height, width, 3)
    neighbours = [
        torch.cat(
            [grid[:, 2 * row + i, 2 * col + j] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], dim=-1
        )
        for row in range(rows)
        for col in range(cols)
    ]
    norm = merging.norm
    expected = F.layer_norm(torch.stack(neighbours, dim=1), (12,), norm.weight, norm.bias, 1e-5)
    expected = expected @ merging.reduction.weight.T
    merged, merged_shape = merging(x, hw_shape)
    assert merged_shape == (rows, cols)
    assert_near(merged, expected, 1e-5)
    assert merging.reduction.bias is None


def test_image_without_batch():
    with pytest.raises(
        ValueError, match=r'\(B, 3, H, W\), these are \(3, 8, 8\); pass image\[None\]$'
    ):
        PatchEmbed(3, 8, 4)(torch.randn(3, 8, 8))
    with pytest.raises(ValueError, match=r'these are \(1, 1, 3, 8, 8\)$'):
        PatchEmbed(3, 8, 4)(torch.randn(1, 1, 3, 8, 8))
