"""Discovery: every source ends in one table, and nothing is lost on the way without a word."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, read_participants, write_participants
from slimdiff.data.sources import discover


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def bids(root: Path, **more) -> list:
    return discover(DataConfig(source="bids", root=str(root), **more), Path("unused"))


@pytest.fixture
def dataset(tmp_path):
    """sub-1: with mask; sub-2: in a session, other acquisition; sub-3: no mask; other files that must not match."""
    touch(tmp_path / "sub-1/anat/sub-1_acq-T2sel_FLAIR.nii.gz")
    touch(tmp_path / "sub-1/anat/sub-1_acq-T2sel_FLAIR_roi.nii.gz")
    touch(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    touch(tmp_path / "sub-1/anat/sub-1_desc-xFLAIR.nii.gz")
    touch(tmp_path / "sub-1/anat/sub-1_acq-T2sel_FLAIR.json").write_text('{"MRAcquisitionType": "3D"}')
    touch(tmp_path / "sub-2/ses-a/anat/sub-2_ses-a_acq-tse_FLAIR.nii")
    touch(tmp_path / "sub-2/ses-a/anat/sub-2_ses-a_FLAIR_roi.nii")
    touch(tmp_path / "sub-3/anat/sub-3_FLAIR.nii.gz")
    touch(tmp_path / "derivatives/sub-9/anat/sub-9_FLAIR.nii.gz")
    (tmp_path / ".bidsignore").write_text("*_roi.nii.gz\n")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tgroup\tsplit\tlobe\nsub-1\tfcd\ttrain\tTL,OL\nsub-2\tfcd\ttest\tn/a\nsub-3\thc\ttrain\tn/a\n",
        encoding="utf-8-sig",
    )
    return tmp_path


def test_bids_finds_image_mask_and_description(dataset):
    one, two, three = bids(dataset)
    assert [row.participant_id for row in (one, two, three)] == ["sub-1", "sub-2", "sub-3"]
    assert one.image == dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR.nii.gz"
    assert one.mask == dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR_roi.nii.gz"
    assert (one.group, one.split, one.lobe, one.acquisition) == ("fcd", "train", "TL,OL", "T2sel")
    assert two.mask == dataset / "sub-2/ses-a/anat/sub-2_ses-a_FLAIR_roi.nii"
    assert (two.split, two.lobe, two.acquisition, two.site) == ("test", "n/a", "tse", "n/a")
    assert (three.mask, three.group, three.is_patient) == (None, "hc", False)


def test_bids_groups_without_participants_tsv_follow_the_mask(dataset):
    (dataset / "participants.tsv").unlink()
    assert [row.group for row in bids(dataset)] == ["patient", "patient", "control"]


def test_bids_suffixes_are_configurable(dataset):
    touch(dataset / "sub-1/anat/sub-1_label-lesion_mask.nii.gz")
    rows = bids(dataset, image_suffix="T1w", mask_suffix="mask")
    assert [row.participant_id for row in rows if row.included] == ["sub-1"]
    assert rows[0].image.name == "sub-1_T1w.nii.gz"
    assert rows[0].mask.name == "sub-1_label-lesion_mask.nii.gz"


@pytest.mark.parametrize(
    "extra", ["sub-1/anat/sub-1_acq-other_FLAIR.nii.gz", "sub-1/ses-b/anat/sub-1_ses-b_FLAIR.nii.gz"]
)
def test_bids_two_images_of_a_subject_are_an_error(dataset, extra):
    touch(dataset / extra)
    with pytest.raises(DataError) as caught:
        bids(dataset)
    assert "sub-1" in str(caught.value)
    assert Path(extra).name in str(caught.value)


def test_bids_two_masks_of_a_subject_are_an_error(dataset):
    touch(dataset / "sub-1/anat/sub-1_acq-other_FLAIR_roi.nii.gz")
    with pytest.raises(DataError, match=r"sub-1.*2 masks"):
        bids(dataset)


def test_bids_without_any_mask_is_an_error(dataset):
    for mask in dataset.rglob("*_roi.nii*"):
        mask.unlink()
    (dataset / "participants.tsv").unlink()
    with pytest.raises(DataError, match="no subject with a lesion mask"):
        bids(dataset)


def test_bids_without_images_or_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="image_suffix"):
        bids(tmp_path)
    with pytest.raises(DataError, match="absent"):
        bids(tmp_path / "absent")


def test_bids_mask_missing_from_a_group_of_patients_is_not_taken_for_a_control(dataset):
    """A patient without its mask would enter training as lesion-free slices that show a lesion (F8)."""
    (dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR_roi.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        bids(dataset)
    assert "sub-1" in str(caught.value)
    assert "fcd" in str(caught.value)
    rows = bids(dataset, exclude={"sub-1": "mask lost"})
    assert [row.excluded for row in rows] == ["mask lost", "n/a", "n/a"]


def test_bids_subjects_whose_image_is_missing_stay_in_the_table(dataset):
    """F8: every subject stands in the table with its reason."""
    (dataset / "sub-3/anat/sub-3_FLAIR.nii.gz").unlink()
    shutil.rmtree(dataset / "sub-2")
    rows = {row.participant_id: row for row in bids(dataset)}
    assert set(rows) == {"sub-1", "sub-2", "sub-3"}
    for name in ("sub-2", "sub-3"):
        assert not rows[name].included
        assert "FLAIR" in rows[name].excluded


def test_bids_participant_described_twice_is_an_error(dataset):
    with (dataset / "participants.tsv").open("a") as stream:
        stream.write("sub-1\thc\ttrain\tn/a\n")
    with pytest.raises(DataError, match=r"sub-1.*twice"):
        bids(dataset)


def write_rows(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def table(path: Path) -> list:
    return discover(DataConfig(source="table", table=str(path)), Path("unused"))


@pytest.fixture
def volumes(tmp_path):
    for name in ("a", "b", "a_mask"):
        touch(tmp_path / "in" / f"{name}.nii.gz")
    return tmp_path


@pytest.mark.parametrize("comma", [False, True])
def test_table_paths_are_relative_to_the_table(volumes, comma, monkeypatch):
    monkeypatch.chdir("/")
    text = (
        "participant_id\timage\tmask\tsite\na\tin/a.nii.gz\tin/a_mask.nii.gz\tbonn\nb\tin/b.nii.gz\tn/a\t\n"
    )
    path = volumes / ("t.csv" if comma else "t.tsv")
    write_rows(path, text.replace("\t", ",") if comma else text)
    a, b = table(path)
    assert (a.image, a.mask) == (volumes / "in/a.nii.gz", volumes / "in/a_mask.nii.gz")
    assert (a.group, a.site, b.group, b.site, b.mask) == ("patient", "bonn", "control", "n/a", None)


def test_table_absolute_paths_stand_for_themselves(volumes, tmp_path):
    path = write_rows(
        tmp_path / "elsewhere.tsv",
        f"participant_id\timage\tmask\na\t{volumes}/in/a.nii.gz\t{volumes}/in/a_mask.nii.gz\n",
    )
    assert table(path)[0].image == volumes / "in/a.nii.gz"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("a\tin/absent.nii.gz\tn/a", ("line 2", "absent.nii.gz")),
        ("a\tin/a.nii.gz\tin/gone.nii.gz", ("line 2", "gone.nii.gz")),
        ("a\tin/a.nii.gz\tin/a_mask.nii.gz\na\tin/b.nii.gz\tn/a", ("a stands there twice",)),
        ("a/b\tin/a.nii.gz\tin/a_mask.nii.gz", ("line 2", "a/b")),
        ("a\tn/a\tin/a_mask.nii.gz", ("line 2", "no image")),
        ("a\tin/a.nii.gz", ("line 2", "2 cells")),
        ("a\tin/a.nii.gz\tn/a", ("no subject with a lesion mask",)),
    ],
)
def test_table_problems_name_line_and_cause(volumes, body, wanted):
    path = write_rows(volumes / "t.tsv", f"participant_id\timage\tmask\n{body}\n")
    with pytest.raises(DataError) as caught:
        table(path)
    for part in wanted:
        assert part in str(caught.value)


def test_table_without_a_needed_column_or_absent(volumes):
    with pytest.raises(DataError, match="mask"):
        table(write_rows(volumes / "t.tsv", "participant_id\timage\na\tin/a.nii.gz\n"))
    with pytest.raises(DataError, match=r"gone\.tsv"):
        table(volumes / "gone.tsv")


def test_excluded_participants_stay_with_their_reason(dataset):
    rows = bids(dataset, exclude={"sub-1": "motion"})
    assert [(row.participant_id, row.excluded) for row in rows if not row.included] == [("sub-1", "motion")]
    with pytest.raises(DataError, match="sub-7"):
        bids(dataset, exclude={"sub-7": "motion"})
    with pytest.raises(DataError, match="no subject with a lesion mask"):
        bids(dataset, exclude={"sub-1": "motion", "sub-2": ""})


def test_participants_table_round_trips(dataset, tmp_path):
    rows = bids(dataset, exclude={"sub-3": "ü, motion"})
    write_participants(tmp_path / "p.tsv", rows)
    assert read_participants(tmp_path / "p.tsv") == rows


def test_order_does_not_depend_on_the_file_system(dataset, monkeypatch):
    wanted = bids(dataset)
    glob = Path.glob
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        Path, "glob", lambda self, p: iter(rng.permutation(np.array(list(glob(self, p)), object)))
    )
    assert bids(dataset) == wanted


def test_ds004199_description_survives(shared_data, tmp_path):
    """The real participants.tsv: byte-order mark, split, lobe with a comma; files laid out by files.tsv."""
    source = shared_data / "ds004199"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    shutil.copy(source / "participants.tsv", tmp_path / "participants.tsv")
    paths = [line.split("\t")[0] for line in (source / "files.tsv").read_text().splitlines()[1:]]
    for path in paths:
        touch(tmp_path / path)
    rows = bids(tmp_path)
    assert len(rows) == 170
    assert sum(row.is_patient for row in rows) == 85
    assert sum(row.split == "test" for row in rows) == 28
    assert sum(row.acquisition == "T2sel" for row in rows if not row.is_patient) == 85
    assert sum(row.acquisition == "T2sel" for row in rows if row.is_patient) == 41
    assert sum(row.acquisition == "tse3dvfl" for row in rows) == 36


def test_groups_choose_and_the_others_stay_with_their_reason(dataset):
    one, two, three = bids(dataset, groups=("fcd",))
    assert one.included and two.included
    assert three.excluded == "group hc is not in data.groups"
    with pytest.raises(DataError, match=r"data\.groups.*'fdc'.*fcd, hc"):
        bids(dataset, groups=("fdc",))


def test_a_2d_acquisition_is_excluded_unless_asked_for(dataset):
    sidecar = dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR.json"
    sidecar.write_text('{"MRAcquisitionType": "2D", "SliceThickness": 3.5}')
    one, two, _ = bids(dataset)
    assert one.excluded == "2-D acquisition (MRAcquisitionType 2D, slice thickness 3.5 mm)"
    assert two.included
    assert bids(dataset, two_dimensional="include")[0].included


@pytest.mark.parametrize(("text", "cause"), [("{", "JSON"), ("", "JSON"), ("[]", "object")])
def test_an_unreadable_sidecar_is_named(dataset, text, cause):
    (dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR.json").write_text(text)
    with pytest.raises(DataError, match=rf"sub-1_acq-T2sel_FLAIR\.json.*{cause}"):
        bids(dataset)
