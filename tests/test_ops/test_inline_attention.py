from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab_inline.ops import (
    KERNELS,
    InLineWeights,
    banded,
    fast_form_is_cheaper,
    inline_attention,
    inline_attention_banded,
    inline_attention_fast,
    inline_attention_linear,
    inline_attention_naive,
    inline_attention_weights,
    token_mean,
)

FORMS = {
    'naive': inline_attention_naive,
    'linear': inline_attention_linear,
    'fast': inline_attention_fast,
    'banded': inline_attention_banded,
}
# (H, W), channels, heads
MAPS = [
    ((1, 1), 8, 2),
    ((1, 5), 8, 1),
    ((7, 7), 16, 4),
    ((9, 14), 24, 3),
    ((13, 11), 16, 1),
    ((37, 53), 8, 2),
]
NAMES = ('x', 'wq', 'wk', 'wv', 'bq', 'bk', 'bv', 'local_kernel')


def draw(
    hw_shape: tuple[int, int], channels: int, mean: float, batch: int = 2
) -> dict[str, Tensor]:
    """Inputs and a cotangent in float64 that float32 holds exactly; tokens have spread 1."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape).double()

    num_tokens = hw_shape[0] * hw_shape[1]
    # Every channel has the mean +-1 times `mean`, so the ratio of mean to spread is exact.
    x = normal(batch, num_tokens, channels) + mean * normal(channels).sign()
    inputs = {'x': x.float().double()}
    for name in NAMES[1:4]:
        inputs[name] = (normal(channels, channels) * channels**-0.5).float().double()
    for name in NAMES[4:7]:
        inputs[name] = normal(channels)
    inputs['local_kernel'] = normal(batch, channels, 3, 3)
    inputs['grad'] = normal(batch, num_tokens, channels)
    return inputs


def call(
    form: Callable[..., Tensor],
    inputs: dict[str, Tensor],
    hw_shape: tuple[int, int],
    num_heads: int,
    kernel: str = 'identity',
) -> Tensor:
    x, wq, wk, wv, bq, bk, bv, local_kernel = (inputs[name] for name in NAMES)
    return form(
        x,
        token_mean(x),
        hw_shape,
        InLineWeights((wq, wk, wv), (bq, bk, bv), num_heads, kernel),
        local_kernel,
    )


def run(
    form: Callable[..., Tensor],
    inputs: dict[str, Tensor],
    hw_shape: tuple[int, int],
    num_heads: int,
    kernel: str = 'identity',
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Value and gradients; that of ``x`` includes the path through the token mean."""
    leaves = {name: inputs[name].to(dtype).requires_grad_() for name in NAMES}
    out = call(form, leaves, hw_shape, num_heads, kernel)
    grads = torch.autograd.grad(
        out, list(leaves.values()), inputs['grad'].to(dtype), materialize_grads=True
    )
    return {'value': out.detach(), **dict(zip(NAMES, grads, strict=True))}


def largest_gradient(results: dict[str, Tensor]) -> float:
    return max(results[name].abs().max().item() for name in NAMES)


@pytest.mark.parametrize('mean', [1, 10, 100])
@pytest.mark.parametrize(('hw_shape', 'channels', 'num_heads'), MAPS)
def test_forms_are_equal(hw_shape, channels, num_heads, mean, assert_near):
    inputs = draw(hw_shape, channels, mean)
    reference = run(inline_attention_naive, inputs, hw_shape, num_heads)
    for form in ('linear', 'fast', 'banded'):
        for dtype in (torch.float64, torch.float32):
            results = run(FORMS[form], inputs, hw_shape, num_heads, dtype=dtype)
            tolerance = 1e-10 if dtype is torch.float64 else 1e-5
            if form == 'linear' and mean == 100 and dtype is torch.float32:
                # Not the algorithm: rounding k and v of size 100 to float32 already moves what
                # remains of them after centring. The fast form never rounds them uncentred, and
                # stays below 1e-6; the definition itself reaches 3e-3 in float32.
                tolerance = 5e-5
            for name, expected in reference.items():
                # The key bias has no influence: its gradient is zero, or rounding noise.
                scale = largest_gradient(reference) if name == 'bk' else 0
                label = f'{form} {dtype} {name}'
                assert_near(results[name], expected, tolerance, label, scale)


