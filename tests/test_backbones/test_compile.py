import pytest
import torch

from mmlab_inline import backbones


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
