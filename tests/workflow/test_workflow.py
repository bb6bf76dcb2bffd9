"""What the engine would do: the jobs of an untouched clone, and what a changed section makes again."""

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic import head, save_nifti, write_bids
from workflow_runs import ROOT, job_counts, snakemake

from slimdiff import weights
from slimdiff.config import load_study
from slimdiff.files import read_table


def write_study(folder: Path, **changes) -> Path:
    """A study of a few phantoms, with `changes` as section={key: value}."""
    study = {
        "study": "tiny",
        "data": {"source": "phantom", "phantom": {"patients": 3, "controls": 1}},
        "preprocess": {"spacing_mm": 6.25, "grid": [32, 32, 32]},
        "slices": {"z_range": [10, 24], "n_bins": 3, "min_lesion_mm2": 0},
        "folds": {"k": 2},
        "model": {"channels": [16, 32], "attention": [False, True], "norm_groups": 8, "head_channels": 16},
        "training": {"steps": 2, "batch_size": 2},
        "generation": {"evaluations": 2, "per_bin_and_class": 2},
        "utility": {"steps": 2, "shares": [0.5, 1.0], "channels": [16, 16], "batch_size": 4},
    }
    for section, values in changes.items():
        study[section] = {**study.get(section, {}), **values}
    path = folder / "study.json"
    path.write_text(json.dumps(study))
    return path


def test_an_untouched_clone_lists_every_job(tmp_path):
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
        "quality_sheet": 1,
        "folds": 1,
        "cache": 1,
        "priors": k,
    }
    expected |= {
        "train": cells,
        "generate": cells * study.slices.n_bins,
        "metrics": cells,
        "segmenter": k,
        "utility": cells,
        "summary": 1,
        "comparison": 1,
        "all": 1,
    }
    assert expected.items() <= counts.items()
    assert set(counts) - set(expected) == {"figures", "tables", "provenance"}
    assert not list((tmp_path / "results").glob("**/*.tsv"))


def test_segmenters_of_real_slices_are_trained_once_a_fold_or_not_at_all(tmp_path):
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


