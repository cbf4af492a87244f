import pytest
import torch

from mmlab_inline import InLinePVT, InLineSwin


@pytest.mark.parametrize('attention', ['inline', 'softmax'])
@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin])
def test_compiles_without_graph_breaks(cls, attention, build_narrow, assert_near):
    torch._dynamo.reset()
    model = build_narrow(cls, attention=attention, depths=(1, 2, 1, 1), drop_path_rate=0.0)
    compiled = torch.compile(model, backend='eager', fullgraph=True, dynamic=False)
    image = torch.randn(2, 3, 64, 96)
    for out, expected in zip(compiled(image), model(image), strict=True):
        assert_near(out, expected, 1e-5)
