"""A folder of samples, one archive and manifest a z-bin, that can be gone on with.

What lies there and fits is kept, what is missing is drawn, and a file of another configuration is an error before
anything is drawn: a sample is known by its manifest row, which says all that it was made from.
"""

import math
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import read_table, written
from slimdiff.generation.finishing import read_priors
from slimdiff.generation.generator import Generator
from slimdiff.generation.requests import Counts, Request, requests_of_bin
from slimdiff.generation.samples import COLUMNS, write_samples
from slimdiff.model.checkpoint import read_card

# What may differ between a sample and the same sample made again.
RESULTS = frozenset({"lesion_px", "device", "compiled", "checkpoint"})


class ForeignFile(ValueError):
    """A file of samples that were made otherwise than is asked for now."""


def stem_of(folder: Path, z_bin: int) -> Path:
    """Where the samples of a z-bin lie, without ending."""
    return Path(folder) / f"zbin-{z_bin:02d}"


def settings_of(config: GenerationConfig) -> dict[str, str | int | None]:
    """The columns of a manifest that a configuration alone decides; `precision` may be auto yet."""
    low, high = config.guidance_interval or (0.0, math.inf)
    settings = {
        "sampler": config.sampler,
        "evaluations": config.evaluations,
        "spacing": "leading" if config.sampler == "ddim_ref" else config.spacing,
        "eta": {"ddim": config.eta, "ddim_ref": config.eta, "ddpm": 1.0}.get(config.sampler, 0.0),
        "guidance": config.guidance,
        "guidance_low": low,
        "guidance_high": high,
        "guide": config.guide if config.guidance != 1 else None,
        "precision": config.precision,
        "tau": config.tau,
        "background": config.background,
        "binary": int(config.binary),
    }
    return {key: _exact(value) for key, value in settings.items()}


def manifest_rows(generator: Generator, requests: list[Request], folder: Path) -> list[dict]:
    """What is known of samples before they are drawn: their manifest rows in this folder, without `lesion_px`."""
    shared = settings_of(generator.config) | {
        "precision": str(generator.precision).removeprefix("torch."),
        "compiled": int(generator.compiled),
        "device": generator.device.type,
        # Through links the way up from a folder is another one.
        "checkpoint": os.path.relpath(generator.checkpoint.resolve(), folder.resolve()),
        "checkpoint_sha256": generator.sha256["checkpoint"],
        "guide_sha256": generator.sha256["guide"],
        "priors_sha256": generator.finishing.sha256,
    }
    return [
        {
            "id": request.id,
            "key": request.key,
            "z_bin": request.z_bin,
            "class": request.label,
            "replica": request.replica,
            "index": request.index,
            "acquisition": acquisition,
            **shared,
        }
        for request, acquisition in zip(requests, generator.acquisitions(requests), strict=True)
    ]


def _exact(value):
    # A rounded setting would not make the same bits again.
    return repr(value).removesuffix(".0") if isinstance(value, float) else value


@dataclass(frozen=True)
class Bin:
    """One z-bin of a folder: what is asked for, and which of it lies there."""

    stem: Path
    requests: list[Request]
    rows: list[dict]
    there: dict[str, tuple[int, dict[str, str]]]
    """Sample id: its place in the archive that lies there, and its row."""

    @property
    def missing(self) -> list[int]:
        """Places in `requests` of what is still to be drawn."""
        return [place for place, request in enumerate(self.requests) if request.id not in self.there]


def plan_bin(generator: Generator, requests: list[Request], stem: Path) -> Bin:
    """Compare what is asked for with what lies there; raises ForeignFile where that was made otherwise."""
    rows = manifest_rows(generator, requests, stem.parent)
    manifest = stem.with_suffix(".tsv")
    if not manifest.is_file():
        # An archive alone is what a killed process left: its manifest is written last.
        return Bin(stem, requests, rows, {})
    found = read_manifest(manifest)
    wanted = {row["id"]: {key: str(written(value)) for key, value in row.items()} for row in rows}
    # Timed anew at every start, it may be decided otherwise.
    free = RESULTS | ({"precision"} if generator.config.precision == "auto" else set())
    for line, row in enumerate(found, start=2):
        _compare(row, wanted.get(row["id"]), free, f"{manifest}, line {line}", len(requests))
    check_archive(stem.with_suffix(".npz"), len(found), generator.card.store_size)
    return Bin(stem, requests, rows, {row["id"]: (place, row) for place, row in enumerate(found)})


def read_manifest(path: Path) -> list[dict[str, str]]:
    """The rows of a folder's manifest; raises ForeignFile where it is that of other samples than a folder's own."""
    rows = read_table(path)
    columns = set(rows[0]) if rows else set(COLUMNS)
    missing, more = set(COLUMNS) - columns, columns - set(COLUMNS)
    if "mode" in more:
        raise ForeignFile(f"{path}: samples that were drawn around something given; give another folder")
    if missing or more:
        what = f"no column {sorted(missing)[0]}" if missing else f"an unknown column {sorted(more)[0]}"
        raise ForeignFile(
            f"{path}: {what}: not a manifest of this version; delete it, or give another folder"
        )
    return rows


