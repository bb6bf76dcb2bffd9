"""Volumes of the user: when they are preprocessed again, and every stage on two real patients."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.synthetic import head, save_nifti, write_bids
from helpers.workflow_runs import ROOT, job_counts, snakemake, write_study

from slimdiff.config import load_study
from slimdiff.files import read_table


def date_after(path: Path, folder: Path) -> None:
    """Date a file or link a millisecond after the newest file of a folder, however long its jobs took."""
    newest = max(found.stat().st_mtime_ns for found in folder.rglob("*") if found.is_file()) + 1_000_000
    os.utime(path, ns=(newest, newest), follow_symlinks=False)


def test_volumes_are_preprocessed_again_only_if_their_files_or_settings_changed(tmp_path):
    """Also if quality control must run again in the same plan."""
    root = write_bids(tmp_path / "in")
    own = {"data": {"source": "bids", "root": str(root)}, "quality": {"max_spacing_mm": 7}}

    def volumes(**changes) -> int:
        config = write_study(tmp_path, **own, **changes)
        done = snakemake("preprocessed", "--dry-run", "--configfile", str(config), folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        counts = (
            {"participants": 0} if "Nothing to be" in done.stdout + done.stderr else job_counts(done.stdout)
        )
        participants.append(counts.get("participants", 0))
        return counts.get("preprocess", 0)

    participants: list[int] = []
    assert volumes() == 8
    config = write_study(tmp_path, **own)
    done = snakemake("preprocessed", "--cores", "2", "--configfile", str(config), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert volumes() == 0
    own["data"] |= {"exclude": {"sub-08": "moved"}}
    assert volumes() == 0
    assert volumes(preprocess={"percentiles": [1.0, 99.0]}) == 7
    mask = root / "sub-02" / "anat" / "sub-02_FLAIR_roi.nii.gz"
    mask.write_bytes(gzip.compress(gzip.decompress(mask.read_bytes()), mtime=1))
    date_after(mask, tmp_path / "results")
    assert volumes() == 1
    assert participants == [1, 0, 1, 1, 1]
    # Quality control changes a patient with an empty mask to a control, whose volume has no mask.
    own["data"] |= {"empty_mask": "control", "patients_without_mask": "control"}
    save_nifti(root / "sub-03" / "anat" / "sub-03_FLAIR_roi.nii.gz", np.zeros((32, 32, 32), np.uint8))
    config = write_study(tmp_path, **own)
    done = snakemake("preprocessed", "--cores", "2", "--configfile", str(config), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert volumes() == 0
    # A new subject; the others are not preprocessed again.
    save_nifti(root / "sub-09" / "anat" / "sub-09_FLAIR.nii.gz", head(9))
    with (root / "participants.tsv").open("a") as table:
        table.write("sub-09\thc\tbonn\tn/a\n")
    assert volumes() == 1
    # A link to a file that is older than the volume.
    image, old = root / "sub-04" / "anat" / "sub-04_FLAIR.nii.gz", tmp_path / "old.nii.gz"
    save_nifti(old, head(40))
    os.utime(old, (1e9, 1e9))
    image.unlink()
    image.symlink_to(old)
    date_after(image, tmp_path / "results")
    assert volumes() == 2


@pytest.mark.slow
def test_a_study_of_two_real_patients_runs_to_its_report(shared_data, tmp_path):
    """config/open_ms.yaml, its volumes and all its stages, with few training steps."""
    values = json.loads(load_study(ROOT / "config" / "open_ms.yaml").model_dump_json(exclude_defaults=True))
    values["training"] |= {"steps": 4}
    values["generation"] |= {"evaluations": 2, "per_bin_and_class": 2}
    lines = ["participant_id\timage\tmask"]
    for number in ("07", "19"):
        image, mask = (
            shared_data / "open_ms" / f"patient{number}_{kind}_MNI.nii.gz" for kind in ("FLAIR", "lesion")
        )
        lines.append(f"{number}\t{image}\t{mask}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "open_ms.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "study.json").write_text(json.dumps(values))
    done = snakemake("--cores", "2", "--configfile", str(tmp_path / "study.json"), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results" / "open_ms"
    assert "(ERROR/3)" not in (results / "report.html").read_text(encoding="utf-8")
    for number in ("07", "19"):
        qc = json.loads((results / "volumes" / f"{number}.json").read_text())["qc"]
        assert qc["lesion_ml_grid"] == pytest.approx(qc["lesion_ml_source"], rel=0.03)
    rows = read_table(results / "slices" / "slices.tsv")
    lesioned = {row["participant"] for row in rows if row["class"] == "1"}
    assert lesioned == {"07", "19"}
