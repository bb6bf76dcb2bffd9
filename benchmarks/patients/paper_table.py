"""docs/paper.md from docs/tables/lgg_grid.tsv and lgg_couplings.tsv: python benchmarks/patients/paper_table.py

Our numbers beside the printed ones (arXiv 2602.03372), the tests over folds of `slimdiff compare`, and whether the
printed orders hold. Cells without rows are called missing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import page_trend_test, rankdata

sys.path.insert(0, str(Path(__file__).resolve().parent))

import couplings
import grid
from cells import FOLDS, PROJECT, STAGES, variants_of

from slimdiff.config import StudyPaths
from slimdiff.evaluation.compare import compare, read_numbers
from slimdiff.evaluation.registry import COLUMNS
from slimdiff.evaluation.statistics.bootstrap import fold_summary
from slimdiff.evaluation.statistics.significance import holm
from slimdiff.files import read_table, write_table

DOCS = PROJECT / "docs"
MISSING_CELL = "missing"
Metric = tuple[str, str]
"""Metric and extractor."""
KID, LPIPS, MMD_MF, MMD_PL = ("kid", "alexnet"), ("lpips", "lpips-alex"), ("mmd_mf", "n/a"), ("mmd_pl", "n/a")
MF_W1, PL_W1 = ("mmd_mf_w1", "n/a"), ("mmd_pl_w1", "n/a")
ASKED, R_PIXELS = ("lesion_share_class1", "n/a"), ("memorisation_ratio", "pixels")
R_FEATURES, SUSPECTS = ("memorisation_ratio", "alexnet"), ("suspect_share", "alexnet")
NAMES = {
    KID: "KID",
    LPIPS: "LPIPS",
    MMD_MF: "MMD-MF",
    MF_W1: "MMD-MF, W1",
    MMD_PL: "MMD-PL",
    PL_W1: "MMD-PL, W1",
    ASKED: "lesion when asked",
    R_FEATURES: "R, features",
    R_PIXELS: "R, pixels",
    SUSPECTS: "suspects, features",
}
EXPONENTS = {"p15": "1.5", "p20": "2.0", "p25": "2.5"}
PREDICTIONS = {"x0": "x0", "v": "v", "epsilon": "ε"}
PRINTED = {
    "x0_p15": (0.012, 0.305, 1.43),
    "x0_p20": (0.034, 0.310, 0.95),
    "x0_p25": (0.048, 0.319, 1.31),
    "v_p15": (0.059, 0.475, 2.86),
    "v_p20": (0.105, 0.579, 6.25),
    "v_p25": (0.180, 0.613, 6.16),
    "epsilon_p15": (0.376, 0.805, 15.34),
    "epsilon_p20": (0.432, 0.821, 15.06),
    "epsilon_p25": (0.403, 0.817, 15.40),
}
"""KID, LPIPS and MMD-MF of the paper's Table 1."""
PRINTED_COUPLINGS = {
    "shared": {KID: 0.021, LPIPS: 0.305, MMD_MF: 5.04, MMD_PL: 62.0},
    "decoupled": {KID: 0.018, LPIPS: 0.304, MMD_MF: 13.08, MMD_PL: 13.8},
    "independent": {KID: 0.017, LPIPS: 0.305, MMD_MF: 0.42, MMD_PL: 112.0},
}
"""Means over the paper's three folds; bottleneck is not printed."""
ORDERED = (KID, LPIPS, MMD_MF, MF_W1)
COLUMN = {KID: 0, LPIPS: 1, MMD_MF: 2, MF_W1: 2}
"""Column of PRINTED that orders a metric; the Wasserstein form of MMD-MF has the order of MMD-MF."""
OF_COUPLINGS = (KID, LPIPS, MMD_MF, MF_W1, MMD_PL, PL_W1, R_FEATURES, R_PIXELS, SUSPECTS)
SHOWN = tuple(dict.fromkeys((*ORDERED, ASKED, *OF_COUPLINGS)))
ALPHA = 0.05
HEAD = """\
# The paper's Table 1, and its couplings, on 81 patients with lower-grade glioma

```bash
python benchmarks/patients/grid.py           # 54 + 18 cells into tables/lgg_grid.tsv; 9 hours of one core
python benchmarks/patients/couplings.py      # 24 cells into tables/lgg_couplings.tsv; 7 hours of one core
python benchmarks/patients/paper_table.py    # this page
```

A cell is a training with its samples and metrics. A cell whose rows are in the table is not run again, so the cells can
be spread over days and machines; `--list` says which are missing. `snakemake --configfile config/lgg_grid.yaml` runs
the same 54 cells as one workflow, with its report.

- **Data.** FLAIR slices of 64 × 64 px (3 mm) of 81 patients, six folds by patient: 67 or 68 for training, 13 or 14
  held out. [config/lgg_grid.yaml](../config/lgg_grid.yaml) says where the images come from, and their licence. The
  paper has 78 patients with focal cortical dysplasia, 160 × 160 px, and one split.
- **Published recipe.** `recipe: published` with the channels 24, 48, 64, 128, 1500 steps of 4 slices, a rate of 3e-4,
  an average of 0.99, and DDIM with 40 evaluations: minutes of one core instead of days of two GPUs.
- **Our recipe.** The default with the demo's rate, batch and average, 900 steps of 8 slices
  ([config/lgg_grid_ours.yaml](../config/lgg_grid_ours.yaml)), for the three cells with the lowest mean rank in KID,
  LPIPS and MMD-MF.
- **Metrics** as in [metric_definitions.md](metric_definitions.md), KID and LPIPS in features of AlexNet. The paper's
  are in those of Inception and VGG. So compare orders with the paper, not values.
- **Values** are means ± standard deviations over folds. *Floor*: training slices against held-out ones.
- **Order.** Page's exact test asks whether the values rise in the printed order in all folds; Holm's correction is
  over all rows of a table. *Holds*: Holm's p ≤ 0.05, and the mean ranks rise, too. *Partly*: p ≤ 0.05 only. A
  prediction has the median of its three exponents. LPIPS counts by its distance from the floor. A metric that a cell
  cannot have (fewer than ten lesions) has the last rank.
- **Pairs.** Wilcoxon's p and Holm's of `slimdiff compare`, over the pairs of a row. Six folds of one sign have p =
  0.031, so Holm's p of one of three pairs is at least 0.094, and of one of six 0.19. Friedman's exact p decides
  whether the cells of a row differ.
- **One training a cell.** Folds share training patients, and the tests take them as independent: their p are somewhat
  too small. A p of a few thousandths is evidence, one of 0.04 is a hint.
"""


