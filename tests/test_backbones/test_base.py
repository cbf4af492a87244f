import copy
import inspect
import io
import pickle
import re
import warnings

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import Registry
from torch import nn

from mmlab_inline import InLineCSwin, InLineDeiT, InLinePVT, InLineSwin, L2ViT, backbones
from mmlab_inline.backbones.base import LEAF_MODULES, DenseBackbone
from mmlab_inline.layers import Block

BACKBONES = [getattr(backbones, name) for name in backbones.__all__]
MIXED = ('inline', ('inline', 'softmax'), ('softmax', 'inline'), 'softmax')
every = pytest.mark.parametrize('cls', BACKBONES)
# A plain one has one stage, the tests of which are in a file of their own.
staged = pytest.mark.parametrize('cls', [cls for cls in BACKBONES if cls is not InLineDeiT])
# Those that take the older keywords kernel and inline_window_size.
older = pytest.mark.parametrize('cls', [InLinePVT, InLineSwin])

# The least frozen_stages that freezes what a name begins with: this number, added to the one that
# the pattern finds.
FREEZING = {
    InLinePVT: {
        r'(?:patch_embed|pos_embed)1': 0,
        r'(?:patch_embed|pos_embed|block)(\d)': 0,
    },
    InLineSwin: {r'patch_embed': 0, r'layers\.(\d)': 1, r'norm(\d)': 1},
    L2ViT: {
        r'downsample_layers\.0': 0,
        r'(?:downsample_layers|stages)\.(\d)': 1,
        r'norm(\d)': 1,
    },
    InLineCSwin: {
        r'stage1_conv_embed': 0,
        r'merge(\d)': 1,
        r'stage(\d)': 0,
        r'norm(\d)': 1,
    },
    InLineDeiT: {
        r'patch_embed|pos_embed|cls_token': 0,
        r'blocks\.(\d)': 1,
        r'norm': 6,  # as the last of the blocks
        r'fpn': 99,
    },
}
# What is called with a stage, counted from its first number, and gives its map.
STAGES = {
    InLinePVT: ('block{}', 1),
    InLineSwin: ('layers.{}', 0),
    L2ViT: ('stages.{}', 0),
    InLineCSwin: ('stage{}', 1),
}
FIRST_CONVOLUTION = {
    InLinePVT: 'patch_embed1.proj',
    InLineSwin: 'patch_embed.proj',
    L2ViT: 'downsample_layers.0.proj.proj.0',
    InLineCSwin: 'stage1_conv_embed.0',
    InLineDeiT: 'patch_embed.proj',
}


def stages_of(model: nn.Module) -> list[nn.Module]:
    name, first = STAGES[type(model)]
    return [model.get_submodule(name.format(first + stage)) for stage in range(4)]


def freezing(cls: type[nn.Module], name: str) -> int:
    """The least frozen_stages that freezes a parameter or module."""
    for pattern, number in FREEZING[cls].items():
        match = re.match(pattern, name)
        if match:
            return number + int(*match.groups())
    raise KeyError(name)


def ceil_shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize(
    'size',
    [
        (127, 190),
        (1, 1),
        (448, 448),
        (196, 256),  # as many patches as 224x224
        (33, 65),
        (146, 211),  # a map of 37x53 patches
        (64, 64),
    ],
)
@every
def test_outputs_at_any_size(cls, size, build_narrow):
    model = build_narrow(cls, attention=MIXED).eval()
    with torch.no_grad():
        outs = model(torch.randn(2 if max(size) < 100 else 1, 3, *size))
    assert isinstance(outs, tuple)
    assert [tuple(out.shape[2:]) for out in outs] == ceil_shapes(size)
    assert tuple(out.shape[1] for out in outs) == model.out_channels
    for out in outs:
        assert out.is_contiguous()
        assert out.isfinite().all()


@pytest.mark.parametrize('step', [9, pytest.param(1, marks=pytest.mark.long)])
@every
def test_outputs_at_every_size_up_to_100(cls, step, build_narrow):
    model = build_narrow(cls, attention=MIXED).eval()
    for height in range(1, 101, step):
        size = (height, 101 - height)
        with torch.no_grad():
            outs = model(torch.randn(1, 3, *size))
        assert [tuple(out.shape[2:]) for out in outs] == ceil_shapes(size)
        assert all(out.isfinite().all() for out in outs)


