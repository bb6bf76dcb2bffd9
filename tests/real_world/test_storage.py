"""Storage other than a local disk: annexed files without content, locked annex files, shares that refuse chmod."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic import head, save_nifti, study_mapping, write_bids
from helpers.workflow_runs import snakemake, write_study

from slimdiff import cli
from slimdiff.config import study_from_mapping
from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.nifti import write_nifti
from slimdiff.data.volumes.read import VolumeError, read_volume
from slimdiff.evaluation.utility.segmenter import load_segmenter
from slimdiff.files import content_hint, copy_annexed, read_object, read_table, write_table, write_text
from slimdiff.generation.samples import read_arrays
from slimdiff.importing.lightning import read_lightning
from slimdiff.model.checkpoint import read_card
from slimdiff.png import write_png

KEY = "MD5E-s9--abc"


def locked_without_content(path: Path) -> Path:
    """The file as `git annex drop` leaves it: a link to content that is elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(Path(".git/annex/objects/Xx/Yy") / KEY / KEY)
    return path


def unlocked_without_content(path: Path) -> Path:
    """The same for an unlocked file: a line with the key of the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(f"/annex/objects/{KEY}\n")
    return path


def behind_a_link(path: Path) -> Path:
    """A link from elsewhere to a file of the dataset: `datalad get` needs the path in the dataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(locked_without_content(path.parent / "dataset" / path.name))
    return path


DROPPED = [locked_without_content, unlocked_without_content, behind_a_link]
READERS = {
    "a volume": ("v.nii.gz", lambda path: read_volume(path, "sub-01")),
    "a table": ("t.tsv", read_table),
    "a record": ("r.json", read_object),
    "samples": ("zbin-00.npz", lambda path: read_arrays(path.with_suffix(""))),
    "a model": ("model.safetensors", read_card),
    "a segmenter": ("fold-0.safetensors", lambda path: load_segmenter(path, None)),
    "a published checkpoint": ("x.ckpt", read_lightning),
}


@pytest.mark.parametrize("drop", DROPPED)
@pytest.mark.parametrize("kind", READERS)
def test_a_file_whose_content_was_dropped_is_refused_with_the_command_that_gets_it(tmp_path, kind, drop):
    name, read = READERS[kind]
    path = drop(tmp_path / name)
    with pytest.raises((OSError, ValueError)) as caught:
        read(path)
    in_dataset = path.parent / "dataset" / name if drop is behind_a_link else path
    assert str(path) in str(caught.value)
    assert f"datalad get {in_dataset}" in str(caught.value)


def test_the_command_quotes_a_path_with_spaces_and_a_pointer_of_lfs_names_lfs(tmp_path):
    assert content_hint(locked_without_content(tmp_path / "my data.tsv")).endswith(
        f"datalad get '{tmp_path}/my data.tsv'"
    )
    pointer = tmp_path / "v.nii.gz"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(VolumeError, match=r"git lfs pull --include=v\.nii\.gz"):
        read_volume(pointer, "sub-01")
    assert content_hint(save_nifti(tmp_path / "w.nii.gz", head(1))) is None
    assert content_hint(tmp_path / "gone") is None


@pytest.mark.parametrize("drop", DROPPED[:2])
@pytest.mark.parametrize("source", ["bids", "table"])
def test_discovery_names_every_dropped_volume_at_once(tmp_path, source, drop):
    root = write_bids(tmp_path / "bids", 3, 1)
    image, mask = (
        root / f"sub-0{n}/anat/sub-0{n}_FLAIR{end}" for n, end in ((1, ".nii.gz"), (2, "_roi.nii.gz"))
    )
    drop(image), drop(mask)
    config = DataConfig(source="bids", root=str(root))
    if source == "table":
        rows = ["participant_id\timage\tmask"]
        for n in range(1, 5):
            stem = f"bids/sub-0{n}/anat/sub-0{n}_FLAIR"
            rows.append(f"sub-0{n}\t{stem}.nii.gz\t{f'{stem}_roi.nii.gz' if n < 4 else 'n/a'}")
        (tmp_path / "table.tsv").write_text("\n".join(rows) + "\n")
        config = DataConfig(source="table", table=str(tmp_path / "table.tsv"))
    flags = {row.participant_id: row.flags for row in discover(config, tmp_path) if row.flags}
    assert {name: [flag.name for flag in found] for name, found in flags.items()} == {
        "sub-01": ["missing_file"],
        "sub-02": ["missing_file"],
    }
    assert f"datalad get {image}" in flags["sub-01"][0].reason
    assert f"datalad get {mask}" in flags["sub-02"][0].reason


@pytest.mark.parametrize("name", ["participants.tsv", "sub-02/anat/sub-02_FLAIR.json"])
@pytest.mark.parametrize("drop", DROPPED[:2])
def test_dropped_descriptions_are_refused_with_the_command(tmp_path, name, drop):
    root = write_bids(tmp_path / "bids", 3, 1)
    path = drop(root / name)
    with pytest.raises(DataError, match=re.escape(f"datalad get {path}")):
        discover(DataConfig(source="bids", root=str(root)), tmp_path)


def test_a_dropped_array_of_the_slice_store_is_refused_with_the_command(prepared, tmp_path):
    for name in ("store.json", "slices.tsv", "masks.npy"):
        (tmp_path / name).symlink_to(prepared.paths.store / name)
    locked_without_content(tmp_path / "images.npy")
    with pytest.raises(OSError, match=re.escape(f"datalad get {tmp_path / 'images.npy'}")):
        SliceStore.open(tmp_path)


