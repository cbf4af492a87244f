"""Shared fixtures. Helpers are fixtures too, because test folders cannot import one another."""

import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmlab_inline.mixers import TOKEN_MIXERS, resolve_attention
from mmlab_inline.ops import dispatch
from mmlab_inline.runs import confine_autocast

DATA = Path(__file__).parent / 'data'

# Tests are of the CPU, also on a machine with a GPU; nothing has asked for one yet. `make test-gpu`
# is of the card.
if os.environ.get('MMLAB_INLINE_TEST_GPU') != 'cuda':
    os.environ['CUDA_VISIBLE_DEVICES'] = ''


def pytest_itemcollected(item: pytest.Item) -> None:
    # The processes of one run must agree on the names; an address is each one's own, and so is the
    # order of a set.
    values = item.callspec.params.values() if hasattr(item, 'callspec') else ()
    sets = [value for value in values if isinstance(value, set | frozenset)]
    if ' at 0x' in item.nodeid or any(str(value) in item.nodeid for value in sets):
        raise pytest.UsageError(f'{item.nodeid} has another name in each process: give it ids')


@pytest.fixture(scope='session', autouse=True)
def one_thread() -> None:
    # Tensors here are so small that a second thread mostly waits: three times slower on a busy CPU.
    torch.set_num_threads(1)
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # in the programs that tests start
    # The first backward pass decides whether autograd has threads, with which no process may fork;
    # after fake tensors of a GPU it would want some.
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def assert_near() -> Callable[..., None]:
    """Largest difference relative to the expected tensor's largest magnitude, or to ``scale``."""

    def check(
        actual: Tensor, expected: Tensor, tolerance: float, name: str = '', scale: float = 0
    ) -> None:
        assert actual.shape == expected.shape, f'{name} {actual.shape} != {expected.shape}'
        difference = (actual.double() - expected.double()).abs().max().item()
        scale = scale or expected.double().abs().max().item()
        error = difference / scale if scale else difference
        assert math.isfinite(error), f'{name} is not finite'
        assert error <= tolerance, f'{name} is off by {error:.2e}, more than {tolerance:.0e}'

    return check


