"""What a GPU would be asked to do, without one: devices, dtypes and numbers of launches.

Fake tensors on 'cuda' have shapes, dtypes and devices but no numbers; two devices in one operation
are an error there as on a GPU. Autocast is switched on by hand: without a driver
``torch.autocast('cuda')`` switches itself off.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmlab_inline import backbones, build_attention, list_attentions
from mmlab_inline.ops import dispatch

fused = importlib.import_module('mmlab_inline.ops.inline_attention_fused')


@cache
def asks_for_a_driver() -> bool:
    """As PyTorch 2.7 does for random numbers that are none."""
    try:
        with FakeTensorMode(), torch.device('cuda'):
            torch.empty(1).uniform_()
    except RuntimeError:
        return tuple(map(int, torch.__version__.split('.')[:2])) < (2, 14)
    return False


needs_triton = pytest.mark.skipif(not fused._INSTALLED, reason='needs triton and torch 2.7')
BACKBONES = [getattr(backbones, name) for name in backbones.__all__]
AUTOCAST = [None, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def no_driver() -> None:
    if asks_for_a_driver():
        pytest.skip('fake tensors need a driver here')


@contextmanager
def autocast(device_type: str, dtype: torch.dtype | None) -> Iterator[None]:
    if dtype is None:
        yield
        return
    torch.set_autocast_enabled(device_type, True)
    before = torch.get_autocast_dtype(device_type)
    torch.set_autocast_dtype(device_type, dtype)
    try:
        yield
    finally:
        torch.set_autocast_dtype(device_type, before)
        torch.set_autocast_enabled(device_type, False)
        torch.clear_autocast_cache()


@pytest.fixture
def use_kernels(monkeypatch) -> Callable[..., None]:
    """Has the Triton kernels taken for available, wherever the tensors are.

    On small maps, too, or as the rule has it.
    """

    def use(everywhere: bool = True) -> None:
        if everywhere:
            monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
        for module in (fused, dispatch):
            monkeypatch.setattr(module, 'triton_is_available', lambda x: x.dtype in fused._DTYPES)

    return use


@pytest.mark.filterwarnings('error:InLine attention')
@pytest.mark.parametrize('dtype', AUTOCAST, ids=str)
@pytest.mark.parametrize('name', list_attentions())
@pytest.mark.parametrize('cls', BACKBONES)
def test_forward_on_fake_cuda(cls, name, dtype, build_narrow):
    """No device is mixed up, no driver asked, no number read on the host."""
    with FakeTensorMode():
        with torch.device('cuda'):
            # Heads of a multiple of 4 channels, which some attentions need.
            heads = (1, 2, 2, 4)
            model = build_narrow(cls, attention=name, depths=(1, 2, 1, 1), num_heads=heads)
            image = torch.rand(2, 3, 97, 130)
        for mode in (True, False):
            with autocast('cuda', dtype), torch.set_grad_enabled(mode):
                maps = model.train(mode)(image)
            assert [tuple(out.shape[2:]) for out in maps] == [(25, 33), (13, 17), (7, 9), (4, 5)]
            assert all(out.device.type == 'cuda' and out.requires_grad == mode for out in maps)


@needs_triton
@pytest.mark.parametrize('dtype', AUTOCAST, ids=str)
@pytest.mark.parametrize('cls', BACKBONES)
def test_kernels_on_fake_cuda(cls, dtype, build_narrow, use_kernels):
    use_kernels()
    with FakeTensorMode(), torch.device('cuda'), autocast('cuda', dtype), Launches() as launches:
        model = build_narrow(cls, attention='inline')
        maps = model(torch.rand(2, 3, 193, 130))
    assert all(out.device.type == 'cuda' for out in maps)
    assert launches.operators['mmlab_inline.project_and_local_residual.default'] >= 2


@pytest.mark.parametrize('window_size', [None, 3])
@pytest.mark.parametrize('name', list_attentions())
def test_attentions_on_fake_cuda(name, window_size):
    options = {} if window_size is None else dict(window_size=window_size, shift=True)
    if window_size and name in ('softmax', 'self_adjust', 'spatial_reduction'):
        pytest.skip('reduces whole maps')
    for dtype in AUTOCAST:
        with FakeTensorMode(), torch.device('cuda'), autocast('cuda', dtype):
            attention = build_attention(name, 16, 2, grid=(5, 6), **options)
            x = torch.rand(2, 9 * 14, 16)
            out = attention(x, (9, 14))
        assert (out.shape, out.device) == (x.shape, x.device)
        assert out.dtype is (dtype or x.dtype)


class Launches(TorchDispatchMode):
    """Counts operations that a GPU runs a kernel for, at least one each.

    Args:
        inside: Look into this package's own operators.
    """

    def __init__(self, inside: bool = False) -> None:
        super().__init__()
        self.operators = Counter()
        self.own = {}
        if inside:
            from mmlab_inline.ops import triton_kernels

            definitions = vars(triton_kernels).values()
            self.own = {d._opoverload: d._init_fn for d in definitions if hasattr(d, '_init_fn')}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.own:
            with self:
                return self.own[func](*args, **(kwargs or {}))
        name = str(func)
        if not func.is_view and not any(word in name for word in _NO_LAUNCH):
            self.operators[name] += 1
        return func(*args, **(kwargs or {}))


_NO_LAUNCH = ('prim.', 'promote_types', 'empty', 'detach', 'unsafe_view', 'lift_fresh')


@pytest.fixture
def count_launches(monkeypatch) -> Callable[[Callable[[], object]], int]:
    """Counts the launches of a call with fake tensors, those of Triton's kernels included."""

    def count(call: Callable[[], object]) -> int:
        with Launches(inside=True) as launches:
            for kernel in kernels:
                monkeypatch.setattr(
                    kernel, 'run', lambda *args, **kwargs: launches.operators.update(['kernel'])
                )
            call()
        return sum(launches.operators.values())

    kernels = []
    if fused._INSTALLED:
        from mmlab_inline.ops import triton_kernels

        kernels += [value for key, value in vars(triton_kernels).items() if key.endswith('_kernel')]
        monkeypatch.setattr(torch.cuda, 'device_of', lambda x: nullcontext())
        monkeypatch.setattr(triton_kernels, '_programs_wanted', lambda x: 264)
        monkeypatch.setattr(triton_kernels, '_dense', Tensor.contiguous)
    return count


