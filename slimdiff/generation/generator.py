"""A checkpoint that draws samples."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from tqdm import tqdm

from slimdiff.config.base import explain
from slimdiff.config.generation import GenerationConfig
from slimdiff.data.priors import priors_hash, read_priors
from slimdiff.devices import Compiled, pick_device, pick_precision
from slimdiff.diffusion import chain
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.mask_calibration import MaskCalibration
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.files import MISSING, sha256
from slimdiff.generation.finishing import Finishing
from slimdiff.generation.noise import normal, uniform
from slimdiff.generation.requests import Request, requests_of_bin
from slimdiff.model.checkpoint import ModelCard, gaussian_above, load_model, read_card
from slimdiff.model.conditioning import Condition

WORTH_COMPILING = 5000
"""Number of samples from which on torch.compile, which takes a minute, should pay on a GPU (not measured yet)."""
FixedRegion = tuple[np.ndarray, np.ndarray]
"""The fixed part of each sample: values, float (N, 2, H, W) in [-1, 1], and where they hold, bool (N, 2, H, W)."""


class Generator:
    """A checkpoint ready to draw samples.

    Args:
        checkpoint: `model.safetensors`; the guide that `config.guide` names is in the same folder.
        config: section `generation`.
        priors: z-bin priors of the fold, bool (n_bins, H, W), required where `config.background` is prior.

    Raises:
        FileNotFoundError, ValueError: a checkpoint, a guide or priors that are missing or do not fit.
    """

    def __init__(self, checkpoint: Path, config: GenerationConfig, priors: np.ndarray | None = None):
        self.config, self.checkpoint = config, Path(checkpoint)
        self.device = pick_device(str(config.device))
        # On a CPU every sample is drawn alone (see `_mapping`).
        self.batch_size = 1 if self.device.type == "cpu" else config.batch_size
        self.network, self.card = load_model(checkpoint, self.device)
        self.sha256 = {"checkpoint": sha256(checkpoint), "guide": None}
        guide = guide_path(self.checkpoint, config)
        self.guide = self._load_guide(guide) if guide else None
        self.finishing = Finishing(config, priors, self.card)
        self.schedule = make_schedule(self.card.diffusion["schedule"], self.card.diffusion["timesteps"])
        self.gaussian_above = gaussian_above(self.card)
        self.sigmas = chain.sigmas_for(
            self.schedule, config.sampler, config.spacing, config.evaluations, self.gaussian_above
        )
        check_settings(config, self.card, checkpoint)
        # Classifier-free guidance of strength 0 draws without a class.
        has_class = config.guidance != 0 or config.guide is not None
        fitted = self.card.mask_calibration if config.calibrate_masks and has_class else None
        self.calibration = MaskCalibration(**fitted) if fitted else None
        self.evaluate: Callable = self.network
        self.precision = pick_precision(config.precision, self.device)

    def _load_guide(self, path: Path) -> Callable:
        check_guide(path, self.checkpoint, self.card)
        self.sha256["guide"] = sha256(path)
        return load_model(path, self.device)[0]

    def acquisitions(self, requests: list[Request]) -> list[str]:
        """The acquisition of each request, n/a where the network has no such condition: the configured one, or by the
        sample's own stream in the shares of the training slices of its class."""
        names = self.card.data.acquisitions
        if not names:
            return [MISSING] * len(requests)
        if self.config.acquisition != "mix":
            return [self.config.acquisition] * len(requests)
        counts = np.array(self.card.data.acquisition_counts, dtype=float)
        # A class without training slices takes the shares of all slices.
        counts = np.where(counts.sum(axis=1, keepdims=True) > 0, counts, counts.sum(axis=0))
        edges = np.cumsum(counts / counts.sum(axis=1, keepdims=True), axis=1)[:, :-1]
        draws = uniform([request.key for request in requests])
        return [
            names[int(np.searchsorted(edges[request.label], draw, side="right"))]
            for request, draw in zip(requests, draws, strict=True)
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
        self, requests: list[Request], progress: str = "", fixed: FixedRegion | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks of the requests, both float16 (N, H, W) in [-1, 1], in their order, with the `fixed` part
        unchanged in them.

        The batch size and the order of the requests change no sample: on a CPU bit for bit, on a GPU up to rounding.
        """
        count, shape = len(requests), (2, *self.card.size)
        drawn = np.empty((count, 2, *self.card.store_size), np.float16)
        self.compile_for(count)
        # Always the same shape where another one would be compiled again: the last batch repeats its last sample.
        size = max(self.batch_size if self.compiled else min(self.batch_size, count), 1)
        starts = range(0, count, size)
        batches = [_rows(start, size, count) for start in starts]
        condition, denoiser = self._condition(requests), self._denoiser()
        fixed_part = None if fixed is None else self._fixed_part(requests, fixed)
        denoisers = (self._conditioned(denoiser, condition[rows]) for rows in batches)
        keys = np.array([request.key for request in requests], object)
        noises = (partial(normal, keys[rows].tolist(), shape=shape, device=self.device) for rows in batches)
        parts = (None if fixed_part is None else fixed_part[rows] for rows in batches)
        run_chain = partial(
            chain.draw,
            sigmas=self.sigmas,
            sampler=self.config.sampler,
            eta=self.config.eta,
            precision=self.precision,
        )
        with (
            tqdm(total=count, desc=progress or "sample", unit="sample", mininterval=2) as bar,
            self._mapping() as mapped,
        ):
            for start, x0 in zip(starts, mapped(run_chain, denoisers, noises, parts), strict=True):
                self._refuse_not_finite(x0, requests[start : start + size])
                pairs = x0.clamp(-1, 1).float().cpu().numpy().astype(np.float16)[: count - start]
                upright = np.rot90(pairs, self.card.data.quarter_turns, axes=(2, 3))
                drawn[start : start + len(pairs)] = upright
                bar.update(len(pairs))
        finished = self.finishing(drawn, np.array([request.z_bin for request in requests], int), fixed)
        return finished[:, 0], finished[:, 1]

    def _refuse_not_finite(self, x0: torch.Tensor, requests: list[Request]) -> None:
        """Raise RuntimeError naming the samples of a batch that are not finite."""
        finite = torch.isfinite(x0).flatten(1).all(dim=1).tolist()
        bad = [request for request, fits in zip(requests, finite, strict=False) if not fits]
        if bad:
            raise RuntimeError(
                f"{self.checkpoint}: drew NaN or infinite values: sample {bad[0].id} (z-bin {bad[0].z_bin}, class "
                f"{bad[0].label}); nothing of its z-bin was written. Its weights are finite: set "
                f"generation.precision to float32 (found {str(self.precision).removeprefix('torch.')}), or train again"
            )

    @contextmanager
    def _mapping(self) -> Iterator[Callable]:
        """`map`; on a CPU that of a pool of threads, one sample a core.

        Convolutions and norms choose their summation order by batch size and thread count, so a sample keeps its bits
        only alone on one thread (docs/method.md, F4): samples in parallel instead of threads within one.
        """
        if self.device.type != "cpu":
            yield map
            return
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool.map
        finally:
            torch.set_num_threads(threads)

    @property
    def compiled(self) -> bool:
        """Whether samples are drawn with compiled code."""
        return isinstance(self.evaluate, Compiled) and self.evaluate.active

    def compile_for(self, count: int) -> None:
        """Compile the network where this number of samples is worth it, or the configuration says so; once."""
        worth = self.device.type == "cuda" and count >= WORTH_COMPILING
        again = isinstance(self.evaluate, Compiled)
        if not again and (worth if self.config.compile is None else self.config.compile):
            self.evaluate = Compiled(self.network.forward, self.device)

    def _denoiser(self) -> Denoiser:
        low, high = self.config.guidance_interval or (0.0, math.inf)
        guide = self.guide
        if guide is None and self.config.guidance != 1:
            guide = self.evaluate
        return Denoiser(
            self.evaluate,
            self.schedule,
            self.card.diffusion["prediction"],
            guide=guide,
            scale=self.config.guidance,
            low=low,
            high=high,
            calibration=self.calibration,
            gaussian=self.network.gaussian,
            gaussian_above=self.gaussian_above,
        )

    def _conditioned(self, denoiser: Denoiser, condition: Condition) -> Denoiser:
        # A snapshot guides under the same condition, the network itself without its condition.
        free = denoiser.guide is not None and self.guide is None
        guide_condition = condition.unconditional() if free else condition
        return replace(denoiser, condition=condition, guide_condition=guide_condition)

    def _fixed_part(self, requests: list[Request], fixed: FixedRegion) -> chain.FixedPart:
        """In the orientation that the network sees."""
        turns = -self.card.data.quarter_turns
        values, where = (
            torch.from_numpy(np.ascontiguousarray(np.rot90(part, turns, axes=(2, 3)))) for part in fixed
        )
        return chain.FixedPart(values, where, torch.tensor([request.label == 1 for request in requests]))


def sample(
    checkpoint: Path | str,
    n: int,
    z_bin: int,
    label: int,
    priors: np.ndarray | None = None,
    fixed: FixedRegion | None = None,
    **settings: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw slices of one z-bin and class, as arrays.

    With the settings of a study they are, bit for bit on a CPU, the first ones of replica 0 that `slimdiff generate`
    draws.

    Args:
        checkpoint: `model.safetensors`.
        n: number of slices.
        z_bin: height, from 0.
        label: class; 1: with a lesion.
        priors: z-bin priors of the fold, bool (n_bins, H, W), for `background="prior"`.
        fixed: a part that is given, as in inpainting: values, float (n, 2, H, W) in [-1, 1], and where they hold, bool
            (n, 2, H, W).
        settings: keys of the section `generation`, such as seed, evaluations, sampler or tau.

    Returns:
        Images, float32 (n, H, W) in [-1, 1], and lesion masks, bool (n, H, W).

    Raises:
        FileNotFoundError, ValueError: no such checkpoint; a number, z-bin, class, setting or shape that does not fit.
    """
    try:
        config = GenerationConfig(**settings)
    except ValidationError as error:
        raise ValueError(explain(error, GenerationConfig, "settings")) from None
    generator = Generator(Path(checkpoint), config, priors)
    limits = {"n": (n, 1, None), "z_bin": (z_bin, 0, generator.card.data.n_bins - 1), "label": (label, 0, 1)}
    for name, (value, low, high) in limits.items():
        if not isinstance(value, (int, np.integer)) or value < low or (high is not None and value > high):
            upper = "up" if high is None else f"to {high}"
            raise ValueError(f"{name}: expected a whole number from {low} {upper}, found {value!r}")
    shape = (n, 2, *generator.card.store_size)
    if fixed is not None and any(np.shape(part) != shape for part in fixed):
        found = ", ".join(str(np.shape(part)) for part in fixed)
        raise ValueError(f"fixed: expected values and where of shape {shape}, found {found}")
    # As `slimdiff generate` does, where every class of the z-bin is drawn.
    plan = config.model_copy(update={"per_bin_and_class": n, "replicas": 1})
    every = requests_of_bin(plan, generator.card.fold, generator.card.variant, z_bin)
    requests = [request for request in every if request.label == label]
    images, masks = generator.draw(requests, fixed=fixed)
    return images.astype(np.float32), masks > np.float16(generator.finishing.tau)


def _rows(start: int, size: int, count: int) -> slice | torch.Tensor:
    """`size` rows from `start` on; where there are fewer, the last one several times."""
    if start + size <= count:
        return slice(start, start + size)
    return torch.arange(start, start + size).clamp_max(count - 1)


def guide_path(checkpoint: Path, config: GenerationConfig) -> Path | None:
    """The snapshot that guides, in the folder of its checkpoint; None where none does."""
    if config.guide is None or config.guidance == 1:
        return None
    return checkpoint.with_name(f"snapshot-{config.guide}.safetensors")


def input_hashes(checkpoint: Path, config: GenerationConfig, priors: Path | None) -> dict[str, str | None]:
    """sha256 of the priors' values, and of the guide's and the checkpoint's file; None for what is not used."""
    guide = guide_path(checkpoint, config)
    return {
        "priors": priors_hash(read_priors(priors)) if priors else None,
        "guide": sha256(guide) if guide and guide.is_file() else None,
        "checkpoint": sha256(checkpoint),
    }


def check_guide(path: Path, checkpoint: Path, card: ModelCard) -> None:
    """Raise FileNotFoundError or ValueError where a snapshot cannot guide the network of this checkpoint."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found, but generation.guide names it; add its step to training.snapshots of the study and "
            "train at least to that step"
        )
    other = read_card(path)
    if (other.model, other.diffusion, other.data) != (card.model, card.diffusion, card.data):
        raise ValueError(f"{path}: another network or other data than {checkpoint}; train both together")


def check_settings(config: GenerationConfig, card: ModelCard, checkpoint: Path) -> None:
    """Raise ValueError where a checkpoint cannot be sampled with this configuration."""
    names = card.data.acquisitions
    if config.guidance != 1 and config.guide is None and not card.model["null_token"]:
        raise ValueError(
            f"generation.guidance is {config.guidance}, but {checkpoint} was trained without model.null_token; "
            "set guidance to 1, or train with model.null_token"
        )
    if config.acquisition != "mix" and config.acquisition not in names:
        why = (
            f"the acquisitions of {checkpoint}"
            if names
            else f"as {checkpoint} was trained without model.acquisition"
        )
        raise ValueError(
            f"generation.acquisition: expected {', '.join(['mix', *names])}, {why}, found {config.acquisition!r}"
        )