@every
def test_out_strides(cls, build_narrow):
    model = build_narrow(cls)
    image = torch.randn(1, 3, 64, 96)
    for out, stride in zip(model(image), model.out_strides, strict=True):
        assert tuple(out.shape[2:]) == (64 // stride, 96 // stride)


@pytest.mark.parametrize('out_indices', [(0,), (3,), (1, 3), [0, 2], (0, 1, 2, 3)])
@every
def test_out_indices(cls, out_indices, build_narrow, randomised):
    model = randomised(build_narrow(cls, out_indices=out_indices)).eval()
    everything = build_narrow(cls).eval()
    missing, unexpected = everything.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(('norm', 'fpn')) for name in missing)
    image = torch.randn(1, 3, 45, 70)
    with torch.no_grad():
        outs, all_outs = model(image), everything(image)
    assert len(outs) == len(out_indices)
    for out, stage, channels, stride in zip(
        outs, out_indices, model.out_channels, model.out_strides, strict=True
    ):
        assert torch.equal(out, all_outs[stage])
        assert (channels, stride) == (out.shape[1], 4 * 2**stage)
        assert tuple(out.shape[2:]) == ceil_shapes((45, 70))[stage]


@pytest.mark.parametrize('out_indices', [(), (4,), (-1,), (1, 0), (2, 2), (0, 1, 2, 3, 4), 3])
@every
def test_bad_out_indices(cls, out_indices, build_narrow):
    with pytest.raises(ValueError, match=r'out_indices=.*\(0, 1, 2, 3\)'):
        build_narrow(cls, out_indices=out_indices)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (2,)])
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
@every
def test_frozen_stages(cls, frozen_stages, out_indices, build_narrow):
    model = build_narrow(cls, frozen_stages=frozen_stages, out_indices=out_indices)

    def trains(name: str) -> bool:
        merged = f'layers.{out_indices[-1]}.downsample'
        used = freezing(cls, name) <= out_indices[-1] + 1 and not name.startswith(merged)
        used |= cls is InLineDeiT  # its maps come of all blocks
        return used and freezing(cls, name) > frozen_stages

    for _ in range(2):
        assert model.train() is model
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == trains(name), name
        for name, module in model.named_modules():
            if name not in ('', 'layers', 'stages', 'downsample_layers', 'blocks'):
                assert module.training == (freezing(cls, name) > frozen_stages), name
        assert model.training
        assert model.eval() is model
        assert not any(module.training for module in model.modules())

    model.train()
    outs = model(torch.randn(1, 3, 32, 32))
    if not any(trains(name) for name, _ in model.named_parameters()):
        assert not any(out.requires_grad for out in outs)
        return
    sum(out.sum() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == trains(name), name


@every
def test_frozen_from_the_start(cls, build_narrow):
    """DistributedDataParallel and optimizers look at requires_grad before train() is called."""
    model = build_narrow(cls, frozen_stages=1)
    assert not all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('frozen_stages', [-2, 7])
@every
def test_bad_frozen_stages(cls, frozen_stages, build_narrow):
    with pytest.raises(ValueError, match=f'frozen_stages={frozen_stages}'):
        build_narrow(cls, frozen_stages=frozen_stages)


@every
def test_in_channels(cls, build_narrow):
    assert len(build_narrow(cls, in_channels=1)(torch.randn(1, 1, 32, 48))) == 4


@every
def test_drop_path_rates_are_linear_over_all_blocks(cls, build_narrow):
    model = build_narrow(cls, depths=(1, 2, 3, 1), drop_path_rate=0.3)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    rates = [block.drop_path.drop_prob for block in blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])


