"""Cut preprocessed volumes into the slice store (contract: `slimdiff.data.store`)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from slimdiff.config.slices import SlicesConfig
from slimdiff.data.participants import DataError, Participant, first_scans
from slimdiff.data.store import COLUMNS, FILES
from slimdiff.data.volumes import harmonise
from slimdiff.data.volumes.harmonise import Landmarks
from slimdiff.data.volumes.read import read_volume, read_volume_header
from slimdiff.data.zbins import ZBins, heights_of
from slimdiff.files import replacing, sha256, write_object, write_table
from slimdiff.stored_rows import ArrayWriter

BACKGROUND_LEVEL = -0.9
"""Pixels above this intensity in [-1, 1] are tissue (paper: -0.9)."""
VolumePath = Callable[[str, str], Path]


def axial(volume: np.ndarray, z: int) -> np.ndarray:
    """Axial slice (H, W) of a RAS volume (X, Y, Z): rows anterior to posterior, columns left to right."""
    return np.rot90(volume[:, :, z])


def tissue_extent(volumes: Iterable[np.ndarray], config: SlicesConfig) -> tuple[int, int]:
    """First and last axial slice in which any of the volumes has at least `min_tissue` tissue pixels."""
    shares = [(volume > BACKGROUND_LEVEL).mean(axis=(0, 1)) for volume in volumes]
    kept = np.flatnonzero(np.max(shares, axis=0) >= config.min_tissue)
    if not len(kept):
        key = "z_range auto" if config.height == "slice" else f"height {config.height}"
        raise DataError(
            f"slices.{key}: expected slices in which a share of at least {config.min_tissue} of the "
            f"pixels is above {BACKGROUND_LEVEL}, found none; inspect the volumes or lower slices.min_tissue"
        )
    return int(kept[0]), int(kept[-1])


@dataclass
class _Kept:
    """Rows of the slices kept so far, and counts of the dropped ones."""

    rows: list[dict] = field(default_factory=list)
    too_little_tissue: int = 0
    small: dict[str, int] = field(default_factory=dict)
    """Lesion slices below the smallest lesion area, by participant."""
    outside: dict[str, int] = field(default_factory=dict)
    """Lesion slices above or below the z-range, by participant, without zeros."""


def build_store(
    participants: Sequence[Participant],
    volume_path: VolumePath,
    config: SlicesConfig,
    folder: Path,
    training_participants: Sequence[str] = (),
    landmarks: Landmarks | None = None,
) -> dict[str, Any]:
    """Cut every included participant's volumes into slices and write the store, one volume in memory at a time.

    volume_path(participant_id, kind) gives the path of kind image or mask. `training_participants`: their brains set
    the z-range if `slices.z_range` is `auto`.
    Returns the content of store.json. Raises DataError if no slice is kept, or a participant or a z-bin has none;
    then nothing is written.
    """
    names = [participant.participant_id for participant in participants]
    shape, spacing_mm, slice_mm = _common_grid(names, volume_path, folder, config.height != "slice")

    def image_of(name: str) -> np.ndarray:
        image = _read(volume_path, name, "image")
        return image if landmarks is None else harmonise.apply(image, landmarks)

    # Heights above the brain's lowest slice are measured from each participant's own brain.
    brains = {} if config.height == "slice" else {name: _brain(name, image_of, config) for name in names}
    brain_mm = {name: (last - first) * slice_mm[name] for name, (first, last) in brains.items()}
    z_bins = _z_bins(participants, image_of, brain_mm, config, training_participants)
    min_lesion_px = max(1, round(config.min_lesion_mm2 / spacing_mm**2))
    kept = _Kept()
    # Axial slices: rows along y, columns along x.
    size = (shape[1], shape[0])
    with ExitStack() as stack:
        temporary = {name: stack.enter_context(replacing(folder / file)) for name, file in FILES.items()}
        with (
            ArrayWriter(temporary["images"], size, np.float16) as images,
            ArrayWriter(temporary["masks"], size, np.uint8) as masks,
        ):
            for participant in tqdm(participants, desc="slices", unit="subject"):
                name = participant.participant_id
                lesion = _read(volume_path, name, "mask") > 0
                heights = heights_of(config.height, lesion.shape[2], brains.get(name, ()), slice_mm[name])
                z_inside = np.flatnonzero(z_bins.inside(heights))
                # Only slices within the z-range are converted.
                z_kept = slice(z_inside[0], z_inside[-1] + 1) if len(z_inside) else slice(0)
                pair = (
                    image_of(name)[:, :, z_kept].astype(np.float16),
                    lesion[:, :, z_kept],
                )
                with_lesion = lesion.any(axis=(0, 1))
                outside = int(with_lesion.sum() - with_lesion[z_kept].sum())
                if outside:
                    kept.outside[name] = outside
                for z, image, mask in _slices(*pair, z_inside.tolist(), config, min_lesion_px, name, kept):
                    images.append(image)
                    masks.append(mask)
                    kept.rows.append(_row(participant, z, mask, heights[z], z_bins))
        _refuse_nothing_kept(participants, kept.rows, z_bins)
        _refuse_gaps(kept.rows, config, min_lesion_px)
        write_table(
            temporary["slices"],
            kept.rows,
            (*COLUMNS, *([] if config.height == "slice" else ["height"])),
            # store.json has the hash.
            sealed=False,
        )
    facts = {
        "shape": [len(kept.rows), *size],
        "spacing_mm": spacing_mm,
        "slice_mm": float(np.median([slice_mm[name] for name in names])),
        "height": config.height,
        "z_range": list(z_bins.z_range),
        "n_bins": config.n_bins,
        "persons": {name: first for name, first in first_scans(participants).items() if first != name},
        "bin_centres": z_bins.centres.tolist(),
        **({"brain_mm": brain_mm} if brain_mm else {}),
        "background_level": BACKGROUND_LEVEL,
        "harmonise": landmarks and asdict(landmarks),
        "min_lesion_px": min_lesion_px,
        "dropped": {
            "too_little_tissue": kept.too_little_tissue,
            "lesion_too_small": sum(kept.small.values()),
        },
        "dropped_small_lesion": kept.small,
        "lesion_outside_z_range": kept.outside,
        "patients_without_lesion_slice": _without_lesion(participants, kept.rows),
        "sha256": {name: sha256(folder / file) for name, file in FILES.items()},
    }
    write_object(folder / "store.json", facts)
    return facts


def _common_grid(
    names: Sequence[str], volume_path: VolumePath, folder: Path, own_slices: bool
) -> tuple[tuple[int, ...], float, dict[str, float]]:
    """Shape in voxels and side of a pixel in mm that all volumes share, and each one's distance of slices in mm.

    own_slices: volumes may differ in the number and distance of their slices; the shape is then (X, Y).
    """
    if not names:
        raise DataError(
            f"{folder.parent / 'participants.tsv'}: expected included participants, found none; see the column excluded"
        )
    grids, slice_mm, counts = {}, {}, {}
    for name in names:
        for kind in ("image", "mask"):
            header = read_volume_header(volume_path(name, kind), name)
            shape, edges_mm = header.get_data_shape(), [float(edge) for edge in header.get_zooms()]
            grids.setdefault((shape[:2], edges_mm[0]) if own_slices else (shape, *edges_mm), name)
            if counts.setdefault(name, shape) != shape:
                grids.setdefault((shape, *edges_mm), f"{name}'s mask")
            slice_mm[name] = edges_mm[2]
    if len(grids) != 1:
        found = "; ".join(
            f"{name}: {shape} at {' x '.join(f'{edge:g}' for edge in dict.fromkeys(edges))} mm"
            for (shape, *edges), name in grids.items()
        )
        raise DataError(
            f"{folder.parent / 'volumes'}: expected one grid, found several ({found}); run the preprocess stage again"
            + (
                ""
                if own_slices
                else ", or set slices.height to mm or relative if each volume has its own slices"
            )
        )
    ((shape, pixel_mm, *_),) = grids
    return shape, pixel_mm, slice_mm


def _brain(name: str, image_of: Callable[[str], np.ndarray], config: SlicesConfig) -> tuple[int, int]:
    """Numbers of the lowest and the highest slice with brain. Raises DataError if there are fewer than two."""
    try:
        first, last = tissue_extent([image_of(name).astype(np.float16)], config)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    if first == last:
        raise DataError(
            f"{name}: slices.height {config.height}: expected at least two slices with brain, found slice {first} "
            "only; inspect the volume, lower slices.min_tissue, or exclude the participant (data.exclude)"
        )
    return first, last


def _z_bins(
    participants: Sequence[Participant],
    image_of: Callable[[str], np.ndarray],
    brain_mm: dict[str, float],
    config: SlicesConfig,
    training_participants: Sequence[str],
) -> ZBins:
    """The z-bins of the study; `z_range: auto` follows the training participants."""
    known = [participant.participant_id for participant in participants]
    names = [name for name in training_participants if name in known] or known
    z_range = config.z_range
    if z_range == "auto" and config.height == "slice":
        z_range = tissue_extent((image_of(name).astype(np.float16) for name in names), config)
    elif z_range == "auto":
        z_range = (0.0, 1.0 if config.height == "relative" else max(brain_mm[name] for name in names))
    first, last = z_range
    if config.height == "slice" and last - first + 1 < config.n_bins:
        raise DataError(
            f"slices.n_bins: expected at most {last - first + 1} z-bins for slices {first} to {last}, found "
            f"{config.n_bins}"
        )
    return ZBins(config.height, z_range, config.n_bins)


def _read(volume_path: VolumePath, name: str, kind: str) -> np.ndarray:
    return read_volume(volume_path(name, kind), name).values


def _slices(
    volume: np.ndarray,
    lesion: np.ndarray,
    z_kept: Sequence[int],
    config: SlicesConfig,
    min_lesion_px: int,
    name: str,
    kept: _Kept,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """z, image and mask of the kept slices; counts the dropped ones."""
    kept.small[name] = 0
    for place, z in enumerate(z_kept):
        image, mask = axial(volume, place), axial(lesion, place)
        if (image > BACKGROUND_LEVEL).mean() < config.min_tissue:
            kept.too_little_tissue += 1
        elif 0 < mask.sum() < min_lesion_px:
            kept.small[name] += 1
        else:
            yield z, image, mask


def _row(participant: Participant, z: int, mask: np.ndarray, height: float, z_bins: ZBins) -> dict:
    lesion_px = int(mask.sum())
    return {
        "participant": participant.participant_id,
        "z": z,
        "z_bin": int(z_bins.of(height)),
        "class": int(lesion_px > 0),
        "lesion_px": lesion_px,
        "acquisition": participant.acquisition,
        "height": round(float(height), 4),
    }


def _without_lesion(participants: Sequence[Participant], rows: Sequence[dict]) -> list[str]:
    lesioned = {row["participant"] for row in rows if row["class"]}
    names = (person.participant_id for person in participants if person.is_patient)
    return [name for name in names if name not in lesioned]


def _refuse_nothing_kept(participants: Sequence[Participant], rows: Sequence[dict], z_bins: ZBins) -> None:
    kept = {row["participant"] for row in rows}
    lost = [person.participant_id for person in participants if person.participant_id not in kept]
    # If no slice at all is kept, the message of `_refuse_gaps` is clearer.
    if lost and kept:
        first, last = z_bins.z_range
        raise DataError(
            f"slices: expected slices of every participant within z {first:g} to {last:g}, found none of "
            f"{', '.join(lost)}; inspect the volumes, change slices.z_range, slices.min_tissue or "
            "slices.min_lesion_mm2, or exclude them (data.exclude)"
        )


def _refuse_gaps(rows: Sequence[dict], config: SlicesConfig, min_lesion_px: int) -> None:
    empty = sorted(set(range(config.n_bins)) - {row["z_bin"] for row in rows})
    if empty:
        few = f"the participants have {len(rows) / max(1, len({row['participant'] for row in rows})):.3g} slices each"
        raise DataError(
            f"slices: expected slices in all {config.n_bins} z-bins, found none in z-bin {', '.join(map(str, empty))}; "
            "change slices.z_range"
            + ("" if config.height == "slice" else f", or lower slices.n_bins ({few})")
        )
    if not any(row["class"] for row in rows):
        raise DataError(
            f"slices: expected lesions of at least {min_lesion_px} px ({config.min_lesion_mm2} mm2), found none in "
            f"{len(rows)} slices; lower slices.min_lesion_mm2"
        )
