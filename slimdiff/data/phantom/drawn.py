"""Slices of random heads with lesions, drawn while a network is trained: no two are equal, and none is stored.

A slice is the ICBM152 tissue maps (`anatomy.templates`) seen through a random pose and warp, with random contrast,
atrophy, resolution, bias field and noise, and lesions of many sizes and shapes. Its number and the seed determine
everything, so that a resumed training sees the same slices. Random numbers are drawn on the host, all else on
the device of the training.

Lengths are in mm. Intensities before scaling: white matter about 0.5. As in a preprocessed volume the darkest and the
brightest tissue are at -1 and 1, and all outside the head is -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from slimdiff.config.data import AnatomyConfig
from slimdiff.data.phantom.anatomy import CENTRE_MM, VENTRICLES_MM, templates

LATTICES = {
    "bend": (32.0, 3),
    "fold": (13.0, 3),
    "fine": (6.0, 1),
    "patchy": (20.0, 1),
    "edge": (8.0, 2),
    "coil": (90.0, 1),
}
"""Random smooth fields: distance of their knots in mm, and their number."""
MOST_LESIONS = 5
SUB_SLICES = 2
"""Planes that are averaged over the thickness of a slice."""
SOFTNESS = 0.12
"""Width of a lesion's border, in its radii."""
DEPTH_MM = 25.0
"""Farthest distance from the brain that is known."""


@dataclass(frozen=True)
class Drawn:
    """A batch of slices."""

    x0: Tensor
    """Image and mask in [-1, 1], float32 (B, 2, H, W)."""
    height: Tensor
    """Relative height in the brain, 0 to 1, (B,)."""
    label: Tensor
    """int64 (B,): 1 = the slice has a lesion."""