def without_residual(form: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """A form, or for None what dispatch takes, with the value's weights as output projection."""

    def call_without(
        x: Tensor, x_mean: Tensor, hw_shape: tuple[int, int], params: InLineWeights, _: Tensor
    ) -> Tensor:
        projection = params.weights[2], params.biases[2]
        if form is None:
            return inline_attention(x, hw_shape, params, None, projection)
        return F.linear(form(x, x_mean, hw_shape, params, None), *projection)

    return call_without


@pytest.mark.parametrize('mean', [1, 10])
@pytest.mark.parametrize(('hw_shape', 'channels', 'num_heads'), MAPS)
def test_forms_are_equal_without_local_residual(hw_shape, channels, num_heads, mean, assert_near):
    inputs = draw(hw_shape, channels, mean)
    reference = run(without_residual(inline_attention_naive), inputs, hw_shape, num_heads)
    for form in (inline_attention_linear, inline_attention_fast, None):
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            results = run(without_residual(form), inputs, hw_shape, num_heads, dtype=dtype)
            for name, expected in reference.items():
                scale = largest_gradient(reference) if name == 'bk' else 0
                assert_near(results[name], expected, tolerance, f'{form} {dtype} {name}', scale)


@pytest.mark.parametrize('mean', [10, 100])
def test_fast_form_is_closer_than_definition_where_means_exceed_spreads(mean):
    inputs = draw((9, 14), 24, mean)
    reference = run(inline_attention_naive, inputs, (9, 14), 3)

    def errors(form: str) -> Tensor:
        results = run(FORMS[form], inputs, (9, 14), 3, dtype=torch.float32)
        names = ('value', 'x', 'wq', 'wk', 'wv', 'bq', 'bv')
        return torch.tensor(
            [
                (results[name].double() - reference[name]).abs().max() / reference[name].abs().max()
                for name in names
            ]
        )

    assert errors('fast').max() < 3e-6
    assert errors('fast').max() < 0.1 * errors('naive').max()


def test_key_bias_has_exactly_zero_gradient_in_fast_form():
    results = run(inline_attention_fast, draw((7, 7), 16, 1), (7, 7), 4)
    assert (results['bk'] == 0).all()


def test_gradient_of_mean_is_part_of_gradient_of_x():
    """The equality test would also pass if every form dropped it alike; finite differences not."""
    inputs = draw((2, 3), 4, 1, batch=1)
    for form in FORMS.values():

        def value(x: Tensor, form: Callable[..., Tensor] = form) -> Tensor:
            return call(form, {**inputs, 'x': x}, (2, 3), 2)

        assert torch.autograd.gradcheck(value, inputs['x'].clone().requires_grad_())


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize(('hw_shape', 'channels', 'num_heads'), MAPS[:5])
def test_linear_form_holds_for_every_kernel(hw_shape, channels, num_heads, kernel, assert_near):
    inputs = draw(hw_shape, channels, 1)
    reference = run(inline_attention_naive, inputs, hw_shape, num_heads, kernel)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        results = run(inline_attention_linear, inputs, hw_shape, num_heads, kernel, dtype)
        for name, expected in reference.items():
            scale = largest_gradient(reference) if name == 'bk' else 0
            assert_near(results[name], expected, tolerance, f'{dtype} {name}', scale)


def test_kernels_differ_and_are_the_stated_functions():
    x = torch.tensor([-2.0, -0.5, 0.0, 3.0])
    expected = {
        'identity': x,
        'relu': torch.tensor([0.0, 0.0, 0.0, 3.0]),
        'leakyrelu': torch.tensor([-0.02, -0.005, 0.0, 3.0]),
        'exp': (0.2 * x).exp(),
    }
    assert set(KERNELS) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(KERNELS[name](x), values)


@pytest.mark.parametrize('form', ['fast', 'banded'])
@pytest.mark.parametrize('kernel', sorted(set(KERNELS) - {'identity'}))
def test_fast_forms_refuse_other_kernels(form, kernel):
    with pytest.raises(ValueError, match=kernel):
        call(FORMS[form], draw((2, 2), 4, 0), (2, 2), 1, kernel)


def test_weights_against_the_formula_written_as_loops():
    q, k = torch.randn(2, 1, 1, 5, 4).double()
    weights = inline_attention_weights(q, k)[0, 0]
    scale = 4**-0.5 / 5
    for i in range(5):
        products = [float(q[0, 0, i] @ k[0, 0, j]) for j in range(5)]
        for j in range(5):
            expected = scale * (products[j] - sum(products) / 5) + 1 / 5
            assert float(weights[i, j]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('kernel', KERNELS)
def test_rows_sum_to_one_and_may_be_negative(kernel):
    q, k = 3 * torch.randn(2, 2, 3, 40, 8).double()
    weights = inline_attention_weights(q, k, kernel)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 40).double())
    assert (weights < 0).any()


