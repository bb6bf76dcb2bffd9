"""Preprocessed volumes into the slice store (contract: `slimdiff.data.store`)."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from tqdm import tqdm

from slimdiff.config.slices import SlicesConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.store import COLUMNS
from slimdiff.data.zbins import bin_centres, z_bin
from slimdiff.files import replacing, sha256, write_table, write_text


def axial(volume: np.ndarray, z: int) -> np.ndarray:
    """Axial slice (H, W) of a RAS volume (X, Y, Z): rows anterior to posterior, columns left to right."""
    return np.rot90(volume[:, :, z])


def tissue_extent(volumes: Sequence[np.ndarray], config: SlicesConfig) -> tuple[int, int]:
    """First and last axial slice in which any of the volumes has at least `min_tissue` tissue pixels."""
    share = np.max([(volume > config.background_level).mean(axis=(0, 1)) for volume in volumes], axis=0)
    kept = np.flatnonzero(share >= config.min_tissue)
    if not len(kept):
        raise DataError(
            f"slices.z_range auto: no slice has a share of {config.min_tissue} above {config.background_level}"
        )
    return int(kept[0]), int(kept[-1])


def build_store(
    participants: Sequence[Participant],
    volume_path,
    config: SlicesConfig,
    folder: Path,
    training_participants: Sequence[str] = (),
) -> None:
    """Cut every included participant's volumes into slices and write the store.

    volume_path(participant_id, kind) gives the path of kind FLAIR or mask. `training_participants` are those
    whose brains set the extent where z_range is `auto`.
    Raises DataError if nothing is kept, or if a z-bin has no slice.
    """
    loaded = {}
    for participant in tqdm(participants, desc="read volumes", unit="subject"):
        image = nibabel.load(volume_path(participant.participant_id, "FLAIR"))
        mask = nibabel.load(volume_path(participant.participant_id, "mask"))
        volume, lesion = np.asarray(image.dataobj, np.float32), np.asarray(mask.dataobj) > 0
        loaded[participant.participant_id] = (
            volume.astype(np.float16),
            lesion,
            float(image.header.get_zooms()[0]),
        )
    spacing = {value for _, _, value in loaded.values()}
    if len(spacing) != 1 or len({volume.shape for volume, _, _ in loaded.values()}) != 1:
        raise DataError(
            f"{folder.parent / 'volumes'}: volumes of different grids; make the preprocess stage again"
        )
    spacing_mm = spacing.pop()
    if config.z_range == "auto":
        names = [name for name in training_participants if name in loaded] or list(loaded)
        z_min, z_max = tissue_extent([loaded[name][0] for name in names], config)
    else:
        z_min, z_max = config.z_range
    if z_max - z_min + 1 < config.n_bins:
        raise DataError(
            f"slices.n_bins: {config.n_bins} bins, but only {z_max - z_min + 1} slices ({z_min} to {z_max})"
        )
    min_lesion_px = max(1, round(config.min_lesion_mm2 / spacing_mm**2))

    images, masks, rows = [], [], []
    small = dict.fromkeys(loaded, 0)
    dropped = {"too_little_tissue": 0, "lesion_too_small": 0}
    for participant in participants:
        volume, lesion, _ = loaded[participant.participant_id]
        for z in range(z_min, z_max + 1):
            image, mask = axial(volume, z), axial(lesion, z)
            if (image > config.background_level).mean() < config.min_tissue:
                dropped["too_little_tissue"] += 1
                continue
            lesion_px = int(mask.sum())
            if 0 < lesion_px < min_lesion_px:
                dropped["lesion_too_small"] += 1
                small[participant.participant_id] += 1
                continue
            images.append(image)
            masks.append(mask)
            rows.append(
                {
                    "participant": participant.participant_id,
                    "z": z,
                    "z_bin": int(z_bin(z, z_min, z_max, config.n_bins)),
                    "class": int(lesion_px > 0),
                    "lesion_px": lesion_px,
                    "acquisition": participant.acquisition,
                }
            )
    empty = sorted(set(range(config.n_bins)) - {row["z_bin"] for row in rows})
    if empty:
        raise DataError(
            f"slices: no slice is kept in z-bin {', '.join(map(str, empty))} of {config.n_bins}; see slices.z_range"
        )
    if not any(row["class"] for row in rows):
        raise DataError(
            f"slices: none of {len(rows)} slices has a lesion of at least {min_lesion_px} px "
            f"({config.min_lesion_mm2} mm2); see slices.min_lesion_mm2"
        )
    _write(folder, np.stack(images), np.stack(masks), rows)
    hashes = {name: sha256(folder / file) for name, file in _FILES.items()}
    facts = {
        "shape": [len(rows), *images[0].shape],
        "spacing_mm": spacing_mm,
        "z_range": [z_min, z_max],
        "n_bins": config.n_bins,
        "bin_centres": bin_centres(z_min, z_max, config.n_bins).tolist(),
        "background_level": config.background_level,
        "min_lesion_px": min_lesion_px,
        "dropped": dropped,
        "dropped_small_lesion": small,
        "sha256": hashes,
    }
    write_text(folder / "store.json", json.dumps(facts, indent=1))


_FILES = {"images": "images.npy", "masks": "masks.npy", "slices": "slices.tsv"}


def _write(folder: Path, images: np.ndarray, masks: np.ndarray, rows: list[dict]) -> None:
    for name, array in (("images", images.astype(np.float16)), ("masks", masks.astype(np.uint8))):
        with replacing(folder / _FILES[name]) as temporary, temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
    write_table(folder / "slices.tsv", rows, COLUMNS)
