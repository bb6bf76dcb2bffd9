"""The race: slimdiff and the published code learn the same slices with the same computing, and are judged alike.

python benchmarks/quality/against_published.py                 # every row that docs/race.tsv lacks
python benchmarks/quality/against_published.py --cohort lgg --side slimdiff --minutes 5 --seed 0
python benchmarks/quality/against_published.py --ideas         # each change of the recipe alone, at 5 minutes
python benchmarks/quality/against_published.py --plot          # docs/race.svg from the table

Cohorts: `phantom`, the demo's; `lgg`, 81 patients with lower-grade glioma (`--lgg`: a table of volumes at 1.5 mm), 54
for training and 27 held out, by site; both at 64 x 64 px. The budget is processor time (user and system) of one
thread. Every row goes into the table as soon as it is there, and a row that is there is not run again.

Sides: `slimdiff`, the default recipe; `published`, the classes of PyPI slim-diff 1.0.0 with its README's recipe and its
own DDIM of 300 steps, at the same channel widths; `published-tuned`, the same with learning rate, batch and averaging
tuned at the smallest budget. The better of its averaged and last weights (by training loss) is used.
"""

import argparse
import csv
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "published"))
TABLE = HERE.parents[1] / "docs" / "race.tsv"
PLOT = TABLE.with_suffix(".svg")
COLUMNS = ("cohort", "side", "minutes", "seed", "metric", "extractor", "value", "floor")
KEY = COLUMNS[:4]
SIDES = ("slimdiff", "published", "published-tuned")
COHORTS = ("phantom", "lgg")
BUDGETS = {5: (0, 1), 15: (0, 1), 60: (0,)}
"""Minutes of processor time: seeds."""
ONLY = {"published": (15,)}
"""The untuned recipe runs only at these budgets."""
EVERY = 2
"""Every second held-out slice has one sample of its z-bin and class: DDIM of 300 steps takes 10 s a sample."""
NETWORK = {"channels": [48, 64, 128], "res_blocks": 1, "attention": [False, False, True], "norm_groups": 16}
RECIPE = {
    "model": {**NETWORK, "patch": 2, "self_conditioning": False},
    "diffusion": {"loss": {"lesion_weight_mask": 1.3, "min_snr_gamma": 5}},
    "training": {
        "batch_size": 8,
        "learning_rate": 0.0015,
        "warmup_steps": 30,
        "ema_decay": 0.998,
        "self_conditioning": 0,
    },
    "generation": {"evaluations": 20, "spacing": "log_snr", "background": "outside"},
}
"""The default recipe at this size."""
IDEAS = {
    "no-gaussian": {"model": {"gaussian_components": 0}},
    "components-16": {"model": {"gaussian_components": 16}},
    "adamw": {"training": {"optimiser": "adamw", "batch_size": 4, "warmup_steps": 100}},
    "self-conditioning": {"model": {"self_conditioning": True}, "training": {"self_conditioning": 0.5}},
    "min-snr-1": {"diffusion": {"loss": {"min_snr_gamma": 1}}},
    "no-min-snr": {"diffusion": {"loss": {"min_snr_gamma": None}}},
    "lesion-weight-1": {"diffusion": {"loss": {"lesion_weight_mask": 1}}},
    "lesion-weight-2.5": {"diffusion": {"loss": {"lesion_weight_mask": 2.5}}},
    "p-2": {"diffusion": {"loss": {"p_image": 2.0}}},
    "patch-1": {"model": {"patch": 1}},
    "batch-4": {"training": {"batch_size": 4}},
    "batch-16": {"training": {"batch_size": 16}},
    "rate-0.003": {"training": {"learning_rate": 0.003}},
    "augmentation": {"training": {"augmentation": {"probability": 0.3}}},
    "background-drawn": {"generation": {"background": "drawn"}},
    "evaluations-10": {"generation": {"evaluations": 10}},
    "trailing": {"generation": {"spacing": "trailing"}},
}
"""One change of the recipe each: sides `idea-NAME`, at the smallest budget."""
PUBLISHED = {"batch": 16, "learning_rate": 1e-4, "ema_decay": 0.999}
TUNED = {"batch": 4, "learning_rate": 1e-3, "ema_decay": 0.99}


