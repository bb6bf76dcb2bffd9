"""Sample files: what generation writes and evaluation, figures and export read. NumPy only.

`zbin-{zz}.npz`: images, masks, float16 (N, H, W) in [-1, 1], the masks continuous unless `generation.binary` (the
store's own dtype, so that no rounding tells synthetic from real; docs/method.md, F12). `zbin-{zz}.tsv`, the manifest:
one row a sample, same order; a row says all that its sample was made from. A z-bin of which none is asked has both,
empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slimdiff.files import read_table, replacing, write_table

COLUMNS = (
    "id",
    "key",
    "z_bin",
    "class",
    "replica",
    "index",
    "acquisition",
    "sampler",
    "evaluations",
    "spacing",
    "eta",
    "guidance",
    "guidance_low",
    "guidance_high",
    "guide",
    "precision",
    "compiled",
    "device",
    "tau",
    "background",
    "binary",
    "lesion_px",
    "checkpoint",
    "checkpoint_sha256",
    "guide_sha256",
    "priors_sha256",
)
"""`checkpoint` is a path from the manifest's folder; `n/a` stands where something has no part in the sample."""


def write_samples(
    stem: Path,
    images: np.ndarray,
    masks: np.ndarray,
    rows: list[dict],
    columns: Sequence[str] = COLUMNS,
    **more,
) -> None:
    """Write `{stem}.npz`, with more arrays if there are any, and then its manifest `{stem}.tsv`."""
    # Killed in between, an archive without its manifest is drawn again; one with an older manifest could not be read.
    stem.with_suffix(".tsv").unlink(missing_ok=True)
    with replacing(stem.with_suffix(".npz")) as temporary, temporary.open("wb") as stream:
        np.savez(stream, images=images, masks=masks, **more)
    write_table(stem.with_suffix(".tsv"), rows, columns)


@dataclass(frozen=True)
class Samples:
    """Generated pairs with their conditions."""

    images: np.ndarray
    """float16 (N, H, W)."""
    masks: np.ndarray
    """float16 (N, H, W), continuous in [-1, 1]."""
    z_bin: np.ndarray
    label: np.ndarray
    id: np.ndarray


def read_samples(folder: Path, n_bins: int | None = None) -> Samples:
    """The z-bins 0 ... n_bins - 1 of a samples folder, in order; without n_bins all that lie there.

    A study's own stages give n_bins: files of an earlier configuration with more bins may still lie beside them.
    Raises FileNotFoundError where one is missing, or where there are none.
    """
    if n_bins is None:
        stems = sorted(path.with_suffix("") for path in Path(folder).glob("zbin-*.npz"))
    else:
        stems = [Path(folder) / f"zbin-{z_bin:02d}" for z_bin in range(n_bins)]
    if not stems:
        raise FileNotFoundError(f"{folder}: no zbin-*.npz; make the generate stage first")
    images, masks, rows = [], [], []
    for stem in stems:
        if not stem.with_suffix(".npz").is_file():
            raise FileNotFoundError(f"{stem}.npz is not there; make the generate stage first")
        with np.load(stem.with_suffix(".npz"), allow_pickle=False) as archive:
            images.append(archive["images"])
            masks.append(archive["masks"])
        rows += read_table(stem.with_suffix(".tsv"), COLUMNS[:4])
    result = Samples(
        np.concatenate(images),
        np.concatenate(masks),
        np.array([int(row["z_bin"]) for row in rows]),
        np.array([int(row["class"]) for row in rows]),
        np.array([row["id"] for row in rows]),
    )
    if len(result.images) != len(rows):
        raise ValueError(f"{folder}: {len(result.images)} samples, but {len(rows)} manifest rows")
    return result
