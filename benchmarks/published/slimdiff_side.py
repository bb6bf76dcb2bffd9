"""The slimdiff side of a comparison. Started by `turns.Side`.

Options: work (train, sample or limits), device, precision (float32 or bfloat16), size, batch, compiled.
"""

import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from turns import Wire, device_name, options, peak_memory_mb

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.generation import GenerationConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.recipes import PUBLISHED
from slimdiff.config.training import TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.devices import autocast
from slimdiff.generation.generator import Generator
from slimdiff.generation.requests import Request
from slimdiff.model.checkpoint import DataSpec, ModelCard, build_network, save_model
from slimdiff.model.conditioning import Condition
from slimdiff.training.trainer import Trainer

NETWORK = ModelConfig.model_validate(PUBLISHED["model"])
PAPER = DiffusionConfig.model_validate(PUBLISHED["diffusion"])
N_BINS = 30
CENTRES = [35.0 + 2.7 * b for b in range(N_BINS)]
# Published dense bfloat16 TFLOP/s; other GPUs, types and CPUs are measured with a matrix product.
PUBLISHED_TFLOPS = {"H200": 990, "H100 PCIe": 756, "H100 NVL": 835, "H100": 990, "A100": 312, "L40S": 362}


def synchronised(device: str) -> float:
    """Time after the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def best_of(call: Callable[[], object], device: str, repeats: int, at_least: float = 0.0) -> float:
    """Seconds of the fastest call, after one untimed warm-up call; repeats for at least `at_least` seconds."""
    call()
    best, total = float("inf"), 0.0
    while repeats > 0 or total < at_least:
        start = synchronised(device)
        call()
        seconds = synchronised(device) - start
        best, total, repeats = min(best, seconds), total + seconds, repeats - 1
    return best


def synthetic_store(size: int, count: int = 64) -> SliceStore:
    """An in-memory store of noise, with a square lesion in every second slice."""
    rng = np.random.default_rng(0)
    label = np.arange(count) % 2
    masks = np.zeros((count, size, size), np.uint8)
    masks[label == 1, size // 4 : size // 3, size // 4 : size // 3] = 1
    images = rng.uniform(-1, 1, masks.shape).astype(np.float16)
    bins, names = np.arange(count) % N_BINS, np.full(count, "sub-0")
    hashes = dict.fromkeys(("images", "masks", "slices"), "0" * 64)
    facts = {
        "n_bins": N_BINS,
        "spacing_mm": 1.25,
        "z_range": [34, 115],
        "bin_centres": CENTRES,
        "sha256": hashes,
    }
    return SliceStore(Path(), images, masks, names, bins.copy(), bins, label, np.full(count, "n/a"), facts)


def inputs(batch: int, size: int, device: str) -> tuple:
    """Inputs of a network: noisy pairs, timesteps, condition, previous estimate."""
    x = torch.randn(batch, 2, size, size, device=device)
    index = torch.zeros(batch, dtype=torch.long, device=device)
    return x, index + 500.0, Condition(index, index), torch.randn_like(x)


def train(wire: Wire, device: str, precision: str, size: int, batch: int, compiled: bool = False) -> None:
    """Questions: `steps` (optimiser steps), `what: outside` (time of the network alone), `what: syncs`."""
    # The published code's optimiser.
    config = TrainingConfig(
        optimiser="adamw",
        batch_size=batch,
        device=device,
        precision=precision,
        self_conditioning=0.5,
        compile=compiled,
        tensorboard=False,
    )
    store = synthetic_store(size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(NETWORK, PAPER, config, store, ["sub-0"], Path(folder), {})
        trainer.precision = getattr(torch, precision)
        for question in wire.questions():
            if question.get("what") == "outside":
                wire.answer(network_seconds=_network_seconds(trainer, size, batch))
            elif question.get("what") == "syncs":
                wire.answer(syncs=_synchronisations(trainer))
            else:
                if device == "cuda":
                    # An untimed step: memory was released between the turns for the other side.
                    trainer.advance()
                start = synchronised(device)
                for _ in range(question["steps"]):
                    trainer.advance()
                seconds = synchronised(device) - start
                if device == "cuda":
                    torch.cuda.empty_cache()
                wire.answer(seconds=seconds, memory_mb=peak_memory_mb(torch, device))


def _network_seconds(trainer: Trainer, size: int, batch: int) -> float:
    """Time of the network in a step: half a batch without gradient, then the batch with gradient."""
    device = trainer.device
    asked = inputs(batch, size, device.type)
    half = [part[: batch // 2] for part in asked]

    def work():
        with autocast(device, trainer.precision):
            if batch > 1:
                with torch.no_grad():
                    trainer.loss.evaluate(*half)
            out = trainer.loss.evaluate(*asked)
        out.float().sum().backward()

    return best_of(work, device.type, 5 if device.type == "cuda" else 2)


def _synchronisations(trainer: Trainer) -> int:
    """Number of times that a step makes the host wait for the GPU."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        trainer.advance()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)


