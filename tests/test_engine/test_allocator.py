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


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='sets glibc only')
@pytest.mark.skipif(torch.cuda.is_available(), reason='nothing happens with a GPU')
def test_freed_memory_is_reused_unless_the_environment_decides():
    env = {key: value for key, value in os.environ.items() if not key.startswith('MALLOC_')}
    run = subprocess.run(
        [sys.executable, '-c', SCRIPT], env=env, capture_output=True, text=True, check=True
    )
    left_alone, kept = map(int, run.stdout.split())
    assert left_alone > 10_000
    assert kept < 100