def rows_wanted() -> Iterator[tuple[str, str, int, int]]:
    """All rows of the race, the cheapest first."""
    for minutes, side, cohort in product(BUDGETS, SIDES, COHORTS):
        if minutes in ONLY.get(side, BUDGETS):
            for seed in BUDGETS[minutes]:
                yield cohort, side, minutes, seed


def ideas_wanted() -> Iterator[tuple[str, str, int, int]]:
    """All rows of the ideas."""
    minutes = min(BUDGETS)
    for name, cohort, seed in product(IDEAS, COHORTS, BUDGETS[minutes]):
        yield cohort, f"idea-{name}", minutes, seed


@contextmanager
def locked() -> Iterator[None]:
    """Several rows may be run at the same time; one writes at a time."""
    with TABLE.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def table() -> list[dict]:
    """The rows of the table so far."""
    if not TABLE.is_file():
        return []
    with TABLE.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def done() -> set[tuple[str, ...]]:
    return {tuple(row[name] for name in KEY) for row in table()}


def add(rows: list[dict]) -> None:
    """Append the metrics of one row of the race."""
    from slimdiff.files import write_table

    with locked():
        order = {key: number for number, key in enumerate([*rows_wanted(), *ideas_wanted()])}
        together = [*table(), *rows]

        def place(row: dict) -> int:
            key = (row["cohort"], row["side"], int(row["minutes"]), int(row["seed"]))
            return order.get(key, len(order))

        write_table(TABLE, sorted(together, key=place), COLUMNS)


# Cohorts ------------------------------------------------------------------------------------------


def study_of(cohort: str, work: Path, lgg: Path):
    """The study of a cohort, with its slices cached below `work`."""
    from slimdiff.config.loading import study_from_mapping

    values = {"study": cohort, "results_dir": str(work), **RECIPE, "variants": {"base": {}, **IDEAS}}
    values["evaluation"] = {"extractors": ["alexnet", "efficientnet"], "bootstrap": 20}
    if cohort == "phantom":
        values |= {
            "data": {"source": "phantom", "phantom": {"patients": 20, "controls": 6, "seed": 0}},
            "preprocess": {"spacing_mm": 3.125, "grid": [56, 64, 64]},
            "slices": {"z_range": [21, 50], "n_bins": 6, "min_lesion_mm2": 78.125},
            "folds": {"k": 2, "val_fraction": 0},
        }
        values["evaluation"] |= {"min_component_mm2": 48.83, "ring_mm": 9.375}
    else:
        values |= {
            "data": {"source": "table", "table": str(split_table(lgg, work))},
            "preprocess": {"spacing_mm": 3.0, "grid": [64, 64, 12]},
            "slices": {"z_range": "auto", "n_bins": 6, "min_lesion_mm2": 72},
            "folds": {"k": 1, "use_split": True, "val_fraction": 0},
        }
        values["evaluation"] |= {"min_component_mm2": 45, "ring_mm": 9}
    study = study_from_mapping(values)
    if not study.paths.store.joinpath("store.json").is_file():
        config = work / f"{cohort}.json"
        config.write_text(json.dumps(values))
        stages = ("phantom",) * (cohort == "phantom") + ("participants", "preprocess", "kfold", "cache")
        for stage in stages:
            subprocess.run([sys.executable, "-m", "slimdiff", stage, "--config", str(config)], check=True)
    return study


def split_table(source: Path, work: Path, held_out: int = 27, seed: int = 0) -> Path:
    """The table of volumes with absolute paths and a column `split`: `held_out` patients, in the sites' shares."""
    import numpy as np
    import pandas as pd

    if not source.is_file():
        raise SystemExit(
            f"{source}: expected the table of the lgg cohort, found no such file; give it with --lgg"
        )
    cohort = pd.read_csv(source, sep="\t")
    rng = np.random.default_rng(seed)
    exact = cohort.groupby("site").size().sort_index() * held_out / len(cohort)
    number = np.floor(exact).astype(int)
    most = (exact - number).sort_values(ascending=False, kind="stable").index
    number[most[: held_out - number.sum()]] += 1
    cohort["split"] = "train"
    for site, count in number.items():
        rows = cohort.index[cohort.site == site]
        cohort.loc[rng.permutation(rows)[:count], "split"] = "test"
    for column in ("image", "mask"):
        cohort[column] = [str((source.parent / path).resolve()) for path in cohort[column]]
    work.mkdir(parents=True, exist_ok=True)
    path = work / "lgg.tsv"
    cohort.to_csv(path, sep="\t", index=False)
    return path


