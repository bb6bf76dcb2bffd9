"""The filtered export: exactly the flagged samples, or the outliers, are left out, in every format."""

import json

import pytest

from slimdiff.data.folds import read_folds
from slimdiff.export import bids, monai, nnunet, png
from slimdiff.export.folder import folder_of, split_file
from slimdiff.files import read_table, write_table

COLUMNS = ("id", "flagged", "space")
# One sample flagged in each of the two spaces, and one in both.
FLAGGED = {
    "zbin-00_class-0_replica-0_00000": ("alexnet",),
    "zbin-01_class-1_replica-0_00001": ("pixels",),
    "zbin-02_class-1_replica-0_00000": ("alexnet", "pixels"),
}


def judge(study, flagged=FLAGGED, leave_out=()):
    """Write nearest.tsv of fold 0, without the samples in `leave_out`."""
    ids = [
        row["id"]
        for z_bin in range(3)
        for row in read_table(study.paths.samples_stem("base", 0, z_bin).with_suffix(".tsv"))
    ]
    rows = [
        {"id": name, "flagged": int(space in flagged.get(name, ())), "space": space}
        for space in ("alexnet", "pixels")
        for name in ids
        if name not in leave_out
    ]
    write_table(study.paths.metrics("base", 0) / "nearest.tsv", rows, COLUMNS)
    return set(ids)


OUTLIERS = {"zbin-00_class-0_replica-0_00000", "zbin-02_class-0_replica-0_00001"}


def score(study, leave_out=()):
    """Write outliers.tsv of fold 0, without the samples in `leave_out`."""
    ids = judge(study) - set(leave_out)
    rows = [{"id": name, "outlier": int(name in OUTLIERS)} for name in sorted(ids)]
    write_table(study.paths.metrics("base", 0) / "outliers.tsv", rows, ("id", "outlier"))
    return ids


def bids_ids(study) -> set[str]:
    folder = folder_of(study, "bids", "base", 0)
    rows = read_table(folder / "participants.tsv")
    assert {row["participant_id"] for row in rows} == {path.name for path in folder.glob("sub-*")}
    return {row["sample_id"] for row in rows}


def nnunet_ids(study) -> set[str]:
    (split,) = json.loads(split_file(study, "base", 0).read_text())
    files = folder_of(study, "nnunet", "base", 0)
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        stems = {path.name.removesuffix(ending) for path in (files / kind).glob("synth-*")}
        assert stems == {name for name in split["train"] if name.startswith("synth-")}
    return {name.removeprefix("synth-") for name in stems}


def monai_ids(study) -> set[str]:
    folder = folder_of(study, "monai", "base", 0)
    entries = json.loads((folder / "datalist.json").read_text())["training"]
    found = {entry["sample"] for entry in entries if entry["synthetic"]}
    for kind in ("images", "labels"):
        assert {path.name for path in (folder / kind).glob("synth-*")} == {f"synth-{i}.nii.gz" for i in found}
    return found


def png_ids(study) -> set[str]:
    folder = folder_of(study, "png", "base", 0)
    ids = {path.name.removesuffix("_image.png") for path in folder.glob("*_image.png")}
    assert ids == {path.name.removesuffix("_mask.png") for path in folder.glob("*_mask.png")}
    return ids


READ = {"bids": bids_ids, "nnunet": nnunet_ids, "monai": monai_ids, "png": png_ids}


WRITERS = {"bids": bids.write, "nnunet": nnunet.write, "monai": monai.write, "png": png.write}


@pytest.mark.parametrize("form", WRITERS)
def test_exactly_the_flagged_samples_are_left_out(study, opened, configured, form):
    everything = judge(study)
    WRITERS[form](opened(study, 0))
    assert READ[form](study) == everything
    WRITERS[form](opened(configured(study, without_suspects=True), 0))
    assert everything - READ[form](study) == set(FLAGGED)


@pytest.mark.parametrize("form", WRITERS)
def test_outliers_are_left_out_alone_and_with_flagged_samples(study, opened, configured, form):
    everything = score(study)
    WRITERS[form](opened(configured(study, without_outliers=True), 0))
    assert everything - READ[form](study) == OUTLIERS
    WRITERS[form](opened(configured(study, without_suspects=True, without_outliers=True), 0))
    assert everything - READ[form](study) == OUTLIERS | set(FLAGGED)


def test_outliers_need_a_score_of_every_sample(study, opened, configured):
    asked = configured(study, without_outliers=True)
    with pytest.raises(
        FileNotFoundError, match=r"outliers.tsv: not found, but export.without_outliers is true"
    ):
        WRITERS["png"](opened(asked, 0))
    score(study, leave_out=("zbin-01_class-0_replica-0_00001",))
    with pytest.raises(
        ValueError, match=r"outliers.tsv: no row for sample 'zbin-01_class-0_replica-0_00001'"
    ):
        WRITERS["png"](opened(asked, 0))


def test_real_slices_are_kept(study, opened, configured):
    judge(study)
    WRITERS["monai"](opened(configured(study, without_suspects=True), 0))
    folder = folder_of(study, "monai", "base", 0)
    content = json.loads((folder / "datalist.json").read_text())
    shown = {entry["participant"] for entry in content["training"] if not entry["synthetic"]}
    assert shown == set(read_folds(study.paths.folds, 0)["train"])


@pytest.mark.parametrize(
    ("form", "file"), [("bids", "README"), ("nnunet", "README.md"), ("monai", "datalist.json")]
)
def test_the_export_states_whether_suspects_were_left_out(study, opened, configured, form, file):
    judge(study)
    WRITERS[form](opened(study, 0))
    path = folder_of(study, form, "base", 0) / file
    assert "export.without_suspects leaves them out" in path.read_text()
    WRITERS[form](opened(configured(study, without_suspects=True), 0))
    assert "3 samples that the study's memorisation metric flagged were left out" in path.read_text()
    assert "export.without_outliers leaves them out" in path.read_text()
    score(study)
    WRITERS[form](opened(configured(study, without_outliers=True), 0))
    assert "2 samples that the study's outlier score names broken were left out" in path.read_text()
    assert "{" not in path.read_text() or file.endswith(".json")


def test_a_sample_without_a_verdict_is_an_error(study, opened, configured):
    judge(study, leave_out=("zbin-01_class-0_replica-0_00001",))
    with pytest.raises(ValueError, match=r"nearest.tsv: no row for sample 'zbin-01_class-0_replica-0_00001'"):
        WRITERS["bids"](opened(configured(study, without_suspects=True), 0))
    WRITERS["bids"](opened(study, 0))


def test_without_flagged_samples_all_samples_are_exported(study, opened, configured):
    everything = judge(study, flagged={})
    WRITERS["png"](opened(configured(study, without_suspects=True), 0))
    assert png_ids(study) == everything
