import copy
import os
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from safetensors.torch import save_file
from torch import Tensor, nn

from mmlab_inline import InLinePVT, InLineSwin, backbones
from mmlab_inline.backbones.pretrained import load_pretrained
from mmlab_inline.mixers import resolve_attention

every = pytest.mark.parametrize('cls', [getattr(backbones, name) for name in backbones.__all__])
MIXED = ('inline', ('inline', 'softmax'), 'inline', 'softmax')


@pytest.fixture
def source(cls, build_narrow, randomised) -> nn.Module:
    return randomised(build_narrow(cls, attention=MIXED))


@pytest.fixture
def target(cls, build_narrow):
    def build(path: Path, prefix: str | None = None, **settings: object) -> nn.Module:
        init_cfg = dict(type='Pretrained', checkpoint=str(path))
        if prefix is not None:
            init_cfg['prefix'] = prefix
        return build_narrow(cls, **{'attention': MIXED, **settings}, init_cfg=init_cfg)

    return build


def released(model: nn.Module) -> dict[str, Tensor]:
    """What a classification checkpoint holds: no output norms, but a final norm and a head."""
    weights = {
        name: value
        for name, value in model.state_dict().items()
        if not is_output_norm(name) and not is_pyramid(name)
    }
    weights.setdefault('norm.weight', torch.ones(model.out_channels[-1]))
    weights.setdefault('norm.bias', torch.ones(model.out_channels[-1]))
    weights['head.weight'] = torch.ones(10, model.out_channels[-1])
    weights['head.bias'] = torch.ones(10)
    if isinstance(model, InLineSwin):
        weights['layers.3.blocks.0.attn.relative_position_index'] = torch.zeros(49, 49).long()
        weights['layers.1.blocks.1.attn_mask'] = torch.zeros(4, 49, 49)
    return weights


def is_output_norm(name: str) -> bool:
    return name.split('.')[0] in ('norm0', 'norm1', 'norm2', 'norm3')


def is_pyramid(name: str) -> bool:
    return name.startswith('fpn')


def assert_loaded(model: nn.Module, source: nn.Module, output_norms: bool) -> None:
    for name, value in source.state_dict().items():
        own = model.state_dict()[name]
        if output_norms or not (is_output_norm(name) or is_pyramid(name)):
            assert torch.equal(own, value), name
        elif is_output_norm(name):
            assert (own == float(name.endswith('weight'))).all(), name


LAYOUTS = {
    'model': lambda weights: {'model': weights, 'epoch': 299, 'max_accuracy': 78.2},
    'state_dict': lambda weights: {'meta': {'epoch': 1}, 'state_dict': weights},
    'bare': lambda weights: weights,
    'distributed': lambda weights: {'model': {f'module.{k}': v for k, v in weights.items()}},
    'averaged': lambda weights: {
        'state_dict': {k: v + 1 for k, v in weights.items()},
        'state_dict_ema': weights,
    },
    'averaged, timm': lambda weights: {
        'model': {k: v + 1 for k, v in weights.items()},
        'model_ema': {f'module.{k}': v for k, v in weights.items()},
    },
    'compiled': lambda weights: {f'module._orig_mod.{k}': v for k, v in weights.items()},
    'lightning': lambda weights: {'state_dict': {f'model.{k}': v for k, v in weights.items()}},
    'wrapped twice': lambda weights: {f'net._orig_mod.body.{k}': v for k, v in weights.items()},
}


