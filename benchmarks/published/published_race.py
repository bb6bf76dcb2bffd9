"""The published side of the race: trains and samples with the classes of the wheel.

python published_race.py job.json, with the Python of `environment.reference_python`. The job names `pairs` (an npz with
the training pairs), `out` (the npz to write), budget and settings; see `race_sides.run_published`.
"""

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from published_side import configuration
from src.diffusion.model.factory import DiffusionSampler
from src.diffusion.training.callbacks.epoch_callbacks import EMACallback
from src.diffusion.training.lit_modules import JSDDPMLightningModule
from torch.utils.flop_counter import FlopCounterMode

EVALUATED, EVALUATED_TOGETHER = 64, 16
"""Batches of training slices on which weights are compared, and slices in each."""
SAMPLED_TOGETHER = 16


def settings(job: dict):
    """Its configuration: the README's recipe at the job's widths; the paper's network has others."""
    config = configuration(max(job["size"]), job["batch"])
    config.data.transforms.roi_size = [*job["size"], 1]
    config.data.slice_sampling.z_range = job["z_range"]
    config.conditioning.z_bins = job["n_bins"]
    # One more than the last slice: the table of its sinusoid ends before max_z.
    config.conditioning.max_z = job["z_range"][1] + 1
    config.model.channels = job["channels"]
    config.model.attention_levels = job["attention"]
    config.model.num_res_blocks = job["res_blocks"]
    config.model.norm_num_groups = job["norm_groups"]
    config.training.optimizer.lr = job["learning_rate"]
    return config


def batches(pairs: dict, size: int, rng: np.random.Generator) -> Iterator[dict]:
    """Batches with 50 % lesion slices, as its README recommends, without end."""
    classes = [np.flatnonzero(pairs["label"] == label) for label in (0, 1)]
    while True:
        rows = np.concatenate([rng.choice(rows, size // 2) for rows in classes])
        image, mask = torch.from_numpy(pairs["pairs"][rows]).float().split(1, dim=1)
        yield {"image": image, "mask": mask, "token": torch.from_numpy(pairs["token"][rows]).long()}


class Budget(pl.Callback):
    """Ends the training when this process has used its processor seconds."""

    def __init__(self, seconds: float):
        self.seconds, self.steps = seconds, 0

    def on_train_start(self, trainer, module):
        self.started = time.process_time()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.steps += 1
        self.used = time.process_time() - self.started
        if self.used >= self.seconds:
            trainer.should_stop = True


def flops_of_a_step(module: JSDDPMLightningModule, batch: dict) -> float:
    """Arithmetic of one step: forward and backward, and the estimate without gradient in half of the steps."""
    with FlopCounterMode(display=False) as counter:
        x = torch.zeros(len(batch["token"]), 4, *batch["image"].shape[2:])
        module(x, torch.zeros(len(x)).long(), batch["token"])
    return counter.get_total_flops() * 3.5


@torch.no_grad()
def loss_of(module: JSDDPMLightningModule, pairs: dict, size: int, seed: int) -> float:
    """Mean loss over fixed batches and noise."""
    torch.manual_seed(seed)
    source = batches(pairs, size, np.random.default_rng(seed))
    module.log = lambda *arguments, **options: None
    return float(np.mean([float(module.training_step(next(source), 0)) for _ in range(EVALUATED)]))


def main() -> None:
    """Train to the budget, take the better of averaged and last weights, and sample."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    job = json.loads(Path(sys.argv[1]).read_text())
    pairs = dict(np.load(job["pairs"]))
    pl.seed_everything(job["seed"])
    module = JSDDPMLightningModule(settings(job))
    budget, ema = Budget(job["seconds"]), EMACallback(decay=job["ema_decay"])
    source = batches(pairs, job["batch"], np.random.default_rng(job["seed"]))
    flops = flops_of_a_step(module, next(source))
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        callbacks=[budget, ema],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, source)
    module.eval()
    last = {name: value.clone() for name, value in module.model.state_dict().items()}
    averaged = {**last, **{name: value for name, value in ema._ema.items() if name in last}}
    losses = {}
    for name, weights in (("averaged", averaged), ("last", last)):
        module.model.load_state_dict(weights)
        losses[name] = loss_of(module, pairs, EVALUATED_TOGETHER, seed=1)
    chosen = min(losses, key=losses.get)
    module.model.load_state_dict({"averaged": averaged, "last": last}[chosen])
    module.model.to(memory_format=torch.channels_last)  # the same samples, 12 % sooner
    sampler = DiffusionSampler(module.model, module.inferer, settings(job), "cpu")
    tokens, drawn = torch.from_numpy(np.array(job["tokens"])), []
    started = time.process_time()
    torch.manual_seed(job["seed"] + 1000)
    for start in range(0, len(tokens), SAMPLED_TOGETHER):
        drawn.append(sampler.sample(tokens[start : start + SAMPLED_TOGETHER]).float().numpy())
        print(f"{start + len(drawn[-1])} of {len(tokens)} samples", file=sys.stderr, flush=True)
    np.savez(
        job["out"],
        drawn=np.concatenate(drawn).astype(np.float16)
        if drawn
        else np.empty((0, 2, *job["size"]), np.float16),
        steps=budget.steps,
        train_s=budget.used,
        sample_s=time.process_time() - started,
        tflop=flops * budget.steps / 1e12,
        averaged_weights=chosen == "averaged",
        loss=losses[chosen],
    )


if __name__ == "__main__":
    main()
