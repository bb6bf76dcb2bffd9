"""The two sides of the race: train within a budget of processor time, and sample."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.config import Study
from slimdiff.config.diffusion import WAVELET_WEIGHTS
from slimdiff.config.training import TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.files import replacing
from slimdiff.generation.generator import Generator
from slimdiff.generation.requests import Request, stream_key
from slimdiff.training.trainer import Trainer

PUBLISHED_FOLDER = Path(__file__).resolve().parents[1] / "published"
TIMED_STEPS, UNTIMED_STEPS = 20, 5
SAVE_EVERY = 200
"""Steps between two states of slimdiff's training: an interrupted run resumes from the last one."""
NETWORK = ("model", "diffusion", "training")
"""Sections that a trained network depends on."""
OF_THE_RACE = (
    "steps",
    "seed",
    "device",
    "tensorboard",
    "snapshots",
    "preview_every",
    "validation",
    "save_every",
    "keep_state",
)
"""Keys of `training` that the race sets itself."""
Conditions = list[tuple[int, int]]
"""z-bin and class of every sample."""
Drawn = tuple[np.ndarray, dict[str, float]]
"""Pairs (N, 2, H, W) in [-1, 1], and facts about the run."""


def pairs_of(store: SliceStore, rows: np.ndarray) -> np.ndarray:
    """Pairs (N, 2, H, W) float16 in [-1, 1] of store rows."""
    return np.stack([store.images[rows], 2 * np.asarray(store.masks[rows], np.float16) - 1], axis=1)


def recipe_of(study: Study, sections: Sequence[str]) -> dict:
    """These sections of the study, and the default that they leave to the objective."""
    recipe = {name: getattr(study, name).model_dump(mode="json") for name in sections}
    return {**recipe, "default_wavelet_weights": list(WAVELET_WEIGHTS)}


def same_recipe(one: dict, other: dict) -> bool:
    """Whether two recipes, one of them perhaps from a JSON file, are equal but for what the race sets itself."""

    def own(recipe: dict) -> dict:
        recipe = json.loads(json.dumps(recipe))
        for key in OF_THE_RACE:
            recipe.get("training", {}).pop(key, None)
        return recipe

    return own(one) == own(other)


class CountingTrainer(Trainer):
    """A trainer that counts the steps that it made itself, without those before an interruption."""

    made = 0

    def advance(self) -> None:
        super().advance()
        self.made += 1


def trainer_of(
    study: Study, store: SliceStore, train: list[str], steps: int, seed: int, folder: Path
) -> CountingTrainer:
    """A trainer of the study's recipe without anything that does not train."""
    changes = {"steps": steps, "seed": seed, "device": "cpu", "tensorboard": False, "snapshots": ()}
    changes |= {"preview_every": 0, "validation": {"every": 0}, "save_every": SAVE_EVERY}
    changes |= {"keep_state": False}
    assert changes.keys() == set(OF_THE_RACE)
    config = TrainingConfig.model_validate(study.training.model_dump(exclude_unset=True) | changes)
    return CountingTrainer(study.model, study.diffusion, config, store, train, folder, {})


def step_seconds(trainers: Sequence[Trainer]) -> list[float]:
    """Processor seconds of a step of each trainer, in turn, so that a busy machine slows all of them."""
    spent = [0.0] * len(trainers)
    for step in range(UNTIMED_STEPS + TIMED_STEPS):
        for number, trainer in enumerate(trainers):
            started = time.process_time()
            trainer.advance()
            if step >= UNTIMED_STEPS:
                spent[number] += time.process_time() - started
    return [seconds / TIMED_STEPS for seconds in spent]


def steps_within(
    study: Study, store: SliceStore, train: list[str], seconds: float, seed: int, folder: Path
) -> int:
    """Steps of the study's recipe in a budget of processor time, by the time of the first ones."""
    return int(seconds / step_seconds([trainer_of(study, store, train, 1000, seed, folder / "trial")])[0])


def steps_as_long(
    study: Study, base: Study, store: SliceStore, train: list[str], steps: int, seed: int, folder: Path
) -> int:
    """Steps of the study's recipe that take as long as `steps` of the base's, measured in one run."""
    pair = [
        trainer_of(one, store, train, 1000, seed, folder / name)
        for name, one in (("own", study), ("base", base))
    ]
    own, of_base = step_seconds(pair)
    return int(steps * of_base / own)


