"""The race: slimdiff and the published code learn the same slices with the same computing, and are judged alike.

python benchmarks/quality/against_published.py                 # every run that docs/tables/race.tsv lacks
python benchmarks/quality/against_published.py --cohort lgg --side slimdiff --minutes 5 --seed 0
python benchmarks/quality/against_published.py --ideas         # each change of the recipe alone, at 5 minutes
python benchmarks/quality/race_table.py                        # docs/race.svg from the table

Cohorts: `phantom`, the demo's; `lgg`, 81 patients with lower-grade glioma (`--lgg`: a table of volumes at 1.5 mm), 54
for training and 27 held out, by site, at 64 x 64 px; `lgg-128`, the same at 128 x 128 px, with the longest budget only.
The budget is processor time (user and system) of one thread; an idea has as many steps as take the time of 900 steps of
the recipe, about 5 minutes.
Every run goes into the table as soon as it is there, and a run that is there is not repeated.

Sides: `slimdiff`, the demo's recipe; `published`, the classes of PyPI slim-diff 1.0.0 with its README's recipe and its
own DDIM of 300 steps, at the same channel widths; `published-tuned`, the same with other learning rate, batch and
averaging. The better of its averaged and last weights (by training loss) is used.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from race_table import Key, runs
from runs_table import add_arguments, carry_out

SIDES, COHORTS = ("slimdiff", "published", "published-tuned"), ("phantom", "lgg", "lgg-128")
BUDGETS = {3: (0,), 5: (0, 1), 15: (0, 1), 60: (0,)}
"""Minutes of processor time: seeds. After 3 minutes slimdiff is compared with 60 of the published code."""
SHORT = 5
"""Budget of the ideas and of the tuning."""
ONLY = {"published": (15,), "published-tuned": (SHORT, 15, 60), "lgg-128": (60,)}
"""The published code and the large slices run only at these budgets."""
EVERY = {"phantom": 4, "lgg": 2, "lgg-128": 4}
"""Every fourth or second held-out slice, about 150 in each cohort, has one sample of its z-bin and class: DDIM of 300
steps takes 5 s a sample of 64 x 64 px."""
PUBLISHED = {
    "published": {"batch": 16, "learning_rate": 1e-4, "ema_decay": 0.999},
    "published-tuned": {"batch": 4, "learning_rate": 3e-4, "ema_decay": 0.99},
}
STEPS = 900
"""Steps of the recipe in about 5 minutes of one core. An idea has as many as take the same time in one run, because
machines differ from day to day by a factor of almost two."""
IDEAS = {
    "none": {},
    "no-wavelets": {"diffusion": {"loss": {"wavelet_weights": []}}},
    "no-gaussian": {"model": {"gaussian_components": 0}},
    "components-16": {"model": {"gaussian_components": 16}},
    "adamw": {"training": {"optimiser": "adamw", "batch_size": 4, "warmup_steps": 100}},
    "self-conditioning": {"model": {"self_conditioning": True}, "training": {"self_conditioning": 0.5}},
    "min-snr-1": {"diffusion": {"loss": {"min_snr_gamma": 1}}},
    "min-snr-20": {"diffusion": {"loss": {"min_snr_gamma": 20}}},
    "lesion-weight-1": {"diffusion": {"loss": {"lesion_weight_mask": 1}}},
    "lesion-weight-5": {"diffusion": {"loss": {"lesion_weight_mask": 5}}},
    "p-2": {"diffusion": {"loss": {"p_image": 2.0}}},
    "squares-of-2-px": {"model": {"patch": 2, "channels": [48, 64, 128], "attention": [False, False, True]}},
    "channels-16-48-64-128": {"model": {"channels": [16, 48, 64, 128]}},
    "channels-24-32-64-128": {"model": {"channels": [24, 32, 64, 128]}},
    "batch-4": {"training": {"batch_size": 4}},
    "batch-16": {"training": {"batch_size": 16}},
    "rate-0.0015": {"training": {"learning_rate": 0.0015}},
    "augmentation": {"training": {"augmentation": {"probability": 0.3}}},
    "background-drawn": {"generation": {"background": "drawn"}},
    "evaluations-20": {"generation": {"evaluations": 20}},
    "masks-as-estimated": {"generation": {"calibrate_masks": False}},
    "gaussian-nowhere": {"diffusion": {"gaussian_above": None}},
    "snr-floor-0": {"diffusion": {"loss": {"min_snr_floor": 0}}},
    "snr-floor-1": {"diffusion": {"loss": {"min_snr_floor": 1}}},
    "trailing": {"generation": {"spacing": "trailing"}},
    "cosine": {"training": {"rate_decay": "cosine"}},
    "ema-0.98": {"training": {"ema_decay": 0.98}},
    "loss-on-v": {"diffusion": {"loss": {"space": "v"}}},
}
"""One change of the recipe each: sides `idea-NAME`; `none` is the recipe as it is."""


def race() -> Iterator[Key]:
    """All runs of the race, the cheapest first."""
    for minutes, side, cohort in product(BUDGETS, SIDES, COHORTS):
        if minutes in ONLY.get(side, BUDGETS) and minutes in ONLY.get(cohort, BUDGETS):
            for seed in BUDGETS[minutes]:
                yield cohort, side, minutes, seed


def ideas() -> Iterator[Key]:
    """All runs of the ideas."""
    for name, cohort, seed in product(IDEAS, COHORTS, BUDGETS[SHORT]):
        if SHORT in ONLY.get(cohort, BUDGETS):
            yield cohort, f"idea-{name}", SHORT, seed


def place(key: Key) -> int:
    """Order of the table."""
    order = [*race(), *ideas()]
    return order.index(key) if key in order else len(order)


def judged(study, store, parts: dict[str, list[str]], drawn, wanted, seed: int, floors: Path) -> list[dict]:
    """All metrics of the package, the classifier two-sample test and TSTR: metric, extractor, value, floor.

    floors: file of the floors of the last two, which all runs of a cohort and seed share.
    """
    import numpy as np
    from race_sides import pairs_of
    from tstr import segmenter_dice
    from two_sample import two_sample_auc

    from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
    from slimdiff.evaluation.evaluate import evaluate
    from slimdiff.evaluation.metrics.features import FeatureCache
    from slimdiff.files import replacing
    from slimdiff.generation.samples import Samples

    test, train = (store.rows_of(parts[split]) for split in ("test", "train"))
    z_bin, label = (np.array(part) for part in zip(*wanted, strict=True))
    images, masks = (drawn[:, channel].astype(np.float16) for channel in (0, 1))
    samples = Samples(images, masks, z_bin, label, np.array([f"{n:05d}" for n in range(len(drawn))]))
    names = {"study": study.study, "variant": "base", "fold": 0}
    cache = FeatureCache(study.paths.root / "features")
    cell = FoldEvaluation(store, test, train, samples, study.evaluation, cache, names)
    found = [
        {name: row[name] for name in ("metric", "extractor", "value", "floor")}
        for row in evaluate(cell).rows
        if str(row["z_bin"]) == "all"
    ]
    real, learnt, floor = pairs_of(store, test), pairs_of(store, train), cell.selections[0].floor
    held_out, trained = store.person[test], store.person[train]
    # Binary masks in the same values as the real ones.
    binary = np.where(masks > study.tau, np.float16(1), np.float16(-1))
    auc = two_sample_auc(real, held_out, np.stack([images, binary], axis=1), seed)

    def dice(images, masks, groups=None) -> float:
        # A segmenter needs a lesion to learn from and one to decide when to stop.
        if masks.any(axis=(1, 2)).sum() < 2:
            return 0.0
        given = (images, masks, real[:, 0], real[:, 1] > 0)
        return segmenter_dice(*given, store.participant[test], seed, train_groups=groups)

    tstr = dice(images, masks > study.tau)
    if not floors.is_file():
        of_real = {
            "auc": two_sample_auc(real, held_out, learnt[floor], seed, synthetic_groups=trained[floor]),
            "tstr": dice(learnt[:, 0], learnt[:, 1] > 0, trained),
        }
        with replacing(floors) as temporary:
            temporary.write_text(json.dumps(of_real))
    of_real = json.loads(floors.read_text())
    found.append({"metric": "two_sample_auc", "extractor": "n/a", "value": auc, "floor": of_real["auc"]})
    found.append({"metric": "tstr_dice", "extractor": "n/a", "value": tstr, "floor": of_real["tstr"]})
    return found


def run(key: Key, work: Path, lgg: Path) -> None:
    """Train, sample and judge, and add the metrics to the table. Samples that are there are only judged."""
    import numpy as np
    from race_cohorts import OF_RECIPE, study_of
    from race_sides import (
        NETWORK,
        recipe_of,
        run_published,
        run_slimdiff,
        same_recipe,
        steps_as_long,
        steps_within,
    )

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore
    from slimdiff.files import replacing

    cohort, side, minutes, seed = key
    study = study_of(cohort, work, lgg, IDEAS)
    parts = read_folds(study.paths.folds, 0)
    store = SliceStore.open(study.paths.store)
    shown = store.rows_of(parts["test"])[:: EVERY[cohort]]
    wanted = list(zip(store.z_bin[shown].tolist(), store.label[shown].tolist(), strict=True))
    if side in PUBLISHED:
        own, recipe = study, PUBLISHED[side]
    else:
        own = study.variant("base" if side == "slimdiff" else side.removeprefix("idea-"))
        recipe = recipe_of(own, OF_RECIPE)
    folder = work / "runs" / f"{cohort}-{side}-{minutes}-{seed}"
    kept = folder / "drawn-and-facts.npz"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        given = (own, store, parts["train"], wanted)
        if side in PUBLISHED:
            drawn, facts = run_published(*given, 60 * minutes, seed, folder, recipe)
        elif side == "slimdiff":
            steps = partial(steps_within, own, store, parts["train"], 60 * minutes, seed, folder)
            drawn, facts = run_slimdiff(*given, steps, seed, folder)
        else:
            base = study.variant("base")
            steps = partial(steps_as_long, own, base, store, parts["train"], STEPS, seed, folder)
            # An idea that changes the sampling only has the network of the recipe as it is.
            if same_recipe(recipe_of(own, NETWORK), recipe_of(base, NETWORK)):
                folder, steps = work / "runs" / f"{cohort}-idea-none-{minutes}-{seed}", lambda: STEPS
            drawn, facts = run_slimdiff(*given, steps, seed, folder)
        with replacing(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, drawn=drawn, facts=json.dumps(facts), recipe=json.dumps(recipe))
    with np.load(kept) as saved:
        if not same_recipe(json.loads(str(saved["recipe"])), recipe):
            raise SystemExit(f"{kept}: these samples are of another recipe; delete {folder}")
        drawn, facts = saved["drawn"], json.loads(str(saved["facts"]))
    found = [{"metric": name, "extractor": "n/a", "value": value} for name, value in facts.items()]
    found += judged(study, store, parts, drawn, wanted, seed, work / f"{cohort}-{seed}.floors.json")
    runs().add(key, found, place)


def main() -> int:
    """Do the runs that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", choices=COHORTS)
    parser.add_argument("--side", help=", ".join(SIDES) + ", idea-NAME (with --ideas)")
    parser.add_argument("--minutes", type=int, choices=BUDGETS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--ideas", action="store_true", help="the ideas instead of the race")
    add_arguments(parser)
    options = parser.parse_args()
    keys = ideas() if options.ideas else race()
    return carry_out(runs(), keys, options, lambda key: run(key, options.work.resolve(), options.lgg))


if __name__ == "__main__":
    sys.exit(main())
