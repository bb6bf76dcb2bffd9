"""The paper's table and the couplings on real patients: studies, plan, tests over folds, page, a cell end to end."""

import json
import sys
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "patients"))

import cells
import couplings
import grid
import paper_table

from slimdiff.config import load_study
from slimdiff.files import read_table

ROOT = Path(__file__).resolve().parents[2]
STUDIES = (grid.PUBLISHED, grid.OURS, couplings.STUDY)
OF_DATA = ("data", "preprocess", "slices", "folds", "evaluation")
X0 = ["x0_p15", "x0_p20", "x0_p25"]


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "TABLE", tmp_path / "lgg_grid.tsv")
    monkeypatch.setattr(couplings, "TABLE", tmp_path / "lgg_couplings.tsv")
    monkeypatch.setattr(paper_table, "DOCS", tmp_path)


def row(study, variant, fold, metric, value, floor=0.0):
    name, extractor = metric
    about = {"study": study, "variant": variant, "fold": str(fold)}
    return about | {"metric": name, "extractor": extractor, "value": str(value), "floor": str(floor)}


def whole_grid(value):
    """Rows of the three metrics of the paper's table for all cells; value(variant, fold, metric) -> number."""
    return [
        row(study, variant, fold, metric, value(variant, fold, metric), 0.25 if metric[0] == "lpips" else 0)
        for (study, variant, fold), metric in product(grid.published(), grid.COMPARED)
    ]


# Studies -----------------------------------------------------------------------------------------------------------


def test_the_grid_has_three_predictions_by_three_exponents():
    for name in (grid.PUBLISHED, grid.OURS):
        study = load_study(ROOT / "config" / f"{name}.yaml")
        found = set()
        for variant in study.variants:
            own = study.variant(variant).diffusion
            assert own.loss.p_image == own.loss.p_mask
            assert variant == f"{own.prediction}_p{round(10 * own.loss.p_image)}"
            found.add((own.prediction, own.loss.p_image))
        assert found == set(product(("x0", "v", "epsilon"), (1.5, 2.0, 2.5)))
    assert load_study(ROOT / "config" / "lgg_grid.yaml").recipe == "published"
    assert list(paper_table.PRINTED) == cells.variants_of(grid.PUBLISHED) == cells.variants_of(grid.OURS)


def test_the_three_studies_have_the_same_folds_and_metrics():
    """So that a recipe or a coupling is compared on the same held-out slices."""
    parts = []
    for name in STUDIES:
        study = load_study(ROOT / "config" / f"{name}.yaml")
        parts.append({section: getattr(study, section) for section in OF_DATA})
        assert (study.folds.k, study.seed) == (cells.FOLDS, 0)
    assert parts[0] == parts[1] == parts[2]


def test_the_file_says_where_the_images_come_from_and_their_licence():
    text = (ROOT / "config" / "lgg_grid.yaml").read_text()
    for word in ("CC BY-NC-SA 4.0", "mateuszbuda/lgg-mri-segmentation", "10.1016/j.compbiomed.2019.05.002"):
        assert word in text