# Sides --------------------------------------------------------------------------------------------


def run_slimdiff(study, parts, conditions, seconds: float, seed: int, folder: Path) -> tuple:
    """Train to the budget with the recipe of the study, and sample: samples (N, 2, H, W) and facts."""
    import numpy as np
    import torch

    from slimdiff.config.training import TrainingConfig
    from slimdiff.data.store import SliceStore
    from slimdiff.generation.generator import Generator
    from slimdiff.generation.requests import Request, stream_key
    from slimdiff.training.trainer import Trainer

    torch.set_num_threads(1)
    store = SliceStore.open(study.paths.store)

    def trainer(steps: int, where: Path) -> Trainer:
        settings = study.training.model_dump(exclude_unset=True) | {
            "steps": steps,
            "seed": seed,
            "device": "cpu",
            "precision": "float32",
            "tensorboard": False,
            "preview_every": 0,
            "validation": {"every": 0},
            "save_every": max(steps, 1),
        }
        config = TrainingConfig.model_validate(settings)
        built = Trainer(study.model, study.diffusion, config, store, parts["train"], where, {})
        built.precision = torch.float32
        return built

    trial = trainer(1000, folder / "trial")
    for _ in range(5):
        trial.advance()
    started = time.process_time()
    for _ in range(20):
        trial.advance()
    steps = int(seconds / ((time.process_time() - started) / 20))
    del trial
    started = time.process_time()
    real = trainer(steps, folder / "model")
    real.run()
    train_s = time.process_time() - started
    from torch.utils.flop_counter import FlopCounterMode

    batch, draws = real.prepare(0, real.objective, real.network)
    with FlopCounterMode(display=False) as counter:
        real.loss(batch, draws)[0].backward()
    settings = study.generation.model_copy(update={"seed": seed, "device": "cpu"})
    generator = Generator(folder / "model" / "model.safetensors", settings)
    requests = [
        Request(stream_key(seed, 0, z_bin, label, 0, number), z_bin, label, 0, number)
        for number, (z_bin, label) in enumerate(conditions)
    ]
    started = time.process_time()
    drawn = np.stack(generator.draw(requests), axis=1)
    facts = {"steps": steps, "images": steps * real.config.batch_size, "train_s": train_s}
    facts["tflop"] = counter.get_total_flops() * steps / 1e12
    return drawn, facts | {"sample_s": time.process_time() - started}


def run_published(study, parts, conditions, seconds: float, seed: int, folder: Path, recipe: dict) -> tuple:
    """The same with the published code."""
    import numpy as np
    from environment import reference_python

    from slimdiff.data.store import SliceStore

    store = SliceStore.open(study.paths.store)
    rows = store.rows_of(parts["train"])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "pairs.npz",
        image=np.asarray(store.images[rows]),
        mask=2 * np.asarray(store.masks[rows], np.float16) - 1,
        label=store.label[rows].astype(np.int64),
        token=(store.z_bin[rows] + store.label[rows] * store.n_bins).astype(np.int64),
    )
    job = {
        "pairs": str(folder / "pairs.npz"),
        "out": str(folder / "drawn.npz"),
        "seconds": seconds,
        "seed": seed,
        "size": store.size[0],
        "n_bins": store.n_bins,
        "z_range": list(store.facts["z_range"]),
        "tokens": [z_bin + label * store.n_bins for z_bin, label in conditions],
        **NETWORK,
        **recipe,
    }
    (folder / "job.json").write_text(json.dumps(job))
    script = HERE.parent / "published" / "published_race.py"
    subprocess.run([reference_python(), str(script), str(folder / "job.json")], check=True, cwd=script.parent)
    found = np.load(folder / "drawn.npz")
    steps = int(found["steps"])
    facts = {
        "steps": steps,
        "images": steps * recipe["batch"],
        "train_s": float(found["train_s"]),
        "tflop": float(found["flops"]) / 1e12,
        "sample_s": float(found["sample_s"]),
        "averaged_weights": float(str(found["weights"]) == "averaged"),
    }
    return found["drawn"], facts


