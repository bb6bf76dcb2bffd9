"""Do samples help a segmenter? Real slices alone, with samples, with pasted lesions, with augmentation; samples alone.

python benchmarks/quality/usefulness/usefulness.py                  # every run that the table lacks
python benchmarks/quality/usefulness/usefulness.py --list
python benchmarks/quality/usefulness/usefulness.py --percent 25 --arm synthetic-1 --seed 0 --segmenter unet
python benchmarks/quality/usefulness/usefulness.py --generators     # only the generators and samples that are missing
python benchmarks/quality/usefulness/usefulness_table.py            # the tables of docs/usefulness.md

Rows go into docs/tables/usefulness.tsv, one for each held-out patient and one with their mean. The patients are those
of the race's cohort lgg at 64 x 64 px (`against_published.py`). A seed chooses 10, 25, 50 or 100 % of its 54 training
patients, of whom a fifth (at least one) are for validation; the 27 held-out patients are always the same.

Generator and segmenter are trained on the same patients. The generator is the demo's recipe, STEPS steps. The
validation patients only decide when a segmenter stops.

Arms, with the augmentation of every segmenter (mirror image, shift, gamma):
real            nothing more
augmentation    rotation, scaling, bias field, noise and blur, too
copy-paste      half of the lesion slices of a batch have a pasted lesion (`copy_paste.py`)
synthetic-1, 3  with one or three samples for each real slice, of its z-bin and class
both            synthetic-1 with the augmentation of `augmentation`
synthetic       the samples of synthetic-3 alone

Segmenters: `unet`, the project's (`early_stopped.py`); `nnunet`, nnU-Net v2 on the slices as the export writes them
(`nnunet_side.py`), for the share and arms of NNUNET only.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from copy_paste import Paster
from runs_table import RunsTable, add_arguments, carry_out

TABLE = Path(__file__).resolve().parents[3] / "docs" / "tables" / "usefulness.tsv"
COHORT = "lgg"
PERCENTS, SEEDS = (25, 100, 10, 50), (0, 1, 2)
ARMS = ("real", "augmentation", "copy-paste", "synthetic-1", "both", "synthetic-3", "synthetic")
OF_SAMPLES = ("synthetic-1", "both", "synthetic-3", "synthetic")
SEGMENTERS = ("unet", "nnunet")
NNUNET = {"percent": (25,), "arm": ("real", "synthetic-1")}
"""Share and arms for which nnU-Net is trained, too. It has its own augmentation."""
STEPS = 1800
"""Of a generator: about 10 minutes of one core."""
SAMPLES_PER_SLICE = 3
VALIDATION = 0.2
"""Share of the chosen patients; at least one."""
COLUMNS = ("participant", "dice", "sensitivity", "false_positives", "best_step", "steps", "seconds")
MEAN = "all"
"""Participant of the row with the means and the facts about the training."""
Key = tuple[int, str, int, str]
"""Percent, arm, seed, segmenter."""


def table() -> RunsTable:
    return RunsTable(TABLE, {"percent": int, "arm": str, "seed": int, "segmenter": str}, COLUMNS)


def runs() -> Iterator[Key]:
    """All runs, the first seed of the U-Net first."""
    for seed, percent, arm in product(SEEDS, PERCENTS, ARMS):
        yield percent, arm, seed, "unet"
    for seed, percent, arm in product(SEEDS, *NNUNET.values()):
        yield percent, arm, seed, "nnunet"


def place(key: Key) -> tuple:
    """Order of the table."""
    percent, arm, seed, segmenter = key
    return SEGMENTERS.index(segmenter), percent, ARMS.index(arm), seed


def divided(patients: list[str], percent: int, seed: int) -> tuple[list[str], list[str]]:
    """Training and validation patients of a share: each seed has an order of its own.

    A smaller share is a part of a larger one; so are its training and its validation patients.
    """
    order = np.random.default_rng([seed, 23]).permutation(sorted(patients)).tolist()
    chosen = order[: max(2, round(len(order) * percent / 100))]
    every = round(1 / VALIDATION)
    validation = chosen[every - 1 :: every] or chosen[-1:]
    return sorted(set(chosen) - set(validation)), sorted(validation)


@dataclass(frozen=True)
class Real:
    """Real slices of some patients."""

    images: np.ndarray
    masks: np.ndarray
    z_bin: np.ndarray
    label: np.ndarray
    participant: np.ndarray

    @classmethod
    def of(cls, store, patients: list[str]) -> "Real":
        rows = store.rows_of(patients)
        images, masks = np.asarray(store.images[rows]), np.asarray(store.masks[rows]) > 0
        return cls(images, masks, store.z_bin[rows], store.label[rows], store.participant[rows])

    @property
    def conditions(self) -> list[tuple[int, int]]:
        """z-bin and class of every slice."""
        return list(zip(self.z_bin.tolist(), self.label.tolist(), strict=True))


def samples_of(study, store, train: list[str], percent: int, seed: int, work: Path):
    """Samples by a generator of the training patients alone, as pairs (3 N, 2, H, W): three for each of their N slices.

    The generator and its samples are kept below `work`; those of other patients or of another recipe are an error.
    """
    from race_cohorts import OF_RECIPE
    from race_sides import recipe_of, run_slimdiff

    from slimdiff.files import replacing

    folder = work / "usefulness" / f"{study.study}-{percent}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = json.dumps({"steps": STEPS, **recipe_of(study, OF_RECIPE)})
    kept, about = folder / "samples.npz", np.array([*train, recipe])
    if not kept.is_file():
        wanted = Real.of(store, train).conditions * SAMPLES_PER_SLICE
        drawn, facts = run_slimdiff(study.variant("base"), store, train, wanted, lambda: STEPS, seed, folder)
        print(f"generator: {facts['train_s']:.0f} s, samples: {facts['sample_s']:.0f} s", file=sys.stderr)
        with replacing(kept) as temporary, temporary.open("wb") as stream:
            np.savez(stream, drawn=drawn, about=about)
    with np.load(kept) as found:
        if not np.array_equal(found["about"], about):
            raise SystemExit(
                f"{kept}: these samples are of other patients or another recipe; delete {folder}"
            )
        return found["drawn"]


def usable(drawn: np.ndarray, tau: float, min_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images and masks of samples, and which of them are used: not those with a lesion smaller than the store's."""
    masks = drawn[:, 1] > tau
    area = masks.sum(axis=(1, 2))
    return drawn[:, 0].astype(np.float16), masks, (area == 0) | (area >= min_px)


