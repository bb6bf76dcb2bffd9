"""Quality and cost of every sampler:
python benchmarks/quality/sampler_sweep.py [--config config/demo.yaml] [--fold 0]

Samples one trained model (the demo's: `snakemake --cores all`) from the same noise with each sampler at 5 to 250
evaluations, and evaluates the samples against the fold's held-out slices. DDIM-250 and DPM-Solver++(2M) are repeated
with other seeds, so that differences can be compared with the spread over seeds. Writes sweep.tsv, goal.tsv and
sweep.svg to results/{study}/sampler_sweep; samples are kept there and reused. One hour on two cores.

Columns: wall-clock and processor seconds per sample; LPIPS to the DDIM-250 sample from the same noise, and to the
sampler's own sample at 250 evaluations; suspects and R as in the stage `metrics`; contrast of the masks, relative to
held-out slices.
"""

import hashlib
import json
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
from judge import Judge, cell_parser, drawn_requests

from slimdiff.config import Study, load_study
from slimdiff.config.generation import GenerationConfig
from slimdiff.evaluation.metrics.lpips import lpips_distance
from slimdiff.files import replacing, write_table
from slimdiff.generation.folder import COMPARED
from slimdiff.generation.generator import Generator

EVALUATIONS = (5, 10, 15, 20, 25, 50, 100, 250)
MOST = EVALUATIONS[-1]
TICKS = (5, 10, 20, 50, 100, 250)
# (sampler, spacing): (maximum evaluations, colour). With log-SNR spacing a chain converges long before 250.
CHAINS = {
    ("dpmpp_2m", "log_snr"): (50, "#0072B2"),
    ("unipc", "log_snr"): (50, "#009E73"),
    ("dpmpp_2m", "trailing"): (MOST, "#56B4E9"),
    ("unipc", "trailing"): (MOST, "#8FD0B8"),
    ("ddim", "trailing"): (MOST, "#000000"),
    ("dpmpp_2m_sde", "trailing"): (MOST, "#D55E00"),
    ("ddpm", "trailing"): (MOST, "#CC79A7"),
}
SEEDS = (0, 1, 2, 3)
CANDIDATES = (10, 15, 20, 25)
SPACINGS = ("log_snr", "trailing")
METRICS = ("kid", "mmd_mf", "mmd_pl", "class1", "class0", "contrast", "r_features", "r_pixels")
COLUMNS = ("sampler", "spacing", "evaluations", "seed", "n", "s_per_sample", "cpu_s_per_sample")
COLUMNS += ("lpips_to_ddim_250", "lpips_to_own_250", *METRICS)
GOAL_COLUMNS = (
    "metric",
    "spacing",
    "evaluations",
    "dpmpp_2m",
    "ddim_250",
    "difference",
    "seed_sd",
    "in_seed_sds",
    "within",
)
TITLES = {
    "kid": "KID",
    "lpips_to_ddim_250": "LPIPS to DDIM-250, same noise",
    "mmd_mf": "MMD-MF",
    "mmd_pl": "MMD-PL",
    "class1": "share of class 1 with a lesion",
    "cpu_s_per_sample": "processor seconds per sample",
}


class Sweep:
    """Generates and evaluates samples; every set is generated once and kept."""

    def __init__(self, study: Study, fold: int, variant: str, each: int):
        self.study, self.fold, self.variant, self.each = study, fold, variant, each
        self.checkpoint = study.paths.model(variant, fold) / "model.safetensors"
        self.folder = study.paths.root / "sampler_sweep"
        self.judge = Judge(study, fold)

    swept = frozenset({"sampler", "evaluations", "spacing", "eta", "tau", "seed"})

    def draw(self, sampler: str, evaluations: int, seed: int, spacing: str = "trailing") -> dict:
        """images, masks, z_bin, label, and wall-clock and processor seconds per sample."""
        settings = {
            "sampler": sampler,
            "evaluations": evaluations,
            "seed": seed,
            "spacing": spacing,
            "eta": 0.0,
        }
        settings |= {"per_bin_and_class": self.each, "counts": None}
        config = self.study.variant(self.variant).generation.model_copy(update=settings)
        generator = Generator(self.checkpoint, config)
        name = (
            f"{sampler}-{spacing}-{evaluations}-{seed}-{self.each}-{generator.sha256['checkpoint'][:12]}.npz"
        )
        # Other settings of the study change the samples, so they are part of the name.
        keys = (COMPARED | {"acquisition", "precision"}) - self.swept
        others = config.model_dump(mode="json", include=keys)
        if others != GenerationConfig().model_dump(mode="json", include=keys):
            text = json.dumps(others, sort_keys=True)
            name = f"{hashlib.sha256(text.encode()).hexdigest()[:12]}-{name}"
        path = self.folder / "samples" / name
        if not path.is_file():
            start, cpu = time.perf_counter(), time.process_time()
            requests, images, drawn = drawn_requests(generator, name=name.removesuffix(".npz"))
            seconds = (time.perf_counter() - start, time.process_time() - cpu)
            with replacing(path) as temporary, temporary.open("wb") as stream:
                np.savez(
                    stream,
                    images=images,
                    masks=drawn,
                    z_bin=[request.z_bin for request in requests],
                    label=[request.label for request in requests],
                    seconds=np.array(seconds) / len(requests),
                )
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)

    def row(self, sampler: str, evaluations: int, seed: int, spacing: str = "trailing") -> dict:
        """One row of the table."""
        drawn = self.draw(sampler, evaluations, seed, spacing)
        images = drawn["images"]
        reference = self.draw("ddim", MOST, seed)["images"]
        has_own = CHAINS.get((sampler, spacing), (0,))[0] == MOST and seed == SEEDS[0]
        own = self.draw(sampler, MOST, seed, spacing)["images"] if has_own else None
        return {
            "sampler": sampler,
            "spacing": spacing,
            "evaluations": evaluations,
            "seed": seed,
            "n": len(images),
            "s_per_sample": float(drawn["seconds"][0]),
            "cpu_s_per_sample": float(drawn["seconds"][1]),
            "lpips_to_ddim_250": float(lpips_distance(images, reference).mean()),
            "lpips_to_own_250": float(lpips_distance(images, own).mean()) if own is not None else None,
            **self.judge.image_numbers(images, drawn["z_bin"]),
            **self.judge.mask_numbers(images, drawn["masks"], drawn["label"]),
        }