# Judge --------------------------------------------------------------------------------------------


def judged(study, parts, drawn, conditions, seed: int) -> list[dict]:
    """All metrics of the package, the classifier two-sample test and TSTR: metric, extractor, value, floor."""
    import numpy as np
    from tstr import segmenter_dice
    from two_sample import two_sample_auc

    from slimdiff.data.store import SliceStore
    from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
    from slimdiff.evaluation.evaluate import evaluate
    from slimdiff.evaluation.metrics.features import FeatureCache
    from slimdiff.generation.samples import Samples

    store = SliceStore.open(study.paths.store)
    test, train = (store.rows_of(parts[split]) for split in ("test", "train"))
    z_bin, label = (np.array(part) for part in zip(*conditions, strict=True))
    images, masks = (drawn[:, channel].astype(np.float16) for channel in (0, 1))
    samples = Samples(
        images, masks, z_bin, label, np.array([f"{number:05d}" for number in range(len(drawn))])
    )
    names = {"study": study.study, "variant": "base", "fold": 0}
    cache = FeatureCache(study.paths.root / "features")
    cell = FoldEvaluation(store, test, train, samples, study.evaluation, cache, names)
    found = [
        {name: row[name] for name in ("metric", "extractor", "value", "floor")}
        for row in evaluate(cell).rows
        if str(row["z_bin"]) == "all"
    ]
    real, learnt = (pairs(store, rows) for rows in (test, train))
    floor = cell.selections[0].floors[0]
    subjects = store.participant
    # Binary masks in the same values as the real ones.
    binary = np.where(masks > study.tau, np.float16(1), np.float16(-1))
    auc = two_sample_auc(real, subjects[test], np.stack([images, binary], axis=1), seed)
    own = two_sample_auc(real, subjects[test], learnt[floor], seed, synthetic_groups=subjects[train][floor])
    dice = []
    for given, groups in (
        ((images, masks > study.tau), None),
        ((learnt[:, 0], learnt[:, 1] > 0), subjects[train]),
    ):
        try:
            dice.append(
                segmenter_dice(*given, real[:, 0], real[:, 1] > 0, subjects[test], seed, train_groups=groups)
            )
        except ValueError:
            # Too few samples with a lesion to learn from.
            dice.append(0.0)
    found.append({"metric": "two_sample_auc", "extractor": "n/a", "value": auc, "floor": own})
    found.append({"metric": "tstr_dice", "extractor": "n/a", "value": dice[0], "floor": dice[1]})
    return found


def pairs(store, rows):
    """Pairs (N, 2, H, W) float16 in [-1, 1] of store rows."""
    import numpy as np

    return np.stack([store.images[rows], 2 * np.asarray(store.masks[rows], np.float16) - 1], axis=1)


def run_row(cohort: str, side: str, minutes: int, seed: int, work: Path, lgg: Path) -> None:
    """Train, sample and judge one row, and add it to the table. Samples that are there are only judged."""
    import numpy as np

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore

    study = study_of(cohort, work, lgg)
    parts = read_folds(study.paths.folds, 0)
    store = SliceStore.open(study.paths.store)
    shown = store.rows_of(parts["test"])[::EVERY]
    conditions = [(int(store.z_bin[row]), int(store.label[row])) for row in shown]
    folder = work / "rows" / f"{cohort}-{side}-{minutes}-{seed}"
    kept = folder / "drawn-and-facts.npz"
    if not kept.is_file():
        given = (parts, conditions, 60 * minutes, seed, folder)
        if side in ("published", "published-tuned"):
            drawn, facts = run_published(study, *given, PUBLISHED if side == "published" else TUNED)
        else:
            own = study.variant("base" if side == "slimdiff" else side.removeprefix("idea-"))
            drawn, facts = run_slimdiff(own, *given)
        np.savez(kept, drawn=drawn, facts=json.dumps(facts))
    with np.load(kept) as saved:
        drawn, facts = saved["drawn"], json.loads(str(saved["facts"]))
    found = [{"metric": name, "extractor": "n/a", "value": value} for name, value in facts.items()]
    found += judged(study, parts, drawn, conditions, seed)
    key = dict(zip(KEY, (cohort, side, minutes, seed), strict=True))
    add([{**key, **row} for row in found])


