"""Single samples again, from their manifest rows: on a CPU bit for bit."""

import math
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from pydantic import ValidationError

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import MISSING, read_table, sha256
from slimdiff.generation.conditional import CONDITIONAL_COLUMNS
from slimdiff.generation.finishing import read_priors
from slimdiff.generation.folder import ForeignFile, manifest_rows, with_lesions
from slimdiff.generation.generator import FixedRegion, Generator
from slimdiff.generation.requests import Request
from slimdiff.generation.samples import COLUMNS, write_samples


def config_of(row: dict[str, str], device: str | None = None) -> GenerationConfig:
    """The settings that a manifest row was drawn with; by default a CPU's samples on a CPU, others on what there is."""
    device = device or ("cpu" if row["device"] == "cpu" else "auto")
    low, high = float(row["guidance_low"]), float(row["guidance_high"])
    return GenerationConfig(
        sampler=row["sampler"],
        evaluations=int(row["evaluations"]),
        spacing="trailing" if row["sampler"] == "ddim_ref" else row["spacing"],
        eta=float(row["eta"]) if row["sampler"] in ("ddim", "ddim_ref") else 0.0,
        guidance=float(row["guidance"]),
        guidance_interval=None if (low, high) == (0, math.inf) else (low, high),
        guide=None if row["guide"] == MISSING else int(row["guide"]),
        acquisition="mix" if row["acquisition"] == MISSING else row["acquisition"],
        precision=row["precision"],
        tau=float(row["tau"]),
        background=row["background"],
        binary=row["binary"] == "1",
        compile=row["compiled"] == "1",
        device=device,
    )


def remake(
    manifest: Path,
    ids: Sequence[str],
    folder: Path,
    checkpoint: Path | None = None,
    priors: Path | None = None,
    device: str | None = None,
) -> dict[str, bool | None]:
    """Draw samples of a manifest again, into `{folder}/{id}.npz` and `.tsv`.

    Args:
        manifest: a `zbin-{zz}.tsv`.
        ids: of its rows.
        folder: where they go; a file that lies there is an error.
        checkpoint: by default the one that the manifest names; its content has to be that which drew the sample.
        priors: wanted where a row's background is that of the priors.
        device: by default a CPU for a CPU's samples, which alone gives their bits, else what there is.

    Returns:
        For every id whether its bits are those in the archive beside the manifest; None without an archive.

    Raises:
        FileNotFoundError, ValueError: naming what is missing or does not fit; nothing is written then.
    """
    manifest = Path(manifest)
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such manifest")
    rows = {row["id"]: row for row in read_table(manifest, COLUMNS)}
    places = {name: place for place, name in enumerate(rows)}
    unknown = [name for name in ids if name not in rows]
    if unknown or not ids:
        raise ValueError(
            f"{manifest}: no sample {', '.join(unknown) or 'is named'}; there are {', '.join(list(rows)[:3])} … "
            f"({len(rows)} in all)"
        )
    taken = [name for name in ids if (Path(folder) / f"{name}.npz").exists()]
    if taken:
        raise ForeignFile(f"{Path(folder) / taken[0]}.npz: lies there already; give another folder")
    if Path(folder).resolve() == manifest.resolve().parent:
        raise ForeignFile(f"{folder}: the manifest's own folder; give another one")
    stored = _stored(manifest.with_suffix(".npz"), len(rows))
    made = []
    for name in ids:
        row = rows[name]
        known: FixedRegion | None = None
        if row.get("mode", MISSING) != MISSING:
            if "known" not in stored:
                raise FileNotFoundError(
                    f"{manifest.with_suffix('.npz')}: what was given to {name} stands there, and it is not there"
                )
            known = tuple(stored[part][places[name] : places[name] + 1] for part in ("known", "where"))
        try:
            config = config_of(row, device)
            request = Request(row["key"], *(int(row[key]) for key in ("z_bin", "class", "replica", "index")))
        except ValueError as error:
            raise ValueError(f"{manifest}: {name}: not a row that can be drawn: {_short(error)}") from None
        generator = _generator(row, config, manifest, checkpoint, priors)
        generator.compile_for(1)
        images, masks = generator.draw([request], name, known)
        fresh = with_lesions(manifest_rows(generator, [request], Path(folder)), masks, config.tau)
        same = _same(stored, places[name], images, masks) if stored else None
        made.append((name, images, masks, [{**row, **fresh[0]}], known, same))
    for name, images, masks, fresh, known, _ in made:
        more = {} if known is None else dict(zip(("known", "where"), known, strict=True))
        columns = COLUMNS if known is None else CONDITIONAL_COLUMNS
        write_samples(Path(folder) / name, images, masks, fresh, columns, **more)
    return {name: same for name, *_, same in made}


def _short(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']} (found {first['input']!r})"
    return str(error)


def _stored(archive: Path, count: int) -> dict[str, np.ndarray]:
    if not archive.is_file():
        return {}
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            stored = dict(arrays)
        lengths = {len(stored[part]) for part in ("images", "masks")}
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ForeignFile(f"{archive}: not readable beside its manifest: {error}") from None
    if lengths != {count}:
        raise ForeignFile(f"{archive}: {sorted(lengths)} samples beside {count} manifest rows")
    return stored


def _generator(
    row: dict[str, str],
    config: GenerationConfig,
    manifest: Path,
    checkpoint: Path | None,
    priors: Path | None,
) -> Generator:
    path = Path(checkpoint) if checkpoint else manifest.resolve().parent / row["checkpoint"]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the checkpoint of {row['id']} is not there; say where (--ckpt)")
    if sha256(path) != row["checkpoint_sha256"]:
        raise ValueError(f"{path}: not the checkpoint that drew {row['id']}: its sha256 is another")
    if config.background == "prior" and priors is None:
        raise ValueError(
            f"{manifest}: {row['id']} has the background of z-bin priors; say where they are (--priors)"
        )
    if config.background != "prior" and priors:
        raise ValueError(f"{manifest}: {row['id']} has nothing of z-bin priors: --priors has no effect")
    generator = Generator(path, config, read_priors(priors) if priors else None)
    for what, found in (("guide", generator.sha256["guide"]), ("priors", generator.finishing.sha256)):
        if found != row[f"{what}_sha256"]:
            raise ValueError(
                f"{manifest}: the {what} of {row['id']} had another sha256 than what is there now"
            )
    return generator


def _same(stored: dict[str, np.ndarray], place: int, images: np.ndarray, masks: np.ndarray) -> bool:
    pairs = ((stored["images"][place], images[0]), (stored["masks"][place], masks[0]))
    return all(np.array_equal(one.view(np.uint16), other.view(np.uint16)) for one, other in pairs)
