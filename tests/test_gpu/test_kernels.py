"""The attentions and backbones on the card: right, without waits, replayed and compiled."""

import copy
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from mmlab_inline import (
    InLineCSwin,
    InLineDeiT,
    InLinePVT,
    InLineSwin,
    L2ViT,
    build_attention,
    list_attentions,
)
from mmlab_inline.ops import triton_is_available


def shallow(embed_dims, num_heads, depths) -> dict:
    return dict(embed_dims=embed_dims, num_heads=num_heads, depths=depths, mlp_ratios=4)


AUTOCAST = {'float32': None, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
BACKBONES = {
    'pvt-t': (InLinePVT, 'tiny'),
    'swin-t': (InLineSwin, 'tiny'),
    # Of fewer blocks: the reference takes a CPU its time.
    'cswin-t': (InLineCSwin, shallow(64, (2, 4, 8, 16), (1, 1, 2, 1))),
    'deit-t': (InLineDeiT, shallow(192, 6, 2)),
    'l2vit-t': (L2ViT, shallow((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 2, 2))),
}
# The fast form, which the kernels are of, is for maps of three times as many tokens as channels.
SIZES = dict.fromkeys(BACKBONES, (96, 160)) | {'deit-t': (400, 480)}
# Largest error of outputs and of gradients, relative to the largest value.
TOLERANCES = {'float32': (1e-4, 1e-3), 'float16': (2e-2, 1e-1), 'bfloat16': (8e-2, 3e-1)}
precisions = pytest.mark.parametrize('precision', AUTOCAST)
backbones = pytest.mark.parametrize('name', BACKBONES)
with_kernels = pytest.mark.parametrize('name', [name for name in BACKBONES if name != 'l2vit-t'])
with_maps = pytest.mark.parametrize('name', ['pvt-t', 'swin-t'])


def autocast(device: str, precision: str):
    dtype = AUTOCAST[precision]
    return torch.autocast(device, dtype) if dtype else nullcontext()


@pytest.fixture(scope='session')
def build():
    """A tiny backbone in evaluation, the same at each call."""
    models = {}

    def build(name: str, **settings: object) -> nn.Module:
        key = name, *map(str, settings.items())
        if key not in models:
            torch.manual_seed(0)
            backbone, arch = BACKBONES[name]
            models[key] = backbone(arch, drop_path_rate=0.0, **settings).eval()
        return copy.deepcopy(models[key])

    return build


@pytest.fixture(scope='session')
def reference(build):
    """Outputs and gradients of parameters in float64 on the CPU, and the cotangents."""
    known = {}

    def compute(name: str, batch: int, size: tuple[int, int], **settings: object):
        key = name, batch, size, *settings
        if key not in known:
            torch.manual_seed(1)
            images = torch.randn(batch, 3, *size, dtype=torch.float64)
            model = build(name, **settings).double()
            outs = model(images)
            cotangents = [torch.randn_like(out) for out in outs]
            backward(outs, cotangents)
            known[key] = images, cotangents, [out.detach() for out in outs], gradients(model)
        return known[key]

    return compute


def backward(outs: list[Tensor], cotangents: list[Tensor]) -> None:
    """Frozen stages give outputs without gradient."""
    pairs = [pair for pair in zip(outs, cotangents, strict=True) if pair[0].requires_grad]
    torch.autograd.backward(*zip(*pairs, strict=True))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def error(actual: Tensor, expected: Tensor, scale: float = 0) -> float:
    scale = scale or expected.abs().max()
    return float((actual.double().cpu() - expected.cpu()).abs().max() / scale)


def errors(model, device, precision, images, cotangents, outs, grads) -> tuple[float, float]:
    """Of the outputs and of the gradients; each gradient relative to the largest in its layer."""
    found = run(model, device, precision, images, cotangents)
    largest = {}
    for name, grad in grads.items():
        layer = name.rpartition('.')[0]
        largest[layer] = max(largest.get(layer, 0.0), float(grad.abs().max()))
    of_outs = max(error(a, b) for a, b in zip(found, outs, strict=True))
    of_grads = max(
        error(grad, grads[name], largest[name.rpartition('.')[0]])
        for name, grad in gradients(model).items()
    )
    return of_outs, of_grads


def run(model, device, precision, images, cotangents) -> list[Tensor]:
    with autocast(device, precision):
        found = model(images.float().to(device))
    backward(found, [c.to(f) for c, f in zip(cotangents, found, strict=True)])
    return [out.detach() for out in found]


@pytest.mark.filterwarnings('error:InLine attention runs without')
@pytest.mark.parametrize('with_grad', [True, False])
@pytest.mark.parametrize('channels', [64, 96, 320, 512, 1024, 20, 18])
@precisions
def test_kernels_are_in_use(precision, channels, with_grad, device, on_card, monkeypatch):
    """And nothing is compiled once that is known."""
    monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
    mixer = build_attention('inline', channels, 2, grid=(8, 8)).to(device)
    x = torch.randn(2, 64 * 64, channels, device=device)
    compiled = []
    with autocast(device, precision), torch.set_grad_enabled(with_grad):
        available = triton_is_available(x)
        assert available is on_card
        if on_card:
            from triton import knobs

            knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told['repr'])
        out = mixer(x, (64, 64))
    if with_grad:
        out.sum().backward()
    if on_card:
        knobs.runtime.jit_post_compile_hook = None
    assert not compiled
    assert out.isfinite().all()


