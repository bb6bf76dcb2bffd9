"""One byte of a result is flipped: the stage that reads it next names the file, or the file decides nothing."""

import hashlib
import json
import os
import shutil
import sys
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers.synthetic import study_mapping, write_bids

from slimdiff import cli, weights

CHAIN = (
    *("participants", "preprocess", "kfold", "cache", "priors", "quality", "train", "generate", "metrics"),
    *("segmenter", "utility", "compare", "figures", "tables", "provenance"),
)
MODEL, SAMPLES, METRICS = "models/base/fold-0", "samples/base/fold-0", "metrics/base/fold-0"

NAMED = {
    "participants.tsv": "preprocess",
    "quality.tsv": "quality",
    "folds.tsv": "priors",
    "volumes/sub-01.json": "kfold",
    "volumes/sub-01_FLAIR.nii.gz": "cache",
    "volumes/sub-01_mask.nii.gz": "cache",
    "quality/sub-01.npz": "quality",
    "slices/images.npy": "priors",
    "slices/masks.npy": "train",
    "slices/slices.tsv": "metrics",
    "slices/store.json": "train",
    "priors/fold-0.npz": "generate",
    f"{MODEL}/model.safetensors": "generate",
    f"{MODEL}/history.tsv": "figures",
    f"{MODEL}/validation.tsv": "figures",
    f"{MODEL}/state/last.pt": "train",
    f"{SAMPLES}/zbin-00.npz": "metrics",
    f"{SAMPLES}/zbin-00.tsv": "metrics",
    f"{SAMPLES}/zbin-00.json": "generate",
    f"{METRICS}/metrics.tsv": "compare",
    f"{METRICS}/nearest.tsv": "export",
    f"{METRICS}/outliers.tsv": "export",
    f"{METRICS}/memorisation_subjects.tsv": "figures",
    f"{METRICS}/lesions.tsv": "figures",
    f"{METRICS}/tau_sweep.tsv": "figures",
    f"{METRICS}/utility.tsv": "compare",
    f"{METRICS}/utility_subjects.tsv": "compare",
    "metrics/real/fold-0/utility_subjects.tsv": "utility",
    "metrics/real/fold-0/segmenter-100.safetensors": "utility",
    "metrics/comparison.tsv": "tables",
}
"""The stage that reads a file next; it names the file."""
MADE_AGAIN = {"quality/sub-01.json": "participants", "metrics/features/*.npy": "metrics"}
"""Caches: what is damaged is made again, with the same results."""
NEVER_READ = (
    "figures/*",
    "tables/*",
    "*/previews/*.png",
    "*/MODEL_CARD.md",
    "provenance.json",
    "ro-crate-metadata.json",
    "weights/*",
    "quality/settings*",
    "*/lock",
)
"""Pictures, pages and records for people; no stage opens them for reading (tested)."""
NEVER_READ += ("metrics/*/flagged.tsv", "metrics/*/by_site.tsv", "metrics/summary.tsv")


def values_of(folder: Path) -> dict:
    values = study_mapping(folder / "bids", folder / "results")
    values["training"] |= {"device": "cpu"}
    values["generation"] |= {"background": "prior", "where": "everywhere"}
    values["utility"] = {"steps": 2, "shares": [1.0], "channels": [16, 16], "batch_size": 4, "device": "cpu"}
    values["export"] = {"without_suspects": True, "without_outliers": True}
    values["evaluation"] = {"extractors": ["alexnet"], "device": "cpu"}
    return values


