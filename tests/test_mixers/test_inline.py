import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from mmlab_inline import InLineAttention
from mmlab_inline.layers import Mlp
from mmlab_inline.ops import InLineWeights, inline_attention_naive, token_mean


@pytest.mark.parametrize('form', ['fast', 'linear'])
def test_released_attention_with_gradients(form, golden, use_form, assert_near):
    use_form(form)
    weights, fixture = golden('inline_attention_pvt_dim32_heads2_9x14')
    attention = InLineAttention(32, 2, qkv='separate')
    attention.load_state_dict(weights, strict=True)
    x = fixture['x'].requires_grad_()
    y = attention(x, (9, 14))
    assert_near(y, fixture['y'], 1e-5, 'y')

    y.backward(fixture['grad_y'])
    assert_near(x.grad, fixture['grad_x'], 1e-5, 'grad_x')
    names = {name for name in fixture if name.startswith('grad.')}
    assert names == {f'grad.{name}' for name, _ in attention.named_parameters()}
    largest = max(fixture[name].abs().max().item() for name in names)
    for name, parameter in attention.named_parameters():
        expected = fixture[f'grad.{name}']
        if name == 'kv.bias':
            # The key bias has no influence; the released form leaves rounding noise.
            assert_near(parameter.grad[:32], expected[:32], 1e-5, name, scale=largest)
            assert_near(parameter.grad[32:], expected[32:], 1e-5, name)
        else:
            assert_near(parameter.grad, expected, 1e-5, name)


@pytest.mark.parametrize(
    ('kernel', 'form'),
    [
        ('identity', 'fast'),
        ('identity', 'linear'),
        ('relu', 'linear'),
        ('leakyrelu', 'linear'),
        ('exp', 'linear'),
    ],
)
def test_released_kernels(kernel, form, golden, use_form, assert_near):
    use_form(form)
    weights, fixture = golden(f'inline_attention_swin_dim32_heads2_8x8_{kernel}')
    attention = InLineAttention(32, 2, qkv='joint', kernel=kernel)
    attention.load_state_dict(weights, strict=True)
    assert_near(attention(fixture['x'], (8, 8)), fixture['y'], 1e-5)


@pytest.mark.parametrize('qkv', ['separate', 'joint'])
@pytest.mark.parametrize('hw_shape', [(1, 1), (1, 5), (5, 1), (9, 14), (13, 11)])
def test_equals_definition_at_any_map(hw_shape, qkv, randomised, assert_near):
    attention = randomised(InLineAttention(12, 3, qkv=qkv)).double()
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 12).double()
    mean = x.sum(1) / x.shape[1]
    hidden = F.gelu(F.conv1d(mean[..., None], *attention.residual[0].parameters(), groups=3))
    flat = F.conv1d(hidden, *attention.residual[2].parameters(), groups=3)[..., 0]
    # Channel-major: outputs 9 c to 9 c + 8 are the kernel of channel c, row by row.
    local_kernel = torch.stack(
        [flat[:, 9 * c : 9 * c + 9].reshape(2, 3, 3) for c in range(12)], dim=1
    )
    if qkv == 'joint':
        weight, bias = attention.qkv.weight, attention.qkv.bias
    else:
        weight = torch.cat([attention.q.weight, attention.kv.weight])
        bias = torch.cat([attention.q.bias, attention.kv.bias])
    params = InLineWeights(weight.split(12), bias.split(12), 3)
    out = inline_attention_naive(x, token_mean(x), hw_shape, params, local_kernel)
    assert_near(attention(x, hw_shape), attention.proj(out), 1e-12)


@pytest.mark.parametrize('qkv', ['separate', 'joint'])
def test_state_dict(qkv):
    shapes = {
        name: tuple(value.shape)
        for name, value in InLineAttention(12, 3, qkv=qkv).state_dict().items()
    }
    projections = {
        'separate': {
            'q.weight': (12, 12),
            'q.bias': (12,),
            'kv.weight': (24, 12),
            'kv.bias': (24,),
        },
        'joint': {'qkv.weight': (36, 12), 'qkv.bias': (36,)},
    }
    assert shapes == {
        **projections[qkv],
        'proj.weight': (12, 12),
        'proj.bias': (12,),
        'residual.0.weight': (12, 4, 1),
        'residual.0.bias': (12,),
        'residual.2.weight': (108, 4, 1),
        'residual.2.bias': (108,),
    }


