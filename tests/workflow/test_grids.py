"""Dry runs of the ds004199 studies before and after the download of the dataset."""

import csv
import functools
import json
import shutil
from pathlib import Path

import pytest
from helpers.synthetic import ds004199_patients, ds004199_two_dimensional, write_ds004199
from helpers.workflow_runs import ROOT, job_counts, snakemake

from slimdiff.config import load_study
from slimdiff.data.fetch.download import read_file_manifest
from slimdiff.data.sources import discover
from slimdiff.data.volumes.input_fingerprint import MADE_OF, SETTINGS, made_of, short_hash
from slimdiff.stages import config_of

ONCE = (
    "fetch",
    "participants",
    "kfold",
    "cache",
    "compare",
    "figures",
    "tables",
    "provenance",
    "quality",
    "all",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a complete data/ds004199."""
    folder = tmp_path_factory.mktemp("made")
    write_ds004199(folder / "data" / "ds004199")
    return folder


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """A folder without data."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """An interrupted download: every second file is complete, and one is partial."""
    folder = tmp_path_factory.mktemp("half")
    root = write_ds004199(folder / "data" / "ds004199")
    for number, file in enumerate(read_file_manifest("ds004199").files_for()):
        if number % 2:
            (root / file.path).unlink()
    partial = next(
        file.path for file in read_file_manifest("ds004199").files if file.path.name.endswith("FLAIR.nii.gz")
    )
    (root / partial).with_name(f".{partial.name}.part").write_bytes(b"half")
    return folder


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, shared_data) -> Path:
    """The dataset's own participants.tsv and sidecars, empty images, and the record of a complete download."""
    folder = tmp_path_factory.mktemp("fetched")
    source = shared_data / "ds004199"
    root = write_ds004199(folder / "data" / "ds004199")
    for sidecar in (source / "sidecars").glob("*.json"):
        shutil.copy(sidecar, root / sidecar.name.split("_")[0] / "anat")
    shutil.copy(source / "participants.tsv", root)
    record = folder / "results" / "paper" / "fetched.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    return folder


@functools.cache
def plan_of(folder: Path, config: str) -> str:
    """The dry run of a shipped study; it does not change the folder."""
    return plan(folder, ROOT / "config" / config)


def plan(folder: Path, config: Path, *targets: str) -> str:
    done = snakemake(*targets, "--dry-run", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def planned(folder: Path, config: str) -> dict[str, int]:
    return job_counts(plan_of(folder, config))


def expected_jobs(subjects: int, variants: int, extractors: int, folds: int = 1) -> dict[str, int]:
    """Jobs of a study with 30 z-bins whose trainings and metrics read the weights of so many extractors."""
    cells = variants * folds
    return {
        **dict.fromkeys(ONCE, 1),
        "weights": extractors,
        "priors": folds,
        "segmenter": folds,
        "preprocess": subjects,
        "train": cells,
        "generate": 30 * cells,
        "metrics": cells,
        "utility": cells,
    }


def test_the_paper_s_grid_is_nine_trainings_on_78_patients(empty, fetched):
    # InceptionV3 and VGG of the metrics, AlexNet of the validation.
    jobs = expected_jobs(subjects=78, variants=9, extractors=3)
    assert planned(empty, "paper.yaml") == jobs
    del jobs["fetch"]
    assert planned(fetched, "paper.yaml") == jobs


def test_the_split_is_checked_as_soon_as_it_is_available(empty, fetched, tmp_path):
    values = load_study(ROOT / "config" / "paper.yaml").model_dump(mode="json")
    values["folds"]["k"], values["variants"] = 60, {"base": {}}
    config = tmp_path / "many.json"
    config.write_text(json.dumps(values))
    arguments = ("--dry-run", "--quiet", "all", "--configfile", str(config))
    assert snakemake("preprocessed", *arguments, folder=empty).returncode == 0
    done = snakemake("preprocessed", *arguments, folder=fetched)
    assert done.returncode != 0
    assert (
        "folds.k: expected at most 51 folds, because 51 participants are not in the split test, found 60"
        in done.stdout + done.stderr
    )


@pytest.mark.parametrize("tree", ["empty", "made"])
def test_the_study_of_ds004199_is_three_folds_of_163_subjects(tree, request):
    counts = planned(request.getfixturevalue(tree), "ds004199.yaml")
    assert counts == expected_jobs(subjects=163, variants=1, extractors=2, folds=3)


def outputs(folder: Path, config: Path, *targets: str) -> dict[str, str]:
    """Every planned output file and its rule."""
    done = snakemake(*targets, "--summary", "--configfile", str(config), folder=folder)
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader(done.stdout.splitlines(), delimiter="\t")
    return {row["output_file"]: row["rule"] for row in rows}


def test_outputs_are_the_same_before_during_and_after_the_download(empty, half, made):
    config = ROOT / "config" / "ds004199.yaml"
    files = [outputs(folder, config) for folder in (empty, half, made)]
    assert files[0] == files[1] == files[2]
    paths = load_study(config).paths
    assert files[0][str(paths.fetched)] == "fetch"
    # The record only: Snakemake deletes the declared outputs of a failed fetch.
    assert list(files[0].values()).count("fetch") == 1
    assert sum(rule == "preprocess" for rule in files[0].values()) == 3 * 163


def test_participants_are_the_same_before_and_after_the_download(empty, made, fetched):
    data = load_study(ROOT / "config" / "ds004199.yaml").data
    facts = []
    for folder in (empty, made, fetched):
        rows = discover(data.model_copy(update={"root": str(folder / data.root)}), Path())
        assert all(row.image.is_relative_to(folder / data.root) for row in rows)
        facts.append(
            [
                (
                    row.participant_id,
                    row.group,
                    row.image.relative_to(folder),
                    row.mask and row.mask.relative_to(folder),
                    row.acquisition,
                    row.included,
                )
                for row in rows
            ]
        )
    assert facts[0] == facts[1] == facts[2]
    assert sum(row[-1] for row in facts[0]) == 163
    assert {row[0] for row in facts[0] if row[3]} == set(ds004199_patients())
    assert {row[0] for row in facts[0] if not row[-1]} == set(ds004199_two_dimensional())


def test_finished_jobs_do_not_rerun_after_the_download(tmp_path, made):
    """Jobs are recorded as done, with inputs and parameters, before the download; then the dataset arrives."""
    study = load_study(ROOT / "config" / "ds004199.yaml")
    config, paths, values = tmp_path / "config.json", study.paths, study.model_dump(mode="json")
    config.write_text(json.dumps(values))
    targets = [str(paths.volume(name, "image")) for name in ("sub-00001", "sub-00048")]

    def rerun() -> set[str]:
        planned_text = plan(tmp_path, config, *targets)
        return set() if "Nothing to be done" in planned_text else set(job_counts(planned_text))

    for output in outputs(tmp_path, config, *targets):
        (tmp_path / output).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / output).touch()
    recorded = (*targets, "--touch", "--forceall", "--cores", "2", "--configfile", str(config))
    done = snakemake(*recorded, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rerun() == set()
    shutil.copytree(made / "data", tmp_path / "data")
    # A repeated fetch may write another record, for example with another URL.
    (tmp_path / paths.fetched).write_text('{"base_url": "https://example.org"}')
    assert rerun() == set()
    values["data"]["exclude"] = {"sub-00002": "moved"}
    config.write_text(json.dumps(values))
    assert "participants" in rerun()


def test_own_masks_of_a_fetched_dataset_are_inputs(tmp_path, made, monkeypatch):
    """Snakemake tracks the dataset by its record only, but the masks in a folder of the user by their files."""
    shutil.copytree(made / "data", tmp_path / "data")
    study = load_study(ROOT / "config" / "ds004199.yaml")
    config, values = tmp_path / "config.json", study.model_dump(mode="json")
    targets_of = ds004199_patients()[:2]
    targets = [str(study.paths.volume(name, "image")) for name in targets_of]

    def run(*arguments: str) -> set[str]:
        config.write_text(json.dumps(values))
        done = snakemake(*targets, *arguments, "--configfile", str(config), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        nothing = "Nothing to be done" in done.stdout + done.stderr
        return set() if nothing else set(job_counts(done.stdout + done.stderr))

    def record() -> None:
        """Record all outputs as made from the current inputs."""
        config.write_text(json.dumps(values))
        study = load_study(config)
        for output in outputs(tmp_path, config, *targets):
            (tmp_path / output).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / output).touch()
        # Paths are relative to the working directory of Snakemake.
        monkeypatch.chdir(tmp_path)
        for row in discover(study.data, study.paths.phantom):
            if row.participant_id in targets_of:
                fingerprint = {MADE_OF: made_of(row, config_of("preprocess", study))}
                study.paths.volume_json(row.participant_id).write_text(json.dumps(fingerprint))
        run("--touch", "--forceall", "--cores", "2")
        assert run("--dry-run") == set()

    record()
    own = tmp_path / "mine"
    for name in ds004199_patients():
        mask = own / name / "anat" / f"{name}_FLAIR_roi.nii.gz"
        mask.parent.mkdir(parents=True)
        mask.write_bytes(b"drawn")
    values["data"]["mask_root"] = "mine"
    assert {"participants", "preprocess"} <= run("--dry-run")
    record()
    # A fetch that must run again does not hide pending jobs after it.
    settings = study.paths.quality_state / SETTINGS
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(short_hash(config_of("participants", load_study(config))))
    values["data"]["fetch"]["base_url"] = "https://mirror.example/ds004199"
    assert run("--dry-run") == {"fetch"}
    values["quality"]["max_spacing_mm"] = 4.0
    assert {"fetch", "participants"} <= run("--dry-run")
    values["preprocess"]["percentiles"] = [1.0, 99.0]
    assert {"fetch", "participants", "preprocess"} <= run("--dry-run")
    values["preprocess"]["percentiles"] = [0.5, 99.5]
    values["data"]["fetch"]["base_url"], values["quality"]["max_spacing_mm"] = None, 3.0
    edited = own / targets_of[0] / "anat" / f"{targets_of[0]}_FLAIR_roi.nii.gz"
    edited.write_bytes(b"drawn again")
    assert {"participants", "preprocess"} <= run("--dry-run")


def test_the_ablations_are_one_training_each(made):
    cells = len(load_study(ROOT / "config" / "ablations.yaml").variants)
    assert cells == 13
    assert planned(made, "ablations.yaml") == expected_jobs(subjects=78, variants=cells, extractors=3)


def test_three_folds_on_request(made, tmp_path):
    values = load_study(ROOT / "config" / "paper.yaml").model_dump(mode="json")
    values["folds"]["k"] = 3
    config = tmp_path / "three.json"
    config.write_text(json.dumps(values))
    done = snakemake("--dry-run", "--configfile", str(config), folder=made)
    counts = job_counts(done.stdout)
    assert (counts["train"], counts["priors"], counts["generate"]) == (27, 3, 27 * 30)


def test_the_paper_s_grid_is_what_the_paper_says():
    study = load_study(ROOT / "config" / "paper.yaml")
    cells = set()
    for name in study.variants:
        part = study.variant(name)
        loss = part.diffusion.loss
        assert loss.p_image == loss.p_mask
        assert (part.model.coupling, part.model.widths, part.model.patch) == (
            "shared",
            (64, 128, 256, 256),
            1,
        )
        assert (part.diffusion.timesteps, part.training.self_conditioning) == (1000, 0.5)
        sampled = part.generation
        assert (sampled.sampler, sampled.evaluations, sampled.eta, sampled.spacing) == (
            "ddim",
            300,
            0.2,
            "trailing",
        )
        cells.add((part.diffusion.prediction, loss.p_image))
    assert cells == {(kind, p) for kind in ("x0", "v", "epsilon") for p in (1.5, 2.0, 2.5)}
    assert study.preprocess.grid == (160, 160, 160)
    assert study.preprocess.percentiles_over == "volume"


def test_thick_slices_and_other_groups_stay_in_the_table_with_their_reason(made):
    data = load_study(ROOT / "config" / "paper.yaml").data
    here = data.model_copy(update={"root": str(made / data.root)})
    rows = {row.participant_id: row for row in discover(here, Path())}
    assert len(rows) == 170
    for name in ds004199_two_dimensional():
        assert "2-D acquisition" in rows[name].excluded
        assert "4 mm" in rows[name].excluded
    control = next(name for name in rows if name not in ds004199_patients())
    assert rows[control].excluded == "group hc is not in data.groups"
    assert rows["sub-00048"].included and rows["sub-00048"].mask is not None
    unrestricted = here.model_copy(update={"groups": (), "two_dimensional": "include"})
    assert sum(row.included for row in discover(unrestricted, Path())) == 170


def test_priors_are_made_before_a_training_that_uses_them(made):
    """With one model as the target, priors are made only if its network uses them."""
    config = ROOT / "config" / "ablations.yaml"
    counts = {}
    for variant in ("base", "prior_cross_attention"):
        target = f"results/ablations/models/{variant}/fold-0/model.safetensors"
        done = snakemake(target, "--dry-run", "--configfile", str(config), folder=made)
        assert done.returncode == 0, done.stderr
        counts[variant] = job_counts(done.stdout).get("priors", 0)
    assert counts == {"base": 0, "prior_cross_attention": 1}
