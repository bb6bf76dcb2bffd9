"""The table of the race, docs/tables/race.tsv, and what is made of it: python benchmarks/quality/race_table.py

Writes docs/race.md, a short table a cohort, and docs/race.svg, metrics against the budget.
"""

from itertools import product
from pathlib import Path

from runs_table import RunsTable

from slimdiff.files import MISSING

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE = DOCS / "tables" / "race.tsv"
Key = tuple[str, str, int, int]
"""Cohort, side, minutes, seed."""
COLOURS = {"slimdiff": "tab:blue", "published": "tab:grey", "published-tuned": "tab:orange"}
KID_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PANELS = (
    ("kid", "alexnet"),
    ("kid", "efficientnet"),
    ("precision", "alexnet"),
    ("recall", "alexnet"),
    ("mmd_mf_w1", "n/a"),
    ("mmd_pl_w1", "n/a"),
    ("memorisation_ratio", "alexnet"),
    ("memorisation_ratio", "pixels"),
)

HEAD = """\
# The race in numbers

Written by `benchmarks/quality/race_table.py` from [race.tsv](tables/race.tsv); what the rows mean is in
[learning.md](learning.md). Minutes are processor time of one core. Two values separated by `;` are of seeds 0 and 1.
"""
SHOWN = (
    ("slices seen", [("images", "n/a")], 0),
    ("TFLOP of the training", [("tflop", "n/a")], 0),
    ("seconds of sampling", [("sample_s", "n/a")], 0),
    ("KID, AlexNet", [("kid", "alexnet")], 3),
    ("KID, EfficientNet-Lite0", [("kid", "efficientnet")], 3),
    ("FID, AlexNet", [("fid", "alexnet")], 0),
    ("precision and recall, AlexNet", [("precision", "alexnet"), ("recall", "alexnet")], 2),
    (
        "precision and recall, EfficientNet-Lite0",
        [("precision", "efficientnet"), ("recall", "efficientnet")],
        2,
    ),
    ("LPIPS between samples", [("lpips", "lpips-alex")], 3),
    ("spectrum, dB", [("spectrum", "n/a")], 2),
    ("outlines", [("outline_share", "n/a")], 2),
    ("lesion shapes, mean W1 (MMD-MF)", [("mmd_mf_w1", "n/a")], 2),
    ("lesion contrast, mean W1 (MMD-PL)", [("mmd_pl_w1", "n/a")], 2),
    ("robust MMD of lesion shapes", [("mmd_robust", "n/a")], 3),
    ("lesion when asked / when not", [("lesion_share_class1", "n/a"), ("lesion_share_class0", "n/a")], 2),
    ("lesion area gap, doublings", [("lesion_area_gap", "n/a")], 2),
    ("R, features and pixels", [("memorisation_ratio", "alexnet"), ("memorisation_ratio", "pixels")], 2),
    ("suspects, features and pixels", [("suspect_share", "alexnet"), ("suspect_share", "pixels")], 2),
    ("two-sample test, AUC", [("two_sample_auc", "n/a")], 2),
    ("Dice of a segmenter trained on samples alone", [("tstr_dice", "n/a")], 3),
)
"""Rows of docs/race.md: name, metrics with their extractors, decimals."""


def runs() -> RunsTable:
    return RunsTable(TABLE, {"cohort": str, "side": str, "minutes": int, "seed": int})


def read_rows() -> list[dict]:
    """The rows so far, one a metric."""
    return runs().rows()


def done() -> set[Key]:
    """The runs that are in the table."""
    return runs().done()


