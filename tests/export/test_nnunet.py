import json

import nibabel
import numpy as np
import pytest

from slimdiff.config import ConfigError, study_from_mapping
from slimdiff.export import nnunet
from slimdiff.export.folder import nnunet_id, split_file


def read_split(study, fold: int) -> dict:
    (split,) = json.loads(split_file(study, "base", fold).read_text())
    return split


def shown(names) -> set[str]:
    """Participants of real cases."""
    return {name.split("_z")[0] for name in names if not name.startswith("synth-")}


def stems(folder) -> set[str]:
    return {path.name.removesuffix(".nii.gz").removesuffix("_0000") for path in folder.iterdir()}


def test_synthetic_cases_are_in_train_only_and_test_subjects_in_neither_split(cell):
    folder = nnunet.write(cell)
    split = read_split(cell.study, 0)
    assert shown(split["train"]) == {"sub-1", "sub-2"} and shown(split["val"]) == {"sub-3"}
    samples = {case.name for case in cell.synthetic()}
    assert {name for name in split["train"] if name.startswith("synth-")} == samples
    assert not samples & set(split["val"])
    assert stems(folder / "imagesTr") == stems(folder / "labelsTr") == {*split["train"], *split["val"]}
    assert shown(stems(folder / "imagesTs")) == shown(stems(folder / "labelsTs")) == {"sub-4"}
    assert not any(name.startswith("synth-") for name in stems(folder / "imagesTs"))
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == len(stems(folder / "imagesTr"))


def test_a_fold_without_validation_subjects_validates_on_the_real_training_slices(study, opened):
    folder = nnunet.write(opened(study, 1))
    split = read_split(study, 1)
    real = {name for name in split["train"] if not name.startswith("synth-")}
    assert set(split["val"]) == real and shown(real) == {"sub-3", "sub-4"}
    assert "no validation subjects" in (folder / "README.md").read_text()
    assert shown(stems(folder / "imagesTs")) == {"sub-1", "sub-2"}


def test_every_case_equals_its_slice(cell):
    folder = nnunet.write(cell)
    for case in [*cell.real("train"), *cell.synthetic()]:
        image = nibabel.load(folder / "imagesTr" / f"{case.name}_0000.nii.gz")
        label = nibabel.load(folder / "labelsTr" / f"{case.name}.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj)[:, ::-1, 0].T, case.image)
        assert np.array_equal(np.asarray(label.dataobj)[:, ::-1, 0].T, case.mask)
        assert image.affine == pytest.approx(case.affine, abs=1e-5)


def test_dataset_ids_are_consecutive_over_the_study(study):
    found = [nnunet_id(study, variant, fold) for variant in ("base", "other") for fold in (0, 1)]
    assert found == [501, 502, 503, 504]


def test_dataset_ids_above_999_are_a_configuration_error():
    with pytest.raises(
        ConfigError, match=r"export.nnunet_first_id: 3 datasets from 998 on .* set it to 997 or less"
    ):
        study_from_mapping({"export": {"nnunet_first_id": 998}})


def test_files_of_nnunet_are_kept(cell):
    nnunet.write(cell)
    plans = split_file(cell.study, "base", 0).with_name("nnUNetPlans.json")
    plans.write_text("{}")
    nnunet.write(cell)
    assert plans.read_text() == "{}"


def test_a_foreign_split_is_not_overwritten(cell):
    path = split_file(cell.study, "base", 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    with pytest.raises(
        FileExistsError, match=r"splits_final.json: expected a split that slimdiff wrote, found another"
    ):
        nnunet.write(cell)
    assert "slimdiff" not in path.read_text()


def test_nnunet_accepts_the_dataset(cell):
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    folder = nnunet.write(cell)
    verify_dataset_integrity(str(folder), num_processes=1)
    (folder / "labelsTr" / "sub-1_z002.nii.gz").unlink()
    with pytest.raises((AssertionError, RuntimeError, FileNotFoundError)):
        verify_dataset_integrity(str(folder), num_processes=1)
