"""Checkpoints as the published code saves them: its network from MONAI, configuration and Lightning's container."""

import os

import pytest
import torch
from torch import nn

if os.environ.get("SLIMDIFF_REQUIRE_MONAI"):
    from monai.networks.nets import DiffusionModelUNet
else:
    DiffusionModelUNet = pytest.importorskip("monai.networks.nets").DiffusionModelUNet
OmegaConf = pytest.importorskip("omegaconf").OmegaConf

N_BINS, SIZE, Z_RANGE = 7, 32, (34, 115)


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


class StandIn:
    """In place of the wheel's module `zpos`."""

    ConditionalEmbeddingWithSinusoidal = staticmethod(lambda *arguments, **options: Embedding())


def reference_without_wheel(**options) -> Reference:
    """The network of the reference with an embedding of our own."""
    return Reference({"zpos": StandIn}, **options)