def training_set(arm: str, real: Real, samples):
    """Pairs that a segmenter of this arm is trained on, and what pastes lesions into them, or None.

    samples: gives images, masks and which are used, of samples for the real slices, SAMPLES_PER_SLICE times over.
    """
    from slimdiff.evaluation.utility.segmenter import Pairs

    alone = Pairs(real.images, real.masks)
    if arm == "copy-paste":
        return alone, Paster(real.images, real.masks, real.z_bin, real.participant).slice
    if arm not in OF_SAMPLES:
        return alone, None
    images, masks, used = samples()
    drawn = Pairs(images, masks)
    if arm == "synthetic":
        if not drawn[used].with_lesion.any():
            raise SystemExit(
                f"expected samples with a lesion, found none among {len(drawn)}; train the generator longer"
            )
        return drawn[used], None
    count = len(alone) * (SAMPLES_PER_SLICE if arm == "synthetic-3" else 1)
    return alone + drawn[np.flatnonzero(used[:count])], None


def rows_of(scores, facts: dict) -> list[dict]:
    """A row for each held-out patient, named by its place in their sorted list, and one with the means and facts."""
    values = {
        "dice": scores.dice,
        "sensitivity": scores.sensitivity,
        "false_positives": scores.false_positives_per_slice,
    }
    found = [{"participant": MEAN, **{name: np.nanmean(of) for name, of in values.items()}, **facts}]
    for row in range(len(scores)):
        found.append({"participant": row, **{score: float(of[row]) for score, of in values.items()}})
    return found


def run(key: Key, work: Path, lgg: Path) -> None:
    """Train the generator, if the arm needs one, and the segmenter; test it and add its scores to the table."""
    import early_stopped
    from nnunet_side import nnunet_masks
    from race_cohorts import study_of

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore
    from slimdiff.evaluation.utility.scores import score_slices
    from slimdiff.evaluation.utility.segmenter import Pairs

    percent, arm, seed, segmenter = key
    study = study_of(COHORT, work, lgg)
    store, parts = SliceStore.open(study.paths.store), read_folds(study.paths.folds, 0)
    train, validation = divided(parts["train"], percent, seed)
    real, checked, test = (Real.of(store, names) for names in (train, validation, parts["test"]))
    min_px = max(1, round(study.evaluation.min_component_mm2 / store.spacing_mm**2))

    def samples():
        drawn = samples_of(study, store, train, percent, seed, work)
        return usable(drawn, study.tau, int(store.facts["min_lesion_px"]))

    pairs, paste = training_set(arm, real, samples)
    started = time.process_time()
    if segmenter == "nnunet":
        folder = work / "usefulness" / f"nnunet-{percent}-{arm}-{seed}"
        more = pairs[np.arange(len(real.images), len(pairs))]
        if paste is not None:
            rng = np.random.default_rng([seed, 29])
            more = Pairs(*(np.stack(part) for part in zip(*(paste(rng) for _ in real.images), strict=True)))
        own = {"train": train, "val": validation, "test": parts["test"]}
        predicted, facts = nnunet_masks(study, store, own, more, folder, seed)
        scores = score_slices(test.masks, predicted, min_px).grouped(test.participant)[1]
    else:
        trained, fit = early_stopped.train_on(
            early_stopped.batches(pairs, paste),
            (Pairs(checked.images, checked.masks), checked.participant),
            store.spacing_mm,
            seed,
            ordinary=arm in ("augmentation", "both"),
        )
        facts = {"best_step": fit.best_step, "steps": fit.steps, "seconds": time.process_time() - started}
        pairs = Pairs(test.images, test.masks)
        scores = early_stopped.patient_scores(trained, pairs, test.participant, min_px)[1]
    table().add(key, rows_of(scores, facts), place)


def draw_all(percents, seeds, work: Path, lgg: Path) -> None:
    """The generators and samples that are missing."""
    from race_cohorts import study_of

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore

    study = study_of(COHORT, work, lgg)
    store, parts = SliceStore.open(study.paths.store), read_folds(study.paths.folds, 0)
    for seed, percent in product(seeds, percents):
        samples_of(study, store, divided(parts["train"], percent, seed)[0], percent, seed, work)


def main() -> int:
    """Do the runs that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--percent", type=int, choices=PERCENTS)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--seed", type=int, choices=SEEDS)
    parser.add_argument("--segmenter", choices=SEGMENTERS)
    parser.add_argument("--generators", action="store_true", help="only the generators and their samples")
    add_arguments(parser)
    options = parser.parse_args()
    work = options.work.resolve()
    if options.generators:
        percents = PERCENTS if options.percent is None else (options.percent,)
        seeds = SEEDS if options.seed is None else (options.seed,)
        draw_all(percents, seeds, work, options.lgg)
        return 0
    return carry_out(table(), runs(), options, lambda key: run(key, work, options.lgg))


if __name__ == "__main__":
    sys.exit(main())
