"""What differs between the record of a study (`provenance.json`) and this machine or another run, and how to run the
study again."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from slimdiff.config import StudyPaths, study_from_mapping
from slimdiff.files import read_object, sha256, write_text
from slimdiff.redaction import shown_text

SECTIONS = ("software", "machine", "config", "source_volumes", "store", "checkpoints", "extractors")
"""Of a record, what is compared."""
UNCOMPARED = (
    ("machine", "memory_gb"),
    ("machine", "platform"),
    ("machine", "torch_threads"),
    ("software", "git", "changed"),
    ("config", "results_dir"),
)
"""What changes no result, or differs from job to job."""
REMOVED = re.compile(r"(?<![\w/])\.\.\./|\*\*\*")
"""What `slimdiff.redaction` leaves of an absolute path, or of a secret."""
RUN_AGAIN_IN = "reproduced"
SHOWN = 40
"""Characters of a value in the text."""

Difference = tuple[str, Any, Any]
"""Dotted name, recorded value, value found; None: absent."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A name that may be part of a path."""


class _Git(BaseModel):
    # It becomes part of a command that a reader runs.
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
    changed: bool


class _Software(BaseModel):
    slimdiff: str
    git: _Git | None
    python: Annotated[str, Field(pattern=r"^\d+\.\d+")]
    packages: dict[str, str | None]


class _Store(BaseModel):
    sha256: dict[str, str]


class _Checkpoint(BaseModel):
    variant: Name
    fold: int
    sha256: str


class _Record(BaseModel):
    """What this module reads of a record, which may come from a stranger."""

    study: Name
    software: _Software
    machine: dict[str, Any]
    config: dict[str, Any]
    source_volumes: dict[str, Any]
    store: _Store
    checkpoints: list[_Checkpoint]
    extractors: dict[str, str]


def read_provenance(path: Path) -> dict:
    """A study's `provenance.json`.

    Raises FileNotFoundError, or ValueError if the file is not one, with the first value that does not fit.
    """
    record = read_object(path, "copy it again, or let the stage provenance write it again")
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(
            f"{path}: expected the provenance.json of a study; {place}: {problem['msg']}; give the file "
            "results/STUDY/provenance.json"
        ) from None
    return record


def found_beside(record: Mapping, folder: Path) -> str:
    """How many of the recorded files are in the study's folder, and so are compared."""
    paths = StudyPaths(folder)
    models = [paths.model(entry["variant"], entry["fold"]) for entry in record["checkpoints"]]
    models = [path for path in models if (path / "model.safetensors").is_file()]
    slices = "slices" if (paths.store / "images.npy").is_file() else "no slices"
    return f"compared files beside the record: {len(models)} of {len(record['checkpoints'])} models, {slices}"


def this_machine(record: Mapping, folder: Path) -> dict:
    """The same record of this machine: its software and hardware, and those files of the study that are in `folder`.

    What cannot be known here, because the files are elsewhere, is taken from the record.
    """
    from slimdiff.report.provenance import machine, software
    from slimdiff.weights import fingerprint

    paths = StudyPaths(folder)
    found = {name: record[name] for name in SECTIONS} | {"software": software(), "machine": machine()}
    checkpoints = []
    for entry in record["checkpoints"]:
        file = paths.model(entry["variant"], entry["fold"]) / "model.safetensors"
        checkpoints.append(entry | {"sha256": sha256(file)} if file.is_file() else entry)
    arrays = {name: paths.store / f"{name}.npy" for name in ("images", "masks")}
    hashes = {name: sha256(file) for name, file in arrays.items() if file.is_file()}
    store = record["store"] | {"sha256": record["store"]["sha256"] | hashes}
    extractors = {}
    for name, recorded in record["extractors"].items():
        try:
            extractors[name] = fingerprint(name)
        except (OSError, RuntimeError, ValueError):
            extractors[name] = recorded
    return found | {"checkpoints": checkpoints, "store": store, "extractors": extractors}


def differences(record: Mapping, other: Mapping) -> list[Difference]:
    """All values that differ between two records, in the order of the record."""
    ours, theirs = (_flat({name: facts[name] for name in SECTIONS}) for facts in (record, other))
    return [
        (".".join(name), ours.get(name), theirs.get(name))
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name) and not any(name[: len(part)] == part for part in UNCOMPARED)
    ]