@pytest.fixture(scope='session')
def golden() -> Callable[[str], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Reader of a numeric fixture: its parameters, and everything else in it."""

    def read(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        tensors = load_file(DATA / f'{name}.safetensors')
        weights = {
            key.removeprefix('param.'): value
            for key, value in tensors.items()
            if key.startswith('param.')
        }
        rest = {key: value for key, value in tensors.items() if not key.startswith('param.')}
        return weights, rest

    return read


@pytest.fixture(scope='session')
def assert_as_stored(assert_near: Callable[..., None]) -> Callable[..., None]:
    """Outputs and gradients of a backbone against those of a fixture.

    Gradients of parameters within ``of_parameters``, or a limit of their own in ``limits``; those
    that are nothing but rounding noise within the largest one's scale.
    """

    def check(
        model: nn.Module,
        fixture: Mapping[str, Tensor],
        tolerance: float,
        of_parameters: float,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        dtype = next(model.parameters()).dtype
        fixture = {name: value.to(dtype) for name, value in fixture.items()}
        image = fixture['x'].requires_grad_()
        outs = model(image)
        torch.autograd.backward(outs, [fixture[f'grad_y.{index}'] for index in range(4)])
        for index, out in enumerate(outs):
            assert_near(out, fixture[f'y.{index}'], tolerance, f'map {index}')
        assert_near(image.grad, fixture['grad_x'], tolerance, 'image')
        scale = max(float(value.abs().max()) for k, value in fixture.items() if 'grad.' in k)
        for name, parameter in model.named_parameters():
            expected = fixture[f'grad.{name}']
            noise = expected.abs().max() < 1e-6 * scale
            limit = (limits or {}).get(name, of_parameters)
            assert_near(parameter.grad, expected, limit, name, scale=scale if noise else 0)

    return check


@pytest.fixture
def use_form(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Forces the linear form or a fast one, and makes sure afterwards that it was asked for."""
    calls = []
    forced = []

    def force(form: str) -> None:
        forced.append(form)

        def choose(num_tokens: int, channels: int, kernel: str) -> bool:
            calls.append(form)
            return form == 'fast'

        monkeypatch.setattr(dispatch, 'fast_form_is_cheaper', choose)

    yield force
    assert bool(calls) == bool(forced)


@pytest.fixture(scope='session')
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Redraws all parameters so that every one of them matters, also biases and norms."""

    def redraw(module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    fan_in = parameter[0].numel() if 'bias_table' not in name else 1
                    parameter.normal_(std=fan_in**-0.5)
                elif name.endswith('bias'):
                    parameter.normal_(std=0.5)
                else:
                    parameter.normal_(1, 0.2)
        return module

    return redraw


@pytest.fixture
def no_random_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes most of the time of building a full-size model."""
    import_module('mmlab_inline.backbones')  # otherwise a test would, when it is too late
    for name, module in list(sys.modules.items()):
        if name.startswith('mmlab_inline.') and hasattr(module, 'trunc_normal_'):
            monkeypatch.setattr(module, 'trunc_normal_', lambda *args, **kwargs: None)


@pytest.fixture(scope='session')
def build_narrow() -> Callable[..., nn.Module]:
    """Builds a backbone of any class, four stages, small enough to be quick."""
    widths = {
        'InLinePVT': {'embed_dims': (8, 16, 24, 32), 'mlp_ratios': (2, 2, 2, 2)},
        'InLineSwin': {'embed_dims': 8, 'mlp_ratios': 2},
        'InLineCSwin': {'embed_dims': 8, 'mlp_ratios': 2},
        'L2ViT': {'embed_dims': (8, 16, 24, 32), 'mlp_ratios': 2},
        'InLineDeiT': {'embed_dims': 32, 'mlp_ratios': 2},
    }

    def build(cls: type[nn.Module], **settings: object) -> nn.Module:
        arch = dict(widths[cls.__name__])
        arch['num_heads'] = settings.pop('num_heads', (1, 2, 4, 4))
        if cls.__name__ == 'InLineCSwin':  # whose stripes have half of the heads each
            arch['num_heads'] = tuple(max(2, heads) for heads in arch['num_heads'])
        arch['depths'] = settings.pop('depths', (1, 2, 2, 1))
        if cls.__name__ == 'InLineDeiT':
            arch, settings = in_one_stage(arch, settings)
        return cls(arch, **settings)

    def in_one_stage(arch: dict, settings: dict) -> tuple[dict, dict]:
        """The blocks of all stages in a row, without a class token where one takes none."""
        if not isinstance(settings.get('attention'), str | dict | None):
            stages = resolve_attention(settings['attention'], arch['depths'])
            settings['attention'] = [[choice for choices in stages for choice in choices]]
        chosen = str(settings.get('attention'))
        of_maps = TOKEN_MIXERS.keys() - {'inline', 'global'}
        if any(chosen == name or f"'{name}'" in chosen for name in (*of_maps, 'window_size')):
            settings.setdefault('cls_token', False)
        return {**arch, 'num_heads': arch['num_heads'][-1], 'depths': sum(arch['depths'])}, settings

    return build


@pytest.fixture
def try_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module, dict], None]:
    """Takes a step and predicts in bfloat16: what is no network's gets float32, boxes above all."""

    def check(model: nn.Module, batch: dict) -> None:
        coordinates = []

        def recorded(op: Callable) -> Callable:
            def call(*tensors: Tensor, **settings: object) -> object:
                assert {t.dtype for t in tensors[:2]} == {torch.float32}, op
                coordinates.append(tensors[op.__name__ != 'nms'])
                return op(*tensors, **settings)

            return call

        for module, name in (('nms', 'nms'), ('roi_align', 'roi_align_forward')):
            ops = import_module(f'mmcv.ops.{module}').ext_module
            monkeypatch.setattr(ops, name, recorded(getattr(ops, name)))

        confine_autocast(model)
        model.train()
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16):
            losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
        total, _ = model.parse_losses(losses)
        total.backward()
        assert total.dtype is torch.float32 and total.isfinite()
        # PyTorch 2.12 and 2.14 get the weight of a convolution with stride 2 over 1 x 1 maps wrong
        # in bfloat16: levels that an FPN adds, of images as small as these.
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(g.isfinite().all() for name, g in grads.items() if 'fpn_convs' not in name)

        model.eval()
        one = model.data_preprocessor({key: value[:1] for key, value in batch.items()}, False)
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            (sample,) = model(**one, mode='predict')
        if 'seg_logits' in sample:
            assert sample.seg_logits.data.dtype is torch.float32
        else:
            coordinates.append(sample.pred_instances.bboxes)
        for boxes in filter(len, coordinates):
            assert boxes.dtype is torch.float32
            whole = torch.equal(boxes.round(), boxes)  # extents of masks
            assert whole or not torch.equal(boxes.bfloat16().float(), boxes)

    return check


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager]:
    """Within ``with full_disk(size)`` no file can grow beyond so many bytes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
