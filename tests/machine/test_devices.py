"""Choice of the device, and reuse of freed memory on the CPU."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from slimdiff import cards, devices
from slimdiff.devices import pick_device, pick_precision
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation

SCRIPT = """
import resource, torch
from slimdiff import cards, devices
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


@pytest.fixture
def fresh(monkeypatch):
    """A process that has printed nothing yet, and was given no card."""
    monkeypatch.setattr(devices, "_told", set())
    monkeypatch.setattr(cards, "_claimed", {})
    for name in (cards.GRANTED, *cards.ALLOCATIONS, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


OLD_DRIVER = cards.Driver((12, 4), (cards.Card("A card", (8, 6)),))
NEW_BUILD = cards.Build("2.15.0+cu132", (13, 2), ("sm_75", "sm_90"))


@pytest.fixture
def no_gpu(monkeypatch, fresh):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(cards, "cards_on_the_bus", lambda: 0)
    monkeypatch.setattr(cards, "nvidia_driver", lambda: None)
    monkeypatch.setattr(cards, "torch_build", lambda: NEW_BUILD)


def test_auto_says_once_what_it_took_and_why(no_gpu, capsys):
    for _ in range(2):
        assert pick_device("auto") == torch.device("cpu")
    assert capsys.readouterr().err == (
        "device auto: took cpu (no GPU that torch can use: no NVIDIA driver found (libcuda.so.1))\n"
    )
    assert pick_device("cpu") == torch.device("cpu")
    assert capsys.readouterr().err == ""


def test_auto_names_the_card_that_it_took(two_gpus, fresh, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    assert pick_device("auto") == torch.device("cuda", 0)
    assert capsys.readouterr().err == "device auto: took cuda:0 (A card, 2 found)\n"


def test_a_card_that_the_cpu_replaces_is_named_with_the_remedy(no_gpu, monkeypatch, capsys):
    monkeypatch.setattr(cards, "cards_on_the_bus", lambda: 1)
    monkeypatch.setattr(cards, "nvidia_driver", lambda: OLD_DRIVER)
    assert pick_device("auto") == torch.device("cpu")
    line = capsys.readouterr().err
    assert "needs a driver for CUDA 13.2" in line and "THE MACHINE HAS A GPU" in line and "whl/cu126" in line


@pytest.mark.parametrize("variable", [cards.GRANTED, "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"])
def test_auto_never_takes_the_cpu_where_a_card_was_allocated(no_gpu, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(cards, "nvidia_driver", lambda: OLD_DRIVER)
    with pytest.raises(devices.NoDevice, match=r"asks for a GPU, but .*CUDA 13.2.*whl/cu126.*device: cpu"):
        pick_device("auto")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("allocated", [True, False])
def test_a_card_without_kernels_is_not_taken(two_gpus, fresh, monkeypatch, capsys, allocated):
    """torch starts CUDA, and fails at the first kernel only."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    old_card = cards.Driver((13, 2), (cards.Card("An old card", (6, 1)),))
    monkeypatch.setattr(cards, "nvidia_driver", lambda: old_card)
    monkeypatch.setattr(cards, "torch_build", lambda: NEW_BUILD)
    with pytest.raises(devices.NoDevice, match=r"device cuda: .*no kernels for An old card"):
        pick_device("cuda")
    if allocated:
        monkeypatch.setenv(cards.GRANTED, "1")
        with pytest.raises(devices.NoDevice, match="no kernels for An old card"):
            pick_device("auto")
    else:
        assert pick_device("auto") == torch.device("cpu")
        assert "no kernels for An old card" in capsys.readouterr().err


def test_jobs_of_the_workflow_take_cards_of_their_own(two_gpus, fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(cards, "claim", lambda number, count: list(range(count))[-number:])
    assert pick_device("cuda") == torch.device("cuda", 0)
    assert devices.own_cards(2) == {}
    monkeypatch.setenv(cards.GRANTED, "2")
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert devices.own_cards(1) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert devices.own_cards(2) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b")
    assert devices.own_cards(1) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    # Under torchrun the launching process has taken them.
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert pick_device("cuda") == torch.device("cuda", 0)


def test_metrics_on_auto_take_no_mps_and_not_the_cpu_where_a_card_was_allocated(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    config = SimpleNamespace(device="auto")
    assert FoldEvaluation.device.func(SimpleNamespace(config=config)) == torch.device("cpu")
    monkeypatch.setenv(cards.GRANTED, "1")
    with pytest.raises(devices.NoDevice, match="asks for a GPU"):
        FoldEvaluation.device.func(SimpleNamespace(config=config))
