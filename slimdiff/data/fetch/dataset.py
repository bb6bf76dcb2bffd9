"""A public dataset into its folder: what is there and right stays, everything else is fetched and checked.

Writes `fetched.json` when, and only when, every file is right: dataset, version, doi, base_url, files, bytes,
manifest_sha256.
"""

import json
import os
import shutil
import sys
import threading
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from tqdm import tqdm

from slimdiff.config.data import FetchConfig
from slimdiff.data.fetch.download import (
    Downloader,
    DownloadError,
    File,
    Manifest,
    Stopped,
    address,
    checked_base,
    partial_of,
    read_file_manifest,
    size_of,
)
from slimdiff.data.participants import DataError
from slimdiff.files import sha256, write_text


def fetch(settings: FetchConfig, root: Path, record: Path, manifest: Manifest | None = None) -> None:
    """Fetch the dataset's files into `root` and write `record`.

    A file with the right size and sha256 is kept; a wrong one is replaced once the right one is whole.
    manifest: the files; by default those of `settings.dataset`.
    Raises DataError naming every file that could not be had and why; all others are kept for the next run.
    """
    manifest = manifest or read_file_manifest(settings.dataset)
    base = checked_base(settings.base_url or manifest.base_url)
    files = manifest.wanted(settings.t1w)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"data.root: {root} cannot be made a folder: {error.strerror}") from None
    with _alone(root), _Progress(manifest.dataset, files) as progress:
        missing = _missing(files, root, settings.connections, progress)
        kept = len(files) - len(missing)
        progress.say(f"{root}: {kept} of {len(files)} files are there and right")
        if missing:
            _check_space(missing, root)
            progress.say(f"{len(missing)} files ({_amount(missing, root)} to come) from {_shown(base)}")
            try:
                failed = _fetch_all(missing, root, base, settings, progress)
            except KeyboardInterrupt:
                progress.say(f"{root}: stopped; run again, and what was cut off goes on")
                raise
            if failed:
                raise DataError(_failure(failed, len(files), root, base))
    facts = {
        "dataset": manifest.dataset,
        "version": manifest.version,
        "doi": manifest.doi,
        "base_url": _shown(base),
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "manifest_sha256": manifest.sha256,
    }
    write_text(record, json.dumps(facts, indent=1) + "\n")


def _missing(files: Sequence[File], root: Path, threads: int, progress: "_Progress") -> list[File]:
    """Files that are not there or not right."""
    right: set[File] = set()

    def check(file: File) -> None:
        target = root / file.path
        if size_of(target) == file.size and target.is_file() and sha256(target) == file.sha256:
            partial_of(target).unlink(missing_ok=True)
            right.add(file)
            progress.moved(file.size)
            progress.whole()

    _side_by_side(check, files, threads, threading.Event())
    return [file for file in files if file not in right]


def _fetch_all(
    missing: Sequence[File], root: Path, base: str, settings: FetchConfig, progress: "_Progress"
) -> dict[File, str]:
    """Fetch every file; the ones that could not be had, with their causes."""
    downloader = Downloader(settings, progress.moved)
    progress.moved(sum(size_of(partial_of(root / file.path)) for file in missing))
    failed: dict[File, str] = {}
    done: set[File] = set()

    def get(file: File) -> None:
        try:
            downloader.download(address(base, file.path), file, root / file.path)
            done.add(file)
            progress.whole()
        except DownloadError as error:
            failed[file] = str(error)
            if not downloader.answered.is_set():
                # Hundreds of files would each wait for a server that nobody can reach.
                downloader.stop.set()
        except Stopped:
            pass

    _side_by_side(get, missing, settings.connections, downloader.stop)
    untried = [file for file in missing if file not in done and file not in failed]
    return {**failed, **dict.fromkeys(untried, "not tried on, because the server could not be reached")}


def _side_by_side(
    work: Callable[[File], None], files: Iterable[File], threads: int, stop: threading.Event
) -> None:
    """Do `work` for every file; the first exception, or Ctrl-C, sets `stop` and is raised."""
    queue: SimpleQueue[File] = SimpleQueue()
    for file in files:
        queue.put(file)
    raised: list[BaseException] = []

    def run() -> None:
        while not stop.is_set():
            try:
                work(queue.get_nowait())
            except Empty:
                return
            except BaseException as error:
                raised.append(error)
                stop.set()

    # Daemons: one that waits for a silent server does not hold back the end of the process.
    workers = [threading.Thread(target=run, daemon=True) for _ in range(min(threads, queue.qsize()))]
    try:
        for worker in workers:
            worker.start()
        while not raised and any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(0.05)
    finally:
        stop.set()
    if raised:
        raise raised[0]


def _check_space(missing: Sequence[File], root: Path) -> None:
    needed, free = _to_come(missing, root), shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"{root}: {needed / 1e6:.1f} MB are still to come, but only {free / 1e6:.1f} MB are free; make room, or "
            "let data.root lie elsewhere"
        )


def _to_come(missing: Sequence[File], root: Path) -> int:
    """Bytes; a wrong file goes only when the right one is whole."""
    return sum(max(0, file.size - size_of(partial_of(root / file.path))) for file in missing)


def _amount(missing: Sequence[File], root: Path) -> str:
    return f"{_to_come(missing, root) / 1e6:.1f} MB"


def _failure(failed: dict[File, str], wanted: int, root: Path, base: str) -> str:
    by_cause = defaultdict(list)
    for file, cause in failed.items():
        by_cause[cause].append(str(file.path))
    causes = "\n".join(f"  {cause}: {', '.join(sorted(paths))}" for cause, paths in sorted(by_cause.items()))
    return (
        f"{root}: {len(failed)} of {wanted} files could not be fetched from {_shown(base)}\n{causes}\n"
        "Run again: files that are right are kept, and what was cut off goes on. data.fetch.base_url can name another "
        "place that has the dataset's files"
    )


def _shown(base: str) -> str:
    # A query may hold a signature that gives access.
    return urllib.parse.urlunsplit((*urllib.parse.urlsplit(base)[:3], "", ""))


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Two studies may fetch into one folder: the second waits, so that no partial file has two writers."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        # Some file systems have no locks; there two runs are the user's to avoid.
        with suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{root}: another fetch is at work there; waiting for its end", file=sys.stderr)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class _Progress:
    """One bar in bytes over all files, with the number of those that are whole."""

    def __init__(self, title: str, files: Sequence[File]) -> None:
        self._lock = threading.Lock()
        self._whole, self._files = 0, len(files)
        self._bar = tqdm(
            total=sum(file.size for file in files),
            desc=title,
            unit="B",
            unit_scale=True,
            # A log gets a line now and then.
            mininterval=0.2 if sys.stderr.isatty() else 20,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def moved(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def whole(self) -> None:
        with self._lock:
            self._whole += 1
            self._bar.set_postfix_str(f"{self._whole}/{self._files} files", refresh=False)

    def say(self, text: str) -> None:
        with self._lock:
            self._bar.write(text, file=sys.stderr)
