"""The loss of one batch: noise, self-conditioning, prediction, and the loss terms of the study."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.diffusion.losses import (
    Uncertainty,
    focal_frequency,
    haar_lp,
    lesion_weights,
    lp_per_channel,
    min_snr_weight,
)
from slimdiff.diffusion.prediction import target, to_x0_epsilon
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.training.data import Batch

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance between two batches of images (B, 1, H, W) in [-1, 1]; returns (B,)."""


PERCEPTUAL_BELOW = 0.5
"""The perceptual term applies to timesteps below this share of T (published code: 0.5)."""


@dataclass(frozen=True)
class NoiseDraw:
    """The random draws of a step, or of a part of its batch."""

    timestep: Tensor
    """int64 (B,)."""
    epsilon: Tensor
    """Standard normal (B, 2, H, W)."""
    self_conditioned: int
    """Number of samples with a previous estimate: the first ones of the batch, which is in random order."""
    share: float = 1.0
    """Share of the whole batch; losses of parts, weighted by their shares, sum to the loss of the batch."""
    concerned: Tensor | None = None
    """Number of samples in the whole batch to which each term with `below` applies, (n,); None: this is the batch."""

    def __len__(self) -> int:
        return len(self.timestep)

    def __getitem__(self, rows: slice) -> "NoiseDraw":
        timestep = self.timestep[rows]
        return NoiseDraw(
            timestep,
            self.epsilon[rows],
            len(range(self.self_conditioned)[rows]),
            self.share * len(timestep) / len(self),
            self.concerned,
        )