def sample(wire: Wire, device: str, precision: str, size: int, batch: int, compiled: bool = False) -> None:
    """Questions: `what: evaluation` (the network alone), `what: sample` (whole samples at default settings)."""
    model = NETWORK.settings()
    data = DataSpec((size, size), N_BINS, CENTRES)
    card = ModelCard(
        model=model,
        diffusion=PAPER.model_dump(mode="json"),
        training={},
        data=data,
        spacing_mm=1.25,
        z_range=(34, 115),
        study="benchmark",
        variant="base",
        fold=0,
        step=0,
        data_hash="",
        precision=precision,
        versions={},
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.safetensors"
        save_model(checkpoint, build_network(model, data).state_dict(), card)
        settings = GenerationConfig(device=device, precision=precision, batch_size=batch, compile=False)
        generator = Generator(checkpoint, settings)
    if compiled:
        generator.evaluate = torch.compile(generator.network.forward, dynamic=False)
    for question in wire.questions():
        count, repeats = question["batch"], question["repeats"]
        if question["what"] == "evaluation":
            asked = inputs(count, size, device)

            @torch.inference_mode()
            def evaluate(asked=asked):
                with autocast(generator.device, generator.precision):
                    generator.evaluate(*asked)

            seconds = best_of(evaluate, device, repeats)
        else:
            requests = [Request(str(i), i % N_BINS, i % 2, 0, i) for i in range(count)]
            start = synchronised(device)
            generator.draw(requests)
            seconds = (synchronised(device) - start) / count
        wire.answer(
            seconds=seconds,
            memory_mb=peak_memory_mb(torch, device),
            evaluations=generator.config.evaluations,
        )


class Convolutions(TorchDispatchMode):
    """Counts convolutions by shape while active."""

    def __init__(self):
        super().__init__()
        self.seen: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, _, transposed = args[:7]
            key = (tuple(x.shape), tuple(weight.shape), tuple(stride), tuple(padding), transposed)
            self.seen[key] += 1
        return function(*args, **(kwargs or {}))


def convolutions_of(size: int, batch: int) -> Counter:
    """The convolutions of one evaluation, with their counts."""
    with torch.device("meta"):
        network = build_network(NETWORK.settings(), DataSpec((size, size), N_BINS, CENTRES))
        with Convolutions() as convolutions, torch.no_grad():
            network(*inputs(batch, size, "meta"))
    return convolutions.seen


def convolution_seconds(shapes: tuple, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Fastest seconds of one convolution alone, forward and backward."""
    shape, kernel, stride, padding, transposed = shapes
    x, weight = (
        torch.randn(dims, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        for dims in (shape, kernel)
    )
    bias = torch.randn(kernel[1 if transposed else 0], device=device, dtype=dtype)
    rest = (stride, padding, [1, 1], transposed, [0, 0], 1)

    @torch.inference_mode()
    def forward():
        return torch.ops.aten.convolution(x, weight, bias, *rest)

    gradient = torch.randn_like(forward())
    # The first convolution needs no gradient of its input.
    wanted = [shape[1] > 4, True, True]

    def backward():
        torch.ops.aten.convolution_backward(gradient, x, weight, [len(bias)], *rest, wanted)

    return best_of(forward, device, 1, 0.05), best_of(backward, device, 1, 0.05)


def peak_tflops(device: str, dtype: torch.dtype) -> tuple[float, str]:
    """Peak TFLOP/s of the device in matrix products, and the source of the number."""
    if device == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name()
        for card, published in PUBLISHED_TFLOPS.items():
            if all(word in name for word in card.split()):
                return float(published), "published dense"
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / best_of(lambda: a @ b, device, 5) / 1e12, f"measured matmul {side}"


def evaluation_gflop(size: int) -> float:
    """GFLOP of one evaluation of one slice; a multiply-add counts as two."""
    with torch.device("meta"):
        network = build_network(NETWORK.settings(), DataSpec((size, size), N_BINS, CENTRES))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*inputs(1, size, "meta"))
    return counter.get_total_flops() / 1e9


def limits(wire: Wire, device: str, precision: str, size: int, batch: int, compiled: bool = False) -> None:
    """Limits of the device: peak TFLOP/s, and the network's convolutions alone. Every answer is the best so far."""
    dtype = getattr(torch, precision)
    peak, source, gflop = 0.0, "", evaluation_gflop(size)
    best: dict[tuple, tuple[float, float]] = {}
    for question in wire.questions():
        shapes = convolutions_of(size, question["batch"])
        for one in shapes:
            found = convolution_seconds(one, device, dtype)
            best[one] = tuple(map(min, best.get(one, found), found))
        found, source = peak_tflops(device, dtype)
        peak = max(peak, found)
        wire.answer(
            peak_tflops=peak,
            peak_from=source,
            forward=sum(times * best[one][0] for one, times in shapes.items()),
            backward=sum(times * best[one][1] for one, times in shapes.items()),
            gflop=gflop,
            device=device_name(torch, device),
        )


def main() -> None:
    """Answer questions until there are no more."""
    warnings.filterwarnings("ignore")
    wire, given = Wire(), options()
    work = {"train": train, "sample": sample, "limits": limits}[given.pop("work")]
    try:
        work(wire, **given)
    except Exception as error:
        traceback.print_exc()
        wire.answer(failed=f"slimdiff: {str(error).splitlines()[0] if str(error) else repr(error)}")


if __name__ == "__main__":
    main()
