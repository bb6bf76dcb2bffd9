"""Sample files: the only reader and writer of what generation leaves and evaluation, figures and export read.

`zbin-{zz}.npz`: images, masks, float16 (N, H, W) in [-1, 1], the masks continuous unless `generation.binary` (the
store's own dtype, so that no rounding separates synthetic from real slices; docs/method.md, F12). Samples with a fixed
part have its `known` (float16) and `where` (bool), (N, 2, H, W), there too.
`zbin-{zz}.tsv`, the manifest: one row a sample, in the same order.
`zbin-{zz}.json`, the settings: all else that the samples were made from, once (`SampleSettings`).
A z-bin without samples has all three files, empty. The core needs no pandas here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import (
    MISSING,
    object_sha256,
    read_object,
    read_table,
    replacing,
    require_file,
    write_object,
    write_table,
    written,
)
from slimdiff.stored_rows import JoinedRows, Rows, stored_npz

COLUMNS = ("id", "key", "z_bin", "class", "replica", "index", "acquisition", "lesion_px")
CONDITIONAL_COLUMNS = (*COLUMNS, "mode", "source")
"""Of samples with a fixed part: how it was given, and where it is from."""
MANIFEST = "manifest_sha256"
"""Key of the settings' file: hash of the rows of the manifest."""
FIXED = ("known", "where")
SAMPLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""An id that may be part of a file's name."""


class ForeignFile(ValueError):
    """A file of samples that do not fit what is requested."""


@dataclass(frozen=True)
class Run:
    """How some samples of a file were computed."""

    device: str
    precision: str
    compiled: bool
    samples: tuple[str, ...] | None = None
    """Their ids; None: all."""


def grouped(runs: Mapping[str, Run]) -> list[Run]:
    """The run of each sample as a list of runs with their samples."""
    names: dict[Run, list[str]] = {}
    for name, run in runs.items():
        names.setdefault(replace(run, samples=None), []).append(name)
    return (
        list(names)
        if len(names) == 1
        else [replace(run, samples=tuple(of_run)) for run, of_run in names.items()]
    )


@dataclass(frozen=True)
class SampleSettings:
    """What the samples of a file were made from, but for their own rows."""

    generation: dict[str, Any]
    """Section `generation` of the study."""
    checkpoint: str
    """Path from the folder of the file; of a checkpoint elsewhere the name only."""
    checkpoint_sha256: str
    guide_sha256: str | None
    priors_sha256: str | None
    runs: list[Run]
    """One, or several where a folder was resumed on another device."""
    not_drawn: str | None = None
    """Why the z-bin lacks samples of class 1 (`generation.where`); None: it has those that were requested."""

    def config(self, **changes) -> GenerationConfig:
        """The section, with changes. Raises ValueError naming the key that has no valid value."""
        try:
            # As JSON: there a pair is a list.
            return GenerationConfig.model_validate_json(json.dumps({**self.generation, **changes}))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(["generation", *(str(part) for part in problem["loc"])])
            raise ValueError(f"{key}: {problem['msg']} (found {problem['input']!r})") from None

    def runs_of(self, names: Sequence[str]) -> dict[str, Run]:
        """How the samples of these ids were computed."""
        every = {name: run for run in self.runs for name in run.samples or ()}
        return {name: every.get(name, self.runs[0]) for name in names}


def bin_name(z_bin: int) -> str:
    """Name of the files of a z-bin, without ending."""
    return f"zbin-{z_bin:02d}"


