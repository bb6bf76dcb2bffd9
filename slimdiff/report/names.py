"""Names of the figures and tables: the stage that draws them and the rules share this list."""

from collections.abc import Sequence

TABLES = (
    "metrics.tsv",
    "metrics.tex",
    "metrics.html",
    "comparison.tsv",
    "comparison.html",
    "quality.html",
    "participants.html",
    "provenance.html",
)


def figure_names(variants: Sequence[str]) -> list[str]:
    """Every file below `figures/`."""
    shared = ["data.png", "training.svg", "metrics_by_variant.svg"]
    return shared + [
        name
        for variant in variants
        for name in (
            f"samples_{variant}.png",
            f"metrics_by_zbin_{variant}.svg",
            f"lesions_{variant}.svg",
            f"nearest_{variant}.png",
        )
    ]
