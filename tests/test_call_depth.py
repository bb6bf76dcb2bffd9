"""How many functions lie between a command and the formula that it computes."""

import json
import sys
from pathlib import Path

import pytest
from helpers.call_stack import frames_of_package

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "slimdiff"


def test_the_loss_is_seven_frames_from_the_command(prepared, tmp_path, monkeypatch):
    from slimdiff import cli
    from slimdiff.diffusion import losses

    found, formula = [], losses.lp_per_channel

    def recorded(*arguments, **options):
        found.append(frames_of_package())
        return formula(*arguments, **options)

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("slimdiff.") and getattr(
            module, "lp_per_channel", None
        ):
            monkeypatch.setattr(module, "lp_per_channel", recorded)
    import slimdiff.training.objective as objective

    monkeypatch.setattr(objective, "lp_per_channel", recorded, raising=False)
    root = tmp_path / prepared.study
    root.mkdir()
    for name in ("slices", "folds.tsv"):
        (root / name).symlink_to(prepared.paths.root / name)
    values = prepared.model_dump(mode="json") | {"results_dir": str(tmp_path)}
    values["training"] |= {"steps": 1, "device": "cpu"}
    values["training"]["validation"] |= {"every": 0}
    assert cli.run_stage("train", ["--config", json.dumps(values), "--fold", "0"]) == 0
    # And the formula itself.
    assert found
    assert {len(frames) + 1 for frames in found} <= set(range(8)), found[0]


def test_kid_s_kernel_is_eight_frames_from_the_command(prepared, tmp_path, monkeypatch, capsys):
    from slimdiff import cli, weights
    from slimdiff.evaluation.metrics import mmd

    try:
        weights.path("alexnet")
    except weights.WeightsUnavailable as error:
        pytest.skip(f"the pretrained weights of AlexNet are not available: {error}")
    found, formula = [], mmd.polynomial_kernel

    def recorded(*arguments, **options):
        found.append(frames_of_package())
        return formula(*arguments, **options)

    monkeypatch.setattr(mmd, "polynomial_kernel", recorded)
    root = tmp_path / prepared.study
    root.mkdir()
    for name in ("slices", "folds.tsv"):
        (root / name).symlink_to(prepared.paths.root / name)
    values = prepared.model_dump(mode="json") | {"results_dir": str(tmp_path)}
    values["evaluation"] |= {"bootstrap": 10}
    options = ["--config", json.dumps(values), "--fold", "0", "baseline"]
    assert cli.run_stage("metrics", options) == 0, capsys.readouterr().err
    of_kid = [frames for frames in found if "kid" in frames]
    assert of_kid
    assert {len(frames) + 1 for frames in of_kid} <= set(range(9)), of_kid[0]
