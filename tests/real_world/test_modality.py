"""Images of another contrast are never written, exported or shown as FLAIR."""

import json

import nibabel
import numpy as np
import pytest
from helpers.synthetic import ball, head, save_nifti, study_mapping, write_bids
from pydantic import ValidationError

from slimdiff import cli
from slimdiff.config import study_from_mapping
from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.quality.measure import measure


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({}, "FLAIR"),
        ({"source": "bids", "root": "x"}, "FLAIR"),
        ({"source": "bids", "root": "x", "image_suffix": "T1w"}, "T1w"),
        ({"source": "bids", "root": "x", "image_suffix": "space-T1w_desc-clean_FLAIR"}, "FLAIR"),
        ({"source": "bids", "root": "x", "image_suffix": "UNIT1"}, "UNIT1"),
        ({"source": "bids", "root": "x", "image_suffix": "angio"}, "angio"),
        ({"source": "brats", "root": "x", "image_suffix": "t1ce"}, "T1w"),
        ({"source": "brats", "root": "x", "image_suffix": "t2f"}, "FLAIR"),
        ({"source": "bids", "root": "x", "image_suffix": "desc-sharp", "modality": "T2w"}, "T2w"),
        ({"source": "table", "table": "x", "modality": "T1w"}, "T1w"),
    ],
)
def test_the_suffix_says_what_the_images_are(keys, name):
    assert DataConfig(**keys).modality_name == name


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"source": "bids", "root": "x", "image_suffix": "desc-sharp"}, "image_suffix desc-sharp"),
        ({"source": "bids", "root": "x", "image_suffix": "brain_mask"}, "image_suffix brain_mask"),
        # Its volumes would have the names of the masks.
        ({"modality": "Mask"}, "found Mask"),
        ({"modality": "T1w/FLAIR"}, "pattern"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        DataConfig(**keys)


def test_a_t1w_study_has_its_name_in_volumes(tmp_path):
    root = write_bids(tmp_path / "bids", 3, 1)
    for path in root.glob("sub-*/anat/*_FLAIR.nii.gz"):
        path.rename(path.with_name(path.name.replace("FLAIR", "T1w")))
    mapping = study_mapping(root, tmp_path / "results")
    mapping["data"]["image_suffix"] = "T1w"
    study = study_from_mapping(mapping)
    for stage in ("participants", "preprocess", "cache", "quality"):
        assert cli.run_stage(stage, ["--config", study.model_dump_json()]) == 0
    names = {path.name for path in (study.paths.root / "volumes").glob("sub-01_*")}
    assert names == {"sub-01_T1w.nii.gz", "sub-01_mask.nii.gz"}
    assert np.asarray(nibabel.load(study.paths.volume("sub-01", "image")).dataobj).std() > 0.1


ROWS = ("a a_T1w.nii a_lesion.nii", "b b_T1w.nii n/a")


def test_a_table_of_t1w_images_is_not_read_as_flair(folder):
    lines = ("participant_id image mask", *ROWS)
    with pytest.raises(
        DataError, match=r"2 of 2 images are named as T1w.*FLAIR.*a_T1w.nii.*set data.modality: T1w"
    ):
        folder.read_table(*lines)
    assert list(folder.read_table(*lines, modality="T1w")) == ["a", "b"]
    # The study may know better than the name.
    assert list(folder.read_table(*lines, modality="FLAIR")) == ["a", "b"]


def test_a_table_that_mixes_modalities_is_named_and_one_name_is_not_advised(folder):
    with pytest.raises(DataError, match=r"1 of 2 images are named as T1w.*correct the paths"):
        folder.read_table("participant_id image mask", ROWS[0], "b b_FLAIR.nii n/a")
    # A row that is excluded by name does not count.
    kept = folder.read_table(
        "participant_id image mask", ROWS[0], "b b_FLAIR.nii b_roi.nii", exclude={"a": "T1w"}
    )
    assert not kept["a"].included and kept["b"].included


@pytest.mark.parametrize(("channel", "found"), [("T1", "T1w"), ("t2w", "T2w"), ("CT", "CT")])
def test_another_channel_of_an_nnunet_dataset_is_named(folder, channel, found):
    folder.add("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    described = {
        "channel_names": {"0": channel},
        "labels": {"background": 0, "lesion": 1},
        "file_ending": ".nii.gz",
    }
    (folder.root / "dataset.json").write_text(json.dumps(described))
    keys = {"source": "nnunet", "root": str(folder.root)}
    with pytest.raises(
        DataError, match=rf"dataset.json: channel 0 is {channel}; expected FLAIR; set data.modality: {found}"
    ):
        folder.discover(**keys)
    assert list(folder.discover(**keys, modality=found)) == ["a"]


@pytest.mark.parametrize(("modality", "expected"), [("FLAIR", True), ("T2w", True), ("T1w", False)])
def test_a_flip_is_suspected_only_where_lesions_are_bright(tmp_path, modality, expected):
    """A dark lesion, as on T1w, is no sign of a flipped mask."""
    lesion = ball((12, 14, 16), 3.5)
    values = head(1)
    values[lesion] -= 40
    image = save_nifti(tmp_path / "a_x.nii.gz", values)
    mask = save_nifti(tmp_path / "a_mask.nii.gz", lesion.astype(np.uint8))
    found = measure(Participant("a", "patient", image, mask), DataConfig(modality=modality))
    assert found.lesion_contrast < 0
    assert (found.flip is not None) == expected