@pytest.mark.parametrize('size', [(32, 32), (65, 100)])
@every
def test_every_parameter_gets_a_gradient(cls, size, build_narrow, randomised):
    model = randomised(build_narrow(cls, attention=MIXED, drop_path_rate=0.0))
    model.train()
    sum((out * torch.randn_like(out)).sum() for out in model(torch.randn(2, 3, *size))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # At 32x32 the last map is one token, which attends to itself whatever q and k say.
        one_token = size == (32, 32) and 'attn' in name
        if not one_token:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize('frozen_stages', [-1, 1])
@every
def test_checkpointing_changes_nothing(cls, frozen_stages, build_narrow, randomised, monkeypatch):
    settings = dict(attention=MIXED, drop_path_rate=0.0, frozen_stages=frozen_stages)
    plain = randomised(build_narrow(cls, **settings)).train()
    frugal = build_narrow(cls, **settings, with_cp=True).train()
    frugal.load_state_dict(plain.state_dict())
    passes = []
    frugal_blocks = [module for module in frugal.modules() if isinstance(module, Block)]
    for block in frugal_blocks:
        # Before, not after: a second pass stops early, once it has what the backward pass needs.
        block.register_forward_pre_hook(lambda *_: passes.append(1))
    image = torch.randn(2, 3, 45, 70)
    plain_outs, frugal_outs = plain(image), frugal(image)
    assert len(passes) == len(frugal_blocks)
    for expected, out in zip(plain_outs, frugal_outs, strict=True):
        assert torch.equal(out, expected)
    for outs in (plain_outs, frugal_outs):
        sum(out.square().sum() for out in outs).backward()
    # Blocks ran again in the backward pass, all but those whose input needs no gradient.
    assert len(passes) > 1.5 * len(frugal_blocks)
    for expected, parameter in zip(plain.parameters(), frugal.parameters(), strict=True):
        if expected.grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected.grad)
    # A second pass is no second batch to a BatchNorm.
    for expected, buffer in zip(plain.buffers(), frugal.buffers(), strict=True):
        assert torch.equal(buffer, expected)