def test_couplings_have_as_many_parameters_and_as_much_arithmetic():
    """Within 1 %, so that a difference is one of the coupling; and only the network differs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from slimdiff.model.conditioning import Condition
    from slimdiff.model.unet import JointUNet

    study = load_study(ROOT / "config" / "lgg_couplings.yaml")
    sizes = {}
    for name in study.variants:
        own = study.variant(name)
        assert own.model.coupling == name
        assert (own.diffusion, own.training, own.generation) == (
            study.diffusion,
            study.training,
            study.generation,
        )
        bins = study.slices.n_bins
        settings = {
            key: value for key, value in own.model.settings().items() if key not in ("prior", "acquisition")
        }
        network = JointUNet(**settings, n_bins=bins, bin_centres=list(map(float, range(bins))))
        nothing = torch.zeros(1, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 2, 64, 64), torch.zeros(1), Condition(nothing, nothing))
        sizes[name] = sum(part.numel() for part in network.parameters()), counter.get_total_flops()
    assert set(sizes) == {"shared", "decoupled", "independent", "bottleneck"}
    for own in sizes.values():
        assert own == pytest.approx(sizes["shared"], rel=0.01)


# Plan --------------------------------------------------------------------------------------------------------------


def test_the_plan_has_54_and_18_and_24_cells(tables):
    assert len(set(grid.published())) == 54
    waiting = grid.ours([])
    assert len(set(waiting)) == 18 and {name for _, name, _ in waiting} == {"best-1", "best-2", "best-3"}
    assert len(set(couplings.plan())) == 24
    assert {fold for *_, fold in grid.published()} == set(range(6))


def test_the_best_cells_have_the_lowest_mean_rank_of_all_54(tables):
    quality = {name: number for number, name in enumerate(cells.variants_of(grid.PUBLISHED))}
    quality["v_p20"], quality["epsilon_p25"] = -2, -1

    def value(variant, fold, metric):
        # One huge value must not decide: ranks count. LPIPS lies below its floor of 0.25, by the same order.
        if (variant, fold, metric[0]) == ("v_p20", 3, "mmd_mf"):
            return 1e9
        return 0.25 - (quality[variant] + 3) / 100 if metric[0] == "lpips" else quality[variant]

    rows = whole_grid(value)
    assert grid.best(rows) == ["v_p20", "epsilon_p25", "x0_p15"]
    assert [name for _, name, _ in grid.ours(rows)[:3]] == ["v_p20", "epsilon_p25", "x0_p15"]
    assert grid.best([one for one in rows if (one["variant"], one["fold"]) != ("v_p25", "5")]) == []
    # No lesions at all: the last rank.
    for one in rows:
        if one["variant"] == "epsilon_p25" and one["metric"] == "mmd_mf":
            one["value"] = "n/a"
    assert grid.best(rows) == ["v_p20", "x0_p15", "x0_p20"]


def test_a_cell_in_the_table_is_not_run_again(tables, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = []
    monkeypatch.setattr(grid, "run_cell", lambda kept, key, values, order: done.append(key))
    monkeypatch.setattr(grid, "values_of", lambda *_: {})
    grid.table().add(
        (grid.PUBLISHED, "v_p15", 2), [{"metric": "kid", "value": 1}], lambda key: grid.order().index(key)
    )
    monkeypatch.setattr(sys, "argv", ["grid.py", "--fold", "2", "--list"])
    assert grid.main() == 0
    listed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(listed) == 12 and [line[1] for line in listed if line[3] == "done"] == ["v_p15"]
    monkeypatch.setattr(sys, "argv", ["grid.py", "--fold", "2"])
    assert grid.main() == 0
    assert len(done) == 8 and (grid.PUBLISHED, "v_p15", 2) not in done
    assert "best-1, fold 2: waits for 53 cells" in capsys.readouterr().err


def test_a_missing_table_of_volumes_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"absent\.tsv: expected the table of volumes .* --lgg"):
        cells.values_of(grid.PUBLISHED, tmp_path, tmp_path / "absent.tsv")


# Page --------------------------------------------------------------------------------------------------------------


def in_order(variant, fold, metric):
    """The printed order in every fold, with a step that differs from fold to fold."""
    return paper_table.PRINTED[variant][paper_table.COLUMN[metric]] * (1 + fold / 10)


def test_means_and_holms_p_by_hand():
    rows = whole_grid(in_order)
    printed = np.array([0.012, 0.034, 0.048])
    factors = 1 + np.arange(6) / 10
    found = paper_table.fold_values(rows, grid.PUBLISHED)
    for number, variant in enumerate(X0):
        own = printed[number] * factors
        assert found[variant, paper_table.KID] == pytest.approx(own)
        text = f"{own.mean():.3g} ± {own.std(ddof=1):.2g}"
        assert paper_table.mean_sd(found[variant, paper_table.KID]) == text
    assert paper_table.mean_sd(found["x0_p15", paper_table.KID]) == "0.015 ± 0.0022"
    compared = paper_table.comparison(rows, grid.PUBLISHED, X0)
    for a, b in combinations(X0, 2):
        pair = compared[paper_table.KID, a, b]
        # Six differences of one sign: 2 / 2^6; Holm's smallest of three is three times that, and so are the others.
        assert float(pair["wilcoxon_p"]) == pytest.approx(1 / 32)
        assert float(pair["p_holm"]) == pytest.approx(3 / 32)
        assert (pair["a_better"], pair["b_better"], pair["n"]) == ("6", "0", "6")
    lines = paper_table.pair_lines(rows, grid.PUBLISHED, {"x0": X0}, [paper_table.KID])
    (line,) = lines
    assert line[4].startswith("1.5 6 : 0 2.0, 0.031 (0.094); 1.5 6 : 0 2.5, 0.031 (0.094)")


def naive_page(ranks):
    """Share of all orders within folds whose sum of rank x place is at least the observed one."""
    places = np.arange(1, ranks.shape[1] + 1)
    sums = np.array([0])
    for _ in range(len(ranks)):
        one = np.array([np.dot(order, places) for order in permutations(places)])
        sums = (sums[:, None] + one).ravel()
    return (sums >= (ranks * places).sum()).mean()


@pytest.mark.parametrize("worst_folds", [0, 2, 6])
def test_the_order_of_predictions_is_tested_by_page(worst_folds):
    """In some folds v is worse than ε."""

    def value(variant, fold, metric):
        swapped = {"v": "epsilon", "epsilon": "v"} if fold < worst_folds else {}
        name, p = variant.split("_")
        return in_order(f"{swapped.get(name, name)}_{p}", fold, metric)

    rows, asked = whole_grid(value), paper_table.questions()
    assert len(asked) == 16
    found = paper_table.answers(rows, grid.PUBLISHED, cells.variants_of(grid.PUBLISHED), asked)
    question, answer = asked[0], found[0]
    assert (question.what, list(question.groups)) == ("prediction", ["x0", "v", "ε"])
    assert answer["holding"] == 6 - worst_folds
    ranks = np.array([[1, 3, 2]] * worst_folds + [[1, 2, 3]] * (6 - worst_folds))
    assert answer["p"] == pytest.approx(naive_page(ranks), abs=1e-6)
    expected = "partly" if worst_folds == 6 else "holds"
    if answer["p_holm"] > 0.05:
        expected = "not shown"
    assert answer["verdict"] == expected
    assert answer["order"] == (["x0", "ε", "v"] if worst_folds == 6 else ["x0", "v", "ε"])


def test_the_opposite_order_and_missing_folds_are_not_called_a_proof():
    asked, variants = paper_table.questions(), cells.variants_of(grid.PUBLISHED)
    opposite = whole_grid(lambda variant, fold, metric: -in_order(variant, fold, metric))
    found = paper_table.answers(opposite, grid.PUBLISHED, variants, asked)
    of_images = {
        row["verdict"] for one, row in zip(asked, found, strict=True) if one.metric == paper_table.KID
    }
    assert of_images == {"not shown"} and found[0]["order"] == ["ε", "v", "x0"]
    some = [one for one in whole_grid(in_order) if one["fold"] != "4"]
    found = paper_table.answers(some, grid.PUBLISHED, variants, asked)
    assert (found[0]["n"], found[0]["verdict"]) == (5, "5 of 6 folds")
    # Cells without a lesion are the worst, not missing.
    none = [
        one | {"value": "n/a"} if one["variant"].startswith("epsilon") and one["metric"] == "mmd_mf" else one
        for one in whole_grid(in_order)
    ]
    answer = paper_table.answers(none, grid.PUBLISHED, variants, asked)[8]
    assert asked[8].metric == paper_table.MMD_MF and (answer["n"], answer["verdict"]) == (6, "holds")


def test_the_page_names_missing_cells_and_shows_the_rest(tables):
    some = [one for one in whole_grid(in_order) if one["variant"] != "v_p20"]
    text = paper_table.markdown(some, [row(couplings.STUDY, "shared", 0, paper_table.MMD_PL, 3.5, 0.5)])
    assert "| v, p = 2.0 | 0.105 | missing | 0.579 | missing | 6.25 | missing |" in text
    assert "| x0, p = 1.5 | 0.012 | 0.015 ± 0.0022 | 0.305 |" in text
    assert "Known when the 54 cells" in text
    assert "| MMD-PL | 3.5 (62) | missing (13.8) | missing (112) | missing | 0.5 |" in text
    assert "| lgg_grid | 48 of 54 |" in text
    everything = paper_table.markdown(whole_grid(in_order), [])
    assert "0 of 6 |" in everything and "Known when" not in everything
    # Mask metrics have the printed order 2.0 < 2.5 < 1.5 of x0.
    assert "| exponent, x0 | MMD-MF | 2.0 < 2.5 < 1.5 | 2.0 < 2.5 < 1.5 | 6 of 6 |" in everything


def test_the_page_is_made_of_the_tracked_tables():
    written = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    made = paper_table.markdown(grid.table().rows(), couplings.table().rows())
    assert written == made, "run python benchmarks/patients/paper_table.py"


# A cell end to end -------------------------------------------------------------------------------------------------


def test_a_cell_on_the_phantom_goes_through_the_stages_into_the_table(tmp_path, tables):
    from helpers.workflow_runs import write_study

    extra = {
        "evaluation": {"bootstrap": 20, "taus": [0.0], "lpips_pairs": 20},
        "training": {"preview_every": 0, "validation": {"every": 0}, "tensorboard": False},
    }
    values = json.loads(write_study(tmp_path, **extra).read_text())
    values["results_dir"] = str(tmp_path / "results")
    kept = cells.table(tmp_path / "cells.tsv")
    cells.run_cell(kept, ("tiny", "base", 1), values, [("tiny", "base", 1)])
    assert kept.done() == {("tiny", "base", 1)}
    stored = {(one["metric"], one["extractor"]): one for one in kept.rows()}
    computed = [
        one
        for one in read_table(tmp_path / "results" / "tiny" / "metrics" / "base" / "fold-1" / "metrics.tsv")
        if one["z_bin"] == "all"
    ]
    assert len(computed) > 20 and len(stored) == len(computed) + 3
    for one in computed:
        found = stored[one["metric"], one["extractor"]]
        assert (found["value"], found["floor"]) == (one["value"], one["floor"])
    # Of too few samples for KID.
    assert np.isfinite(float(stored["lpips", "lpips-alex"]["value"]))
    seconds = [float(stored[name, "n/a"]["value"]) for name in cells.STAGES.values()]
    assert all(0.1 < value < 600 for value in seconds)
    # An interrupted command does not train again: the model is there, and so are its seconds.
    model = tmp_path / "results" / "tiny" / "models" / "base" / "fold-1" / "model.safetensors"
    before = model.stat().st_mtime_ns
    again = cells.table(tmp_path / "again.tsv")
    cells.run_cell(again, ("tiny", "base", 1), values, [("tiny", "base", 1)])
    assert model.stat().st_mtime_ns == before
    (trained,) = [one for one in again.rows() if one["metric"] == "train_s"]
    assert float(trained["value"]) >= seconds[0]
    values["training"]["steps"] = 3
    values["preprocess"]["spacing_mm"] = 7.0
    with pytest.raises(SystemExit, match="other settings; delete"):
        cells.run_cell(again, ("tiny", "base", 0), values, [])
