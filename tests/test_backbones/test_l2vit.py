import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmlab_inline import InLineAttention, L2ViT
from mmlab_inline.backbones.l2vit import ALIASES, ARCH_ZOO
from mmlab_inline.layers import batch_norms
from mmlab_inline.mixers import TOKEN_MIXERS, WindowAttention

GOLDEN_ARCH = dict(
    embed_dims=(8, 16, 24, 32), depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4), mlp_ratios=2
)


@pytest.fixture
def golden_model(golden):
    """The network of the fixture, and the rest of the file."""

    def build(dtype: torch.dtype) -> tuple[L2ViT, dict[str, Tensor]]:
        weights, fixture = golden('l2vit_narrow')
        model = L2ViT(GOLDEN_ARCH, drop_path_rate=0.0)
        buffers = {k.removeprefix('buffer.'): v for k, v in fixture.items() if 'buffer.' in k}
        model.load_state_dict({**weights, **buffers}, strict=True)
        return model.to(dtype).eval(), {name: value.to(dtype) for name, value in fixture.items()}

    return build


@pytest.mark.parametrize(
    ('dtype', 'tolerance', 'of_parameters'),
    [(torch.float32, 1e-5, 5e-5), (torch.float64, 1e-6, 1e-6)],
    ids=['float32', 'float64'],
)
def test_released_backbone(dtype, tolerance, of_parameters, golden_model, assert_as_stored):
    model, fixture = golden_model(dtype)
    # A small difference of large terms.
    hard = {'stages.0.1.attn.temperature': 1e-3 if dtype == torch.float32 else of_parameters}
    assert_as_stored(model, fixture, tolerance, of_parameters, hard)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('train', [False, True])
def test_one_image_has_half_the_gradient_of_two(train, layout, golden_model, assert_near):
    """PyTorch's BatchNorm on the CPU makes wrong ones at batch 1, behind some views of tokens."""
    model, fixture = golden_model(torch.float64)
    model.train(train)
    found = []
    for batch in (1, 2):
        image = fixture['x'].repeat(batch, 1, 1, 1).contiguous(memory_format=layout)
        model.zero_grad()
        image.requires_grad_()
        cotangents = [fixture[f'grad_y.{i}'].repeat(batch, 1, 1, 1) for i in range(4)]
        torch.autograd.backward(model(image), cotangents)
        grads = {name: p.grad / batch for name, p in model.named_parameters()}
        found.append({**grads, 'image': image.grad[:1]})
    scale = max(float(grad.abs().max()) for grad in found[1].values())
    for name, expected in found[1].items():
        # A bias before a BatchNorm in training has none: what is there is rounding noise.
        noise = expected.abs().max() < 1e-9 * scale
        assert_near(found[0][name], expected, 1e-9, name, scale=scale if noise else 0)


@pytest.mark.parametrize(
    ('arch', 'dense', 'classifier'),
    [('tiny', '27.829', '28.597'), ('small', '49.432', '50.199'), ('base', '87.554', '88.577')],
)
def test_parameter_counts(arch, dense, classifier):
    with torch.device('meta'):
        model = L2ViT(arch)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f'{count / 1e6:.3f}' == dense
    channels = model.out_channels[-1]
    count -= 2 * sum(model.out_channels)  # output norms
    count += 2 * channels + channels * 1000 + 1000  # final norm and head
    assert f'{count / 1e6:.3f}' == classifier