@every
def test_batch_mates_of_equal_size_do_not_matter(cls, build_narrow, randomised, assert_near):
    model = randomised(build_narrow(cls, attention=MIXED)).eval()
    images = torch.randn(3, 3, 45, 70)
    with torch.no_grad():
        together = model(images)
        for index in range(3):
            alone = model(images[index : index + 1])
            for stage in range(4):
                assert_near(alone[stage], together[stage][index : index + 1], 1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
@every
def test_autocast(cls, dtype, build_narrow, randomised):
    model = randomised(build_narrow(cls, attention=MIXED)).train()
    with torch.autocast('cpu', dtype):
        outs = model(torch.randn(2, 3, 65, 100))
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().mean() for out in outs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
@every
def test_memory_format_does_not_matter(cls, memory_format, build_narrow, randomised, assert_near):
    model = randomised(build_narrow(cls, attention=MIXED)).eval()
    images = torch.randn(2, 3, 45, 70)
    with torch.no_grad():
        outs = model(images.contiguous(memory_format=memory_format))
        for out, expected in zip(outs, model(images), strict=True):
            assert out.is_contiguous()
            assert_near(out, expected, 1e-5)


@every
def test_unknown_arch_lists_names_and_aliases(cls):
    with pytest.raises(ValueError, match=r"unknown arch 'tinny' \(did you mean 'tiny'\?\)") as info:
        cls('tinny')
    for name in ("'tiny'", "'small'", "'t'", "'s'"):
        assert name in str(info.value)


@every
def test_unknown_attention_lists_mixers(cls, build_narrow):
    with pytest.raises(ValueError, match=r"unknown attention 'inlin' \(did.*'inline'.*'softmax'"):
        build_narrow(cls, attention=('inlin', 'inline', 'inline', 'inline'))


@every
def test_unknown_option_lists_options(cls, build_narrow):
    choice = dict(type='inline', kernal='relu')
    message = r"no option 'kernal' \(did you mean 'kernel'\?\); it takes kernel, "
    with pytest.raises(ValueError, match=message):
        build_narrow(cls, attention=('inline', choice, 'inline', 'inline'))
    with pytest.raises(ValueError, match='lacks its name'):
        build_narrow(cls, attention=('inline', dict(kernel='relu'), 'inline', 'inline'))


@older
def test_unknown_kernel_lists_kernels(cls, build_narrow):
    with pytest.raises(ValueError, match=r"unknown kernel 'gelu'.*'relu'"):
        build_narrow(cls, kernel='gelu')


@older
def test_impossible_window_by_the_older_keyword(cls, build_narrow):
    with pytest.raises(ValueError, match='window_size=0 must be positive'):
        build_narrow(cls, inline_window_size=0)


@every
def test_unknown_keyword_lists_keywords(cls, build_narrow):
    with pytest.raises(TypeError, match=r"'drop_path' \(did you mean 'drop_path_rate'\?\)") as info:
        build_narrow(cls, drop_path=0.1)
    assert 'out_indices' in str(info.value)


@every
def test_unknown_or_missing_arch_key(cls, build_narrow):
    arch = dict.fromkeys(('embed_dims', 'depths', 'num_heads', 'mlp_ratios'), (1,) * 4)
    with pytest.raises(ValueError, match=r"unknown arch key 'depth' \(did you mean 'depths'\?\)"):
        cls({**arch, 'depth': (1,) * 4})
    del arch['num_heads']
    with pytest.raises(ValueError, match='arch lacks num_heads'):
        cls(arch)


@staged
def test_per_stage_numbers_must_fit(cls, build_narrow):
    with pytest.raises(ValueError, match='different lengths'):
        build_narrow(cls, depths=(1, 1, 1))
    with pytest.raises(ValueError, match='attention has 3 stages'):
        build_narrow(cls, attention=('inline',) * 3)
    with pytest.raises(ValueError, match=r'attention\[1\] names 3 blocks, the stage has 2'):
        build_narrow(cls, attention=('inline', ('inline',) * 3, 'inline', 'inline'))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'in_channels': 0}, 'in_channels=0 must be positive'),
        ({'pretrain_img_size': 8}, r'pretrain_img_size=\(8, 8\) must be \(H, W\) in pixels'),
        ({'pretrain_img_size': 224.0}, r'pretrain_img_size=224.0 must be \(H, W\) in pixels'),
        ({'depths': (0,) * 4}, r'arch depths=[(0, )]+ must be positive'),
        ({'depths': (1.5,) * 4}, r'arch depths\[0\]=\d\.\d must be a positive whole'),
        ({'frozen_stages': '1'}, r"frozen_stages='1' must lie in -1\.\."),
        ({'frozen_stages': 1.5}, r'frozen_stages=1.5 must lie in -1\.\.'),
        ({'with_cp': 'False'}, "with_cp='False' must be True or False"),
        ({'drop_path_rate': '0.1'}, r"drop_path_rate='0.1' must lie in 0\.\.1"),
        ({'drop_path_rate': -0.1}, r'drop_path_rate=-0.1 must lie in 0\.\.1'),
        ({'drop_path_rate': 1.0}, r'drop_path_rate=1.0 must lie in 0\.\.1'),
    ],
)
@every
def test_numbers_that_cannot_be_meant(cls, settings, message, build_narrow):
    with pytest.raises(ValueError, match=message):
        build_narrow(cls, **settings)


@pytest.mark.parametrize('arch', [None, 5, ['tiny']])
@every
def test_arch_that_is_none(cls, arch):
    with pytest.raises(ValueError, match='is neither a name nor a dict'):
        cls(arch)


@pytest.mark.parametrize(
    ('cls', 'arch'),
    [
        (InLinePVT, {'embed_dims': 8, 'mlp_ratios': (2,) * 4}),
        (InLinePVT, {'embed_dims': (8, 16, 16, 16), 'mlp_ratios': 2}),
        (InLineSwin, {'embed_dims': (8, 16, 32, 64), 'mlp_ratios': 2}),
    ],
    ids=['pvt-one-dim', 'pvt-one-ratio', 'swin-dim-per-stage'],
)
def test_number_where_a_tuple_belongs_and_the_other_way_round(cls, arch):
    with pytest.raises(ValueError, match=r'embed_dims|mlp_ratios'):
        cls({**arch, 'depths': (1,) * 4, 'num_heads': (1,) * 4})


@staged
def test_arch_and_lists_from_a_config_file(cls, build_narrow):
    """Configs hold ConfigDicts and lists where Python has dicts and tuples."""
    dims = 8 if cls in (InLineSwin, InLineCSwin) else [8, 16, 24, 32]
    ratios = [2] * 4 if cls is InLinePVT else 2
    arch = dict(embed_dims=dims, depths=[1, 2, 2, 1], num_heads=[2, 2, 4, 4], mlp_ratios=ratios)
    config = ConfigDict(arch=arch, attention=['inline', ['inline', 'softmax'], 'inline', 'softmax'])
    model = cls(**config, out_indices=[0, 3])
    mixed = ('inline', ('inline', 'softmax'), 'inline', 'softmax')
    expected = build_narrow(cls, attention=mixed, num_heads=(2, 2, 4, 4))
    shapes = {name: value.shape for name, value in expected.state_dict().items()}
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith('norm')}
    own = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: shape for name, shape in own.items() if not name.startswith('norm')} == shapes


