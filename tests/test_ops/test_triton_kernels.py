"""The kernels run on a GPU where there is one, and everywhere in Triton's interpreter.

The interpreter must be chosen before triton is imported: one test runs this file in a process of
its own. It rounds to bfloat16 towards zero, twice the error of a GPU.
"""

import copy
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from mmlab_inline.mixers import InLineAttention
from mmlab_inline.ops import (
    inline_attention_fast,
    inline_attention_fused,
    inline_attention_linear,
    inline_attention_naive,
    token_mean,
    triton_is_available,
)

from .test_inline_attention import NAMES, call, draw, largest_gradient, run, without_residual

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cpu' if INTERPRETED else 'cuda'
on_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason='test_in_interpreter runs it'
)
never_plain = pytest.mark.filterwarnings('error:InLine attention runs without')
# The package attribute of this name is the function.
fused = importlib.import_module('mmlab_inline.ops.inline_attention_fused')
if not fused._INSTALLED:
    pytest.skip('needs triton', allow_module_level=True)

# (H, W), channels, heads, batch
MAPS = [
    ((1, 1), 8, 2, 1),
    ((1, 13), 40, 5, 3),
    ((5, 7), 24, 3, 2),
    ((9, 14), 96, 1, 1),
    ((3, 5), 200, 5, 1),  # more than one tile of channels in every kernel
]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture
def kernels(monkeypatch):
    """The module of kernels, available on the device at hand, splitting small maps too."""
    from mmlab_inline.ops import triton_kernels

    monkeypatch.setattr(fused, '_DEVICE_TYPE', DEVICE)
    monkeypatch.setattr(triton_kernels, '_MIN_TOKENS_PER_SPLIT', 32)
    monkeypatch.setattr(triton_kernels, '_programs_wanted', lambda x: 64)
    return triton_kernels


@pytest.fixture
def not_tried_yet(monkeypatch):
    """Whether the kernels work has to be found out in this test, and is forgotten after it."""
    monkeypatch.setattr(fused, '_FOUND', {})


