import pytest
import torch
import torch.nn.functional as F

from mmlab_inline.ops import resize_pos_embed


def test_same_shape_returns_the_very_tensor():
    pos_embed = torch.randn(1, 56 * 56, 4)
    assert resize_pos_embed(pos_embed, (56, 56), (56, 56)) is pos_embed


def test_same_token_count_is_not_the_same_shape():
    """A 196x256 image has as many patches as a 224x224 image."""
    pos_embed = torch.randn(1, 56 * 56, 4)
    resized = resize_pos_embed(pos_embed, (56, 56), (49, 64))
    assert resized.shape == pos_embed.shape
    assert (resized - pos_embed).abs().max() > 0.1


@pytest.mark.parametrize('hw_shape', [(49, 64), (24, 40), (1, 1), (112, 112), (37, 53)])
@pytest.mark.parametrize('grid_shape', [(56, 56), (14, 20)])
def test_equals_bilinear_interpolation(grid_shape, hw_shape):
    image = torch.randn(1, 4, *grid_shape)
    expected = F.interpolate(image, hw_shape, mode='bilinear', align_corners=False)
    resized = resize_pos_embed(image.flatten(2).transpose(1, 2), grid_shape, hw_shape)
    torch.testing.assert_close(resized, expected.flatten(2).transpose(1, 2))


def test_resizing_to_the_same_shape_would_be_exact():
    image = torch.randn(1, 4, 7, 9)
    assert torch.equal(F.interpolate(image, (7, 9), mode='bilinear', align_corners=False), image)
