"""A page of every sample beside its closest training slice, with filters that need no script."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics.binary_masks import has_lesion
from slimdiff.generation.samples import Samples
from slimdiff.report.front.tiles import SHEET_COLUMNS, jpeg_uri, plane_of, sheet, tile_height
from slimdiff.report.html_page import text
from slimdiff.report.outliers import WORDS

BUDGET = 3_000_000
"""Bytes of the pages of all variants together, about; tiles become smaller to keep it."""
MOST = 4_000
"""Samples of the pages of all variants together; a flagged sample is always shown."""
SEED = 0
EDGES = (112, 96, 80, 64, 48)
"""Widths of a tile that are tried, in px."""
SHEET_QUALITY = 70
FLAGS = {
    "copy": "suspected copy",
    "outlier": "outlier",
    "disobeys": "lesion missing or not requested",
    "none": "no flag",
}
STYLE = """<style>
input.pick { position: absolute; opacity: 0; width: 1px; height: 1px; }
input.pick:focus-visible ~ nav { outline: 2px solid #0b5cad; }
nav.pick { position: sticky; top: 0; background: #fff; padding: .4rem 0; border-bottom: 1px solid #ccc; z-index: 1; }
nav.pick div { margin: .15rem 0; }
nav.pick b { display: inline-block; width: 5rem; font-weight: 400; color: #56616d; }
nav.pick label { display: inline-block; padding: .05rem .55rem; border: 1px solid #b8c0c8; border-radius: 1rem;
  margin: .1rem; cursor: pointer; }
.samples { display: flex; flex-wrap: wrap; gap: .6rem; margin-top: .6rem; }
.one { font-size: 11px; line-height: 1.3; }
.one i { display: inline-block; background-color: #000; margin-right: 2px; }
.one span { display: block; }
.one .alarm { font-weight: 600; }
</style>"""


def browse_body(
    store: SliceStore,
    samples: Mapping[int, Samples],
    neighbours: pd.DataFrame,
    outliers: pd.DataFrame,
    tau: float = 0.0,
    min_px: int = 1,
    budget: int = BUDGET,
    most: int = MOST,
) -> str:
    """HTML: filters by fold, z-bin, class and flag; then each sample, left, and its closest training slice, right.

    Args:
        samples: fold to samples of one variant.
        neighbours: of `results.read_neighbours`; the first space names the closest slice, every space can flag.
        outliers: of `results.read_outliers`.
        tau: threshold of the masks.
        min_px: size of the smallest lesion that counts.
        budget: bytes of the pictures, about.
        most: samples without a flag that are shown, selected by seed, and those with a flag.
    """
    entries = [
        entry
        for fold, own in samples.items()
        for entry in _entries(fold, own, neighbours, outliers, has_lesion(own.masks, tau, min_px))
    ]
    if not entries:
        return "<p>n/a: there is no sample.</p>"
    drawn = len(entries)
    plain = [number for number, entry in enumerate(entries) if entry["flags"] == ["none"]]
    if len(plain) > most:
        left_out = set(np.random.default_rng(SEED).permutation(plain)[most:].tolist())
        entries = [entry for number, entry in enumerate(entries) if number not in left_out]
    edge, sheets = _sheets(store, samples, entries, tau, budget)
    height = tile_height(store.size, edge)
    picks = {
        "fold": [str(fold) for fold in samples],
        "z-bin": [str(z_bin) for z_bin in range(store.n_bins)],
        "class": ["lesion", "no lesion"],
        "flag": list(FLAGS),
    }
    inputs, rows, rules = _filters(picks, entries)
    for name, (address, _) in sheets.items():
        rules.append(f".{name} {{ background-image: url({address}); }}")
    rules.append(f".one i {{ width: {edge}px; height: {height}px; }} .one {{ width: {2 * edge + 8}px; }}")
    places = {name: positions for name, (_, positions) in sheets.items()}
    tiles = "".join(_tile(store, entry, places, edge, height) for entry in entries)
    space = neighbours["space"].iloc[0] if len(neighbours) else ""
    note = (
        f'<p class="quiet">{_number_shown(len(entries), drawn)} Left: the sample, its mask outlined. Right: '
        f"the closest training slice of its z-bin, by {text(space)}. Distance: relative to the threshold "
        "below which a sample is a suspected copy. The filters work without scripts.</p>"
    )
    return (
        f"{STYLE}<style>{' '.join(rules)}</style>{note}{inputs}"
        f'<nav class="pick">{rows}</nav><div class="samples">{tiles}</div>'
    )


def _number_shown(shown: int, drawn: int) -> str:
    if shown == drawn:
        return f"{drawn:,} samples."
    return (
        f"{shown:,} of {drawn:,} samples: all with a flag, the others selected by seed. slimdiff-export writes every "
        "sample as PNG."
    )


def _entries(
    fold: int, samples: Samples, neighbours: pd.DataFrame, outliers: pd.DataFrame, lesion: np.ndarray
) -> list[dict]:
    own = neighbours[neighbours["fold"] == fold]
    spaces = list(dict.fromkeys(own["space"]))
    first = own[own["space"] == spaces[0]].set_index("sample") if spaces else own.set_index("sample")
    flagged = own[own["flagged"]].groupby("sample")["space"].agg(list).to_dict()
    strange = outliers[outliers["fold"] == fold].set_index("id")
    result = []
    for row in range(len(samples.id)):
        label = int(samples.label[row])
        near = first.loc[row] if row in first.index else None
        score = strange.loc[samples.id[row]] if samples.id[row] in strange.index else None
        flags = [
            name
            for name, there in (
                ("copy", row in flagged),
                ("outlier", score is not None and bool(score["outlier"])),
                ("disobeys", bool(lesion[row]) != bool(label)),
            )
            if there
        ]
        result.append(
            {
                "fold": fold,
                "row": row,
                "id": str(samples.id[row]),
                "z-bin": int(samples.z_bin[row]),
                "class": "lesion" if label else "no lesion",
                "flags": flags or ["none"],
                "near": None if near is None else int(near["train_row"]),
                "distance": np.nan if near is None else float(near["distance"] / near["threshold"]),
                "spaces": flagged.get(row, []),
                "why": "" if score is None else str(score["why"]),
            }
        )
    return result


def _sheets(store, samples, entries, tau, budget) -> tuple[int, dict[str, tuple[str, dict]]]:
    """Width of a tile, and for each sheet its name, its picture, and the place of each row on it."""
    for edge in EDGES:
        sheets, size = {}, 0
        for fold, own in samples.items():
            rows = [entry["row"] for entry in entries if entry["fold"] == fold]
            planes = [plane_of(own.images[row], np.asarray(own.masks[row], np.float32) > tau) for row in rows]
            sheets[f"s{fold}"] = (jpeg_uri(sheet(planes, edge), SHEET_QUALITY), _positions(rows))
            size += len(sheets[f"s{fold}"][0])
        near = sorted({entry["near"] for entry in entries if entry["near"] is not None})
        if near:
            planes = [plane_of(store.images[row], store.masks[row] > 0) for row in near]
            sheets["t"] = (jpeg_uri(sheet(planes, edge), SHEET_QUALITY), _positions(near))
            size += len(sheets["t"][0])
        if size <= budget:
            break
    return edge, sheets


def _positions(rows: Sequence[int]) -> dict[int, int]:
    return {row: number for number, row in enumerate(rows)}


def _name(kind: str, value: str) -> str:
    return f"{kind}-{value}".replace(" ", "-")


def _filters(picks: Mapping[str, Sequence[str]], entries: Sequence[dict]) -> tuple[str, str, list[str]]:
    """Radio buttons, their labels, and the rules that hide what is not picked."""
    inputs, rows, rules = "", "", []
    for kind, values in picks.items():
        counted = {
            value: sum(
                value in entry["flags"] if kind == "flag" else str(entry[kind]) == value for entry in entries
            )
            for value in values
        }
        labels = f'<label for="{_name(kind, "all")}">all</label>'
        inputs += f'<input class="pick" type="radio" name="{kind}" id="{_name(kind, "all")}" checked>'
        for value in values:
            name = _name(kind, value)
            inputs += f'<input class="pick" type="radio" name="{kind}" id="{name}">'
            labels += f'<label for="{name}">{text(FLAGS.get(value, value))} ({counted[value]})</label>'
            rules.append(f"#{name}:checked ~ .samples .one:not(.{name}) {{ display: none; }}")
        for value in ("all", *values):
            name = _name(kind, value)
            rules.append(f'#{name}:checked ~ nav label[for="{name}"] {{ background: #0b5cad; color: #fff; }}')
        rows += f"<div><b>{kind}</b>{labels}</div>"
    return inputs, rows, rules


def _tile(
    store: SliceStore, entry: dict, places: Mapping[str, Mapping[int, int]], edge: int, height: int
) -> str:
    def picture(sheet_name: str, row: int | None, label: str) -> str:
        if row is None:
            return ""
        place = places[sheet_name][row]
        x, y = place % SHEET_COLUMNS * edge, place // SHEET_COLUMNS * height
        return (
            f'<i class="{sheet_name}" role="img" aria-label="{text(label)}" title="{text(label)}" '
            f'style="background-position:-{x}px -{y}px"></i>'
        )

    names = [
        _name("fold", str(entry["fold"])),
        _name("z-bin", str(entry["z-bin"])),
        _name("class", entry["class"]),
    ]
    names += [_name("flag", flag) for flag in entry["flags"]]
    near = entry["near"]
    owner = str(store.participant[near]) if near is not None else ""
    distance = f", {entry['distance']:.2f}" if np.isfinite(entry["distance"]) else ""
    alarms = []
    if "copy" in entry["flags"]:
        alarms.append(f"suspected copy ({', '.join(entry['spaces'])})")
    if "outlier" in entry["flags"]:
        alarms.append(f"outlier: {WORDS.get(entry['why'], entry['why'])}")
    if "disobeys" in entry["flags"]:
        alarms.append("lesion missing" if entry["class"] == "lesion" else "lesion not requested")
    shown = "".join(f'<span class="alarm">{text(alarm)}</span>' for alarm in alarms)
    closest = f"closest: {owner}{distance}" if owner else "no training slice in its z-bin"
    fold = entry["fold"]
    return (
        f'<div class="one {" ".join(names)}">'
        + picture(f"s{fold}", entry["row"], entry["id"])
        + picture("t", near, f"training slice of {owner}")
        + f"<span>z-bin {entry['z-bin']}, {entry['class']}, fold {fold}</span>"
        + f"<span>{text(closest)}</span>{shown}</div>"
    )