@dataclass(frozen=True)
class Question:
    """Whether groups of cells have the printed order in a metric."""

    what: str
    metric: Metric
    groups: dict[str, list[str]]
    """Name to its variants, in the printed order, the best first."""


def fold_values(rows: list[dict], study: str, column: str = "value") -> dict[tuple[str, Metric], np.ndarray]:
    """(variant, metric): (FOLDS,) values, NaN where the cell is missing or has no number."""
    found: dict[tuple[str, Metric], np.ndarray] = {}
    for row in rows:
        if row["study"] == study:
            own = found.setdefault(
                (row["variant"], (row["metric"], row["extractor"])), np.full(FOLDS, np.nan)
            )
            own[int(row["fold"])] = np.nan if row[column] == "n/a" else float(row[column])
    return found


def folds_of(rows: list[dict], study: str, variant: str) -> set[int]:
    """Folds of which the cell is in the table."""
    return {int(row["fold"]) for row in rows if (row["study"], row["variant"]) == (study, variant)}


def write_study(rows: list[dict], study: str, variants: Sequence[str], folder: str) -> StudyPaths:
    """The rows as the metric tables of a study; a missing cell has an empty one."""
    paths = StudyPaths.of(folder, study)
    for variant, fold in product(variants, range(FOLDS)):
        own = [
            {**row, "z_bin": "all"}
            for row in rows
            if (row["study"], row["variant"], int(row["fold"])) == (study, variant, fold)
            and (row["metric"], row["extractor"]) in SHOWN
        ]
        write_table(paths.metrics(variant, fold) / "metrics.tsv", own, COLUMNS)
    return paths


def comparison(rows: list[dict], study: str, variants: Sequence[str]) -> dict[tuple, dict[str, str]]:
    """(metric, variant_a, variant_b): row of `slimdiff compare`; `all` and n/a for all variants together."""
    with TemporaryDirectory() as folder:
        paths = write_study(rows, study, variants, folder)
        compare(paths, list(variants), FOLDS, utility=False)
        found = read_table(paths.comparison)
    return {((row["metric"], row["extractor"]), row["variant_a"], row["variant_b"]): row for row in found}


