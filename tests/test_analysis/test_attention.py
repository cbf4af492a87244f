"""Figures of attentions, against explicit N x N rows."""

import pytest
import torch
import torch.nn.functional as F

from mmlab_inline import InLineCSwin, InLineDeiT, InLinePVT, InLineSwin, build_attention
from mmlab_inline.analysis import attention
from mmlab_inline.analysis.attention import look, measure, neighbours
from mmlab_inline.utils import UserError

ARCH = dict(embed_dims=(16, 32), depths=(1, 2), num_heads=(2, 4), mlp_ratios=(2, 2))
CHOICES = [
    'inline',
    dict(type='inline', window_size=4),
    'linear',
    'focused',
    'agent',
    'efficient',
    'linear_angular',
    'mala',
    'vig',
    'metala',
    'rmt',
    dict(type='spatial_reduction', sr_ratio=1),
]


def plain(attention):
    """With a class token."""
    arch = dict(embed_dims=16, depths=2, num_heads=2, mlp_ratios=2)
    return InLineDeiT(arch, attention=attention, out_indices=(0,))


def striped(attention):
    """Stripes of 1 and 2 tokens in maps of 9 x 7 and 5 x 4, the second padded."""
    arch = dict(embed_dims=16, depths=(1, 2), num_heads=(2, 4), mlp_ratios=2)
    return InLineCSwin(arch, attention=attention, stripes=(1, 2), out_indices=(0, 1))


OTHERS = [(name, backbone) for name in ('inline', 'softmax') for backbone in (plain, striped)]


@pytest.fixture
def looks(randomised):
    def make(choice, backbone=None):
        backbone = backbone or InLinePVT(
            ARCH, attention=choice, sr_ratios=(1, 1), out_indices=(0, 1)
        )
        backbone = randomised(backbone).double().eval()
        return look(backbone, torch.randn(1, 3, 36, 28, dtype=torch.float64))

    return make


def explicit(seen):
    """All rows, and which keys are within one row and column of each query."""
    weights = seen.weights()
    places = torch.cartesian_prod(*(torch.arange(side) for side in seen.hw_shape))
    rows = weights.rows(torch.arange(len(places)))[0]
    near = (places[:, None] - places).abs().amax(-1) <= 1
    return weights, rows, F.pad(near, (0, rows.shape[-1] - len(places)))  # a class token is last


