"""Planned jobs of a fresh clone, and those that a changed section reruns."""

import csv
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from helpers.kills import partials
from helpers.report_browser import check_index, check_report, check_samples
from helpers.workflow_runs import ROOT, job_counts, snakemake, write_study

from slimdiff.config import load_study
from slimdiff.files import read_table


def test_a_fresh_clone_lists_every_job(tmp_path):
    study = load_study(ROOT / "config" / "demo.yaml")
    done = snakemake("--dry-run", "--configfile", str(ROOT / "config" / "demo.yaml"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout)
    subjects, k = study.data.phantom.patients + study.data.phantom.controls, study.folds.k
    cells = k * len(study.variants)
    expected = {
        "phantom": 1,
        "participants": 1,
        "preprocess": subjects,
        "quality": 1,
        "kfold": 1,
        "cache": 1,
        "priors": k,
        "weights": 1,
    }
    expected |= {
        "train": cells,
        "generate": cells * study.slices.n_bins,
        "metrics": cells,
        "segmenter": k,
        "utility": cells,
        "compare": 1,
        "all": 1,
    }
    assert expected.items() <= counts.items()
    assert set(counts) - set(expected) == {"figures", "tables", "provenance"}
    assert not list((tmp_path / "results").glob("**/*.tsv"))


def test_segmenters_of_real_slices_are_trained_once_per_fold_or_not_at_all(tmp_path):
    variants = {"base": {}, "p2": {"diffusion": {"loss": {"p_image": 2.0}}}}
    counts = []
    for enabled in (True, False):
        study = write_study(tmp_path, variants=variants, utility={"enabled": enabled})
        done = snakemake("--dry-run", "--configfile", str(study), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        counts.append(job_counts(done.stdout))
    assert (counts[0]["segmenter"], counts[0]["utility"]) == (2, 4)
    assert not {"segmenter", "utility"} & set(counts[1])


@pytest.mark.parametrize(
    ("device", "settings", "processes"), [("auto", [], 1), ("cpu", [], 0), ("auto", ["train:gpu=2"], 2)]
)
def test_a_training_has_as_many_processes_as_gpus(tmp_path, device, settings, processes):
    study = write_study(tmp_path, training={"device": device})
    arguments = ["--set-resources", *settings] if settings else []
    done = snakemake("--dry-run", "--printshellcmds", "--configfile", str(study), *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"--processes {processes} 2>&1") == 2


# Section: a change of one key, and the rules that it reruns.
CHANGES = {
    "report": ({"dpi": 90}, {"figures", "tables", "provenance"}),
    "evaluation": (
        {"lpips_pairs": 20},
        {"metrics", "compare", "figures", "tables", "provenance"},
    ),
    "generation": (
        {"evaluations": 3},
        {"generate", "utility", "metrics", "compare", "figures", "tables", "provenance"},
    ),
    "training": (
        {"steps": 3},
        {
            "train",
            "generate",
            "utility",
            "metrics",
            "compare",
            "figures",
            "tables",
            "provenance",
        },
    ),
    "utility": (
        {"steps": 3},
        {"segmenter", "utility", "compare", "figures", "tables", "provenance"},
    ),
}


def planned(folder: Path, config: Path, *arguments: str) -> set[str]:
    # Targets come first: --configfile takes every word after it.
    done = snakemake(*arguments, "--dry-run", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stderr
    return set(job_counts(done.stdout)) - {"all"} if "Job stats:" in done.stdout else set()


def test_the_run_ends_with_the_path_of_the_report(whole_run):
    folder, output = whole_run
    assert output.strip().splitlines()[-1].endswith("report: results/tiny/report.html")
    page = (folder / "results" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "(ERROR/3)" not in page and "metrics_by_variant" in page


def test_the_report_answers_first_and_everything_is_two_clicks_away(finished):
    folder = finished
    root = folder / "results" / "tiny"
    check_report(root)
    check_index(root)
    check_samples(root / "tables" / "samples_base.html")


def test_a_second_run_has_nothing_to_do(finished, tmp_path):
    folder = finished
    assert planned(folder, write_study(tmp_path)) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stage_reads_only_files_that_its_rule_names(whole_run):
    """A file that is read but not an input of the rule may not exist yet, or be of an earlier run."""
    folder, _ = whole_run
    results = folder / "results" / "tiny"
    # Kept between jobs: measured volumes, features of slices, the phantom's list of its files, and Snakemake's times,
    # which provenance and tables read.
    kept = tuple(f"{results / name}/" for name in ("quality", "metrics/features", "benchmarks"))
    kept += (str(results / "phantom" / ".slimdiff-phantom.json"),)
    done = snakemake("--detailed-summary", "--configfile", str(folder / "study.json"), folder=folder)
    assert done.returncode == 0, done.stderr
    inputs: dict[str, set[str]] = {}
    outputs: dict[str, set[str]] = {}
    for row in csv.DictReader(done.stdout.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        for command in row["shellcmd"].split("&&"):
            words = shlex.split(command)
            command = " ".join(words[: words.index("2>&1")] if "2>&1" in words else words)
            inputs.setdefault(command, set()).update(
                str(folder / name) for name in row["input-file(s)"].split(",")
            )
            outputs.setdefault(command, set()).add(str(folder / row["output_file"]))
    seen, unnamed = set(), set()
    for path in (folder / "recorded").glob("[0-9]*"):
        words, *opened = path.read_text(encoding="utf-8").split("\0")[:-1]
        stage, *words = words.split("\n")
        stage = Path(stage).name
        command = " ".join([stage, *words])
        seen.add(stage)
        named, jobs = set(), {command}  # what this job, those that it waits for, and those before them write
        for _ in outputs:
            named |= set().union(*(outputs[job] | inputs[job] for job in jobs))
            jobs |= {job for job, made in outputs.items() if made & named}
        written = {name.removeprefix("write ") for name in opened if name.startswith("write ")}
        # The seal of a table belongs to it.
        read = {
            re.sub(r"/\.([^/]+)\.sha256$", r"/\1", name.removeprefix("read "))
            for name in opened
            if name.startswith("read ")
        }
        unnamed |= {
            f"{stage} reads {name.removeprefix(str(folder))}"
            for name in read - written - named
            if name.startswith(f"{results}/") and not name.startswith(kept) and Path(name).is_file()
        }
    assert {"slimdiff-cache", "slimdiff-train", "slimdiff-metrics", "slimdiff-tables"} <= seen
    assert not unnamed, "\n".join(sorted(unnamed))


@pytest.mark.parametrize("section", CHANGES)
def test_a_changed_section_reruns_only_its_stage_and_later_ones(finished, tmp_path, section):
    folder = finished
    change, expected = CHANGES[section]
    found = planned(folder, write_study(tmp_path, **{section: change}))
    assert found == expected


def test_a_new_variant_trains_only_that_variant(finished, tmp_path):
    folder = finished
    config = write_study(tmp_path, variants={"base": {}, "p2": {"diffusion": {"loss": {"p_image": 2.0}}}})
    done = snakemake("--dry-run", "--configfile", str(config), folder=folder)
    counts = job_counts(done.stdout)
    assert counts["train"] == 2 and counts["generate"] == 6 and "preprocess" not in counts


def test_a_single_target_can_be_rebuilt_by_name(finished, tmp_path):
    folder = finished
    target = "results/tiny/metrics/base/fold-1/metrics.tsv"
    path = folder / target
    before = path.read_bytes()
    path.unlink()
    config = write_study(tmp_path)
    assert planned(folder, config, target) == {"metrics"}
    done = snakemake(target, "--cores", "2", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before


def test_a_failing_job_leaves_no_half_written_file_and_keeps_the_rest(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    # The training has no device of this kind, so the job fails after the store was opened.
    config = write_study(tmp_path, training={"device": "mps", "steps": 3})
    model = folder / "results" / "tiny" / "models" / "base" / "fold-0"
    store = folder / "results" / "tiny" / "slices" / "images.npy"
    before = store.read_bytes()
    target = str(model.relative_to(folder) / "history.tsv")
    done = snakemake(target, "--cores", "1", "--configfile", str(config), folder=folder)
    assert done.returncode != 0
    assert "device mps" in done.stdout + done.stderr
    assert partials(model) == []
    assert store.read_bytes() == before
    again = snakemake(target, "--cores", "1", "--configfile", str(write_study(tmp_path)), folder=folder)
    assert again.returncode == 0, again.stderr
    assert job_counts(again.stdout + again.stderr) == {"train": 1}


def test_keys_that_only_log_train_nothing(finished, tmp_path):
    changes = {
        "preview_every": 1,
        "log_every": 1,
        "save_every": 1,
        "tensorboard": False,
        "wandb_project": "x",
    }
    assert planned(finished, write_study(tmp_path, training=changes)) == {"provenance"}


def test_more_steps_follow_the_finished_training(finished, tmp_path):
    """Its outputs are deleted before the job; its state is not."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    config = write_study(folder, training={"steps": 3})
    target = "results/tiny/models/base/fold-0/model.safetensors"
    done = snakemake(target, "--cores", "1", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (folder / "results/tiny/logs/train/base_fold-0.log").read_text()
    assert "resuming at step 2 of 3" in log
    rows = read_table((folder / target).with_name("history.tsv"))
    assert [row["step"] for row in rows] == ["2", "3"]


KILL_ONCE = """
# Read by every Python of the run: the first training is killed at its 8th step, the next resumes.
import os, signal, sys
from pathlib import Path

if any(word.endswith("slimdiff-train") for word in sys.orig_argv):
    from slimdiff.training.trainer import Trainer

    advance, marker = Trainer.advance, Path(os.environ["SLIMDIFF_TEST_MARKER"])

    def once(self, **options):
        if self.step == 8 and not marker.exists():
            marker.write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self, **options)

    Trainer.advance = once
"""


def test_f13_a_killed_training_is_retried_from_its_state(finished, tmp_path, monkeypatch):
    """Killed with SIGKILL, its outputs deleted, retried by Snakemake, and bit-equal to an uninterrupted run."""
    training = {"steps": 12, "save_every": 3, "log_every": 2}
    models, path = [], os.environ.get("PYTHONPATH")
    for name, hook in (("whole", ""), ("killed", KILL_ONCE)):
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        (tmp_path / "hook" / name).mkdir(parents=True)
        (tmp_path / "hook" / name / "sitecustomize.py").write_text(hook)
        hooks = os.pathsep.join(filter(None, (str(tmp_path / "hook" / name), path)))
        monkeypatch.setenv("PYTHONPATH", hooks)
        monkeypatch.setenv("SLIMDIFF_TEST_MARKER", str(tmp_path / "marker"))
        config = write_study(folder, training=training)
        target = "results/tiny/models/base/fold-0/model.safetensors"
        done = snakemake(target, "--cores", "1", "--retries", "1", "--configfile", str(config), folder=folder)
        assert done.returncode == 0, done.stderr
        models.append((folder / target).read_bytes())
        log = (folder / "results/tiny/logs/train/base_fold-0.log").read_text()
    assert (tmp_path / "marker").exists()
    assert "resuming at step 6 of 12" in log
    assert models[0] == models[1]


@pytest.mark.parametrize("log", ["train/base_fold-0", "generate/base_fold-0_zbin-00", "segmenter/fold-0"])
def test_a_log_begins_with_the_device_that_auto_took(finished, log):
    text = (finished / "results" / "tiny" / "logs" / f"{log}.log").read_text()
    assert text.startswith("device auto: took ")


def test_weights_are_fetched_before_the_first_training_and_a_change_of_them_trains_nothing(
    whole_run, finished, tmp_path
):
    folder, (_, output) = finished, whole_run
    assert output.index("weights of alexnet") < output.index("train base, fold 0")
    assert planned(folder, write_study(tmp_path), "--forcerun", "weights") == {"weights"}
    later = {"metrics", "compare", "figures", "tables", "provenance"}
    more = write_study(tmp_path, evaluation={"extractors": ["alexnet", "efficientnet"]})
    assert planned(folder, more) == {"weights", *later}
    # A record that was deleted makes no model again.
    record = folder / "results" / "tiny" / "weights" / "alexnet.json"
    before = record.read_text()
    record.unlink()
    try:
        assert planned(folder, write_study(tmp_path)) <= {"weights"}
    finally:
        record.write_text(before)


TWO_CARDS = """
# Read by every Python of the run: two cards, on which a training waits for the other one. It computes on the CPU.
import os, sys, time
from pathlib import Path

from slimdiff import cards

card = cards.Card("A card", (9, 0))
cards.nvidia_driver = lambda: cards.Driver((13, 2), (card, card))
cards.torch_build = lambda: cards.Build("2.15.0+cu132", (13, 2), ("sm_90",))

if any(word.endswith("slimdiff-train") for word in sys.orig_argv):
    import torch

    from slimdiff import devices

    place = Path(os.environ["SLIMDIFF_TEST_MARKER"])

    def own_card():
        index = cards.claim(1, 2)[0]
        (place / f"{os.getpid()}.card-{index}").touch()
        end = time.monotonic() + 100
        while len(list(place.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        return torch.device("cpu")

    pick, truly = devices.pick_device, torch.cuda.is_available

    def pick_device(name, **options):
        torch.cuda.is_available = lambda: True
        try:
            return pick(name, **options)
        finally:
            torch.cuda.is_available = truly

    devices._own_card, devices.pick_device = own_card, pick_device
"""


def test_trainings_at_the_same_time_have_cards_of_their_own(finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    for name in ("hook", "marker", "locks"):
        (tmp_path / name).mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(TWO_CARDS)
    for name in ("CUDA_VISIBLE_DEVICES", "SLIMDIFF_GPUS"):
        monkeypatch.delenv(name, raising=False)
    environment = {
        "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}",
        "SLIMDIFF_TEST_MARKER": str(tmp_path / "marker"),
        "TMPDIR": str(tmp_path / "locks"),
    }
    config = write_study(folder, training={"steps": 3})
    arguments = ("trained", "--cores", "2", "--resources", "gpu=2", "--configfile", str(config))
    done = snakemake(*arguments, folder=folder, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "check of tiny: ready" in done.stderr
    found = sorted(path.suffix for path in (tmp_path / "marker").iterdir())
    assert found == [".card-0", ".card-1"]


def test_the_export_is_a_separate_job_and_not_part_of_all(finished, tmp_path):
    folder = finished
    assert not (folder / "results" / "tiny" / "export").exists()
    assert planned(folder, write_study(tmp_path), "export") == {"export"}
    # Its section affects only the provenance.
    assert planned(folder, write_study(tmp_path, export={"tau": 0.1})) == {"provenance"}


def test_counts_and_priors_are_inputs_of_generation(finished, tmp_path):
    folder = finished
    drawn = {"generate", "utility", "metrics", "compare", "figures", "tables", "provenance"}
    (folder / "counts.tsv").write_text("z_bin\tclass\tn\n0\t1\t3\n")
    change = {"counts": "counts.tsv", "per_bin_and_class": 100}
    assert planned(folder, write_study(tmp_path, generation=change)) == drawn
    (folder / "counts.tsv").unlink()
    done = snakemake(
        "--dry-run", "--configfile", str(write_study(tmp_path, generation=change)), folder=folder
    )
    assert done.returncode != 0
    assert "counts.tsv: not found, but generation.counts names it" in done.stderr + done.stdout
    # Slices that the study itself makes are not required before the first job.
    change = {"counts": "results/tiny/slices/slices.tsv", "per_bin_and_class": 100}
    done = snakemake(
        "--dry-run", "--configfile", str(write_study(tmp_path, generation=change)), folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    config = write_study(tmp_path, generation={"background": "prior"})
    done = snakemake("--dry-run", "--configfile", str(config), "--forcerun", "priors", folder=folder)
    assert {"priors", *drawn} <= set(job_counts(done.stdout))


@pytest.mark.slow
def test_a_study_with_matched_counts_runs_to_its_report_and_export(finished, tmp_path):
    """With one z-bin without samples, and one without lesions."""
    folder = finished
    (folder / "counts.tsv").write_text("z_bin\tclass\tn\n0\t0\t6\n0\t1\t4\n2\t0\t5\n")
    change = {"counts": "counts.tsv", "per_bin_and_class": 100, "background": "prior"}
    config = write_study(tmp_path, generation=change)
    done = snakemake("all", "export", "--cores", "2", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_table(folder / "results" / "tiny" / "samples" / "base" / "fold-0" / "zbin-00.tsv")
    assert [row["class"] for row in rows].count("1") == 4 and len(rows) == 10
