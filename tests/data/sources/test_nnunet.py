"""nnU-Net raw datasets: channels, labels, both splits, and what dataset.json says."""

import json
from pathlib import Path

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover


def nnunet(root: Path, **more) -> list:
    return discover(DataConfig(source="nnunet", root=str(root), **more), Path("unused"))


def describe(root: Path, **facts) -> None:
    (root / "dataset.json").write_text(json.dumps(facts))


@pytest.fixture
def cases(tree):
    """Two channels; FCD_001 and FCD_002 train, FCD_000 test with a label, FCD_003 test without one."""
    return tree(
        *(f"imagesTr/FCD_00{n}_000{channel}.nii.gz" for n in (2, 1) for channel in (0, 1)),
        *(f"imagesTs/FCD_00{n}_000{channel}.nii.gz" for n in (0, 3) for channel in (0, 1)),
        *(f"labelsTr/FCD_00{n}.nii.gz" for n in (1, 2)),
        "labelsTs/FCD_000.nii.gz",
        "imagesTr/._FCD_001_0000.nii.gz",
        "labelsTr/._FCD_001.nii.gz",
    )


@pytest.mark.parametrize("channel", [0, 1])
def test_cases_are_found_with_split_channel_and_label(cases, channel):
    rows = nnunet(cases, channel=channel)
    assert [row.participant_id for row in rows] == ["FCD_000", "FCD_001", "FCD_002", "FCD_003"]
    assert [row.split for row in rows] == ["test", "train", "train", "test"]
    parts = ["Ts", "Tr", "Tr"]
    assert [row.image for row in rows[:3]] == [
        cases / f"images{part}" / f"FCD_00{n}_000{channel}.nii.gz" for n, part in enumerate(parts)
    ]
    assert [row.mask for row in rows[:3]] == [
        cases / f"labels{part}" / f"FCD_00{n}.nii.gz" for n, part in enumerate(parts)
    ]
    assert [row.group for row in rows] == ["patient"] * 3 + ["n/a"]
    assert not any(row.flags for row in rows)


def test_a_test_case_without_a_label_is_excluded_not_a_control(cases):
    rows = nnunet(cases)
    assert [row.included for row in rows] == [True, True, True, False]
    assert rows[3].excluded == ("no label FCD_003.nii.gz in labelsTs: whether it has a lesion is unknown")


def test_a_training_case_without_a_label_is_flagged(cases):
    (cases / "labelsTr/FCD_002.nii.gz").unlink()
    row = nnunet(cases)[2]
    assert (row.mask, [flag.name for flag in row.flags]) == (None, ["no_mask"])
    assert "labelsTr" in row.flags[0].reason and "FCD_002" in row.flags[0].reason
    row = nnunet(cases, exclude={"FCD_002": "not drawn"})[2]
    assert (row.excluded, row.flags) == ("not drawn", ())


def test_a_case_in_both_parts_is_flagged(cases, tree):
    tree("imagesTs/FCD_001_0000.nii.gz")
    rows = nnunet(cases)
    assert [row.participant_id for row in rows] == ["FCD_000", "FCD_001", "FCD_002", "FCD_003"]
    assert [[flag.name for flag in row.flags] for row in rows] == [[], ["two_splits"], [], []]
    assert (rows[1].split, rows[1].mask.parent.name) == ("train", "labelsTr")
    assert "imagesTr and in imagesTs" in rows[1].flags[0].reason


@pytest.mark.parametrize("part", ["Tr", "Ts"])
def test_labels_without_an_image_are_an_error(cases, tree, part):
    tree(f"labels{part}/FCD_009.nii.gz", f"labels{part}/FCD_008.nii.gz")
    with pytest.raises(DataError, match=rf"labels{part}: 2 labels.*images{part}: FCD_008, FCD_009"):
        nnunet(cases)


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("emptied", [False, True])
def test_without_images_or_labels_is_an_error(cases, part, emptied):
    folders = ("imagesTr", "imagesTs", "labelsTr", "labelsTs") if part == "imagesTr" else ("labelsTr",)
    for folder in folders:
        for path in (cases / folder).iterdir():
            path.unlink()
        if not emptied:
            (cases / folder).rmdir()
    with pytest.raises(DataError, match=part):
        nnunet(cases)


@pytest.mark.parametrize("key", ["channel_names", "modality"])
def test_a_channel_that_dataset_json_does_not_have_is_an_error(cases, key):
    describe(cases, **{key: {"0": "FLAIR", "1": "T1w"}})
    assert nnunet(cases, channel=1, modality="T1w")[0].image.name == "FCD_000_0001.nii.gz"
    with pytest.raises(DataError, match=r"data\.channel: .*dataset\.json.*0 \(FLAIR\), 1 \(T1w\); found 2"):
        nnunet(cases, channel=2)


def test_a_channel_that_no_image_has_is_an_error(cases):
    with pytest.raises(DataError, match=r"data\.channel: 2, .*case\}_0002.*0000, 0001"):
        nnunet(cases, channel=2)


def test_a_channel_that_one_case_lacks_is_its_flag(cases):
    (cases / "imagesTr/FCD_001_0001.nii.gz").unlink()
    rows = nnunet(cases, channel=1)
    assert [[flag.name for flag in row.flags] for row in rows] == [[], ["missing_file"], [], []]
    assert "FCD_001_0001.nii.gz" in rows[1].flags[0].reason
    assert not any(row.flags for row in nnunet(cases, channel=0))


def test_the_file_ending_is_that_of_dataset_json_or_any_of_nifti(cases):
    wanted = nnunet(cases)
    for path in [path for folder in cases.iterdir() for path in folder.iterdir()]:
        path.rename(path.with_suffix(""))
    unpacked = nnunet(cases)
    assert [row.image for row in unpacked[:3]] == [row.image.with_suffix("") for row in wanted[:3]]
    assert [row.mask for row in unpacked[:3]] == [row.mask.with_suffix("") for row in wanted[:3]]
    describe(cases, file_ending=".nii")
    assert nnunet(cases)[:3] == unpacked[:3]
    describe(cases, file_ending=".nii.gz")
    with pytest.raises(DataError, match=r"imagesTr: expected \{case\}_0000\.nii\.gz, found no image"):
        nnunet(cases)
    describe(cases, file_ending=".png")
    with pytest.raises(
        DataError, match=r"dataset\.json: expected file_ending \.nii\.gz or \.nii, found '\.png'"
    ):
        nnunet(cases)


def test_packed_and_unpacked_files_of_a_case_are_flagged(cases, tree):
    tree("imagesTr/FCD_001_0000.nii", "labelsTr/FCD_002.nii")
    flags = [[flag.name for flag in row.flags] for row in nnunet(cases)]
    assert flags == [[], ["several_images"], ["several_masks"], []]
    describe(cases, file_ending=".nii.gz")
    assert not any(row.flags for row in nnunet(cases)), "dataset.json says which"


@pytest.mark.parametrize(
    ("text", "cause"), [("{", "JSON"), ("[]", "object"), ('{"channel_names": ["FLAIR"]}', "channel_names")]
)
def test_an_unreadable_dataset_json_is_named(cases, text, cause):
    (cases / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=rf"dataset\.json.*{cause}"):
        nnunet(cases)
