"""`slimdiff init`: a study for a folder that was looked at, or a message that says why there is none."""

import json

import pytest
import yaml

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.preflight.first_study import folds_for, study_name


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    from pathlib import Path

    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def init(capsys, *arguments):
    status = cli.main(["init", *arguments])
    return status, capsys.readouterr()


def test_the_study_has_what_the_dataset_says_of_itself(here, capsys):
    names = [
        f"cohort/sub-{n:02d}/anat/sub-{n:02d}_FLAIR{end}.nii.gz" for n in range(12) for end in ("", "_roi")
    ]
    touch(*names)
    about = {"Name": "Our *cohort*", "License": "CC BY 4.0"}
    (here / "cohort" / "dataset_description.json").write_text(json.dumps(about))
    status, said = init(capsys, "cohort")
    assert status == 0, said.err
    study = load_study("cohort.yaml")
    assert (
        study.study == "cohort"
        and study.report.licence == "CC BY 4.0"
        and study.report.title == "Our *cohort*"
    )
    assert (study.data.root, study.data.mask_suffix, study.folds.k) == ("cohort", "FLAIR_roi", 2)
    assert "12 patients and 0 controls" in said.out
    text = (here / "cohort.yaml").read_text()
    # Each commented key can be used as it is.
    shown = "\n".join(
        line.removeprefix("# ")
        if (line.startswith(("# pre", "# sli", "# tra", "#   ")) and ": " in line)
        or line in ("# preprocess:", "# slices:", "# training:")
        else line
        for line in text.splitlines()
        if "snakemake" not in line and "spacing_mm" not in line
    )
    assert set(yaml.safe_load(shown)) == {
        "study",
        "data",
        "preprocess",
        "slices",
        "folds",
        "training",
        "report",
    }
    (here / "all.yaml").write_text(shown)
    load_study("all.yaml")


def test_the_mask_that_most_patients_have_is_taken_and_a_brain_mask_never(here, capsys):
    for n in range(6):
        stem = f"d/sub-{n}/anat/sub-{n}_"
        touch(f"{stem}T2w.nii.gz", f"{stem}desc-brain_mask.nii.gz", f"{stem}label-lesion_mask.nii.gz")
    touch("d/sub-0/anat/sub-0_T2w_roi.nii.gz")
    status, said = init(capsys, "d")
    assert status == 0, said.err
    study = load_study("d.yaml")
    assert (study.data.image_suffix, study.data.mask_suffix) == ("T2w", "mask")
    assert "6 patients" in said.out


def test_a_study_that_is_there_is_not_replaced(here, capsys):
    touch("d/sub-1/anat/sub-1_FLAIR.nii.gz", "d/sub-1/anat/sub-1_FLAIR_roi.nii.gz")
    (here / "d.yaml").write_text("mine")
    status, said = init(capsys, "d")
    assert status == 2 and "d.yaml: exists" in said.err and (here / "d.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["d/notes.txt"], "none of these is there"),
        (["d/sub-1/anat/sub-1_FLAIR.nii.gz"], "no subject with a lesion mask"),
        (["d/imagesTr/a_0000.nii.gz"], "d"),
    ],
)
def test_a_folder_without_patients_is_named_with_what_is_expected(here, capsys, files, said):
    touch(*files)
    status, shown = init(capsys, "d")
    assert status == 2 and "d: expected a BIDS dataset" in shown.err and said in shown.err
    assert not (here / "d.yaml").exists()


def test_a_folder_that_is_not_there(here, capsys):
    status, shown = init(capsys, "nowhere")
    assert status == 2 and "nowhere: not found" in shown.err


def test_names_and_folds():
    assert [folds_for(count) for count in (1, 9, 10, 16, 27, 500)] == [2, 2, 2, 3, 5, 5]
    assert study_name("a/My cohort (2)") == "My_cohort_2" and study_name("x/v.tsv") == "v"
