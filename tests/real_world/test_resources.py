"""Memory of the jobs that read volumes: by the voxels that the headers promise, and more at each attempt."""

import gzip
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from helpers.synthetic import head, save_nifti, write_bids
from helpers.workflow_runs import ROOT, snakemake, write_study

from slimdiff.data.participants import Participant
from slimdiff.data.volumes.nifti import voxel_count

SEVEN_TESLA = (512, 512, 384)


def promise(path: Path, shape: tuple[int, ...], kind=nibabel.Nifti1Header) -> Path:
    """A file with a header of this shape and no voxels: all that the resources may read."""
    header = kind()
    header.set_data_shape(shape)
    header["vox_offset"] = header.single_vox_offset
    content = header.binaryblock + bytes(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Header, nibabel.Nifti2Header])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_voxels_are_counted_by_the_header_alone(tmp_path, kind, name):
    assert voxel_count(promise(tmp_path / name, SEVEN_TESLA, kind)) == np.prod(SEVEN_TESLA)


@pytest.mark.parametrize(
    "content", [None, b"", b"\x1f\x8b\x08", b"<html>" * 90, b"/annex/objects/MD5E-s9--0\n"]
)
def test_a_header_that_cannot_be_read_counts_no_voxels(tmp_path, content):
    path = tmp_path / "v.nii.gz"
    if content is not None:
        path.write_bytes(content)
    assert voxel_count(path) is None
    path.unlink(missing_ok=True)
    path.symlink_to("gone")
    assert voxel_count(path) is None


@pytest.fixture
def rules(tmp_path) -> dict:
    """The functions of workflow/rules/inputs.smk, for four participants."""
    image = promise(tmp_path / "large.nii.gz", SEVEN_TESLA)
    small = save_nifti(tmp_path / "small.nii.gz", head(1))
    people = [
        Participant("large", "control", image, None),
        Participant("small", "control", small, None),
        Participant("fine mask", "patient", small, image),
        Participant("not fetched", "control", tmp_path / "gone.nii.gz", None),
    ]
    # Of memory.smk: on other machines Snakemake's own processes need memory, too.
    functions = {"PARTICIPANTS": {row.participant_id: row for row in people}, "OF_A_SUBMISSION": 0}
    exec((ROOT / "workflow" / "rules" / "inputs.smk").read_text(), functions)
    return functions


def test_preprocessing_asks_for_memory_by_its_voxels_and_attempt(rules):
    def asked(name, attempt):
        return rules["preprocess_memory_mb"](SimpleNamespace(participant=name), attempt)

    # 60 bytes for each of 100.7 million voxels, beside 1000 MB.
    assert [asked("large", attempt) for attempt in (1, 2, 3)] == [7040, 14080, 21120]
    assert asked("fine mask", 1) == 7040
    for name in ("small", "not fetched"):
        assert [asked(name, attempt) for attempt in (1, 2)] == [2500, 5000]
    minutes = rules["preprocess_minutes"]
    assert [minutes(SimpleNamespace(participant="large"), attempt) for attempt in (1, 2)] == [25, 50]
    assert minutes(SimpleNamespace(participant="small"), 1) == 10


def test_quality_control_asks_for_memory_by_the_largest_volume_and_its_workers(rules):
    assert rules["quality_memory_mb"](None, 4, 1) == round(1000 + 4 * 27 * np.prod(SEVEN_TESLA) / 1e6)
    assert rules["quality_memory_mb"](None, 4, 2) == 2 * rules["quality_memory_mb"](None, 4, 1)
    for name in ("large", "fine mask"):
        del rules["PARTICIPANTS"][name]
    assert rules["quality_memory_mb"](None, 4, 1) == 3800


def test_the_engine_plans_with_these_requests(tmp_path):
    root = write_bids(tmp_path / "bids", patients=3, controls=1)
    image = root / "sub-04/anat/sub-04_FLAIR.nii.gz"
    promise(image, SEVEN_TESLA)
    config = write_study(tmp_path, data={"source": "bids", "root": str(root)})
    # Without its message, Snakemake prints the requests of a job.
    for part in ("workflow", "envs"):
        shutil.copytree(ROOT / part, tmp_path / "copy" / part)
    shutil.copy(ROOT / "Snakefile", tmp_path / "copy")
    rules = tmp_path / "copy" / "workflow" / "rules" / "data.smk"
    message = '    message:\n        "preprocess {wildcards.participant}"\n'
    assert message in rules.read_text()
    rules.write_text(rules.read_text().replace(message, ""))
    options = ("--snakefile", str(tmp_path / "copy" / "Snakefile"), "--configfile", str(config))
    done = snakemake("preprocessed", "--dry-run", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = dict(
        re.findall(
            r"wildcards: participant=(sub-\d+)\n\s+resources: .*?mem_mb=(\d+)", done.stdout + done.stderr
        )
    )
    assert found == {"sub-01": "2500", "sub-02": "2500", "sub-03": "2500", "sub-04": "7040"}
