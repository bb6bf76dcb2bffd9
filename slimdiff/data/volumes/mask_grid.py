"""Where a mask lies if its grid is not the image's: by which header, and what is safe to do."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slimdiff.data.volumes.read import Volume

AFFINE_TOLERANCE_MM = 0.1


def without_origin(mask: "Volume", image: "Volume") -> list[str]:
    """Which headers have the affine that scripts write who know no position: axes along the world's, origin 0.

    `nibabel.Nifti1Image(array, numpy.eye(4))` and `SimpleITK.GetImageFromArray` do. Where both do, voxels of volumes
    with other shapes still have a place in common.
    """
    which = [
        name
        for name, volume in (("the image's", image), ("the mask's", mask))
        if not volume.affine[:3, 3].any()
        and not (volume.affine[:3, :3] - np.diag(np.diag(volume.affine)[:3])).any()
    ]
    return which if len(which) == 1 or mask.values.shape == image.values.shape else []


def by_the_other_form(mask: "Volume", image: "Volume") -> bool:
    """Whether the mask has the affine of the image's qform, or the image that of the mask's."""
    forms = ((mask.affine, image.qform), (mask.qform, image.affine))
    return any(
        own is not None
        and other is not None
        and largest_offset_mm(own, other, image.values.shape) <= AFFINE_TOLERANCE_MM
        for own, other in forms
    )


def other_grid(mask: "Volume", image: "Volume", offset: float, drawn_on_it: bool) -> str:
    """What is wrong with the grid of a mask, and what is safe to do."""
    shape, own = image.values.shape, mask.values.shape
    wrong_place = f"expected the image's affine, found a corner {offset:.3g} mm away from the image's"
    found = wrong_place if own == shape else f"expected the image's shape {shape}, found {own}"
    unset = without_origin(mask, image)
    if unset or not (mask.placed and image.placed):
        which, why = (
            (" and ".join(unset), "its origin is 0, as scripts write it by default")
            if mask.placed and image.placed
            else ("the image's" if mask.placed else "the mask's", "sform and qform code are 0")
        )
        found += f"; {which} header gives no position ({why}), so it cannot be resampled"
        if drawn_on_it:
            return f"{found}; if the mask was drawn on this image, set data.mask_grid: voxels"
        return f"{found}; export both files again with their position"
    if drawn_on_it:
        return (
            f"{found}, which is that of the other form of a header (sform and qform differ): the mask was drawn on "
            "this image, and resampling would move it; set data.mask_grid: voxels"
        )
    if own == shape:
        return (
            f"{found}; compare both in a viewer that uses the headers: if the mask lies on the lesion, set "
            "data.mask_grid: resample; if not, its header is wrong: save the mask again with the image's header"
        )
    return f"{found}; resample the mask, or set data.mask_grid: resample"


def largest_offset_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the positions that two affines (4, 4) give to a voxel of this shape."""
    # The distance is largest at a corner: differences in voxel size and angle add up over the volume.
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)
    apart = (affine - other)[:3] @ np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm(apart, axis=0).max())


def on_grid_of(mask: "Volume", image: "Volume") -> np.ndarray:
    """Values of the mask at the image's voxels, by world coordinates: nearest voxel, 0 outside the mask."""
    from scipy import ndimage

    to_mask = np.linalg.inv(mask.affine) @ image.affine
    # grid-constant: a voxel at the volume's border also extends half its size beyond its centre.
    return ndimage.affine_transform(
        mask.values,
        to_mask[:3, :3],
        to_mask[:3, 3],
        output_shape=image.values.shape,
        order=0,
        mode="grid-constant",
    )
