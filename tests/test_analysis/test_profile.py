"""Shares of a training step, from rows as torch's profiler makes them on a machine with a GPU."""

import pytest
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from mmlab_inline.analysis.benchmark.profile import KINDS, OTHER, PARTS, _shares


class Trace:
    """One CPU thread and one GPU; microseconds."""

    def __init__(self):
        self.events = []
        self.now = 0

    def event(self, name, start, end, **settings):
        event = FunctionEvent(
            len(self.events), name, 0, start, end, stack=[], use_device='cuda', **settings
        )
        self.events.append(event)
        return event

    def annotate(self, name, *launches):
        """An annotation around operators; it has a row of the GPU too."""
        start = self.now
        self.now += 1
        kernels = [self.launch(*launch) for launch in launches]
        self.now += 1
        annotated = dict(is_user_annotation=True)
        self.event(name, start, self.now, **annotated)
        ends = [kernel.time_range for kernel in kernels]
        self.event(name, ends[0].start, ends[-1].end, device_type=DeviceType.CUDA, **annotated)

    def launch(self, operator, kernel, time):
        """An operator that takes 10 us on the CPU, or None, and its kernel, which starts later."""
        kernel = self.event(kernel, self.now + 5, self.now + 5 + time, device_type=DeviceType.CUDA)
        if operator:
            event = self.event(operator, self.now, self.now + 10)
            event.append_kernel(kernel.name, 0, time)
        self.now += 10
        return kernel

    def shares(self):
        events = EventList(self.events, use_device='cuda')
        events._build_tree()
        return _shares(events.key_averages(), 'cuda')


def test_each_kernel_counts_once():
    trace = Trace()
    trace.annotate(
        PARTS['backbone'],
        ('aten::addmm', 'nvjet_hsh_128x256_64x4_2x1_v_bz_TNT', 60),
        ('aten::gelu', 'void at::native::vectorized_elementwise_kernel', 40),
    )
    kinds, parts = trace.shares()
    assert kinds == {'matrix products': pytest.approx(0.6), OTHER: pytest.approx(0.4)}
    assert parts == {PARTS['backbone']: pytest.approx(1), PARTS['attention']: 0}


def test_what_runs_outside_the_backbone_or_of_no_operator():
    trace = Trace()
    trace.annotate(PARTS['backbone'], ('aten::cudnn_convolution', 'sm90_xmma_fprop_gemm', 30))
    trace.launch('mmlab_inline::token_mean_and_gram', '_moments_kernel', 50)
    trace.launch('aten::copy_', 'Memcpy HtoD (Pinned -> Device)', 5)
    trace.launch(None, 'a kernel of a graph', 15)
    kinds, parts = trace.shares()
    assert kinds == {
        'matrix products': pytest.approx(0.5),
        'convolutions': pytest.approx(0.3),
        OTHER: pytest.approx(0.15),
        'copies': pytest.approx(0.05),
    }
    assert parts[PARTS['backbone']] == pytest.approx(0.3)
    assert parts[PARTS['attention']] == 0


@pytest.mark.parametrize(
    ('operator', 'kind'),
    [
        ('aten::mm', 'matrix products'),
        ('aten::baddbmm', 'matrix products'),
        ('aten::_addmm_activation', 'matrix products'),
        ('aten::_scaled_dot_product_efficient_attention', 'matrix products'),
        ('mmlab_inline::project_and_local_residual', 'matrix products'),
        ('mmlab_inline::local_residual_backward', 'convolutions'),
        (
            'GeneratedBackwardFor_mmlab_inline_project_and_local_residual_defaultBackward',
            'matrix products',
        ),
        ('torchvision::_roi_align_backward', 'RoIAlign'),
        ('aten::native_layer_norm', 'normalisation'),
        ('aten::_log_softmax', 'softmax and its logarithm'),
        ('aten::_foreach_copy_', 'copies'),
        ('aten::normal_', OTHER),
        ('aten::scatter_', OTHER),
        ('Command Buffer Full', OTHER),
    ],
)
def test_kinds(operator, kind):
    trace = Trace()
    trace.launch(operator, 'a kernel', 10)
    kinds, _ = trace.shares()
    assert kind in (*KINDS, OTHER)
    assert kinds[kind] == pytest.approx(1)