def check_archive(path: Path, count: int, size: tuple[int, int]) -> None:
    """Raise ForeignFile where an archive does not hold `count` pairs (H, W)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = {arrays[name].shape for name in ("images", "masks")}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ForeignFile(f"{path}: not readable beside its manifest: {error}; delete both") from None
    if shapes != {(count, *size)}:
        raise ForeignFile(f"{path}: {sorted(shapes)} beside {count} manifest rows; delete both")


def _compare(
    found: dict[str, str], wanted: dict[str, str] | None, free: Set[str], where: str, asked: int
) -> None:
    way = "delete it, or give another folder"
    if wanted is None:
        raise ForeignFile(
            f"{where}: sample {found['id']!r} is not among the {asked} that are asked for; ask for it too, {way}"
        )
    for column, value in wanted.items():
        if column not in free and found[column] != value:
            raise ForeignFile(
                f"{where}: a file of another configuration: {column} is {found[column]}, asked for is {value}; "
                f"{way}"
            )


def complete(generator: Generator, part: Bin) -> None:
    """Draw what is missing of a z-bin and write it with what lies there; nothing is touched where all is there."""
    missing = part.missing
    if not missing and part.stem.with_suffix(".tsv").is_file():
        return
    size = generator.card.store_size
    images, masks = (np.empty((len(part.requests), *size), np.float16) for _ in range(2))
    if part.there:
        kept = [place for place, request in enumerate(part.requests) if request.id in part.there]
        source = [part.there[part.requests[place].id][0] for place in kept]
        with np.load(part.stem.with_suffix(".npz"), allow_pickle=False) as arrays:
            images[kept], masks[kept] = arrays["images"][source], arrays["masks"][source]
    drawn = generator.draw([part.requests[place] for place in missing], progress=part.stem.name)
    images[missing], masks[missing] = drawn
    rows = with_lesions(part.rows, masks, generator.config.tau)
    rows = [{**row, "compiled": int(generator.compiled)} for row in rows]
    # Where a sample was drawn is said by the row that was written then.
    rows = [part.there[row["id"]][1] if row["id"] in part.there else row for row in rows]
    write_samples(part.stem, images, masks, rows)


def with_lesions(rows: Sequence[dict], masks: np.ndarray, tau: float) -> list[dict]:
    """Manifest rows with the lesion size of their masks."""
    # In float16 the threshold itself would be rounded.
    return [
        {**row, "lesion_px": int((mask.astype(np.float32) > tau).sum())}
        for row, mask in zip(rows, masks, strict=True)
    ]


def fill(
    generator: Generator, counts: Counts | None, folder: Path, z_bins: Sequence[int] | None = None
) -> None:
    """Draw what a folder lacks of these z-bins (default: all of the checkpoint).

    Raises ForeignFile before anything is drawn where a file of another configuration lies there.
    """
    card = generator.card
    parts = [
        plan_bin(
            generator,
            requests_of_bin(generator.config, card.fold, card.variant, z_bin, counts),
            stem_of(folder, z_bin),
        )
        for z_bin in (range(card.n_bins) if z_bins is None else z_bins)
    ]
    generator.compile_for(sum(len(part.missing) for part in parts))
    for part in parts:
        complete(generator, part)


def check_others(generator: Generator, folder: Path, z_bins: Sequence[int]) -> None:
    """Raise ForeignFile where z-bins of the folder that are not asked for now were drawn otherwise."""
    config, own = generator.config, {stem_of(folder, z_bin).name for z_bin in z_bins}
    wanted = {key: str(written(value)) for key, value in settings_of(config).items()}
    wanted |= {"checkpoint_sha256": generator.sha256["checkpoint"]}
    if config.precision == "auto":
        del wanted["precision"]
    for manifest in sorted(Path(folder).glob("zbin-*.tsv")):
        if manifest.stem in own:
            continue
        for line, row in enumerate(read_manifest(manifest), start=2):
            _compare(row, wanted, RESULTS, f"{manifest}, line {line}", 0)
            if not row["key"].startswith(f"seed={config.seed}/"):
                raise ForeignFile(
                    f"{manifest}, line {line}: drawn with {row['key'].split('/')[0]}, not with seed "
                    f"{config.seed}; give another folder"
                )


def draw_into(
    checkpoint: Path,
    config: GenerationConfig,
    counts: Counts,
    out_dir: Path,
    priors: Path | None = None,
) -> None:
    """Draw counts[(z_bin, class)] samples a replica from a checkpoint into a folder; z-bins without any get no file."""
    z_bins = sorted({z_bin for (z_bin, _), number in counts.items() if number})
    n_bins = read_card(checkpoint).n_bins
    if z_bins and z_bins[-1] >= n_bins:
        raise ValueError(f"z-bin {z_bins[-1]}: {checkpoint} has z-bins 0 to {n_bins - 1}")
    fill(Generator(checkpoint, config, read_priors(priors) if priors else None), counts, out_dir, z_bins)
