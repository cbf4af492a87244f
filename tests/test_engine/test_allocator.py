import os
import platform
import subprocess
import sys

import pytest
import torch

# Prints the page faults of filling 64 MB that were freed before. (glibc's aligned allocations leave
# a small block behind each, which is not reused before there are several.)
SCRIPT = """
import os, resource, torch
from mmlab_inline.engine import keep_freed_memory

def page_faults():
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
os.environ['MALLOC_MMAP_MAX_'] = '65536'
keep_freed_memory()
print(page_faults())
del os.environ['MALLOC_MMAP_MAX_']
keep_freed_memory()
print(page_faults())
"""

# Builds something that takes 200 MB in small blocks meanwhile, as an annotation file does, and
# leaves one behind above them. Prints what it takes in between and afterwards, in MB.
BUILD = """
import sys
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS
from mmlab_inline.engine import keep_freed_memory
from mmlab_inline.engine.runner import CheckedRunner

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6

def read(owner):
    blocks = [bytes(2000) for _ in range(100_000)]
    owner.last = blocks[-1]
    print(resident() - before, file=sys.__stdout__)  # the runner silences libraries

@DATASETS.register_module()
class Data(BaseDataset):
    def load_data_list(self):
        read(self)
        return [{}]

@METRICS.register_module()
class Metric(BaseMetric):
    def __init__(self, **settings):
        super().__init__(**settings)
        read(self)
    default_prefix = 'none'
    process = compute_metrics = None

keep_freed_memory()
before = resident()
runner = CheckedRunner.__new__(CheckedRunner)
settings = dict(dataset=dict(type='Data', test_mode=True), batch_size=1)
build = dict(
    dataset=lambda: runner.build_dataloader(dict(settings, sampler=dict(type='DefaultSampler'))),
    metric=lambda: runner.build_evaluator(dict(type='Metric')),
)
built = build['WHAT']()
print(resident() - before)
"""
glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='sets glibc only')


def run(code: str) -> list[float]:
    """The numbers that code prints in a fresh interpreter."""
    env = {key: value for key, value in os.environ.items() if not key.startswith('MALLOC_')}
    result = subprocess.run(
        [sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True
    )
    return [float(word) for word in result.stdout.split()]


@glibc_only
@pytest.mark.skipif(torch.cuda.is_available(), reason='nothing happens with a GPU')
def test_freed_memory_is_reused_unless_the_environment_decides():
    left_alone, kept = run(SCRIPT)
    assert left_alone > 10_000
    assert kept < 100


@glibc_only
@pytest.mark.parametrize('what', ['dataset', 'metric'])
def test_what_reading_annotations_took_is_given_back(what):
    meanwhile, afterwards = run(BUILD.replace('WHAT', what))
    assert meanwhile > 150  # some of the 200 may be memory that was free before
    assert afterwards < 60
