"""The files that are damaged, a good copy of each, and the readers of the package that read it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from bad_input.cases import Workplace, write_good_study
from helpers.seals import unseal
from helpers.specifications import COMPACT, DETAILED
from helpers.synthetic import AFFINE, ball, head, save_nifti
from safetensors import safe_open
from safetensors.torch import save_file

from slimdiff.config import load_study
from slimdiff.config.data import DataConfig
from slimdiff.data.folds import lesion_volumes, read_folds, training_participants
from slimdiff.data.participants import Participant, read_included
from slimdiff.data.quality.exclusion import left_out_for_flags
from slimdiff.data.sources import discover
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.nifti import voxel_count
from slimdiff.data.volumes.read import load_pair
from slimdiff.files import sha256
from slimdiff.generation.requests import read_counts
from slimdiff.generation.spec import load_spec, plan
from slimdiff.model.checkpoint import load_model

RESULTS = Path("results/tiny")
NOWHERE = Path("absent")
SIDE = 8
"""Voxels along each axis of the small volumes."""


@dataclass(frozen=True)
class Target:
    """One file, by its path in the good study's folder, and what reads it."""

    kind: str
    """What the file is: configuration, specification, table, sidecar, header or card."""
    path: str
    read: Callable[[Path], object]
    """Given the path of the damaged file; the current folder is that of the study."""
    names: tuple[str, ...] = ()
    """A clear message has the file's name, or one of these."""
    values: bool = False
    """It is a JSON object, whose values are changed, too."""

    @property
    def said(self) -> tuple[str, ...]:
        return (Path(self.path).name, *self.names)


def _study(path: Path) -> None:
    study = load_study(path)
    discover(study.data, study.paths.phantom)
    for name in study.variants:
        study.variant(name)


def _plan(path: Path) -> None:
    plan(load_spec(path), path).describe(verbose=True)


def _bids(path: Path) -> None:
    discover(DataConfig(source="bids", root="bids", two_dimensional="exclude"), NOWHERE)


def _rows(path: Path) -> list[Participant]:
    return read_included(path, lambda name: RESULTS / "volumes" / f"{name}.json")


def _record(path: Path) -> None:
    _rows(RESULTS / "participants.tsv")
    lesion_volumes({path.stem: path})


def _folds(path: Path) -> None:
    read_folds(path, 0)
    training_participants(path)


def _store(path: Path) -> None:
    store = SliceStore.open(path.parent)
    facts = (store.n_bins, store.spacing_mm, store.slice_mm, store.height, store.bin_positions, store.size)
    assert facts
    store.lesion_subjects(list(dict.fromkeys(store.participant)))


def _slices(path: Path) -> None:
    """The table of a store whose record has its new hash: without it every change is refused in the same way."""
    record = path.parent / "store.json"
    text = record.read_text()
    facts = json.loads(text)
    record.write_text(json.dumps({**facts, "sha256": {**facts["sha256"], "slices": sha256(path)}}))
    try:
        _store(path)
    finally:
        record.write_text(text)


def _volume(path: Path) -> None:
    voxel_count(path)
    load_pair(Participant("sub-01", "patient", path, None))


def _mask(path: Path) -> None:
    load_pair(Participant("sub-01", "patient", Path("small/image.nii.gz"), path))


def _checkpoint(path: Path) -> None:
    load_model(path, torch.device("cpu"))


NNUNET = DataConfig(source="nnunet", root="nnunet")
KEYS = ("data.", "quality.", "slices.", "folds.", "variants.", "generation.", "bids", "phantom")
BESIDE = ("participants.tsv", "bids")

TARGETS = (
    Target("configuration", "study.yaml", _study, KEYS),
    Target("configuration", "study.json", _study, KEYS, values=True),
    Target("configuration", "written.yaml", _study, KEYS),
    Target("specification", "detailed.json", _plan, values=True),
    Target("specification", "compact.json", _plan, values=True),
    Target("table", "bids/participants.tsv", _bids),
    Target("table", "table.tsv", lambda path: discover(DataConfig(source="table", table=str(path)), NOWHERE)),
    Target("table", "table.csv", lambda path: discover(DataConfig(source="table", table=str(path)), NOWHERE)),
    Target("table", f"{RESULTS}/participants.tsv", _rows),
    Target("table", f"{RESULTS}/quality.tsv", left_out_for_flags),
    Target("table", f"{RESULTS}/folds.tsv", _folds),
    Target("table", f"{RESULTS}/slices/slices.tsv", _slices, ("slices",)),
    Target("table", "counts.tsv", lambda path: read_counts(path, 3)),
    Target("sidecar", "bids/sub-01/anat/sub-01_FLAIR.json", _bids, BESIDE, values=True),
    Target(
        "sidecar", "nnunet/dataset.json", lambda path: discover(NNUNET, NOWHERE), ("nnunet",), values=True
    ),
    Target("sidecar", f"{RESULTS}/volumes/sub-01.json", _record, values=True),
    Target("sidecar", f"{RESULTS}/slices/store.json", _store, ("slices",), values=True),
    Target("header", "small/image.nii", _volume),
    Target("header", "small/image.nii.gz", _volume),
    Target("header", "small/mask.nii.gz", _mask),
    Target("card", "model.safetensors", _checkpoint, values=True),
)


def write_targets(folder: Path, checkpoint: Path) -> None:
    """A good copy of every target, each accepted by its reader, without the hashes that find every change in it.

    checkpoint: of a tiny network with three z-bins.
    """
    write_good_study(folder)
    unseal(*(path for path in (folder / RESULTS).rglob("*") if path.suffix in (".json", ".tsv")))
    values = Workplace(folder).values()
    text = json.dumps(values)
    (folder / "study.json").write_text(text)
    (folder / "study.yaml").write_text(text)
    (folder / "written.yaml").write_text("# A study\n" + yaml.safe_dump(values, sort_keys=False))
    (folder / "detailed.json").write_text(
        json.dumps({**DETAILED, "seed": 3, "replicas": 2, "config_path": "study.json"})
    )
    (folder / "compact.json").write_text(json.dumps({**COMPACT, "device": "cpu"}))
    (folder / "table.csv").write_text((folder / "table.tsv").read_text().replace("\t", ","))
    (folder / "counts.tsv").write_text("z_bin\tclass\tn\n0\t0\t4\n1\t1\t2\n2\t0\t1\n")
    facts = {
        "MagneticFieldStrength": 3,
        "MRAcquisitionType": "3D",
        "SliceThickness": 1.0,
        "RepetitionTime": 5.0,
    }
    (folder / "bids/sub-01/anat/sub-01_FLAIR.json").write_text(json.dumps(facts))
    shape = (SIDE,) * 3
    for name in ("image.nii", "image.nii.gz"):
        save_nifti(folder / "small" / name, head(3, shape), AFFINE)
    save_nifti(folder / "small" / "mask.nii.gz", ball((4, 4, 4), 2, shape).astype(np.uint8), AFFINE)
    shutil.copyfile(checkpoint, folder / "model.safetensors")


def values_in(path: Path) -> dict:
    """The JSON object in a file: the file itself, or a checkpoint's model card."""
    if path.suffix != ".safetensors":
        return json.loads(path.read_text(encoding="utf-8"))
    with safe_open(path, framework="pt") as archive:
        return json.loads(archive.metadata()["slimdiff"])


def put_text(path: Path, text: str) -> None:
    """Replace the object in the file by this text."""
    if path.suffix != ".safetensors":
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return
    with safe_open(path, framework="pt") as archive:
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"slimdiff": text})
