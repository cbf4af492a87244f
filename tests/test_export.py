"""Parts of an export that can be checked without exporting."""

import pytest
import torch
from torch import nn

from mmlab_inline.export import (
    IntegerUpsample,
    MatrixAdaptiveAvgPool2d,
    compare_export,
    export_program,
    load_export,
    save_onnx,
)
from mmlab_inline.ops import apply_in_windows, exporting, softmax_attention, window_shift
from mmlab_inline.utils import UserError


@pytest.mark.parametrize('bins', [1, 2, 3, 6, (2, 5)])
@pytest.mark.parametrize('size', [(16, 19), (7, 6), (5, 4), (1, 13)])
def test_pooling_by_matrices(bins, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = nn.AdaptiveAvgPool2d(bins)(x)
    torch.testing.assert_close(MatrixAdaptiveAvgPool2d(bins)(x), expected, rtol=0, atol=1e-14)


def test_upsample_is_mmsegs():
    wrappers = pytest.importorskip('mmseg.models.utils.wrappers')
    x = torch.randn(1, 2, 5, 7)
    expected = wrappers.Upsample(scale_factor=2, mode='bilinear', align_corners=False)(x)
    assert torch.equal(IntegerUpsample(2, 'bilinear', False)(x), expected)


@pytest.mark.parametrize('masked', [False, True])
def test_softmax_attention_written_out(masked, monkeypatch):
    q, k, v = (torch.randn(2, 3, length, 4, dtype=torch.float64) for length in (5, 7, 7))
    bias = None
    if masked:
        bias = torch.randn(3, 5, 7, dtype=torch.float64)
        bias[:, :, 2] = -torch.inf
    fused = softmax_attention(q, k, v, bias)
    monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
    assert exporting.is_exporting()
    torch.testing.assert_close(softmax_attention(q, k, v, bias), fused, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ('hw_shape', 'expected'),
    [((7, 7), (0, 0)), ((8, 7), (3, 0)), ((1, 15), (0, 3)), ((14, 14), (3, 3))],
)
def test_window_shift_without_a_branch(hw_shape, expected):
    assert window_shift(hw_shape, 7) == expected


@pytest.mark.parametrize('shape', [(2, 14, 9), (1, 7, 7), (1, 5, 30), (0, 14, 14)])
def test_shifted_windows_in_a_file(shifted_windows, shape):
    module, run = shifted_windows
    image = torch.rand(shape[0], 3, *shape[1:])
    (tokens,) = run(image)
    assert torch.equal(tokens, module(image))


class Windows(nn.Module):
    """Gives tokens their place in a shifted window."""

    in_channels, boxes = 3, False

    def forward(self, image):
        hw_shape = image.shape[2:]
        places = torch.arange(49.0)[None, :, None]
        tokens, shift = image.flatten(2).mT, window_shift(hw_shape, 7)
        return apply_in_windows(lambda windows: windows + places, tokens, hw_shape, 7, shift)


@pytest.fixture(scope='module')
def shifted_windows(tmp_path_factory):
    """Windows, and a function that runs their ONNX file."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')

    module, path = Windows(), tmp_path_factory.mktemp('windows') / 'windows.onnx'
    save_onnx(export_program(module), {'outputs': '["tokens"]'}, path)
    return module, load_export(path)


def test_an_operator_without_onnx_is_named(tmp_path):
    pytest.importorskip('onnxscript')
    module = Windows()
    module.forward = lambda image: torch.special.bessel_j0(image)
    with pytest.raises(UserError, match=r'no ONNX of this model: .*bessel_j0'):
        save_onnx(export_program(module), {'outputs': '["a"]'}, tmp_path / 'a.onnx')


def test_comparison_tells_wrong_files():
    module = nn.Identity()
    module.in_channels, module.boxes = 3, False
    module.forward = lambda image: (image, image.argmax(1))

    def outputs(scale=1.0, crop=0, shift=0):
        return lambda x: [scale * x[..., crop:], (x.argmax(1) + shift * (x[:, 0] > 200)) % 3]

    assert set(compare_export(module, outputs()).values()) == {0.0}
    assert min(compare_export(module, outputs(scale=1.01)).values()) == pytest.approx(0.01, rel=0.1)
    assert min(compare_export(module, outputs(crop=1)).values()) == float('inf')
    shares = compare_export(module, outputs(shift=1)).values()
    assert all(0.15 < share < 0.3 for share in shares)
