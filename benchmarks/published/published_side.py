"""The reference side of a comparison: runs the classes of the wheel. Started by `turns.Side` with its own Python.

Options: work (train or sample), device, precision (float32 or bfloat16), size, batch.
"""

import functools
import itertools
import logging
import time
import traceback
import warnings

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from src.diffusion.model.factory import DiffusionSampler
from src.diffusion.training.callbacks.epoch_callbacks import EMACallback
from src.diffusion.training.lit_modules import JSDDPMLightningModule
from turns import Wire, options, peak_memory_mb

Z_BINS = 30


def configuration(size: int, batch: int, steps: int = 300):
    """Configuration of its classes, with the paper's network and the defaults of its sampler."""
    return OmegaConf.create(
        {
            "data": {
                "transforms": {"roi_size": [size, size, size]},
                "slice_sampling": {"z_range": [34, 115]},
            },
            "conditioning": {
                "z_bins": Z_BINS,
                "use_sinusoidal": True,
                "max_z": 159,
                "cfg": {"enabled": False, "dropout_prob": 0.1},
            },
            "model": {
                "spatial_dims": 2,
                "in_channels": 2,
                "out_channels": 2,
                "channels": [64, 128, 256, 256],
                "attention_levels": [False, False, True, True],
                "num_res_blocks": 2,
                "num_head_channels": 32,
                "norm_num_groups": 32,
                "resblock_updown": False,
                "use_class_embedding": True,
                "with_conditioning": False,
                "dropout": 0.0,
            },
            "scheduler": {
                "type": "DDPM",
                "num_train_timesteps": 1000,
                "schedule": "cosine",
                "prediction_type": "sample",
                "clip_sample": True,
                "clip_sample_range": 1.0,
            },
            "sampler": {"type": "DDIM", "num_inference_steps": steps, "eta": 0.2, "guidance_scale": 1.0},
            "training": {
                "batch_size": batch,
                "max_epochs": 100,
                "self_conditioning": {"enabled": True, "probability": 0.5},
                "optimizer": {
                    "type": "AdamW",
                    "lr": 1e-4,
                    "weight_decay": 1e-4,
                    "betas": [0.9, 0.999],
                    "eps": 1e-8,
                },
                "lr_scheduler": {"type": "CosineAnnealingLR", "T_max": 100, "eta_min": 1e-6},
            },
            "loss": {
                "mode": "mse_lp_norm",
                "lp_norm": {"p": 1.5},
                "uncertainty_weighting": {"enabled": False, "initial_log_vars": [0.0, 0.0]},
                "lesion_weighted_image": {
                    "enabled": False,
                    "lesion_weight": 1.0,
                    "background_weight": 1.0,
                },
                "lesion_weighted_mask": {
                    "enabled": False,
                    "lesion_weight": 1.0,
                    "background_weight": 1.0,
                },
            },
        }
    )


def synchronised(device: str) -> float:
    """Time after the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(call, device: str) -> float:
    """Seconds of one call."""
    started = synchronised(device)
    call()
    return synchronised(device) - started


class Turns(pl.Callback):
    """Between training steps: answers the last question and waits for the next."""

    def __init__(self, wire: Wire, device: str):
        self.wire, self.device = wire, device
        self.questions = wire.questions()
        self.steps, self.left, self.started = 0, 0, None

    def on_train_batch_start(self, trainer, module, batch, index):
        if self.left == 0:
            if self.started is not None:
                seconds = synchronised(self.device) - self.started
                if self.device == "cuda":
                    torch.cuda.empty_cache()
                self.wire.answer(seconds=seconds, memory_mb=peak_memory_mb(torch, self.device))
            question = next(self.questions, None)
            if question is None:
                # With this return value Lightning ends the epoch.
                trainer.should_stop = True
                return -1
            # On a GPU one untimed step allocates the memory that was released between the turns.
            self.steps, self.left = question["steps"], question["steps"] + (self.device == "cuda")
            # It decides on self-conditioning per batch; set here, so that both cases are timed equally often.
            module._self_cond_prob = float(question["informed"])
        if self.left == self.steps:
            self.started = synchronised(self.device)
        self.left -= 1
        return None


def train(wire: Wire, device: str, precision: str, size: int, batch: int) -> None:
    """Train its Lightning module with its optimiser, clipping and EMA callback on one batch in memory."""
    module = JSDDPMLightningModule(configuration(size, batch))
    x0 = torch.rand(batch, 2, size, size) * 2 - 1
    data = {"image": x0[:, :1], "mask": x0[:, 1:], "token": torch.randint(2 * Z_BINS, (batch,))}
    pl.Trainer(
        max_epochs=1,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        gradient_clip_val=1.0,
        gradient_clip_algorithm="norm",
        callbacks=[Turns(wire, device), EMACallback()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, itertools.repeat(data))


@torch.no_grad()
def sample(wire: Wire, device: str, precision: str, size: int, batch: int) -> None:
    """Questions: `what: evaluation` (its network alone), `what: sample` (some steps of its sampler)."""
    module = JSDDPMLightningModule(configuration(size, batch)).to(device).eval()
    for question in wire.questions():
        count, repeats = question["batch"], question["repeats"]
        tokens = torch.zeros(count, dtype=torch.long, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            if question["what"] == "evaluation":
                x, times = torch.randn(count, 4, size, size, device=device), torch.full_like(tokens, 500)
                module(x, times, tokens)
                # The fastest call, as on the slimdiff side.
                evaluate = functools.partial(module, x, times, tokens)
                seconds = min(timed(evaluate, device) for _ in range(repeats))
            else:
                settings = configuration(size, batch, repeats)
                sampler = DiffusionSampler(module.model, module.inferer, settings, device)
                started = synchronised(device)
                sampler.sample(tokens)
                seconds = (synchronised(device) - started) / repeats
        wire.answer(seconds=seconds, memory_mb=peak_memory_mb(torch, device))


def main() -> None:
    """Answer questions until there are no more."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    wire, given = Wire(), options()
    work = {"train": train, "sample": sample}[given.pop("work")]
    try:
        work(wire, **given)
    except Exception as error:
        traceback.print_exc()
        wire.answer(failed=f"reference: {str(error).splitlines()[0] if str(error) else repr(error)}")


if __name__ == "__main__":
    main()