def compared_values(rows: list[dict], study: str, variants: Sequence[str]) -> dict[Metric, np.ndarray]:
    """(variants, folds) values as `slimdiff compare` orders them; infinite where a cell that is there has no number."""
    with TemporaryDirectory() as folder:
        found = read_numbers(write_study(rows, study, variants, folder), variants, FOLDS, utility=False)
    values = {(numbers.metric, numbers.extractor): numbers.values for numbers in found}
    for number, variant in enumerate(variants):
        for fold, own in product(folds_of(rows, study, variant), values.values()):
            if np.isnan(own[number, fold]):
                own[number, fold] = np.inf
    return values


def questions() -> list[Question]:
    """The orders of the paper's table: of predictions, and of the exponents of each prediction."""
    asked = []
    for metric in ORDERED:
        printed = {name: values[COLUMN[metric]] for name, values in PRINTED.items()}
        groups = {name: [f"{name}_{p}" for p in EXPONENTS] for name in PREDICTIONS}
        asked.append(
            _question("prediction", metric, {PREDICTIONS[n]: own for n, own in groups.items()}, printed)
        )
        for name, words in PREDICTIONS.items():
            exponents = {value: [f"{name}_{p}"] for p, value in EXPONENTS.items()}
            asked.append(_question(f"exponent, {words}", metric, exponents, printed))
    return asked


def questions_of_couplings() -> list[Question]:
    """The printed orders of the couplings; LPIPS differs by 0.001 there and has none."""
    groups = {name: [name] for name in PRINTED_COUPLINGS}
    asked = []
    for metric, source in ((KID, KID), (MMD_MF, MMD_MF), (MF_W1, MMD_MF), (MMD_PL, MMD_PL), (PL_W1, MMD_PL)):
        printed = {name: values[source] for name, values in PRINTED_COUPLINGS.items()}
        asked.append(_question("coupling", metric, groups, printed))
    return asked


def _question(what: str, metric: Metric, groups: dict[str, list[str]], printed: dict[str, float]) -> Question:
    order = sorted(groups, key=lambda name: np.median([printed[variant] for variant in groups[name]]))
    return Question(what, metric, {name: groups[name] for name in order})


def answers(rows: list[dict], study: str, variants: Sequence[str], asked: Sequence[Question]) -> list[dict]:
    """What each question finds: order (by mean rank), n, holding (folds in the printed order), p, p_holm, verdict."""
    values = compared_values(rows, study, variants)
    found = []
    for question in asked:
        row = {"order": None, "n": 0, "holding": 0, "p": np.nan}
        if question.metric in values:
            of_metric = values[question.metric]
            by_group = np.stack(
                [
                    np.median(of_metric[[variants.index(name) for name in own]], axis=0)
                    for own in question.groups.values()
                ],
                axis=1,
            )
            whole = by_group[~np.isnan(by_group).any(axis=1)]
            if len(whole):
                ranks = rankdata(whole, axis=1)
                names, mean = list(question.groups), ranks.mean(axis=0)
                row["order"] = [names[number] for number in np.argsort(mean, kind="stable")]
                row["strict"] = bool((np.diff(mean) > 0).all())
                row["n"], row["holding"] = len(whole), int((np.diff(ranks, axis=1) > 0).all(axis=1).sum())
            if len(whole) > 1:
                row["p"] = float(page_trend_test(ranks, ranked=True, method="exact").pvalue)
        found.append(row)
    for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = float(p)
        row["verdict"] = _verdict(row)
    return found


def _verdict(row: dict) -> str:
    if row["n"] < FOLDS:
        return f"{row['n']} of {FOLDS} folds"
    if row["p_holm"] > ALPHA:
        return "not shown"
    return "holds" if row["strict"] else "partly"


def mean_sd(values: np.ndarray | None) -> str:
    """Mean ± standard deviation over the folds with a number."""
    summary = fold_summary([]) if values is None else fold_summary(values[np.isfinite(values)].tolist())
    if not summary.n:
        return "n/a"
    text = f"{summary.mean:.3g}" if summary.n == 1 else f"{summary.mean:.3g} ± {summary.sd:.2g}"
    return text.replace("-", "−")


