"""The CPU as a device: freed memory is kept."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from slimdiff.devices import pick_device
pick_device("cpu")
torch.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_the_pages_of_a_freed_tensor_serve_the_next():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    # A tensor of 32 MB has 7813 pages.
    assert int(done.stdout) < 7813