def _flat(value: Any, name: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """{dotted name as a tuple: value}; an entry of `checkpoints` has the name of its variant and fold."""
    if name == ("checkpoints",):
        value = {f"{entry['variant']}/fold-{entry['fold']}": entry for entry in value}
    if isinstance(value, Mapping):
        parts = [_flat(inner, (*name, str(key))) for key, inner in value.items()]
        return {key: inner for part in parts for key, inner in part.items()}
    return {name: value}


def differences_text(record: Mapping, found: list[Difference], where: str) -> str:
    """The differences as lines: name, recorded value, value found."""
    git = record["software"]["git"]
    commit = "no commit recorded" if not git else f"commit {git['commit']}"
    lines = [
        f"study {record['study']}, written {record.get('written', 'n/a')}, slimdiff "
        f"{record['software']['slimdiff']}, {commit}"
    ]
    if git and git["changed"]:
        lines.append("note  the run had changes that are in no commit: the commit alone is not its code")
    if not found:
        return shown_text("\n".join([*lines, f"nothing differs {where}"]))
    width = max(len(name) for name, _, _ in found)
    lines += [f"{len(found)} value(s) differ:", f"  {'':{width}}  recorded -> {where}"]
    lines += [f"  {name:{width}}  {_short(ours)} -> {_short(theirs)}" for name, ours, theirs in found]
    return shown_text("\n".join(lines))


def _short(value: Any) -> str:
    text = "absent" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def same_results(record: Mapping, other: Mapping) -> tuple[bool, str]:
    """Whether two runs have the same slices and weights, bit for bit, and a sentence that says so."""
    store = record["store"] == other["store"]
    theirs = {(entry["variant"], entry["fold"]): entry for entry in other["checkpoints"]}
    pairs = [(entry, theirs.get((entry["variant"], entry["fold"]))) for entry in record["checkpoints"]]
    same = [entry for entry, found in pairs if found and _weights(entry) == _weights(found)]
    text = f"slices: {'the same' if store else 'DIFFERENT'}; models with the same weights: {len(same)} of {len(pairs)}"
    return store and len(same) == len(pairs), text


def _weights(entry: Mapping) -> str:
    # The card in the file names the hardware; records of 0.1.0 have the hash of the file only.
    return entry.get("weights_sha256") or entry["sha256"]


def write_study_of(record: Mapping, path: Path) -> list[str]:
    """Write the recorded study to a JSON file; returns a line about each value that the record does not show.

    Its results go into another folder, so that nothing of the recorded run is replaced.
    Raises FileExistsError if the file exists, and ConfigError if this version cannot read the study.
    """
    if path.exists():
        raise FileExistsError(f"{path}: exists already; name another file")
    config = dict(record["config"]) | {"results_dir": RUN_AGAIN_IN}
    study_from_mapping(config, "the recorded study")
    write_text(path, json.dumps(config, indent=1) + "\n")
    hidden = [(".".join(name), value) for name, value in _flat(config).items() if _is_hidden(value)]
    return [
        f"edit  {path}: {name} is {value!r}, because records carry no folders; write the whole path there"
        for name, value in hidden
    ]


def _is_hidden(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and REMOVED.search(text) for text in texts)


def commands(record: Mapping, path: Path, written: str | None) -> str:
    """The commands that run the study again, in the folder of slimdiff's checkout."""
    git, python = record["software"]["git"], record["software"]["python"]
    study = shlex.quote(written or f"{record['study']}.json")
    lines = [f"git checkout {git['commit']}"] if git else []
    lines += [
        f"python{'.'.join(python.split('.')[:2])} -m venv .venv && . .venv/bin/activate",
        "pip install -c envs/constraints.txt -e .",
    ]
    if not written:
        lines.append(f"slimdiff reproduce {shlex.quote(str(path))} --write {study}")
    again = Path(RUN_AGAIN_IN) / record["study"] / "provenance.json"
    lines += [
        f"snakemake --cores all --configfile {study}",
        f"slimdiff reproduce {shlex.quote(str(path))} --against {shlex.quote(str(again))}",
    ]
    text = "\n".join(f"  {line}" for line in lines)
    return (
        f"To run it again, in a clone of slimdiff:\n{text}\nSlices are the same bit for bit; weights and samples are "
        "on the same kind of processor or GPU with the same version of torch."
    )
