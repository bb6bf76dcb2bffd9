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
from torch import nn

from slimdiff.cli import import_
from slimdiff.files import sha256
from slimdiff.model.checkpoint import load_model
from slimdiff.model.conditioning import Condition

if os.environ.get("SLIMDIFF_REQUIRE_MONAI"):
    from monai.networks.nets import DiffusionModelUNet
else:
    DiffusionModelUNet = pytest.importorskip("monai.networks.nets").DiffusionModelUNet
OmegaConf = pytest.importorskip("omegaconf").OmegaConf

N_BINS, SIZE, Z_RANGE = 7, 32, (34, 115)
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


def configuration(self_conditioning=True, null_token=False, prior="none", prediction="sample") -> dict:
    return {
        "data": {
            "transforms": {"target_spacing": [1.25, 1.25, 1.25], "roi_size": [SIZE, SIZE, 160]},
            "slice_sampling": {"z_range": list(Z_RANGE)},
            "root": "/somewhere",
            "cache": "${data.root}/cache",
        },
        "conditioning": {
            "z_bins": N_BINS,
            "use_sinusoidal": True,
            "max_z": 159,
            "cfg": {"enabled": null_token, "null_token": None},
        },
        "model": {
            "type": "DiffusionModelUNet",
            "channels": [16, 32],
            "attention_levels": [False, True],
            "num_res_blocks": 1,
            "num_head_channels": 16,
            "norm_num_groups": 8,
            "anatomical_conditioning": prior != "none",
            "anatomical_conditioning_method": "concat" if prior == "none" else prior,
            "cross_attention_dim": 256,
        },
        "scheduler": {"num_train_timesteps": 1000, "schedule": "cosine", "prediction_type": prediction},
        "training": {"self_conditioning": {"enabled": self_conditioning, "probability": 0.5}},
        "loss": {"mode": "mse_lp_norm", "lp_norm": {"p": 1.5}},
    }


class Reference(nn.Module):
    """The network of the reference, as called by its sampler."""

    def __init__(self, modules, self_conditioning=True, null_token=False, prior="none"):
        super().__init__()
        torch.manual_seed(0)
        self.prior = prior
        tokens = 2 * N_BINS + null_token
        self.model = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=2 + 2 * self_conditioning + (prior == "concat"),
            out_channels=2,
            channels=(16, 32),
            attention_levels=(False, True),
            num_res_blocks=1,
            num_head_channels=16,
            norm_num_groups=8,
            norm_eps=1e-6,
            num_class_embeds=tokens,
            with_conditioning=prior == "cross_attention",
            cross_attention_dim=256 if prior == "cross_attention" else None,
        )
        self.model.class_embedding = modules["zpos"].ConditionalEmbeddingWithSinusoidal(
            tokens, 64, N_BINS, Z_RANGE, use_sinusoidal=True, max_z=159, use_cfg=null_token
        )
        if prior == "cross_attention":
            self._anatomical_encoder = modules["encoder"].AnatomicalPriorEncoder(
                embed_dim=256, input_size=(SIZE, SIZE)
            )
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.1)

    def forward(self, x, time, tokens, previous, prior):
        seen = [x] if previous is None else [x, previous]
        if self.prior == "concat":
            seen.append(prior)
        context = self._anatomical_encoder(prior) if self.prior == "cross_attention" else None
        return self.model(torch.cat(seen, dim=1), time, context=context, class_labels=tokens)


def lightning(path, network, config, averaged="ema_state_dict", **more):
    """A checkpoint as written by Lightning and the EMA callback of the reference; raw and averaged weights differ."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    average = {name.removeprefix("model."): v for name, v in state.items() if name.startswith("model.")}
    for name in average:
        state[f"model.{name}"] = state[f"model.{name}"] + 1
    content = {
        "epoch": 3,
        "global_step": 1234,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"alphas_cumprod": torch.rand(1000), **state, "criterion.loss.weights": torch.ones(2)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": "out"}},
        "hparams_name": "cfg",
        "hyper_parameters": OmegaConf.create(config),
        **more,
    }
    if averaged == "ema_state_dict":
        content[averaged] = average
    elif averaged:
        content["callbacks"]["EMACallback"] = {"ema": average, "num_updates": 5}
    torch.save(content, path)
    return path


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


class Embedding(nn.Module):
    """Weights with the names of the embedding of the reference, for tests without the wheel."""

    def __init__(self, width=64):
        super().__init__()
        self.pathology_embedding = nn.Embedding(2, width)
        self.z_encoder = nn.Module()
        self.z_encoder.bin_embedding = nn.Embedding(N_BINS, width)
        self.z_encoder.combine = nn.Linear(2 * width, width)
        self.combine = nn.Linear(2 * width, width)
        self.embedding_dim = width


@pytest.fixture
def network():
    class StandIn:
        ConditionalEmbeddingWithSinusoidal = staticmethod(lambda *arguments, **options: Embedding())

    return Reference({"zpos": StandIn})


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
