"""Choice of the device, and reuse of freed memory on the CPU."""

import ctypes
import subprocess
import sys

import pytest
import torch

from slimdiff.devices import pick_device, pick_precision

SCRIPT = """
import resource, torch
from slimdiff.devices import pick_device
pick_device("cpu")
# An aligned block needs slightly more than was freed, so the first few are new.
for _ in range(10):
    torch.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_the_pages_of_a_freed_tensor_are_reused():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    # A tensor of 32 MB has 7813 pages.
    assert int(done.stdout) < 7813


@pytest.fixture
def two_gpus(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return chosen


@pytest.mark.parametrize("setting", ["auto", "cuda"])
def test_every_process_of_torchrun_uses_its_own_gpu(two_gpus, monkeypatch, setting):
    assert pick_device(setting) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(setting) == torch.device("cuda", 1)
    assert two_gpus == [0, 1]
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RuntimeError, match="process 3 has no GPU: this machine has 2; start 2 processes"):
        pick_device(setting)


def test_a_missing_gpu_is_an_error_and_auto_uses_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(
        RuntimeError, match="device cuda: not found on this machine, which has .*cpu; set device: auto"
    ):
        pick_device("cuda")


def test_the_precision_depends_on_the_device_and_not_on_the_time_of_a_step(monkeypatch):
    assert pick_precision("auto", torch.device("cpu")) == torch.float32
    assert pick_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        assert pick_precision("auto", torch.device("cuda", 0)) == expected
    assert pick_precision("float32", torch.device("cuda", 0)) == torch.float32