def by_hand(
    attention: InLineAttention, x: Tensor, hw_shape: tuple[int, int], size: int, shift: bool
) -> Tensor:
    """Each window of the padded map is a map of its own."""
    batch, (height, width) = len(x), hw_shape
    rows, cols = -(-height // size), -(-width // size)
    step = size // 2 if shift else 0
    steps = (step if rows > 1 else 0, step if cols > 1 else 0)
    image = torch.zeros(batch, rows * size, cols * size, x.shape[-1], dtype=x.dtype)
    image[:, :height, :width] = x.view(batch, height, width, -1)
    image = image.roll((-steps[0], -steps[1]), (1, 2))
    out = torch.empty_like(image)
    for top in range(0, rows * size, size):
        for left in range(0, cols * size, size):
            window = image[:, top : top + size, left : left + size]
            result = attention(window.reshape(batch, size * size, -1), (size, size))
            out[:, top : top + size, left : left + size] = result.view_as(window)
    return out.roll(steps, (1, 2))[:, :height, :width].flatten(1, 2)


@pytest.mark.parametrize('shift', [False, True])
@pytest.mark.parametrize('hw_shape', [(8, 12), (9, 14), (3, 9), (4, 4), (1, 1)])
def test_windowed_equals_each_window_attended_by_hand(hw_shape, shift, randomised, assert_near):
    windowed = randomised(InLineAttention(8, 2, qkv='joint', window_size=4, shift=shift)).double()
    whole = InLineAttention(8, 2, qkv='joint').double()
    whole.load_state_dict(windowed.state_dict())
    x = torch.randn(2, hw_shape[0] * hw_shape[1], 8).double()
    expected = by_hand(whole, x, hw_shape, 4, shift)
    assert_near(windowed(x, hw_shape), expected, 1e-12)


def test_whole_map_is_not_shifted(randomised):
    plain = randomised(InLineAttention(8, 2))
    shifted = InLineAttention(8, 2, shift=True)
    shifted.load_state_dict(plain.state_dict())
    x = torch.randn(1, 35, 8)
    assert torch.equal(plain(x, (5, 7)), shifted(x, (5, 7)))


@pytest.mark.parametrize('window_size', [None, 4])
def test_tokens_straight_from_an_image(window_size, randomised, assert_near):
    """Tokens of an NCHW map are a transposed view."""
    attention = randomised(InLineAttention(8, 2, window_size=window_size, shift=True))
    tokens = torch.randn(2, 8, 5, 9).flatten(2).transpose(1, 2)
    assert not tokens.is_contiguous()
    assert_near(attention(tokens, (5, 9)), attention(tokens.contiguous(), (5, 9)), 1e-6)


@pytest.mark.parametrize('hw_shape', [(9, 13), (126, 2), (1, 1)])
def test_wrong_map_size(hw_shape):
    with pytest.raises(ValueError, match=r'hw_shape=.* does not hold 126 tokens'):
        InLineAttention(8, 2)(torch.randn(1, 126, 8), hw_shape)


def test_transposed_map_size_matters(randomised):
    attention = randomised(InLineAttention(8, 2))
    x = torch.randn(1, 126, 8)
    assert (attention(x, (9, 14)) - attention(x, (14, 9))).abs().max() > 0.01


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'kernel': 'elu'}, r"kernel 'elu'.*'identity', 'relu', 'leakyrelu', 'exp'"),
        ({'qkv': 'both'}, r"qkv 'both'.*'separate', 'joint'"),
        ({'num_heads': 3}, r'num_heads=3 does not divide dim=8'),
        ({'num_heads': 0}, r'num_heads=0 must be a positive whole number'),
        ({'window_size': 0}, r'window_size=0 must be a positive whole number'),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        InLineAttention(**{'dim': 8, 'num_heads': 2, **settings})


def test_nearest_name_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'leakyrelu'"):
        InLineAttention(8, 2, kernel='leaky_relu')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
@pytest.mark.parametrize('form', ['fast', 'linear'])
def test_autocast_trains(form, dtype, use_form, randomised):
    use_form(form)
    attention = randomised(InLineAttention(16, 2))
    with torch.autocast('cpu', dtype):
        out = attention(torch.randn(2, 500, 16), (20, 25))
    assert out.dtype is dtype
    out.float().square().mean().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.dtype is torch.float32, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    'dtype',
    [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.long)],
    ids=['bf16', 'fp16'],
)
def test_autocast_of_large_activations_on_256000_tokens(dtype, assert_near):
    """Inputs up to 180, outputs of 3,500, where float16 ends at 65,504."""
    attention = InLineAttention(32, 2)
    x = 30 * torch.randn(1, 400 * 640, 32) + 30
    with torch.no_grad():
        expected = attention(x, (400, 640))
    with torch.autocast('cpu', dtype):
        out = attention(x, (400, 640))
    assert expected.abs().max() > 1000
    assert_near(out, expected, 2 * torch.finfo(dtype).eps)
    out.float().mean().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize('window_size', [None, 4])
