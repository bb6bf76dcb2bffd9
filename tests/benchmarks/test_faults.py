"""benchmarks/faults.py: what it compares, what it leaves out, and that each kind of kill ends an engine."""

import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import faults  # noqa: E402

HISTORY = "step\tloss\timages_per_s\tmemory_mb\n2\t{loss}\t{speed}\t{speed}\n"


def results(folder: Path, loss: float = 0.5, speed: float = 3.0) -> Path:
    """A folder with some files as a study has them."""
    model = folder / "results" / faults.STUDY / "models" / "base" / "fold-0"
    (model / "state").mkdir(parents=True)
    (model / "history.tsv").write_text(HISTORY.format(loss=loss, speed=speed))
    (model / "state" / "last.pt").write_text(f"{speed}")
    (folder / "results" / faults.STUDY / "logs" / "train").mkdir(parents=True)
    (folder / "results" / faults.STUDY / "logs" / "train" / "base.log").write_text(f"{speed}")
    (folder / "results" / faults.STUDY / "folds.tsv").write_text("participant\tfold\n")
    return folder


def test_speeds_are_no_difference_and_losses_are(tmp_path):
    wanted = faults.hashes_of(results(tmp_path / "reference"))
    assert sorted(wanted) == ["folds.tsv", "models/base/fold-0/history.tsv"]
    assert faults.difference(faults.hashes_of(results(tmp_path / "slow", speed=1.0)), wanted) == faults.EQUAL
    other = faults.hashes_of(results(tmp_path / "other", loss=0.6))
    assert faults.difference(other, wanted) == "different: models/base/fold-0/history.tsv"


def test_missing_and_temporary_files_are_a_difference(tmp_path):
    wanted = faults.hashes_of(results(tmp_path / "reference"))
    table = results(tmp_path / "killed") / "results" / faults.STUDY / "folds.tsv"
    table.rename(table.with_name(".folds.tsv.0a1b2c3d.tsv"))
    said = faults.difference(faults.hashes_of(tmp_path / "killed"), wanted)
    assert "temporary files: .folds.tsv.0a1b2c3d.tsv" in said and "missing: folds.tsv" in said


@pytest.mark.parametrize("kind", faults.KINDS)
def test_each_kind_of_kill_ends_an_engine_within_its_job(kind, tmp_path, monkeypatch):
    script = tmp_path / "slimdiff-wait"
    script.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(4)\n")
    script.chmod(0o755)
    (tmp_path / "Snakefile").write_text(
        'rule wait:\n    output: "made"\n    shell: "slimdiff-wait && exit 3"\n'
    )
    (tmp_path / "study.json").write_text(json.dumps({}))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(faults, "ROOT", tmp_path)
    engine = faults.Engine(tmp_path, tmp_path / "study.json", 1)
    deadline = time.monotonic() + 60
    while not engine.jobs() and engine.status is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.kill(kind, "wait") == ["wait"], engine.last_words()
    engine.end()
    assert engine.status
    assert not (tmp_path / "made").exists()
