"""The paper's Table 1 on real patients: nine cells by six folds, and the three best cells by our recipe.

python benchmarks/patients/grid.py                 # every cell that docs/tables/lgg_grid.tsv lacks; 9 hours of one core
python benchmarks/patients/grid.py --list          # which cells are there
python benchmarks/patients/grid.py --fold 0        # one fold; folds may run on several machines at the same time
python benchmarks/patients/paper_table.py          # docs/paper.md from the table

Studies: config/lgg_grid.yaml (the published recipe, 54 trainings) and config/lgg_grid_ours.yaml (18 trainings). The
three best cells have the lowest mean rank, over folds, in the metrics of the paper's table; they are known when the 54
are there. Volumes of the patients: --lgg, a table (config/lgg_grid.yaml). What a cell wrote below --work may be deleted
after it.
"""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cells
from cells import FOLDS, Key, RunsTable, parser_of, run_cell, values_of, variants_of
from runs_table import carry_out

TABLE = cells.TABLES / "lgg_grid.tsv"
PUBLISHED, OURS = "lgg_grid", "lgg_grid_ours"
BEST = 3
COMPARED = (("kid", "alexnet"), ("lpips", "lpips-alex"), ("mmd_mf", "n/a"))
"""Metrics, with extractors, of the paper's table."""
UNKNOWN = "best-"
"""Name of a cell that is not known yet: best-1 and so on."""


def table() -> RunsTable:
    return cells.table(TABLE)


def published() -> list[Key]:
    """The cells of the published recipe, fold by fold."""
    return [(PUBLISHED, variant, fold) for fold, variant in product(range(FOLDS), variants_of(PUBLISHED))]


def best(rows: list[dict]) -> list[str]:
    """The cells of the published recipe with the lowest mean rank over folds and metrics; none while cells are missing.

    LPIPS is compared by its distance from the floor. A metric that a cell lacks has the last rank.
    """
    import numpy as np
    from scipy.stats import rankdata

    variants = variants_of(PUBLISHED)
    found: dict[tuple[str, str, int], dict[tuple[str, str], float]] = {}
    for row in rows:
        metric = row["metric"], row["extractor"]
        own = found.setdefault((row["study"], row["variant"], int(row["fold"])), {})
        if metric in COMPARED and row["value"] != "n/a":
            value = float(row["value"])
            own[metric] = abs(value - float(row["floor"])) if row["metric"] == "lpips" else value
    if not set(published()) <= set(found):
        return []
    values = np.array(
        [
            [found[PUBLISHED, variant, fold].get(metric, np.inf) for variant in variants]
            for fold, metric in product(range(FOLDS), COMPARED)
        ]
    )
    ranks = rankdata(values, axis=1).mean(axis=0)
    return [variants[number] for number in np.argsort(ranks, kind="stable")[:BEST]]


def ours(rows: list[dict]) -> list[Key]:
    """The cells of our recipe, fold by fold."""
    names = best(rows) or [f"{UNKNOWN}{number}" for number in range(1, BEST + 1)]
    return [(OURS, variant, fold) for fold, variant in product(range(FOLDS), names)]


def order() -> list[Key]:
    """All cells that can be in the table, in its order."""
    return [*published(), *((OURS, variant, fold) for _, variant, fold in published())]


def run(key: Key, work: Path, volumes: Path) -> None:
    """One cell. A cell of our recipe whose name is not known yet is left for later."""
    study, variant, fold = key
    if variant.startswith(UNKNOWN):
        names = best(table().rows())
        if not names:
            missing = len(set(published()) - table().done())
            print(
                f"{study}, {variant}, fold {fold}: waits for {missing} cells of {PUBLISHED}", file=sys.stderr
            )
            return
        key = study, names[int(variant.removeprefix(UNKNOWN)) - 1], fold
        if key in table().done():
            return
    run_cell(table(), key, values_of(study, work, volumes), order())


def main() -> int:
    """Do the cells that are missing."""
    parser = parser_of(__doc__)
    parser.add_argument("--study", choices=(PUBLISHED, OURS), help="one of the two recipes")
    options = parser.parse_args()
    plan = [*published(), *ours(table().rows())]
    return carry_out(table(), plan, options, lambda key: run(key, options.work.resolve(), options.lgg))


if __name__ == "__main__":
    sys.exit(main())
