"""The weights that mixers tell, against what the mixers do and against N x N definitions."""

import pytest
import torch
from torch import Tensor

from mmlab_inline import build_attention
from mmlab_inline.mixers import TOKEN_MIXERS, TokenMixer
from mmlab_inline.ops import inline_attention_weights, normalised_weights, split_heads

from .test_definitions import WEIGHTS as DEFINED
from .test_every_mixer import VARIANTS

WITHOUT = ('fcvit',)
WINDOWED = [
    'window',
    dict(type='window', self_adjust=True),
    'inline',
    dict(type='linear', local_residual=True),
    'agent',
    'hydra',
    'vig',
]
# Of a layer that projects values among others, their share: rows from, to.
VALUES = {
    'qkv': (2 / 3, 1),
    'kv': (1 / 2, 1),
    'qkvo': (1 / 2, 3 / 4),
    'v_proj': (0, 1),
    'qkv_proj': (1 / 2, 1),
}


def name_of(choice: str | dict) -> str:
    return choice if isinstance(choice, str) else choice['type']


def with_weights(choices: list) -> list:
    return [choice for choice in choices if name_of(choice) not in WITHOUT]


def give_new_values(mixer: TokenMixer) -> None:
    for name, (start, end) in VALUES.items():
        if hasattr(mixer, name):
            layer = getattr(mixer, name)
            rows = slice(int(start * layer.out_features), int(end * layer.out_features))
            with torch.no_grad():
                layer.weight[rows].normal_()
            return


def check(mixer: TokenMixer, x: Tensor, hw_shape: tuple[int, int], assert_near) -> Tensor:
    """All that weights tell, by their rows; and by these the mixer's output."""
    found = mixer.weights(x, hw_shape)
    everyone = torch.arange(x.shape[1])
    rows = found.rows(everyone)
    assert rows.shape == (*found.values.shape[:2], x.shape[1], found.values.shape[2])
    some = torch.randperm(x.shape[1])[: max(1, x.shape[1] // 2)]
    assert_near(found.rows(some), rows[:, :, some], 1e-12)
    keys = torch.randint(rows.shape[3], (1, x.shape[1], 5))
    keys[..., 0] = (everyone % rows.shape[3])[None]
    gathered = rows.gather(3, keys[:, None].expand(*rows.shape[:3], -1))
    assert_near(found.pairs(keys), gathered, 1e-9)
    assert_near(found.attend(found.values), rows @ found.values, 1e-9)
    window = mixer.window_size or 1
    if all(side % window == 0 for side in hw_shape):  # without padding
        assert_near(found.sums(), rows.sum(-1, keepdim=True), 1e-9)
        assert_near(found.finish(rows @ found.values), mixer(x, hw_shape), 1e-9)
    assert_near(found.finish(found.attended()), mixer(x, hw_shape), 1e-9)
    return rows


@pytest.mark.parametrize('hw_shape', [(1, 1), (4, 5), (9, 4)])
@pytest.mark.parametrize('choice', with_weights(VARIANTS), ids=str)
def test_rows_make_the_output(choice, hw_shape, randomised, assert_near):
    """With so many draws of the values that no other rows make all outputs."""
    mixer = randomised(build_attention(choice, 16, 2, grid=(5, 6))).double().eval()
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 16, dtype=torch.float64)
    rows = check(mixer, x, hw_shape, assert_near)
    for _ in range(5):
        give_new_values(mixer)
        again = check(mixer, x, hw_shape, assert_near)
        if name_of(choice) != 'linear_angular':  # divides by the size of its output
            assert_near(again, rows, 1e-12)


@pytest.mark.parametrize('shift', [False, True])
@pytest.mark.parametrize('choice', WINDOWED, ids=str)
def test_windows(choice, shift, randomised, assert_near):
    mixer = build_attention(choice, 16, 2, grid=(5, 6), window_size=4, shift=shift)
    mixer = randomised(mixer).double().eval()
    # Padded to 8 x 8, of which what is beyond the map is no place of a row; and without padding.
    for hw_shape in ((7, 6), (8, 8)):
        x = torch.randn(2, hw_shape[0] * hw_shape[1], 16, dtype=torch.float64)
        rows = check(mixer, x, hw_shape, assert_near)
        assert ((rows != 0).sum(-1) <= 16).all()


@pytest.mark.parametrize(
    'choice',
    [
        dict(type='inline', kernel='relu'),
        'inline',
        'taylor',
        'linear',
        'l2vit',
        'rala',
        'mala',
        'spatial_reduction',
    ],
    ids=str,
)
def test_rows_are_those_of_the_definition(choice, randomised, assert_near):
    mixer = randomised(build_attention(choice, 16, 2)).double()
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    rows = mixer.weights(x, (4, 5)).rows(torch.arange(20))
    if hasattr(mixer, 'qkvo'):
        q, k, _, _ = mixer.qkvo(x).chunk(4, 2)
    else:
        q, k, _ = mixer.project(x)
    q, k = (split_heads(t, 2) for t in (q, k))
    name = name_of(choice)
    if name in ('inline', 'taylor'):
        expected = inline_attention_weights(q, k, mixer.kernel)
    elif name == 'linear':
        expected = normalised_weights(q.relu(), k.relu())
    elif name == 'spatial_reduction':
        expected = (q @ k.mT * 8**-0.5).softmax(-1)
    else:
        expected = DEFINED[name](mixer, q, k, (4, 5))
    assert_near(rows, expected, 1e-12)


def test_those_without_say_so():
    x = torch.rand(1, 20, 16)
    told = {
        name
        for name in TOKEN_MIXERS
        if build_attention(name, 16, 2, grid=(4, 5)).eval().weights(x, (4, 5)) is None
    }
    assert told == set(WITHOUT)
