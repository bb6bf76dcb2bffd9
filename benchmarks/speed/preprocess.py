"""From NIfTI files to training slices, against the reference:
python benchmarks/speed/preprocess.py --out results/benchmarks/preprocess.tsv

slimdiff: the stages participants (quality control of every volume; times are given with and without it), preprocess and
cache, once as functions in warm processes and once with one process per volume as in the workflow, imports included.
Reference (PyPI slim-diff 1.0.0): its MONAI transforms and cache builder (one compressed npz per slice) in warm
processes. It has no workers; for n workers, n processes share the volumes.

Both sides use the same volumes, grid, spacing, z-range, z-bins, minimum lesion size and threads (cores divided by
workers). They run in turns, the first turn is discarded, and medians are reported. Then an epoch is timed: every slice
once in random order in float32 batches, as the training of each side reads them, with files in the page cache. Its
ratios are to the fastest setting of the reference.

Peak memory is that of the largest process; `workers_memory_mb` is the sum over parallel workers. `cpu_s` is processor
time; other programs affect it less than `seconds`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import preprocess_runs as runs
from preprocess_epochs import epochs
from preprocess_runs import Run, Volumes, closed, our_side

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from environment import add_options, chosen_python
from turns import Side, SideFailed, device_name, today, write_table

COLUMNS = [
    "side",
    "work",
    "workers",
    "threads",
    "per_s",
    "times_reference",
    "seconds",
    "seconds_min",
    "seconds_max",
    "cpu_s",
    "times_reference_cpu",
    "quality_s",
    "volumes_s",
    "store_s",
    "peak_memory_mb",
    "workers_memory_mb",
    "volumes",
    "slices",
    "lesion_slices",
    "disk_mb",
    "repeats",
    "data",
    "device",
    "date",
    "note",
]
GOAL_VOLUMES, GOAL_EPOCH = 3, 20
PLAIN, LOOKED = "volumes", "volumes and quality control"
ONE_EACH = "a process a volume"


def chosen_volumes(options: argparse.Namespace, work: Path) -> Volumes:
    """The volumes selected by the options, found by slimdiff's own discovery."""
    with ExitStack() as stack:
        side = closed(stack, our_side(options.cores))
        if options.open_ms:
            data = {"source": "table", "table": str(_table(options.open_ms.resolve(), work))}
        elif options.data:
            data = {"source": "bids", "root": str(options.data.resolve())}
        else:
            data = {"source": "bids", "root": str(work / "phantom")}
            side.ask(what="cohort", folder=data["root"], count=options.volumes or 8)
        study = {"study": "found", "results_dir": str(work), "data": data}
        everybody = side.ask(what="found", study=json.dumps(study))["participants"]
    taken = everybody[: options.volumes]
    data["exclude"] = {one["name"]: "not in this benchmark" for one in everybody[len(taken) :]}
    facts = {
        "spacing_mm": 1.25,
        "grid": [160, 160, 160],
        "z_range": [34, 115],
        "n_bins": 30,
        # With two patients, excluding small lesions would leave z-bins empty.
        "min_lesion_px": 0 if options.open_ms else 30,
        "batch": runs.BATCH,
    }
    return Volumes(work, data, taken, facts)


def _table(folder: Path, work: Path) -> Path:
    """Write a table of the patients of Lesjak et al. 2017 that have a FLAIR image, with their masks."""
    images = sorted(folder.glob("patient*_FLAIR_MNI.nii.gz"))
    if not images:
        sys.exit(f"--open-ms: expected patient*_FLAIR_MNI.nii.gz in {folder}, found none")
    lines = ["participant_id\timage\tmask\tgroup"]
    for image in images:
        name = image.name.split("_")[0]
        lines.append(f"{name}\t{image}\t{folder / f'{name}_lesion_MNI.nii.gz'}\tms")
    table = work / "open_ms.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