def plot() -> None:
    """Each metric against the budget, one line a side, its floor dotted."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "race"
    import pandas as pd
    from matplotlib import pyplot as plt

    if not read_rows():
        raise SystemExit(f"{TABLE}: expected runs of the race, found none; run against_published.py first")
    rows = pd.DataFrame(read_rows())
    numbers = ["minutes", "value", "floor"]
    rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce")
    rows = rows[rows.side.isin(COLOURS)]
    cohorts, budgets = sorted(rows.cohort.unique()), sorted(rows.minutes.unique())
    size = (2.5 * len(PANELS), 2.5 * len(cohorts))
    figure, axes = plt.subplots(len(cohorts), len(PANELS), figsize=size, sharex=True, squeeze=False)
    for (line, cohort), (number, (metric, extractor)) in product(enumerate(cohorts), enumerate(PANELS)):
        axis = axes[line, number]
        own = rows[(rows.cohort == cohort) & (rows.metric == metric) & (rows.extractor == extractor)]
        for side, colour in COLOURS.items():
            of_side = own[own.side == side].sort_values("minutes")
            mean = of_side.groupby("minutes").value.mean()
            axis.plot(of_side.minutes, of_side.value, "o", color=colour, alpha=0.5, markersize=4)
            axis.plot(mean.index, mean, color=colour, label=side)
        axis.axhline(own.floor.mean(), color="black", linestyle=":", label="floor")
        axis.set_xscale("log")
        axis.set_xticks(budgets, [f"{minutes:g}" for minutes in budgets])
        if metric == "kid" and (own.value > 0).any():
            axis.set_yscale("log")  # its floor is about 0 and not shown
            limits = axis.get_ylim()
            axis.set_yticks(KID_TICKS, [f"{tick:g}" for tick in KID_TICKS])
            axis.set_ylim(limits)
        axis.minorticks_off()
        name = metric if extractor == "n/a" else f"{metric}\n{extractor}"
        axis.set_title(f"{cohort}: {name}", fontsize=8)
        if line == len(cohorts) - 1:
            axis.set_xlabel("minutes of one core", fontsize=8)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(DOCS / "race.svg", metadata={"Date": None})


def markdown(rows: list[dict]) -> str:
    """A table a cohort: a column for each side and budget, with the values of its seeds, and one for the floor."""
    of_runs: dict[Key, dict[tuple[str, str], dict]] = {}
    for row in rows:
        of_runs.setdefault(runs().key_of(row), {})[row["metric"], row["extractor"]] = row
    lines = [HEAD]
    for cohort in dict.fromkeys(key[0] for key in of_runs):
        own = {key: found for key, found in of_runs.items() if key[0] == cohort}
        columns = sorted(
            {key[1:3] for key in own}, key=lambda column: (list(COLOURS).index(column[0]), column[1])
        )
        heads = [f"{side}, {minutes} minutes" for side, minutes in columns]
        lines += [f"## {cohort}", "", f"| | {' | '.join(heads)} | floor |", "|---" * (len(columns) + 2) + "|"]
        for name, metrics, decimals in SHOWN:
            of_columns = [[own[key] for key in sorted(own) if key[1:3] == column] for column in columns]
            cells = [
                "; ".join(filter(None, (_cell(run, metrics, "value", decimals) for run in seeds)))
                for seeds in of_columns
            ]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {_cell(of_columns[0][0], metrics, 'floor', decimals)} |"
            )
        lines.append("")
    return "\n".join(lines)


def _cell(
    run: dict[tuple[str, str], dict], metrics: list[tuple[str, str]], column: str, decimals: int
) -> str:
    """The values of these metrics of a run, or its floors; empty if there are none."""
    found = [run.get(metric, {}).get(column, MISSING) for metric in metrics]
    if set(found) == {MISSING}:
        return ""
    numbers = [MISSING if value == MISSING else f"{float(value):,.{decimals}f}" for value in found]
    return " / ".join(numbers).replace("-", "−")


def main() -> None:
    """Write both files."""
    plot()
    short = markdown([row for row in read_rows() if row["side"] in COLOURS])
    (DOCS / "race.md").write_text(short, encoding="utf-8")


if __name__ == "__main__":
    main()
