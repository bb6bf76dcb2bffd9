"""Training one network with several processes, each on its part of every batch (torch DDP under torchrun)."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slimdiff.devices import own_cards
from slimdiff.orphans import end_with_parent

# The other processes wait while the first one validates, generates or writes.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process and its group; a single process unless `join` was called under torchrun."""

    rank: int = 0
    count: int = 1
    hosts: dist.ProcessGroup | None = None
    """A CPU group; its messages do not wait for the devices."""

    @classmethod
    def join(cls, backend: str) -> "Processes":
        """The group in which torchrun started this process; a single process without torchrun."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        # Where torchrun is gone, the state is saved as at a stop signal.
        end_with_parent(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM))
        dist.init_process_group(backend, timeout=PATIENCE)
        hosts = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), hosts)

    @property
    def first(self) -> bool:
        """Whether this process writes, generates and prints for all."""
        return self.rank == 0

    def largest(self, number: int) -> int:
        """The maximum over processes; every process must call it."""
        if self.count == 1:
            return number
        message = torch.tensor([number])
        dist.all_reduce(message, dist.ReduceOp.MAX, group=self.hosts)
        return int(message)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, on the host."""
        values = values.cpu()
        if self.count > 1:
            dist.all_reduce(values, group=self.hosts)
        return values

    def share(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes; unchanged for a single process."""
        if self.count == 1:
            return module
        # Only gradients are shared: buffers are constants.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def leave(self) -> None:
        """Leave the group."""
        if self.count > 1:
            dist.destroy_process_group()


def launch(processes: int, arguments: list[str]) -> int:
    """Run `python -m slimdiff ARGUMENTS` in several processes of one machine under torchrun; returns the exit status.

    A stop signal is forwarded; the exit status is then 128 + its number.
    """
    command = [sys.executable, "-m", "slimdiff.training.distributed", str(os.getpid()), "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "slimdiff", *arguments]
    threads = max(1, torch.get_num_threads() // processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **own_cards(processes)}
    # A step must end and the state must be written before torchrun kills the processes.
    environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    child = subprocess.Popen(command, env=environment)
    stopped_by: list[int] = []

    def hand_on(signum: int, frame) -> None:
        stopped_by.append(signum)
        # The only signal that all versions of torchrun forward to every process.
        child.send_signal(signal.SIGTERM)

    handlers = {number: signal.signal(number, hand_on) for number in STOP_SIGNALS}
    try:
        status = child.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 128 + stopped_by[0] if stopped_by and status else status


STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
"""Signals that a cluster sends before it ends a job."""
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
    # A terminal that is closed; under nohup it is ignored.
    STOP_SIGNALS.append(signal.SIGHUP)


def _torchrun(parent: int, arguments: list[str]) -> int:
    """torchrun's command, which stops its processes when `parent` is gone, and ends without a traceback; the exit
    status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    end_with_parent(parent, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        main(arguments)
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as error:
        # An error is printed by its process.
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(
                f"slimdiff-train: error: process {rank} was killed by signal {-failure.exitcode}",
                file=sys.stderr,
            )
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(_torchrun(int(sys.argv[1]), sys.argv[2:]))
