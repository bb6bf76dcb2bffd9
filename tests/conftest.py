"""Small data for every test: a BIDS dataset, a slice store, a study, and a trained checkpoint of it."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test depends on how fast the machine is.
settings.register_profile("any_speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_speed")

# A shell starts background jobs with Ctrl-C ignored, nohup its command with SIGHUP ignored, and children inherit it.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

REPOSITORY = Path(__file__).resolve().parents[1]
# For tests/helpers: in importlib mode pytest adds no folder to the path.
sys.path.insert(0, str(Path(__file__).parent))

from helpers.synthetic import study_mapping, write_bids  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; it is not part of the repository."""
    folder = Path(os.environ.get("SLIMDIFF_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; SLIMDIFF_TEST_DATA can name its folder")
    return folder


@pytest.fixture(scope="session")
def bids_root(tmp_path_factory) -> Path:
    return write_bids(tmp_path_factory.mktemp("bids"))


@pytest.fixture
def study_values(bids_root, tmp_path) -> dict:
    """A study of the tiny dataset as a mapping; its results are in the folder of the test."""
    return study_mapping(bids_root, tmp_path / "results")


@pytest.fixture
def study_file(study_values, tmp_path) -> Path:
    """The tiny study as a file (JSON is YAML)."""
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(study_values))
    return path


@pytest.fixture(scope="session")
def prepared(bids_root, tmp_path_factory):
    """The tiny study after preprocess, kfold and cache. Read only."""
    from slimdiff import cli
    from slimdiff.config import study_from_mapping
    from slimdiff.data.participants import write_participants
    from slimdiff.data.sources import discover

    study = study_from_mapping(study_mapping(bids_root, tmp_path_factory.mktemp("prepared")))
    write_participants(study.paths.participants, discover(study.data, study.paths.phantom))
    for stage in ("preprocess", "kfold", "cache"):
        assert cli.run_stage(stage, ["--config", study.model_dump_json()]) == 0, stage
    return study


@pytest.fixture(scope="session")
def store(prepared):
    from slimdiff.data.store import SliceStore

    return SliceStore.open(prepared.paths.store)


@pytest.fixture(scope="session")
def trained(prepared, store, tmp_path_factory) -> Path:
    """model.safetensors of a few steps: enough for a non-zero output head, which starts at zero."""
    from slimdiff.data.folds import read_folds
    from slimdiff.training.trainer import Trainer

    folder = tmp_path_factory.mktemp("trained")
    training = prepared.training.model_copy(update={"steps": 20, "learning_rate": 5e-3})
    participants = read_folds(prepared.paths.folds, 0)["train"]
    identity = {"study": "tiny", "variant": "base", "fold": 0}
    Trainer(prepared.model, prepared.diffusion, training, store, participants, folder, identity).run()
    return folder / "model.safetensors"


def pytest_collection_modifyitems(items):
    """The long files first, so that no worker is left alone with them at the end."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)