def compare(volumes: Volumes, reference: str | None, workers: int, options: argparse.Namespace) -> list[dict]:
    """Rows for one number of workers."""
    threads = max(1, options.cores // workers)
    with ExitStack() as stack:
        ours = [closed(stack, our_side(threads)) for _ in range(workers)]
        looking = closed(stack, our_side(threads))
        ways: dict[str, Callable[[str], Run]] = {
            "ours": lambda name: runs.functions(volumes, name, ours, looking),
            "processes": lambda name: runs.processes(volumes, name, workers, looking),
        }
        if reference:
            theirs = [
                closed(stack, Side(reference, "preprocess_published.py", threads, facts=volumes.facts))
                for _ in range(workers)
            ]
            ways["reference"] = lambda name: runs.reference(volumes, name, theirs)
        found = in_turns(ways, volumes, options.repeats, f"{workers} workers")
    facts = {"workers": workers, "threads": threads, "volumes": len(volumes.participants)}
    rows = []
    for way, quality, side, work in (
        ("ours", False, "slimdiff", PLAIN),
        ("ours", True, "slimdiff", LOOKED),
        ("processes", False, "slimdiff", f"{PLAIN}, {ONE_EACH}"),
        ("processes", True, "slimdiff", f"{LOOKED}, {ONE_EACH}"),
        ("reference", False, "reference", PLAIN),
    ):
        if way in found:
            rows.append({"side": side, "work": work, **facts, **summed(found[way], quality)})
    for row in rows:
        if reference:
            row["times_reference"] = rows[-1]["seconds"] / row["seconds"]
            row["times_reference_cpu"] = rows[-1]["cpu_s"] / row["cpu_s"]
    return rows


def in_turns(
    ways: dict[str, Callable[[str], Run]], volumes: Volumes, repeats: int, label: str
) -> dict[str, list[Run]]:
    """Timed runs of every way. The order reverses each turn; the files of the last turn are kept for the epochs."""
    found: dict[str, list[Run]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way in list(ways)[:: -1 if turn % 2 else 1]:
            runs.forget(volumes, way)
            run = ways[way](way)
            print(f"{label}, turn {turn}, {way}: {run.seconds(True):.2f} s", file=sys.stderr)
            if turn:
                found[way].append(run)
    return found


def summed(found: list[Run], quality: bool) -> dict:
    """Medians over the runs of one way."""
    seconds = [run.seconds(quality) for run in found]
    middle = statistics.median(seconds)
    parts = {
        f"{part}_s": statistics.median(run.parts[part] for run in found)
        for part in ("quality", "volumes", "store")
        if part in found[0].parts and (quality or part != "quality")
    }
    last = found[-1]
    return {
        "seconds": middle,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "cpu_s": statistics.median(run.cpu_seconds(quality) for run in found),
        **parts,
        "peak_memory_mb": last.peak_mb(quality),
        "workers_memory_mb": sum(last.memory_mb),
        "slices": last.slices,
        "lesion_slices": last.lesion_slices,
        "disk_mb": last.disk_mb,
        "repeats": len(found),
    }


def many_volumes(volumes: Volumes, count: int, options: argparse.Namespace) -> dict:
    """The row of slimdiff's store of `count` participants, built in a separate process."""
    with ExitStack() as stack:
        side = closed(stack, our_side(options.cores))
        answer = side.ask(what="many", study=volumes.study("ours"), count=count)
    return {
        "side": "slimdiff",
        "work": "store of many volumes",
        "threads": options.cores,
        "seconds": answer["seconds"],
        "per_s": count / answer["seconds"],
        "peak_memory_mb": answer["memory_mb"],
        "volumes": count,
        "disk_mb": answer["store_mb"],
        "note": f"copies of the volumes above; peak memory includes {answer['before_mb']:.0f} MB used before",
    }


def goals(rows: list[dict]) -> list[str]:
    """Whether the two goals are reached, one line each; the lowest ratio decides.

    The goal for volumes excludes quality control, which the reference does not have.
    """
    lines = []
    for what, goal, chosen in (
        ("volumes", GOAL_VOLUMES, lambda row: row["work"] == PLAIN),
        ("epoch", GOAL_EPOCH, lambda row: row["work"].startswith("epoch")),
    ):
        ratios = {
            f"{row['work']}, {row.get('workers', 1)} worker(s)": row["times_reference"]
            for row in rows
            if row["side"] == "slimdiff" and "times_reference" in row and chosen(row)
        }
        if ratios:
            worst = min(ratios, key=ratios.get)
            verdict = "reached" if ratios[worst] >= goal else "missed"
            lines.append(
                f"goal {what}, {goal} times the reference: {verdict}, lowest ratio {ratios[worst]:.2f} ({worst})"
            )
    return lines


def main() -> None:
    """Print the table, then whether the goals are reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help="BIDS dataset; default: a generated phantom of 1 mm")
    source.add_argument("--open-ms", type=Path, help="folder of patient*_{FLAIR,lesion}_MNI.nii.gz")
    parser.add_argument(
        "--volumes", type=int, help="number of participants, patients first; default: all, phantom 8"
    )
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="number of timed turns")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--many", type=int, default=85, help="volumes of the large store; 0 = skip it")
    parser.add_argument("--work", type=Path, help="working folder; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, help="also write the table here")
    add_options(parser)
    options = parser.parse_args()
    reference = chosen_python(options)
    common = {"data": "phantom, 1 mm", "device": device_name(None, "cpu"), "date": today()}
    if options.data or options.open_ms:
        common["data"] = (options.data or options.open_ms).name
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        try:
            volumes = chosen_volumes(options, Path(folder))
            for workers in options.workers:
                rows += compare(volumes, reference, workers, options)
            rows += epochs(volumes, reference, options)
            if options.many:
                rows.append(many_volumes(volumes, options.many, options))
        except SideFailed as failure:
            print(failure, file=sys.stderr)
            rows.append({"side": "slimdiff", "note": str(failure)})
            failed = 1
    for row in rows:
        row.setdefault("per_s", row["volumes"] / row["seconds"] if "seconds" in row else "n/a")
        row |= common
    write_table(rows, COLUMNS, options.out)
    print(*goals(rows), sep="\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
