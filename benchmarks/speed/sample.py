"""Sampling speed against the reference, measured in turns: python benchmarks/speed/sample.py [--out sample.tsv]

`evaluation`: one evaluation of the paper's network at 160 x 160, for one slice and for a batch. `sample`: a whole
sample at the default settings of each side. slimdiff: 15 evaluations of DPM-Solver++(2M); on a CPU samples run in
parallel, one per core. Reference: 300 evaluations of DDIM; its sampler runs a few, and the time is scaled to 300
(`--full` runs all). The roof is the time of the network's convolutions alone, each at its fastest.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "published"))

from environment import add_options, chosen_python
from turns import Side, SideFailed, compare_all, today

COLUMNS = [
    "side",
    "precision",
    "work",
    "batch",
    "seconds",
    "per_s",
    "times_reference",
    "peak_memory_mb",
    "tflop_per_s",
    "share_of_peak",
    "roof_seconds",
    "share_of_roof",
    "outside_network",
    "gflop",
    "peak_tflop_per_s",
    "peak_from",
    "device",
    "threads",
    "torch",
    "date",
    "note",
]
REFERENCE_STEPS = 300


def compare(reference: str | None, common: dict, options: argparse.Namespace) -> list[dict]:
    """The rows of one precision and batch size."""
    batch, on_cpu = common["batch"], common["device"] == "cpu"
    facts = {"precision": common["precision"], "threads": options.threads}
    facts |= {"date": today(), "torch": torch.__version__}
    works = [("evaluation", count) for count in dict.fromkeys((1, batch))]
    # On a CPU slimdiff runs one sample per core; the reference runs one sample, which is its fastest way.
    works.append(("sample", options.threads if on_cpu else batch))
    limits = Side(
        sys.executable, "slimdiff_side.py", options.threads, work="limits", compiled=False, **common
    )
    sides = {
        "slimdiff": Side(
            sys.executable,
            "slimdiff_side.py",
            options.threads,
            work="sample",
            compiled=options.compile,
            **common,
        )
    }
    if reference:
        sides["reference"] = Side(reference, "published_side.py", options.threads, work="sample", **common)
    rows = []
    for what, count in works:
        best: dict[str, float] = {}
        answers, notes = {}, {}
        for turn in range(options.rounds):
            limit = limits.ask(batch=count)
            for name, side in list(sides.items()):
                asked, repeats = count, options.repeats
                if what == "sample" and name == "reference":
                    asked = 1 if on_cpu else count
                    repeats = REFERENCE_STEPS if options.full else options.reference_steps
                    notes[name] = f"{REFERENCE_STEPS} evaluations of DDIM, {repeats} of them run"
                    notes[name] += f", batch {asked}"
                try:
                    answer = side.ask(what=what, batch=asked, repeats=repeats)
                except SideFailed as failure:
                    notes[name] = str(failure)
                    del sides[name]
                    continue
                seconds = answer["seconds"]
                if what == "sample" and name == "reference":
                    seconds *= REFERENCE_STEPS / asked
                elif what == "sample":
                    notes[name] = f"{answer['evaluations']} evaluations of DPM-Solver++(2M)"
                best[name] = min(best.get(name, seconds), seconds)
                answers[name] = answer
                print(f"round {turn + 1} {what} {count} {name}: {seconds:.3f} s", file=sys.stderr)
        for name in dict.fromkeys((*best, *notes)):
            row = {"side": name, **facts, "work": what, "batch": count, "note": notes.get(name, "")}
            row["device"] = limit["device"]
            if name in best:
                runs = 1 if what == "evaluation" else answers[name].get("evaluations", REFERENCE_STEPS)
                slices = count if what == "evaluation" else 1
                row |= _figures(best[name], runs, slices, count, limit)
                row["peak_memory_mb"] = answers[name]["memory_mb"]
            rows.append(row)
        if {"slimdiff", "reference"} <= set(best):
            row = next(row for row in reversed(rows) if row["side"] == "slimdiff")
            row["times_reference"] = best["reference"] / best["slimdiff"]
        if what == "sample" and not on_cpu and "slimdiff" in best:
            # On a GPU nothing runs in parallel: time beyond the evaluations is spent outside the network.
            alone = next(r for r in rows if r["side"] == "slimdiff" and r["batch"] == count)
            row = next(row for row in reversed(rows) if row["side"] == "slimdiff")
            network = alone["seconds"] * answers["slimdiff"]["evaluations"] / count
            row["outside_network"] = max(0.0, 1 - network / best["slimdiff"])
    for side in (limits, *sides.values()):
        side.close()
    return rows


def _figures(seconds: float, runs: int, slices: int, count: int, limit: dict) -> dict:
    gflop = runs * slices * limit["gflop"]
    roof = runs * slices * limit["forward"] / count
    return {
        "seconds": seconds,
        "per_s": slices / seconds,
        "gflop": gflop,
        "tflop_per_s": gflop / seconds / 1e3,
        "peak_tflop_per_s": limit["peak_tflops"],
        "peak_from": limit["peak_from"],
        "share_of_peak": gflop / seconds / 1e3 / limit["peak_tflops"],
        "roof_seconds": roof,
        "share_of_roof": roof / seconds,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", nargs="+", type=int, help="default: 4; on CUDA 32 64 128")
    parser.add_argument("--size", type=int, default=160, help="side of a slice, in px")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns per side")
    parser.add_argument("--repeats", type=int, help="evaluations per turn; default: 3; on CUDA 20")
    parser.add_argument(
        "--reference-steps", type=int, help="steps of the reference's sampler; default: 8; on CUDA 20"
    )
    parser.add_argument("--full", action="store_true", help="run all steps of the reference's sampler")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="use torch.compile for slimdiff; default: on CUDA",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="also write the table here")
    add_options(parser)
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    options.compile = not on_cpu if options.compile is None else options.compile
    options.repeats = options.repeats or (3 if on_cpu else 20)
    options.reference_steps = options.reference_steps or (8 if on_cpu else 20)
    sys.exit(compare_all(compare, chosen_python(options), COLUMNS, options))


if __name__ == "__main__":
    main()
