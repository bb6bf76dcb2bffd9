"""Several processes that train one network together, each on its part of every batch (torch's DDP under torchrun)."""

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

# While the first process watches, draws or writes, the others wait for it.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work; alone unless `join` was called under torchrun."""

    rank: int = 0
    count: int = 1
    hosts: dist.ProcessGroup | None = None
    """A group of the hosts, whose messages do not make them wait for their devices."""

    @classmethod
    def join(cls, backend: str) -> "Processes":
        """The group that torchrun started this process in; alone where it did not."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        dist.init_process_group(backend, timeout=PATIENCE)
        hosts = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), hosts)

    @property
    def first(self) -> bool:
        """Whether this process writes, draws and speaks for all."""
        return self.rank == 0

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers, the same for all of them; every process has to ask."""
        if self.count == 1:
            return number
        message = torch.tensor([number])
        dist.all_reduce(message, dist.ReduceOp.MAX, group=self.hosts)
        return int(message)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, on the host."""
        values = values.cpu()
        if self.count > 1:
            dist.all_reduce(values, group=self.hosts)
        return values

    def share(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes; as it is for a process alone."""
        if self.count == 1:
            return module
        # Nothing but the gradients: the buffers are constants.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def leave(self) -> None:
        """End the group."""
        if self.count > 1:
            dist.destroy_process_group()


def launch(processes: int, arguments: list[str]) -> int:
    """Run `python -m slimdiff ARGUMENTS` as so many processes of one machine under torchrun; returns its exit status.

    A signal that asks to stop is handed on, and the status is then 128 + its number.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "slimdiff", *arguments]
    threads = max(1, torch.get_num_threads() // processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # A step may have to end and a state to be written before torchrun kills what it has asked to stop.
    environment.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    child = subprocess.Popen(command, env=environment)
    stopped_by: list[int] = []

    def hand_on(signum: int, frame) -> None:
        stopped_by.append(signum)
        # torchrun hands this one on to every process, and no other that all of its versions know.
        child.send_signal(signal.SIGTERM)

    handlers = {number: signal.signal(number, hand_on) for number in STOP_SIGNALS}
    try:
        status = child.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 128 + stopped_by[0] if stopped_by and status else status


STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
"""A cluster sends one of these before it ends a job."""