def test_injective_where_divisive_normalisation_is_not():
    """Paper, sec. 3: queries of one direction and different lengths must be told apart."""
    query, k = torch.randn(1, 1, 1, 8).double(), torch.randn(1, 1, 30, 8).double()
    short_and_long = torch.cat([query, 3 * query], dim=2)

    products = short_and_long.relu() @ k.relu().transpose(-2, -1)
    divisive = products / products.sum(-1, keepdim=True)
    torch.testing.assert_close(divisive[..., 0, :], divisive[..., 1, :])

    for kernel in KERNELS:
        weights = inline_attention_weights(short_and_long, k, kernel)
        assert (weights[..., 0, :] - weights[..., 1, :]).abs().max() > 1e-3


@pytest.mark.parametrize('mean', [1, 100])
@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'half-inputs'])
@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'], indirect=True
)
def test_half_precision_on_64000_tokens(dtype, autocast, mean):
    hw_shape, num_heads = (200, 320), 2
    inputs = draw(hw_shape, 64, mean, batch=1)
    given = {name: inputs[name].to(torch.float32 if autocast else dtype) for name in NAMES}
    exact = {name: tensor.double() for name, tensor in given.items()}
    expected = call(inline_attention_linear, exact, hw_shape, num_heads)
    scale = expected.abs().max()
    largest, typical = {}, {}
    for form in ('linear', 'fast'):
        with torch.autocast('cpu', dtype, enabled=autocast):
            out = call(FORMS[form], given, hw_shape, num_heads)
        assert out.dtype is dtype
        assert out.isfinite().all()
        difference = (out.double() - expected) / scale
        largest[form] = difference.abs().max().item()
        typical[form] = difference.square().mean().sqrt().item()
    # Typically 0.84 to 1.02 times the linear form's error, at mean 100 down to 0.1 times; the
    # largest of 4 million errors is luck, give or take a rounding step.
    assert typical['fast'] <= 1.05 * typical['linear']
    assert largest['fast'] <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'half-inputs'])
@pytest.mark.parametrize('form', ['linear', 'fast'])
@pytest.mark.parametrize('dtype', [torch.float16], ids=['fp16'], indirect=True)
def test_sums_over_64000_tokens_do_not_overflow(dtype, form, autocast, assert_near):
    inputs = draw((200, 320), 64, 1, batch=1)
    inputs['x'] *= 8  # an unscaled sum of squares would be 8^2 * 64,000, the largest half is 65,504
    given = {name: inputs[name].to(torch.float32 if autocast else dtype) for name in NAMES}
    exact = {name: tensor.double() for name, tensor in given.items()}
    with torch.autocast('cpu', dtype, enabled=autocast):
        out = call(FORMS[form], given, (200, 320), 2)
    assert_near(out, call(inline_attention_linear, exact, (200, 320), 2), 2e-3)


@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'], indirect=True
)
def test_half_precision_gradients_are_finite(dtype):
    inputs = draw((200, 320), 64, 10, batch=1)
    for form in ('linear', 'fast'):
        leaves = {name: inputs[name].float().requires_grad_() for name in NAMES}
        with torch.autocast('cpu', dtype):
            out = call(FORMS[form], leaves, (200, 320), 2)
        grads = torch.autograd.grad(out.float().mean(), list(leaves.values()), allow_unused=True)
        assert all(grad.isfinite().all() for grad in grads if grad is not None)


def test_token_mean_is_float32_for_half_input():
    x = torch.full((1, 5000, 2), 60000.0, dtype=torch.float16)
    mean = token_mean(x)
    assert mean.dtype is torch.float32
    assert (mean == x[:, :1].float()).all()
    assert token_mean(x.double()).dtype is torch.float64


def test_choice_of_form():
    assert fast_form_is_cheaper(200 * 320, 64, 'identity')
    assert not fast_form_is_cheaper(200 * 320, 64, 'relu')
    # Small maps with many channels, for which the fast form is several times slower.
    assert not fast_form_is_cheaper(49, 512, 'identity')
    assert not fast_form_is_cheaper(196, 320, 'identity')