class Objective(nn.Module):
    """Loss of a network on a batch (docs/method.md): raw terms and their weighted sum.

    Its only parameters are those of `loss.uncertainty`.

    Args:
        config: section `diffusion`.
        self_conditioning: probability, per sample, of a previous estimate.
        perceptual: distance for `loss.perceptual`; required if its weight is not 0.
        gaussian: whether a Gaussian model takes the place of the network above `gaussian_above`.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        self_conditioning: float,
        perceptual: Perceptual | None = None,
        gaussian: bool = False,
    ):
        super().__init__()
        self.config = config
        self.self_conditioning = self_conditioning
        self.space = config.loss_space
        schedule = make_schedule(config.schedule, config.timesteps)
        alpha_bar = schedule.alpha_bar
        self.trained = config.timesteps
        """Number of timesteps that are trained: the least noisy ones."""
        if gaussian and config.gaussian_above is not None:
            self.trained = math.ceil(schedule.time_at(config.gaussian_above)) + 1
        for name, values in (("signal", alpha_bar**0.5), ("noise", (1 - alpha_bar) ** 0.5)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        exponents = torch.tensor([config.loss.p_image, config.loss.p_mask])
        self.register_buffer("exponents", exponents, persistent=False)
        self.further: dict[str, tuple[float, float, Perceptual]] = {}
        focal = config.loss.focal_frequency
        if focal.weight:
            self.further["focal_frequency"] = (
                focal.weight,
                focal.below,
                lambda image, other: focal_frequency(image[:, 0], other[:, 0], focal.alpha, focal.patches),
            )
        if config.loss.perceptual.weight:
            if perceptual is None:
                raise ValueError("diffusion.loss.perceptual: its weight is not 0, but no distance was passed")
            self.further["perceptual"] = (config.loss.perceptual.weight, PERCEPTUAL_BELOW, perceptual)
        self.terms = ("image", "mask", *self.further)
        self.register_buffer(
            "below", torch.tensor([below for _, below, _ in self.further.values()]), persistent=False
        )
        weights = [1.0, 1.0, *(weight for weight, _, _ in self.further.values())]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        groups = {
            "none": None,
            "each": list(range(len(self.terms))),
            "groups": [0, 0, *range(1, len(self.further) + 1)],
        }[config.loss.uncertainty]
        self.uncertainty = Uncertainty(groups) if groups else None

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator, chance: float) -> NoiseDraw:
        """Draw timesteps, noise, and the number of self-conditioned samples: p * count, randomly rounded.

        The timesteps are stratified: one in each of `count` equal parts (Kingma et al. 2021, appendix I.1).

        Args:
            count: samples of the whole batch.
            size: height and width of a slice, in px.
            generator: for timesteps and noise, on the device.
            chance: uniform in [0, 1), for the rounding; drawn on the host, which needs the number.
        """
        device = generator.device
        places = torch.rand((count,), generator=generator, device=device)
        places = (torch.randperm(count, generator=generator, device=device) + places) / count
        timestep = (places * self.trained).long().clamp_max(self.trained - 1)
        epsilon = torch.randn((count, 2, *size), generator=generator, device=device)
        informed = int(self.self_conditioning * count + chance)
        return NoiseDraw(timestep, epsilon, informed, concerned=self._concerned(timestep).sum(dim=1))

    def _concerned(self, timestep: Tensor) -> Tensor:
        """The samples to which each term with `below` applies, bool (n, B)."""
        return timestep < self.below[:, None] * self.config.timesteps

    def forward(self, network: nn.Module, batch: Batch, draws: NoiseDraw) -> Tensor:
        """Raw terms, float32 (len(self.terms),), each a mean over the batch.

        The terms of parts, weighted by the parts' shares, sum to the terms of the whole batch.
        """
        return self.measure(network, batch, draws)[0]

    def measure(self, network: nn.Module, batch: Batch, draws: NoiseDraw) -> tuple[Tensor, Tensor]:
        """Raw terms as in `forward`, and the loss of every sample and channel, (B, 2), detached."""
        signal = self.signal[draws.timestep].view(-1, 1, 1, 1)
        noise = self.noise[draws.timestep].view(-1, 1, 1, 1)
        x_t = signal * batch.x0 + noise * draws.epsilon
        time = draws.timestep.float()
        kind = self.config.prediction
        previous = None
        if draws.self_conditioned:
            # Chen et al. 2022: the estimate carries no gradient. Only the self-conditioned samples are evaluated.
            part = slice(0, draws.self_conditioned)
            with torch.no_grad():
                output = network(x_t[part], time[part], batch.condition[part]).float()
                estimate, _ = to_x0_epsilon(kind, output, x_t[part], signal[part], noise[part])
            previous = torch.zeros_like(x_t)
            previous[part] = estimate.clamp(-1, 1)
        output = network(x_t, time, batch.condition, previous).float()
        x0, epsilon = to_x0_epsilon(kind, output, x_t, signal, noise)
        found = output if self.space == kind else target(self.space, x0, epsilon, signal, noise)
        wanted = target(self.space, batch.x0, draws.epsilon, signal, noise)
        loss = self.config.loss
        weights = None
        if loss.lesion_weight_image != 1 or loss.lesion_weight_mask != 1:
            weights = lesion_weights(batch.x0, loss.lesion_weight_image, loss.lesion_weight_mask)
        if wavelets := self.config.image_wavelets(*wanted.shape[2:]):
            image = haar_lp(found[:, 0] - wanted[:, 0], self.exponents[0], wavelets)
            of_mask = None if weights is None else weights[:, 1:]
            mask = lp_per_channel(found[:, 1:], wanted[:, 1:], self.exponents[1:], of_mask)
            pixels = torch.cat([image[:, None], mask], dim=1)
        else:
            pixels = lp_per_channel(found, wanted, self.exponents, weights)
        if loss.min_snr_gamma is not None:
            floor = loss.min_snr_floor if self.space == "x0" else 0.0
            weight = min_snr_weight(self.space, signal, noise, loss.min_snr_gamma, floor)
            pixels = pixels * weight.view(-1, 1)
        terms = [pixels.mean(dim=0)]
        image = batch.x0[:, :1]
        looked_at = self._concerned(draws.timestep)
        of_all = looked_at.sum(dim=1) if draws.concerned is None else draws.concerned
        for (_, _, distance), concerned, count in zip(self.further.values(), looked_at, of_all, strict=True):
            # The other samples are compared with themselves: selecting rows would make the host wait.
            estimate = torch.where(concerned.view(-1, 1, 1, 1), x0[:, :1], image)
            distances = torch.where(concerned, distance(estimate, image), 0)
            terms.append(distances.sum(dim=0, keepdim=True) / (count.clamp_min(1) * draws.share))
        return torch.cat(terms), pixels.detach()

    def total(self, terms: Tensor) -> Tensor:
        """The minimised loss: weighted sum of the terms, or uncertainty weighting (Kendall et al. 2018)."""
        weighted = terms * self.weights
        return self.uncertainty(weighted) if self.uncertainty else weighted.sum()


NOISE_BINS = 4
NOISE_COLUMNS = tuple(f"loss_{c}_noise_{b}" for c in ("image", "mask") for b in range(1, NOISE_BINS + 1))
"""Loss of each channel in each quarter of the timesteps; 1: least noisy."""


def losses_by_noise(samples: Tensor, timestep: Tensor, timesteps: int) -> Tensor:
    """Summed losses and number of samples by noise level, computed on the device: (3, NOISE_BINS).

    Args:
        samples: loss of the image and of the mask of each sample, (B, 2).
        timestep: int64 (B,), in 0 ... timesteps - 1.
    """
    # Not one_hot, which reads the values on the host.
    levels = torch.arange(NOISE_BINS, device=timestep.device)
    in_bin = (timestep[:, None] * NOISE_BINS // timesteps == levels).to(samples.dtype)
    return torch.cat([samples, torch.ones_like(samples[:, :1])], dim=1).T @ in_bin
