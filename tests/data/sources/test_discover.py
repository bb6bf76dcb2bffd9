"""What holds for every source: exclusion, groups, thick slices, links to nowhere, order, and the written table."""

import random
from pathlib import Path

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, read_participants, write_participants
from slimdiff.data.sources import discover


def bids(root: Path, **more) -> list:
    return discover(DataConfig(source="bids", root=str(root), **more), Path("unused"))


def test_excluded_participants_stay_with_their_reason(dataset):
    rows = bids(dataset, exclude={"sub-1": "motion"})
    assert [(row.participant_id, row.excluded) for row in rows if not row.included] == [("sub-1", "motion")]
    with pytest.raises(DataError, match="sub-7"):
        bids(dataset, exclude={"sub-7": "motion"})
    with pytest.raises(DataError, match="no subject with a lesion mask"):
        bids(dataset, exclude={"sub-1": "motion", "sub-2": ""})


def faulty(dataset: Path, tree) -> None:
    """sub-1 with every fault that a BIDS subject with a mask can have, and a sidecar that cannot be read."""
    tree("sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1/anat/sub-1_FLAIR_roi.nii.gz")
    (dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR.nii.gz").unlink()
    (dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR.nii.gz").symlink_to("../.git/annex/objects/nowhere")
    with (dataset / "participants.tsv").open("a") as stream:
        stream.write("sub-1\tfcd\ttest\tn/a\t31\n")


def test_all_faults_of_a_participant_are_collected(dataset, tree):
    faulty(dataset, tree)
    one, *others = bids(dataset, entities={}, exclude={"sub-3": "another"})
    assert [flag.name for flag in one.flags] == ["two_splits", "several_images", "several_masks"]
    (dataset / "sub-1/anat/sub-1_FLAIR.nii.gz").unlink()
    one, *others = bids(dataset)
    assert [flag.name for flag in one.flags] == ["two_splits", "several_masks", "missing_file"]
    assert "broken link" in one.flags[2].reason
    assert not any(row.flags for row in others)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"exclude": {"sub-1": "looked at"}}, "looked at"),
        ({"groups": ("hc", "other")}, "group fcd is not in data.groups"),
        ({}, "2-D acquisition (MRAcquisitionType 2D, slice thickness unknown mm)"),
    ],
)
def test_whoever_is_excluded_has_no_flags(dataset, tree, choice, reason):
    faulty(dataset, tree)
    (dataset / "sub-1/anat/sub-1_FLAIR.json").write_text('{"MRAcquisitionType": "2D"}')
    table = dataset / "participants.tsv"
    table.write_text(table.read_text().replace("sub-2\tfcd", "sub-2\tother"))
    assert bids(dataset, two_dimensional="include")[0].flags
    one = bids(dataset, two_dimensional="include" if choice else "exclude", **choice)[0]
    assert (one.excluded, one.flags) == (reason, ())


def test_the_sidecar_of_who_is_excluded_by_name_is_not_read(dataset):
    (dataset / "sub-1/anat/sub-1_acq-T2sel_FLAIR.json").write_text("{")
    with pytest.raises(DataError, match="JSON"):
        bids(dataset)
    assert bids(dataset, exclude={"sub-1": "sidecar damaged"})[0].excluded == "sidecar damaged"


def test_a_participant_excluded_by_name_does_not_make_its_group_one_of_patients(dataset):
    table = dataset / "participants.tsv"
    table.write_text(table.read_text().replace("\tfcd\t", "\tall\t").replace("\thc\t", "\tall\t"))
    assert [flag.name for flag in bids(dataset)[2].flags] == ["no_mask"]
    table.write_text(table.read_text().replace("sub-2\tall", "sub-2\tfcd"))
    assert bids(dataset, exclude={"sub-1": "motion"})[2].flags == ()


def test_the_participants_table_round_trips(dataset, tree, tmp_path):
    tree("sub-1/anat/sub-1_brain.nii.gz")
    rows = bids(dataset, exclude={"sub-3": "ü, motion"}, brain_suffix="brain")
    assert rows[0].brain_mask is not None and rows[0].further == {"age": "31"}
    write_participants(tmp_path / "p.tsv", rows)
    assert read_participants(tmp_path / "p.tsv") == rows


@pytest.mark.parametrize("source", ["bids", "nnunet", "brats"])
def test_order_does_not_depend_on_the_file_system(dataset, tree, monkeypatch, source):
    cases = [f"{n}_c" for n in range(6)]
    tree(
        *(f"imagesTr/{case}_0000.nii{end}" for case in cases for end in ("", ".gz")),
        *(f"labelsTr/{case}.nii.gz" for case in cases),
        *(f"{case}/{case}{sep}{suffix}.nii" for case in cases for sep in "_-" for suffix in ("flair", "seg")),
    )
    config = DataConfig(source=source, root=str(dataset))
    wanted = discover(config, Path("unused"))
    generator = random.Random(0)

    def shuffled(method):
        def of(self, *arguments):
            found = list(method(self, *arguments))
            generator.shuffle(found)
            return iter(found)

        return of

    for name in ("glob", "iterdir"):
        monkeypatch.setattr(Path, name, shuffled(getattr(Path, name)))
    for _ in range(3):
        assert discover(config, Path("unused")) == wanted


def test_links_to_nowhere_are_flagged(tree):
    root = tree("a_flair.nii.gz", "a_seg.nii.gz", "b_flair.nii.gz")
    (root / "b_seg.nii.gz").symlink_to("nowhere")
    rows = discover(DataConfig(source="brats", root=str(root)), Path("unused"))
    assert [[flag.name for flag in row.flags] for row in rows] == [[], ["missing_file"]]
    assert str(root / "b_seg.nii.gz") in rows[1].flags[0].reason
    (root / "nowhere").touch()
    assert discover(DataConfig(source="brats", root=str(root)), Path("unused"))[1].flags == ()


def test_a_link_to_a_table_that_has_not_come_is_an_error(dataset):
    (dataset / "participants.tsv").unlink()
    (dataset / "participants.tsv").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"participants\.tsv: broken link"):
        bids(dataset)


def test_groups_choose_and_the_others_stay_with_their_reason(dataset):
    one, two, three = bids(dataset, groups=("fcd",))
    assert one.included and two.included
    assert three.excluded == "group hc is not in data.groups"
    with pytest.raises(DataError, match=r"data\.groups.*fcd, hc.*'fdc'"):
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