def goal(rows: list[dict]) -> list[dict]:
    """DPM-Solver++(2M) against DDIM-250: mean difference from the same noise, in SD of DDIM-250 over seeds.

    `within`: at most two SD.
    """
    by_key = {(row["sampler"], row["spacing"], row["evaluations"], row["seed"]): row for row in rows}
    seeds = [seed for seed in SEEDS if ("ddim", "trailing", MOST, seed) in by_key]
    table = []
    for spacing, evaluations in product(SPACINGS, CANDIDATES):
        for metric in METRICS:
            fine = np.array([by_key["ddim", "trailing", MOST, seed][metric] for seed in seeds])
            fast = np.array([by_key["dpmpp_2m", spacing, evaluations, seed][metric] for seed in seeds])
            spread, difference = fine.std(ddof=1), (fast - fine).mean()
            # Without spread over seeds, only a difference of 0 is within.
            apart = abs(difference) / spread if spread > 0 else (0.0 if difference == 0 else np.inf)
            table.append(
                {
                    "metric": metric,
                    "spacing": spacing,
                    "evaluations": evaluations,
                    "dpmpp_2m": float(fast.mean()),
                    "ddim_250": float(fine.mean()),
                    "difference": float(difference),
                    "seed_sd": float(spread),
                    "in_seed_sds": float(apart),
                    "within": int(apart <= 2),
                }
            )
    return table


def picture(rows: list[dict], path: Path) -> None:
    """One panel per metric over evaluations, one line per sampler; grey: mean +- 2 SD of DDIM-250 over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    first = sorted((row for row in rows if row["seed"] == SEEDS[0]), key=lambda row: row["evaluations"])
    fine = [row for row in rows if (row["sampler"], row["evaluations"]) == ("ddim", MOST)]
    for axis, (metric, title) in zip(axes.flat, TITLES.items(), strict=True):
        if metric in METRICS and len(fine) > 1:
            values = np.array([row[metric] for row in fine])
            middle, spread = values.mean(), values.std(ddof=1)
            axis.axhspan(middle - 2 * spread, middle + 2 * spread, color="0.88", zorder=0)
        for (sampler, spacing), (_, colour) in CHAINS.items():
            own = [row for row in first if (row["sampler"], row["spacing"]) == (sampler, spacing)]
            axis.plot(
                [row["evaluations"] for row in own],
                [row[metric] for row in own],
                color=colour,
                marker="o",
                markersize=3.5,
                linewidth=1.2,
                label=f"{sampler}, {spacing}",
            )
        axis.set_xscale("log")
        axis.set_xticks(TICKS, [str(number) for number in TICKS])
        axis.minorticks_off()
        axis.set_title(title, fontsize=10)
        if metric in ("mmd_mf", "cpu_s_per_sample"):
            axis.set_yscale("log")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("network evaluations")
    axes[0, 0].legend(frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Sample, evaluate, and write the tables and the figure."""
    parser = cell_parser(__doc__)
    parser.add_argument("--each", type=int, default=8, help="samples per z-bin and class")
    options = parser.parse_args()
    sweep = Sweep(load_study(options.config), options.fold, options.variant, options.each)
    wanted = [("ddim", MOST, SEEDS[0], "trailing")]
    for seed in SEEDS:
        wanted += [("ddim", MOST, seed, "trailing")]
        wanted += [("dpmpp_2m", n, seed, spacing) for spacing, n in product(SPACINGS, CANDIDATES)]
    for (sampler, spacing), (most, _) in CHAINS.items():
        wanted += [(sampler, n, SEEDS[0], spacing) for n in EVALUATIONS if n <= most]
    wanted = list(dict.fromkeys(wanted))
    for what in wanted:
        sweep.draw(*what)
    rows = [sweep.row(*what) for what in wanted]
    write_table(sweep.folder / "sweep.tsv", rows, COLUMNS, sealed=False)
    table = goal(rows)
    write_table(sweep.folder / "goal.tsv", table, GOAL_COLUMNS, sealed=False)
    picture(rows, sweep.folder / "sweep.svg")
    print(*GOAL_COLUMNS, sep="\t")
    for row in table:
        print(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()), sep="\t")
    best = [
        f"{spacing} {n}"
        for spacing, n in product(SPACINGS, CANDIDATES)
        if all(row["within"] for row in table if (row["spacing"], row["evaluations"]) == (spacing, n))
    ]
    print(f"within the seeds' spread on every metric: {', '.join(best) or 'none'}; see {sweep.folder}")


if __name__ == "__main__":
    sys.exit(main())
