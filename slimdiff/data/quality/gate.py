"""The stage `participants`: discover participants, run quality control on every file, apply the policy."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Participant
from slimdiff.data.quality.exclusion import (
    ON_A_GRID,
    Verdict,
    enforce,
    judge,
    leave_out,
    reason_of,
    refuse_unknown_names,
)
from slimdiff.data.quality.field_of_view import Slicing
from slimdiff.data.quality.measure import (
    Measured,
    measure_and_remember,
    planes_path,
    record_path,
    remembered,
)
from slimdiff.data.sources import discover
from slimdiff.files import remove_partials, write_table, written
from slimdiff.locks import alone
from slimdiff.orphans import end_with_parent

REFUSED = "refused.tsv"


def run_quality_control(
    data: DataConfig,
    quality: QualityConfig,
    phantom_root: Path,
    folder: Path,
    workers: int = 1,
    slicing: Slicing = ON_A_GRID,
) -> tuple[list[Participant], list[Verdict]]:
    """Discover, measure and judge the participants.

    folder: cache of the measurements and planes. workers: number of parallel processes. slicing: what
    becomes of the slices.
    Returns the rows of participants.tsv and those of quality.tsv, in the source's order.
    Raises DataError that lists all flagged participants if the policy requires it; `refused.tsv` then has the table.
    """
    rows = discover(data, phantom_root)
    refuse_unknown_names(rows, quality)
    measured = measure_all([row for row in rows if row.included and not row.flags], data, folder, workers)
    if quality.policy == "exclude":
        rows = leave_out(rows)
    judged = judge(rows, measured, quality, data, slicing)
    refused = folder / REFUSED
    try:
        enforce(judged, quality, refused)
    except DataError:
        write_quality(refused, judged)
        raise
    refused.unlink(missing_ok=True)
    return [verdict.participant for verdict in judged], judged


def measure_all(
    participants: Sequence[Participant], data: DataConfig, folder: Path, workers: int = 1
) -> dict[str, Measured]:
    """Measurement of every participant by participant_id, from the cache where possible.

    Raises DataError if a process is killed, usually for lack of memory; finished measurements are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_name(f".{folder.name}.lock"), "quality control"):
        measured = {row.participant_id: remembered(row, data, folder) for row in participants}
        wanted = [row for row in participants if measured[row.participant_id] is None]
        _remove_partials(wanted, folder)
        with tqdm(total=len(wanted), desc="quality", unit="subject", disable=not wanted) as bar:
            for name, facts in _measurements(wanted, data, folder, min(workers, len(wanted))):
                measured[name] = facts
                bar.update()
    return measured


def _remove_partials(participants: Sequence[Participant], folder: Path) -> None:
    """Remove what killed processes left half-written of these measurements."""
    records = [record_path(row, folder) for row in participants]
    remove_partials(*records, *(planes_path(row.participant_id, folder) for row in participants))


def _begin_worker(parent: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def _measurements(
    wanted: Sequence[Participant], data: DataConfig, folder: Path, workers: int
) -> Iterator[tuple[str, Measured]]:
    if workers <= 1:
        for row in wanted:
            yield row.participant_id, measure_and_remember(row, data, folder)
        return
    # spawn, because a fork of a process with threads (torch, BLAS) can hang.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(os.getpid(),)) as pool:
        jobs = {pool.submit(measure_and_remember, row, data, folder): row.participant_id for row in wanted}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool:
            # The other workers were ended, perhaps while they wrote.
            pool.shutdown()
            _remove_partials(wanted, folder)
            raise DataError(
                f"quality control: a worker process was killed, possibly for lack of memory; use fewer than {workers} "
                f"workers. Finished measurements are kept in {folder}"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.kill()
            pool.shutdown()
            _remove_partials(wanted, folder)
            raise


MEASURED = (
    "shape",
    "spacing_mm",
    "orientation",
    "forms_apart_mm",
    "outside_voxels",
    "background_within",
    "dtype",
    "minimum",
    "maximum",
    "lesion_voxels",
    "lesion_ml",
    "lesion_share",
    "lesion_outside_share",
    "outside_of",
    "lesion_contrast",
    "flip",
    "flip_contrast",
    "wrapped_voxels",
    "clipped_share",
    "mask_moved",
    "head_mm",
    "snr",
    "efc",
    "fber",
    "slice_jump",
    "ghost",
    "image_sha256",
    "mask_sha256",
    "voxel_sha256",
)
COLUMNS = ("participant_id", "group", "verdict", "flags", "reasons", *MEASURED)


def write_quality(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write one row per participant, in the given order."""
    write_table(path, (_row(verdict) for verdict in verdicts), COLUMNS)


def _row(verdict: Verdict) -> dict[str, Any]:
    participant, flags = verdict.participant, (*verdict.stopping, *verdict.shown)
    reasons = reason_of(flags)
    if not participant.included and not verdict.stopping:
        reasons = "; ".join(filter(None, [participant.excluded, reasons]))
    return {
        "participant_id": participant.participant_id,
        "group": participant.group,
        "verdict": verdict.word,
        "flags": ", ".join(flag.name for flag in flags),
        "reasons": reasons,
        **{key: _cell(getattr(verdict.measured, key, None)) for key in MEASURED},
    }


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return " x ".join(str(written(part)) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value
