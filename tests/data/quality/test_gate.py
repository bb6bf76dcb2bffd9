"""From files to verdicts: everybody is looked at once, nobody vanishes, and a run that was stopped goes on."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers.synthetic import ball, head, save_nifti, write_bids

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError
from slimdiff.data.quality import measure as measuring
from slimdiff.data.quality.gate import run_quality_control
from slimdiff.data.quality.planes import read_planes
from slimdiff.files import read_table

PATIENTS, CONTROLS = 4, 4
NAMES = [f"sub-{number:02d}" for number in range(1, PATIENTS + CONTROLS + 1)]
QUALITY = {"max_spacing_mm": 7.0, "accept": {"flip_suspected": ()}}


class Cohort:
    """A BIDS dataset that a test may spoil, and the folder in which its measurements are remembered."""

    def __init__(self, folder):
        self.root, self.state = write_bids(folder / "bids", PATIENTS, CONTROLS), folder / "quality"
        self.read = []

    def image(self, name):
        return self.root / name / "anat" / f"{name}_FLAIR.nii.gz"

    def mask(self, name):
        return self.root / name / "anat" / f"{name}_FLAIR_roi.nii.gz"

    def run_quality_control(self, workers=1, data=None, **quality):
        """participant_id, verdict."""
        self.read.clear()
        config = DataConfig(source="bids", root=str(self.root), **(data or {}))
        rows, found = run_quality_control(
            config, QualityConfig(**{**QUALITY, **quality}), self.root, self.state, workers
        )
        assert [row.participant_id for row in rows] == [v.participant.participant_id for v in found]
        return {verdict.participant.participant_id: verdict for verdict in found}


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """`read` lists whose image was read by the last gate of one worker."""
    cohort = Cohort(tmp_path)
    true_read = measuring.read_image

    def counted(participant):
        cohort.read.append(participant.participant_id)
        return true_read(participant)

    monkeypatch.setattr(measuring, "read_image", counted)
    return cohort


def test_a_good_cohort_passes_without_a_flag(cohort):
    found = cohort.run_quality_control()
    assert list(found) == NAMES
    assert {verdict.word for verdict in found.values()} == {"ok"}
    assert cohort.read == NAMES
    assert sorted(path.name for path in cohort.state.iterdir()) == sorted(
        f"{name}.{end}" for name in NAMES for end in ("json", "npz")
    )
    lesions = [any(mask.any() for _, mask in read_planes(cohort.state / f"{name}.npz")) for name in NAMES]
    assert lesions == [True] * PATIENTS + [False] * CONTROLS


@pytest.mark.parametrize("broken", ["sub-02", "sub-07"])
def test_nobody_vanishes_when_one_patient_or_control_is_broken(broken, cohort):
    path = cohort.image(broken)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=rf"1 of 8 .*flagged:\n  {broken}: truncated: .*{path.name}"
    ) as caught:
        cohort.run_quality_control()
    refused = cohort.state / "refused.tsv"
    assert str(refused) in str(caught.value)
    table = read_table(refused)
    assert [row["participant_id"] for row in table] == NAMES
    assert [row["verdict"] for row in table] == ["error" if name == broken else "ok" for name in NAMES]
    (row,) = [row for row in table if row["participant_id"] == broken]
    assert row["flags"] == "truncated" and str(path) in row["reasons"]

    found = cohort.run_quality_control(policy="exclude")
    assert list(found) == NAMES
    assert [found[name].participant.included for name in NAMES] == [name != broken for name in NAMES]
    assert found[broken].participant.excluded.startswith(f"truncated: {path} ")
    assert not refused.exists()

    by_name = cohort.run_quality_control(data={"exclude": {broken: "cut off"}})
    assert by_name[broken].participant.excluded == "cut off" and broken not in cohort.read


def test_everybody_who_is_flagged_is_named_at_once(cohort):
    cohort.image("sub-01").write_bytes(b"")
    save_nifti(cohort.mask("sub-03"), np.zeros((32, 32, 32), np.uint8))
    cohort.image("sub-08").write_bytes(cohort.image("sub-06").read_bytes())
    with pytest.raises(DataError, match="4 of 8") as caught:
        cohort.run_quality_control()
    flags = dict(line.strip().split(": ")[:2] for line in str(caught.value).splitlines()[1:-2])
    assert flags == {
        "sub-01": "empty_file",
        "sub-03": "empty_mask",
        "sub-06": "duplicate_image",
        "sub-08": "duplicate_image",
    }


def test_more_broken_than_may_be_left_out_stop_the_run_with_the_table(cohort):
    for name in ("sub-01", "sub-05"):
        cohort.image(name).write_bytes(b"")
    with pytest.raises(DataError, match="quality.max_excluded is 1"):
        cohort.run_quality_control(policy="exclude", max_excluded=1)
    words = [row["verdict"] for row in read_table(cohort.state / "refused.tsv")]
    assert words.count("excluded") == 2


def test_what_was_measured_is_not_read_again(cohort):
    first = cohort.run_quality_control()
    again = cohort.run_quality_control()
    assert cohort.read == []
    assert again == first


def test_limits_and_policy_are_judged_anew_without_reading(cohort):
    cohort.run_quality_control()
    with pytest.raises(DataError, match="8 of 8"):
        cohort.run_quality_control(max_spacing_mm=5.0)
    assert cohort.read == []
    found = cohort.run_quality_control(max_spacing_mm=5.0, accept={"thick_slices": "all"})
    assert {verdict.word for verdict in found.values()} == {"shown"}


def test_a_mended_file_alone_is_read_again(cohort):
    good = cohort.mask("sub-02").read_bytes()
    cohort.mask("sub-02").write_bytes(b"")
    with pytest.raises(DataError, match="sub-02"):
        cohort.run_quality_control()
    cohort.mask("sub-02").write_bytes(good)
    assert cohort.run_quality_control()["sub-02"].word == "ok"
    assert cohort.read == ["sub-02"]


def test_a_file_of_the_same_size_and_another_time_is_read_again(cohort):
    cohort.run_quality_control()
    state = cohort.image("sub-03").stat()
    os.utime(cohort.image("sub-03"), ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    cohort.run_quality_control()
    assert cohort.read == ["sub-03"]


@pytest.mark.parametrize("data", [{"lesion_labels": "any"}, {"mask_grid": "resample"}])
def test_what_masks_mean_is_part_of_what_is_remembered(data, cohort):
    cohort.run_quality_control()
    cohort.run_quality_control(data=data)
    assert cohort.read == NAMES
    cohort.run_quality_control(data={**data, "two_dimensional": "include"})
    assert cohort.read == []


def test_another_version_of_the_measurement_reads_all_again(cohort, monkeypatch):
    cohort.run_quality_control()
    monkeypatch.setattr("slimdiff.data.quality.measure.MEASUREMENT_VERSION", 10**6)
    cohort.run_quality_control()
    assert cohort.read == NAMES


@pytest.mark.parametrize("content", ["", "{", "[]", '{"depends_on": 1}', "gone"])
def test_a_spoilt_record_costs_one_reading(content, cohort):
    first = cohort.run_quality_control()
    record = cohort.state / "sub-04.json"
    if content == "gone":
        (cohort.state / "sub-04.npz").unlink()
    else:
        record.write_text(content)
    assert cohort.run_quality_control() == first
    assert cohort.read == ["sub-04"]
    # Of the right form, with a fact that this version does not know.
    kept = json.loads(record.read_text())
    kept["measured"]["lesion_litres"] = 1
    record.write_text(json.dumps(kept))
    assert cohort.run_quality_control() == first
    assert cohort.read == ["sub-04"]


def test_planes_of_an_image_that_broke_are_gone(cohort):
    cohort.run_quality_control()
    cohort.image("sub-05").write_bytes(b"")
    cohort.run_quality_control(policy="exclude")
    assert not (cohort.state / "sub-05.npz").exists()
    assert (cohort.state / "sub-05.json").exists()


def test_an_empty_mask_becomes_a_control_on_request(cohort):
    save_nifti(cohort.mask("sub-03"), np.zeros((32, 32, 32), np.uint8))
    found = cohort.run_quality_control(data={"empty_mask": "control", "patients_without_mask": "control"})[
        "sub-03"
    ]
    assert (found.word, found.participant.mask) == ("ok", None)


def test_wrapped_intensities_a_mask_beside_the_head_and_a_turned_mask_are_found_in_files(cohort):
    image = head(1) * 270
    save_nifti(cohort.image("sub-01"), np.round(image).astype(np.int32).astype(np.int16))
    save_nifti(cohort.mask("sub-02"), ball((2, 2, 2), 2).astype(np.uint8))
    lesion = ball((12, 14, 16), 3.5)
    save_nifti(cohort.mask("sub-03"), lesion[::-1].astype(np.uint8))
    found = cohort.run_quality_control(policy="exclude")
    named = {name: [flag.name for flag in found[name].stopping] for name in NAMES[:4]}
    assert "intensity_overflow" in named["sub-01"]
    assert named["sub-02"] == ["lesion_outside_brain"]
    assert named["sub-03"] == ["flip_suspected"]
    assert named["sub-04"] == []


def test_processes_side_by_side_find_what_one_finds(cohort, tmp_path):
    cohort.image("sub-06").write_bytes(b"")
    one = cohort.run_quality_control(policy="exclude")
    cohort.state = tmp_path / "another"
    assert cohort.run_quality_control(workers=2, policy="exclude") == one


STOPPED = """
import sys, time
from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.quality import gate as gates, measure, planes
true_write = measure.write_object
def slow(path, record):
    # Between the planes and the record of the third one.
    if path.name == "sub-03.json":
        print("there", flush=True)
        time.sleep(60)
    true_write(path, record)