def write_samples(
    stem: Path,
    images: np.ndarray,
    masks: np.ndarray,
    rows: Sequence[dict],
    settings: SampleSettings | None = None,
    fixed: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Write `{stem}.npz`, `{stem}.json` and, last, the manifest `{stem}.tsv`.

    settings: None for samples that this program did not draw; they can be evaluated, but not resumed or drawn again.
    fixed: the fixed part of each sample, values and where.
    """
    # Stopped in between, an archive without its manifest is drawn again; one with an older manifest could not be read.
    stem.with_suffix(".tsv").unlink(missing_ok=True)
    arrays: dict[str, Any] = {"images": images, "masks": masks}
    arrays |= {} if fixed is None else dict(zip(FIXED, fixed, strict=True))
    size = sum(array.nbytes for array in arrays.values())
    with replacing(stem.with_suffix(".npz"), size=size) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    columns = COLUMNS if fixed is None else CONDITIONAL_COLUMNS
    if settings is not None:
        as_read = [{column: str(written(row.get(column))) for column in columns} for row in rows]
        write_object(stem.with_suffix(".json"), {**asdict(settings), MANIFEST: _sha256(as_read)})
    # A folder of samples is passed on, and has no hidden files.
    write_table(stem.with_suffix(".tsv"), rows, columns, sealed=False)


def _sha256(rows: Sequence[dict[str, str]]) -> str:
    return object_sha256({"rows": rows})


def _read_rows(stem: Path) -> tuple[list[dict[str, str]], dict[str, Any] | None]:
    """Rows of the manifest, and the settings as they were read; None without them.

    Raises FileNotFoundError, or ValueError naming the file, also if the rows are not those of the settings.
    """
    path = stem.with_suffix(".tsv")
    rows = read_table(path, COLUMNS[:4], ended=True)
    if not stem.with_suffix(".json").is_file():
        return rows, None
    # Samples without their settings are refused, so all three files go.
    values = read_object(
        stem.with_suffix(".json"),
        f"delete it together with {stem.name}.npz and {stem.name}.tsv, and run the stage generate again",
    )
    # Earlier versions wrote none.
    if MANIFEST in values and values.pop(MANIFEST) != _sha256(rows):
        raise ForeignFile(
            f"{path}: its rows are not what was written, by their hash in {stem.name}.json: cut off, damaged or "
            "edited; delete it; the stage generate draws the same samples again"
        )
    return rows, values


@dataclass(frozen=True)
class Samples:
    """Generated pairs with their conditions."""

    images: np.ndarray | Rows
    """float16 (N, H, W)."""
    masks: np.ndarray | Rows
    """float16 (N, H, W), continuous in [-1, 1]."""
    z_bin: np.ndarray
    label: np.ndarray
    id: np.ndarray


def read_samples(folder: Path, n_bins: int | None = None, on_disk: bool = False) -> Samples:
    """The z-bins 0 ... n_bins - 1 of a samples folder, in order; without n_bins all that are there.

    A study's own stages give n_bins: an earlier configuration with more z-bins may have left further files. With
    on_disk, images and masks are `stored_rows.Rows`: only one file is in memory at a time. It is read in whole once, to
    check it.
    Raises FileNotFoundError where a file is missing, or there is none.
    """
    if n_bins is None:
        stems = sorted(path.with_suffix("") for path in Path(folder).glob("zbin-*.npz"))
    else:
        stems = [Path(folder) / bin_name(z_bin) for z_bin in range(n_bins)]
    if not stems:
        raise FileNotFoundError(f"{folder}: found no zbin-*.npz; run the stage generate first")
    arrays, rows = [], []
    for stem in stems:
        part = read_arrays(stem)
        arrays.append(_on_disk(stem, part) if on_disk else part)
        rows += _read_rows(stem)[0]
    join = JoinedRows if on_disk else np.concatenate
    result = Samples(
        join([part["images"] for part in arrays]),
        join([part["masks"] for part in arrays]),
        np.array([int(row["z_bin"]) for row in rows]),
        np.array([int(row["class"]) for row in rows]),
        np.array([row["id"] for row in rows]),
    )
    if len(result.images) != len(rows):
        raise ValueError(f"{folder}: {len(result.images)} samples, but {len(rows)} manifest rows")
    return result


def _on_disk(stem: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray | Rows]:
    """Images and masks of a file as rows on disk; where the file is compressed, the arrays themselves."""
    path = stem.with_suffix(".npz")
    stored = {name: stored_npz(path, name) for name in ("images", "masks")}
    return {name: arrays[name] if stack is None else stack for name, stack in stored.items()}


def read_arrays(stem: Path) -> dict[str, np.ndarray]:
    """The arrays of `{stem}.npz`; raises FileNotFoundError, or ForeignFile where it cannot be read."""
    path = stem.with_suffix(".npz")
    require_file(path, "not found; run the stage generate first")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {"images": archive["images"], "masks": archive["masks"]} | {
                name: archive[name] for name in FIXED if name in archive
            }
        _check_arrays(arrays)
        return arrays
    except Exception as error:
        # Half a zip file, an array, a pickle, a compression that is none: each has an error type of its own.
        raise ForeignFile(
            f"{path}: not readable: {error}; delete it and its manifest {stem.name}.tsv; the stage generate draws the "
            "same samples again"
        ) from None


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError for arrays that cannot be samples."""
    count = len(arrays["images"]) if arrays["images"].ndim else 0
    for name, values in arrays.items():
        axes = 4 if name in FIXED else 3
        if values.ndim != axes or len(values) != count or values.dtype.kind not in "fb":
            raise ValueError(
                f"{name}: expected real numbers of {count} samples with {axes} axes, found {values.dtype} "
                f"{values.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, axes))))
        if len(bad):
            raise ValueError(f"{name}: sample {bad[0]} of {count} (from 0) has NaN or infinite values")


def read_manifest(stem: Path) -> tuple[list[dict[str, str]], SampleSettings | None]:
    """Rows of `{stem}.tsv`, and the settings; None for samples that this program did not draw.

    Raises FileNotFoundError, or ValueError (ForeignFile) naming the file that does not fit.
    """
    (rows, values), path = _read_rows(stem), stem.with_suffix(".json")
    if values is not None:
        try:
            names = {field.name for field in fields(SampleSettings)}
            if not names - {"not_drawn"} <= set(values) <= names:
                raise ValueError(f"expected the keys {', '.join(sorted(names))}")
            settings = SampleSettings(**{**values, "runs": [_run(run) for run in values["runs"]]})
        except (TypeError, ValueError) as error:
            raise ForeignFile(
                f"{path}: these settings are not valid in this version: {error}; delete the samples"
            ) from None
        return rows, settings
    if rows and set(OLD_COLUMNS) <= set(rows[0]):
        return rows, read_old_manifest(stem.with_suffix(".tsv"), rows)
    return rows, None


def _run(values: dict[str, Any]) -> Run:
    samples = values.get("samples")
    return Run(**{**values, "samples": None if samples is None else tuple(samples)})


# ---- The old form, with all settings in each row and no JSON file: read in this version, to be removed in the next.
OLD_COLUMNS: tuple[str, ...] = (
    *COLUMNS[:7],
    "sampler",
    "evaluations",
    "spacing",
    "eta",
    "guidance",
    "guidance_low",
    "guidance_high",
)
OLD_COLUMNS += ("guide", "precision", "compiled", "device", "tau", "background", "binary", "lesion_px")
OLD_COLUMNS += ("checkpoint", "checkpoint_sha256", "guide_sha256", "priors_sha256")


def read_old_manifest(path: Path, rows: Sequence[dict[str, str]]) -> SampleSettings:
    """The settings in a manifest of the old form. Raises ForeignFile where its rows differ in them."""
    first = rows[0]
    for line, row in enumerate(rows, start=2):
        for column in set(OLD_COLUMNS[7:]) - {"precision", "compiled", "device", "lesion_px"}:
            if row[column] != first[column]:
                raise ForeignFile(
                    f"{path}, line {line}: {column}: expected {first[column]}, as in line 2, found {row[column]}"
                )
    key = dict(part.split("=", 1) for part in first["key"].split("/"))
    low, high = float(first["guidance_low"]), float(first["guidance_high"])
    acquisitions = {row["acquisition"] for row in rows} - {MISSING}
    generation = {
        "sampler": first["sampler"],
        "evaluations": int(first["evaluations"]),
        "spacing": "trailing" if first["sampler"] == "ddim_ref" else first["spacing"],
        "eta": float(first["eta"]) if first["sampler"] in ("ddim", "ddim_ref") else 0.0,
        "guidance": float(first["guidance"]),
        "guidance_interval": None if (low, high) == (0, np.inf) else [low, high],
        "guide": None if first["guide"] == MISSING else int(first["guide"]),
        # Rows of one acquisition are the same with its name as with `mix`.
        "acquisition": acquisitions.pop() if len(acquisitions) == 1 else "mix",
        "seed": int(key["seed"]),
        "variant_in_key": "variant" in key,
        "tau": float(first["tau"]),
        "background": first["background"],
        "binary": first["binary"] == "1",
    }
    runs = {row["id"]: Run(row["device"], row["precision"], row["compiled"] == "1") for row in rows}
    found = [first[f"{name}_sha256"] for name in ("guide", "priors")]
    guide, priors = (None if value == MISSING else value for value in found)
    return SampleSettings(
        generation, first["checkpoint"], first["checkpoint_sha256"], guide, priors, grouped(runs)
    )
