"""A Gaussian model of the training slices, and its estimate of the clean pair, as an input of the network.

At high noise the best denoiser of any distribution is close to that of a Gaussian with its mean and covariance, which
is linear and known without training (Wang & Vastola 2023). Given to the network as an input, it shows where the brain
ends and how bright it is; the network learns what the Gaussian misses.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.model.conditioning import Condition

COARSE_SIDE = 32
"""Smallest side in px of the grid of the principal components: coarse structure is what noise hides last."""
SPREAD_FLOOR = 0.05
"""Added in quadrature to the standard deviation of every pixel: a new brain may reach where no training brain does."""
BLUR_PX = 1.0
"""Standard deviation in px of the Gaussian that smooths mean and spread."""
PSEUDO_SLICES = 8
"""Weight of all lesion slices beside those of a z-bin, in slices."""
Blocks = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]
"""Called for each pass over the training slices: x0 (B, 2, H, W), z_bin (B,), label (B,) of one block after another."""


class GaussianEstimate(nn.Module):
    """E[x0 | x_t] if the slices of a z-bin and class were Gaussian.

    Every pixel has a mean and a standard deviation. The standardised slices share `components` principal components on
    a coarse grid; what they leave unexplained is treated as independent between pixels, and stays at its mean.

    The buffers are empty until `fit` or a checkpoint fills them.
    """

    def __init__(self):
        super().__init__()
        for name in ("mean", "spread", "components", "variances", "rest", "log_sigma"):
            self.register_buffer(name, torch.empty(0))

    def _load_from_state_dict(self, state: dict, prefix: str, *arguments) -> None:
        # A checkpoint knows the shapes.
        for name, buffer in self.named_buffers():
            if (value := state.get(prefix + name)) is not None:
                setattr(self, name, buffer.new_empty(value.shape))
        super()._load_from_state_dict(state, prefix, *arguments)

    def forward(self, x_t: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Estimates of x0, (B, 2, H, W) in [-1, 1], float32.

        Args:
            x_t: noisy [image, mask] (B, 2, H, W).
            timestep: (B,), real.
            condition: the condition, (B,) each.
        """
        if not len(self.mean):
            raise ValueError(
                "model.gaussian_components: the Gaussian model is empty; fit it before the network is used"
            )
        with torch.autocast(x_t.device.type, enabled=False):
            sigma = self._sigma(timestep).view(-1, 1, 1, 1)
            mean, spread = self.moments(condition)
            factor = x_t.shape[3] // self.components.shape[3]
            scale = F.avg_pool2d(spread, factor)
            # x_t / signal is x0 with noise of this sigma; the mean over a square of pixels has less.
            residual = F.avg_pool2d(x_t.float() * (1 + sigma**2).sqrt() - mean, factor) / scale
            weight = 1 / (self.rest + (sigma / factor / scale) ** 2)
            basis = self.components.flatten(1)
            precision = (weight.flatten(1)[:, None] * basis) @ basis.T + torch.diag(1 / self.variances)
            evidence = (weight * residual).flatten(1) @ basis.T
            # cholesky_ex: the check of plain cholesky would make the host wait.
            factors, _ = torch.linalg.cholesky_ex(precision)
            scores = torch.cholesky_solve(evidence[..., None], factors)[..., 0]
            change = (scores @ basis).view(residual.shape) * scale
            change = F.interpolate(change, scale_factor=factor, mode="bilinear", align_corners=False)
            return (mean + change).clamp(-1, 1)

    def _sigma(self, timestep: Tensor) -> Tensor:
        last = len(self.log_sigma) - 1
        below = timestep.detach().float().clamp(0, last)
        index = below.long().clamp(max=last - 1)
        lower, upper = self.log_sigma[index], self.log_sigma[index + 1]
        return torch.lerp(lower, upper, below - index).exp()

    def moments(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every pixel, (B, 2, H, W) each."""
        row, lesion = condition.z_bin, condition.label == 1
        if condition.null is not None:
            # The last row: over all positions and classes.
            row = torch.where(condition.null, len(self.mean) - 1, row)
            lesion = lesion | condition.null
        mean, spread = self.mean[row], self.spread[row]
        lesion = lesion[:, None, None]
        mean = torch.stack([mean[:, 0], torch.where(lesion, mean[:, 1], -1.0)], dim=1)
        spread = torch.stack([spread[:, 0], torch.where(lesion, spread[:, 1], SPREAD_FLOOR)], dim=1)
        if condition.augmentation is not None:
            # The first label of an augmentation: left and right are exchanged.
            mirrored = (condition.augmentation[:, 0] > 0).view(-1, 1, 1, 1)
            mean, spread = (torch.where(mirrored, part.flip(3), part) for part in (mean, spread))
        return mean, spread

    @torch.no_grad()
    def fit(self, blocks: Blocks, n_bins: int, components: int, log_sigma: Tensor) -> None:
        """Compute the Gaussian model of the training slices, on the CPU in float64: equal for every device.

        Args:
            blocks: the training slices.
            n_bins: number of z-bins.
            components: number of principal components; at most what the slices have.
            log_sigma: log noise level of every timestep (T,).
        """
        device = self.mean.device
        self.cpu()

        def blocks_on_cpu() -> Iterator[list[Tensor]]:
            return ([part.cpu() for part in block] for block in blocks())

        self.mean, self.spread = _moments(blocks_on_cpu, n_bins)
        factor = coarsening(*self.mean.shape[2:])
        rows = torch.cat(
            [
                _standardised(self, x0, Condition(z_bin, label), factor).flatten(1).double()
                for x0, z_bin, label in blocks_on_cpu()
            ]
        )
        shape = (2, *(side // factor for side in self.mean.shape[2:]))
        # A mirrored brain is a brain, too.
        rows = torch.cat([rows, rows.view(-1, *shape).flip(3).flatten(1)])
        values, vectors = _principal(rows, components)
        self.components = vectors.view(-1, *shape).float()
        self.variances = values.float()
        total = rows.square().sum() / len(rows)
        self.rest = ((total - values.sum()) / rows.shape[1]).clamp_min(1e-4).float()
        self.log_sigma = log_sigma.float()
        self.to(device)


def coarsening(height: int, width: int) -> int:
    """Largest power of two that divides both sides and leaves at least COARSE_SIDE px; 1 if none does."""
    factor = 1
    while (
        not (height % (2 * factor) or width % (2 * factor)) and min(height, width) >= 2 * factor * COARSE_SIDE
    ):
        factor *= 2
    return factor


def _moments(blocks: Blocks, n_bins: int) -> tuple[Tensor, Tensor]:
    """Mean and spread (n_bins + 1, 2, H, W): of the image over all slices of a z-bin, and of the mask over its lesion
    slices. The last row: over all slices."""
    count = sums = squares = None
    for x0, z_bin, label in blocks():
        if sums is None:
            sums = x0.new_zeros((n_bins + 1, 2, *x0.shape[2:]), dtype=torch.float64)
            squares, count = torch.zeros_like(sums), x0.new_zeros((n_bins + 1, 2), dtype=torch.float64)
            lesions = torch.zeros_like(sums[0, 1]), torch.zeros_like(sums[0, 1])
            n_lesions = 0
        both = torch.stack([torch.ones_like(label), label], dim=1).double()
        x0 = x0.double()
        for total, values in ((sums, x0), (squares, x0.square())):
            total.index_add_(0, z_bin, values * both[:, :, None, None])
            total[-1] += values.sum(dim=0)
        count.index_add_(0, z_bin, both)
        count[-1] += len(x0)
        of_lesions = x0[label == 1, 1]
        lesions = lesions[0] + of_lesions.sum(dim=0), lesions[1] + of_lesions.square().sum(dim=0)
        n_lesions += len(of_lesions)
    # Few lesion slices in a z-bin: those of all z-bins count as PSEUDO_SLICES more. A z-bin without any slice has the
    # moments of all.
    if n_lesions:
        for total, of_all in zip((sums, squares), lesions, strict=True):
            total[:-1, 1] += of_all * (PSEUDO_SLICES / n_lesions)
        count[:-1, 1] += PSEUDO_SLICES
    else:
        sums[:-1, 1], squares[:-1, 1], count[:-1, 1] = sums[-1, 1], squares[-1, 1], count[-1, 1]
    empty = count[:, 0] == 0
    sums[empty, 0], squares[empty, 0], count[empty, 0] = sums[-1, 0], squares[-1, 0], count[-1, 0]
    mean, second = (_blurred(total / count[:, :, None, None]) for total in (sums, squares))
    variance = (second - mean.square()).clamp_min(0) + SPREAD_FLOOR**2
    return mean.float(), variance.sqrt().float()


def _blurred(maps: Tensor) -> Tensor:
    """Smooth (N, C, H, W) by a Gaussian of BLUR_PX; border values are repeated."""
    radius = math.ceil(3 * BLUR_PX)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * BLUR_PX**2))
    kernel = kernel / kernel.sum()
    flat = F.pad(maps.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view(maps.shape)


def _standardised(model: GaussianEstimate, x0: Tensor, condition: Condition, factor: int) -> Tensor:
    """Residuals of clean pairs on the coarse grid, in spreads, (B, 2, h, w)."""
    mean, spread = model.moments(condition)
    return F.avg_pool2d(x0 - mean, factor) / F.avg_pool2d(spread, factor)


def _principal(rows: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Variances (K,) and unit vectors (K, D) of the largest principal components about zero of rows (N, D)."""
    n, width = rows.shape
    if n < width:
        values, left = torch.linalg.eigh(rows @ rows.T)
        vectors = rows.T @ left
    else:
        values, vectors = torch.linalg.eigh(rows.T @ rows)
    kept = values > values[-1] * 1e-10
    values, vectors = values[kept][-components:].flip(0), vectors[:, kept][:, -components:].flip(1)
    vectors = vectors / vectors.norm(dim=0)
    # A sign of its own for each, so that the model does not depend on the eigenvalue routine.
    signs = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    return values / n, (vectors * signs).T.contiguous()
