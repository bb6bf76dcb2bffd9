"""A finished study with two variants: the outputs of the other stages, with invented values."""

import json
import shutil

import numpy as np
import pytest

from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.axes.fold_evaluation import NEAREST_COLUMNS, TRAINING_SUBJECT_COLUMNS
from slimdiff.evaluation.axes.mask import LESION_COLUMNS, SWEEP_COLUMNS
from slimdiff.evaluation.axes.outliers import OUTLIER_COLUMNS
from slimdiff.evaluation.compare import compare
from slimdiff.evaluation.registry import COLUMNS
from slimdiff.files import write_table
from slimdiff.generation.samples import read_samples, write_samples

FOLDS = 2
METRIC_COLUMNS = tuple(dict.fromkeys((*COLUMNS, "reason", "interval_reason")))
VARIANTS = ("base", "other")
NOTICE = "invented numbers, no patients"


def metric_rows(variant: str, fold: int, shift: float = 0.0) -> list[dict]:
    """One row of every kind: with interval, without, n/a interval, n/a value, by z-bin."""
    common = {"study": "tiny", "variant": variant, "fold": fold, "n": 12}

    def row(
        metric, value, extractor=None, low=None, high=None, floor=None, z_bin="all", why=None, no_ci=None
    ):
        names = {"metric": metric, "extractor": extractor, "z_bin": z_bin}
        numbers = {"value": value, "ci_low": low, "ci_high": high, "floor": floor}
        return common | names | numbers | {"reason": why, "interval_reason": no_ci}

    kid = 0.0213 + 0.01 * fold + shift
    few = "3 held-out subjects; expected at least 5"
    rows = [
        row("kid", kid, "alexnet", kid - 0.005, kid + 0.004, 0.0041),
        row("kid_blurred", 0.9, "alexnet", why="held-out slices blurred by 2 px"),
        row("fid", 31.25, "alexnet", floor=12.5),
        row("mmd_mf", 0.42, floor=0.05, why=f"{20 + fold} real and 12 synthetic components", no_ci=few),
        row("mmd_pl", None, why="7 real and 4 synthetic components; expected 10 of each"),
        row("lesion_share_class1", 0.9, floor=1.0),
        row("suspect_share", 0.25, "pixels", floor=0.01),
    ]
    for z_bin in range(3):
        why = None if z_bin else "3 real and 2 synthetic slices; expected 10 of each"
        rows.append(row("kid", kid if z_bin else None, "alexnet", floor=0.004, z_bin=z_bin, why=why))
        rows.append(row("lesion_area", 20 + z_bin, floor=22, z_bin=z_bin))
    return rows


def nearest_rows(store, samples, train) -> list[dict]:
    """Every sample's neighbour is the first training slice of its z-bin; distances count upwards."""
    rows = []
    for space in ("alexnet", "pixels"):
        for number in range(len(samples.images)):
            row = train[store.z_bin[train] == samples.z_bin[number]][0]
            rows.append(
                {
                    "id": samples.id[number],
                    "sample": number,
                    "z_bin": samples.z_bin[number],
                    "class": samples.label[number],
                    "train_row": row,
                    "train_participant": store.participant[row],
                    "distance": 0.5 + 0.1 * number,
                    "threshold": 0.65,
                    "flagged": int(0.5 + 0.1 * number < 0.65),
                    "space": space,
                }
            )
    return rows


def training_subject_rows(neighbours: list[dict], owners) -> list[dict]:
    """Counts of `neighbours` by training subject; all subjects have the same expected share."""
    names = sorted(set(owners))
    rows = []
    for space in ("alexnet", "pixels"):
        for name in names:
            own = [row for row in neighbours if row["space"] == space and row["train_participant"] == name]
            rows.append(
                {
                    "space": space,
                    "participant": name,
                    "n_slices": int((owners == name).sum()),
                    "n_nearest": len(own),
                    "expected_share": 1 / len(names),
                    "n_suspects": sum(row["flagged"] for row in own),
                    "closest": min((row["distance"] for row in own), default=None),
                }
            )
    return rows


def outlier_rows(samples) -> list[dict]:
    """Scores count downwards from 5 by halves: the first three samples are outliers, the last has no score."""
    return [
        {
            "id": name,
            "z_bin": samples.z_bin[number],
            "class": samples.label[number],
            "score": 5 - 0.5 * number if number < len(samples.id) - 1 else None,
            "limit": 3.5,
            "outlier": int(number < 3),
            "why": "spots" if number < 3 else "",
        }
        for number, name in enumerate(samples.id)
    ]