@pytest.mark.parametrize(
    ('choice', 'backbone'),
    [*((choice, None) for choice in CHOICES), *OTHERS],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_figures_by_explicit_rows(choice, backbone, looks, monkeypatch):
    monkeypatch.setattr(attention, '_MOST', 1000)  # several parts
    for seen in looks(choice, backbone and backbone(choice)):
        found = measure(seen)
        weights, rows, near = explicit(seen)
        size = rows.abs().sum(-1)
        expected = (rows * near).abs().sum(-1) / size
        assert found.locality == pytest.approx(expected.mean(-1).tolist(), rel=1e-9)
        # Masked: a row at a time.
        old, values = weights.sums()[0], weights.values[0]
        padded = weights.attended()[0] - rows @ values  # what windows beyond the map give
        rest = rows.masked_fill(near, 0)
        lost = (rows * near).sum(-1, keepdim=True)
        out = (rest @ values + padded) * old / (old - lost)
        out = torch.where((old - lost).abs() <= attention.ALONE * old.abs(), 0, out)
        changed = seen.block.attn.register_forward_hook(
            lambda *_, out=out, weights=weights: weights.finish(out[None])
        )
        with torch.no_grad():
            masked = seen.block(seen.x, seen.hw_shape)
            changed.remove()
            plain = seen.block(seen.x, seen.hw_shape)
        assert found.masking == pytest.approx(float((masked - plain).norm() / plain.norm()), 1e-6)


def test_locality_with_local(looks):
    """By the rows of every channel, with a convolution as a matrix."""
    for choice in ('inline', 'agent', 'focused'):
        for seen in looks(choice):
            found = measure(seen)
            weights, rows, near = explicit(seen)
            heads, width = weights.values.shape[1], weights.values.shape[3]
            kernels = weights.local[0].expand(heads, width, -1, -1)
            side, count = kernels.shape[-1], rows.shape[-1]
            deltas = torch.eye(count, dtype=rows.dtype).view(count, 1, *seen.hw_shape)
            matrices = torch.nn.functional.conv2d(
                deltas, kernels.reshape(-1, 1, side, side), padding=side // 2
            )  # (keys, heads * width, H, W)
            matrices = matrices.flatten(2).permute(1, 2, 0).unflatten(0, (heads, width))
            both = (rows[:, None] + matrices).abs()
            expected = ((both * near).sum(-1) / both.sum(-1)).mean((1, 2))
            assert found.locality_with_local == pytest.approx(expected.tolist(), rel=1e-9)


def test_confusion_tells_equal_rows(looks):
    """Divisive ReLU attention of one channel a head gives every positive query the same row."""
    arch = dict(ARCH, num_heads=(16, 32))
    shares = {}
    for choice in ('linear', 'inline'):
        backbone = InLinePVT(arch, attention=choice, sr_ratios=(1, 1), out_indices=(0, 1))
        seen = looks(choice, backbone)[0]
        _, rows, _ = explicit(seen)
        size = rows.abs().sum(-1)
        apart = (rows[:, :, None] - rows[:, None]).abs().sum(-1)
        same = apart <= 1e-3 * (size[:, :, None] + size[:, None]) / 2
        count = rows.shape[-1]
        exact = (same.sum((1, 2)) - count) / (count * (count - 1))
        found = torch.tensor(measure(seen).confusion)
        # 1024 draws with replacement: within four standard errors.
        assert (found - exact).abs().max() <= 4 * 0.5 / 1024**0.5
        shares[choice] = float(exact.mean())
    assert shares['linear'] > 0.3 > 0.1 > shares['inline']


def test_reduced_keys_have_no_neighbours(randomised):
    backbone = randomised(
        InLinePVT(ARCH, attention='softmax', sr_ratios=(2, 1), out_indices=(0, 1))
    )
    first, second, _ = look(backbone.eval(), torch.randn(1, 3, 32, 32))
    assert measure(first).locality is None and measure(first).masking is None
    assert measure(first).confusion is not None
    assert measure(second).locality is not None


def test_without_weights(randomised):
    backbone = InLinePVT(ARCH, attention=['fcvit', 'inline'], sr_ratios=(1, 1), out_indices=(0, 1))
    first, second, third = look(backbone.eval(), torch.randn(1, 3, 32, 32))
    assert measure(first) is None and first.attention == 'fcvit'
    assert [(seen.stage, seen.index) for seen in (first, second, third)] == [(0, 0), (1, 0), (1, 1)]
    assert measure(third, seed=1) == measure(third, seed=1)


def test_windows_of_swin(looks):
    arch = dict(embed_dims=16, depths=(2,), num_heads=(2,), mlp_ratios=2)
    backbone = InLineSwin(arch, attention='softmax', out_indices=(0,))
    for seen in looks('softmax', backbone):
        found = measure(seen)
        _, rows, near = explicit(seen)
        kept = rows.abs().sum(-1)
        expected = (rows * near).sum(-1) / kept
        assert found.locality == pytest.approx(expected.mean(-1).tolist(), rel=1e-9)


@pytest.mark.parametrize(('attention', 'backbone'), OTHERS)
def test_rows_make_the_output(attention, backbone, looks):
    for seen in looks(attention, backbone(attention)):
        weights = seen.weights()
        assert seen.attention in (attention, 'global')  # as a plain network's softmax is called
        rows = weights.rows(torch.arange(seen.hw_shape[0] * seen.hw_shape[1]))
        with torch.no_grad():
            out = weights.finish(rows @ weights.values)  # padding has values of 0
            expected = seen.mixer(seen.tokens, seen.hw_shape, *seen.others)
        assert out.allclose(expected, atol=1e-12)


def test_every_block_of_a_plain_network_is_seen(looks):
    places = [(s.stage, s.index, s.stride, s.hw_shape) for s in looks('', plain('inline'))]
    assert places == [(0, 0, 16, (3, 2)), (0, 1, 16, (3, 2))]


def test_nothing_of_an_image_is_kept(looks):
    for seen in looks('', striped('inline')):
        seen.forget()
        assert not any(isinstance(v, torch.Tensor) for v in (seen.x, seen.tokens, *seen.others))


def test_neighbours():
    keys, exists = neighbours((2, 3), 3)
    assert (
        keys[exists].tolist()
        == [
            *(0, 1, 3, 4),
            *(0, 1, 2, 3, 4, 5),
            *(1, 2, 4, 5),
        ]
        * 2
    )
    assert exists.sum(1).tolist() == [4, 6, 4, 4, 6, 4]


def test_other_backbones():
    with pytest.raises(UserError, match=r'Linear has no attention to look at; take .*InLinePVT'):
        look(torch.nn.Linear(1, 1), torch.zeros(1, 3, 32, 32))


def test_local_part_in_windows(randomised):
    """Each window has kernels of its own, and is as a map of its own."""
    mixer = randomised(build_attention('inline', 16, 2, window_size=4)).double()
    x = torch.randn(1, 64, 16, dtype=torch.float64)
    found = attention._locality(mixer.weights(x, (8, 8)), torch.arange(64), (8, 8))
    mixer.window_size = None
    windows = x.unflatten(1, (2, 4, 2, 4)).transpose(2, 3).reshape(4, 1, 16, 16)
    apart = [
        attention._locality(mixer.weights(window, (4, 4)), torch.arange(16), (4, 4))
        for window in windows
    ]
    assert torch.tensor(found).allclose(torch.tensor(apart).mean(0))