def expected_shapes(dims: tuple, depths: tuple, heads: tuple, ratio: int) -> dict[str, tuple]:
    """The released names, from the rules by which they are made, and the output norms."""
    shapes = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f'{name}.weight'] = weight
        shapes[f'{name}.bias'] = weight[:1]

    def batch_norm(name: str, channels: int) -> None:
        layer(name, channels)
        shapes[f'{name}.running_mean'] = shapes[f'{name}.running_var'] = (channels,)
        shapes[f'{name}.num_batches_tracked'] = ()

    stem = 'downsample_layers.0.proj.proj'
    layer(f'{stem}.0', dims[0] // 2, 3, 3, 3)
    batch_norm(f'{stem}.1', dims[0] // 2)
    layer(f'{stem}.3', dims[0], dims[0] // 2, 3, 3)
    batch_norm(f'{stem}.4', dims[0])
    layer('downsample_layers.0.norm', dims[0])
    for stage, c in enumerate(dims):
        if stage:
            layer(f'downsample_layers.{stage}.norm', dims[stage - 1])
            layer(f'downsample_layers.{stage}.proj', c, dims[stage - 1], 2, 2)
        for index in range(depths[stage]):
            block = f'stages.{stage}.{index}'
            layer(f'{block}.cpe.0.proj', c, 1, 3, 3)
            layer(f'{block}.norm1', c)
            layer(f'{block}.attn.qkv', 3 * c, c)
            layer(f'{block}.attn.proj', c, c)
            if index % 2:
                shapes[f'{block}.attn.temperature'] = (heads[stage], 1, 1)
                layer(f'{block}.norm3', c)
                layer(f'{block}.local_mp.conv1', c, 1, 7, 7)
                batch_norm(f'{block}.local_mp.bn', c)
                layer(f'{block}.local_mp.conv2', c, 1, 7, 7)
            else:
                layer(f'{block}.cpe.1.proj', c, 1, 3, 3)
            layer(f'{block}.norm2', c)
            layer(f'{block}.mlp.fc1', ratio * c, c)
            layer(f'{block}.mlp.fc2', c, ratio * c)
        layer(f'norm{stage}', c)
    return shapes


@pytest.mark.parametrize(
    ('arch', 'dim', 'deep', 'heads'),
    [('tiny', 96, 6, 3), ('small', 96, 18, 3), ('base', 128, 18, 4)],
)
def test_state_dict_of_named_arch(arch, dim, deep, heads):
    with torch.device('meta'):
        state_dict = L2ViT(arch).state_dict()
    doubled = (1, 2, 4, 8)
    assert {name: tuple(value.shape) for name, value in state_dict.items()} == expected_shapes(
        tuple(dim * n for n in doubled), (2, 2, deep, 2), tuple(heads * n for n in doubled), 4
    )


@pytest.mark.parametrize('alias', ['t', 's', 'b'])
def test_aliases(alias):
    names = [name for name in ARCH_ZOO if name.startswith(alias)]
    assert names == [ALIASES[alias]]


def test_convolutions_start_as_linear_layers_do(build_narrow):
    model = build_narrow(L2ViT)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 2 + 3 + 6 + 4 + 2 * 2  # 4 of 6 blocks have a second encoding
    for convolution in convolutions:
        assert 0.01 < convolution.weight.std() < 0.03
        assert (convolution.bias == 0).all()


def test_attention_of_choice_within_the_same_blocks(build_narrow):
    chosen = ('inline', 'softmax', 'l2vit', ('l2vit', 'inline'))
    model = build_narrow(L2ViT, depths=(2, 2, 2, 2), attention=chosen)
    kinds = [[type(block.attn) for block in stage] for stage in model.stages]
    linear = TOKEN_MIXERS['l2vit']
    assert kinds == [
        [InLineAttention] * 2,
        [WindowAttention] * 2,
        [linear] * 2,
        [linear, InLineAttention],
    ]
    for stage in model.stages:
        assert [hasattr(block, 'local_mp') for block in stage] == [False, True]
        assert [len(block.cpe) for block in stage] == [2, 1]


def test_windows_are_unbiased_and_stay_where_they_are(build_narrow):
    windows = dict(type='window', window_size=3, position_bias=True)
    model = build_narrow(L2ViT, attention=('softmax', windows, 'softmax', 'l2vit'), window_size=5)
    found = [m for m in model.modules() if isinstance(m, WindowAttention)]
    assert [m.window_size for m in found] == [5, 3, 3, 5, 5]
    assert [m.position_bias for m in found] == [False, True, True, False, False]
    assert not any(m.shift for m in found)


def test_synchronised_batch_norm(build_narrow, randomised):
    model = build_narrow(L2ViT, norm_cfg=dict(type='SyncBN', requires_grad=True))
    norms = batch_norms(model)
    assert len(norms) == 4
    assert all(type(norm) is nn.SyncBatchNorm for norm in norms)
    plain = randomised(build_narrow(L2ViT)).eval()
    model.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 45, 70)
    one_process = revert_sync_batchnorm(model).eval()  # as the runner does
    assert all(map(torch.equal, one_process(image), plain(image)))


def test_checkpointing_with_synchronised_batch_norm(build_narrow, randomised):
    """Where no other process is, it is BatchNorm; the second pass of a block is no step to it."""
    plain = randomised(build_narrow(L2ViT, drop_path_rate=0.0)).train()
    settings = dict(norm_cfg=dict(type='SyncBN'), with_cp=True, drop_path_rate=0.0)
    model = build_narrow(L2ViT, **settings).train()
    model.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 45, 70)
    for each in (plain, model):
        sum(out.square().sum() for out in each(image)).backward()
    assert all(map(torch.equal, model.buffers(), plain.buffers()))
    for parameter, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_norms_that_are_not_trained(build_narrow):
    model = build_narrow(L2ViT, norm_cfg=dict(type='BN', requires_grad=False), frozen_stages=0)
    assert not any(p.requires_grad for norm in batch_norms(model) for p in norm.parameters())
    assert model.stages[1][1].local_mp.conv1.weight.requires_grad


@pytest.mark.parametrize(
    ('norm_cfg', 'message'),
    [
        (dict(type='SyncBM'), r"unknown norm_cfg type 'SyncBM' \(did you mean 'SyncBN'\?\)"),
        (dict(type='GN', num_groups=32), r"unknown norm_cfg key 'num_groups'"),
        ({}, r"unknown norm_cfg type None; choose from 'BN', 'SyncBN'"),
        ('SyncBN', r"norm_cfg='SyncBN' must be a dict such as dict\(type='SyncBN'\)"),
    ],
)
def test_other_norms_are_refused(norm_cfg, message, build_narrow):
    with pytest.raises(ValueError, match=message):
        build_narrow(L2ViT, norm_cfg=norm_cfg)


@pytest.mark.parametrize('norm_eval', [False, True])
def test_norm_eval_keeps_the_statistics(norm_eval, build_narrow):
    model = build_narrow(L2ViT, norm_eval=norm_eval, frozen_stages=1).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    sum(out.sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    changed = {n for n, v in model.named_buffers() if not torch.equal(v, before[n])}
    trained = {n for n in before if n.startswith(('stages.1', 'stages.2'))}
    assert changed == (set() if norm_eval else trained)
    # They learn all the same.
    assert model.stages[1][1].local_mp.bn.weight.grad is not None
    assert not any(norm.training for norm in batch_norms(model.eval()))
