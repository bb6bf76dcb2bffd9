"""Every coupling and every prediction type learns, on small phantom slices."""

import numpy as np
import pytest

from slimdiff.config import study_from_mapping
from slimdiff.data.phantom.cohort import write_cohort
from slimdiff.data.slices import build_store
from slimdiff.data.sources import discover
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.preprocess import preprocess
from slimdiff.files import read_table
from slimdiff.training.trainer import Trainer

TRUNK = {
    "channels": (16, 32),
    "res_blocks": 1,
    "attention": (False, True),
    "head_channels": 16,
    "norm_groups": 8,
    "self_conditioning": True,
}


@pytest.fixture(scope="module")
def phantom_store(tmp_path_factory):
    study = study_from_mapping(
        {
            "results_dir": str(tmp_path_factory.mktemp("phantom")),
            "data": {"phantom": {"patients": 4, "controls": 1}},
            "preprocess": {"spacing_mm": 6.25, "grid": [32, 32, 32]},
            "slices": {"z_range": [10, 24], "n_bins": 3, "min_lesion_mm2": 0},
        }
    )
    paths = study.paths
    settings = study.data.phantom
    write_cohort(paths.phantom, settings.patients, settings.controls, settings.seed, voxel_mm=4.0)
    rows = discover(study.data, paths.phantom)
    for row in rows:
        name = row.participant_id
        volumes = (paths.volume(name, "image"), paths.volume(name, "mask"), paths.volume_json(name))
        preprocess(row, study.data, study.preprocess, *volumes)
    build_store(rows, paths.volume, study.slices, paths.store)
    return SliceStore.open(paths.store)


@pytest.mark.parametrize(
    ("coupling", "prediction"),
    [
        *(("shared", prediction) for prediction in ("x0", "epsilon", "v")),
        *((coupling, "x0") for coupling in ("decoupled", "independent", "bottleneck")),
    ],
)
def test_the_loss_after_120_steps_is_below_half_of_the_first_20(
    phantom_store, tmp_path, coupling, prediction
):
    study = study_from_mapping(
        {
            "model": {"coupling": coupling, **TRUNK},
            "diffusion": {"prediction": prediction},
            "training": {
                "steps": 120,
                "batch_size": 4,
                "learning_rate": 2e-3,
                "self_conditioning": 0.5,
                "log_every": 20,
                "preview_every": 0,
                "device": "cpu",
                "precision": "float32",
            },
        },
        complete=False,
    )
    participants = sorted(set(phantom_store.participant))
    identity = {"study": "phantom", "variant": coupling, "fold": 0}
    sections = (study.model, study.diffusion, study.training)
    Trainer(*sections, phantom_store, participants, tmp_path, identity).run()
    rows = read_table(tmp_path / "history.tsv")
    for term in ("loss", "loss_image", "loss_mask"):
        losses = [float(row[term]) for row in rows]
        assert np.isfinite(losses).all(), term
        assert losses[-1] < 0.5 * losses[0], term
