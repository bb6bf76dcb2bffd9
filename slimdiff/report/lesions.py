"""The figure of a variant's lesions: where they lie, how large and of what shape they are, and what tau changes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from slimdiff.config import StudyPaths
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.profiles import BRAIN_THRESHOLD
from slimdiff.files import read_table
from slimdiff.generation.samples import Samples
from slimdiff.report.results import Result, number
from slimdiff.report.style import COLOURS, FLOOR, INK, QUIET, colour, dash, marker, new_plot

SETS = {"held-out": INK, "training": "#949494", "synthetic": COLOURS[0]}
SHAPES = {
    "area": "Area [px]",
    "circularity": "Circularity",
    "solidity": "Solidity",
    "eccentricity": "Eccentricity",
}
SWEEP = {
    "mmd_mf": "MMD-MF ↓",
    "mmd_mf_w1": "MMD-MF features, W1 ↓",
    "mmd_robust": "Robust MMD ↓",
    "n_components": "Lesions",
}


def read_lesions(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """`lesions.tsv` as columns of numbers by set: held-out, training, synthetic."""
    columns = ("z_bin", *SHAPES)
    rows = read_table(path, ("set", *columns))
    return {
        name: {
            column: np.array([number(row[column]) for row in rows if row["set"] == name])
            for column in columns
        }
        for name in SETS
    }


def lesion_sheet(
    paths: StudyPaths,
    store: SliceStore,
    parts: dict[str, list[str]],
    samples: Samples,
    rows: Sequence[Result],
    variant: str,
    folds: int,
    shown_fold: int,
    tau: float,
) -> Figure:
    """Maps, sizes and shapes of one fold, and the tau sweep of all.

    parts: participants of the shown fold by split; samples: of the shown fold; rows: the variant's metrics, for floors.
    """
    handles = [Line2D([], [], color=own, label=name) for name, own in SETS.items()]
    handles += [
        Line2D([], [], color=colour(fold), marker=marker(fold), markersize=4, label=f"sweep, fold {fold}")
        for fold in range(folds)
    ]
    handles.append(Line2D([], [], color=FLOOR, linestyle=":", label="its floor, at the study's tau"))
    note = (
        f"maps, sizes and shapes: fold {shown_fold}, lesion slices only; training slices in the samples' mix of "
        f"heights; tau {tau:g}"
    )
    figure = new_plot(10, 6.6, f"Lesions: {variant}", handles, note)
    grid = figure.subplots(3, 4)
    chosen = {
        "held-out": store.rows_of(parts["test"]),
        "training": store.rows_of(parts["train"]),
    }
    stacks = {name: (store.images[own], store.masks[own] > 0) for name, own in chosen.items()}
    stacks["synthetic"] = (samples.images, np.asarray(samples.masks, np.float32) > tau)
    _maps(grid[0, :3], stacks, store.spacing_mm)
    found = read_lesions(paths.metrics(variant, shown_fold) / "lesions.tsv")
    _sizes_by_height(grid[0, 3], found, store.n_bins)
    for axes, (shape, title) in zip(grid[1], SHAPES.items(), strict=True):
        _distribution(axes, {name: columns[shape] for name, columns in found.items()}, title)
    sweeps = [read_table(paths.metrics(variant, fold) / "tau_sweep.tsv") for fold in range(folds)]
    for axes, (column, title) in zip(grid[2], SWEEP.items(), strict=True):
        floors = {row.fold: row.floor for row in rows if row.metric == column and row.z_bin is None}
        _sweep(axes, sweeps, column, title, floors, tau)
    return figure


def _maps(
    places: Sequence[Axes], stacks: dict[str, tuple[np.ndarray, np.ndarray]], spacing_mm: float
) -> None:
    """Share of lesion slices in which each pixel is lesion, on one scale, with the outline of the mean brain."""
    shares = {}
    for name, (images, lesion) in stacks.items():
        with_lesion = np.flatnonzero(lesion.any(axis=(1, 2)))
        brain = (np.asarray(images, np.float32) > BRAIN_THRESHOLD).mean(axis=0)
        shares[name] = (
            lesion[with_lesion].mean(axis=0) if len(with_lesion) else None,
            brain,
            len(with_lesion),
        )
    highest = max((share.max() for share, _, _ in shares.values() if share is not None), default=1)
    for axes, (name, (share, brain, count)) in zip(places, shares.items(), strict=True):
        axes.set_title(f"{name}: {count} lesion slices")
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_aspect("equal")
        if share is None:
            axes.text(0.5, 0.5, "n/a: no lesion", transform=axes.transAxes, ha="center")
            continue
        seen = np.ma.masked_equal(share, 0)
        shown = axes.imshow(seen, cmap="YlOrRd", vmin=0, vmax=highest, interpolation="nearest")
        axes.contour(brain, [0.5], colors=QUIET, linewidths=0.8)
        axes.text(0.02, 0.97, "L", transform=axes.transAxes, fontsize=7, va="top")
        axes.text(0.98, 0.97, "R", transform=axes.transAxes, fontsize=7, va="top", ha="right")
    if any(share is not None for share, _, _ in shares.values()):
        bar = places[0].figure.colorbar(shown, ax=list(places), fraction=0.03, pad=0.01)
        bar.set_label("share of lesion slices", fontsize=7)
        bar.ax.tick_params(labelsize=6.5)
        bar.outline.set_visible(False)


def _sizes_by_height(axes: Axes, found: dict[str, dict[str, np.ndarray]], n_bins: int) -> None:
    axes.set_title("Area by height [px]")
    for place, (name, columns) in enumerate(found.items()):
        for z_bin in range(n_bins):
            areas = columns["area"][columns["z_bin"] == z_bin]
            if not len(areas):
                continue
            low, middle, high = np.quantile(areas, (0.25, 0.5, 0.75))
            x = z_bin + (place - 1) * 0.22
            axes.plot([x, x], [low, high], color=SETS[name], linewidth=1)
            axes.plot(x, middle, marker="o", color=SETS[name], markersize=3)
    axes.set(xlabel="z-bin (0 lowest); bars: quartiles", xlim=(-0.6, n_bins - 0.4))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="y")


def _distribution(axes: Axes, by_set: dict[str, np.ndarray], title: str) -> None:
    """Empirical distribution functions: nothing is smoothed, and small sets look as coarse as they are."""
    axes.set_title(title)
    for name, values in by_set.items():
        if len(values):
            axes.ecdf(values, color=SETS[name], linewidth=1.3)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of lesions" if title == SHAPES["area"] else "")
    if title == SHAPES["area"]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid()


def _sweep(
    axes: Axes,
    sweeps: Sequence[list[dict[str, str]]],
    column: str,
    title: str,
    floors: dict[int, float],
    tau: float,
) -> None:
    axes.set_title(title)
    axes.axvline(tau, color="#e3e3e3", linewidth=3, zorder=0)
    for fold, rows in enumerate(sweeps):
        x, y = ([number(row[name]) for row in rows] for name in ("tau", column))
        axes.plot(x, y, color=colour(fold), marker=marker(fold), markersize=3.5, linewidth=1.2)
        if np.isfinite(floors.get(fold, np.nan)):
            axes.axhline(floors[fold], color=FLOOR, linestyle=":", linewidth=1.2, dashes=dash(2)[1])
    axes.set_xlabel("mask threshold tau")
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(0, bottom), top + 0.05 * (top - min(0, bottom)))
    axes.grid(axis="y")
