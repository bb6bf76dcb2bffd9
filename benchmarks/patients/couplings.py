"""The couplings on real patients: shared, decoupled, independent, bottleneck by one recipe, six folds.

python benchmarks/patients/couplings.py            # cells that docs/tables/lgg_couplings.tsv lacks; 7 hours of one core
python benchmarks/patients/couplings.py --list     # which cells are there
python benchmarks/patients/couplings.py --fold 0   # one fold; folds may run on several machines at the same time
python benchmarks/patients/paper_table.py          # docs/paper.md from the table

Study: config/lgg_couplings.yaml, 24 trainings of networks with as many parameters and as much arithmetic.
Volumes of the patients: --lgg, a table (config/lgg_grid.yaml). What a cell wrote below --work may be deleted after it.
"""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cells
from cells import FOLDS, Key, RunsTable, parser_of, run_cell, values_of, variants_of
from runs_table import carry_out

TABLE = cells.TABLES / "lgg_couplings.tsv"
STUDY = "lgg_couplings"


def table() -> RunsTable:
    return cells.table(TABLE)


def plan() -> list[Key]:
    """All cells, fold by fold."""
    return [(STUDY, variant, fold) for fold, variant in product(range(FOLDS), variants_of(STUDY))]


def main() -> int:
    """Do the cells that are missing."""
    parser = parser_of(__doc__)
    parser.set_defaults(study=None)
    options = parser.parse_args()
    work = options.work.resolve()
    return carry_out(
        table(),
        plan(),
        options,
        lambda key: run_cell(table(), key, values_of(STUDY, work, options.lgg), plan()),
    )


if __name__ == "__main__":
    sys.exit(main())