# What was counted when this was written, with PyTorch 2.12: a change that needs more shall say so.
@needs_triton
@pytest.mark.parametrize(
    ('dtype', 'forward', 'both'), [(None, 17, 72), (torch.float16, 22, 125)], ids=str
)
def test_launches_of_a_module(dtype, forward, both, count_launches, use_kernels):
    """On the CPU, since the backward pass of a fake CUDA tensor wants a driver."""
    use_kernels()
    with FakeTensorMode(), autocast('cpu', dtype):
        attention = build_attention('inline', 64, 2)
        x = torch.rand(1, 64 * 64, 64, requires_grad=True)

        def train() -> None:
            attention(x, (64, 64)).sum().backward()

        with torch.no_grad():
            assert count_launches(lambda: attention(x, (64, 64))) <= forward
        assert count_launches(train) <= both


@pytest.mark.parametrize(
    ('arch', 'form', 'dtype', 'most'),
    [
        # As they ship: on most maps the linear form, by its rule.
        ('InLinePVT', 'default', None, 237),
        ('InLinePVT', 'default', torch.float16, 413),
        ('InLineSwin', 'default', None, 361),
        ('InLineSwin', 'default', torch.float16, 632),
        # With MMLAB_INLINE_TRITON=1.
        ('InLinePVT', 'kernels', None, 221),
        ('InLinePVT', 'kernels', torch.float16, 335),
        ('InLinePVT', 'plain', None, 239),
        ('InLineSwin', 'kernels', None, 329),
        ('InLineSwin', 'kernels', torch.float16, 502),
    ],
)
def test_launches_of_a_backbone(
    arch, form, dtype, most, count_launches, use_kernels, no_random_init, monkeypatch
):
    """One image of 800 x 1280."""
    if form == 'plain':
        monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
    elif not fused._INSTALLED:
        pytest.skip('needs triton and torch 2.7')
    else:
        use_kernels(everywhere=form == 'kernels')
    with FakeTensorMode(), torch.device('cuda'), autocast('cuda', dtype), torch.no_grad():
        model: nn.Module = getattr(backbones, arch)('tiny').eval()
        image = torch.rand(1, 3, 800, 1280)
        assert count_launches(lambda: model(image)) <= most


@pytest.mark.parametrize(
    ('shape', 'dtype', 'kernels', 'fast'),
    [
        ((2, 64000, 64), None, True, True),
        ((2, 64000, 64), None, False, True),
        ((2, 3000, 64), None, True, False),
        ((2, 64000, 64), torch.bfloat16, True, False),
        ((2, 128000, 64), torch.bfloat16, True, True),
        ((2, 128000, 64), torch.bfloat16, False, False),
    ],
)
def test_small_maps_take_the_form_that_is_launched_sooner(shape, dtype, kernels, fast, monkeypatch):
    with FakeTensorMode(), autocast('cuda', dtype):
        x = torch.empty(shape, device='cuda')
        assert dispatch.fast_form_is_worth_its_launches(x, kernels) is fast
        monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
        assert dispatch.fast_form_is_worth_its_launches(x, kernels) is (dtype is None or kernels)
