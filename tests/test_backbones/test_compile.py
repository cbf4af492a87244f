import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmlab_inline import InLinePVT, backbones
from mmlab_inline.runs import confine_autocast

PAGE = Path(__file__).parents[2] / 'docs/performance.md'
LINE = "model.backbone.compile(mode='reduce-overhead')"


@pytest.mark.parametrize('attention', ['inline', 'softmax'])
@pytest.mark.parametrize('name', backbones.__all__)
def test_compiles_without_graph_breaks(name, attention, build_narrow, assert_near):
    torch._dynamo.reset()
    cls = getattr(backbones, name)
    model = build_narrow(cls, attention=attention, depths=(1, 2, 1, 1), drop_path_rate=0.0)
    compiled = torch.compile(model, backend='eager', fullgraph=True, dynamic=False)
    image = torch.randn(2, 3, 64, 96)
    for out, expected in zip(compiled(image), model(image), strict=True):
        assert_near(out, expected, 1e-5)


class Model(BaseModel):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        confine_autocast(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.backbone(image)


@pytest.fixture
def model(randomised) -> Model:
    """Of one stage, which takes the compiler a fourth of the time."""
    torch._dynamo.reset()
    arch = dict(embed_dims=(8,), depths=(1,), num_heads=(2,), mlp_ratios=(2,))
    backbone = InLinePVT(arch, sr_ratios=(8,), drop_path_rate=0.0, out_indices=(0,))
    return Model(randomised(backbone))


def test_autocast_around_a_model_costs_one_compilation(model, monkeypatch):
    """However often it replaces the networks' ``forward``."""
    model.backbone.compile(backend='eager', fullgraph=True)
    image = torch.randn(2, 3, 64, 96)
    for _ in range(2):
        with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
            model.eval()(image)
        monkeypatch.setattr(torch._dynamo.config, 'error_on_recompile', True)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which(os.environ.get('CXX', 'g++')), reason='compiles C++')
def test_the_line_of_the_docs(model, assert_near):
    """Inference in float32, and a training step under autocast, by PyTorch's own compiler."""
    assert f'\n{LINE}\n' in PAGE.read_text()
    image = torch.randn(2, 3, 64, 96)
    expected = model.eval()(image)

    def step(amp: bool = True) -> dict[str, Tensor]:
        model.train().zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            outs = model(image)
        assert all(out.dtype is torch.float32 for out in outs)
        sum(out.square().mean() for out in outs).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    gradients, names = step(amp=False), list(model.state_dict())
    exec(LINE, {'model': model})
    assert list(model.state_dict()) == names
    with torch.no_grad():
        for out, value in zip(model.eval()(image), expected, strict=True):
            assert_near(out, value, 1e-5)
    scale = max(float(grad.abs().max()) for grad in gradients.values())
    for name, grad in step().items():
        assert_near(grad, gradients[name], 2e-2, name, scale)
