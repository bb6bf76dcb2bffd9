"""Autoguidance: an earlier snapshot as the guide, under the same condition (Karras et al. 2024, eq. 2)."""

import shutil
from dataclasses import replace

import pytest
import torch
from helpers.tiny_sampling import CONFIG, assert_equal, fill, mixed_requests, remake_samples, settings_in

from slimdiff.files import read_table, sha256
from slimdiff.generation.generator import Generator
from slimdiff.model.checkpoint import load_model, read_card, save_model


@pytest.fixture
def pair(trained, tmp_path):
    """A checkpoint beside a snapshot of step 7 with other weights."""
    checkpoint, snapshot = tmp_path / "model.safetensors", tmp_path / "snapshot-7.safetensors"
    shutil.copy(trained, checkpoint)
    network, card = load_model(trained, torch.device("cpu"))
    torch.manual_seed(0)
    weights = {name: value + 0.02 * torch.randn_like(value) for name, value in network.named_parameters()}
    save_model(snapshot, {**network.state_dict(), **weights}, replace(card, step=7))
    return checkpoint, snapshot


def guided(checkpoint, scale, **changes):
    return Generator(checkpoint, CONFIG.model_copy(update={"guidance": scale, "guide": 7, **changes}))


def test_scale_0_samples_from_the_guide(pair):
    requests = mixed_requests(count=4)
    found = guided(pair[0], 0.0).draw(requests)
    assert_equal(found, Generator(pair[1], CONFIG).draw(requests))


def test_a_guide_with_the_same_weights_changes_nothing(pair):
    checkpoint, snapshot = pair
    shutil.copy(checkpoint, snapshot)
    requests = mixed_requests(count=4)
    assert_equal(guided(checkpoint, 3.0).draw(requests), Generator(checkpoint, CONFIG).draw(requests))


def test_a_scale_above_1_moves_the_estimate_away_from_the_guide(pair):
    """The last estimate of x0 is D_guide + w (D - D_guide), of two networks at the same x, time and class."""
    scale = 1.7
    generator = guided(pair[0], scale, evaluations=2, background="drawn")
    seen = []
    for network in (generator.network, generator.guide):
        network.register_forward_hook(
            lambda module, given, output: seen.append((module, given, output)), always_call=True
        )
    (request,) = mixed_requests(count=1)
    images, _ = generator.draw([request])
    (_, given, own), (_, other_given, guides) = seen[-2:]
    assert [module for module, _, _ in seen] == [generator.network, generator.guide] * 2
    for one, other in zip(given[:2], other_given[:2], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(given[3], other_given[3])
    # Both have the same condition, unlike in classifier-free guidance.
    assert given[2].null is None and other_given[2].null is None
    expected = (guides + scale * (own - guides)).clamp(-1, 1)[0, 0].numpy().astype(images.dtype)
    assert (expected == images[0]).all()


def test_the_settings_name_the_guide_and_a_sample_can_be_remade(pair, tmp_path):
    fill(guided(pair[0], 2.0, guidance_interval=(0.1, 50.0)), None, tmp_path / "samples")
    manifest = tmp_path / "samples" / "zbin-01.tsv"
    row, settings = read_table(manifest)[2], settings_in(manifest)
    found = settings["generation"]
    assert (found["guide"], found["guidance"], found["guidance_interval"]) == (7, 2.0, [0.1, 50.0])
    assert settings["guide_sha256"] == sha256(pair[1])
    assert remake_samples(manifest, [row["id"]], tmp_path / "again", device="cpu") == {row["id"]: True}
    shutil.copy(pair[0], pair[1])
    with pytest.raises(ValueError, match="the guide of its samples had another sha256"):
        remake_samples(manifest, [row["id"]], tmp_path / "other", device="cpu")


def test_a_missing_guide_or_one_of_another_network_is_refused(pair):
    checkpoint, snapshot = pair
    card = read_card(snapshot)
    network, _ = load_model(snapshot, torch.device("cpu"))
    save_model(snapshot, network.state_dict(), replace(card, diffusion={**card.diffusion, "prediction": "v"}))
    with pytest.raises(ValueError, match=r"snapshot-7\.safetensors: another network or other data"):
        guided(checkpoint, 2.0)
    snapshot.unlink()
    with pytest.raises(FileNotFoundError, match=r"snapshot-7\.safetensors.*training\.snapshots"):
        guided(checkpoint, 2.0)
