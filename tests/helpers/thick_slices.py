"""Stacks of thick slices in any orientation."""

import nibabel
import numpy as np

THICK_MM = 4.4


def stack(
    codes: str = "RAS", tilt: float = 0.0, slices: int = 20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head of 2 mm pixels and slices of 4.4 mm, its lesion, and its affine, stored along the axes of `codes`."""
    x, y, z = np.meshgrid(np.arange(80) - 40, np.arange(90) - 44, np.arange(slices), indexing="ij")
    inside = (x / 32) ** 2 + (y / 38) ** 2 + ((z - slices / 2) / (slices / 2.3)) ** 2 < 1
    rng = np.random.default_rng(0)
    # No two slices are alike, so a mixture of two would show.
    values = np.where(inside, 100 + x + 20 * rng.normal(size=slices) + rng.normal(size=x.shape), 0)
    lesion = (x - 10) ** 2 + (y + 4) ** 2 < 36
    lesion = lesion & (abs(z - slices // 2) < 3)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (2.0, 2.0, THICK_MM)
    affine[:3, 3] = (-80, -90, -31)
    to = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    stored = [
        nibabel.orientations.apply_orientation(part, to) for part in (values.astype(np.float32), lesion)
    ]
    return *stored, affine @ nibabel.orientations.inv_ornt_aff(to, values.shape)
