"""Names and text in other encodings: every file that cannot be used is named, in a form that can be printed."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.synthetic import head, save_nifti, study_mapping, write_bids
from helpers.workflow_runs import snakemake, write_study

from slimdiff import cli
from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover
from slimdiff.files import write_table, write_text

LATIN = os.fsdecode("caf\xe9".encode("latin-1"))
"""A name whose é is one byte, as old servers and archives have it."""


def renamed(path: Path, name: str) -> Path:
    try:
        return path.rename(path.with_name(name))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")


def make_bids(folder: Path) -> DataConfig:
    root = write_bids(folder / "bids", 3, 1)
    renamed(root / "sub-02/anat/sub-02_FLAIR.nii.gz", f"sub-02_acq-{LATIN}_FLAIR.nii.gz")
    renamed(root / "sub-03/anat/sub-03_FLAIR_roi.nii.gz", f"sub-03_acq-{LATIN}_FLAIR_roi.nii.gz")
    return DataConfig(source="bids", root=str(root))


def make_nnunet(folder: Path) -> DataConfig:
    for name in ("a", f"b_{LATIN}"):
        save_nifti(folder / f"nnunet/imagesTr/{name}_0000.nii.gz", head(1))
        save_nifti(folder / f"nnunet/labelsTr/{name}.nii.gz", head(1))
    return DataConfig(source="nnunet", root=str(folder / "nnunet"))


def make_brats(folder: Path) -> DataConfig:
    for name in ("a", f"b_{LATIN}"):
        save_nifti(folder / f"brats/{name}/{name}_flair.nii.gz", head(1))
        save_nifti(folder / f"brats/{name}/{name}_seg.nii.gz", head(1))
    return DataConfig(source="brats", root=str(folder / "brats"))


@pytest.mark.parametrize("make", [make_bids, make_nnunet, make_brats])
def test_paths_that_are_not_utf8_are_refused_in_a_form_that_can_be_printed(tmp_path, make):
    config = make(tmp_path)
    with pytest.raises(DataError) as caught:
        discover(config, tmp_path)
    # A participant's name is shown as Python writes it.
    assert re.search(r"caf\\(xe9|udce9)", str(caught.value))
    str(caught.value).encode()


def test_all_such_paths_are_named_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        discover(make_bids(tmp_path), tmp_path)
    for part in (
        r"sub-02_acq-caf\xe9_FLAIR.nii.gz",
        r"sub-03_acq-caf\xe9_FLAIR_roi.nii.gz",
        "2 paths",
        "rename",
    ):
        assert part in str(caught.value)


def test_a_stage_refuses_them_in_one_message(tmp_path):
    config = make_bids(tmp_path)
    values = study_mapping(Path(config.root), tmp_path / "results")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert cli.run_stage("participants", ["--config", json.dumps(values)]) == 2
    assert r"caf\xe9" in said.getvalue() and "Traceback" not in said.getvalue()
    said.getvalue().encode()


def test_the_engine_refuses_them_before_the_first_job(tmp_path):
    config = write_study(tmp_path, data={"source": "bids", "root": make_bids(tmp_path).root})
    done = snakemake("--dry-run", "--configfile", str(config), folder=tmp_path)
    assert done.returncode != 0
    assert r"sub-02_acq-caf\xe9_FLAIR.nii.gz" in done.stdout + done.stderr
    assert (
        "Traceback" not in done.stdout + done.stderr and "UnicodeEncodeError" not in done.stdout + done.stderr
    )


def test_an_argument_that_is_not_utf8_is_refused_before_anything_is_written(tmp_path):
    before = sorted(tmp_path.iterdir())
    for arguments in (
        ["--ckpt", f"{LATIN}.ckpt", "--out", "m"],
        ["--ckpt", "c", "--out", f"{tmp_path}/{LATIN}/m"],
    ):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert cli.run_stage("import", arguments) == 2
        assert r"caf\xe9" in said.getvalue() and "not UTF-8" in said.getvalue()
    assert sorted(tmp_path.iterdir()) == before


def test_tables_and_texts_name_what_they_cannot_hold(tmp_path):
    for write in (
        lambda path: write_table(path, [{"a": f"no file {LATIN}.nii"}], ("a",)),
        lambda path: write_text(path, f"no file {LATIN}.nii"),
    ):
        with pytest.raises(ValueError, match=r"out: .*caf\\\\xe9\.nii.* not UTF-8") as caught:
            write(tmp_path / "out")
        assert not isinstance(caught.value, UnicodeError)
    assert list(tmp_path.iterdir()) == []


def test_a_study_in_a_folder_whose_own_name_is_not_utf8_runs(tmp_path):
    folder = tmp_path / LATIN
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    write_bids(folder / "bids", 3, 1)
    (folder / "study.json").write_text(json.dumps(study_mapping(Path("bids"), Path("results"))))
    with contextlib.chdir(folder):
        for stage in ("participants", "preprocess", "kfold", "cache"):
            assert cli.run_stage(stage, ["--config", "study.json"]) == 0, stage
    assert (folder / "results/tiny/slices/store.json").is_file()


def spoil(root: Path, *names: str, encoding: str = "latin-1") -> list[Path]:
    """Save these files of a dataset in another encoding, with a letter that is not ASCII."""
    paths = [root / name for name in names]
    for path in paths:
        text = '{"InstitutionName": "Köln"}'
        if path.suffix == ".tsv":
            text = path.read_text(encoding="utf-8-sig").replace("bonn", "Köln")
        path.write_bytes(text.encode(encoding))
    return paths


SIDECARS = [f"sub-0{number}/anat/sub-0{number}_FLAIR.json" for number in (1, 3, 4)]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("names", [SIDECARS, ["participants.tsv", *SIDECARS], ["participants.tsv"]])
def test_all_texts_in_another_encoding_are_named_at_once(tmp_path, names, encoding):
    root = write_bids(tmp_path / "bids", 3, 1)
    (root / "sub-02/anat/sub-02_FLAIR.json").write_text('{"InstitutionName": "Köln"}', encoding="utf-8")
    paths = spoil(root, *names, encoding=encoding)
    with pytest.raises(DataError) as caught:
        discover(DataConfig(source="bids", root=str(root)), tmp_path)
    said = str(caught.value)
    assert f"{len(paths)} text file(s) are in another encoding" in said
    likely = {"latin-1": "WINDOWS-1252", "utf-16": "UTF-16"}[encoding]
    for path in paths:
        assert f"{path}: not UTF-8 but probably {likely}" in said
    assert "sub-02" not in said
    # The advice is enough.
    for path in paths:
        path.write_text(path.read_bytes().decode(likely), encoding="utf-8")
    assert len(discover(DataConfig(source="bids", root=str(root)), tmp_path)) == 4


def test_the_conversion_that_the_message_names_works(tmp_path):
    if not shutil.which("iconv"):
        pytest.skip("iconv is not installed")
    root = write_bids(tmp_path / "bids", 3, 1)
    (path,) = spoil(root, "participants.tsv")
    with pytest.raises(DataError) as caught:
        discover(DataConfig(source="bids", root=str(root)), tmp_path)
    command = re.search(r"iconv .*? && mv NEW FILE", str(caught.value))[0]
    for word, value in (("ENCODING", "WINDOWS-1252"), ("FILE", str(path)), ("NEW", str(tmp_path / "new"))):
        command = command.replace(word, value)
    subprocess.run(command, shell=True, check=True)
    assert {row.site for row in discover(DataConfig(source="bids", root=str(root)), tmp_path)} == {"Köln"}


def test_a_table_of_paths_in_another_encoding_is_named(tmp_path):
    table = tmp_path / "table.tsv"
    table.write_bytes("participant_id\timage\tmask\tsite\np1\ta.nii\tn/a\tKöln\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"table\.tsv: not UTF-8 but probably WINDOWS-1252"):
        discover(DataConfig(source="table", table=str(table)), tmp_path)
