"""ds004199: the same participants before it is fetched and afterwards, and its real list as it is."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.synthetic import write_ds004199

from slimdiff.config.data import DataConfig, FetchConfig
from slimdiff.data.participants import DataError
from slimdiff.data.sources import discover

CHOICES = (
    {},
    {"two_dimensional": "include"},
    {"groups": ("fcd",)},
    {
        "groups": ("hc", "fcd"),
        "exclude": {"sub-00001": "seen"},
        "entities": {"acq": "T2sel"},
        "entities_may_drop": 0.3,
    },
)


def fetched(root: Path, **more) -> list:
    fetch = FetchConfig(dataset="ds004199")
    return discover(DataConfig(source="bids", root=str(root), fetch=fetch, **more), Path("unused"))


def on_disk(root: Path, **more) -> list:
    return discover(DataConfig(source="bids", root=str(root), **more), Path("unused"))


def taking_part(rows) -> list[tuple]:
    """What the workflow's jobs depend on."""
    return [
        (row.participant_id, row.image, row.mask, row.brain_mask, row.included, row.group) for row in rows
    ]


def real_tree(shared_data: Path, root: Path) -> Path:
    """The dataset by its own list, participants and sidecars, the images empty."""
    source = shared_data / "ds004199"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    for line in (source / "files.tsv").read_text().splitlines()[1:]:
        path = root / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for sidecar in (source / "sidecars").glob("*.json"):
        shutil.copy(sidecar, root / sidecar.name.split("_")[0] / "anat")
    shutil.copy(source / "participants.tsv", root)
    (root / ".bidsignore").write_text("*_roi.nii.gz\n")
    return root


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_participants_are_the_same_before_and_after_the_download(tmp_path, choice):
    root = tmp_path / "ds004199"
    before = fetched(root, **choice)
    assert len(before) == 170 and not root.exists()
    write_ds004199(root)
    assert taking_part(fetched(root, **choice)) == taking_part(before)
    assert taking_part(on_disk(root, **choice)) == taking_part(before)


def test_a_download_that_is_half_there_makes_no_difference(tmp_path):
    before = fetched(tmp_path)
    write_ds004199(tmp_path)
    for number in range(1, 171, 2):
        shutil.rmtree(tmp_path / f"sub-{number:05d}")
    (tmp_path / "participants.tsv").unlink()
    half = fetched(tmp_path)
    assert taking_part(half) == taking_part(before)
    assert not any(row.flags for row in half), "what has not come yet is no fault"


def test_the_manifest_has_the_last_word_on_who_is_thick(tmp_path):
    """A sidecar that says otherwise would make the workflow run everything again."""
    before = fetched(tmp_path)
    write_ds004199(tmp_path)
    for row in before:
        sidecar = row.image.with_name(row.image.name.replace(".nii.gz", ".json"))
        sidecar.write_text(
            json.dumps({"MRAcquisitionType": "2D" if row.included else "3D", "SliceThickness": 9})
        )
    after = fetched(tmp_path)
    assert taking_part(after) == taking_part(before)
    assert {row.excluded for row in after} == {
        "n/a",
        "2-D acquisition (MRAcquisitionType 2D, slice thickness 9 mm)",
    }


def test_images_that_are_not_fetched_are_not_planned_with(tmp_path):
    before = fetched(tmp_path, image_suffix="T1w")
    assert len(before) == 170 and all(row.included for row in before)
    # The manifest has no facts about how these were acquired; a sidecar that comes later changes nothing.
    sidecar = before[0].image.with_name(before[0].image.name.replace(".nii.gz", ".json"))
    sidecar.parent.mkdir(parents=True)
    sidecar.write_text('{"MRAcquisitionType": "2D"}')
    assert fetched(tmp_path, image_suffix="T1w") == before
    with pytest.raises(DataError, match=r"_T2w\.nii\.gz.*see data\.image_suffix"):
        fetched(tmp_path, image_suffix="T2w")


def test_files_that_were_not_asked_for_make_no_difference(tmp_path):
    write_ds004199(tmp_path)
    before = fetched(tmp_path)
    for extra in ("sub-00001/anat/sub-00001_acq-mine_FLAIR.nii.gz", "sub-00999/anat/sub-00999_FLAIR.nii.gz"):
        (tmp_path / extra).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / extra).touch()
    with (tmp_path / "participants.tsv").open("a") as stream:
        stream.write("sub-00998\tfcd\tM\tFL\ttrain\n")
    assert fetched(tmp_path) == before
    with pytest.raises(DataError, match=r"without a folder \(sub-00998\).*without a row \(sub-00999\)"):
        on_disk(tmp_path)
    assert len(on_disk(tmp_path, exclude={"sub-00999": "not described"})) == 172


