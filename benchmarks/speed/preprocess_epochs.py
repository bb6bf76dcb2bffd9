"""An epoch over the files of each side, measured in turns, for preprocess.py."""

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from preprocess_runs import BATCH, Volumes, closed, our_side

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from turns import Side


def epochs(volumes: Volumes, reference: str | None, options: argparse.Namespace) -> list[dict]:
    """Rows of an epoch over the files of the last runs. One thread per side: more threads are not faster."""
    study = volumes.study("ours")
    folder = str(volumes.work / "reference")
    asked = {
        ("slimdiff", "epoch, slices_on: disk"): {"study": study, "batch": BATCH, "where": "disk"},
        ("slimdiff", "epoch, slices_on: device"): {"study": study, "batch": BATCH, "where": "device"},
    }
    if reference:
        for workers in (0, options.cores):
            asked["reference", f"epoch, num_workers: {workers}"] = {"folder": folder, "workers": workers}
    with ExitStack() as stack:
        sides = {}
        for side, work in asked:
            new = (
                our_side(1)
                if side == "slimdiff"
                else Side(reference, "preprocess_published.py", 1, facts=volumes.facts)
            )
            sides[side, work] = closed(stack, new)
        found: dict[tuple[str, str], list[dict]] = {key: [] for key in asked}
        for turn in range(options.repeats + 1):
            for key, question in asked.items():
                answer = sides[key].ask(what="epoch", **question)
                print(f"turn {turn}, {key[1]}: {answer['seconds']:.3f} s", file=sys.stderr)
                if turn:
                    found[key].append(answer)
    rows = []
    for (side, work), answers in found.items():
        seconds = [one["seconds"] for one in answers]
        rows.append(
            {
                "side": side,
                "work": work,
                "threads": 1,
                "seconds": statistics.median(seconds),
                "seconds_min": min(seconds),
                "seconds_max": max(seconds),
                "per_s": answers[-1]["slices"] / statistics.median(seconds),
                "peak_memory_mb": answers[-1]["memory_mb"],
                "volumes": len(volumes.participants),
                "slices": answers[-1]["slices"],
                "repeats": len(answers),
                "note": _note(side, answers),
            }
        )
    if reference:
        best = max(row["per_s"] for row in rows if row["side"] == "reference")
        for row in rows:
            row["times_reference"] = row["per_s"] / best
    return rows


def _note(side: str, answers: list[dict]) -> str:
    note = f"per_s: slices per second; batches of {BATCH}; warm page cache"
    if side == "reference":
        return f"{note}; drops a short last batch"
    return (
        f"{note}; {statistics.median(one['loading_s'] for one in answers):.3f} s once before the first epoch"
    )
