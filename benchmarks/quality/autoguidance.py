"""Effect of autoguidance on KID and memorisation:
python benchmarks/quality/autoguidance.py [--config config/demo.yaml]

Samples from the same noise with the network alone, and guided by its own earlier snapshot (Karras et al. 2024) at
several strengths. Prints image quality and memorisation as TSV. The training must save the snapshot
(`training.snapshots`, set in the demo): snakemake --cores all trained.
"""

import sys
from pathlib import Path

import numpy as np
from judge import Judge, cell_parser, drawn_requests

from slimdiff.config import load_study
from slimdiff.files import write_table
from slimdiff.generation.generator import Generator

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)
COLUMNS = ("guidance", "interval", "guide", "seed", "n", "evaluations", "kid", "r_features", "r_pixels")
COLUMNS += ("suspects_features", "suspects_pixels", "mmd_mf", "mmd_pl", "class1", "class0")


def main() -> None:
    """Sample, evaluate and print."""
    parser = cell_parser(__doc__)
    parser.add_argument("--each", type=int, default=8, help="samples per z-bin and class")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--guide", type=int, help="step of the snapshot (default: first of the study)")
    parser.add_argument(
        "--interval", type=float, nargs=2, help="noise levels between which guidance is applied"
    )
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    study = load_study(options.config)
    part = study.variant(options.variant)
    guide = options.guide or next(iter(part.training.snapshots), None)
    if guide is None:
        raise SystemExit(f"{options.config}: training.snapshots is empty; add a step and train again")
    judge, rows = Judge(study, options.fold), []
    print(*COLUMNS, sep="\t")
    for scale in SCALES:
        for seed in range(options.seeds):
            changes = {"seed": seed, "per_bin_and_class": options.each, "counts": None, "guidance": scale}
            if scale != 1:
                changes |= {
                    "guide": guide,
                    "guidance_interval": tuple(options.interval) if options.interval else None,
                }
            config = part.generation.model_copy(update=changes)
            checkpoint = study.paths.model(options.variant, options.fold) / "model.safetensors"
            generator = Generator(checkpoint, config)
            requests, images, drawn = drawn_requests(generator, name=f"guidance {scale:g}")
            z_bin, label = (np.array([getattr(one, name) for one in requests]) for name in ("z_bin", "label"))
            row = {
                "guidance": scale,
                "interval": "all"
                if not options.interval or scale == 1
                else "{:g}-{:g}".format(*options.interval),
                "guide": guide if scale != 1 else None,
                "seed": seed,
                "n": len(requests),
                "evaluations": config.evaluations * (1 if scale == 1 else 2),
                **judge.image_numbers(images, z_bin),
                **judge.mask_numbers(images, drawn, label),
            }
            rows.append(row)
            print(
                *(f"{row[c]:.4g}" if isinstance(row[c], float) else row[c] for c in COLUMNS),
                sep="\t",
                flush=True,
            )
    if options.out:
        write_table(options.out, rows, COLUMNS, sealed=False)


if __name__ == "__main__":
    sys.exit(main())