def _trained(
    study: Study,
    store: SliceStore,
    train: list[str],
    steps: Callable[[], int],
    seed: int,
    folder: Path,
    change: Callable[[Trainer], object],
) -> dict[str, float]:
    """Train; returns facts about the training. An interrupted training resumes, with the steps of its first try.

    steps: gives their number. The seconds are those of this process, times all steps over those that it made.
    """
    planned = folder / "steps.json"
    if not planned.is_file():
        planned.parent.mkdir(parents=True, exist_ok=True)
        with replacing(planned) as temporary:
            temporary.write_text(json.dumps(steps()))
    total = json.loads(planned.read_text())
    real = trainer_of(study, store, train, total, seed, folder / "model")
    change(real)
    started = time.process_time()
    real.run()
    seconds = time.process_time() - started
    facts = {
        "steps": total,
        "images": total * real.config.batch_size,
        "train_s": seconds * total / max(real.made, 1),
    }
    batch, draws = real.prepare(0, real.objective, real.network)
    with FlopCounterMode(display=False) as counter:
        real.loss(batch, draws)[0].backward()
    return facts | {"tflop": counter.get_total_flops() * total / 1e12}


def run_slimdiff(
    study: Study,
    store: SliceStore,
    train: list[str],
    wanted: Conditions,
    steps: Callable[[], int],
    seed: int,
    folder: Path,
    change: Callable[[Trainer], object] = lambda trainer: None,
) -> Drawn:
    """With the recipe of the study.

    steps: gives the number of steps, if the network is to be trained. folder: of the network; one that is trained is
    not trained again. change: called with the trainer before its steps.
    """
    torch.set_num_threads(1)
    known = folder / "trained.json"
    recipe = recipe_of(study, NETWORK)
    if known.is_file():
        found = json.loads(known.read_text())
        if not same_recipe(found["recipe"], recipe):
            raise SystemExit(f"{known}: this network is of another recipe; delete {folder}")
        facts = found["facts"]
    else:
        facts = _trained(study, store, train, steps, seed, folder, change)
        with replacing(known) as temporary:
            temporary.write_text(json.dumps({"recipe": recipe, "facts": facts}))
    settings = study.generation.model_copy(update={"seed": seed, "device": "cpu"})
    generator = Generator(folder / "model" / "model.safetensors", settings)
    requests = [
        Request(stream_key(seed, 0, z_bin, label, 0, number), z_bin, label, 0, number)
        for number, (z_bin, label) in enumerate(wanted)
    ]
    started = time.process_time()
    drawn = np.stack(generator.draw(requests), axis=1)
    return drawn, facts | {"sample_s": time.process_time() - started}


def run_published(
    study: Study,
    store: SliceStore,
    train: list[str],
    wanted: Conditions,
    seconds: float,
    seed: int,
    folder: Path,
    recipe: dict,
) -> Drawn:
    """With the classes of the published code, at the study's widths."""
    sys.path.insert(0, str(PUBLISHED_FOLDER))
    from environment import reference_python

    rows = store.rows_of(train)
    folder.mkdir(parents=True, exist_ok=True)
    token = store.z_bin[rows] + store.label[rows] * store.n_bins
    np.savez(folder / "pairs.npz", pairs=pairs_of(store, rows), label=store.label[rows], token=token)
    job = {
        "pairs": str(folder / "pairs.npz"),
        "out": str(folder / "drawn.npz"),
        "seconds": seconds,
        "seed": seed,
        "size": list(store.size),
        "n_bins": store.n_bins,
        "z_range": list(store.facts["z_range"]),
        "tokens": [z_bin + label * store.n_bins for z_bin, label in wanted],
        "channels": study.model.widths,
        "attention": study.model.attention,
        "res_blocks": study.model.res_blocks,
        "norm_groups": study.model.groups,
        **recipe,
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [reference_python(), str(PUBLISHED_FOLDER / "published_race.py"), str(folder / "job.json")]
    subprocess.run(command, check=True, cwd=PUBLISHED_FOLDER)
    with np.load(folder / "drawn.npz") as found:
        named = ("steps", "train_s", "tflop", "sample_s", "averaged_weights", "loss")
        facts = {name: float(found[name]) for name in named}
        return found["drawn"], facts | {"images": facts["steps"] * recipe["batch"]}
