"""Every rule asks for memory: more at each attempt, more for a larger study, and more than was measured."""

import csv
import re
import subprocess
import sys

import pytest
from helpers.workflow_runs import ROOT, write_study

pytest.importorskip("snakemake")

SCRIPT = ROOT / "benchmarks" / "speed" / "rule_memory.py"
TARGETS = {"all", "preprocessed", "trained", "generated"}
# Peaks in MB of the demo (--measure of the script), but of participants the sum of its workers.
MEASURED = {
    "phantom": 303,
    "participants": 291,
    "preprocess": 188,
    "quality": 110,
    "kfold": 54,
    "cache": 66,
    "priors": 81,
    "weights": 544,
    "train": 1610,
    "generate": 712,
    "metrics": 1268,
    "segmenter": 867,
    "utility": 916,
    "compare": 755,
    "figures": 254,
    "tables": 830,
    "provenance": 696,
    "export": 208,
}


def table(config, folder, *options) -> dict[str, dict[str, str]]:
    command = [sys.executable, str(SCRIPT), "--configfile", str(config), "--folder", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {row["rule"]: row for row in csv.DictReader(done.stdout.splitlines(), delimiter="\t")}


def first(rows) -> dict[str, int]:
    return {rule: int(row["request_mb"]) for rule, row in rows.items()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return table(ROOT / "config" / "demo.yaml", tmp_path_factory.mktemp("demo"))


def test_every_rule_asks_for_more_at_each_attempt(demo, tmp_path):
    # A study that is downloaded has another first rule.
    fetched = table(ROOT / "config" / "paper.yaml", tmp_path)
    written = {
        name
        for path in (ROOT / "workflow" / "rules").glob("*.smk")
        for name in re.findall(r"^ *rule (\w+):", path.read_text(), re.MULTILINE)
    }
    assert set(demo) | set(fetched) == written - TARGETS
    for rows in (demo, fetched):
        for rule, row in rows.items():
            asked = [int(row[column]) for column in ("request_mb", "second_mb", "third_mb")]
            assert asked == [asked[0], 2 * asked[0], 3 * asked[0]], rule


def test_every_rule_of_the_demo_asks_for_more_than_it_took_and_not_for_much_more(demo):
    assert set(MEASURED) == set(demo)
    for rule, asked in first(demo).items():
        assert asked > 1.25 * MEASURED[rule], rule
        # No job of the demo keeps others from a machine of 4 GB.
        assert asked <= 4000, rule


def test_a_larger_study_asks_for_more(tmp_path):
    small = first(table(write_study(tmp_path), tmp_path))
    changed = {
        "priors": {"preprocess": {"grid": [256, 256, 64]}},
        "cache": {"preprocess": {"grid": [256, 256, 64]}},
        "train": {"training": {"batch_size": 64}},
        "generate": {"generation": {"per_bin_and_class": 9000}},
        "metrics": {"generation": {"per_bin_and_class": 9000}},
        "utility": {"generation": {"per_bin_and_class": 9000}},
        "export": {"generation": {"per_bin_and_class": 9000}},
        "segmenter": {"utility": {"batch_size": 128}},
    }
    found: dict = {}
    for rule, changes in changed.items():
        key = str(changes)
        if key not in found:
            (tmp_path / rule).mkdir()
            found[key] = first(table(write_study(tmp_path / rule, **changes), tmp_path))
        assert found[key][rule] > 1.02 * small[rule], rule
    # Of 100,000 samples of 64 x 64 px the metrics took 1231 MB, in blocks.
    assert found[str(changed["metrics"])]["metrics"] < 5000


def test_a_job_with_a_card_asks_for_its_host_memory(tmp_path):
    config = ROOT / "config" / "paper.yaml"
    here, there = (first(table(config, tmp_path, *options)) for options in ((), ("--remote",)))
    # On a CPU the paper's training keeps the values of all layers in main memory.
    assert here["train"] > 12_500 > there["train"] > 6000
    assert there["generate"] > here["generate"]


def test_the_table_has_the_peak_of_the_largest_job(tmp_path):
    config = write_study(tmp_path)
    name = re.search(r"study\W+(\w+)", config.read_text())[1]
    folder = tmp_path / "results" / name / "benchmarks"
    (folder / "preprocess").mkdir(parents=True)
    head = "s\th:m:s\tmax_rss\tmax_vms\n"
    (folder / "preprocess" / "sub-01.tsv").write_text(f"{head}1.0\t0:00:01\t120.25\t600.0\n")
    (folder / "preprocess" / "sub-02.tsv").write_text(f"{head}1.0\t0:00:01\t250.00\t600.0\n")
    (folder / "kfold.tsv").write_text(f"{head}0.1\t0:00:00\t-\t-\n")
    rows = table(config, tmp_path)
    assert (rows["preprocess"]["jobs"], rows["preprocess"]["peak_mb"], rows["preprocess"]["ratio"]) == (
        "2",
        "250",
        "10.0",
    )
    assert (rows["kfold"]["peak_mb"], rows["kfold"]["ratio"]) == ("n/a", "n/a")


def test_the_peak_of_a_command_is_measured(tmp_path):
    command = [sys.executable, "-c", "x = bytearray(300 * 2**20); x[::4096] = b'1' * len(x[::4096])"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--measure", *command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 300 < int(re.match(r"(\d+) MB", done.stdout)[1]) < 400


def test_the_snakemake_within_a_job_does_not_import_torch(tmp_path):
    """On a cluster two of them are around each job: torch takes 500 MB and seconds in each."""
    write_study(tmp_path)
    command = [sys.executable, "-X", "importtime", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    imports = {}
    for mode in ("default", "remote"):
        done = subprocess.run(
            [
                *command,
                "--mode",
                mode,
                "--cores",
                "1",
                "--configfile",
                "study.json",
                "-n",
                "results/tiny/folds.tsv",
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        imports[mode] = re.findall(r"\| +torch$", done.stderr, re.MULTILINE)
    assert imports["default"]
    assert not imports["remote"]


def test_a_job_on_another_machine_asks_for_the_snakemake_around_it(tmp_path):
    study = write_study(tmp_path, generation={"device": "cpu"}, training={"device": "cpu"})
    here, there = (first(table(study, tmp_path, *options)) for options in ((), ("--remote",)))
    for rule in ("kfold", "preprocess", "generate", "tables", "metrics"):
        assert there[rule] >= here[rule] + 300, rule
