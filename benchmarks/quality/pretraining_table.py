"""What is made of docs/tables/pretraining.tsv: python benchmarks/quality/pretraining_table.py

Writes docs/tables/pretraining.md, a table for each budget with the mean and the range over the draws of patients, and
docs/pretraining.svg, the same against the number of patients.
"""

from pathlib import Path

from pretraining import DRAWS, WAYS, table

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEAD = """\
# With and without a start from drawn heads

Written by `benchmarks/quality/pretraining_table.py` from [pretraining.tsv](pretraining.tsv); what the rows mean is in
[pretraining.md](../pretraining.md). Mean over the draws of patients, and the lowest and highest of them.
"""
SHOWN = (
    ("KID", "kid", "alexnet", 3),
    ("KID, EfficientNet", "kid", "efficientnet", 3),
    ("precision", "precision", "alexnet", 2),
    ("recall", "recall", "alexnet", 2),
    ("lesion shapes, W1", "mmd_mf_w1", "n/a", 2),
    ("lesion contrast, W1", "mmd_pl_w1", "n/a", 2),
    ("outlines", "outline_share", "n/a", 2),
    ("R, features", "memorisation_ratio", "alexnet", 2),
    ("R, pixels", "memorisation_ratio", "pixels", 2),
    ("Dice on samples alone", "tstr_dice", "n/a", 3),
    ("drawn ratio, pixels", "drawn_ratio", "pixels", 2),
    ("darker lesions", "darker_lesions", "n/a", 2),
)
"""Name, metric, extractor and decimals of a column."""
PANELS = SHOWN[:4] + SHOWN[7:10]
COLOURS = dict(zip(WAYS, ("tab:grey", "tab:blue", "tab:orange", "tab:green"), strict=False))
"""Ways of the figure."""


def values(rows: list[dict]) -> dict[tuple[int, str, int], dict[tuple[str, str], list[float]]]:
    """(minutes, way, patients): metric and extractor: the values of the draws."""
    found: dict = {}
    for row in rows:
        group = found.setdefault((int(row["minutes"]), row["way"], int(row["patients"])), {})
        group.setdefault((row["metric"], row["extractor"]), []).append(float(row["value"]))
    return found


def markdown(rows: list[dict]) -> str:
    """A table for each budget."""
    found = values(rows)
    lines = [HEAD]
    for minutes in sorted({minutes for minutes, _, _ in found}):
        names = " | ".join(name for name, *_ in SHOWN)
        lines += [f"## {minutes} minutes of one core", "", f"| patients | way | draws | {names} |"]
        lines.append("|---" * (len(SHOWN) + 3) + "|")
        own = [(patients, way) for budget, way, patients in found if budget == minutes]
        for patients, way in sorted(own, key=lambda one: (one[0], WAYS.index(one[1]))):
            group = found[minutes, way, patients]
            cells = [
                _cell(group.get((metric, extractor), []), digits) for _, metric, extractor, digits in SHOWN
            ]
            draws = len(group["kid", "alexnet"])
            lines.append(f"| {patients} | {way} | {draws} of {len(DRAWS)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(numbers: list[float], digits: int) -> str:
    if not numbers:
        return ""
    mean = f"{sum(numbers) / len(numbers):.{digits}f}"
    ends = "" if len(numbers) == 1 else f" [{min(numbers):.{digits}f}, {max(numbers):.{digits}f}]"
    return f"{mean}{ends}".replace("-", "−")


def plot(rows: list[dict]) -> None:
    """Each metric against the number of patients; a line a way, full for the shortest budget, dashed for the other."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "pretraining"
    from matplotlib import pyplot as plt

    found = values(rows)
    budgets = sorted({minutes for minutes, _, _ in found})
    figure, axes = plt.subplots(1, len(PANELS), figsize=(2.6 * len(PANELS), 2.8), squeeze=False)
    for axis, (name, metric, extractor, _) in zip(axes[0], PANELS, strict=True):
        for way, colour in COLOURS.items():
            for minutes, style in zip(budgets, ("-", "--"), strict=False):
                points = sorted(
                    (patients, group[metric, extractor])
                    for (budget, own, patients), group in found.items()
                    if (budget, own) == (minutes, way) and (metric, extractor) in group
                )
                if points:
                    means = [sum(numbers) / len(numbers) for _, numbers in points]
                    axis.plot(
                        [x for x, _ in points], means, style, color=colour, label=f"{way}, {minutes} min"
                    )
                    for x, numbers in points:
                        axis.plot([x] * len(numbers), numbers, ".", color=colour, alpha=0.6, markersize=4)
        axis.set_xscale("log")
        axis.set_xticks(sorted({patients for _, _, patients in found}))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("patients", fontsize=8)
    axes[0, 0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(DOCS / "pretraining.svg", metadata={"Date": None})


def main() -> None:
    """Write both files."""
    rows = table().rows()
    if not rows:
        raise SystemExit(f"{table().path}: expected runs, found none; run pretraining.py first")
    plot(rows)
    (DOCS / "tables" / "pretraining.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