@pytest.mark.parametrize('hw_shape', [(2, 2), (8, 8)], ids=['linear', 'fast'])
def test_empty_batch(hw_shape, window_size):
    """As a linear layer: nothing out, gradients zero."""
    attention = InLineAttention(8, 2, window_size=window_size)
    x = torch.empty(0, hw_shape[0] * hw_shape[1], 8, requires_grad=True)
    out = attention(x, hw_shape)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_functional_transforms(randomised, assert_near):
    """torch.func and forward mode, on a map for the fast form, against plain backward passes."""
    attention = randomised(InLineAttention(8, 2)).double()
    weights = {name: value.detach() for name, value in attention.named_parameters()}
    x, direction = torch.randn(2, 1, 5, 35, 8).double()

    def attend(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(attention, weights, (x, (5, 7)))

    expected = [attention(sample, (5, 7)) for sample in x]
    assert_near(torch.vmap(attend, (None, 0))(weights, x), torch.stack(expected), 1e-12, 'vmap')

    grads = torch.func.grad(lambda weights: attend(weights, x[0]).square().sum())(weights)
    expected[0].square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert_near(grads[name], parameter.grad, 1e-12, name, scale=1)

    _, tangent = torch.func.jvp(lambda x: attend(weights, x), (x[0],), (direction[0],))
    with forward_ad.dual_level():
        out = attention(forward_ad.make_dual(x[0], direction[0]), (5, 7))
        assert_near(forward_ad.unpack_dual(out).tangent, tangent, 1e-12, 'forward mode')
    step = 1e-6 * direction[0]
    with torch.no_grad():
        difference = attention(x[0] + step, (5, 7)) - attention(x[0] - step, (5, 7))
    assert_near(tangent, difference / 2e-6, 1e-7, 'jvp')


class LowRank(nn.Module):
    """An adapter as fine-tuning libraries put in a layer's place, its weight within reach."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.down = nn.Parameter(torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.randn(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.mT @ self.up.mT


layers = pytest.mark.parametrize(
    ('qkv', 'name'), [('separate', 'q'), ('separate', 'kv'), ('joint', 'qkv'), ('joint', 'proj')]
)


@layers
def test_adapters_count(qkv, name, randomised, assert_near):
    adapted = randomised(InLineAttention(8, 2, qkv=qkv)).double()
    merged = copy.deepcopy(adapted)
    adapter = LowRank(getattr(adapted, name)).double()
    setattr(adapted, name, adapter)
    with torch.no_grad():
        getattr(merged, name).weight += adapter.up @ adapter.down
    x = torch.randn(2, 35, 8).double()
    out, expected = adapted(x, (5, 7)), merged(x, (5, 7))
    assert_near(out, expected, 1e-12)
    out.square().sum().backward()
    expected.square().sum().backward()
    up_grad = getattr(merged, name).weight.grad @ adapter.down.mT
    assert_near(adapter.up.grad, up_grad, 1e-10)


@pytest.mark.parametrize('name', ['q', 'kv', 'proj', 'residual', 'residual.0', 'residual.2'])
def test_hooks_run(name, randomised, assert_near):
    attention = randomised(InLineAttention(8, 2)).double()
    x = torch.randn(2, 35, 8).double().requires_grad_()
    plain = attention(x, (5, 7))
    layer, calls = attention.get_submodule(name), []
    registers = (
        layer.register_forward_pre_hook,
        layer.register_forward_hook,
        layer.register_full_backward_pre_hook,
        layer.register_full_backward_hook,
    )
    for register in registers:
        handle = register(lambda *args: calls.append(1))
        out = attention(x, (5, 7))
        out.sum().backward()
        assert_near(out, plain, 1e-12, register.__name__)
        handle.remove()
    assert len(calls) == len(registers)
    layer.register_forward_hook(lambda module, args, out: 0 * out)
    assert (attention(x, (5, 7)) - plain).abs().max() > 0.01
    layer._forward_hooks.clear()
    layer.forward = lambda x: 0 * type(layer).forward(layer, x)
    assert (attention(x, (5, 7)) - plain).abs().max() > 0.01


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('qkv', ['separate', 'joint'])
def test_quantised_layers_count(qkv, randomised, assert_near):
    attention = randomised(InLineAttention(8, 2, qkv=qkv))
    quantised = torch.ao.quantization.quantize_dynamic(attention, {nn.Linear})
    x = torch.randn(2, 35, 8)
    with torch.no_grad():
        expected, out = attention(x, (5, 7)), quantised(x, (5, 7))
    assert not torch.equal(out, expected)
    assert_near(out, expected, 0.1)


def test_parametrised_layers_count(randomised, assert_near):
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    attention = randomised(InLineAttention(8, 2)).double()
    doubled = copy.deepcopy(attention)
    with torch.no_grad():
        doubled.q.weight *= 2
    nn.utils.parametrize.register_parametrization(attention.q, 'weight', Double())
    x = torch.randn(2, 35, 8).double()
    assert_near(attention(x, (5, 7)), doubled(x, (5, 7)), 1e-12)


class Quantised(Tensor):
    """Numbers in eighths that only a whole linear layer or convolution may take."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        plain = [x.as_subclass(Tensor) if isinstance(x, cls) else x for x in args]
        if function in (F.linear, torch.conv1d):
            plain[1] = (8 * plain[1]).round() / 8
        elif function not in ALLOWED:
            raise NotImplementedError(f'{function} of a quantised tensor')
        return function(*plain, **(kwargs or {}))


ALLOWED = {Tensor.requires_grad.__get__, Tensor.grad.__get__, Tensor.dim}


@pytest.mark.parametrize(
    'name', ['q', 'kv', 'qkv', 'proj', 'residual.0', 'residual.2', 'fc1', 'fc2']
)
def test_weights_of_another_type_are_left_to_their_layers(
    name, randomised, assert_near, monkeypatch
):
    """On a map for the fast form, and in an MLP that would be streamed."""
    monkeypatch.setattr('mmlab_inline.ops.mlp.BIG_BYTES', 0)
    if name.startswith('fc'):
        module, args = Mlp(8, 32), (torch.randn(2, 35, 8),)
    else:
        module = InLineAttention(8, 2, qkv='joint' if name == 'qkv' else 'separate')
        args = torch.randn(2, 35, 8), (5, 7)
    rounded = copy.deepcopy(randomised(module))
    layer = module.get_submodule(name)
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight.as_subclass(Quantised)
    with torch.no_grad():
        rounded.get_submodule(name).weight.mul_(8).round_().div_(8)
        assert_near(module(*args), rounded(*args), 1e-5)


def test_layers_without_bias(randomised, assert_near):
    attention = randomised(InLineAttention(8, 2))
    without = copy.deepcopy(attention)
    without.q = nn.Linear(8, 8, bias=False)
    without.q.weight = attention.q.weight
    with torch.no_grad():
        attention.q.bias.zero_()
        x = torch.randn(2, 35, 8)
        assert_near(without(x, (5, 7)), attention(x, (5, 7)), 1e-5)


def test_parametrisation_runs_once(randomised):
    class Counted(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            calls.append(1)
            return weight

    calls = []
    attention = randomised(InLineAttention(8, 2))
    nn.utils.parametrize.register_parametrization(attention.q, 'weight', Counted())
    calls.clear()
    attention(torch.randn(2, 35, 8), (5, 7))
    assert len(calls) == 1


@pytest.mark.parametrize('hw_shape', [(2, 2), (8, 8)], ids=['linear', 'fast'])
def test_gradient_penalty(hw_shape, randomised, assert_near):
    """Gradients of gradients do not depend on the size of the map, nor on the form."""
    attention = randomised(InLineAttention(8, 2)).double()
    tokens = torch.randn(1, hw_shape[0] * hw_shape[1], 8).double().requires_grad_()

    def penalty() -> Tensor:
        out = attention(tokens, hw_shape)
        (grad,) = torch.autograd.grad(out.square().sum(), tokens, create_graph=True)
        return grad.square().sum()

    grads = torch.autograd.grad(penalty(), list(attention.parameters()))
    attention.q.register_forward_hook(lambda *args: None)  # the textbook's form
    expected = torch.autograd.grad(penalty(), list(attention.parameters()))
    scale = max(grad.abs().max().item() for grad in expected)
    for grad, wanted in zip(grads, expected, strict=True):
        assert_near(grad, wanted, 1e-10, scale=scale)