@precisions
@pytest.mark.parametrize('triton', ['1', '0'], ids=['triton', 'plain'])
@pytest.mark.parametrize(('batch', 'size'), [(3, (203, 331)), (1, (512, 512))])
@backbones
def test_backbone(
    name,
    batch,
    size,
    triton,
    precision,
    device,
    on_card,
    build,
    reference,
    record,
    launched,
    monkeypatch,
):
    monkeypatch.setenv('MMLAB_INLINE_TRITON', triton)
    size = size if on_card else (67, 98)
    expected = reference(name, batch, size)
    model = build(name).to(device)
    found = errors(model, device, precision, *expected)
    record(
        'Backbones against float64 on the CPU: largest relative error',
        backbone=name,
        images=f'{batch}x{size[0]}x{size[1]}',
        form='Triton' if launched else 'plain',
        precision=precision,
        outputs=f'{found[0]:.0e}',
        gradients=f'{found[1]:.0e}',
    )
    assert found[0] < TOLERANCES[precision][0] and found[1] < TOLERANCES[precision][1]


@pytest.mark.parametrize('kind', ['channels-last', 'with_cp', 'frozen', 'softmax'])
@with_maps
def test_backbone_in_other_ways(name, kind, device, on_card, build, reference, monkeypatch):
    monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
    settings = {
        'with_cp': {'with_cp': True},
        'frozen': {'frozen_stages': 1},
        'softmax': {'attention': 'softmax'},
    }.get(kind, {})
    images, *expected = reference(name, 2, (203, 331) if on_card else (67, 98), **settings)
    model = build(name, **settings).to(device)
    if kind == 'channels-last':
        images = images.contiguous(memory_format=torch.channels_last)
    found = errors(model, device, 'float32', images, *expected)
    assert found[0] < 1e-4 and found[1] < 1e-3


@with_kernels
def test_loss_scaling(name, device, build, kernels):
    """Three steps of float16 with a scaler, as mmengine's AmpOptimWrapper takes them."""
    model = build(name).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        with autocast(device, 'float16'):
            outs = model(torch.randn(2, 3, *SIZES[name], device=device))
        loss = sum(out.float().square().mean() for out in outs)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    assert any((p != old).any() for p, old in zip(model.parameters(), before, strict=True))


@precisions
@pytest.mark.parametrize('attention', list_attentions())
def test_every_attention(attention, precision, device, record, randomised, monkeypatch):
    monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
    torch.manual_seed(0)
    mixer = randomised(build_attention(attention, 64, 2, grid=(14, 14))).eval()
    exact = copy.deepcopy(mixer).double()
    x = torch.randn(2, 20 * 24, 64)
    leaf = x.double().requires_grad_()
    expected = exact(leaf, (20, 24))
    cotangent = torch.randn_like(expected)
    expected.backward(cotangent)
    mixer, given = mixer.to(device), x.to(device).requires_grad_()
    with autocast(device, precision):
        out = mixer(given, (20, 24))
    out.backward(cotangent.to(out))
    # Denominators near zero make single values wild in half precision.
    found = [
        float((actual.double().cpu() - exact).norm() / exact.norm())
        for actual, exact in ((out.detach(), expected.detach()), (given.grad, leaf.grad))
    ]
    record(
        'Every attention against float64 on the CPU: relative error (L2)',
        attention=attention,
        precision=precision,
        output=f'{found[0]:.0e}',
        gradient=f'{found[1]:.0e}',
    )
    assert found[0] < TOLERANCES[precision][0] and found[1] < TOLERANCES[precision][1]


