"""Training speed against the reference, measured in turns: python benchmarks/speed/train.py [--out train.tsv]

Times whole optimiser steps (batch, noise, self-conditioning with probability 0.5, backward, clipping, AdamW, EMA) of
the paper's network at 160 x 160, with the same batch size and precision on both sides. The fastest round of each side
counts. The roof is the speed of the network's convolutions alone, each at its fastest.
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
    "batch",
    "images_per_s",
    "times_reference",
    "s_per_step",
    "peak_memory_mb",
    "tflop_per_s",
    "share_of_peak",
    "roof_images_per_s",
    "share_of_roof",
    "outside_network",
    "host_syncs_per_step",
    "gflop_per_image",
    "peak_tflop_per_s",
    "peak_from",
    "device",
    "threads",
    "torch",
    "date",
    "note",
]


def compare(reference: str | None, common: dict, options: argparse.Namespace) -> list[dict]:
    """The rows of one precision and batch size."""
    facts = {"precision": common["precision"], "batch": common["batch"], "threads": options.threads}
    facts |= {"date": today(), "torch": torch.__version__}
    limits = Side(
        sys.executable, "slimdiff_side.py", options.threads, work="limits", compiled=False, **common
    )
    sides = {
        "slimdiff": Side(
            sys.executable,
            "slimdiff_side.py",
            options.threads,
            work="train",
            compiled=options.compile,
            **common,
        )
    }
    if reference:
        sides["reference"] = Side(reference, "published_side.py", options.threads, work="train", **common)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory, notes = {}, {}
    for turn in range(options.rounds + 1):
        # The first round is a warm-up.
        steps = options.steps if turn else 1
        limit = limits.ask(batch=common["batch"])
        for name, side in list(sides.items()):
            try:
                if name == "slimdiff":
                    answer = side.ask(steps=steps)
                    found = answer["seconds"] / steps
                else:
                    # The reference decides on self-conditioning per batch: half of the steps with, half without.
                    both = [side.ask(steps=steps, informed=informed) for informed in (False, True)]
                    answer = both[-1]
                    found = sum(one["seconds"] for one in both) / (2 * steps)
            except SideFailed as failure:
                notes[name] = str(failure)
                del sides[name]
                continue
            memory[name] = answer["memory_mb"]
            if turn:
                seconds[name].append(found)
                print(f"round {turn} {facts['precision']} {name}: {found:.3f} s per step", file=sys.stderr)
    limits.close()
    # Per image: half an evaluation for self-conditioning, one forward pass, and a backward pass of twice its cost.
    gflop = 3.5 * limit["gflop"]
    roof = common["batch"] / (1.5 * limit["forward"] + limit["backward"])
    rows = []
    for name, found in seconds.items():
        row = {"side": name, **facts, "device": limit["device"], "note": notes.get(name, "")}
        if found:
            speed = common["batch"] / min(found)
            row |= {
                "images_per_s": speed,
                "s_per_step": min(found),
                "peak_memory_mb": memory[name],
                "gflop_per_image": gflop,
                "tflop_per_s": speed * gflop / 1e3,
                "peak_tflop_per_s": limit["peak_tflops"],
                "peak_from": limit["peak_from"],
                "share_of_peak": speed * gflop / 1e3 / limit["peak_tflops"],
                "roof_images_per_s": roof,
                "share_of_roof": speed / roof,
            }
        rows.append(row)
    if "slimdiff" in sides and seconds["slimdiff"]:
        ours = rows[0]
        if seconds.get("reference"):
            ours["times_reference"] = min(seconds["reference"]) / min(seconds["slimdiff"])
        network = sides["slimdiff"].ask(what="outside")["network_seconds"]
        ours["outside_network"] = max(0.0, 1 - network / min(seconds["slimdiff"]))
        if common["device"] == "cuda":
            ours["host_syncs_per_step"] = sides["slimdiff"].ask(what="syncs")["syncs"]
    for side in sides.values():
        side.close()
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", nargs="+", type=int, help="default: 4; on CUDA 32 64 128")
    parser.add_argument("--size", type=int, default=160, help="side of a slice, in px")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns per side")
    parser.add_argument("--steps", type=int, help="optimiser steps per turn; default: 2; on CUDA 20")
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
    options.steps = options.steps or (2 if on_cpu else 20)
    sys.exit(compare_all(compare, chosen_python(options), COLUMNS, options))


if __name__ == "__main__":
    main()