# Figure -------------------------------------------------------------------------------------------

PANELS = (
    ("kid", "alexnet"),
    ("kid", "efficientnet"),
    ("precision", "alexnet"),
    ("recall", "alexnet"),
    ("mmd_mf_w1", "n/a"),
    ("mmd_pl_w1", "n/a"),
    ("memorisation_ratio", "alexnet"),
    ("memorisation_ratio", "pixels"),
)


def plot() -> None:
    """docs/race.svg: each metric against the budget, one line per side, its floor dotted."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "race"
    import pandas as pd
    from matplotlib import pyplot as plt

    rows = pd.DataFrame(table())
    rows[["minutes", "value", "floor"]] = rows[["minutes", "value", "floor"]].apply(
        pd.to_numeric, errors="coerce"
    )
    figure, axes = plt.subplots(
        len(COHORTS), len(PANELS), figsize=(2.5 * len(PANELS), 5), sharex=True, squeeze=False
    )
    colours = dict(zip(SIDES, ("tab:blue", "tab:grey", "tab:orange"), strict=True))
    for (cohort, line), (number, (metric, extractor)) in product(
        zip(COHORTS, axes, strict=True), enumerate(PANELS)
    ):
        axis = line[number]
        own = rows[(rows.cohort == cohort) & (rows.metric == metric) & (rows.extractor == extractor)]
        for side, colour in colours.items():
            of_side = own[own.side == side].sort_values("minutes")
            mean = of_side.groupby("minutes").value.mean()
            axis.plot(of_side.minutes, of_side.value, "o", color=colour, alpha=0.5, markersize=4)
            axis.plot(mean.index, mean, color=colour, label=side)
        axis.axhline(own.floor.mean(), color="black", linestyle=":", label="floor")
        axis.set_xscale("log")
        axis.set_xticks(list(BUDGETS), [str(minutes) for minutes in BUDGETS])
        axis.minorticks_off()
        if metric == "kid" and (own.value > 0).any():
            axis.set_yscale("log")
        name = metric if extractor == "n/a" else f"{metric}\n{extractor}"
        axis.set_title(f"{cohort}: {name}", fontsize=8)
        if cohort == COHORTS[-1]:
            axis.set_xlabel("minutes of one core", fontsize=8)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> int:
    """Run the rows that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", choices=COHORTS)
    parser.add_argument("--side", help=", ".join(SIDES) + ", idea-NAME")
    parser.add_argument("--minutes", type=int, choices=BUDGETS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--work", type=Path, default=Path("results/race"), help="slices, models and samples")
    parser.add_argument("--lgg", type=Path, default=HERE.parents[1].parent / "shared/data/lgg/even24.tsv")
    parser.add_argument(
        "--list", action="store_true", help="print the rows and whether they are in the table"
    )
    parser.add_argument("--ideas", action="store_true", help="the rows of the ideas instead of the race")
    parser.add_argument("--plot", action="store_true", help="only draw the figure")
    options = parser.parse_args()
    if options.plot:
        plot()
        return 0
    chosen = [
        key
        for key in (ideas_wanted() if options.ideas else rows_wanted())
        if all(
            wanted in (None, own)
            for wanted, own in zip(
                (options.cohort, options.side, options.minutes, options.seed), key, strict=True
            )
        )
    ]
    if options.list:
        for key in chosen:
            print(*key, "done" if tuple(map(str, key)) in done() else "missing", sep="\t")
        return 0
    if not chosen:
        raise SystemExit("no such row; --list prints them all")
    # The number of threads must be set before torch is imported.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode
    for key in chosen:
        if tuple(map(str, key)) not in done():
            print(*key, file=sys.stderr, flush=True)
            run_row(*key, options.work.resolve(), options.lgg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