@every
def test_zoo_is_not_changed_by_building(cls, no_random_init):
    first = cls('tiny').out_channels
    arch = dict(embed_dims=[8] * 4, depths=[1] * 4, num_heads=[1] * 4, mlp_ratios=[1] * 4)
    if cls in (InLineSwin, InLineCSwin):
        arch['embed_dims'] = 8
    if cls is InLineDeiT:
        arch = {key: numbers[:1] for key, numbers in arch.items()}
    before = copy.deepcopy(arch)
    cls(arch)
    assert arch == before
    assert cls('tiny').out_channels == first


@every
def test_copies_and_pickles(cls, build_narrow):
    model = build_narrow(cls).eval()
    image = torch.randn(1, 3, 32, 32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(image)[3], model(image)[3])


@every
def test_initial_weights(cls, build_narrow):
    model = build_narrow(cls, depths=(2, 2, 2, 2))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert 0.01 < module.weight.std() < 0.03, name
            assert module.bias is None or (module.bias == 0).all(), name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name


@every
def test_init_weights_without_checkpoint_keeps_them(cls, build_narrow):
    model = build_narrow(cls)
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every
def test_is_a_dense_backbone(cls):
    assert issubclass(cls, DenseBackbone)


@every
def test_subclass_with_keywords_of_its_own(cls, build_narrow):
    """Built as any Python class, also by name from a config."""

    class Scaled(cls):
        def __init__(self, arch: dict, extra: float = 1.0, **others: object) -> None:
            self.depth_wanted = others.pop('depth', None)
            super().__init__(arch, **others)
            self.extra = extra

    Scaled.__name__ = cls.__name__  # for build_narrow
    settings = dict(out_indices=(2, 3), extra=2.0, depth=3)
    model = build_narrow(Scaled, **settings)
    assert (model.out_indices, model.extra, model.depth_wanted) == ((2, 3), 2.0, 3)
    assert len(model(torch.randn(1, 3, 32, 32))) == 2
    with pytest.raises(
        TypeError, match=r"'exta' \(did you mean 'extra'\?\); it takes arch, extra, in_"
    ):
        build_narrow(Scaled, exta=2.0)
    registry = Registry('toy')
    registry.register_module('Scaled', module=Scaled)
    config = ConfigDict(type='Scaled', arch='tiny', extra=3.0, out_indices=[1])
    assert registry.build(config).extra == 3.0


@pytest.mark.parametrize('first', ['backbone', 'mixin'])
@every
def test_settings_survive_the_hub(cls, first, build_narrow, randomised, tmp_path):
    mixin = pytest.importorskip('huggingface_hub').PyTorchModelHubMixin
    bases = (cls, mixin) if first == 'backbone' else (mixin, cls)
    hub = type(cls.__name__, bases, {})
    relu = dict(type='inline', kernel='relu')
    attention = (relu, [relu, 'softmax'], dict(type='agent', agent_num=4), 'softmax')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        for settings in (
            dict(attention=attention, out_indices=(1, 3), pretrain_img_size=(64, 96)),
            dict(frozen_stages=1, **({'kernel': 'exp'} if cls in (InLinePVT, InLineSwin) else {})),
        ):
            model = randomised(build_narrow(hub, **settings)).eval()
            model.save_pretrained(tmp_path)
            loaded = hub.from_pretrained(tmp_path).eval()
            image = torch.randn(1, 3, 64, 64)
            for out, expected in zip(loaded(image), model(image), strict=True):
                assert torch.equal(out, expected)
            assert loaded.frozen_stages == model.frozen_stages


