"""The paper's grid and the ablations, planned on trees of ds004199's shape."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from synthetic import THICK_NUMBERS, write_ds004199
from workflow_runs import ROOT, job_counts, snakemake

from slimdiff.config import load_study
from slimdiff.data.sources import discover

ONCE = (
    "participants",
    "folds",
    "cache",
    "priors",
    "segmenter",
    "summary",
    "comparison",
    "figures",
    "tables",
    "provenance",
    "all",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with data/ds004199 in it, as a user has it."""
    folder = tmp_path_factory.mktemp("made")
    write_ds004199(folder / "data" / "ds004199")
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory, shared_data) -> Path:
    """The same from the dataset's own list of files, participants and sidecars, the images empty."""
    folder = tmp_path_factory.mktemp("real")
    source, root = shared_data / "ds004199", folder / "data" / "ds004199"
    with (source / "files.tsv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            (root / row["path"]).parent.mkdir(parents=True, exist_ok=True)
            (root / row["path"]).touch()
    for sidecar in (source / "sidecars").glob("*.json"):
        shutil.copy(sidecar, root / sidecar.name.split("_")[0] / "anat")
    shutil.copy(source / "participants.tsv", root)
    return folder


def planned(folder: Path, config: str) -> dict[str, int]:
    done = snakemake("--dry-run", "--configfile", str(ROOT / "config" / config), folder=folder)
    assert done.returncode == 0, done.stderr
    return job_counts(done.stdout)


def wanted(subjects: int, cells: int) -> dict[str, int]:
    """Jobs for one fold and 30 z-bins."""
    return {
        **dict.fromkeys(ONCE, 1),
        "preprocess": subjects,
        "train": cells,
        "generate": 30 * cells,
        "metrics": cells,
        "utility": cells,
    }


@pytest.mark.parametrize("tree", ["made", "real"])
def test_the_paper_s_grid_is_nine_trainings_on_78_patients(tree, request):
    folder = request.getfixturevalue(tree)
    assert planned(folder, "paper.yaml") == wanted(subjects=78, cells=9)


def test_the_ablations_are_one_training_each(made):
    cells = len(load_study(ROOT / "config" / "ablations.yaml").variants)
    assert cells == 13
    assert planned(made, "ablations.yaml") == wanted(subjects=78, cells=cells)


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
    for number in THICK_NUMBERS:
        assert "2-D acquisition" in rows[f"sub-{number:05d}"].excluded
        assert "4 mm" in rows[f"sub-{number:05d}"].excluded
    assert rows["sub-00002"].excluded == "group hc is not in data.groups"
    assert rows["sub-00048"].included and rows["sub-00048"].mask is not None
    everybody = here.model_copy(update={"groups": (), "two_dimensional": "include"})
    assert sum(row.included for row in discover(everybody, Path())) == 170


def test_priors_come_before_a_training_that_looks_at_them(made):
    """Asked for one model only: its priors are made if its network sees them, and not otherwise."""
    config = ROOT / "config" / "ablations.yaml"
    counts = {}
    for variant in ("base", "prior_cross_attention"):
        target = f"results/ablations/models/{variant}/fold-0/model.safetensors"
        done = snakemake(target, "--dry-run", "--configfile", str(config), folder=made)
        assert done.returncode == 0, done.stderr
        counts[variant] = job_counts(done.stdout).get("priors", 0)
    assert counts == {"base": 0, "prior_cross_attention": 1}