@pytest.fixture
def memory_full_of_nan():
    """Fills what is allocated, so that a partial sum that is read must have been written."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1, device=DEVICE).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def draw_on_device(dtype: torch.dtype, *args: object, **kwargs: object) -> dict[str, Tensor]:
    """As :func:`draw`, in float64 with values that ``dtype`` holds exactly."""
    inputs = draw(*args, **kwargs)
    return {name: tensor.to(dtype).double().to(DEVICE) for name, tensor in inputs.items()}


@pytest.mark.skipif(INTERPRETED, reason='this is that process')
def test_in_interpreter():
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__]
    environment.pop('PYTEST_ADDOPTS', None)
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout


@on_device
@never_plain
@pytest.mark.parametrize('mean', [0, 100])
@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize(('hw_shape', 'channels', 'num_heads', 'batch'), MAPS)
def test_equals_the_definition(
    hw_shape, channels, num_heads, batch, dtype, mean, kernels, memory_full_of_nan, assert_near
):
    inputs = draw_on_device(dtype, hw_shape, channels, mean, batch)
    reference = run(inline_attention_naive, inputs, hw_shape, num_heads)
    results = run(inline_attention_fused, inputs, hw_shape, num_heads, dtype=dtype)
    assert results['value'].dtype is dtype
    for name, expected in reference.items():
        # The key bias has no influence: its gradient is zero, or rounding noise.
        scale = largest_gradient(reference) if name == 'bk' else 0
        assert_near(results[name], expected, TOLERANCES[dtype], name, scale)


@on_device
@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize('mean', [0, 100, 1000])
@pytest.mark.parametrize(('num_tokens', 'channels'), [(1, 8), (33, 200), (335, 24)])
def test_mean_and_covariance_where_means_exceed_spreads(
    num_tokens, channels, mean, dtype, kernels, assert_near
):
    inputs = draw_on_device(dtype, (1, num_tokens), channels, mean)
    inputs['x'][:, 0] += 8  # an outlier where one would look for a typical token
    x = inputs['x'].to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    exact_mean = token_mean(exact)
    expected = exact_mean, (exact - exact_mean).mT @ (exact - exact_mean) / num_tokens
    results = kernels.token_mean_and_gram(x)
    assert all(result.dtype is torch.float32 for result in results)
    assert_near(results[0], expected[0], 2e-7, scale=8 + mean)
    assert_near(results[1], expected[1], 1e-5 if dtype is torch.float32 else 1e-3)

    cotangents = [torch.randn_like(result) for result in results]
    grad = torch.autograd.grad(results, x, cotangents)[0]
    exact_cotangents = [cotangent.double() for cotangent in cotangents]
    expected_grad = torch.autograd.grad(expected, exact, exact_cotangents)[0]
    tolerance = TOLERANCES[dtype] * max(1, mean / 100)  # the mean's own rounding
    assert_near(grad, expected_grad, tolerance)


@on_device
@never_plain
def test_covariance_known_already(kernels, assert_near):
    """Gradients also pass through the mean and the covariance that come with one another."""

    def form(x: Tensor, x_mean: Tensor, *args: object) -> Tensor:
        mean, gram = kernels.token_mean_and_gram(x)
        return inline_attention_fused(x, mean, *args, gram=gram)

    inputs = draw_on_device(torch.float32, (5, 7), 24, 100)
    reference = run(inline_attention_naive, inputs, (5, 7), 3)
    results = run(form, inputs, (5, 7), 3, dtype=torch.float32)
    for name in set(NAMES) - {'bk'} | {'value'}:
        assert_near(results[name], reference[name], 1e-5, name)


@on_device
@never_plain
@pytest.mark.parametrize('dtype', TOLERANCES)
def test_without_local_residual(dtype, kernels, assert_near):
    inputs = draw_on_device(dtype, (9, 14), 24, 1)
    assert triton_is_available(inputs['x'].to(dtype))
    reference = run(without_residual(inline_attention_naive), inputs, (9, 14), 3)
    results = run(without_residual(None), inputs, (9, 14), 3, dtype=dtype)
    for name, expected in reference.items():
        scale = largest_gradient(reference) if name == 'bk' else 0
        assert_near(results[name], expected, TOLERANCES[dtype], name, scale)


@on_device
@never_plain
@pytest.mark.parametrize('mean', [1, 100])
@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'half-inputs'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_half_precision_is_no_worse_than_the_textbook_form(dtype, autocast, mean, kernels):
    if INTERPRETED and dtype is torch.bfloat16:
        pytest.skip('the interpreter rounds to bfloat16 towards zero')
    given_dtype = torch.float32 if autocast else dtype
    inputs = draw_on_device(given_dtype, (12, 17), 32, mean)
    expected = run(inline_attention_naive, inputs, (12, 17), 2)
    errors = {}
    for form in (inline_attention_fused, inline_attention_linear):
        with torch.autocast(DEVICE, dtype, enabled=autocast):
            leaves = {name: inputs[name].to(given_dtype).requires_grad_() for name in NAMES}
            out = call(form, leaves, (12, 17), 2)
        assert out.dtype is dtype
        grads = torch.autograd.grad(
            out, list(leaves.values()), inputs['grad'].to(dtype), materialize_grads=True
        )
        results = {'value': out, **dict(zip(NAMES, grads, strict=True))}
        errors[form] = {
            name: (results[name].double() - expected[name]).square().mean().sqrt().item()
            for name in set(NAMES) - {'bk'} | {'value'}
        }
    for name, error in errors[inline_attention_fused].items():
        assert error <= 1.05 * errors[inline_attention_linear][name], name


@on_device
@never_plain
def test_any_layout(kernels, assert_near):
    """Neither inputs nor the incoming gradient need be contiguous."""
    inputs = draw_on_device(torch.float32, (5, 7), 24, 1)
    inputs['grad'] = inputs['grad'][:1, :1].expand_as(inputs['grad'])
    reference = run(inline_attention_naive, inputs, (5, 7), 3)
    for name in ('x', 'local_kernel'):
        inputs[name] = inputs[name].transpose(0, 1).contiguous().transpose(0, 1)
        assert not inputs[name].is_contiguous()
    results = run(inline_attention_fused, inputs, (5, 7), 3, dtype=torch.float32)
    for name in set(NAMES) - {'bk'} | {'value'}:
        assert_near(results[name], reference[name], 1e-5, name)


@on_device
@never_plain
@pytest.mark.parametrize('autocast', [True, False])
def test_compiles_without_graph_break(autocast, kernels, not_tried_yet, assert_near):
    def attend(*args: object) -> Tensor:
        with torch.autocast(DEVICE, torch.float16, enabled=autocast):
            return inline_attention_fused(*args)

    graphs = []

    def note(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(graph.code)
        return aot_eager(graph, inputs)

    aot_eager = torch._dynamo.lookup_backend('aot_eager')
    inputs = draw_on_device(torch.float16, (5, 7), 24, 1)
    # First compiled: it has to find out while tracing that the kernels work.
    compiled = torch.compile(attend, fullgraph=True, backend=note)
    results = {
        function: run(function, inputs, (5, 7), 3, dtype=torch.float32)
        for function in (compiled, attend)
    }
    assert all('mmlab_inline.project_and_local_residual' in graph for graph in graphs) and graphs
    for name in set(NAMES) - {'bk'} | {'value'}:  # on a GPU the order of sums differs
        tolerance = TOLERANCES[torch.float16 if autocast else torch.float32]
        assert_near(results[compiled][name], results[attend][name], tolerance, name)


@on_device
@never_plain
@pytest.mark.parametrize('with_grad', [True, False])
def test_a_profiler_sees_operators(with_grad, kernels):
    """Whose names it gives to the kernels in them."""
    attention = InLineAttention(24, 3).to(DEVICE)
    x = torch.randn(2, 9 * 14, 24, device=DEVICE)
    with profile(activities=[ProfilerActivity.CPU]) as record, torch.set_grad_enabled(with_grad):
        out = attention(x.requires_grad_(with_grad), (9, 14))
        if with_grad:
            out.sum().backward()
    wanted = {'token_mean_and_gram', 'project_and_local_residual'}
    if with_grad:  # PyTorch 2.14 has no event of cross_moment, which takes tensors alone
        wanted |= {'centred_product', 'local_residual_backward'}
    assert {event.key for event in record.key_averages()} >= {
        f'mmlab_inline::{name}' for name in wanted
    }


@on_device
def test_operators_are_registered_correctly(kernels):
    """Schemas, shapes without values and gradients, as torch's own check sees them."""
    x, v = torch.randn(2, 2, 35, 24, device=DEVICE, requires_grad=True).unbind()
    matrix, bias = (torch.randn(2, n, 24, device=DEVICE, requires_grad=True) for n in (24, 1))
    kernel = torch.randn(2, 24, 3, 3, device=DEVICE, requires_grad=True)
    calls = {
        kernels._token_mean_and_gram: (x, 'tf32'),
        kernels._centred_product: (
            x.detach(),
            bias.detach(),
            matrix.detach(),
            bias.detach(),
            'tf32',
        ),
        kernels._project_and_local_residual: (x, v, matrix, bias, kernel, (5, 7)),
        kernels._cross_moment: (x.detach(), v.detach()),
        kernels._local_residual_backward: (x.detach(), v.detach(), kernel.detach(), (5, 7)),
    }
    for operator, args in calls.items():
        torch.library.opcheck(operator, args)


