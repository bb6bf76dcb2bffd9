"""One process at a time: a lock file that names its holder and ends with it, also if its machine is lost."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HEARTBEAT_S = 15.0
"""Between two heartbeats of a holder; a heartbeat sets the time of the lock file."""
SILENT_S = 120.0
"""Time without a heartbeat after which a holder on another machine is considered dead."""
POLL_S = 0.5
"""Between two looks of a process that waits."""


@contextmanager
def alone(path: Path, task: str, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; wait while another process holds it, and say so once.

    The operating system ends a lock with its process: a holder that was killed on this machine does not block. For one
    on another machine the heartbeat decides, because not all file systems share locks between machines: the next
    process waits until there was none for SILENT_S, by its own clock.

    Args:
        path: the lock file; it is removed at the end.
        task: what the holder does, for the message.
        waiting: called after each look at a lock that another process holds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path, task, waiting)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(handle, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(OSError):
            # Before the lock ends: a process that waits sees that its file is no longer the one of this name. Another
            # machine may have taken over a holder that stood still; the file is then its own.
            if _is_file(path, handle) and _is_own(handle):
                path.unlink()
        os.close(handle)


def _acquire(path: Path, task: str, waiting: Callable[[], object] | None) -> int:
    """The open lock file, once this process holds it."""
    said, seen, since = False, None, time.monotonic()
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            locked = _lock(handle)
            if not _is_file(path, handle):
                os.close(handle)
                continue
            holder, beat = _holder(handle), os.fstat(handle).st_mtime_ns
            if (holder, beat) != seen:
                seen, since = (holder, beat), time.monotonic()
            if locked is not False and (_is_dead(holder, locked) or time.monotonic() - since >= SILENT_S):
                _sign(handle, task)
                if (locked and not holder) or _stays_own(path, handle):
                    return handle
                holder = _holder(handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not said:
            said = True
            print(f"{_shown(holder, path)}; waiting for its end", file=sys.stderr, flush=True)
        time.sleep(POLL_S)
        if waiting:
            waiting()


def _lock(handle: int) -> bool | None:
    """Whether this process now has the system's lock of the file; None where there are no such locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _is_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _holder(handle: int) -> dict:
    """What the file says about its holder; empty if no process has signed it."""
    text = os.pread(handle, 4096, 0) if hasattr(os, "pread") else os.read(handle, 4096)
    if not text:
        return {}
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {"host": "unknown"}


def _is_own(handle: int) -> bool:
    holder = _holder(handle)
    return (holder.get("host"), holder.get("pid")) == (socket.gethostname(), os.getpid())


def _stays_own(path: Path, handle: int) -> bool:
    """Whether the file still says this process after a pause: two that saw the same dead holder may both sign."""
    time.sleep(POLL_S)
    return _is_file(path, handle) and _is_own(handle)


def _is_dead(holder: dict, locked: bool | None) -> bool:
    if not holder:
        return True
    if holder.get("host") != socket.gethostname():
        return False
    if locked:
        return True
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError):
        return True
    except OSError:
        pass
    return False


def _sign(handle: int, task: str) -> None:
    holder = {"task": task, "host": socket.gethostname(), "pid": os.getpid()}
    if job := os.environ.get("SLURM_JOB_ID"):
        holder["slurm_job"] = job
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(holder).encode())


def _beat(handle: int, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        with suppress(OSError):
            os.utime(handle)


def _shown(holder: dict, path: Path) -> str:
    job = f", Slurm job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return (
        f"{path.parent}: {holder.get('task', 'another process')} by process {holder.get('pid', 'unknown')} on "
        f"{holder.get('host', 'this machine')}{job} ({path.name})"
    )
