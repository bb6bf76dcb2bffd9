"""Download a public dataset into its folder: complete, correct files are kept; all others are downloaded and checked.

`fetched.json` is written only if every file is right: dataset, version, doi, base_url, files, bytes, manifest_sha256.
"""

import json
import os
import shutil
import sys
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

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
)
from slimdiff.data.participants import DataError
from slimdiff.files import sha256, write_text

CONNECTIONS = 8
"""Files that are downloaded at the same time."""


def fetch(
    settings: FetchConfig,
    root: Path,
    record: Path,
    image_suffix: str | None = None,
    manifest: Manifest | None = None,
) -> None:
    """Download the dataset's files into `root` and write `record`.

    A file with the right size and sha256 is kept; a wrong one is replaced once the right one is complete.

    Args:
        settings: the dataset and its address.
        root: the dataset's folder.
        record: the file that is written if all files are right.
        image_suffix: the study's `data.image_suffix`; T1w images are downloaded only if it is T1w.
        manifest: the files; None: those of `settings.dataset`.

    Raises:
        DataError: it names every file that could not be downloaded, with the cause. All others are kept.
    """
    manifest = manifest or read_file_manifest(settings.dataset)
    base = checked_base(settings.base_url or manifest.base_url)
    files = manifest.files_for(image_suffix)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"data.root: cannot create the folder {root}: {error.strerror}") from None
    total = sum(file.size for file in files)
    # A log gets a line now and then.
    pause = 0.2 if sys.stderr.isatty() else 20
    with (
        _alone(root),
        tqdm(total=total, desc=manifest.dataset, unit="B", unit_scale=True, mininterval=pause) as bar,
    ):
        missing = _wrong_files(files, root, bar)
        bar.write(f"{root}: {len(files) - len(missing)} of {len(files)} files are correct", sys.stderr)
        if missing:
            size = _check_space(missing, root)
            bar.write(
                f"downloading {len(missing)} files ({size / 1e6:.1f} MB) from {_shown(base)}", sys.stderr
            )
            failed = _fetch_all(missing, root, base, bar)
            if failed:
                raise DataError(_failure(failed, len(files), root, base))
    facts = {
        "dataset": manifest.dataset,
        "version": manifest.version,
        "doi": manifest.doi,
        "base_url": _shown(base),
        "files": len(files),
        "bytes": total,
        "manifest_sha256": manifest.sha256,
    }
    write_text(record, json.dumps(facts, indent=1) + "\n")


def _wrong_files(files: Sequence[File], root: Path, bar: tqdm) -> list[File]:
    """Files that are missing or not right."""

    def right(file: File) -> bool:
        target = root / file.path
        _remove_partial(target)  # a killed run leaves it
        found = target.is_file() and target.stat().st_size == file.size and sha256(target) == file.sha256
        bar.update(file.size if found else 0)
        return found

    with ThreadPool(CONNECTIONS) as pool:
        return [file for file, found in zip(files, pool.imap(right, files), strict=True) if not found]


def _fetch_all(missing: Sequence[File], root: Path, base: str, bar: tqdm) -> dict[File, str]:
    """Download every file; returns those that failed, with their causes."""
    downloader = Downloader(bar.update)
    failed = dict.fromkeys(missing, "not tried, because the server did not answer")

    def get(file: File) -> None:
        try:
            downloader.download(address(base, file.path), file, root / file.path)
            del failed[file]
        except DownloadError as error:
            failed[file] = str(error)
            if not downloader.answered.is_set():
                # Hundreds of files would each wait for a server that does not answer.
                downloader.stop.set()
        except Stopped:
            pass

    try:
        # Its threads are daemons: one that waits for a silent server does not hold back the end of the process.
        with ThreadPool(CONNECTIONS) as pool:
            for _ in pool.imap_unordered(get, missing):
                bar.set_postfix_str(f"{len(failed)} files to come", refresh=False)
    finally:
        downloader.stop.set()
        for file in missing:
            _remove_partial(root / file.path)
    return failed


def _remove_partial(target: Path) -> None:
    with suppress(OSError):
        partial_of(target).unlink()


def _check_space(missing: Sequence[File], root: Path) -> int:
    """Bytes to download; a wrong file is removed only once the right one is complete."""
    needed, free = sum(file.size for file in missing), shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"{root}: expected {needed / 1e6:.1f} MB of free space, found {free / 1e6:.1f} MB; make room, or set "
            "data.root to a folder on another disk"
        )
    return needed


def _failure(failed: dict[File, str], total: int, root: Path, base: str) -> str:
    by_cause = defaultdict(list)
    for file, cause in failed.items():
        by_cause[cause].append(str(file.path))
    causes = "\n".join(f"  {cause}: {', '.join(sorted(paths))}" for cause, paths in sorted(by_cause.items()))
    return (
        f"{root}: {len(failed)} of {total} files could not be downloaded from {_shown(base)}\n{causes}\n"
        "Run again: correct files are kept. data.fetch.base_url can name another server that has the dataset's files"
    )


def _shown(base: str) -> str:
    # A query may hold a signature that gives access.
    return urllib.parse.urlunsplit((*urllib.parse.urlsplit(base)[:3], "", ""))


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Two studies may fetch into one folder: the second waits, so that a partial file has one writer."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        # Some file systems have no locks; there the user must not start two runs.
        with suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{root}: another run downloads into this folder; waiting for its end", file=sys.stderr)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
