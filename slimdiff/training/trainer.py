"""The training loop of one variant and fold.

Writes to `models/{variant}/fold-{k}/`: `model.safetensors` (averaged weights and model card), `history.tsv`,
`validation.tsv`, `previews/*.png`, `ema-*.safetensors` (further averages), and the resume state in `state/`.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.model import ModelConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.data.store import SliceStore
from slimdiff.devices import is_out_of_memory, peak_memory_mb, pick_device, pick_precision, synchronise
from slimdiff.diffusion.schedule import make_schedule
from slimdiff.model.checkpoint import DataSpec, build_network, put_priors
from slimdiff.model.unet import JointUNet
from slimdiff.training.checkpoint import (
    Ema,
    Interrupted,
    StateNotRead,
    StateNotSaved,
    damaged_state,
    load_state,
    out_of_memory,
    previous_state,
    recorded,
    save_state,
)
from slimdiff.training.data import TrainingSet
from slimdiff.training.distributed import STOP_SIGNALS, Processes
from slimdiff.training.early_stopping import reason_to_stop
from slimdiff.training.gradients import GradientThreads
from slimdiff.training.identity import identity_of
from slimdiff.training.logs import History
from slimdiff.training.objective import Objective, Perceptual
from slimdiff.training.optimiser import learning_rate, make_optimiser, update_weights
from slimdiff.training.outputs import Outputs
from slimdiff.training.start import StudyNetwork, put_start, read_start
from slimdiff.training.step import Loss, Preparation
from slimdiff.training.validation import Judge, PreviewSampler, Validation


class Trainer:
    """Trains one network; `run` starts, or resumes from a saved state.

    Args:
        model, diffusion, training: sections of the study.
        store: the slice store.
        participants: training participants.
        folder: output folder of model, history, previews and state.
        identity: study, variant and fold.
        priors: z-bin priors of the fold, bool (n_bins, H, W); required if `model.prior` is on.
        perceptual: distance for `diffusion.loss.perceptual`; required if its weight is not 0.
        val_participants: validation participants of the fold; if empty, there is no validation.
        judge: computes metrics of the samples of a validation round; None: losses only.
        processes: the processes that train together; default: this one alone.
        training_set: makes the training set of store, participants, device and share of lesion slices.
    """

    def __init__(
        self,
        model: ModelConfig,
        diffusion: DiffusionConfig,
        training: TrainingConfig,
        store: SliceStore,
        participants: list[str],
        folder: Path,
        identity: dict,
        priors: np.ndarray | None = None,
        perceptual: Perceptual | None = None,
        val_participants: Sequence[str] = (),
        judge: Judge | None = None,
        processes: Processes | None = None,
        training_set: Callable[..., TrainingSet] = TrainingSet,
    ):
        self.config, self.diffusion, self.store = training, diffusion, store
        self.folder = folder
        self.processes = processes or Processes()
        if training.batch_size < training.accumulate * self.processes.count:
            raise ValueError(
                f"training.batch_size {training.batch_size}: {self.processes.count} processes with "
                f"training.accumulate {training.accumulate} need at least "
                f"{training.accumulate * self.processes.count} slices; raise batch_size or lower accumulate"
            )
        self.device = pick_device(training.device)
        self.set = training_set(store, participants, self.device, training.lesion_share, where="auto")
        if model.acquisition:
            self.set.check_acquisitions()
        torch.manual_seed(training.seed)
        own = (self.processes.rank, self.processes.count)
        self.prepare = Preparation(self.set, training, store.spacing_mm, model.acquisition, *own)
        self.data_spec = DataSpec(
            size=store.size,
            n_bins=store.n_bins,
            bin_centres=store.bin_positions,
            acquisitions=self.set.acquisitions.tolist() if model.acquisition else [],
            acquisition_counts=self.set.acquisition_counts() if model.acquisition else [],
            lesion_subjects=store.lesion_subjects(participants).tolist(),
            augmentations=self.prepare.labels,
        )
        network = build_network(model.settings(), self.data_spec)
        put_priors(network, priors)
        self.init = self._start(network, model)
        self.network = network.to(self.device)
        if self.network.gaussian is not None:
            log_sigma = torch.from_numpy(make_schedule(diffusion.schedule, diffusion.timesteps).log_sigma)
            self.network.gaussian.fit(self.set.blocks, store.n_bins, model.gaussian, log_sigma)
        decays = dict.fromkeys((training.ema_decay, *training.further_ema_decays))
        self.emas = [Ema(self.network, decay) for decay in decays]
        gaussian = self.network.gaussian is not None
        self.objective = Objective(diffusion, training.self_conditioning, perceptual, gaussian).to(
            self.device
        )
        compiled = self.device.type == "cuda" if training.compile is None else training.compile
        self.loss = Loss(self.network, self.objective, self.device, compiled)
        self.shared_loss = self.processes.share(self.loss)
        self.threads = GradientThreads(self.loss, self.processes)
        chosen = (training.optimiser, self.network, self.objective, training.learning_rate)
        self.optimiser = make_optimiser(*chosen)
        self.identity = identity_of(model, diffusion, training, store, participants, priors, identity)
        self.step = 0
        self.history = History(self.objective, self.prepare.slices, self.processes.sum)
        self.preview_sampler = PreviewSampler(self.network, diffusion, store.size, training.seed)
        self.validation: Validation | None = None
        if self.processes.first and val_participants and training.validation.every and training.steps:
            acquisitions = self.data_spec.acquisitions
            self.validation = Validation(
                training,
                store,
                list(val_participants),
                self.objective,
                self.preview_sampler,
                self.device,
                acquisitions,
                judge,
            )
        self.outputs = Outputs(
            folder,
            training,
            self.identity,
            store,
            self.data_spec,
            self.preview_sampler,
            self.set,
            self.init,
        )
        self.extended_at: list[int] = []
        """Steps at which a finished training was resumed with more steps."""
        self._ended = False
        self._stop: int | None = None
        self._paused = 0.0

    @property
    def state_path(self) -> Path:
        return self.folder / "state" / "last.pt"

    @property
    def precision(self) -> torch.dtype:
        """Autocast type of a step."""
        return self.loss.precision

    @precision.setter
    def precision(self, precision: torch.dtype) -> None:
        self.loss.precision = precision

    @property
    def asked_to_stop(self) -> int:
        """The stop signal that came while the model was written, which `run` completes; 0: none."""
        return self._stop or 0

    def run(self) -> None:
        """Train to the configured step or to early stopping, then write the model.

        A finished training that is in `state/` is not repeated: its files are written again, or further steps follow.

        Raises Interrupted after a stop signal, once the state is saved.
        """
        config, first = self.config, self.processes.first
        saved = self.state_path.is_file() or previous_state(self.state_path).is_file()
        resumed = saved and self._restore()
        if self.init and first and not resumed:
            print(f"starts from {self.init['file']}: {'; '.join(self.init['notes'])}", file=sys.stderr)
        if not resumed and config.steps:
            self._choose_precision()
        if self.processes.largest(self.step) != -self.processes.largest(-self.step):
            raise StateNotRead(
                f"{self.state_path}: the processes read states of different steps, this one of step {self.step}; all "
                "states are kept: run again to resume"
            )
        handlers = {number: signal.signal(number, self._ask_to_stop) for number in STOP_SIGNALS}
        try:
            if first:
                self.outputs.open(self.step)
            bar = tqdm(
                total=config.steps,
                initial=self.step,
                desc="train",
                unit="step",
                mininterval=2,
                disable=not first,
            )
            # Validation, preview or snapshot that an interruption left undone after the saved step.
            ended = bool(self.step) and self._end_of_step(resumed=True)
            # Its last round was seen and gives no reason again, also where it stopped early.
            ended = ended or self._ended
            since, started, self._paused = self.step, time.perf_counter(), 0.0
            while self.step < config.steps and not ended:
                self.advance()
                row = None
                if self.step % config.log_every == 0 or self.step == config.steps:
                    row = self._close_row(since, started)
                    since, started, self._paused = self.step, time.perf_counter(), 0.0
                if stop := self.processes.largest(self._stop or 0):
                    # Save before printing: the signal may have closed the other end of the pipe.
                    self._save()
                    self.outputs.close()
                    raise Interrupted(stop, self.step)
                bar.update()
                if row:
                    bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_s=f"{row['images_per_s']:.0f}")
                saves = self.step % config.save_every == 0 and self.step < config.steps
                if saves or self._validates() or self._previews() or self.step in config.snapshots:
                    with self._not_counted():
                        ended = self._end_of_step()
                        if saves and not ended:
                            self._save()
            if self.history.steps:
                self._close_row(since, started)
            bar.close()
            # A stop signal from here on is ignored: training is complete.
            if first:
                kept = self._keep_state()
                parts = (self.network, self.emas, self.history, self.validation, self.precision)
                self.outputs.write(self.step, *parts, self.extended_at)
                self.outputs.tell_missing_snapshots()
                for other in (previous_state(self.state_path), damaged_state(self.state_path)):
                    other.unlink(missing_ok=True)
                if not kept:
                    self.state_path.unlink(missing_ok=True)
            # Wait until the first process has written the model.
            self.processes.largest(0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _start(self, network: JointUNet, model: ModelConfig) -> dict | None:
        """Give the network the weights of `training.init`; returns what the model card says of them.

        A resumed training replaces them by those of its state.
        """
        config, store = self.config, self.store
        if not config.init:
            return None
        start = read_start(Path(config.init), config.init_sha256)
        own = StudyNetwork(
            network,
            model.settings(),
            self.diffusion.model_dump(mode="json"),
            self.data_spec,
            store.spacing_mm,
            store.height,
            tuple(store.facts["z_range"]),
        )
        notes = put_start(own, start, config.init_missing == "random")
        names = {name: getattr(start.card, name) for name in ("study", "variant", "fold", "step")}
        return {"file": start.path.name, "sha256": start.sha256, **names, "notes": notes}

    def _keep_state(self) -> bool:
        """Save the state of the end of the training, if the study keeps it; returns whether it is there."""
        if not (self.config.keep_state and self.config.steps):
            return False
        if not self._ended:
            self._ended = True
            try:
                self._save()
            except StateNotSaved as error:
                # The model is what counts.
                print(f"no state of the finished training is kept: {error}", file=sys.stderr)
                return False
        return True

    def _choose_precision(self) -> None:
        self.precision = pick_precision(self.config.precision, self.device)
        if self.processes.first:
            print(f"precision: {str(self.precision).removeprefix('torch.')}", file=sys.stderr)

    def _close_row(self, since: int, started: float) -> dict:
        """Append a history row for the steps since the previous row (at step `since` and time `started`)."""
        # Waits for the device, so that its work is included in the time.
        self.history.check(self.step, self.state_path)
        busy = time.perf_counter() - started - self._paused
        images_per_s = (self.step - since) * self.config.batch_size / busy if self.step > since else math.nan
        rate, memory = learning_rate(self.config, self.step - 1), peak_memory_mb(self.device)
        row = self.history.close_row(self.step, self.state_path, rate, images_per_s, memory)
        self.outputs.numbers(row, "train")
        return row

    @contextmanager
    def _not_counted(self) -> Iterator[None]:
        """Exclude the enclosed work from the training time."""
        # Work that the steps have queued on the device still counts.
        synchronise(self.device)
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def _validates(self) -> bool:
        """Whether validation is due after this step."""
        every = self.config.validation.every
        return bool(every) and (self.step % every == 0 or self.step == self.config.steps)

    def _previews(self) -> bool:
        """Whether a preview is due after this step; `Outputs.write` makes the last one."""
        every = self.config.preview_every
        return bool(every) and self.step % every == 0 and self.step < self.config.steps

    def _end_of_step(self, resumed: bool = False) -> bool:
        """Run the validation, preview and snapshot that are due after this step; return whether training should end.

        resumed: do not repeat what was done before the interruption.
        """
        due, reason = self._validates(), None
        if due and self.history.steps:
            self.history.check(self.step, self.state_path)
        if due and self.validation and not self.validation.seen(self.step):
            averages = {ema.decay: ema.weights() for ema in self.emas}
            for row in self.validation.round(self.step, self.network, averages, self.precision):
                self.outputs.numbers(row, f"validation/ema_{row['ema_decay']:g}")
            reason = reason_to_stop(self.validation.rows, self.config.validation)
            if reason and self.step < self.config.steps:
                print(f"stopped early after step {self.step}: {reason}", file=sys.stderr)
        if self._previews() and self.processes.first:
            name, weights = f"step-{self.step:07d}", self.emas[0].weights()
            self.outputs.preview(self.step, name, weights, self.precision, redraw=not resumed)
        if self.step in self.config.snapshots and self.processes.first:
            # A finished training has all its snapshots.
            complete = resumed and (self._ended or self.step in self.extended_at)
            if not complete:
                self.outputs.snapshot(self.step, self.network, self.emas[0], self.precision, self.extended_at)
        return due and bool(self.processes.largest(int(bool(reason))))

    def advance(self) -> None:
        """One optimiser step: batch and noise, prediction, loss, gradients, clipping, update, EMA.

        Raises TrainingFailed if the batch does not fit into the device's memory.
        """
        config, processes = self.config, self.processes
        try:
            self.optimiser.zero_grad(set_to_none=True)
            batch, noise = self.prepare(self.step, self.objective, self.network)
            sums: list[Tensor] = []
            for part in range(config.accumulate):
                # Every n-th sample, so that the self-conditioned samples, which come first, are spread over the parts.
                rows = slice(part, None, config.accumulate)
                if self.threads.count > 1:
                    found = self.threads.add(batch[rows], noise[rows])
                else:
                    waits = processes.count > 1 and part < config.accumulate - 1
                    with self.shared_loss.no_sync() if waits else nullcontext():
                        total, terms, by_noise = self.shared_loss(batch[rows], noise[rows])
                        # DDP averages over processes; the shares need a sum.
                        (total * processes.count).backward()
                    found = [total.detach(), terms.detach(), by_noise]
                sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
            rate = learning_rate(config, self.step)
            norm = update_weights(self.optimiser, self.network, rate, self.threads.map)
            for ema in self.emas:
                ema.update(self.step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            where = (self.device, self.step, processes.count, self.state_path)
            raise out_of_memory(error, config, self.data_spec.size, *where) from error
        self.step += 1
        # The norm is equal in all processes; the other values are summed over processes.
        total, terms, by_noise = sums
        self.history.note(total, terms, norm / processes.count, by_noise)

    def _ask_to_stop(self, signum: int, frame) -> None:
        self._stop = self._stop or signum

    def _save(self) -> None:
        if self.history.steps:
            # Non-finite weights must not replace the last valid state.
            self.history.check(self.step, self.state_path)
        if not self.processes.first:
            return
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "ema": [ema.weights() for ema in self.emas],
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history.state(),
            "validation": self.validation.state() if self.validation else None,
            "precision": str(self.precision).removeprefix("torch."),
            "extended_at": self.extended_at,
            "ended": self._ended,
            "settings": json.dumps(recorded(self.config)),
        }
        save_state(self.state_path, state, self.identity)

    def _restore(self) -> bool:
        """Continue from the saved state; returns False if it is of a finished training that cannot be resumed."""
        state = load_state(self.state_path, self.identity, self.config)
        if state is None:
            return False
        self.network.load_state_dict(state["network"])
        for ema, weights in zip(self.emas, state["ema"], strict=True):
            ema.load(weights)
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.history.restore(state["history"])
        if self.validation and state["validation"]:
            self.validation.restore(state["validation"])
        self.precision = getattr(torch, state["precision"])
        self.extended_at, self._ended = state.get("extended_at", []), state.get("ended", False)
        if self.processes.first:
            what = "writing the model again" if self._ended else "resuming"
            print(f"{what} at step {self.step} of {self.config.steps} ({self.state_path})", file=sys.stderr)
        return True
