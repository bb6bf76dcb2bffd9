"""Augmentation on the device; the network is conditioned on its parameters (Karras et al. 2022, section 5).

The labels of an unaltered slice are zero. Samples are generated with zero labels, so that augmentations do not leak
into them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.config.training import AugmentationConfig

LABELS = (
    "flip",
    "rotation",
    "scale",
    "shift_x",
    "shift_y",
    "gamma",
    "bias_x",
    "bias_y",
    "bias_radial",
)
"""Each in [-1, 1], as a share of its maximum; flip: 0 or 1."""


@dataclass(frozen=True)
class Extents:
    """Maximum changes of a slice."""

    rotation_deg: float = 8.0
    """In-plane rotation, in degrees."""
    scale: float = 0.08
    """Relative change of size."""
    shift_mm: float = 5.0
    """Shift along each axis, in mm."""
    log_gamma: float = 0.2
    """|log gamma| of the grey values."""
    bias: float = 0.2
    """|log| amplitude of each of three smooth fields over the image."""


EXTENTS = Extents()
"""Our choice, not tuned: roughly the differences between heads on a common grid."""


class Augment(nn.Module):
    """Flips, moves and changes the grey values of the slices of a batch.

    Args:
        config: probability, and whether to flip.
        spacing_mm: side of a pixel, in mm.
        largest: maximum changes; None: `EXTENTS`.
    """

    def __init__(self, config: AugmentationConfig, spacing_mm: float, largest: Extents | None = None):
        super().__init__()
        self.config, self.largest = config, largest or EXTENTS
        largest = self.largest
        self.spacing_mm = spacing_mm
        extents = [config.flip, largest.rotation_deg, largest.scale]
        extents += [largest.shift_mm] * 2 + [largest.log_gamma] + [largest.bias] * 3
        # An extent of 0 disables a change; its label is then 0.
        self.register_buffer("allowed", torch.tensor(extents, dtype=torch.float32) > 0, persistent=False)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Labels of `count` samples, (count, len(LABELS)) on the generator's device."""
        device, p = generator.device, self.config.probability
        # Four independent draws per sample: flip, move, gamma, bias.
        on = (torch.rand((count, 4), generator=generator, device=device) < p).float()
        size = torch.rand((count, len(LABELS)), generator=generator, device=device) * 2 - 1
        labels = torch.where(self.allowed, size, 0)
        labels[:, 0] = float(self.config.flip)
        flip, move, gamma, bias = on.split(1, dim=1)
        return labels * torch.cat([flip, move.expand(-1, 4), gamma, bias.expand(-1, 3)], dim=1)

    def apply(
        self, x0: Tensor, labels: Tensor, prior: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Apply the changes that the labels describe.

        Args:
            x0: (B, 2, H, W), image and mask in [-1, 1], the mask -1 or 1.
            labels: as returned by `draw`.
            prior: (B, 1, H, W) in {-1, 1}, moved with the slice.
        Returns:
            the new x0, the labels of the applied changes, and the moved prior. A slice whose lesion would vanish is
            not moved, so that its class remains correct.
        """
        maps = x0 if prior is None else torch.cat([x0, prior], dim=1)
        moved = self._move(maps, labels)
        lost = (x0[:, 1] > 0).any(dim=(1, 2)) & ~(moved[:, 1] > 0).any(dim=(1, 2))
        stays = (labels[:, :5] == 0).all(dim=1) | lost
        maps = torch.where(stays.view(-1, 1, 1, 1), maps, moved)
        labels = labels.clone()
        labels[:, :5] = torch.where(stays[:, None], 0, labels[:, :5])
        image = self._shade(maps[:, :1], labels)
        x0 = torch.cat([image, maps[:, 1:2]], dim=1)
        return x0, labels, None if prior is None else maps[:, 2:]

    def _move(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Flip, rotate and scale about the centre, then shift; image bilinear, other maps again -1 or 1."""
        largest, (height, width) = self.largest, maps.shape[2:]
        flip = 1 - 2 * labels[:, 0]
        angle = labels[:, 1] * math.radians(largest.rotation_deg)
        scale = 1 + labels[:, 2] * largest.scale
        shift = labels[:, 3:5] * (largest.shift_mm / self.spacing_mm)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        # Inverse map of each output pixel, in px from the centre: undo shift, scale and rotation, flip. The grid's
        # unit is half a side.
        from_x = flip * torch.stack([cos, sin * (height / width)])
        from_y = torch.stack([-sin * (width / height), cos])
        shift_x, shift_y = shift[:, 0] * (2 / width), shift[:, 1] * (2 / height)
        rows = [torch.stack([a, b, -(a * shift_x + b * shift_y)], dim=1) for a, b in (from_x, from_y)]
        theta = torch.stack(rows, dim=1)
        grid = F.affine_grid(theta, [len(maps), 1, height, width], align_corners=False)
        # Outside the slice is background, -1.
        moved = F.grid_sample(maps + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
        return torch.cat([moved[:, :1], torch.where(moved[:, 1:] > 0, 1.0, -1.0)], dim=1)

    def _shade(self, image: Tensor, labels: Tensor) -> Tensor:
        """Apply gamma and a smooth multiplicative field to the grey values above the background."""
        largest, (height, width) = self.largest, image.shape[2:]
        grey = ((image + 1) / 2).clamp(0, 1)
        gamma = (labels[:, 5] * largest.log_gamma).exp().view(-1, 1, 1, 1)
        x = torch.linspace(-1, 1, width, device=image.device)[None, :].expand(height, width)
        y = torch.linspace(-1, 1, height, device=image.device)[:, None].expand(height, width)
        fields = torch.stack([x, y, x**2 + y**2 - 2 / 3])
        bias = torch.einsum("bk,khw->bhw", labels[:, 6:] * largest.bias, fields)[:, None].exp()
        shaded = (grey.pow(gamma) * bias).clamp(max=1) * 2 - 1
        untouched = (labels[:, 5:] == 0).all(dim=1).view(-1, 1, 1, 1)
        return torch.where(untouched, image, shaded)
