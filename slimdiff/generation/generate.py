"""Samples of one z-bin from a checkpoint (contract: `slimdiff.generation.samples`)."""

import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from slimdiff.config.generation import GenerationConfig
from slimdiff.devices import autocast, pick_device, pick_precision
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.samplers import SAMPLERS
from slimdiff.diffusion.schedule import make_schedule, reference_sigmas, sampling_sigmas
from slimdiff.files import MISSING, sha256
from slimdiff.generation.noise import normal, stream_key, uniform
from slimdiff.generation.samples import write_samples
from slimdiff.model.build import load_model
from slimdiff.model.conditioning import Condition

WORTH_COMPILING = 5000
"""Samples from which on the minute that torch.compile takes should come back on a card (not measured yet)."""


@dataclass(frozen=True)
class Request:
    """One sample to draw."""

    key: str
    z_bin: int
    label: int
    replica: int
    index: int

    @property
    def id(self) -> str:
        return f"zbin-{self.z_bin:02d}_class-{self.label}_replica-{self.replica}_{self.index:05d}"


def requests_of_bin(config: GenerationConfig, fold: int, variant: str, z_bin: int) -> list[Request]:
    """All samples of a z-bin: replicas x classes x per_bin_and_class."""
    name = variant if config.variant_in_key else None
    return [
        Request(
            stream_key(config.seed, fold, z_bin, label, replica, index, name), z_bin, label, replica, index
        )
        for replica in range(config.replicas)
        for label in (0, 1)
        for index in range(config.per_bin_and_class)
    ]


