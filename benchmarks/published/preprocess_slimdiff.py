"""The slimdiff side of preprocess.py: the functions of the commands in a warm process. Started by `turns.Side`."""

import os

# Both sides use the same number of threads; SimpleITK ignores OMP_NUM_THREADS.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = os.environ["OMP_NUM_THREADS"]

import resource
import shutil
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from turns import Wire, options, peak_memory_mb

from slimdiff import cli
from slimdiff.config import Study, load_study
from slimdiff.data.participants import read_participants, write_participants
from slimdiff.data.phantom.cohort import write_cohort
from slimdiff.data.slices import build_store
from slimdiff.data.sources import discover
from slimdiff.data.store import SliceStore


def command(name: str, *arguments: str) -> None:
    """Run a command in this process."""
    if getattr(cli, name)(list(arguments)):
        raise RuntimeError(f"slimdiff-{name} failed; see its message above")


def cohort(folder: str, count: int) -> dict:
    """Create a phantom cohort of 1 mm voxels with five patients per three controls."""
    patients = max(1, round(count * 5 / 8))
    write_cohort(Path(folder), patients, count - patients, seed=0, voxel_mm=1.0)
    return {}


def found(study: Study) -> dict:
    """Included participants, patients first."""
    rows = sorted(discover(study.data, study.paths.phantom), key=lambda row: not row.is_patient)
    return {
        "participants": [
            {"name": row.participant_id, "image": str(row.image), "mask": row.mask and str(row.mask)}
            for row in rows
            if row.included
        ]
    }


def plain_table(study: Study) -> dict:
    """Write participants.tsv without reading the volumes."""
    write_participants(study.paths.participants, discover(study.data, study.paths.phantom))
    return {}


def store_facts(study: Study) -> dict:
    """Number of slices in the store."""
    store = SliceStore.open(study.paths.store)
    return {"slices": len(store), "lesion_slices": int(store.label.sum())}


def epoch(study: Study, batch: int, where: str) -> dict:
    """One epoch in random order as in training: from memory, or from files by a thread that reads ahead."""
    # Imported here, so that the memory of preprocessing does not include torch.
    from slimdiff.devices import pick_device
    from slimdiff.training.data import TrainingSet

    device = pick_device("cpu")
    store = SliceStore.open(study.paths.store)
    names = sorted(set(store.participant))
    started = time.perf_counter()
    slices = TrainingSet(store, names, device, where=where)
    loading = time.perf_counter() - started
    order = np.random.default_rng(0).permutation(len(slices))
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    seen, total = 0, 0.0
    started = time.perf_counter()
    for step in range(len(batches)):
        # Reading ahead requests steps after the last one.
        taken = slices.take(step, lambda one: batches[one % len(batches)])
        seen += len(taken.x0)
        total += float(taken.x0[0, 0, 80, 80] + taken.x0[0, 1, 80, 80])
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "loading_s": loading, "slices": seen, "looked_at": total}


def large_store(study: Study, count: int) -> dict:
    """Build the store of `count` participants, copies of the study's participants."""
    rows = [row for row in read_participants(study.paths.participants) if row.included]
    many = [replace(rows[index % len(rows)], participant_id=f"many-{index:04d}") for index in range(count)]
    real = {many[index].participant_id: rows[index % len(rows)].participant_id for index in range(count)}
    folder = study.paths.root / "many"
    before = peak_memory_mb(None, "cpu")
    started = time.perf_counter()
    build_store(many, lambda name, kind: study.paths.volume(real[name], kind), study.slices, folder)
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in folder.iterdir())
    shutil.rmtree(folder)
    return {"seconds": seconds, "before_mb": before, "store_mb": size / 1e6}


def answer(question: dict) -> dict:
    """Answer one question."""
    what = question["what"]
    if what == "cohort":
        return cohort(question["folder"], question["count"])
    study, text = load_study(question["study"]), question["study"]
    if what == "found":
        return found(study)
    if what == "table":
        return plain_table(study)
    if what == "quality":
        command("participants", "--config", text, f"--workers={question['workers']}")
        return {}
    if what == "volumes":
        for name in question["names"]:
            command("preprocess", "--config", text, f"--participant={name}")
        return {}
    if what == "store":
        command("cache", "--config", text)
        return {}
    if what == "facts":
        return store_facts(study)
    if what == "epoch":
        return epoch(study, question["batch"], question["where"])
    return large_store(study, question["count"])


def main() -> None:
    """Answer questions until there are no more."""
    warnings.filterwarnings("ignore")
    wire, _ = Wire(), options()
    try:
        for question in wire.questions():
            before = sum(os.times()[:4])
            found = answer(question)
            # Of this process and its finished children.
            cpu = sum(os.times()[:4]) - before
            wire.answer(memory_mb=max(peak_memory_mb(None, "cpu"), _helpers_mb()), cpu_s=cpu, **found)
    except Exception as error:
        traceback.print_exc()
        wire.answer(failed=f"slimdiff: {str(error).splitlines()[0] if str(error) else repr(error)}")


def _helpers_mb() -> float:
    """Peak memory of the largest child process."""
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