@precisions
@with_kernels
def test_never_waits(name, precision, device, on_card, build, kernels):
    """The host runs ahead of the card, forwards and backwards."""
    model = build(name).train().to(device)
    images = torch.randn(2, 3, *SIZES[name], device=device)

    def step() -> None:
        with autocast(device, precision):
            outs = model(images)
        torch.autograd.backward(outs, [torch.ones_like(out) for out in outs])

    step()
    if on_card:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('error')
    try:
        step()
    finally:
        if on_card:
            torch.cuda.set_sync_debug_mode('default')


def test_large_maps_in_large_batches(device, on_card, monkeypatch):
    """The last sample beyond 2^28 values is what the plain form makes of it alone."""
    side, batch = (512, 16) if on_card else (32, 2)
    mixer = build_attention('inline', 64, 2, grid=(8, 8)).to(device)
    x = torch.randn(batch, side * side, 64, device=device)
    with torch.no_grad():
        together = mixer(x, (side, side))[-1:]
        monkeypatch.setenv('MMLAB_INLINE_TRITON', '0')
        alone = mixer(x[-1:], (side, side))
    assert error(together, alone) < 1e-5


def test_softmax_windows_of_a_large_map(device, on_card, build):
    """More windows than a launch has room for in one of its dimensions."""
    side = 4096 if on_card else 64
    model = build('swin-t', attention='softmax').to(device)
    with torch.no_grad(), autocast(device, 'bfloat16' if on_card else 'float32'):
        outs = model(torch.randn(1, 3, side, side, device=device))
    assert all(out.isfinite().all() for out in outs)


@with_kernels
def test_same_bits_twice(name, device, build, kernels):
    model = build(name).to(device)
    images = torch.randn(2, 3, *SIZES[name], device=device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        results = []
        for _ in range(2):
            model.zero_grad()
            outs = model(images)
            sum(out.square().mean() for out in outs).backward()
            results.append([*(out.detach() for out in outs), *gradients(model).values()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@with_kernels
def test_cuda_graph(name, on_card, build, kernels):
    """What a graph holds lives on, whatever the network does in between."""
    if not on_card:
        pytest.skip('needs a GPU')
    model = build(name).cuda()
    images = torch.randn(1, 3, *SIZES[name], device='cuda')
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                expected = model(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs = model(images)
        graph.replay()
        assert all(error(a, b) < 1e-5 for a, b in zip(outs, expected, strict=True))
        model.train().eval()
        for number in range(40):
            model(torch.randn(1, 3, 64 + 8 * number, 96, device='cuda'))
        images.copy_(torch.randn_like(images))
        expected = [out.clone() for out in model(images)]
        torch.empty(1 << 28, device='cuda').fill_(torch.nan)  # over what was freed
        graph.replay()
        torch.cuda.synchronize()
    assert all(error(a, b) < 1e-5 for a, b in zip(outs, expected, strict=True))


COLD = """
import torch
from mmlab_inline import build_attention
from mmlab_inline.ops import triton_is_available
mixer = build_attention('inline', 64, 2, grid=(8, 8)).cuda()
x = torch.ones(1, 4096, 64, device='cuda')
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
try:
    with torch.no_grad(), torch.cuda.graph(graph):
        mixer(x, (64, 64))
    print('captured')
except Exception as error:
    print('refused:', str(error).splitlines()[0])
assert triton_is_available(x)
assert mixer(x, (64, 64)).isfinite().all()
"""


def test_first_call_inside_a_capture(on_card, tmp_path):
    """Fails loudly or works; the next call runs the kernels."""
    if not on_card:
        pytest.skip('needs a GPU')
    environment = {
        **os.environ,
        'TRITON_CACHE_DIR': str(tmp_path),
        'MMLAB_INLINE_TRITON': '1',
    }
    done = subprocess.run(
        [sys.executable, '-c', COLD], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(('captured', 'refused'))


@pytest.mark.parametrize('mode', ['default', 'reduce-overhead'])
@with_maps
def test_compiled(name, mode, device, on_card, build_narrow, randomised):
    """By torch.compile into one graph, at two sizes."""
    torch._dynamo.reset()
    model = randomised(build_narrow(BACKBONES[name][0], drop_path_rate=0.0)).eval().to(device)
    compiled = torch.compile(model, fullgraph=True, mode=mode, dynamic=False)
    with torch.no_grad():
        for size in ((64, 96), (128, 96)):
            images = torch.randn(1, 3, *size, device=device)
            expected = model(images)
            for _ in range(3):  # recorded at the second call, replayed at the third
                outs = [out.clone() for out in compiled(images)]
            assert all(error(a, b) < 1e-3 for a, b in zip(outs, expected, strict=True))