class Generator:
    """A checkpoint ready to draw samples."""

    def __init__(self, checkpoint: Path, config: GenerationConfig):
        self.config = config
        self.device = pick_device(config.device)
        self.network, self.card = load_model(checkpoint, self.device)
        self.checkpoint_sha256 = sha256(checkpoint)
        self.schedule = make_schedule(self.card.diffusion["schedule"], self.card.diffusion["timesteps"])
        if config.sampler == "ddim_ref":
            self.sigmas = reference_sigmas(self.schedule, config.evaluations)
            signal = 1 / math.sqrt(1 + self.sigmas[0] ** 2)
            print(
                f"ddim_ref: the chain starts from pure noise where sqrt(alpha_bar) is {signal:.3f}",
                file=sys.stderr,
            )
        else:
            self.sigmas = sampling_sigmas(self.schedule, config.evaluations, config.spacing)
        self._check(checkpoint)
        self.evaluate: Callable = self.network
        self.precision = pick_precision(config.precision, self.device, self._trial)

    def _check(self, checkpoint: Path) -> None:
        names = self.card.data.acquisitions
        if self.config.guidance != 1 and not self.card.model["null_token"]:
            raise ValueError(
                f"generation.guidance is {self.config.guidance}, but {checkpoint} was trained without model.null_token"
            )
        if self.config.acquisition != "mix" and self.config.acquisition not in names:
            known = ", ".join(names) if names else "it was trained without model.acquisition"
            raise ValueError(
                f"generation.acquisition {self.config.acquisition!r}: {checkpoint} knows mix and these: {known}"
            )

    def acquisitions(self, requests: list[Request]) -> list[str]:
        """The acquisition of each request, n/a where the network is not told: as configured, or by the sample's own
        stream in the shares of the training slices of its class."""
        names = self.card.data.acquisitions
        if not names:
            return [MISSING] * len(requests)
        if self.config.acquisition != "mix":
            return [self.config.acquisition] * len(requests)
        counts = np.array(self.card.data.acquisition_counts, dtype=float)
        # A class that was never seen takes the shares of all slices.
        counts = np.where(counts.sum(axis=1, keepdims=True) > 0, counts, counts.sum(axis=0))
        edges = np.cumsum(counts / counts.sum(axis=1, keepdims=True), axis=1)[:, :-1]
        chances = uniform([request.key for request in requests])
        return [
            names[int(np.searchsorted(edges[request.label], chance, side="right"))]
            for request, chance in zip(requests, chances, strict=True)
        ]

    def _condition(self, requests: list[Request]) -> Condition:
        acquisition = None
        if self.card.data.acquisitions:
            chosen = [self.card.data.acquisitions.index(name) for name in self.acquisitions(requests)]
            acquisition = torch.tensor(chosen)
        return Condition(
            torch.tensor([request.z_bin for request in requests]),
            torch.tensor([request.label for request in requests]),
            acquisition,
        ).to(self.device)

    def draw(self, requests: list[Request], progress: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Images and continuous masks of the requests, both float16 (N, H, W) in [-1, 1], in their order.

        The batch size and the order of the requests change no sample: on a CPU bit for bit, on a GPU up to rounding.
        """
        drawn = np.empty((len(requests), 2, *self.card.store_size), np.float16)
        done = 0
        worth = self.device.type == "cuda" and len(requests) >= WORTH_COMPILING
        if self.evaluate is self.network and (worth if self.config.compile is None else self.config.compile):
            self.evaluate = torch.compile(self.network.forward, dynamic=False)
        with tqdm(total=len(requests), desc=progress or "sample", unit="sample", mininterval=2) as bar:
            for pairs in self._one_a_core(requests) if self.device.type == "cpu" else self._batches(requests):
                drawn[done : done + len(pairs)] = pairs
                done += len(pairs)
                bar.update(len(pairs))
        return drawn[:, 0], drawn[:, 1]

    def _batches(self, requests: list[Request]) -> Iterator[np.ndarray]:
        size = min(self.config.batch_size, len(requests))
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            # Always the same shape: another one would be compiled anew.
            full = batch + batch[-1:] * (size - len(batch))
            yield self._draw_batch(full)[: len(batch)]

    def _one_a_core(self, requests: list[Request]) -> Iterator[np.ndarray]:
        # Convolutions and norms choose their summation order by batch size and thread count, so a sample keeps its
        # bits only alone on one thread (docs/method.md, F4): samples side by side instead of threads within one.
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(lambda request: self._draw_batch([request]), requests)
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _draw_batch(self, requests: list[Request]) -> np.ndarray:
        keys = [request.key for request in requests]
        condition = self._condition(requests)
        shape = (2, *self.card.size)

        def fresh(step: int) -> torch.Tensor:
            # Draw 0 is the start; the sampler's own draws follow.
            return torch.from_numpy(normal(keys, step + 1, shape)).to(self.device)

        def told(what: Condition):
            def evaluate(x, timestep, previous):
                with autocast(self.device, self.precision):
                    return self.evaluate(x, timestep, what, previous)

            return evaluate

        low, high = self.config.guidance_interval or (0.0, math.inf)
        denoiser = Denoiser(
            told(condition),
            self.schedule,
            self.card.diffusion["prediction"],
            guide=told(condition.unconditional()) if self.config.guidance != 1 else None,
            scale=self.config.guidance,
            low=low,
            high=high,
        )
        start = torch.from_numpy(normal(keys, 0, shape)).to(self.device) * math.sqrt(1 + self.sigmas[0] ** 2)
        options = {"eta": self.config.eta} if self.config.sampler != "dpmpp_2m" else {}
        x0 = SAMPLERS[self.config.sampler](denoiser, start, self.sigmas.tolist(), fresh, **options)
        drawn = x0.clamp(-1, 1).float().cpu().numpy().astype(np.float16)
        return np.rot90(drawn, self.card.data.quarter_turns, axes=(2, 3))

    @torch.inference_mode()
    def _trial(self, precision: torch.dtype) -> None:
        count = 1 if self.device.type == "cpu" else min(self.config.batch_size, 8)
        condition = self._condition([Request("", 0, 0, 0, 0)] * count)
        x = torch.zeros((count, 2, *self.card.size), device=self.device)
        with autocast(self.device, precision):
            self.network(x, condition.z_bin.float(), condition)


def write_bin(generator: Generator, requests: list[Request], stem: Path) -> None:
    """Draw the requests of one z-bin and write `{stem}.npz` and `{stem}.tsv`, the manifest last."""
    config = generator.config
    images, masks = generator.draw(requests, progress=stem.name)
    acquisitions = generator.acquisitions(requests)
    rows = [
        {
            "id": request.id,
            "key": request.key,
            "z_bin": request.z_bin,
            "class": request.label,
            "replica": request.replica,
            "index": request.index,
            "acquisition": acquisition,
            "sampler": config.sampler,
            "evaluations": config.evaluations,
            "spacing": "leading" if config.sampler == "ddim_ref" else config.spacing,
            "eta": 0.0 if config.sampler == "dpmpp_2m" else config.eta,
            "guidance": config.guidance,
            "guidance_low": (config.guidance_interval or (0.0, math.inf))[0],
            "guidance_high": (config.guidance_interval or (0.0, math.inf))[1],
            "precision": str(generator.precision).removeprefix("torch."),
            "tau": config.tau,
            "lesion_px": int((mask > config.tau).sum()),
            "checkpoint_sha256": generator.checkpoint_sha256,
        }
        for request, mask, acquisition in zip(requests, masks, acquisitions, strict=True)
    ]
    write_samples(stem, images, masks, rows)