def lesion_rows() -> list[dict]:
    """Held-out lesions of 10, 20, 30 and 40 px, training ones twice as large, synthetic ones in one z-bin only."""
    rows = []
    for name, factor, bins in (
        ("held-out", 1, (0, 1, 2, 2)),
        ("training", 2, (0, 1, 2, 2)),
        ("synthetic", 3, (1,) * 4),
    ):
        for area, z_bin in zip((10, 20, 30, 40), bins, strict=True):
            shape = {"area": factor * area, "circularity": 0.9, "solidity": 0.8, "eccentricity": 0.5}
            rows.append({"set": name, "id": "x", "z_bin": z_bin, **shape})
    return rows


@pytest.fixture(scope="session")
def finished(prepared, trained, tmp_path_factory):
    """The tiny study with models, samples and metrics of two variants in two folds. Only the report writes to it."""
    study = prepared.model_copy(
        update={
            "results_dir": str(tmp_path_factory.mktemp("finished")),
            "variants": {name: {} for name in VARIANTS},
            "report": prepared.report.model_copy(update={"notice": NOTICE, "title": "A & B"}),
        }
    )
    paths = study.paths
    shutil.copytree(prepared.paths.root, paths.root)
    store = SliceStore.open(paths.store)
    rng = np.random.default_rng(0)
    for number, variant in enumerate(VARIANTS):
        for fold in range(FOLDS):
            folder = paths.model(variant, fold)
            folder.mkdir(parents=True)
            shutil.copy(trained, folder / "model.safetensors")
            history = [
                {
                    "step": step,
                    "loss_image": 1 / step,
                    "loss_mask": 0.1 / step,
                    "learning_rate": 1e-3,
                    "images_per_s": 9,
                }
                for step in (2, 4, 6)
            ]
            write_table(folder / "history.tsv", history, list(history[0]))
            rounds = [
                {
                    "step": step,
                    "ema_decay": decay,
                    "loss_image": decay / step,
                    "loss_mask": 0.2 / step,
                    "kid": 3 / step,
                    "memorisation_ratio": 1.5,
                }
                for step in (3, 6)
                for decay in (0.9, 0.5)
            ]
            write_table(folder / "validation.tsv", rounds, list(rounds[0]))
            for z_bin in range(store.n_bins):
                images = rng.uniform(-1, 1, (4, *store.size)).astype(np.float16)
                masks = np.full_like(images, -1)
                masks[2:, 10:14, 8:12] = 1
                names = [
                    {"id": f"s{z_bin}{i}", "key": "0", "z_bin": z_bin, "class": int(i > 1)} for i in range(4)
                ]
                write_samples(paths.samples_stem(variant, fold, z_bin), images, masks, names)
            samples = read_samples(paths.samples(variant, fold))
            metrics = paths.metrics(variant, fold)
            write_table(metrics / "metrics.tsv", metric_rows(variant, fold, 0.02 * number), METRIC_COLUMNS)
            write_table(metrics / "lesions.tsv", lesion_rows(), LESION_COLUMNS)
            sweep = [
                {"tau": tau, "n_components": 9 - 10 * tau, "mmd_mf": 0.4 + tau + fold, "mmd_mf_w1": 0.2}
                for tau in (-0.1, 0.0, 0.1)
            ]
            write_table(metrics / "tau_sweep.tsv", sweep, SWEEP_COLUMNS)
            train = store.rows_of(read_folds(paths.folds, fold)["train"])
            write_table(metrics / "nearest.tsv", nearest_rows(store, samples, train), NEAREST_COLUMNS)
            write_table(metrics / "outliers.tsv", outlier_rows(samples), OUTLIER_COLUMNS)
            write_table(
                metrics / "memorisation_subjects.tsv",
                training_subject_rows(nearest_rows(store, samples, train), store.participant[train]),
                TRAINING_SUBJECT_COLUMNS,
            )
    compare(paths, VARIANTS, FOLDS)
    benchmarks = paths.root / "benchmarks" / "train"
    benchmarks.mkdir(parents=True)
    for fold in range(FOLDS):
        (benchmarks / f"base_fold-{fold}.tsv").write_text(
            f"s\th:m:s\tmax_rss\tcpu_time\n{60 + fold}.5\t0:01:00\t{900 + fold}\t{50 + fold}\n"
        )
    (paths.root / "config.json").write_text(json.dumps({}))
    return study
