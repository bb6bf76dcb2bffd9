"""Which device a process takes, and the CPU as one: freed memory is kept."""

import ctypes
import subprocess
import sys

import pytest
import torch

from slimdiff.devices import pick_device

SCRIPT = """
import resource, torch
from slimdiff.devices import pick_device
pick_device("cpu")
# An aligned block wants a little more than was freed, so the first few are new.
for _ in range(10):
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


@pytest.fixture
def two_cards(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return chosen


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_every_process_of_torchrun_takes_its_own_card(two_cards, monkeypatch, wanted):
    assert pick_device(wanted) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(wanted) == torch.device("cuda", 1)
    assert two_cards == [0, 1]
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RuntimeError, match="process 3 has no GPU: this machine has 2; start 2 processes"):
        pick_device(wanted)


def test_a_card_that_is_not_there_is_an_error_and_auto_does_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(
        RuntimeError, match="device cuda: not found on this machine, which has .*cpu; set device: auto"
    ):
        pick_device("cuda")
