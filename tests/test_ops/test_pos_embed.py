import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmlab_inline.ops import ResizedPosEmbeds, pos_embed, resize_pos_embed


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


@pytest.fixture
def num_resized(monkeypatch):
    """How often an embedding was really resized."""
    calls = []
    real = resize_pos_embed
    monkeypatch.setattr(pos_embed, 'resize_pos_embed', lambda *args: calls.append(1) or real(*args))
    return lambda: len(calls)


def test_cache_resizes_once_per_size_and_version(num_resized):
    cached, embedding = ResizedPosEmbeds(), torch.nn.Parameter(torch.randn(1, 12, 4))
    with torch.no_grad():
        for hw_shape in ((6, 8), (6, 8), (8, 6), (6, 8)):
            expected = resize_pos_embed(embedding, (3, 4), hw_shape)
            assert torch.equal(cached(embedding, (3, 4), hw_shape), expected)
        assert num_resized() == 2
        # Changed in place, replaced, cast: never the old one.
        embedding.add_(1)
        changes = [lambda: embedding.mul_(2), lambda: setattr(embedding, 'data', embedding * 3)]
        for change in [*changes, lambda: setattr(embedding, 'data', embedding.double())]:
            change()
            expected = resize_pos_embed(embedding, (3, 4), (6, 8))
            assert cached(embedding, (3, 4), (6, 8)).dtype is embedding.dtype
            assert torch.equal(cached(embedding, (3, 4), (6, 8)), expected)


def test_cache_stays_out_of_the_way_of_gradients(num_resized):
    cached, embedding = ResizedPosEmbeds(), torch.nn.Parameter(torch.randn(1, 12, 4))
    with torch.inference_mode():
        cached(embedding, (3, 4), (6, 8))
    for _ in range(2):
        cached(embedding, (3, 4), (6, 8)).sum().backward()
    assert num_resized() == 3
    assert (embedding.grad != 0).all()


def test_cache_is_bounded_and_not_copied(num_resized):
    cached, embedding = ResizedPosEmbeds(max_size=2), torch.randn(1, 12, 4)
    with torch.no_grad():
        for side in (5, 6, 7, 7, 6, 5):
            cached(embedding, (3, 4), (side, side))
        assert num_resized() == 4
        for copied in (copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
            copied(embedding, (3, 4), (5, 5))
    assert num_resized() == 6


def test_cache_tells_embeddings_apart_that_had_one_address_in_turn():
    """Freed, an embedding leaves its memory to the next, as functional_call's weights do."""
    cached = ResizedPosEmbeds()
    with torch.no_grad():
        for _ in range(12):
            embedding = torch.randn(1, 4096, 4)
            expected = resize_pos_embed(embedding, (64, 64), (48, 80))
            assert torch.equal(cached(embedding, (64, 64), (48, 80)), expected)
            del embedding, expected


def test_cache_may_be_shared_by_threads():
    """Each look-up hands over to the other thread, which throws out what was found."""

    class Shape(tuple):
        def __hash__(self) -> int:
            time.sleep(1e-5)
            return super().__hash__()

    cached, embedding = ResizedPosEmbeds(max_size=1), torch.randn(1, 12, 4)
    expected = {side: resize_pos_embed(embedding, (3, 4), (side, 5)) for side in (6, 7)}

    def use(first: int) -> None:
        with torch.no_grad():  # which is the thread's own
            for side in (first, 7, 6, 6, 7) * 40:
                resized = cached(embedding, (3, 4), Shape((side, 5)))
                assert torch.equal(resized, expected[side])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(use, (6, 7)))


def test_cache_keeps_no_fake_tensors(num_resized):
    cached, embedding = ResizedPosEmbeds(), torch.nn.Parameter(torch.randn(1, 12, 4))
    with torch.no_grad():
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert isinstance(cached(embedding, (3, 4), (6, 8)), FakeTensor)
        assert type(cached(embedding, (3, 4), (6, 8))) is torch.Tensor


def test_cache_hides_no_tangents():
    cached, embedding = ResizedPosEmbeds(), torch.randn(1, 12, 4)
    with torch.no_grad():
        cached(embedding, (3, 4), (6, 8))
        _, tangent = torch.func.jvp(
            lambda embedding: cached(embedding, (3, 4), (6, 8)), (embedding,), (embedding,)
        )
        assert torch.equal(tangent, cached(embedding, (3, 4), (6, 8)))