def locked(path: Path) -> Path:
    """A file with its content, as `git annex add` leaves it: a link to a read-only file. Returns the content's path."""
    content = path.parent / ".git" / "annex" / "objects" / "Xx" / KEY / path.name
    content.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(content)
    else:
        content.write_text("annexed")
    content.chmod(0o444)
    path.symlink_to(os.path.relpath(content, path.parent))
    return content


WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "a table": lambda path: write_table(path, [{"a": 1}], ("a",)),
    "a volume": lambda path: write_nifti(path, np.zeros((2, 2, 2), np.float32), np.eye(4)),
    "a picture": lambda path: write_png(path, np.zeros((4, 4), np.uint8)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_writer_replaces_a_locked_link_and_leaves_the_annex_as_it_was(tmp_path, kind):
    path = tmp_path / "out.nii.gz"
    content = locked(path)
    WRITERS[kind](path)
    assert not path.is_symlink() and path.stat().st_size
    assert content.read_text() == "annexed" and content.stat().st_mode & 0o777 == 0o444


def test_stages_on_results_in_an_annex_replace_links_only(tmp_path):
    """Every file of the results is locked; the stages run again on other settings."""
    root = write_bids(tmp_path / "bids", 3, 1)
    values = study_mapping(root, tmp_path / "results")
    stages = ("participants", "preprocess", "kfold", "cache")
    for stage in stages:
        assert cli.run_stage(stage, ["--config", study_from_mapping(values).model_dump_json()]) == 0
    results = [path for path in sorted((tmp_path / "results").rglob("*")) if path.is_file()]
    before = {content: content.read_bytes() for content in map(locked, results)}
    values["preprocess"]["percentiles"] = [1.0, 99.0]
    for stage in stages:
        assert cli.run_stage(stage, ["--config", study_from_mapping(values).model_dump_json()]) == 0
    assert {content: content.read_bytes() for content in before} == before
    volume = tmp_path / "results/tiny/volumes/sub-01_FLAIR.nii.gz"
    assert not volume.is_symlink()
    assert volume.read_bytes() not in before.values()


def test_the_engine_on_results_in_an_annex_replaces_links_only(tmp_path):
    """Logs and measured times, too, which other programs than the stages write."""
    root = write_bids(tmp_path / "bids", 3, 1)
    sections = {"data": {"source": "bids", "root": str(root)}, "quality": {"max_spacing_mm": 7.0}}
    arguments = ("preprocessed", "--cores", "1", "--configfile")
    done = snakemake(*arguments, str(write_study(tmp_path, **sections)), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [path for path in sorted((tmp_path / "results").rglob("*")) if path.is_file()]
    before = {content: content.read_bytes() for content in map(locked, results)}
    config = write_study(tmp_path, **sections, preprocess={"percentiles": [1.0, 99.0]})
    done = snakemake(*arguments, str(config), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {content: content.read_bytes() for content in before} == before
    for name in (
        "volumes/sub-01_FLAIR.nii.gz",
        "logs/preprocess/sub-01.log",
        "benchmarks/preprocess/sub-01.tsv",
    ):
        assert (tmp_path / "results/tiny" / name).is_file()
        assert not (tmp_path / "results/tiny" / name).is_symlink()


def test_the_engine_says_which_results_can_be_fetched_instead_of_made_again(tmp_path):
    root = write_bids(tmp_path / "bids", 3, 1)
    config = write_study(tmp_path, data={"source": "bids", "root": str(root)})
    model = "results/tiny/models/base/fold-0/model.safetensors"
    plan = ("--dry-run", "--configfile", str(config))
    assert "datalad" not in snakemake(*plan, folder=tmp_path).stderr
    locked_without_content(tmp_path / model)
    locked_without_content(tmp_path / "results/tiny/.git/annex/objects/of-the-annex-itself")
    (tmp_path / "results/tiny/elsewhere").symlink_to("gone")
    done = snakemake(*plan, folder=tmp_path)
    assert done.returncode == 0
    assert "1 results have no content on this machine (DataLad, git-annex)" in done.stdout + done.stderr
    assert f"datalad get {model}\n" in done.stdout + done.stderr


def test_links_in_the_folder_of_measured_times_become_copies_which_the_engine_may_rewrite(tmp_path):
    kept, dropped, own = tmp_path / "a.tsv", tmp_path / "sub" / "b.tsv", tmp_path / "c.tsv"
    content = locked(kept)
    locked_without_content(dropped)
    own.write_text("own")
    copy_annexed(tmp_path)
    assert not kept.is_symlink() and kept.read_text() == "annexed"
    assert os.access(kept, os.W_OK)
    assert content.read_text() == "annexed"
    assert not dropped.is_symlink()
    assert own.read_text() == "own"
    copy_annexed(tmp_path / "not made yet")


def refusing(*arguments, **options):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_share_that_refuses_chmod_takes_every_file(tmp_path, monkeypatch):
    root = write_bids(tmp_path / "bids", 3, 1)
    for owner, name in ((os, "chmod"), (os, "fchmod"), (os, "lchmod"), (Path, "chmod")):
        monkeypatch.setattr(owner, name, refusing, raising=False)
    values = study_mapping(root, tmp_path / "results")
    config = study_from_mapping(values).model_dump_json()
    for stage in ("participants", "preprocess", "kfold", "cache", "quality"):
        assert cli.run_stage(stage, ["--config", config]) == 0, stage
    assert read_table(tmp_path / "results/tiny/participants.tsv")
    hidden = {path.name for path in (tmp_path / "results").rglob(".*")}
    assert hidden == {f".{name}.tsv.sha256" for name in ("participants", "quality", "folds")}