def table_of(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, and an empty line."""
    return (
        ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        + ["| " + " | ".join(line) + " |" for line in lines]
        + [""]
    )


def words_of(variant: str) -> str:
    """`x0, p = 1.5`."""
    name, p = variant.rsplit("_", 1)
    return f"{PREDICTIONS[name]}, p = {EXPONENTS[p]}"


def _cell(found: dict, present: set[int], variant: str, metric: Metric) -> str:
    return mean_sd(found.get((variant, metric))) if present else MISSING_CELL


def floor_of(floors: dict[tuple[str, Metric], np.ndarray], metric: Metric) -> np.ndarray | None:
    """(FOLDS,) mean floor over the variants that have one; None if none has."""
    own = [values for (_, other), values in floors.items() if other == metric]
    if not own:
        return None
    by_fold = [column[np.isfinite(column)] for column in np.stack(own, axis=1)]
    return np.array([column.mean() if len(column) else np.nan for column in by_fold])


def grid_lines(rows: list[dict], study: str, variants: Sequence[str]) -> list[list[str]]:
    """Each cell: printed and own KID, LPIPS and MMD-MF, then W1, lesions and folds; last the floor."""
    found, floors = fold_values(rows, study), fold_values(rows, study, "floor")
    lines = []
    for variant in variants:
        present = folds_of(rows, study, variant)
        line = [words_of(variant)]
        for metric, printed in zip((KID, LPIPS, MMD_MF), PRINTED[variant], strict=True):
            line += [f"{printed:.{2 if metric == MMD_MF else 3}f}", _cell(found, present, variant, metric)]
        line += [_cell(found, present, variant, metric) for metric in (MF_W1, ASKED)]
        lines.append([*line, f"{len(present)} of {FOLDS}"])
    floor = {metric: mean_sd(floor_of(floors, metric)) for metric in (KID, LPIPS, MMD_MF, MF_W1, ASKED)}
    if floors:
        beside = [text for metric in (KID, LPIPS, MMD_MF) for text in ("", floor[metric])]
        lines.append(["floor", *beside, floor[MF_W1], floor[ASKED], ""])
    return lines


def order_lines(asked: Sequence[Question], found: Sequence[dict], words: dict[str, str]) -> list[list[str]]:
    """Each question with its answer."""
    lines = []
    for question, row in zip(asked, found, strict=True):
        order = row["order"]
        lines.append(
            [
                question.what,
                NAMES[question.metric],
                " < ".join(words.get(name, name) for name in question.groups),
                " < ".join(words.get(name, name) for name in order) if order else MISSING_CELL,
                f"{row['holding']} of {row['n']}",
                number_of(row["p"]),
                number_of(row["p_holm"]),
                row["verdict"],
            ]
        )
    return lines


def number_of(value: float | str) -> str:
    """A p value with two digits."""
    value = float("nan") if value == "n/a" else float(value)
    return "n/a" if np.isnan(value) else f"{value:.2g}"


def pair_lines(
    rows: list[dict], study: str, lines: dict[str, list[str]], metrics: Sequence[Metric]
) -> list[list[str]]:
    """Each line of cells and metric: Friedman's exact p, and of each pair the folds in favour, p and Holm's p."""
    found = []
    for name, variants in lines.items():
        compared = comparison(rows, study, variants)
        for metric in metrics:
            together = compared.get((metric, "all", "n/a"))
            if together is None:
                continue
            pairs = []
            for a, b in combinations(variants, 2):
                pair = compared[metric, a, b]
                if pair["n"] in ("0", "1"):
                    continue
                first, second = (_short(variant, variants) for variant in (a, b))
                pairs.append(
                    f"{first} {pair['a_better']} : {pair['b_better']} {second}, "
                    f"{number_of(pair['wilcoxon_p'])} ({number_of(pair['p_holm'])})"
                )
            p = number_of(together["friedman_exact_p"])
            if pairs:
                found.append([name, NAMES[metric], together["n"], p, "; ".join(pairs)])
    return found


def _short(variant: str, variants: Sequence[str]) -> str:
    """What tells a variant of a line of the grid from the others."""
    if "_" not in variant:
        return variant
    name, p = variant.rsplit("_", 1)
    same = len({other.rsplit("_", 1)[0] for other in variants}) == 1
    return EXPONENTS[p] if same else PREDICTIONS[name]


def coupling_lines(rows: list[dict]) -> list[list[str]]:
    """Each metric: mean ± sd of each coupling, its printed value in brackets, and the floor."""
    found, floors = fold_values(rows, couplings.STUDY), fold_values(rows, couplings.STUDY, "floor")
    variants, lines = variants_of(couplings.STUDY), []
    for metric in (*OF_COUPLINGS, ASKED):
        line = [NAMES[metric]]
        for variant in variants:
            text = _cell(found, folds_of(rows, couplings.STUDY, variant), variant, metric)
            printed = PRINTED_COUPLINGS.get(variant, {}).get(metric)
            line.append(text if printed is None else f"{text} ({printed:.3g})")
        lines.append([*line, mean_sd(floor_of(floors, metric))])
    return lines


def cost_lines(rows: list[dict], plans: dict[str, int]) -> list[list[str]]:
    """Each study: cells that are there, median seconds of a cell by stage, and hours of one core of all cells."""
    lines = []
    for study, number in plans.items():
        own = [row for row in rows if row["study"] == study]
        present = {(row["variant"], row["fold"]) for row in own}
        seconds = {
            name: np.median([float(row["value"]) for row in own if row["metric"] == name] or [np.nan])
            for name in STAGES.values()
        }
        total = sum(seconds.values())
        lines.append(
            [study, f"{len(present)} of {number}"]
            + [f"{value:.0f}" if present else "n/a" for value in (*seconds.values(), total)]
            + [f"{total * number / 3600:.1f}" if present else "n/a"]
        )
    return lines


def markdown(grid_rows: list[dict], coupling_rows: list[dict]) -> str:
    """The page."""
    variants, four = variants_of(grid.PUBLISHED), variants_of(couplings.STUDY)
    head = ["cell", "KID, paper", "KID", "LPIPS, paper", "LPIPS", "MMD-MF, paper", "MMD-MF", "MMD-MF, W1"]
    head += ["lesion when asked", "folds"]
    ordered = ["order of", "metric", "in the paper", "here", "folds", "p", "p, Holm", ""]
    paired = ["cells", "metric", "folds", "Friedman's p", "folds won, Wilcoxon's p (Holm's)"]
    lines = [HEAD, "## The nine cells by the published recipe", ""]
    lines += table_of(head, grid_lines(grid_rows, grid.PUBLISHED, variants))
    lines += ["## Do the printed orders hold?", ""]
    asked = questions()
    lines += table_of(ordered, order_lines(asked, answers(grid_rows, grid.PUBLISHED, variants, asked), {}))
    lines += ["## Pairs", ""]
    rows_of_grid = {words: [f"{name}_{p}" for p in EXPONENTS] for name, words in PREDICTIONS.items()}
    columns = {f"p = {value}": [f"{name}_{p}" for name in PREDICTIONS] for p, value in EXPONENTS.items()}
    pairs = pair_lines(grid_rows, grid.PUBLISHED, rows_of_grid | columns, ORDERED)
    lines += table_of(paired, pairs) if pairs else ["No pair of cells has two folds yet.", ""]
    lines += ["## The three best cells by our recipe", ""]
    best = grid.best(grid_rows)
    if best:
        lines += table_of(head, grid_lines(grid_rows, grid.OURS, best))
    else:
        lines += ["Known when the 54 cells of the published recipe are there.", ""]
    lines += ["## The couplings", ""]
    lines += [
        "One recipe for all (the default without the Gaussian model, 2400 steps of 8 slices), as many parameters and\n"
        "as much arithmetic. In brackets the paper's means over three folds; its independent networks were trained by\n"
        "another recipe.",
        "",
    ]
    lines += table_of(["metric", *four, "floor"], coupling_lines(coupling_rows))
    asked = questions_of_couplings()
    found = answers(coupling_rows, couplings.STUDY, four, asked)
    lines += table_of(ordered, order_lines(asked, found, {}))
    pairs = pair_lines(coupling_rows, couplings.STUDY, {"couplings": four}, OF_COUPLINGS)
    lines += table_of(paired, pairs) if pairs else ["No pair of couplings has two folds yet.", ""]
    lines += [
        "## Cost",
        "",
        "Seconds of processor time of a cell (median), and hours of one core of all cells.",
        "",
    ]
    plans = {grid.PUBLISHED: len(grid.published()), grid.OURS: grid.BEST * FOLDS}
    plans[couplings.STUDY] = len(couplings.plan())
    costs = cost_lines([*grid_rows, *coupling_rows], plans)
    lines += table_of(["study", "cells", "training", "sampling", "metrics", "a cell", "hours"], costs)
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    """Write the page."""
    text = markdown(grid.table().rows(), couplings.table().rows())
    (DOCS / "paper.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
