"""The shared network against MONAI's own, with the same weights: forward and gradient in float32.

With SLIMDIFF_REQUIRE_MONAI set (as in CI) a missing MONAI is a failure.
"""

import os

import pytest
import torch
from torch import nn

from slimdiff.config.model import ModelConfig
from slimdiff.config.recipes import PUBLISHED
from slimdiff.importing.names import from_monai
from slimdiff.model.checkpoint import DataSpec, build_network
from slimdiff.model.conditioning import Condition
from slimdiff.model.prior import TOKEN_WIDTH

if os.environ.get("SLIMDIFF_REQUIRE_MONAI"):
    from monai.networks.nets import DiffusionModelUNet
else:
    DiffusionModelUNet = pytest.importorskip("monai.networks.nets").DiffusionModelUNet

N_BINS = 5
SHAPES = {
    "one level": dict(
        channels=(32,), attention=(True,), res_blocks=1, head_channels=16, norm_groups=8, size=(8, 12)
    ),
    "two levels": dict(
        channels=(16, 32),
        attention=(False, True),
        res_blocks=2,
        head_channels=8,
        norm_groups=8,
        size=(16, 16),
    ),
    "attention above": dict(
        channels=(16, 16, 48),
        attention=(True, False, True),
        res_blocks=1,
        head_channels=16,
        norm_groups=16,
        size=(24, 16),
    ),
    "the paper's levels": dict(
        channels=(32, 64, 96, 96),
        attention=(False, False, True, True),
        res_blocks=2,
        head_channels=32,
        norm_groups=32,
        size=(32, 24),
    ),
}


def pair(shape: dict, self_conditioning: bool, seed: int, cross: bool = False):
    """MONAI's network with random weights, and our network with the same weights."""
    torch.manual_seed(seed)
    inputs = 4 if self_conditioning else 2
    monai = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=inputs,
        out_channels=2,
        channels=shape["channels"],
        attention_levels=shape["attention"],
        num_res_blocks=shape["res_blocks"],
        num_head_channels=shape["head_channels"],
        norm_num_groups=shape["norm_groups"],
        norm_eps=1e-6,
        num_class_embeds=2 * N_BINS,
        with_conditioning=cross,
        cross_attention_dim=TOKEN_WIDTH if cross else None,
    )
    for name, parameter in monai.named_parameters():
        # Half of the initial weights are zero, so all are drawn at random; norms stay near one.
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(
            parameter, centre, 0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
        )
    settings = {key: value for key, value in shape.items() if key != "size"}
    model = ModelConfig(
        self_conditioning=self_conditioning,
        prior="cross_attention" if cross else "none",
        gaussian_components=0,
        **settings,
    )
    centres = [10.0 + 3 * b for b in range(N_BINS)]
    ours = build_network(model.settings(), DataSpec(shape["size"], N_BINS, centres))
    weights = from_monai(
        {name: value for name, value in monai.state_dict().items() if "class_embedding" not in name}
    )
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith(("condition.", "prior")) for name in missing)
    # MONAI's class embedding gets the vectors that our embedding of z-bin and class computes.
    tokens = torch.arange(2 * N_BINS)
    with torch.no_grad():
        monai.class_embedding.weight.copy_(ours.condition(Condition(tokens % N_BINS, tokens // N_BINS)))
    return monai, ours


def close(found, expected, resolution=0.0):
    """Equal within 1e-4 of the largest entry, plus the float32 rounding of larger intermediate values."""
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max() + resolution


def compare(monai, ours, size, self_conditioning, seed, context=None):
    generator = torch.Generator().manual_seed(100 + seed)
    x = torch.randn((3, 2, *size), generator=generator, requires_grad=True)
    previous = torch.randn((3, 2, *size), generator=generator) if self_conditioning else None
    time = torch.tensor([0, 417, 999])
    z_bin, label = torch.tensor([0, 3, 4]), torch.tensor([1, 0, 1])
    seen = x if previous is None else torch.cat([x, previous], dim=1)
    expected = monai(seen, time, context=context, class_labels=z_bin + N_BINS * label)
    found = ours(x, time.float(), Condition(z_bin, label), previous)
    close(found, expected)
    weight = torch.randn(expected.shape, generator=generator)
    (expected * weight).sum().backward()
    of_x, x.grad = x.grad, None
    (found * weight).sum().backward()
    close(x.grad, of_x)
    gradients = from_monai(
        {name: p.grad for name, p in monai.named_parameters() if "class_embedding" not in name}
    )
    own = dict(ours.named_parameters())
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        # Some gradients are zero up to rounding: a key's bias shifts all scores of a query equally.
        close(own[name].grad, gradient, 5e-7 * largest)
    return own


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("self_conditioning", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients_match_monai(shape, self_conditioning, seed):
    monai, ours = pair(SHAPES[shape], self_conditioning, seed)
    own = compare(monai, ours, SHAPES[shape]["size"], self_conditioning, seed)
    # The gradient of MONAI's class embedding is that of our embedding's output, from which all its parameters follow.
    assert all(own[name].grad.abs().max() > 0 for name in own if name.startswith("condition."))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", ["two levels", "the paper's levels"])
def test_cross_attention_matches_monai_s_spatial_transformer(shape, seed, monkeypatch):
    monai, ours = pair(SHAPES[shape], True, seed, cross=True)
    context = torch.randn((3, 7, TOKEN_WIDTH), generator=torch.Generator().manual_seed(seed))
    monkeypatch.setattr(ours.prior_encoder, "forward", lambda prior: context)
    compare(monai, ours, SHAPES[shape]["size"], True, seed, context)


def test_the_paper_s_network_has_monai_s_parameters():
    with torch.device("meta"):
        monai = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=4,
            out_channels=2,
            channels=(64, 128, 256, 256),
            attention_levels=(False, False, True, True),
            num_res_blocks=2,
            num_head_channels=32,
            norm_num_groups=32,
            num_class_embeds=60,
        )
        ours = build_network(
            ModelConfig.model_validate(PUBLISHED["model"]).settings(), DataSpec((160, 160), 30, [0.0] * 30)
        )
    theirs = from_monai({n: p for n, p in monai.named_parameters() if "class_embedding" not in n})
    own = {name: p for name, p in ours.named_parameters() if not name.startswith("condition.")}
    assert {name: p.shape for name, p in theirs.items()} == {name: p.shape for name, p in own.items()}


def test_the_cosine_schedule_matches_the_reference():
    """Except at the last noise level, which the two clip differently."""
    DDPMScheduler = pytest.importorskip("monai.networks.schedulers").DDPMScheduler
    from slimdiff.diffusion.schedule import make_schedule

    expected = DDPMScheduler(num_train_timesteps=1000, schedule="cosine").alphas_cumprod.double()
    found = torch.from_numpy(make_schedule("cosine", 1000).alpha_bar)
    torch.testing.assert_close(found[:-1], expected[:-1], rtol=1e-3, atol=1e-6)


def test_weights_of_other_networks_are_refused_by_name():
    with pytest.raises(ValueError, match=r"1 weights.*up_blocks\.0\.resnets\.0\.upsample\.weight"):
        from_monai({"up_blocks.0.resnets.0.upsample.weight": torch.zeros(1)})
