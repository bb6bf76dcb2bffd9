"""Whether a start from drawn heads helps with few patients: trainings with and without it, judged alike.

python benchmarks/quality/pretraining.py --start anatomy.safetensors   # every run that the table lacks
python benchmarks/quality/pretraining.py --list
python benchmarks/quality/pretraining.py --patients 10 --draw 0 --minutes 5 --way start --start anatomy.safetensors
python benchmarks/quality/pretraining_table.py    # figure and tables

Rows go into docs/tables/pretraining.tsv. The patients are those of the race's cohort lgg at 64 x 64 px
(`against_published.py`): of its 54 training patients 5, 10, 20, 40 or all, three draws each; always the same 27
held-out patients. Five minutes are 900 steps, about 5 minutes of one core.

Ways: `scratch`; `start`: from the file; `augmentation`: from scratch with strong augmentation; `frozen`: from the file,
with the weights of the encoder's two finest levels as they are there; `scratch-reversed` and `start-reversed`: on the
same slices with dark and bright tissue exchanged, whose lesions are dark. The last four only with 10 patients.

Beside the metrics of the race: `drawn_ratio`, the median distance of samples to the nearest drawn head, divided by that
of held-out slices (below 1: samples are closer to the drawn heads than patients are), in features and pixels; and
`darker_lesions`, the share of lesion slices whose lesion is darker than the tissue around it, floor: held-out slices.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from runs_table import RunsTable, add_arguments, carry_out

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "docs" / "tables" / "pretraining.tsv"
PATIENTS, DRAWS, MINUTES = (5, 10, 20, 40, 54), (0, 1, 2), (5, 20)
REVERSED = ("scratch-reversed", "start-reversed")
WAYS = ("scratch", "start", "augmentation", "frozen", *REVERSED)
ONLY = {"augmentation": (10,), "frozen": (10,), **dict.fromkeys(REVERSED, (10,))}
"""Numbers of patients with which a way is tried; else with all of them."""
FROM_FILE = ("start", "frozen", "start-reversed")
AUGMENTATION = {"probability": 0.5}
FROZEN = ("trunk.encoder.stem.", "trunk.encoder.levels.0.", "trunk.encoder.levels.1.")
STEPS_PER_MINUTE = 180
"""Of one core: all ways have as many steps, because machines differ from day to day by a factor of almost two."""
EVERY = 2
"""Every second held-out slice has one sample of its z-bin and class."""
BACKGROUND = -0.95
HEADS = 512
"""Drawn heads, with another seed than those of the pretraining."""
Key = tuple[int, int, int, str]
"""Patients, draw, minutes, way."""


def table() -> RunsTable:
    return RunsTable(TABLE, {"patients": int, "draw": int, "minutes": int, "way": str})


def runs() -> Iterator[Key]:
    """All runs, the cheapest first."""
    for minutes, way, draw, patients in product(MINUTES, WAYS, DRAWS, PATIENTS):
        if patients in ONLY.get(way, PATIENTS):
            yield patients, draw, minutes, way


def place(key: Key) -> tuple:
    """Order of the table."""
    patients, draw, minutes, way = key
    return minutes, WAYS.index(way), patients, draw


def chosen(train: list[str], patients: int, draw: int) -> list[str]:
    """Some of the training patients: each draw has an order of its own, of which the first ones are taken."""
    import numpy as np

    order = np.random.default_rng([draw, 22]).permutation(sorted(train))
    return sorted(order[:patients].tolist())


def freeze(trainer) -> None:
    """Keep the weights of the finest levels as they are."""
    from slimdiff.training.optimiser import make_optimiser

    for name, parameter in trainer.network.named_parameters():
        if name.startswith(FROZEN):
            parameter.requires_grad_(False)
    config = trainer.config
    made = (config.optimiser, trainer.network, trainer.objective, config.learning_rate)
    trainer.optimiser = make_optimiser(*made)


def reversed_store(store):
    """The store with dark and bright tissue exchanged; the background stays."""
    from dataclasses import replace

    import numpy as np

    images = np.asarray(store.images)
    hashes = {name: f"reversed-{value}" for name, value in store.facts["sha256"].items()}
    return replace(
        store,
        images=np.where(images > BACKGROUND, -images, images),
        facts={**store.facts, "sha256": hashes},
    )


def darker(images, masks) -> float:
    """Share of the slices with a lesion whose lesion is darker than the other tissue; (N, H, W) each, bool masks."""
    compared = [
        float(image[mask].mean() < image[~mask & (image > BACKGROUND)].mean())
        for image, mask in zip(images, masks, strict=True)
        if mask.any() and (~mask & (image > BACKGROUND)).any()
    ]
    return sum(compared) / max(len(compared), 1)


def drawn_ratios(real, images) -> list[dict]:
    """Rows of `drawn_ratio`: real and images are held-out slices and samples (N, H, W)."""
    import numpy as np
    import torch

    from slimdiff.config import load_study
    from slimdiff.data.phantom.drawn import SliceDrawer
    from slimdiff.evaluation.metrics.features import extract
    from slimdiff.evaluation.metrics.grey_levels import to_uint8
    from slimdiff.evaluation.metrics.neighbours import nearest

    study = load_study(HERE.parents[1] / "config" / "anatomy.yaml")
    size, spacing = real.shape[1:], study.preprocess.spacing_mm
    drawer = SliceDrawer(
        study.data.anatomy, size, spacing, study.slices.min_lesion_mm2, 1, torch.device("cpu")
    )
    heads = np.concatenate(
        [
            drawer.draw(np.arange(start, start + 64), np.arange(64) % 2 == 0).x0[:, 0].numpy()
            for start in range(0, HEADS, 64)
        ]
    )
    rows = []
    for space, metric in (("alexnet", "euclidean"), ("pixels", "ncc")):
        sets = [np.asarray(part, np.float32) for part in (heads, real, images)]
        if space == "alexnet":
            sets = [extract(to_uint8(part), space, progress=False) for part in sets]
        near = [
            np.median(nearest(part, sets[0], np.zeros(len(part)), np.zeros(HEADS), metric)[0])
            for part in sets[1:]
        ]
        rows.append({"metric": "drawn_ratio", "extractor": space, "value": near[1] / near[0], "floor": 1.0})
    return rows


def run(key: Key, work: Path, lgg: Path, start: Path | None) -> None:
    """Train, sample and judge, and add the metrics to the table."""
    from against_published import judged
    from race_cohorts import study_of
    from race_sides import pairs_of, run_slimdiff

    from slimdiff.data.folds import read_folds
    from slimdiff.data.store import SliceStore

    patients, draw, minutes, way = key
    if way in FROM_FILE and start is None:
        raise SystemExit(f"{way}: expected the file to start from, found none; give it with --start")
    training = {
        "start": {"init": str(start)},
        "frozen": {"init": str(start)},
        "start-reversed": {"init": str(start)},
        "augmentation": {"augmentation": AUGMENTATION},
    }.get(way, {})
    study = study_of("lgg", work, lgg, {way: {"training": training}} if training else None)
    parts = read_folds(study.paths.folds, 0)
    own = {**parts, "train": chosen(parts["train"], patients, draw)}
    store = SliceStore.open(study.paths.store)
    if way in REVERSED:
        store = reversed_store(store)
    shown = store.rows_of(parts["test"])[::EVERY]
    wanted = list(zip(store.z_bin[shown].tolist(), store.label[shown].tolist(), strict=True))
    variant = study.variant(way if training else "base")
    folder = work / "pretraining" / f"{patients}-{draw}-{minutes}-{way}"
    folder.mkdir(parents=True, exist_ok=True)
    given = (variant, store, own["train"], wanted, lambda: STEPS_PER_MINUTE * minutes, draw, folder)
    drawn, facts = run_slimdiff(*given, *([freeze] if way == "frozen" else []))
    found = [{"metric": name, "extractor": "n/a", "value": value} for name, value in facts.items()]
    kind = "-reversed" if way in REVERSED else ""
    found += judged(study, store, own, drawn, wanted, draw, work / f"lgg{kind}-{patients}-{draw}.floors.json")
    real = pairs_of(store, store.rows_of(parts["test"]))
    found += drawn_ratios(real[:, 0], drawn[:, 0])
    of_both = (
        darker(images, masks > 0) for images, masks in ((drawn[:, 0], drawn[:, 1]), (real[:, 0], real[:, 1]))
    )
    found.append(
        dict(zip(("metric", "extractor", "value", "floor"), ("darker_lesions", "n/a", *of_both), strict=True))
    )
    table().add(key, found, place)


def main() -> int:
    """Do the runs that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, choices=PATIENTS)
    parser.add_argument("--draw", type=int, choices=DRAWS)
    parser.add_argument("--minutes", type=int, choices=MINUTES)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument(
        "--start", type=Path, help="from `slimdiff pretrain --config config/anatomy.yaml --out`"
    )
    add_arguments(parser)
    options = parser.parse_args()
    start = options.start and options.start.resolve()
    return carry_out(
        table(), runs(), options, lambda key: run(key, options.work.resolve(), options.lgg, start)
    )


if __name__ == "__main__":
    sys.exit(main())