def test_masks_of_one_s_own_are_found_beside_a_dataset_that_is_to_be_fetched(tmp_path):
    mine = tmp_path / "mine/sub-00001/anat/sub-00001_mask.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.touch()
    rows = fetched(tmp_path / "absent", mask_root=str(tmp_path / "mine"), mask_suffix="mask")
    assert [(row.participant_id, row.mask) for row in rows if row.is_patient] == [("sub-00001", mine)]


@pytest.mark.parametrize("of", [fetched, on_disk])
def test_the_real_description_survives(shared_data, tmp_path, of):
    """Byte-order mark, split, lobe with a comma, and a mask named after another acquisition."""
    rows = {
        row.participant_id: row for row in of(real_tree(shared_data, tmp_path), two_dimensional="include")
    }
    with (shared_data / "ds004199" / "participants.tsv").open(encoding="utf-8-sig") as stream:
        lines = {line["participant_id"]: line for line in csv.DictReader(stream, delimiter="\t")}
    assert rows.keys() == lines.keys() and len(rows) == 170
    for name, line in lines.items():
        row = rows[name]
        assert (row.group, row.split, row.lobe) == (line["group"], line["split"], line["lobe"] or "n/a")
        assert row.included and not row.flags
        assert row.further == {
            key: value or "n/a"
            for key, value in line.items()
            if key not in ("participant_id", "group", "split", "lobe")
        }
    assert "TL,OL" in {row.lobe for row in rows.values()}
    patients = [row for row in rows.values() if row.is_patient]
    assert {row.group for row in patients} == {"fcd"} and len(patients) == 85
    assert sorted(row.split for row in patients) == ["test"] * 28 + ["train"] * 57
    assert {row.split for row in rows.values() if not row.is_patient} == {"train"}


@pytest.mark.parametrize("of", [fetched, on_disk])
def test_real_images_and_masks_are_matched_by_subject(shared_data, tmp_path, of):
    root = real_tree(shared_data, tmp_path)
    text = (shared_data / "ds004199" / "files.tsv").read_text()
    images = re.findall(r"^(sub-\d+)(/anat/\S+_FLAIR\.nii\.gz)\t", text, re.MULTILINE)
    masks = dict(re.findall(r"^(sub-\d+)(/anat/\S+_roi\.nii\.gz)\t", text, re.MULTILINE))
    rows = of(root, two_dimensional="include")
    assert [(row.participant_id, row.image) for row in rows] == [
        (name, root / f"{name}{path}") for name, path in sorted(images)
    ]
    assert {row.participant_id: row.mask for row in rows if row.is_patient} == {
        name: root / f"{name}{path}" for name, path in masks.items()
    }
    odd = next(row for row in rows if row.participant_id == "sub-00048")
    assert odd.mask.name == "sub-00048_acq-32ch10_FLAIR_roi.nii.gz"
    assert odd.acquisition == "T2sel"
    acquisitions = [(row.acquisition, row.is_patient) for row in rows]
    assert acquisitions.count(("T2sel", False)) == 85
    assert acquisitions.count(("T2sel", True)) == 41
    assert acquisitions.count(("tse3dvfl", True)) == 36


def test_real_2d_acquisitions_are_excluded_before_and_after_the_download(shared_data, tmp_path):
    facts = {
        path.name.split("_")[0]: json.loads(path.read_text(encoding="utf-8-sig"))
        for path in (shared_data / "ds004199" / "sidecars").glob("*.json")
    }
    thick = {name: fact for name, fact in facts.items() if fact.get("MRAcquisitionType") == "2D"}
    before = {row.participant_id: row for row in fetched(tmp_path / "absent")}
    real_tree(shared_data, tmp_path / "there")
    assert {name for name, row in before.items() if not row.included} == thick.keys() and len(thick) == 7
    assert {before[name].excluded for name in thick} == {"2-D acquisition (MRAcquisitionType 2D)"}
    for of in (fetched, on_disk):
        after = {row.participant_id: row.excluded for row in of(tmp_path / "there")}
        assert {name for name, reason in after.items() if reason != "n/a"} == thick.keys()
        for name, fact in thick.items():
            assert after[name] == (
                f"2-D acquisition (MRAcquisitionType 2D, slice thickness {fact['SliceThickness']} mm)"
            )