measure.write_object = slow
from pathlib import Path
root, state = map(Path, sys.argv[1:])
gates.run_quality_control(DataConfig(source="bids", root=str(root)), QualityConfig(max_spacing_mm=7.0), root, state, 1)
"""


def test_a_run_that_is_killed_leaves_no_half_file_and_goes_on_where_it_was(cohort):
    command = [sys.executable, "-c", STOPPED, str(cohort.root), str(cohort.state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout.readline() == "there\n"
        run.send_signal(signal.SIGKILL)
    names = {path.name for path in cohort.state.iterdir()}
    assert names == {
        f"sub-{n:02d}.{end}" for n, end in ((1, "json"), (1, "npz"), (2, "json"), (2, "npz"), (3, "npz"))
    }
    found = cohort.run_quality_control()
    assert cohort.read == NAMES[2:]
    assert {verdict.word for verdict in found.values()} == {"ok"}


def test_a_process_that_is_killed_is_an_error_that_says_so(cohort, tmp_path):
    # The signal that the kernel sends where memory runs out.
    script = """
import os, signal, sys
from pathlib import Path
from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError
from slimdiff.data.quality.gate import run_quality_control
if __name__ != "__main__":
    from slimdiff.data.quality import measure
    true_measure = measure.measure_volume
    def killed(row, data):
        if row.participant_id == "sub-04":
            os.kill(os.getpid(), signal.SIGKILL)
        return true_measure(row, data)
    measure.measure_volume = killed
else:
    root, state = map(Path, sys.argv[1:])
    try:
        config = DataConfig(source="bids", root=str(root))
        run_quality_control(config, QualityConfig(max_spacing_mm=7.0), root, state, 2)
    except DataError as error:
        print(error)
"""
    path = tmp_path / "killed.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, str(path), str(cohort.root), str(cohort.state)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    # At least one participant was measured before it, and its record is kept.
    assert list(cohort.state.glob("sub-0[1-3].json")), done.stderr
    assert "was killed" in done.stdout and "fewer than 2 workers" in done.stdout, done.stderr
    assert not [path for path in cohort.state.iterdir() if path.name.startswith(".")]
