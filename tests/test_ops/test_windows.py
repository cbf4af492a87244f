import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmlab_inline.ops import (
    apply_in_windows,
    padded_shape,
    relative_position_index,
    shift_mask,
    window_shift,
)

CPU = torch.device('cpu')
MAPS = [(1, 1), (1, 9), (7, 7), (8, 7), (7, 14), (14, 21), (9, 14), (13, 11)]


@pytest.mark.parametrize('shift', [(0, 0), (3, 3), (0, 3), (3, 0), (2, 1)])
@pytest.mark.parametrize('hw_shape', MAPS)
def test_identity_returns_the_input(hw_shape, shift):
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 3)
    assert torch.equal(apply_in_windows(lambda windows: windows, x, hw_shape, 7, shift), x)


@pytest.mark.parametrize('shift', [(0, 0), (2, 2), (0, 2), (2, 1)])
def test_windows_are_the_squares_of_the_padded_rolled_map(shift):
    batch, height, width, size = 2, 9, 7, 5
    seen = []

    def record(windows: Tensor) -> Tensor:
        seen.append(windows)
        return windows + torch.arange(len(windows))[:, None, None]

    x = torch.randn(batch, height * width, 3)
    out = apply_in_windows(record, x, (height, width), size, shift)
    image = F.pad(x.view(batch, height, width, 3), (0, 0, 0, 3, 0, 1))
    image = image.roll((-shift[0], -shift[1]), (1, 2))
    expected = [
        image[sample, row : row + size, col : col + size].flatten(0, 1)
        for sample in range(batch)
        for row in (0, 5)
        for col in (0, 5)
    ]
    (windows,) = seen
    assert torch.equal(windows, torch.stack(expected))
    # Results go back to where their windows came from.
    numbers = (out - x).round().view(batch, height, width, 3)
    for row in range(height):
        for col in range(width):
            window_row = (row - shift[0]) % 10 // size
            window_col = (col - shift[1]) % 10 // size
            number = window_row * 2 + window_col
            assert (numbers[0, row, col] == number).all()
            assert (numbers[1, row, col] == 4 + number).all()


@pytest.mark.parametrize(
    ('hw_shape', 'expected'),
    [((1, 1), (7, 7)), ((7, 14), (7, 14)), ((8, 13), (14, 14)), ((15, 3), (21, 7))],
)
def test_padded_shape(hw_shape, expected):
    assert padded_shape(hw_shape, 7) == expected


@pytest.mark.parametrize(
    ('hw_shape', 'expected'),
    [
        ((14, 14), (3, 3)),
        ((8, 8), (3, 3)),  # padded to two windows
        ((7, 7), (0, 0)),
        ((5, 30), (0, 3)),
        ((30, 7), (3, 0)),
        ((1, 1), (0, 0)),
    ],
)
def test_no_shift_along_an_axis_of_a_single_window(hw_shape, expected):
    assert window_shift(hw_shape, 7) == expected


@pytest.mark.parametrize('window_size', [2, 4, 7])
@pytest.mark.parametrize('hw_shape', [(14, 14), (9, 15), (8, 30), (7, 14), (16, 7), (5, 5)])
def test_shift_mask_equals_region_slices(hw_shape, window_size):
    """Swin numbers the regions by slices, and pairs of different numbers are masked."""
    shift = window_shift(hw_shape, window_size)
    height, width = padded_shape(hw_shape, window_size)

    def slices(step: int) -> list[slice]:
        if step == 0:
            return [slice(None)]
        return [slice(0, -window_size), slice(-window_size, -step), slice(-step, None)]

    regions = torch.zeros(height, width)
    number = 0
    for rows in slices(shift[0]):
        for cols in slices(shift[1]):
            regions[rows, cols] = number
            number += 1
    windows = torch.stack(
        [
            regions[row : row + window_size, col : col + window_size].flatten()
            for row in range(0, height, window_size)
            for col in range(0, width, window_size)
        ]
    )
    expected = windows[:, None, :] != windows[:, :, None]
    mask = shift_mask(hw_shape, window_size, shift, CPU)
    assert mask.dtype is torch.bool
    assert torch.equal(mask, expected)
    assert expected.any() == (shift != (0, 0))


def test_shift_mask_after_inference_mode():
    """A mask that was first made under inference_mode must serve training too."""
    hw_shape = (10, 15)
    with torch.inference_mode():
        shift_mask(hw_shape, 5, (2, 2), CPU)
    scores = torch.randn(6, 25, 25, requires_grad=True)
    scores.masked_fill(shift_mask(hw_shape, 5, (2, 2), CPU), 0).sum().backward()
    assert scores.grad.isfinite().all()


def test_shift_mask_after_fake_tensors():
    """A mask without numbers, as compilers and estimators make it, must serve nobody else."""
    hw_shape = (10, 20)
    with FakeTensorMode():
        assert isinstance(shift_mask(hw_shape, 5, (2, 2), CPU), FakeTensor)
    assert type(shift_mask(hw_shape, 5, (2, 2), CPU)) is Tensor
    assert shift_mask(hw_shape, 5, (2, 2), CPU) is shift_mask(hw_shape, 5, (2, 2), CPU)


def test_shift_mask_while_a_graph_is_captured(monkeypatch):
    """A graph reads it at each replay: it must not be what a cache may drop."""
    hw_shape = (10, 25)
    kept = shift_mask(hw_shape, 5, (2, 2), CPU)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, 'is_initialized', lambda: True)
        patch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
        captured = shift_mask(hw_shape, 5, (2, 2), CPU)
        assert captured is not kept
        assert torch.equal(captured, kept)
        shift_mask((10, 30), 5, (2, 2), CPU)
    assert shift_mask(hw_shape, 5, (2, 2), CPU) is kept


def test_shift_mask_is_of_one_stream(monkeypatch):
    """On another stream of the device it may be read before it is written."""
    windows = importlib.import_module('mmlab_inline.ops.windows')
    monkeypatch.setattr(windows, '_shift_mask', lambda *args: torch.ones(1))
    stream = 1
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: stream)
    device = torch.device('cuda', 99)
    first = shift_mask((10, 10), 5, (2, 2), device)
    assert shift_mask((10, 10), 5, (2, 2), device) is first
    stream = 2
    assert shift_mask((10, 10), 5, (2, 2), device) is not first


@pytest.mark.parametrize('window_size', [1, 2, 3, 7])
def test_relative_position_index(window_size):
    index = relative_position_index(window_size)
    span = 2 * window_size - 1
    tokens = [(row, col) for row in range(window_size) for col in range(window_size)]
    for i, (row_i, col_i) in enumerate(tokens):
        for j, (row_j, col_j) in enumerate(tokens):
            row, col = row_i - row_j + window_size - 1, col_i - col_j + window_size - 1
            assert index[i, j] == row * span + col
    assert index.shape == (window_size**2, window_size**2)
