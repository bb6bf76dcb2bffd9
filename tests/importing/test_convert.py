"""Imported checkpoints of the reference: the same outputs, and no code in them is executed.

The embedding and the prior encoder come from the wheel of the reference, the U-Net from MONAI.
"""

import importlib.util
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from helpers.published_checkpoints import (
    N_BINS,
    SIZE,
    Z_RANGE,
    OmegaConf,
    Reference,
    configuration,
    lightning,
    reference_without_wheel,
)

from slimdiff.cli import import_
from slimdiff.files import sha256
from slimdiff.model.checkpoint import load_model
from slimdiff.model.conditioning import Condition

KINDS = {
    "plain": {},
    "no self-conditioning": {"self_conditioning": False},
    "null token": {"null_token": True},
    "concat prior": {"prior": "concat"},
    "cross-attention prior": {"prior": "cross_attention"},
}


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The embedding and the prior encoder of the reference, as modules."""
    folder = tmp_path_factory.mktemp("slim_diff")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "slim-diff==1.0.0", "-d", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"slim-diff 1.0.0 cannot be fetched: {done.stderr.strip()[-200:]}")
    archive = next(folder.glob("*.whl"))
    # The code of the wheel is executed in this test.
    assert sha256(archive) == "de6dfe1ab3d6056ca0d35daa82d787a8612e1b7344470f33728cf61bbc5704ad"
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder)
    modules = {}
    for name, path in (("zpos", "embeddings/zpos.py"), ("encoder", "components/anatomical_encoder.py")):
        spec = importlib.util.spec_from_file_location(
            f"reference_{name}", folder / "src" / "diffusion" / "model" / path
        )
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    return modules


@pytest.mark.network
@pytest.mark.parametrize("averaged", ["ema_state_dict", "callback"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_network_has_the_outputs_of_the_reference(reference, tmp_path, kind, averaged):
    options = KINDS[kind]
    network = Reference(reference, **options).eval()
    checkpoint = lightning(tmp_path / "x0.ckpt", network, configuration(**options), averaged)
    arguments = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "model.safetensors")]
    maps = np.random.default_rng(0).random((N_BINS, SIZE, SIZE)) > 0.5
    if "prior" in options:
        # Our slices are upright, those of the reference rotated clockwise by 90 degrees.
        np.savez(tmp_path / "priors.npz", priors=np.rot90(maps, 1, axes=(1, 2)))
        arguments += ["--priors", str(tmp_path / "priors.npz")]
    assert import_(arguments) == 0
    ours, card = load_model(tmp_path / "model.safetensors", torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    x, previous = (torch.randn((4, 2, SIZE, SIZE), generator=generator) for _ in range(2))
    time, z_bin, label = (
        torch.tensor([0, 300, 700, 999]),
        torch.tensor([0, 3, 5, 6]),
        torch.tensor([0, 1, 1, 0]),
    )
    null = torch.tensor([False, True, False, True]) if options.get("null_token") else None
    tokens = z_bin + N_BINS * label
    if null is not None:
        tokens = torch.where(null, 2 * N_BINS, tokens)
    prior = torch.from_numpy(maps).float()[z_bin, None] * 2 - 1
    fed = previous if options.get("self_conditioning", True) else None
    with torch.no_grad():
        expected = network(x, time, tokens, fed, prior)
        found = ours(x, time.float(), Condition(z_bin, label, null=null), fed)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (card.step, card.n_bins, card.z_range) == (1234, N_BINS, Z_RANGE)
    loss = card.diffusion["loss"]
    assert (loss["p_image"], loss["min_snr_gamma"], loss["wavelet_weights"]) == (1.5, None, [])
    assert card.training["optimiser"] == "adamw"


def refused(capsys, checkpoint, *arguments) -> str:
    """The error message of a refused import, which must write nothing."""
    out = checkpoint.parent / "written" / "model.safetensors"
    assert import_(["--ckpt", str(checkpoint), "--out", str(out), *arguments]) == 2
    assert not out.parent.exists()
    return capsys.readouterr().err


@pytest.fixture
def network():
    return reference_without_wheel()


def test_averaged_weights_are_imported_and_required_without_raw(network, tmp_path, capsys):
    checkpoint = lightning(tmp_path / "a.ckpt", network, configuration(), averaged="")
    assert "no averaged" in refused(capsys, checkpoint)
    outputs = []
    for name, path, more in (
        ("raw", checkpoint, ["--raw"]),
        ("averaged", lightning(tmp_path / "b.ckpt", network, configuration()), []),
        ("last", tmp_path / "b.ckpt", ["--raw"]),
    ):
        out = tmp_path / f"{name}.safetensors"
        assert import_(["--ckpt", str(path), "--out", str(out), *more]) == 0
        outputs.append(load_model(out, torch.device("cpu"))[0].trunk.encoder.stem.bias)
        assert "imported" in (tmp_path / f"{name}.MODEL_CARD.md").read_text().splitlines()[0]
    raw, averaged, last = outputs
    torch.testing.assert_close(raw, averaged + 1)
    # --raw means the last weights, also where there are averaged ones.
    torch.testing.assert_close(last, raw)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_nothing_in_a_checkpoint_is_executed(network, tmp_path, capsys):
    trap = tmp_path / "trap"
    checkpoint = lightning(tmp_path / "evil.ckpt", network, configuration(), callbacks={"x": Evil(trap)})
    message = refused(capsys, checkpoint)
    assert "evil.ckpt" in message and "mkdir" in message
    assert not trap.exists()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("scheduler", "schedule", "linear_beta"),
        ("scheduler", "prediction_type", "score"),
        ("conditioning", "use_sinusoidal", False),
        ("model", "type", "IndependentTwin"),
        ("model", "resblock_updown", True),
    ],
)
def test_unsupported_settings_are_refused_by_their_key(network, tmp_path, capsys, section, key, value):
    config = configuration()
    config[section][key] = value
    message = refused(capsys, lightning(tmp_path / "a.ckpt", network, config))
    assert f"{section}.{key}" in message and str(value) in message


def test_weights_that_do_not_match_the_configuration_are_refused(network, tmp_path, capsys):
    config = configuration()
    config["model"]["channels"] = [16, 48]
    assert "weights do not match" in refused(capsys, lightning(tmp_path / "a.ckpt", network, config))


def test_a_missing_configuration_can_be_passed(network, tmp_path, capsys):
    checkpoint = lightning(tmp_path / "a.ckpt", network, configuration(), hyper_parameters=None)
    assert "--config" in refused(capsys, checkpoint)
    config = tmp_path / "reference.yaml"
    config.write_text(OmegaConf.to_yaml(OmegaConf.create(configuration(prediction="v_prediction"))))
    out = tmp_path / "model.safetensors"
    assert import_(["--ckpt", str(checkpoint), "--out", str(out), "--config", str(config)]) == 0
    assert load_model(out, torch.device("cpu"))[1].diffusion["prediction"] == "v"


def test_f9_a_network_with_priors_is_not_imported_without_them(network, tmp_path, capsys):
    checkpoint = lightning(tmp_path / "a.ckpt", network, configuration(prior="concat"))
    assert "prior" in refused(capsys, checkpoint)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + b"\0" * 50])
def test_other_files_are_refused_by_name(tmp_path, capsys, content):
    path = tmp_path / "odd.ckpt"
    path.write_bytes(content)
    assert "odd.ckpt" in refused(capsys, path)


def test_a_missing_file_is_refused_by_name(tmp_path, capsys):
    assert "gone.ckpt" in refused(capsys, tmp_path / "gone.ckpt")