@pytest.mark.parametrize('layout', LAYOUTS)
@every
def test_layouts(layout, source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(LAYOUTS[layout](released(source)), path)
    model = target(path)
    model.init_weights()
    assert_loaded(model, source, output_norms=False)


@pytest.mark.parametrize(
    ('cls', 'attention'),
    [
        (InLinePVT, 'focused'),
        (InLinePVT, 'agent'),
        (InLineSwin, ('focused', 'focused', 'softmax', 'softmax')),
        (InLineSwin, ('agent', 'agent', ('agent', 'softmax'), 'softmax')),
    ],
)
def test_other_linear_attentions_into_larger_agent_grids(
    cls, attention, build_narrow, randomised, tmp_path
):
    """As their configs have it: the tables are those of the classifier."""
    source = randomised(build_narrow(cls, attention=attention))
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    larger = dict(type='agent', agent_grid=(12, 16))
    stages = resolve_attention(attention, (1, 2, 2, 1))
    chosen = [[larger if choice == 'agent' else choice for choice in stage] for stage in stages]
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = build_narrow(cls, attention=chosen, init_cfg=init_cfg)
    model.init_weights()
    assert_loaded(model, source, output_norms=False)
    assert all(out.isfinite().all() for out in model(torch.randn(1, 3, 97, 130)))


@every
def test_safetensors(source, target, tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_file({name: value.contiguous() for name, value in released(source).items()}, path)
    model = target(path)
    model.init_weights()
    assert_loaded(model, source, output_norms=False)


@every
def test_own_checkpoint_with_output_norms(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(source.state_dict(), path)
    model = target(path)
    model.init_weights()
    assert_loaded(model, source, output_norms=True)
    image = torch.randn(1, 3, 40, 70)
    for out, expected in zip(model.eval()(image), source.eval()(image), strict=True):
        assert torch.equal(out, expected)


@every
def test_fewer_outputs_than_the_checkpoint_has_norms(source, target, tmp_path):
    """A segmentation backbone may use fewer stages than the detector that it comes from."""
    path = tmp_path / 'weights.pth'
    torch.save(source.state_dict(), path)
    model = target(path, out_indices=(1, 3))
    model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
@every
def test_backbone_of_a_detector_trained_with_mmengine(prefix, cls, source, target, tmp_path):
    hub = MessageHub(f'{cls.__name__}-{prefix}')
    hub.update_scalar('train/loss', torch.tensor(1.5))
    hub.update_info('iter', 3)
    optimizer = torch.optim.AdamW(source.parameters())
    weights = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    weights['neck.conv.weight'] = torch.ones(2, 2)
    path = tmp_path / 'epoch_12.pth'
    content = {
        'meta': {'epoch': 12, 'dataset_meta': {'classes': ('disc',), 'palette': [(1, 2, 3)]}},
        'state_dict': weights,
        'message_hub': hub.state_dict(),
        'optimizer': optimizer.state_dict(),
        'param_schedulers': [{'last_step': 3}],
    }
    torch.save(content, path)
    model = target(path, prefix)
    model.init_weights()
    assert_loaded(model, source, output_norms=True)


@every
def test_half_precision_weights_are_widened(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({name: value.half() for name, value in released(source).items()}, path)
    model = target(path)
    model.init_weights()
    assert_loaded(model, source.half().float(), output_norms=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@every
def test_as_part_of_a_bigger_model(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    detector = BaseModule(init_cfg=dict(type='Constant', layer='Linear', val=0.5))
    detector.backbone = target(path)
    detector.head = nn.Linear(2, 2)
    detector.init_weights()
    assert_loaded(detector.backbone, source, output_norms=False)
    assert (detector.head.weight == 0.5).all()


@every
def test_frozen_stages_are_loaded_too(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    model = target(path, frozen_stages=2).train()
    model.init_weights()
    assert_loaded(model, source, output_norms=False)


def refused(model: nn.Module, error: type[Exception], match: str) -> str:
    """The message; nothing may have been loaded."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=match) as info:
        model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(info.value)


@every
def test_too_big_a_checkpoint(cls, source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    attention = ('inline', 'inline', 'inline', 'softmax')
    message = refused(target(path, depths=(1, 1, 2, 1), attention=attention), ValueError, 'unknown')
    assert str(path) in message
    assert cls.__name__ in message


@every
def test_too_small_a_checkpoint(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    refused(target(path, depths=(1, 2, 3, 1)), ValueError, 'parameters missing')


@every
def test_checkpoint_without_one_tensor(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    weights = released(source)
    name = next(name for name in weights if name.endswith('residual.2.bias'))
    del weights[name]
    torch.save({'model': weights}, path)
    message = refused(target(path), ValueError, '1 parameters? missing')
    assert name in message


@every
def test_checkpoint_of_another_shape(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    weights = released(source)
    name = next(name for name in weights if name.endswith('mlp.fc1.weight'))
    weights[name] = torch.ones(3, 5)
    torch.save({'model': weights}, path)
    message = refused(target(path), ValueError, 'of another shape')
    assert f'{name} (3, 5) instead of' in message


@every
def test_checkpoint_of_another_attention(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    refused(target(path, attention='inline'), ValueError, 'missing')


@every
def test_wrong_prefix(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    refused(target(path, 'backbone.'), ValueError, "holds nothing below prefix='backbone.'$")
    torch.save({f'encoder.{key}': value for key, value in released(source).items()}, path)
    refused(target(path, 'encodr'), ValueError, r"'encodr' \(did you mean 'encoder.'\?\)")


@pytest.mark.parametrize('prefix', [None, 'encoder', 'encoder.', 'model.encoder.'])
@pytest.mark.parametrize('cls', [InLineSwin])
def test_prefix_that_all_names_share(prefix, source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    weights = {f'model.encoder.{key}': value for key, value in source.state_dict().items()}
    torch.save(weights, path)
    model = target(path, prefix)
    model.init_weights()
    assert all(
        torch.equal(value, model.state_dict()[key])
        for key, value in released(source).items()
        if key in model.state_dict()
    )


@every
def test_trained_weights_are_not_loaded_over(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    model = target(path)
    model.init_weights()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    model.init_weights()
    assert not any(parameter.any() for parameter in model.parameters())


@every
def test_detector_without_a_prefix(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    weights = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    torch.save({'state_dict': weights}, path)
    refused(target(path), ValueError, r"needs init_cfg=dict\(\.\.\., prefix='backbone\.'\)")


@every
def test_file_without_weights(target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'epoch': 3}, path)
    refused(target(path), ValueError, 'holds no weights')


@every
def test_missing_file(target, tmp_path):
    refused(target(tmp_path / 'none.pth'), FileNotFoundError, r'none\.pth')


@every
def test_torn_file(source, target, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'model': released(source)}, path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(target(path), ValueError, r'weights\.pth')


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.marker}',)


@every
def test_file_that_would_run_a_command(source, target, tmp_path):
    path, marker = tmp_path / 'weights.pth', tmp_path / 'marker'
    torch.save({'model': released(source), 'config': Evil(marker)}, path)
    message = refused(target(path), ValueError, f'{os.system.__module__}.system')
    assert str(path) in message
    assert not marker.exists()


@every
def test_other_init_cfg_is_mmengines(cls, build_narrow):
    model = build_narrow(cls, init_cfg=dict(type='Constant', layer='LayerNorm', val=3.0, bias=1.0))
    model.init_weights()
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert all((norm.weight == 3).all() and (norm.bias == 1).all() for norm in norms)


def test_any_module_can_be_loaded(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(nn.Linear(2, 3).state_dict(), path)
    model = nn.Linear(2, 3)
    load_pretrained(model, str(path))
    assert torch.equal(model.weight, torch.load(path)['weight'])


@every
def test_without_a_run_one_line_tells_of_random_weights(cls, build_narrow, monkeypatch):
    from mmengine.logging import MMLogger

    from mmlab_inline.backbones import base

    said = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'info', said.append)
    monkeypatch.setattr(base, 'print_log', lambda text, logger: said.append(text))
    build_narrow(cls).init_weights()
    assert said == [f'{cls.__name__}: random weights, as it was built']
