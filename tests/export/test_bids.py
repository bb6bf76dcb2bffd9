import json
import shutil
import subprocess

import nibabel
import numpy as np
import pytest
from helpers.seals import unseal

from slimdiff.export import bids
from slimdiff.export.bids import subject_label
from slimdiff.files import read_table


def test_every_sample_is_a_subject_with_image_and_mask(cell):
    folder = bids.write(cell)
    rows = {row["participant_id"]: row for row in read_table(folder / "participants.tsv")}
    cases = list(cell.synthetic())
    assert len(rows) == len(cases) == 12
    assert {path.name for path in folder.glob("sub-*")} == set(rows)
    for case in cases:
        subject = subject_label(case.sample["id"])
        anat = folder / subject / "anat"
        image = nibabel.load(anat / f"{subject}_desc-synth_FLAIR.nii.gz")
        mask = nibabel.load(anat / f"{subject}_label-lesion_desc-synth_mask.nii.gz")
        # Rows run from anterior to posterior: the first row of the slice is the last index of the second axis.
        assert image.shape == mask.shape == (10, 12, 1)
        assert (image.get_data_dtype(), mask.get_data_dtype()) == (np.float32, np.uint8)
        assert np.array_equal(np.asarray(image.dataobj)[:, ::-1, 0].T, case.image)
        assert np.array_equal(np.asarray(mask.dataobj)[:, ::-1, 0].T, case.mask)
        assert image.affine == pytest.approx(case.affine) and mask.affine == pytest.approx(case.affine)
        row = rows[subject]
        assert row["sample_id"] == case.sample["id"] and int(row["lesion_px"]) == case.mask.sum()
        assert float(row["lesion_mm2"]) == 4 * case.mask.sum()
        assert (int(row["z_bin"]), int(row["class"])) == (case.z_bin, case.label)


def test_no_participant_id_is_in_the_dataset(cell):
    folder = bids.write(cell)
    texts = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".tsv", "")]
    everything = "".join(path.read_text() for path in texts)
    assert not any(name in everything for part in cell.parts.values() for name in part)


def test_the_description_records_model_data_and_source(cell):
    content = json.loads((bids.write(cell) / "dataset_description.json").read_text())
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"][0]["Name"] == "slimdiff"
    for words in ("ab" * 32, "2 participants of fold 0", "invented, no patients"):
        assert words in content["GeneratedBy"][0]["Description"]
    assert content["SourceDatasets"] == [{"DOI": "doi:10.18112/openneuro.ds004199.v1.0.6"}]


def test_skull_stripped_follows_the_sources_or_the_configuration(study, opened, configured):
    def written(study) -> bool:
        return json.loads(next(bids.write(opened(study, 0)).rglob("*_FLAIR.json")).read_text())[
            "SkullStripped"
        ]

    assert written(study) is True
    assert written(configured(study, skull_stripped=False)) is False
    next((study.paths.root.parent / "source").rglob("sub-2_FLAIR.json")).unlink()
    # The table lists images in the folder of the session fixture.
    table = study.paths.participants
    root = read_table(table)[0]["image"].split("/source/")[0]
    unseal(table)
    table.write_text(table.read_text().replace(root, str(study.paths.root.parent)))
    assert written(study) is False
    assert written(configured(study, skull_stripped=True)) is True


def test_two_samples_with_one_label_are_refused(study, opened):
    path = study.paths.samples_stem("base", 0, 0).with_suffix(".tsv")
    unseal(path.with_suffix(".json"))
    path.write_text(
        path.read_text().replace("zbin-00_class-0_replica-0_00001", "zbin-00-class-0-replica-0-00000")
    )
    with pytest.raises(ValueError, match="duplicate file name sub-zbin00class0replica000000"):
        bids.write(opened(study, 0))
    assert not study.paths.export("bids", "base", 0).exists()


def test_the_public_validator_finds_no_error(cell):
    """It checks names, NIfTI headers, sidecars, tables and dataset_description.json, not the voxels."""
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed (PyPI bids-validator-deno)")
    done = subprocess.run(
        [validator, str(bids.write(cell)), "--format", "json"], capture_output=True, text=True, timeout=120
    )
    found = json.loads(done.stdout)
    problems = {(issue["severity"], issue["code"]) for issue in found["issues"]["issues"]}
    # Only the user knows the authors.
    assert problems <= {("warning", "TOO_FEW_AUTHORS")}
    assert len(found["summary"]["subjects"]) == 12 and done.returncode == 0
