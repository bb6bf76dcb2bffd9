"""A checkpoint that draws samples."""

import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from slimdiff.config.generation import GenerationConfig
from slimdiff.devices import autocast, pick_device, pick_precision
from slimdiff.diffusion.denoiser import Denoiser, Inpainted, lesion_hint
from slimdiff.diffusion.samplers import SAMPLERS
from slimdiff.diffusion.schedule import leading, make_schedule, sampling_sigmas
from slimdiff.files import MISSING, sha256
from slimdiff.generation.finishing import Finishing
from slimdiff.generation.noise import normal, uniform
from slimdiff.generation.requests import Request
from slimdiff.model.checkpoint import ModelCard, load_model, read_card
from slimdiff.model.conditioning import Condition

WORTH_COMPILING = 5000
"""Samples from which on the minute that torch.compile takes should come back on a card (not measured yet)."""
FixedRegion = tuple[np.ndarray, np.ndarray]
"""What is given of each sample: values float (N, 2, H, W) in [-1, 1], and where they hold, bool alike."""


class Generator:
    """A checkpoint ready to draw samples.

    Args:
        checkpoint: `model.safetensors`; the guide that `config.guide` names lies beside it.
        config: section `generation`.
        priors: z-bin priors of the fold, bool (n_bins, H, W), wanted where `config.background` is prior.

    Raises:
        FileNotFoundError, ValueError: a checkpoint, a guide or priors that are missing or do not fit.
    """

    def __init__(self, checkpoint: Path, config: GenerationConfig, priors: np.ndarray | None = None):
        self.config, self.checkpoint = config, Path(checkpoint)
        self.device = pick_device(config.device)
        self.network, self.card = load_model(checkpoint, self.device)
        self.sha256 = {"checkpoint": sha256(checkpoint), "guide": MISSING}
        guide = guide_path(self.checkpoint, config)
        self.guide = self._load_guide(guide) if guide else None
        self.finishing = Finishing(config, priors, self.card)
        self.schedule = make_schedule(self.card.diffusion["schedule"], self.card.diffusion["timesteps"])
        if config.sampler == "ddim_ref":
            self.sigmas = leading(self.schedule, config.evaluations)
            signal = 1 / math.sqrt(1 + self.sigmas[0] ** 2)
            print(
                f"ddim_ref: the chain starts from pure noise where sqrt(alpha_bar) is {signal:.3f}",
                file=sys.stderr,
            )
        else:
            self.sigmas = sampling_sigmas(self.schedule, config.evaluations, config.spacing)
        check_settings(config, self.card, checkpoint)
        self.evaluate: Callable = self.network
        self.compiled = False
        self.precision = pick_precision(config.precision, self.device, self._trial)

    def _load_guide(self, path: Path) -> Callable:
        check_guide(path, self.checkpoint, self.card)
        self.sha256["guide"] = sha256(path)
        return load_model(path, self.device)[0]

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

    def draw(
        self, requests: list[Request], progress: str = "", known: FixedRegion | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks of the requests, both float16 (N, H, W) in [-1, 1], in their order; what is `known` of them
        is in them unchanged.

        The batch size and the order of the requests change no sample: on a CPU bit for bit, on a GPU up to rounding.
        """
        drawn = np.empty((len(requests), 2, *self.card.store_size), np.float16)
        done = 0
        self.compile_for(len(requests))
        one_a_core = self.device.type == "cpu"
        with tqdm(total=len(requests), desc=progress or "sample", unit="sample", mininterval=2) as bar:
            for pairs in (self._one_a_core if one_a_core else self._batches)(requests, known):
                drawn[done : done + len(pairs)] = pairs
                done += len(pairs)
                bar.update(len(pairs))
        finished = self.finishing(drawn, np.array([request.z_bin for request in requests], int), known)
        return finished[:, 0], finished[:, 1]

    def compile_for(self, count: int) -> None:
        """Compile the network where so many samples are worth it, or the configuration says so; once for all."""
        worth = self.device.type == "cuda" and count >= WORTH_COMPILING
        if not self.compiled and (worth if self.config.compile is None else self.config.compile):
            self.evaluate = torch.compile(self.network.forward, dynamic=False)
            self.compiled = True

    def _batches(self, requests: list[Request], known: FixedRegion | None) -> Iterator[np.ndarray]:
        # Always the same shape where another one would be compiled anew.
        size = self.config.batch_size if self.compiled else min(self.config.batch_size, len(requests))
        for start in range(0, len(requests), max(size, 1)):
            rows = np.minimum(np.arange(start, start + size), len(requests) - 1)
            yield self._draw_rows(requests, known, rows)[: len(requests) - start]

    def _one_a_core(self, requests: list[Request], known: FixedRegion | None) -> Iterator[np.ndarray]:
        # Convolutions and norms choose their summation order by batch size and thread count, so a sample keeps its
        # bits only alone on one thread (docs/method.md, F4): samples side by side instead of threads within one.
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                rows = [np.array([row]) for row in range(len(requests))]
                yield from pool.map(lambda row: self._draw_rows(requests, known, row), rows)
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _draw_rows(self, requests: list[Request], known: FixedRegion | None, rows: np.ndarray) -> np.ndarray:
        chosen = [requests[row] for row in rows]
        keys = [request.key for request in chosen]
        shape = (2, *self.card.size)

        def fresh(step: int) -> torch.Tensor:
            # Draw 0 is the start; the sampler's own draws follow.
            return normal(keys, step + 1, shape, self.device)

        start = normal(keys, 0, shape, self.device)
        x = start * math.sqrt(1 + self.sigmas[0] ** 2)
        denoiser = self._denoiser(self._condition(chosen))
        if known is not None:
            values, where = (self._as_network_sees(part[rows]) for part in known)
            values = values.float()
            # A lesion is asked for, and its place is known, but not its mask.
            asked = torch.tensor([request.label == 1 for request in chosen], device=self.device)
            hint = lesion_hint(where) & asked[:, None, None, None]
            denoiser = Inpainted(denoiser, values, where, hint)
            x = torch.where(where, values + self.sigmas[0] * start, x)
        options = {"eta": self.config.eta} if self.config.sampler in ("ddim", "ddim_ref") else {}
        x0 = SAMPLERS[self.config.sampler](denoiser, x, self.sigmas.tolist(), fresh, **options)
        drawn = x0.clamp(-1, 1).float().cpu().numpy().astype(np.float16)
        return np.rot90(drawn, self.card.data.quarter_turns, axes=(2, 3))

    def _as_network_sees(self, part: np.ndarray) -> torch.Tensor:
        turned = np.rot90(part, -self.card.data.quarter_turns, axes=(2, 3))
        return torch.from_numpy(np.ascontiguousarray(turned)).to(self.device)

    def _denoiser(self, condition: Condition) -> Denoiser:
        def told(network: Callable, what: Condition) -> Callable:
            def evaluate(x, timestep, previous):
                with autocast(self.device, self.precision):
                    return network(x, timestep, what, previous)

            return evaluate

        guide = None
        if self.guide is not None:
            guide = told(self.guide, condition)
        elif self.config.guidance != 1:
            guide = told(self.evaluate, condition.unconditional())
        low, high = self.config.guidance_interval or (0.0, math.inf)
        return Denoiser(
            told(self.evaluate, condition),
            self.schedule,
            self.card.diffusion["prediction"],
            guide=guide,
            scale=self.config.guidance,
            low=low,
            high=high,
        )

    @torch.inference_mode()
    def _trial(self, precision: torch.dtype) -> None:
        count = 1 if self.device.type == "cpu" else min(self.config.batch_size, 8)
        condition = self._condition([Request("", 0, 0, 0, 0)] * count)
        x = torch.zeros((count, 2, *self.card.size), device=self.device)
        with autocast(self.device, precision):
            self.network(x, condition.z_bin.float(), condition)


def guide_path(checkpoint: Path, config: GenerationConfig) -> Path | None:
    """The snapshot that guides, beside its checkpoint; None where none does."""
    if config.guide is None or config.guidance == 1:
        return None
    return checkpoint.with_name(f"snapshot-{config.guide}.safetensors")


def check_guide(path: Path, checkpoint: Path, card: ModelCard) -> None:
    """Raise FileNotFoundError or ValueError where a snapshot cannot guide the network of this checkpoint."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: generation.guide names it, but the training kept no such snapshot: its step has to stand in "
            "training.snapshots of its study, and the training has to get that far"
        )
    other = read_card(path)
    if (other.model, other.diffusion, other.data) != (card.model, card.diffusion, card.data):
        raise ValueError(f"{path}: another network or other data than {checkpoint}; train both together")


def check_settings(config: GenerationConfig, card: ModelCard, checkpoint: Path) -> None:
    """Raise ValueError where a checkpoint cannot do what is asked of it."""
    names = card.data.acquisitions
    if config.guidance != 1 and config.guide is None and not card.model["null_token"]:
        raise ValueError(
            f"generation.guidance is {config.guidance}, but {checkpoint} was trained without model.null_token"
        )
    if config.acquisition != "mix" and config.acquisition not in names:
        known = ", ".join(names) if names else "it was trained without model.acquisition"
        raise ValueError(
            f"generation.acquisition {config.acquisition!r}: {checkpoint} knows mix and these: {known}"
        )
