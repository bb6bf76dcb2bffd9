"""A store, a network and a device small enough to train in a test."""

import json
from pathlib import Path

import numpy as np
import torch

from slimdiff.config.diffusion import DiffusionConfig, FocalFrequencyConfig, LossConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.training import AugmentationConfig, TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.files import read_table
from slimdiff.model.checkpoint import DataSpec, load_model
from slimdiff.training.trainer import Trainer

CPU = torch.device("cpu")
DATA_SPEC = DataSpec(size=(8, 8), n_bins=3, bin_centres=[0.5, 1.5, 2.5])
MODEL = ModelConfig(
    channels=(16,),
    res_blocks=1,
    attention=(False,),
    head_channels=16,
    norm_groups=8,
    self_conditioning=True,
)
PARTICIPANTS = ["sub-0", "sub-1", "sub-2"]
TRAINING = TrainingConfig(
    steps=12,
    batch_size=4,
    learning_rate=2e-3,
    ema_decay=0.9,
    self_conditioning=0.5,
    log_every=2,
    save_every=3,
    preview_every=0,
    tensorboard=False,
    device="cpu",
    precision="float32",
)

# All options with random draws or learned parameters in addition to the network.
EVERYTHING = {
    "model": MODEL.model_copy(update={"prior": "concat", "null_token": True, "acquisition": True}),
    "diffusion": DiffusionConfig(
        loss=LossConfig(
            uncertainty="each",
            focal_frequency=FocalFrequencyConfig(weight=0.5),
            min_snr_gamma=5.0,
            wavelet_weights=(6.0, 2.0, 0.5),
        )
    ),
    "priors": np.tril(np.ones((3, 8, 8), bool)),
    "augmentation": AugmentationConfig(probability=0.5),
    "condition_dropout": 0.3,
    "lesion_share": 0.4,
}


def tiny_store(tmp_path, count=24, side=8) -> SliceStore:
    """Discs of three sizes, half of them with a lesion; four participants."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    bins, label = np.arange(count) % 3, np.arange(count) // 3 % 2
    images = np.stack([np.where(np.hypot(x, y) < 2 + b, 0.2, -1.0) for b in bins])
    masks = np.zeros(images.shape, np.uint8)
    masks[label == 1, 3:5, 3:6] = 1
    images = np.clip(images + 0.6 * masks + rng.normal(0, 0.05, images.shape), -1, 1).astype(np.float16)
    facts = {
        "n_bins": 3,
        "spacing_mm": 6.0,
        "z_range": [0, 2],
        "bin_centres": [0.5, 1.5, 2.5],
        "sha256": {"images": "a" * 64, "masks": "b" * 64, "slices": "c" * 64},
    }
    names = np.array([f"sub-{i % 4}" for i in np.arange(count) // 6])
    acquisition = np.where(np.arange(count) % 4 == 0, "T2sel", "tse3dvfl")
    return SliceStore(tmp_path, images, masks, names, bins.copy(), bins, label, acquisition, facts)


def trainer_in(folder, diffusion=None, processes=None, val_participants=(), judge=None, **changes):
    return Trainer(
        MODEL,
        diffusion or DiffusionConfig(),
        TRAINING.model_copy(update=changes),
        tiny_store(folder.parent),
        PARTICIPANTS,
        folder,
        {"study": "tiny", "variant": "base", "fold": 0},
        processes=processes,
        val_participants=val_participants,
        judge=judge,
    )


def weights_of(folder):
    network, card = load_model(folder / "model.safetensors", CPU)
    return dict(network.named_parameters()), card


MEASURED = ("images_per_s", "memory_mb")


def assert_same_run(one, two, but=frozenset()):
    """Weights and history, bit for bit; only speed and memory, and the settings in `but`, may differ."""
    first, first_card = weights_of(one)
    second, second_card = weights_of(two)
    for card in (first_card, second_card):
        for key in but:
            card.training.pop(key)
    assert first_card == second_card
    for name in first:
        assert torch.equal(first[name], second[name]), name
    rows = [
        [{k: v for k, v in row.items() if k not in MEASURED} for row in read_table(folder / "history.tsv")]
        for folder in (one, two)
    ]
    assert rows[0] == rows[1]


def fail_at(trainer, step, act):
    advance = trainer.advance

    def fail_or_advance():
        if trainer.step == step:
            act()
        return advance()

    trainer.advance = fail_or_advance


def study_with_own_models(prepared, folder: Path, **training) -> Path:
    """The file of a prepared study with results of its own in `folder`: the same slices and folds, no model."""
    values = json.loads(prepared.model_dump_json(exclude_defaults=True))
    values["training"] |= training
    values["results_dir"] = str(folder / "results")
    root = folder / "results" / prepared.study
    root.mkdir(parents=True, exist_ok=True)
    for name in ("slices", "folds.tsv"):
        if not (root / name).exists():
            (root / name).symlink_to(prepared.paths.root / name)
    path = folder / "study.json"
    path.write_text(json.dumps(values))
    return path
