"""The look of every figure: a palette for colour-blind readers, font sizes, and the study's notice."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from slimdiff.files import replacing
from slimdiff.redaction import shown_text

# seaborn's "colorblind" palette, without its pale yellow.
COLOURS = ("#0173B2", "#DE8F05", "#029E73", "#CC78BC", "#CA9161", "#56B4E9", "#949494", "#FBAFE4")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)))
INK = "#222222"
QUIET = "#6b6b6b"
FLOOR = "#555555"
ALARM = "#D55E00"
OUTLINE = "#FFB000"
FOOTER_IN = 0.24
LEGEND_COLUMNS = 8

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.minor.size": 2,
    "ytick.minor.size": 2,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "svg.hashsalt": "slimdiff",
}


@contextmanager
def figure_style():
    """The theme of the figures that are made inside; all other figures keep theirs."""
    import seaborn as sns  # here: a page without figures needs the colours only

    with matplotlib.rc_context():
        sns.set_theme(style="ticks", palette=COLOURS, font=RC["font.family"], rc=RC)
        yield


def colour(position: int) -> str:
    return COLOURS[position % len(COLOURS)]


def marker(position: int) -> str:
    return MARKERS[position % len(MARKERS)]


def dash(position: int):
    return DASHES[position % len(DASHES)]


def gaps(position: int):
    """`dash` as seaborn takes it."""
    return "" if dash(position) == "-" else dash(position)[1]


def new_plot(
    width: float, height: float, title: str, handles: Sequence[Artist] = (), note: str = ""
) -> Figure:
    """A figure of plots with title, note and legend above them and a strip for the notice below.

    width, height: inches; the height is of the panels alone.
    """
    rows = -(-len(handles) // LEGEND_COLUMNS)
    columns = -(-len(handles) // max(1, rows))
    head = 0.34 + (0.2 if note else 0) + 0.19 * rows
    total = head + height + FOOTER_IN
    figure = Figure(figsize=(width, total))
    figure.set_layout_engine("constrained", rect=(0, FOOTER_IN / total, 1, height / total))
    figure.text(0.09 / width, 1 - 0.08 / total, title, fontsize=10, weight="bold", va="top")
    figure.text(0.09 / width, 1 - 0.31 / total, note, fontsize=7.5, color=QUIET, va="top")
    if handles:
        figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - (head - 0.19 * rows - 0.06) / total),
            ncols=columns,
            handlelength=2.4,
            columnspacing=1.6,
            borderaxespad=0.3,
        ).set_in_layout(False)
    return figure


def save(figure: Figure, path: Path, notice: str, dpi: int, study: str = "") -> None:
    """Write the figure in the format of its ending, with the notice in small type, completely or not at all.

    The same figure gives the same bytes: no date, no software version, no random ids.
    """
    one_line = shown_text(" ".join(notice.split()))
    with figure_style():
        figure.text(
            0.09 / figure.get_figwidth(),
            0.07 / figure.get_figheight(),
            "  ·  ".join(part for part in (f"study {study}" if study else "", one_line) if part),
            fontsize=6.5,
            color=QUIET,
            va="bottom",
            # Free text: $ is a sign, not the begin of a formula.
            parse_math=False,
        )
        kind = path.suffix[1:]
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata, facecolor="white")
