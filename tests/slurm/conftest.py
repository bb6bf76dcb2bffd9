"""One Slurm for the tests of a module, and a Snakemake that uses it."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.slurm_cluster import Cluster, obstacle
from helpers.slurm_runs import HOLD, ON_CPUS, Engine, checkout
from helpers.workflow_runs import snakemake, write_study

from slimdiff import weights


@pytest.fixture(scope="module")
def cluster(request):
    """A Slurm, with accounting where the module sets ACCOUNTING = True, and with its CORES."""
    accounting = getattr(request.module, "ACCOUNTING", False)
    if why := obstacle(accounting):
        pytest.skip(why)
    pytest.importorskip("snakemake_executor_plugin_slurm")
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    own = Cluster(place / "slurm-tests", accounting, getattr(request.module, "CORES", 2))
    try:
        own.start()
        yield own
    finally:
        own.stop()
        shutil.rmtree(place)


@pytest.fixture
def engine():
    """Starts a Snakemake, and kills it at the end of the test."""
    running: list[Engine] = []

    def start(folder: Path, *arguments: str, **environment: str) -> Engine:
        running.append(Engine(folder, *arguments, **environment))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


@pytest.fixture(scope="session")
def sliced(tmp_path_factory) -> Callable[..., Path]:
    """Makes a folder with a study whose slices are there, so that training is next."""
    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"extractor weights: {error}")
    source = checkout(tmp_path_factory.mktemp("sliced"))
    study = write_study(source, **ON_CPUS)
    done = snakemake(
        *("--cores", "2", "--configfile", str(study), "--until", "priors", "quality", "weights"),
        folder=source,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def copy(folder: Path, **changes) -> Path:
        shutil.copytree(source, folder, symlinks=True, dirs_exist_ok=True)
        write_study(folder, **changes)
        return folder

    return copy


@pytest.fixture
def held(sliced, tmp_path) -> Callable[..., Path]:
    """Makes a folder as `sliced`, whose trainings can be held; they have six steps."""

    def make(**changes) -> Path:
        training = {"steps": 6, "batch_size": 2, "save_every": 3, "precision": "float32", "device": "cpu"}
        folder = sliced(tmp_path / "study", **ON_CPUS | {"training": training} | changes)
        (folder / "sitecustomize.py").write_text(HOLD)
        return folder

    return make