@pytest.mark.parametrize('with_cp', [False, True])
@staged
def test_stages_can_be_hooked(cls, with_cp, build_narrow):
    """Their maps and the gradients of these, as class activation maps are made of."""
    model = build_narrow(cls, with_cp=with_cp)
    maps, grads = [], []
    for stage in stages_of(model):
        stage.register_forward_hook(lambda module, args, out: maps.append(out))
        stage.register_full_backward_hook(lambda module, ins, outs: grads.append(outs[0]))
    image = torch.randn(1, 3, 45, 70, requires_grad=True)
    outs = model(image)
    expected = maps
    if hasattr(model, 'norm0'):
        expected = [
            getattr(model, f'norm{i}')(m.movedim(1, 3)).movedim(3, 1) for i, m in enumerate(maps)
        ]
    for out, wanted in zip(outs, expected, strict=True):
        assert torch.equal(out, wanted)
    sum(out.square().sum() for out in outs).backward()
    assert [grad.shape for grad in grads] == [out.shape for out in reversed(maps)]
    stages_of(model)[3].register_forward_hook(lambda module, args, out: 0 * out)
    assert not torch.equal(model(image)[3], outs[3])


@every
def test_traced_with_leaf_modules(cls, build_narrow, randomised):
    features = pytest.importorskip('torchvision.models.feature_extraction')
    model = randomised(build_narrow(cls, attention=MIXED)).eval()
    leaves = dict(leaf_modules=list(LEAF_MODULES))
    block = next(name for name, module in model.named_modules() if isinstance(module, Block))
    wanted = [f'{block}.attn', f'{block}.mlp']
    if cls is InLineCSwin:  # whose block is one node
        wanted = [block]
    names, _ = features.get_graph_node_names(model, leaves)
    assert set(wanted) <= set(names)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # training and evaluation have other graphs
        traced = features.create_feature_extractor(model, wanted, tracer_kwargs=leaves)
    hooked = []
    for name in wanted:
        model.get_submodule(name).register_forward_hook(lambda *args: hooked.append(args[2]))
    for size in ((64, 64), (45, 70)):  # one graph for any size
        hooked.clear()
        image = torch.randn(2, 3, *size)
        model(image)
        maps = list(hooked)  # the traced one has the same modules
        for out, expected in zip(traced(image).values(), maps, strict=True):
            assert torch.equal(out, expected)


@every
def test_gradient_penalty(cls, build_narrow, randomised):
    model = randomised(build_narrow(cls, attention='inline', drop_path_rate=0.0))
    image = torch.randn(1, 3, 64, 96, requires_grad=True)
    loss = sum(out.square().mean() for out in model(image))
    (grad,) = torch.autograd.grad(loss, image, create_graph=True)
    grad.square().sum().backward()
    first = model.get_submodule(FIRST_CONVOLUTION[cls]).weight
    assert first.grad.isfinite().all()
    assert first.grad.abs().max() > 0


@every
def test_image_without_batch(cls, build_narrow):
    with pytest.raises(ValueError, match=r'\(B, 3, H, W\), these are \(3, 64, 64\)'):
        build_narrow(cls)(torch.randn(3, 64, 64))


@pytest.mark.parametrize(
    'init_cfg', [123, 'weights.pth', ['weights.pth'], True, {'type': 'Pretrained'}]
)
@every
def test_wrong_init_cfg(cls, init_cfg, build_narrow):
    with pytest.raises(ValueError, match=r"^init_cfg=.*dict\(type='Pretrained', checkpoint=PATH\)"):
        build_narrow(cls, init_cfg=init_cfg)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('attention', [('inline', ('linear', 'softmax'), 'agent', 'focused')])
@every
def test_onnx_by_the_older_exporter(cls, attention, build_narrow, randomised, assert_near):
    """A file for the size of the example, and a line that says so."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    model = randomised(build_narrow(cls, attention=attention, pretrain_img_size=64)).eval()
    image, file = torch.randn(2, 3, 70, 90), io.BytesIO()
    older = (
        dict(dynamo=False) if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
    )
    with pytest.warns(UserWarning, match=r'fixes batch and size of the example'):
        torch.onnx.export(model, (image,), file, input_names=['image'], **older)
    outs = onnxruntime.InferenceSession(file.getvalue()).run(None, {'image': image.numpy()})
    with torch.no_grad():
        for out, expected in zip(outs, model(image), strict=True):
            assert_near(torch.from_numpy(out), expected, 1e-4)