# Section: a change of one key, and the rules that it makes again.
CHANGES = {
    "report": ({"dpi": 90}, {"figures", "tables", "provenance"}),
    "evaluation": (
        {"lpips_pairs": 20},
        {"metrics", "summary", "comparison", "figures", "tables", "provenance"},
    ),
    "generation": (
        {"evaluations": 3},
        {"generate", "utility", "metrics", "summary", "comparison", "figures", "tables", "provenance"},
    ),
    "training": (
        {"steps": 3},
        {
            "train",
            "generate",
            "utility",
            "metrics",
            "summary",
            "comparison",
            "figures",
            "tables",
            "provenance",
        },
    ),
    "priors": ({"threshold": 0.3}, {"priors", "provenance"}),
    "utility": (
        {"steps": 3},
        {"segmenter", "utility", "summary", "comparison", "figures", "tables", "provenance"},
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny study that the engine ran from phantom to report."""
    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"extractor weights: {error}")
    folder = tmp_path_factory.mktemp("study")
    done = snakemake("--cores", "2", "--configfile", str(write_study(folder)), folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def planned(folder: Path, config: Path, *arguments: str) -> set[str]:
    # Targets come first: --configfile takes every word after it.
    done = snakemake(*arguments, "--dry-run", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stderr
    return set(job_counts(done.stdout)) - {"all"} if "Job stats:" in done.stdout else set()


def test_the_run_ends_by_saying_where_the_report_is(finished):
    folder, done = finished
    assert (done.stdout + done.stderr).strip().splitlines()[-1].endswith("report: results/tiny/report.html")
    page = (folder / "results" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "(ERROR/3)" not in page and "metrics_by_variant" in page


def test_a_second_run_has_nothing_to_do(finished, tmp_path):
    folder, _ = finished
    assert planned(folder, write_study(tmp_path)) == set()


@pytest.mark.parametrize("section", CHANGES)
def test_a_changed_section_makes_only_its_stage_and_what_follows(finished, tmp_path, section):
    folder, _ = finished
    change, expected = CHANGES[section]
    found = planned(folder, write_study(tmp_path, **{section: change}))
    assert found == expected


def test_one_variant_more_trains_one_variant_more(finished, tmp_path):
    folder, _ = finished
    config = write_study(tmp_path, variants={"base": {}, "p2": {"diffusion": {"loss": {"p_image": 2.0}}}})
    done = snakemake("--dry-run", "--configfile", str(config), folder=folder)
    counts = job_counts(done.stdout)
    assert counts["train"] == 2 and counts["generate"] == 6 and "preprocess" not in counts


def test_a_single_target_is_made_again_by_name(finished, tmp_path):
    folder, _ = finished
    target = "results/tiny/metrics/base/fold-1/metrics.tsv"
    path = folder / target
    before = path.read_bytes()
    path.unlink()
    config = write_study(tmp_path)
    assert planned(folder, config, target) == {"metrics"}
    done = snakemake(target, "--cores", "2", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"chanels": [16]}}, ["model.chanels", "did you mean channels?"]),
        ({"training": {"steps": "many"}}, ["training.steps", '"many"', "integer"]),
        ({"slices": {"z_range": [10, 40]}}, ["slices.z_range", "[10, 40]", "0 to 31"]),
        ({"folds": {"k": 4}}, ["folds.k", "4 folds", "at most 3"]),
        ({"evaluation": {"extractors": ["resnet"]}}, ["evaluation.extractors", '"resnet"', "alexnet"]),
        ({"data": {"source": "bids", "root": "nowhere"}}, ["data.root", "nowhere"]),
    ],
)
def test_an_impossible_study_stops_before_the_first_job(tmp_path, changes, words):
    done = snakemake("--cores", "1", "--configfile", str(write_study(tmp_path, **changes)), folder=tmp_path)
    assert done.returncode != 0
    for word in words:
        assert word in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()


def test_braces_in_a_path_are_refused_by_name(tmp_path):
    root = write_bids(tmp_path / "in{1}", patients=3, controls=1)
    config = write_study(tmp_path, data={"source": "bids", "root": str(root)})
    done = snakemake("preprocessed", "--dry-run", "--configfile", str(config), folder=tmp_path)
    assert done.returncode != 0
    assert "sub-01_FLAIR.nii.gz: braces in a path" in done.stdout + done.stderr


def test_volumes_are_made_again_where_their_own_files_or_settings_changed_and_nowhere_else(tmp_path):
    """Also where quality control has to run again in the same breath."""
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
    later = time.time() + 2
    mask.write_bytes(gzip.compress(gzip.decompress(mask.read_bytes()), mtime=1))
    os.utime(mask, (later, later))
    assert volumes() == 1
    assert participants == [1, 0, 1, 1, 1]
    # Quality control makes a control of a patient without lesion; then its volume has no mask.
    own["data"] |= {"empty_mask": "control"}
    save_nifti(root / "sub-03" / "anat" / "sub-03_FLAIR_roi.nii.gz", np.zeros((32, 32, 32), np.uint8))
    config = write_study(tmp_path, **own)
    done = snakemake("preprocessed", "--cores", "2", "--configfile", str(config), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert volumes() == 0
    # One more; the others stay.
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
    os.utime(image, (later + 60, later + 60), follow_symlinks=False)
    assert volumes() == 2


def test_a_failing_job_leaves_no_half_written_file_and_keeps_the_rest(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    # The training has no device of this kind, so the job fails after the store was opened.
    config = write_study(tmp_path, training={"device": "mps", "steps": 3})
    model = folder / "results" / "tiny" / "models" / "base" / "fold-0"
    store = folder / "results" / "tiny" / "slices" / "images.npy"
    before = store.read_bytes()
    target = str(model.relative_to(folder) / "history.tsv")
    done = snakemake(target, "--cores", "1", "--configfile", str(config), folder=folder)
    assert done.returncode != 0
    assert "device mps" in done.stdout + done.stderr
    assert not [path for path in model.rglob("*") if path.is_file() and path.name.startswith(".")]
    assert store.read_bytes() == before
    again = snakemake(target, "--cores", "1", "--configfile", str(write_study(tmp_path)), folder=folder)
    assert again.returncode == 0, again.stderr
    assert job_counts(again.stdout + again.stderr) == {"train": 1}


KILL_ONCE = """
# Read by every Python of the run: the first training is killed at its 8th step, the next goes on.
import os, signal, sys
from pathlib import Path

if any(word.endswith("slimdiff-train") for word in sys.orig_argv):
    from slimdiff.training.trainer import Trainer

    advance, marker = Trainer.advance, Path(os.environ["SLIMDIFF_TEST_MARKER"])

    def once(self):
        if self.step == 8 and not marker.exists():
            marker.write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self)

    Trainer.advance = once
"""


def test_f13_a_killed_training_is_retried_from_its_state(finished, tmp_path, monkeypatch):
    """Through the engine: killed with -9, its outputs deleted, tried again, and bit-equal to an untouched run."""
    training = {"steps": 12, "save_every": 3, "log_every": 2}
    models = []
    for name, hook in (("whole", ""), ("killed", KILL_ONCE)):
        folder = tmp_path / name
        shutil.copytree(finished[0], folder)
        (tmp_path / "hook" / name).mkdir(parents=True)
        (tmp_path / "hook" / name / "sitecustomize.py").write_text(hook)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook" / name))
        monkeypatch.setenv("SLIMDIFF_TEST_MARKER", str(tmp_path / "marker"))
        config = write_study(folder, training=training)
        target = "results/tiny/models/base/fold-0/model.safetensors"
        done = snakemake(target, "--cores", "1", "--retries", "1", "--configfile", str(config), folder=folder)
        assert done.returncode == 0, done.stderr
        models.append((folder / target).read_bytes())
        log = (folder / "results/tiny/logs/train/base_fold-0.log").read_text()
    assert (tmp_path / "marker").exists()
    assert "going on from step 6 of 12" in log
    assert models[0] == models[1]


def test_the_export_is_a_job_of_its_own_and_no_part_of_all(finished, tmp_path):
    folder, _ = finished
    assert not (folder / "results" / "tiny" / "export").exists()
    assert planned(folder, write_study(tmp_path), "export") == {"export"}
    # Its own section concerns nothing else.
    assert planned(folder, write_study(tmp_path, export={"tau": 0.1})) == {"provenance"}


def test_counts_and_priors_are_inputs_of_what_is_drawn_by_them(finished, tmp_path):
    folder, _ = finished
    drawn = {"generate", "utility", "metrics", "summary", "comparison", "figures", "tables", "provenance"}
    (folder / "counts.tsv").write_text("z_bin\tclass\tn\n0\t1\t3\n")
    change = {"counts": "counts.tsv", "per_bin_and_class": 100}
    assert planned(folder, write_study(tmp_path, generation=change)) == drawn
    (folder / "counts.tsv").unlink()
    done = snakemake(
        "--dry-run", "--configfile", str(write_study(tmp_path, generation=change)), folder=folder
    )
    assert done.returncode != 0
    assert "counts.tsv: no such table of counts" in done.stderr + done.stdout
    # The study's own slices, which it makes itself: from the first job on.
    change = {"counts": "results/tiny/slices/slices.tsv", "per_bin_and_class": 100}
    done = snakemake(
        "--dry-run", "--configfile", str(write_study(tmp_path, generation=change)), folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    config = write_study(tmp_path, generation={"background": "prior"}, priors={"threshold": 0.3})
    done = snakemake("--dry-run", "--configfile", str(config), folder=folder)
    assert {"priors", *drawn} <= set(job_counts(done.stdout))


def test_f1_a_chain_that_starts_with_signal_left_is_refused_before_the_first_job(tmp_path):
    for evaluations, fits in ((250, True), (300, False)):
        change = {"sampler": "ddim", "spacing": "leading", "evaluations": evaluations}
        config = write_study(tmp_path, generation=change)
        done = snakemake("--dry-run", "--configfile", str(config), folder=tmp_path)
        assert (done.returncode == 0) == fits
        if not fits:
            assert "variants.base: generation: the chain starts" in done.stdout + done.stderr
            assert "sqrt(alpha_bar) is 0.158" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_study_with_matched_counts_runs_to_its_report_and_export(finished, tmp_path):
    """With a z-bin of which no sample is asked, and one without lesions."""
    folder, _ = finished
    (folder / "counts.tsv").write_text("z_bin\tclass\tn\n0\t0\t6\n0\t1\t4\n2\t0\t5\n")
    change = {"counts": "counts.tsv", "per_bin_and_class": 100, "background": "prior"}
    config = write_study(tmp_path, generation=change)
    done = snakemake("all", "export", "--cores", "2", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_table(folder / "results" / "tiny" / "samples" / "base" / "fold-0" / "zbin-00.tsv")
    assert [row["class"] for row in rows].count("1") == 4 and len(rows) == 10


@pytest.mark.slow
def test_a_study_of_two_real_patients_runs_to_its_report(shared_data, tmp_path):
    """config/open_ms.yaml, its volumes and all its stages; the training is cut short."""
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