class _Scalars:
    """Uniform numbers of a batch, (B, n), taken one after another: named draws in a fixed order."""

    def __init__(self, uniform: Tensor):
        self.uniform, self.used = uniform, 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in [low, high), (B, 1, 1)."""
        column = self.uniform[:, self.used]
        self.used += 1
        return (low + (high - low) * column).view(-1, 1, 1)

    def log(self, low: float, high: float) -> Tensor:
        """Uniform in the logarithm."""
        return self(float(np.log(low)), float(np.log(high))).exp()

    def normal(self, mean: float, sd: float) -> Tensor:
        """Normal, cut at three standard deviations."""
        value = torch.erfinv((2 * self() - 1).clamp(-0.9973, 0.9973)) * 2**0.5
        return mean + sd * value


UNIFORM = 160
"""Uniform numbers of a slice; more than are used."""


class SliceDrawer:
    """Draws slices by number.

    Args:
        config: contrast and skull.
        size: height and width of a slice, in px.
        spacing_mm: side of a pixel.
        min_lesion_mm2: smallest lesion area of a slice; below it a slice has no lesion.
        seed: seed of all slices.
        device: where slices are computed.
    """

    def __init__(
        self,
        config: AnatomyConfig,
        size: tuple[int, int],
        spacing_mm: float,
        min_lesion_mm2: float,
        seed: int,
        device: torch.device,
    ):
        self.config, self.size, self.spacing_mm = config, size, spacing_mm
        self.seed, self.device = seed, device
        self.min_lesion_px = max(1.0, min_lesion_mm2 / spacing_mm**2)
        height, width = size
        self.y = ((height - 1) / 2 - torch.arange(height, device=device)) * spacing_mm
        self.x = (torch.arange(width, device=device) - (width - 1) / 2) * spacing_mm
        self.bases = {
            name: tuple(_basis(axis, knots).to(device) for axis in (self.y, self.x))
            for name, (knots, _) in LATTICES.items()
        }
        maps, origin, self.z_range = head_maps()
        self.maps, self.origin = maps.to(device), origin.to(device)

    def draw(self, numbers: Sequence[int] | np.ndarray, lesions: np.ndarray) -> Drawn:
        """The slices of these numbers.

        Args:
            numbers: number of each slice, ≥ 0, (B,).
            lesions: whether each slice is to have a lesion, bool (B,). One without enough tissue has none.
        """
        scalars, fields, noise = self._random(numbers)
        height = scalars()
        low, high = self.z_range
        place = self._place(scalars, fields, low + height * (high - low))
        thickness = scalars(1.0, 6.0)
        sharpness, boost = scalars(1.5, 2.5), scalars.log(0.9, 2.4)
        tissue, inside, depth = self._tissue(place, thickness, sharpness, boost)
        clean, levels = self._contrast(scalars, tissue, fields)
        wanted = torch.from_numpy(np.asarray(lesions, bool)).to(self.device).view(-1, 1, 1)
        clean, mask, brightest = self._lesions(scalars, clean, tissue, inside, fields, wanted)
        clean = clean * inside
        clean, seen = self._skull(scalars, clean, inside, depth, fields, levels)
        image = self._acquired(scalars, clean, seen, fields, noise, levels, brightest)
        x0 = torch.stack([image, mask.float() * 2 - 1], dim=1)
        return Drawn(x0, height.flatten(), mask.flatten(1).any(dim=1).long())

    def _random(self, numbers: Sequence[int] | np.ndarray) -> tuple[_Scalars, dict[str, Tensor], Tensor]:
        """Scalars, smooth fields (B, n, H, W) of variance 1, and normal noise (B, 2, H, W)."""
        counts = {
            name: (number, bases[0].shape[1], bases[1].shape[1])
            for (name, (_, number)), bases in zip(LATTICES.items(), self.bases.values(), strict=True)
        }
        sizes = [int(np.prod(shape)) for shape in counts.values()]
        uniform = np.empty((len(numbers), UNIFORM), np.float32)
        normal = np.empty((len(numbers), sum(sizes) + 2 * self.size[0] * self.size[1]), np.float32)
        for row, number in enumerate(numbers):
            rng = np.random.Generator(np.random.Philox(key=[self.seed, int(number)]))
            rng.random(out=uniform[row], dtype=np.float32)
            rng.standard_normal(out=normal[row], dtype=np.float32)
        parts = (
            torch.from_numpy(normal).to(self.device).split([*sizes, 2 * self.size[0] * self.size[1]], dim=1)
        )
        fields = {}
        for (name, shape), part in zip(counts.items(), parts[:-1], strict=True):
            rows, columns = self.bases[name]
            fields[name] = rows @ part.view(-1, *shape) @ columns.T
        return _Scalars(torch.from_numpy(uniform).to(self.device)), fields, parts[-1].view(-1, 2, *self.size)

    def _place(self, scalars: _Scalars, fields: dict[str, Tensor], z: Tensor) -> Tensor:
        """Template position of every pixel, (B, 3, H, W): pose, size, wider or narrower ventricles, and warp."""
        angles = [scalars.normal(0, sd) for sd in (0.07, 0.07, 0.05)]
        size = scalars.normal(0.93, 0.05).clamp(0.8, 1.08)
        scale = [size * scalars.normal(1.0, 0.03) for _ in range(3)]
        # The height is that of this head's own brain.
        shift = [*(scalars.normal(0, 3.0) for _ in range(2)), torch.zeros_like(z)]
        y, x = self.y.view(1, -1, 1), self.x.view(1, 1, -1)
        points = [
            x.expand(len(z), *self.size),
            y.expand(len(z), *self.size),
            (scale[2] * (z - CENTRE_MM[2])).expand(-1, *self.size),
        ]
        # Rotations about x, y and z in turn.
        for angle, (first, second) in zip(angles, ((1, 2), (2, 0), (0, 1)), strict=True):
            cos, sin = angle.cos(), angle.sin()
            one, two = points[first], points[second]
            points[first], points[second] = cos * one - sin * two, sin * one + cos * two
        place = torch.stack(
            [
                point / factor + centre + move
                for point, factor, centre, move in zip(points, scale, CENTRE_MM, shift, strict=True)
            ],
            dim=1,
        )
        centre = torch.tensor(VENTRICLES_MM, device=self.device).view(1, 3, 1, 1)
        away = place - centre
        nearness = torch.exp(-away.square().sum(dim=1, keepdim=True) / (2 * 24.0**2))
        widening = scalars(-0.3, 0.45).unsqueeze(1)
        bend, fold = (scalars(low, high).unsqueeze(1) for low, high in ((1.5, 4.5), (0.5, 1.8)))
        return place - widening * nearness * away + bend * fields["bend"] + fold * fields["fold"]

    def _tissue(
        self, place: Tensor, thickness: Tensor, sharpness: Tensor, boost: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Fractions csf, gm, wm; share of the thickness in the brain; and distance from the brain; (B, H, W) each."""
        found: list[tuple[Tensor, ...]] = []
        shape = torch.tensor(self.maps.shape[:0:-1], device=self.device, dtype=torch.float32)
        for part in range(SUB_SLICES):
            offset = ((part + 0.5) / SUB_SLICES - 0.5) * thickness
            points = torch.stack([place[:, 0], place[:, 1], place[:, 2] + offset], dim=-1) - self.origin
            # grid_sample takes positions along the last axis of the maps first: x, y, z of maps stored as z, y, x.
            grid = points / (shape - 1) * 2 - 1
            sampled = F.grid_sample(
                self.maps[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
            )[0]
            gm, wm, brain, depth = sampled
            inside = (brain > 0.5).float()
            sharp = [
                fraction.clamp_min(0) ** sharpness * inside for fraction in (boost * (1 - gm - wm), gm, wm)
            ]
            total = sum(sharp).clamp_min(1e-6)
            found.append((*(fraction / total for fraction in sharp), inside, depth))
        csf, gm, wm, inside, depth = (torch.stack(parts).mean(dim=0) for parts in zip(*found, strict=True))
        return {"csf": csf, "gm": gm, "wm": wm}, inside, depth

    def _contrast(
        self, scalars: _Scalars, tissue: dict[str, Tensor], fields: dict[str, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Noise-free image, and its darkest and brightest tissue."""
        flair = scalars() < (1.0 if self.config.contrast == "flair" else 0.0)
        white = scalars.normal(0.5, 0.03)
        of_flair = (
            scalars.normal(0.14, 0.06).clamp(0.02, 0.3),
            white + scalars.normal(0.13, 0.05).clamp(0.03, 0.3),
            white,
        )
        of_any = tuple(scalars(0.05, 1.0) for _ in range(3))
        csf, gm, wm = (torch.where(flair, one, other) for one, other in zip(of_flair, of_any, strict=True))
        clean = csf * tissue["csf"] + gm * tissue["gm"] + wm * tissue["wm"]
        texture = scalars(0.002, 0.025) * fields["fine"][:, 0] + scalars(0.002, 0.04) * fields["patchy"][:, 0]
        levels = torch.stack([csf, gm, wm])
        return clean + texture * (1 - tissue["csf"]), (levels.amin(dim=0), levels.amax(dim=0))

    def _lesions(
        self,
        scalars: _Scalars,
        clean: Tensor,
        tissue: dict[str, Tensor],
        inside: Tensor,
        fields: dict[str, Tensor],
        wanted: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The image with its lesions, their mask, and how bright they are (0 without one)."""
        brain = inside > 0.5
        matter = (1 - tissue["csf"]) * brain
        several = scalars() < 0.35
        cortex, deep = scalars(0.1, 1.0), scalars(0.1, 1.0)
        likely = (cortex * tissue["gm"] + deep * tissue["wm"]) * brain + 1e-9
        cumulative = likely.flatten(1).cumsum(dim=1)
        edge = scalars(0.1, 0.35) * fields["edge"][:, 0] + scalars(0.05, 0.25) * fields["patchy"][:, 0]
        avoids_fluid = scalars(0.2, 1.0) * tissue["csf"]
        score = torch.full_like(clean, -9.0)
        y, x = self.y.view(1, -1, 1), self.x.view(1, 1, -1)
        for number in range(MOST_LESIONS):
            chosen = torch.searchsorted(cumulative, scalars().view(-1, 1) * cumulative[:, -1:])
            chosen = chosen.clamp_max(cumulative.shape[1] - 1).view(-1, 1, 1)
            row, column = chosen // self.size[1], chosen % self.size[1]
            large, small = scalars.log(4.0, 45.0), scalars.log(1.5, 9.0)
            radius = torch.where(several, small, large)
            aspect, angle = scalars.log(0.5, 1.0), scalars(0, float(np.pi))
            dy, dx = y - self.y[row], x - self.x[column]
            along, across = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
            distance = torch.hypot(along * aspect.sqrt(), across / aspect.sqrt()) / radius
            present = scalars() < torch.where(several, 0.7, float(number == 0))
            own = 1 - distance + edge - avoids_fluid
            score = torch.where(present, torch.maximum(score, own), score)
        mask = (score > 0) & brain & wanted
        enough = mask.flatten(1).sum(dim=1).view(-1, 1, 1) >= self.min_lesion_px
        mask = mask & enough
        soft = torch.sigmoid(score / SOFTNESS) * matter * (wanted & enough)
        rise = scalars.log(0.08, 0.8) * torch.where(
            scalars() < (1.0 if self.config.contrast == "flair" else 0.5), 1.0, -1.0
        )
        # Inside, borders of tissue are less clear.
        mean = (clean * matter).flatten(1).sum(dim=1) / matter.flatten(1).sum(dim=1).clamp_min(1e-6)
        mixed = clean + scalars(0.2, 0.9) * soft * (mean.view(-1, 1, 1) - clean)
        lit = mixed + soft * rise * (1 + scalars(0, 0.35) * fields["edge"][:, 1])
        has_core = scalars() < 0.3
        core = torch.sigmoid((score - scalars(0.3, 0.6)) / 0.08) * soft * has_core
        lit = lit + core * (scalars(0.05, 0.9) - lit)
        return (
            lit.clamp_min(0.0),
            mask,
            torch.where(enough & wanted, mean.view(-1, 1, 1) + rise, torch.zeros_like(rise)),
        )

    def _skull(
        self,
        scalars: _Scalars,
        clean: Tensor,
        inside: Tensor,
        depth: Tensor,
        fields: dict[str, Tensor],
        levels: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The image with fluid, bone and scalp around the brain, where the head has a skull; and what is seen of it."""
        there = scalars() < self.config.skull
        gap, bone, scalp = scalars(1.0, 4.0), scalars(4.0, 9.0), scalars(3.0, 9.0)
        depth = depth + fields["patchy"][:, 0]
        layers = (
            (gap, levels[0]),
            (gap + bone, scalars(0.02, 0.15)),
            (gap + bone + scalp, scalars(0.3, 1.1)),
        )
        head = torch.zeros_like(clean)
        for outer, level in reversed(layers):
            head = torch.where(depth < outer, level, head)
        seen = torch.where(there, (depth < gap + bone + scalp).float(), inside)
        return torch.where(there & (inside < 0.5), head, clean), seen

    def _acquired(
        self,
        scalars: _Scalars,
        clean: Tensor,
        seen: Tensor,
        fields: dict[str, Tensor],
        noise: Tensor,
        levels: tuple[Tensor, Tensor],
        brightest: Tensor,
    ) -> Tensor:
        """Point spread, coil, Rician noise, and the scaling of a preprocessed volume."""
        signal = _blurred(clean, scalars(0.35, 0.85).flatten())
        signal = signal * torch.exp(scalars(0.0, 0.2) * fields["coil"][:, 0])
        sigma = scalars.log(0.002, 0.03)
        image = torch.hypot(signal + sigma * noise[:, 0], sigma * noise[:, 1])
        low = levels[0] * scalars(0.4, 1.0)
        # The brightest half per cent of a volume is of the lesion, if it is large, or of bright tissue.
        high = torch.maximum(levels[1] * scalars.log(1.03, 2.6), brightest * scalars(0.7, 1.1))
        scaled = (2 * (image - low) / (high - low).clamp_min(0.05) - 1).clamp(-1, 1)
        return torch.where(seen > 0.5, scaled, -1.0)


@cache
def head_maps() -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Maps gm, wm, brain and distance from the brain, (4, Z, Y, X) on the template's grid of 1 mm; the grid's origin
    (x, y, z); and the lowest and highest z with brain, in mm."""
    from scipy.ndimage import distance_transform_edt

    maps, origin = templates()
    depth = np.minimum(distance_transform_edt(maps["brain"] < 0.5), DEPTH_MM).astype(np.float32)
    stacked = np.stack([maps["gm"], maps["wm"], maps["brain"], depth]).transpose(0, 3, 2, 1)
    area = (maps["brain"] > 0.5).sum(axis=(0, 1))
    with_brain = np.flatnonzero(area >= 0.1 * area.max())
    z_range = tuple(float(with_brain[end] + origin[2]) for end in (0, -1))
    return (
        torch.from_numpy(np.ascontiguousarray(stacked)),
        torch.from_numpy(np.asarray(origin, np.float32)),
        z_range,
    )


def _basis(axis: Tensor, knots_mm: float) -> Tensor:
    """Cubic B-splines on an axis, (n, knots). Rows have length 1: weights of variance 1 give a field of variance 1."""
    first, last = float(axis.min()), float(axis.max())
    knots = torch.arange(int(np.ceil((last - first) / knots_mm)) + 4, device=axis.device) - 1.5
    distance = ((axis[:, None] - first) / knots_mm - knots).abs()
    basis = torch.where(
        distance < 1, 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clamp_min(0) ** 3 / 6
    )
    return basis / basis.norm(dim=1, keepdim=True)


def _blurred(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Each image (B, H, W) smoothed by a Gaussian of its own width (B,)."""
    offsets = torch.arange(-3, 4, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_px[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    count = len(images)
    out = F.conv2d(images[None], kernel.view(count, 1, 1, -1), padding=(0, 3), groups=count)
    return F.conv2d(out, kernel.view(count, 1, -1, 1), padding=(3, 0), groups=count)[0]
