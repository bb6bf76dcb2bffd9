"""One participant's image and mask onto the study's grid, with the record of what was done to them.

Writes `volumes/{participant}_{FLAIR,mask}.nii.gz` (float32 in [-1, 1]; uint8 {0, 1}; RAS, true affine) and
`volumes/{participant}.json` (the QC row and the transform history).
"""

import json
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from slimdiff.config.preprocess import PreprocessConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.volumes import load_pair
from slimdiff.files import replacing, sha256, write_text


def to_grid(
    image: nibabel.Nifti1Image, mask: nibabel.Nifti1Image, config: PreprocessConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reorient to RAS, resample (image linear, mask nearest), centre crop or pad.

    Returns image float32 (X, Y, Z) in the scanner's units, mask bool (X, Y, Z), affine (4, 4) in mm.
    """
    import torchio  # here, because importing it takes seconds

    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=np.asarray(image.dataobj)[None], affine=image.affine),
        mask=torchio.LabelMap(tensor=np.asarray(mask.dataobj)[None], affine=mask.affine),
    )
    background = float(np.asarray(image.dataobj).min())
    chain = torchio.Compose(
        [
            torchio.ToCanonical(),
            torchio.Resample(config.spacing_mm, image_interpolation="linear", label_interpolation="nearest"),
        ]
    )
    moved = chain(subject)
    # One after the other, because padding is the image's own background, and 0 for the mask.
    volume = torchio.CropOrPad(config.grid, padding_mode=background)(moved["image"])
    lesion = torchio.CropOrPad(config.grid, padding_mode=0)(moved["mask"])
    return volume.numpy()[0].astype(np.float32), lesion.numpy()[0] > 0, np.asarray(volume.affine)


def foreground(volume: np.ndarray) -> np.ndarray:
    """Head or brain: above Otsu's threshold, largest component, holes filled. bool (X, Y, Z)."""
    above = volume > threshold_otsu(volume)
    labels, count = ndimage.label(above)
    if count == 0:
        return above
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    # Ventricles and sulci are as dark as the background, so every plane is filled, not the volume alone.
    filled = ndimage.binary_fill_holes(largest)
    for axis in range(3):
        planes = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(filled, axis, 0)]
        filled = np.moveaxis(np.stack(planes), 0, axis)
    return filled


def normalise(
    volume: np.ndarray, config: PreprocessConfig
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Map the percentiles to -1 and 1 and clip; outside the foreground is -1.

    Returns float32 in [-1, 1], the foreground, and the two intensities that became -1 and 1.
    """
    if volume.min() == volume.max():
        raise DataError(
            f"nothing but background is left at {config.spacing_mm} mm on the grid {list(config.grid)}"
        )
    inside = foreground(volume)
    over = volume[inside] if config.percentiles_over == "foreground" else volume
    low, high = (float(value) for value in np.percentile(over, config.percentiles))
    if not high > low:
        raise DataError(
            f"percentiles {config.percentiles} of the image are equal ({low:g}): nothing to scale"
        )
    scaled = np.clip(2 * (volume - low) / (high - low) - 1, -1, 1).astype(np.float32)
    if config.percentiles_over == "foreground":
        scaled[~inside] = -1
    return scaled, inside, (low, high)


def preprocess(
    participant: Participant, config: PreprocessConfig, image_path: Path, mask_path: Path, json_path: Path
):
    """Put one participant on the grid and write image, mask and record, the record last."""
    pair = load_pair(participant)
    image = nibabel.Nifti1Image(pair.image.values, pair.image.affine)
    mask = nibabel.Nifti1Image(pair.lesion.astype(np.uint8), pair.image.affine)
    volume, lesion, affine = to_grid(image, mask, config)
    try:
        scaled, inside, (low, high) = normalise(volume, config)
    except DataError as error:
        raise DataError(f"{participant.participant_id}: {participant.image}: {error}") from None
    source_ml = float(np.asarray(mask.dataobj).sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000)
    grid_ml = float(lesion.sum() * config.spacing_mm**3 / 1000)
    if participant.is_patient and not lesion.any():
        raise DataError(
            f"{participant.participant_id}: {participant.mask}: the lesion ({source_ml:.3g} ml) is gone after "
            f"resampling to {config.spacing_mm} mm and cropping to {list(config.grid)}"
        )
    record = {
        "participant": participant.participant_id,
        "qc": {
            "lesion_ml_source": source_ml,
            "lesion_ml_grid": grid_ml,
            "lesion_outside_foreground_share": float((lesion & ~inside).sum() / max(lesion.sum(), 1)),
            "foreground_ml": float(inside.sum() * config.spacing_mm**3 / 1000),
            "source_spacing_mm": [float(v) for v in nibabel.affines.voxel_sizes(image.affine)],
            "source_shape": list(image.shape),
            "source_orientation": "".join(nibabel.aff2axcodes(image.affine)),
        },
        "history": [
            {"reorient": "RAS"},
            {"resample_mm": config.spacing_mm, "image": "linear", "mask": "nearest"},
            {"centre_crop_or_pad": list(config.grid)},
            {
                "scale_to_unit_range": [low, high],
                "percentiles": list(config.percentiles),
                "over": config.percentiles_over,
            },
        ],
        "source_affine": image.affine.tolist(),
        "affine": affine.tolist(),
        "source_sha256": {
            "image": sha256(participant.image),
            "mask": sha256(participant.mask) if participant.mask else None,
        },
    }
    for path, array in ((image_path, scaled), (mask_path, lesion.astype(np.uint8))):
        result = nibabel.Nifti1Image(array, affine)
        result.set_sform(affine, code="scanner")
        result.set_qform(affine, code="scanner")
        result.header.set_xyzt_units("mm")
        with replacing(path, suffix=".nii.gz") as temporary:
            nibabel.save(result, temporary)
    write_text(json_path, json.dumps(record, indent=1))
