"""Single samples again, from their manifest and settings: on a CPU bit for bit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.data.priors import read_priors
from slimdiff.files import MISSING, sha256
from slimdiff.generation.folder import draw_into
from slimdiff.generation.generator import FixedRegion, Generator
from slimdiff.generation.requests import Request
from slimdiff.generation.samples import (
    FIXED,
    ForeignFile,
    Run,
    SampleSettings,
    read_arrays,
    read_manifest,
)


def remake_samples(
    manifest: Path,
    ids: Sequence[str],
    folder: Path,
    checkpoint: Path | None = None,
    priors: Path | None = None,
    device: str | None = None,
) -> dict[str, bool | None]:
    """Draw samples of a manifest again, into `{folder}/{id}.npz`, `.tsv` and `.json`.

    Args:
        manifest: a `zbin-{zz}.tsv`, with its settings `zbin-{zz}.json` in the same folder.
        ids: of its rows.
        folder: where the files are written; it must not have them yet.
        checkpoint: by default the path in the settings; its content must be that which drew the samples.
        priors: required where the background is that of the priors.
        device: by default a CPU for a CPU's samples, which alone gives their bits, else what the machine has.

    Returns:
        For each id whether its bits are those of the manifest's archive; None without an archive.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or does not fit; nothing is written then.
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
                    f"{stem}.npz: not found, or without the fixed part of {name}; put it back"
                )
            fixed[name] = tuple(stored[part][places[name] : places[name] + 1] for part in FIXED)
    requests = {name: [_request(rows[places[name]])] for name in ids}
    # Every file is checked before anything is drawn.
    runs = settings.runs_of(ids)
    generators = {
        run: _generator(settings, run, stem, checkpoint, priors, device)
        for run in dict.fromkeys(runs.values())
    }
    same = {}
    for name in ids:
        draw_into(folder, generators[runs[name]], {name: requests[name]}, fixed if name in fixed else None)
        same[name] = _same(stored, places[name], read_arrays(folder / name)) if stored else None
    return same


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
            f"{stem}.npz: expected {count} samples, as its manifest has rows, found {sorted(lengths)}"
        )
    return stored


def _generator(
    settings: SampleSettings,
    run: Run,
    stem: Path,
    checkpoint: Path | None,
    priors: Path | None,
    device: str | None,
) -> Generator:
    path = Path(checkpoint) if checkpoint else stem.resolve().parent / settings.checkpoint
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the checkpoint of the samples is not found; give its path (--ckpt)")
    if sha256(path) != settings.checkpoint_sha256:
        raise ValueError(f"{path}: not the checkpoint that drew the samples: its sha256 differs")
    try:
        config = settings.config(
            device=device or ("cpu" if run.device == "cpu" else "auto"),
            precision=run.precision,
            compile=run.compiled,
        )
    except ValueError as error:
        raise ForeignFile(f"{stem}: not settings that can be drawn: {error}") from None
    if config.background == "prior" and priors is None:
        raise ValueError(f"{stem}: its background is that of the z-bin priors; give their path (--priors)")
    if config.background != "prior" and priors:
        raise ValueError(
            f"{stem}: its background is not that of z-bin priors; --priors has no effect, remove it"
        )
    generator = Generator(path, config, read_priors(priors) if priors else None)
    for what, found in (("guide", generator.sha256["guide"]), ("priors", generator.finishing.sha256)):
        if found != getattr(settings, f"{what}_sha256"):
            raise ValueError(f"{stem}: the {what} of its samples had another sha256 than the present file")
    return generator


def _same(stored: dict[str, np.ndarray], place: int, drawn: dict[str, np.ndarray]) -> bool:
    return all(
        np.array_equal(stored[name][place].view(np.uint16), drawn[name][0].view(np.uint16))
        for name in ("images", "masks")
    )