class Reads:
    """Paths that this process opened for reading while `on`."""

    def __init__(self):
        self.on, self.paths = False, set()
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.on and event == "open" and isinstance(arguments[0], str | os.PathLike):
            mode, flags = arguments[1], arguments[2]
            if not (isinstance(mode, str) and set(mode) & set("wax+")) and not flags & (
                os.O_WRONLY | os.O_RDWR
            ):
                self.paths.add(str(Path(os.fsdecode(arguments[0])).resolve()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study, and the files of its results that its stages opened for reading."""
    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"extractor weights: {error}")
    folder = tmp_path_factory.mktemp("study")
    write_bids(folder / "bids", 3, 1)
    (folder / "study.json").write_text(json.dumps(values_of(folder)))
    reads = Reads()
    reads.on = True
    for stage in CHAIN:
        assert cli.run_stage(stage, ["--config", str(folder / "study.json")]) == 0, stage
    reads.on = False
    return folder, reads.paths


@contextmanager
def flipped(path: Path, place: int | None = None):
    """A byte of the file, in the middle unless given, has its lowest bit flipped while the block runs."""
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(bytes(damaged))
    try:
        yield
    finally:
        path.write_bytes(content)


def run(stage: str, folder: Path, **changes) -> int:
    values = values_of(folder)
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys}
    (folder / "now.json").write_text(json.dumps(values))
    more = ["--format", "png"] if stage == "export" else []
    return cli.run_stage(stage, ["--config", str(folder / "now.json"), *more])


@pytest.mark.parametrize("name", NAMED)
def test_the_stage_that_reads_it_next_names_the_file(finished, capsys, name):
    folder, _ = finished
    path = folder / "results" / "tiny" / name
    # A finished training is read again where it has more steps.
    changes = {"training": {"steps": 9}} if name.endswith("last.pt") else {}
    if name.startswith("slices/") and NAMED[name] == "train":
        changes = {"training": {"steps": 5}}
    with flipped(path):
        assert run(NAMED[name], folder, **changes) == 2
    said = capsys.readouterr().err
    assert str(path) in said and "Traceback" not in said
    assert any(word in said for word in ("delete", "copy it again", "restore")), said


@pytest.mark.parametrize(
    "name", [name for name in NAMED if name.endswith(".tsv") and not name.startswith(("slices", "samples"))]
)
def test_a_flipped_seal_names_the_table(finished, capsys, name):
    folder, _ = finished
    path = folder / "results" / "tiny" / name
    with flipped(path.with_name(f".{path.name}.sha256"), 5):
        assert run(NAMED[name], folder) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in NAMED if name.endswith(".tsv")])
def test_a_table_that_ends_at_a_line_is_told_from_a_whole_one(finished, capsys, name):
    folder, _ = finished
    path = folder / "results" / "tiny" / name
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    try:
        assert run(NAMED[name], folder) == 2
    finally:
        path.write_bytes(whole)
    assert str(path) in capsys.readouterr().err


def contents(folder: Path, *names: str) -> dict[str, str]:
    found = [path for name in names for path in sorted(folder.glob(name)) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("pattern", MADE_AGAIN)
def test_a_damaged_cache_is_made_again_with_the_same_results(finished, pattern):
    folder, _ = finished
    results = folder / "results" / "tiny"
    kept = ("*.tsv", f"{METRICS}/*.tsv", pattern)
    before = contents(results, *kept)
    path = sorted(results.glob(pattern))[0]
    whole = path.read_bytes()
    path.write_bytes(
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    )
    assert run(MADE_AGAIN[pattern], folder) == 0
    assert contents(results, *kept) == before


def kind_of(name: str) -> str | None:
    """The entry above that says what happens to a file; numbers of participants, folds and z-bins do not matter."""
    entries = [*NAMED, *MADE_AGAIN, *NEVER_READ]
    for entry in entries:
        like = entry.replace("sub-01", "sub-0?").replace("fold-0", "fold-?").replace("zbin-00", "zbin-0?")
        if fnmatch(name, like) or (
            fnmatch(name, f"*/.{Path(like).name}.sha256") or name == f".{like}.sha256"
        ):
            return entry
    return None


def test_every_file_of_the_results_is_listed(finished):
    folder, _ = finished
    results = folder / "results" / "tiny"
    names = [str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()]
    assert len(names) > 60
    assert [name for name in names if kind_of(name) is None] == []


def test_what_decides_nothing_is_opened_by_no_stage(finished):
    folder, reads = finished
    results = folder / "results" / "tiny"
    names = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}
    # A seal is compared when its table is written again.
    unread = {name for name in names if kind_of(name) in NEVER_READ and not name.endswith(".sha256")}
    assert unread
    assert {name for name in unread if str(results / name) in reads} == set()


@pytest.mark.parametrize("name", [f"{MODEL}/model.safetensors", f"{MODEL}/state/last.pt"])
def test_a_flip_anywhere_in_weights_is_found_or_changes_nothing(finished, tmp_path, name):
    """At 40 places of the file: header, record, padding, tensors, directory."""
    import torch

    from slimdiff.model.checkpoint import load_model
    from slimdiff.training.checkpoint import StateDamaged, _read_state

    def content(path):
        if path.suffix == ".pt":
            state, identity = _read_state(path)
            return str(sorted(identity)), state["network"]
        network, card = load_model(path, torch.device("cpu"))
        return str(card), network.state_dict()

    folder, _ = finished
    path = Path(shutil.copy(folder / "results" / "tiny" / name, tmp_path))
    words, tensors = content(path)
    found, size = 0, path.stat().st_size
    for place in [*range(0, size, size // 30), *range(8, 200, 20), size - 1, size - 30, size - 60]:
        with flipped(path, place):
            try:
                again, changed = content(path)
            except (ValueError, StateDamaged) as error:
                assert str(path) in str(error)
                found += 1
                continue
        assert again == words and all(torch.equal(tensors[key], changed[key]) for key in tensors), place
    assert found > 25