@on_device
def test_kernels_can_be_switched_off(kernels, monkeypatch):
    x = torch.ones(1, 2, 8, device=DEVICE)
    assert triton_is_available(x)
    assert not triton_is_available(x.double())
    assert not triton_is_available(x.to('meta'))
    monkeypatch.setenv('MMLAB_INLINE_TRITON', '0')
    assert not triton_is_available(x)


@on_device
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_exports_take_the_plain_form(kernels):
    inputs = {
        name: tensor.float() for name, tensor in draw_on_device(torch.float32, (2, 3), 8, 1).items()
    }

    class Attention(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(inline_attention_fused, {**inputs, 'x': x}, (2, 3), 2)

    program = torch.export.export(Attention(), (inputs['x'],), strict=False)
    traced = torch.jit.trace(Attention(), inputs['x'], check_trace=False)
    for graph in (program.graph, traced.inlined_graph):
        assert 'baddbmm' in str(graph)
        assert 'project_and_local_residual' not in str(graph)


@on_device
@never_plain
def test_class_token(kernels, randomised, assert_near):
    """Before the tokens of a map, against the definition in float64."""
    attention = randomised(InLineAttention(24, 3, class_token=True)).to(DEVICE)
    exact = copy.deepcopy(attention).double()
    x = torch.randn(2, 1 + 9 * 14, 24, device=DEVICE, requires_grad=True)
    assert fused.triton_is_available(x)
    out = attention(x, (9, 14))
    double = x.detach().double().requires_grad_()
    mean = double.mean(1, keepdim=True)
    expected = exact.proj(
        inline_attention_naive(
            double, mean, (9, 14), exact.params(), exact.local_kernel(mean), class_token=True
        )
    )
    cotangent = torch.randn_like(out)
    out.backward(cotangent)
    expected.backward(cotangent.double())
    assert_near(out, expected, 1e-5)
    assert_near(x.grad, double.grad, 1e-5)
    for name, parameter in attention.named_parameters():
        part = slice(24 if name == 'kv.bias' else 0, None)  # the keys' has no gradient
        assert_near(parameter.grad[part], exact.get_parameter(name).grad[part], 1e-5, name)


@on_device
def test_plain_form_where_a_kernel_does_not_compile(kernels, not_tried_yet, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError('out of resource: shared memory\nand more')

    monkeypatch.setattr(kernels, '_launch_project', fail)
    inputs = draw_on_device(torch.float32, (5, 7), 24, 1)
    with pytest.warns(UserWarning, match=r'without its Triton kernels.*shared memory$') as record:
        results = [
            run(inline_attention_fused, inputs, (5, 7), 3, dtype=torch.float32) for _ in range(2)
        ]
    assert len([said for said in record if 'Triton kernels' in str(said.message)]) == 1
    expected = run(inline_attention_fast, inputs, (5, 7), 3, dtype=torch.float32)
    for result in results:
        assert all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ('variable', 'value'), [('PATH', ''), ('CC', 'false')], ids=['no-compiler', 'no-headers']
)
@on_device
def test_one_line_where_triton_cannot_compile_its_launcher(
    variable, value, kernels, not_tried_yet, monkeypatch, tmp_path
):
    build = importlib.import_module('triton.runtime.build')
    if not hasattr(build, 'compile_module_from_src'):
        pytest.skip('Triton before 3.4 compiles its launcher elsewhere')
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    start = partial(build.compile_module_from_src, '#include <Python.h>', 'launcher')
    monkeypatch.setattr(kernels, '_launch_moments', lambda *args, **kwargs: start())
    x = torch.ones(1, 2, 8, device=DEVICE)
    with pytest.warns(UserWarning, match='without its Triton kernels: ') as record:
        assert not triton_is_available(x)
    (warning,) = record
    assert str(warning.message).endswith('apt-get install gcc python3-dev')


@on_device
@never_plain
@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory'),
        # Of the driver, which finds no room for a kernel.
        RuntimeError('Triton Error [CUDA]: out of memory'),
    ],
    ids=['torch', 'triton'],
)
def test_out_of_memory_in_the_first_call_is_not_kept(error, kernels, not_tried_yet, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    x = torch.ones(1, 2, 8, device=DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, '_launch_moments', fail)
        with pytest.raises(torch.OutOfMemoryError, match='out of memory'):
            triton_is_available(x)
    assert triton_is_available(x)


@on_device
def test_first_call_while_a_graph_is_captured_is_not_kept(kernels, not_tried_yet, monkeypatch):
    x = torch.ones(1, 2, 8, device=DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, 'is_initialized', lambda: True)
        patch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
        with pytest.warns(UserWarning, match='run the model once before the capture'):
            assert not triton_is_available(x)
    assert triton_is_available(x)
    # Known by now, also in a capture.
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert triton_is_available(x)


@on_device
@never_plain
def test_fake_tensors_tell_nothing_about_real_ones(kernels, not_tried_yet):
    x = torch.ones(1, 2, 8, device=DEVICE)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert not triton_is_available(x)
        fake = torch.ones(1, 2, 8, device=DEVICE)
        assert not triton_is_available(fake)
    assert not triton_is_available(mode.from_tensor(x))
    assert triton_is_available(x)


@on_device
@never_plain
def test_first_call_inside_checkpointing(kernels, not_tried_yet, assert_near):
    """Whether the kernels work is then found out under hooks that would run the caller again."""
    inputs = draw_on_device(torch.float32, (5, 7), 24, 1)

    def attend(x: Tensor, x_mean: Tensor, *args: object) -> Tensor:
        return checkpoint(inline_attention_fused, x, x_mean, *args, use_reentrant=False)

    results = run(attend, inputs, (5, 7), 3, dtype=torch.float32)
    assert triton_is_available(inputs['x'].float().requires_grad_())
    expected = run(inline_attention_fused, inputs, (5, 7), 3, dtype=torch.float32)
    for name, value in expected.items():
        assert torch.equal(results[name], value), name


@on_device
def test_plain_form_where_kernels_cannot_follow(kernels):
    """In functional transforms and for an empty batch."""
    inputs = draw_on_device(torch.float32, (5, 7), 24, 1)
    inputs = {name: tensor.float() for name, tensor in inputs.items()}

    def attend(x: Tensor) -> Tensor:
        return call(inline_attention_fused, {**inputs, 'x': x}, (5, 7), 3).square().sum()

    x = inputs['x'].requires_grad_()
    assert triton_is_available(x)
    expected = torch.autograd.grad(call(inline_attention_fast, inputs, (5, 7), 3).square().sum(), x)
    torch.testing.assert_close(torch.func.grad(attend)(x.detach()), expected[0])
    _, tangent = torch.func.jvp(attend, (x.detach(),), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, expected[0].sum(), rtol=1e-4, atol=1e-4)
    assert not triton_is_available(x[:0])


def test_plain_form_without_a_gpu():
    x = torch.ones(1, 2, 8)
    assert not triton_is_available(x)
    inputs = draw((5, 7), 24, 1)
    expected = call(inline_attention_fast, inputs, (5, 7), 3)
    assert torch.equal(call(inline_attention_fused, inputs, (5, 7), 3), expected)
    with pytest.raises(ValueError, match='relu'):
        call(inline_attention_fused, inputs, (5, 7), 3, 'relu')


@on_device
@never_plain
@pytest.mark.parametrize('known', [False, True], ids=['mean-apart', 'mean-from-the-kernel'])
def test_gradients_of_gradients(known, kernels, assert_near):
    def form(x: Tensor, x_mean: Tensor, *args: object) -> Tensor:
        if not known:
            return inline_attention_fused(x, x_mean, *args)
        mean, gram = kernels.token_mean_and_gram(x)
        return inline_attention_fused(x, mean, *args, gram=gram)

    inputs = draw_on_device(torch.float32, (5, 7), 24, 1)
    directions = [torch.randn_like(inputs[name]) for name in NAMES]
    seconds = {}
    for function, dtype in ((form, torch.float32), (inline_attention_naive, torch.float64)):
        leaves = {name: inputs[name].to(dtype).requires_grad_() for name in NAMES}
        wanted = list(leaves.values())
        out = call(function, leaves, (5, 7), 3)
        first = torch.autograd.grad(
            out, wanted, inputs['grad'].to(dtype), create_graph=True, materialize_grads=True
        )
        total = sum((g * d.to(dtype)).sum() for g, d in zip(first, directions, strict=True))
        seconds[function] = torch.autograd.grad(total, wanted, materialize_grads=True)
    for name, second, expected in zip(NAMES, *seconds.values(), strict=True):
        if name != 'bk':  # rounding noise
            assert_near(second, expected, 1e-5, name)
