"""Single samples again, from their manifest and settings: on a CPU bit for bit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import MISSING
from slimdiff.generation.folder import Job
from slimdiff.generation.generator import FixedRegion, input_hashes
from slimdiff.generation.requests import Request
from slimdiff.generation.samples import (
    FIXED,
    SAMPLE_NAME,
    ForeignFile,
    Run,
    SampleSettings,
    read_arrays,
    read_manifest,
)


def remake_jobs(
    manifest: Path,
    ids: Sequence[str],
    folder: Path,
    checkpoint: Path | None = None,
    priors: Path | None = None,
    device: str | None = None,
) -> list[Job]:
    """Jobs that draw samples of a manifest again, into `{folder}/{id}.npz`, `.tsv` and `.json`.

    Args:
        manifest: a `zbin-{zz}.tsv`, with its settings `zbin-{zz}.json` in the same folder.
        ids: of its rows.
        folder: where the files are written; it must not have them yet.
        checkpoint: by default the path in the settings; its content must be that which drew the samples.
        priors: required if the priors set the background of the samples.
        device: by default a CPU for a CPU's samples, which alone gives their bits, else what the machine has.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or does not fit.
    """
    manifest, folder = Path(manifest), Path(folder)
    stem = manifest.with_suffix("")
    rows, settings = read_manifest(stem)
    places = {row["id"]: place for place, row in enumerate(rows)}
    unknown = [name for name in ids if name not in places]
    if unknown or not ids:
        raise ValueError(
            f"{manifest}: expected ids (--id) of its {len(rows)} samples, such as {', '.join(list(places)[:3])}; "
            f"found {', '.join(unknown) or 'none'}"
        )
    # The name becomes a file's, and a manifest may be a stranger's.
    if odd := [name for name in ids if not SAMPLE_NAME.fullmatch(name)]:
        raise ForeignFile(
            f"{manifest}: id {odd[0]!r} cannot be a file name; expected letters, digits and _ . - only, with a letter "
            "or digit first"
        )
    if settings is None:
        raise FileNotFoundError(f"{stem}.json: not found; without the settings no sample can be drawn again")
    files = [folder / f"{name}.{ending}" for name in ids for ending in ("npz", "tsv", "json")]
    if taken := [path for path in files if path.exists()]:
        raise ForeignFile(f"{taken[0]}: exists already; choose another folder")
    if folder.resolve() == manifest.resolve().parent:
        raise ForeignFile(f"{folder}: the folder of the manifest; choose another one")
    stored = _stored(stem, len(rows))
    fixed: dict[str, FixedRegion] = {}
    for name in ids:
        if rows[places[name]].get("mode", MISSING) != MISSING:
            if "known" not in stored:
                raise FileNotFoundError(
                    f"{stem}.npz: not found, or it lacks the given part of {name}; restore the file"
                )
            fixed[name] = tuple(stored[part][places[name] : places[name] + 1] for part in FIXED)
    path = Path(checkpoint) if checkpoint else stem.resolve().parent / settings.checkpoint
    _check_inputs(settings, stem, path, priors)
    # One job, and so one loaded checkpoint, for all samples that were computed alike.
    alike: dict[tuple[Run, bool], list[str]] = {}
    for name, run in settings.runs_of(ids).items():
        alike.setdefault((run, name in fixed), []).append(name)
    return [
        Job(
            path,
            _config(settings, run, stem, device),
            folder,
            {name: [_request(rows[places[name]])] for name in names},
            priors,
            {name: fixed[name] for name in names} if given else None,
        )
        for (run, given), names in alike.items()
    ]


def same_bits(manifest: Path, ids: Sequence[str], folder: Path) -> dict[str, bool | None]:
    """For each id whether the bits in `folder` are those of the manifest's archive; None without an archive."""
    stem = Path(manifest).with_suffix("")
    rows, _ = read_manifest(stem)
    places = {row["id"]: place for place, row in enumerate(rows)}
    stored = _stored(stem, len(rows))
    drawn = {name: read_arrays(Path(folder) / name) for name in ids}
    return {name: _same(stored, places[name], drawn[name]) if stored else None for name in ids}


def _request(row: dict[str, str]) -> Request:
    mode, source = (row[key] if row.get(key, MISSING) != MISSING else None for key in ("mode", "source"))
    return Request(
        row["key"],
        *(int(row[key]) for key in ("z_bin", "class", "replica", "index")),
        mode=mode,
        source=source,
    )


def _stored(stem: Path, count: int) -> dict[str, np.ndarray]:
    if not stem.with_suffix(".npz").is_file():
        return {}
    stored = read_arrays(stem)
    lengths = {len(array) for array in stored.values()}
    if lengths != {count}:
        raise ForeignFile(
            f"{stem}.npz: expected {count} samples (the rows of its manifest), found {sorted(lengths)}"
        )
    return stored


def _check_inputs(settings: SampleSettings, stem: Path, checkpoint: Path, priors: Path | None) -> None:
    """Raise where checkpoint, guide or priors are not the files that drew the samples."""
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"{checkpoint}: the checkpoint of the samples is not found; give its path (--ckpt)"
        )
    config = _config(settings, settings.runs[0], stem, None)
    if config.background == "prior" and priors is None:
        raise ValueError(
            f"{stem}: z-bin priors set the background of these samples; give the path of the priors (--priors)"
        )
    if config.background != "prior" and priors:
        raise ValueError(
            f"{stem}: no z-bin priors set the background of these samples; --priors has no effect, remove it"
        )
    for what, found in input_hashes(checkpoint, config, priors).items():
        if found == getattr(settings, f"{what}_sha256"):
            continue
        if what == "checkpoint":
            raise ValueError(f"{checkpoint}: not the checkpoint that drew the samples: its sha256 differs")
        raise ValueError(f"{stem}: the {what} of its samples had another sha256 than the present file")


def _config(settings: SampleSettings, run: Run, stem: Path, device: str | None) -> GenerationConfig:
    try:
        return settings.config(
            device=device or ("cpu" if run.device == "cpu" else "auto"),
            precision=run.precision,
            compile=run.compiled,
        )
    except ValueError as error:
        raise ForeignFile(f"{stem}: no sample can be drawn with these settings: {error}") from None


def _same(stored: dict[str, np.ndarray], place: int, drawn: dict[str, np.ndarray]) -> bool:
    return all(
        np.array_equal(stored[name][place].view(np.uint16), drawn[name][0].view(np.uint16))
        for name in ("images", "masks")
    )