def dispatched(inputs: dict[str, Tensor], hw_shape: tuple[int, int]) -> Tensor:
    def predict(mean: Tensor) -> Tensor:
        assert torch.equal(mean, token_mean(inputs['x'])[:, 0].to(inputs['x'].dtype))
        return inputs['local_kernel']

    x, wq, wk, wv, bq, bk, bv, _ = (inputs[name] for name in NAMES)
    params = InLineWeights((wq, wk, wv), (bq, bk, bv), 3)
    return inline_attention(x, hw_shape, params, predict, (wv, bv))


def projected(form: str, inputs: dict[str, Tensor], hw_shape: tuple[int, int]) -> Tensor:
    return F.linear(call(FORMS[form], inputs, hw_shape, 3), inputs['wv'], inputs['bv'])


@pytest.mark.parametrize(('hw_shape', 'form'), [((9, 14), 'banded'), ((2, 3), 'linear')])
def test_dispatch_runs_the_chosen_form(hw_shape, form, assert_near):
    inputs = draw(hw_shape, 24, 1)
    assert fast_form_is_cheaper(hw_shape[0] * hw_shape[1], 24, 'identity') == (form == 'banded')
    expected = projected(form, inputs, hw_shape)
    assert torch.equal(dispatched(inputs, hw_shape), expected)
    with torch.no_grad():  # there the bands are projected one by one
        assert_near(dispatched(inputs, hw_shape), expected, 1e-12, 'without gradients')


def test_dispatch_leaves_autocast_and_half_precision_to_plain_operations():
    inputs = {name: tensor.float() for name, tensor in draw((9, 14), 24, 1).items()}
    half = {name: tensor.bfloat16() for name, tensor in inputs.items()}
    for given, autocast in ((inputs, True), (half, False)):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = dispatched(given, (9, 14))
            assert torch.equal(out, projected('fast', given, (9, 14)))


@pytest.mark.parametrize('rows', [1, 2, 4])
def test_bands_do_not_show(rows, monkeypatch, assert_near):
    hw_shape = (11, 5)
    inputs = draw(hw_shape, 8, 1)
    whole = run(inline_attention_fast, inputs, hw_shape, 2)
    monkeypatch.setattr(banded, 'MIN_BAND_ROWS', 1)
    monkeypatch.setattr(banded, 'BAND_ELEMENTS', rows * 5 * 8)
    results = run(inline_attention_banded, inputs, hw_shape, 2)
    for name, expected in whole.items():
        scale = largest_gradient(whole) if name == 'bk' else 0
        assert_near(results[name], expected, 1e-12, name, scale)


def test_banded_form_keeps_nothing_but_x():
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaves = {name: tensor.requires_grad_() for name, tensor in draw((40, 40), 8, 1).items()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call(inline_attention_banded, leaves, (40, 40), 2)
    as_long_as_x = [size for size in kept.values() if size >= leaves['x'].nbytes]
    assert as_long_as_x == [leaves['x'].nbytes]


def test_batch_mates_do_not_matter(assert_near):
    inputs = draw((9, 14), 24, 1, batch=3)
    for form in FORMS.values():
        together = call(form, inputs, (9, 14), 3)
        for index in range(3):
            alone = {**inputs, 'x': inputs['x'][index : index + 1]}
            alone['local_kernel'] = inputs['local_kernel'][index : index + 1]
            assert_near(call(form, alone, (9, 14), 3), together[index : index + 1], 1e-12)


@pytest.mark.parametrize('frozen', [(), ('x', 'wk'), ('wq', 'wk', 'wv', 'bq', 'bv')], ids=str)
@pytest.mark.parametrize('form', FORMS)
def test_gradients_of_gradients(form, frozen, monkeypatch):
    """Checked against differences, with some inputs that need no gradient."""
    monkeypatch.setattr(banded, 'BAND_ELEMENTS', 1)
    monkeypatch.setattr(banded, 'MIN_BAND_ROWS', 2)
    inputs = draw((5, 2), 4, 1)
    leaves = {name: inputs[name].requires_grad_(name not in frozen) for name in NAMES}
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]

    def attend(*given: Tensor) -> Tensor:
        given = iter(given)
        new = {key: next(given) if x.requires_grad else x for key, x in leaves.items()}
        return call(FORMS[form], new, (5, 2), 2)

    assert torch.autograd.gradgradcheck(attend, wanted)
