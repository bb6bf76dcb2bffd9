"""Which training a model or a state belongs to, and whether a finished training is the one that is asked for."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.files import check_seal, seal_of
from slimdiff.model.checkpoint import check_model
from slimdiff.training.checkpoint import is_unfinished, learnt, missing_snapshots, recorded
from slimdiff.training.start import hash_of_start


def identity_of(
    model: ModelConfig,
    diffusion: DiffusionConfig,
    training: TrainingConfig,
    store: SliceStore,
    participants: Sequence[str],
    priors: np.ndarray | None,
    names: dict,
) -> dict:
    """All that decides the weights of a training.

    Args:
        model, diffusion, training: sections of the study.
        store: the slice store.
        participants: training participants.
        priors: z-bin priors of the fold, where the network takes them.
        names: study, variant and fold.
    """
    return {
        "model": model.settings(),
        "diffusion": diffusion.model_dump(mode="json"),
        "training": learnt(training),
        "data_hash": store.data_hash,
        "participants": sorted(participants),
        "priors": None
        if model.prior == "none" or priors is None
        else hashlib.sha256(priors.tobytes()).hexdigest()[:16],
        **({"init": _start_of(training)} if training.init else {}),
        **names,
    }


def _start_of(training: TrainingConfig) -> dict:
    return {
        "sha256": hash_of_start(Path(training.init), training.init_sha256),
        "missing": training.init_missing,
    }


def run_key(identity: dict, training: TrainingConfig) -> str:
    """Hash of a training with its validation rounds, for the model card."""
    whole = {**identity, "training": recorded(training)}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def finished_steps(folder: Path, identity: dict, training: TrainingConfig) -> int | None:
    """Steps of the finished training in this folder, if it is the one that is asked for and no file is missing.

    Also None if the same training was started again and has not ended. Raises ValueError naming a damaged table of a
    sound model whose state is not kept: only a new training could write it again.
    """
    names = ["model.safetensors", "history.tsv", "validation.tsv", "previews/final.png"]
    further = set(training.further_ema_decays) - {training.ema_decay}
    names += [f"ema-{decay:g}.safetensors" for decay in further]
    if not all((folder / name).is_file() for name in names):
        return None
    try:
        run = check_model(folder / "model.safetensors").training_run
    except ValueError as error:
        print(f"{error}; it is made again now", file=sys.stderr)
        return None
    if not run or "steps" not in run or run.get("key") != run_key(identity, training):
        return None
    if missing_snapshots(folder, training, run["steps"]) or is_unfinished(folder / "state", identity):
        return None
    for name in ("history.tsv", "validation.tsv"):
        if not _is_whole(folder / name):
            return None
    return run["steps"]


def _is_whole(table: Path) -> bool:
    """Whether a table is what the training wrote; raises ValueError if it is not, and no state is there."""
    try:
        check_seal(table)
    except ValueError:
        what = f"{table}: its content is not what was written, by its sha256 in {seal_of(table)}"
        if not (table.parent / "state" / "last.pt").is_file():
            raise ValueError(
                f"{what}; the model is sound, but no state is kept from which the table could be written again: "
                f"restore the table from a copy, delete {seal_of(table)} to keep the table as it is, or train again "
                "with --again"
            ) from None
        print(f"{what}; it is written again from the kept state", file=sys.stderr)
        return False
    return True
