"""The figure of a variant's lesions: where they are, their sizes and shapes, and the effect of the threshold tau."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from slimdiff.config import StudyPaths
from slimdiff.data.store import SliceStore
from slimdiff.dataframes import read_frame
from slimdiff.evaluation.metrics.binary_masks import BinaryMasks
from slimdiff.evaluation.metrics.components import BLOCK_PX
from slimdiff.evaluation.metrics.profiles import BRAIN_THRESHOLD
from slimdiff.generation.samples import Samples
from slimdiff.report.curves import fold_points
from slimdiff.report.style import COLOURS, FLOOR, INK, QUIET, dash, marker, new_plot
from slimdiff.stored_rows import ChosenRows, Rows, blocks_of

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
SWEPT = ("tau", *SWEEP)


def read_lesions(path: Path) -> pd.DataFrame:
    """`lesions.tsv`: set (held-out, training, synthetic), z_bin and SHAPES of every lesion."""
    numbers = ("z_bin", *SHAPES)
    return read_frame(path, ("set", *numbers), numbers)


def lesion_sheet(
    paths: StudyPaths,
    store: SliceStore,
    parts: dict[str, list[str]],
    samples: Samples,
    rows: pd.DataFrame,
    variant: str,
    folds: int,
    shown_fold: int,
    tau: float,
) -> Figure:
    """Maps, sizes and shapes of the lesions of one fold, and the tau sweep of all folds.

    parts: participants of the shown fold by split; samples: of the shown fold; rows: the variant's metrics, for the
    floors.
    """
    handles = [Line2D([], [], color=own, label=name) for name, own in SETS.items()]
    # The swept masks are synthetic and have that colour; folds differ in line and marker.
    handles += [
        Line2D(
            [],
            [],
            color=QUIET,
            linestyle=dash(k),
            marker=marker(k),
            markersize=4,
            label=f"tau sweep, fold {k}",
        )
        for k in range(folds)
    ]
    handles.append(Line2D([], [], color=FLOOR, linestyle=":", label="floor at the study's tau"))
    note = (
        f"maps, sizes and shapes: fold {shown_fold}, lesion slices only; areas and shapes in the held-out mix of "
        f"z-bins; tau {tau:g}; tau sweep: synthetic masks of every fold"
    )
    figure = new_plot(10, 6.6, f"Lesions: {variant}", handles, note)
    grid = figure.subplots(3, 4)
    chosen = {
        "held-out": store.rows_of(parts["test"]),
        "training": store.rows_of(parts["train"]),
    }
    stacks = {
        name: (ChosenRows(store.images, own), BinaryMasks(ChosenRows(store.masks, own)))
        for name, own in chosen.items()
    }
    stacks["synthetic"] = (samples.images, BinaryMasks(samples.masks, tau))
    _maps(grid[0, :3], stacks, store.spacing_mm)
    found = read_lesions(paths.metrics(variant, shown_fold) / "lesions.tsv")
    _areas(grid[0, 3], found, store.n_bins)
    for axes, (shape, title) in zip(grid[1], SHAPES.items(), strict=True):
        _distribution(axes, found, shape, title)
    sweep = pd.concat(
        [
            read_frame(paths.metrics(variant, fold) / "tau_sweep.tsv", SWEPT, SWEPT).assign(fold=fold)
            for fold in range(folds)
        ]
    )
    for axes, (metric, title) in zip(grid[2], SWEEP.items(), strict=True):
        floors = rows.loc[(rows["metric"] == metric) & rows["z_bin"].isna(), "floor"].dropna()
        _tau_sweep(axes, sweep, metric, title, floors.tolist(), tau)
    return figure


def _maps(
    places: Sequence[Axes], stacks: dict[str, tuple[np.ndarray | Rows, BinaryMasks]], spacing_mm: float
) -> None:
    """Share of lesion slices in which each pixel is lesion, on one scale, with the outline of the mean brain."""
    shares = {}
    for name, (images, lesion) in stacks.items():
        count, of_lesion, of_brain = 0, *np.zeros((2, *images.shape[1:]))
        for block in blocks_of(images, BLOCK_PX):
            own = lesion[block]
            count += int(own.any(axis=(1, 2)).sum())
            of_lesion += own.sum(axis=0)
            of_brain += (np.asarray(images[block], np.float32) > BRAIN_THRESHOLD).sum(axis=0)
        shares[name] = (of_lesion / count if count else None, of_brain / max(1, len(images)), count)
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


def _areas(axes: Axes, found: pd.DataFrame, n_bins: int) -> None:
    """Median and quartiles of the lesion area in every z-bin."""
    sns.pointplot(
        found,
        x="z_bin",
        y="area",
        hue="set",
        hue_order=list(SETS),
        palette=SETS,
        estimator="median",
        errorbar=("pi", 50),
        linestyles="none",
        dodge=0.44,
        native_scale=True,
        markersize=3,
        markeredgewidth=0,
        err_kws={"linewidth": 1},
        legend=False,
        ax=axes,
    )
    axes.set_title("Area by z-bin [px]")
    axes.set(xlabel="z-bin (0 lowest); median, quartiles", ylabel="", xlim=(-0.6, n_bins - 0.4))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="y")


def _distribution(axes: Axes, found: pd.DataFrame, shape: str, title: str) -> None:
    """Empirical distribution functions: unsmoothed, so that small sets show their steps."""
    sns.ecdfplot(
        found, x=shape, hue="set", hue_order=list(SETS), palette=SETS, linewidth=1.3, legend=False, ax=axes
    )
    axes.set_title(title)
    axes.set_ylim(-0.02, 1.02)
    axes.set(xlabel="", ylabel="share of lesions" if shape == "area" else "")
    if shape == "area":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid()


def _tau_sweep(
    axes: Axes, sweep: pd.DataFrame, metric: str, title: str, floors: Sequence[float], tau: float
) -> None:
    """A metric of the synthetic masks by threshold, a line for each fold, with the floors."""
    folds = sweep["fold"].nunique()
    if sweep[metric].notna().any():
        plot_options = {"palette": [SETS["synthetic"]] * folds, "linestyles": [dash(k) for k in range(folds)]}
        plot_options |= {"linewidth": 1.2, "markersize": 3.5, "markeredgewidth": 0, "native_scale": True}
        fold_points(axes, sweep, "tau", metric, folds, 0, **plot_options)
    for floor in floors:
        axes.axhline(floor, color=FLOOR, linestyle=":", linewidth=1.2)
    axes.axvline(tau, color="#e3e3e3", linewidth=3, zorder=0)
    axes.set_title(title)
    axes.set_xlabel("mask threshold tau")
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(0, bottom), top + 0.05 * (top - min(0, bottom)))
    axes.grid(axis="y")
