"""Sampling options: guidance, acquisition, the chain of the published code, orientation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_sampling import (
    CONFIG,
    SAMPLERS,
    assert_equal,
    fill,
    generator_of,
    make_old,
    mixed_requests,
    remake_samples,
    settings_in,
)
from helpers.tiny_training import MODEL, PARTICIPANTS, tiny_store

from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.config.training import TrainingConfig
from slimdiff.diffusion.chain import GAUSSIAN_STEPS
from slimdiff.files import read_table
from slimdiff.generation.requests import Request, requests_of_bin
from slimdiff.generation.samples import COLUMNS, read_samples
from slimdiff.training.trainer import Trainer


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """A checkpoint with two acquisitions and a null token, and the store it was trained on."""
    folder = tmp_path_factory.mktemp("conditioned")
    store = tiny_store(folder)
    training = TrainingConfig(
        steps=20,
        batch_size=4,
        learning_rate=5e-3,
        ema_decay=0.9,
        condition_dropout=0.3,
        self_conditioning=0.5,
        preview_every=0,
        device="cpu",
        precision="float32",
    )
    model = MODEL.model_copy(update={"acquisition": True, "null_token": True})
    identity = {"study": "tiny", "variant": "conditioned", "fold": 0}
    Trainer(model, DiffusionConfig(), training, store, PARTICIPANTS, folder, identity).run()
    return folder / "model.safetensors", store


def nulls_of(generator, requests):
    """Samples, and for every network evaluation whether it had the null token."""
    seen = []
    hook = generator.network.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[2].null is not None)
    )
    drawn = generator.draw(requests)
    hook.remove()
    return drawn, seen


def distance(one, other):
    return max(np.abs(a.astype(float) - b.astype(float)).max() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("options", SAMPLERS, ids=["dpmpp_2m", "ddim-0.2", "ddim-0"])
def test_guidance_0_draws_the_unconditional_samples(conditioned, options):
    requests = mixed_requests()
    guided = generator_of(conditioned[0], guidance=0.0, **options).draw(requests)
    plain = generator_of(conditioned[0], **options)
    assert distance(plain.draw(requests), guided) > 0.01
    # The same chain with the null token in every condition.
    given = plain._condition
    plain._condition = lambda requests: given(requests).unconditional()
    assert_equal(plain.draw(requests), guided)


def test_guidance_0_ignores_position_and_class(conditioned):
    requests = mixed_requests()
    # The acquisition is fixed, because `mix` draws it per class.
    generator = generator_of(conditioned[0], guidance=0.0, acquisition="T2sel")
    moved = [
        Request(**{**vars(request), "z_bin": (request.z_bin + 1) % 3, "label": 1 - request.label})
        for request in requests
    ]
    assert_equal(generator.draw(moved), generator.draw(requests))


def test_guidance_1_is_the_conditional_chain_at_no_extra_cost(conditioned):
    requests = mixed_requests(count=3)
    plain, seen = nulls_of(generator_of(conditioned[0], guidance=1.0), requests)
    assert seen == [False] * 3 * CONFIG.evaluations
    near, seen = nulls_of(generator_of(conditioned[0], guidance=1 + 1e-6), requests)
    assert sum(seen) == 3 * CONFIG.evaluations
    assert distance(near, plain) < 2e-3
    assert distance(generator_of(conditioned[0], guidance=3.0).draw(requests), plain) > 0.01


def test_an_interval_outside_all_noise_levels_disables_guidance(conditioned):
    requests = mixed_requests(count=4)
    plain = generator_of(conditioned[0]).draw(requests)
    for interval in ((0.0, 1e-6), (1e4, 1e5)):
        drawn, seen = nulls_of(
            generator_of(conditioned[0], guidance=4.0, guidance_interval=interval), requests
        )
        assert_equal(drawn, plain)
        # No unconditional evaluations are made.
        assert not any(seen)


def test_an_interval_around_all_noise_levels_is_guidance_everywhere(conditioned):
    requests = mixed_requests(count=4)
    whole = generator_of(conditioned[0], guidance=4.0).draw(requests)
    drawn = generator_of(conditioned[0], guidance=4.0, guidance_interval=(1e-6, 1e5)).draw(requests)
    assert_equal(drawn, whole)


def test_guidance_acts_above_low_up_to_and_including_high(conditioned):
    generator = generator_of(conditioned[0])
    sigmas = generator.sigmas[GAUSSIAN_STEPS:]
    interval = (float(sigmas[2]), float(sigmas[1]))
    guided = generator_of(conditioned[0], guidance=4.0, guidance_interval=interval)
    drawn, seen = nulls_of(guided, mixed_requests(count=1))
    # Of the levels 0 to 3 only level 1 is evaluated twice.
    assert seen == [False, False, True, False, False]
    assert distance(drawn, generator.draw(mixed_requests(count=1))) > 1e-3


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_f4_a_guided_sample_does_not_depend_on_its_batch(conditioned, scale):
    requests = mixed_requests()
    whole = generator_of(conditioned[0], guidance=scale).draw(requests)
    order = np.random.default_rng(0).permutation(9)
    shuffled = generator_of(conditioned[0], guidance=scale, batch_size=3).draw([requests[i] for i in order])
    assert_equal([part[np.argsort(order)] for part in shuffled], whole)


def test_guidance_requires_a_null_token(trained):
    with pytest.raises(ValueError, match=r"generation\.guidance is 2\.0.*model\.null_token"):
        generator_of(trained, guidance=2.0)


def many_requests(count=2000):
    config = CONFIG.model_copy(update={"per_bin_and_class": count})
    return requests_of_bin(config, 0, "base", 0)


def test_mix_follows_the_training_shares_of_each_class(conditioned):
    checkpoint, store = conditioned
    requests = many_requests()
    found = generator_of(checkpoint).acquisitions(requests)
    assert set(found) == {"T2sel", "tse3dvfl"}
    rows = np.isin(store.participant, PARTICIPANTS)
    shares = []
    for label in (0, 1):
        own = [name for name, request in zip(found, requests, strict=True) if request.label == label]
        share = np.mean(store.acquisition[rows & (store.label == label)] == "T2sel")
        error = math.sqrt(share * (1 - share) / len(own))
        assert np.mean(np.array(own) == "T2sel") == pytest.approx(share, abs=4 * error)
        shares.append((share, error))
    # The classes differ by more than chance, so shares over both classes together would be detected.
    assert abs(shares[0][0] - shares[1][0]) > 10 * max(error for _, error in shares)


def test_f4_the_acquisition_of_a_sample_does_not_depend_on_its_batch(conditioned):
    requests = many_requests(50)
    whole = generator_of(conditioned[0]).acquisitions(requests)
    order = np.random.default_rng(0).permutation(len(requests))
    shuffled = generator_of(conditioned[0]).acquisitions([requests[i] for i in order])
    assert shuffled == [whole[i] for i in order]
    assert [generator_of(conditioned[0]).acquisitions([request])[0] for request in requests[:5]] == whole[:5]


def test_a_named_acquisition_applies_to_all_samples(conditioned):
    requests = mixed_requests()
    drawn = {}
    for name in ("T2sel", "tse3dvfl"):
        generator = generator_of(conditioned[0], acquisition=name)
        assert generator.acquisitions(requests) == [name] * len(requests)
        drawn[name] = generator.draw(requests)
    assert distance(drawn["T2sel"], drawn["tse3dvfl"]) > 0.001
    # Every sample of `mix` equals that of one of the two.
    mixed = generator_of(conditioned[0])
    for i, (name, *pair) in enumerate(zip(mixed.acquisitions(requests), *mixed.draw(requests), strict=True)):
        assert_equal(pair, [part[i] for part in drawn[name]])


def test_an_unknown_acquisition_is_refused_with_the_known_ones(conditioned, trained):
    with pytest.raises(
        ValueError, match=r"generation\.acquisition: expected mix, T2sel, tse3dvfl, .* found 'FLAIR'"
    ):
        generator_of(conditioned[0], acquisition="FLAIR")
    with pytest.raises(
        ValueError,
        match=r"generation\.acquisition: expected mix, .*without model\.acquisition, found 'T2sel'",
    ):
        generator_of(trained, acquisition="T2sel")


def leading_sigmas(timesteps, evaluations):
    """sqrt((1 - alpha_bar) / alpha_bar) of the cosine schedule at every (T // n)-th time from 0, falling."""
    signal = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
    alpha_bar = np.cumprod(1 - np.minimum(1 - signal[1:] / signal[:-1], 0.999))
    times = [(evaluations - 1 - i) * (timesteps // evaluations) for i in range(evaluations)]
    return np.array([*(math.sqrt((1 - alpha_bar[t]) / alpha_bar[t]) for t in times), 0.0])


def test_ddim_ref_has_the_leading_levels_of_the_published_code(trained):
    sigmas = generator_of(trained, sampler="ddim_ref", evaluations=300, eta=0.2).sigmas
    np.testing.assert_allclose(sigmas, leading_sigmas(1000, 300), rtol=1e-6)
    # It starts at time 897, with signal left: sqrt(alpha_bar) is 0.16.
    assert 1 / math.sqrt(1 + sigmas[0] ** 2) == pytest.approx(0.158, abs=0.003)


@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_ddim_ref_is_ddim_at_leading_times(trained, eta):
    generator = generator_of(trained, sampler="ddim_ref", eta=eta, evaluations=4)
    seen = []
    hook = generator.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].item()))
    requests = mixed_requests(count=1)
    drawn = generator.draw(requests)
    hook.remove()
    assert seen == pytest.approx([750, 500, 250, 0], abs=1e-3)
    plain = generator_of(trained, sampler="ddim", eta=eta, evaluations=4)
    assert distance(plain.draw(requests), drawn) > 0.001
    plain.sigmas = leading_sigmas(1000, 4)
    assert distance(plain.draw(requests), drawn) < 2e-3


def test_the_files_record_acquisition_and_guidance(conditioned, tmp_path):
    generator = generator_of(conditioned[0], sampler="ddim_ref", eta=0.2, guidance=2.5, per_bin_and_class=8)
    requests = requests_of_bin(generator.config, 0, "base", 1)
    fill(generator, None, tmp_path, [1])
    rows = read_table(tmp_path / "zbin-01.tsv", COLUMNS)
    settings = settings_in(tmp_path / "zbin-01")["generation"]
    assert (settings["sampler"], settings["eta"], settings["guidance"]) == ("ddim_ref", 0.2, 2.5)
    written = [row["acquisition"] for row in rows]
    assert set(written) == {"T2sel", "tse3dvfl"}
    # The recorded acquisition is that of the sample.
    for name in set(written):
        named = generator_of(conditioned[0], sampler="ddim_ref", eta=0.2, guidance=2.5, acquisition=name)
        of_name = [i for i, found in enumerate(written) if found == name]
        again = named.draw([requests[i] for i in of_name])
        samples = read_samples(tmp_path)
        assert_equal(again, (samples.images[of_name], samples.masks[of_name]))


@pytest.mark.parametrize("acquisition", ["mix", "T2sel"])
@pytest.mark.parametrize("old", [False, True], ids=["", "old form"])
def test_a_sample_with_an_acquisition_is_remade(conditioned, tmp_path, acquisition, old):
    guided = {"guidance": 2.5, "guidance_interval": (0.1, 50.0), "per_bin_and_class": 4}
    fill(generator_of(conditioned[0], acquisition=acquisition, **guided), None, tmp_path / "samples", [1])
    if old:
        make_old(tmp_path / "samples")
    names = [row["id"] for row in read_table(tmp_path / "samples" / "zbin-01.tsv")]
    same = remake_samples(tmp_path / "samples" / "zbin-01.tsv", names, tmp_path / "again", device="cpu")
    assert same == dict.fromkeys(names, True)


def test_a_network_without_acquisitions_has_no_acquisition_in_the_manifest(trained, tmp_path):
    generator = generator_of(trained, spacing="log_snr")
    fill(generator, None, tmp_path, [0])
    rows = read_table(tmp_path / "zbin-00.tsv", COLUMNS)
    assert {row["acquisition"] for row in rows} == {"n/a"}
    settings = settings_in(tmp_path / "zbin-00")["generation"]
    assert (settings["guidance"], settings["spacing"]) == (1.0, "log_snr")


def test_a_network_trained_on_rotated_slices_gives_upright_samples(trained, tmp_path):
    """The slices of an imported network are rotated by 90 degrees relative to the store."""
    plain = generator_of(trained)
    requests = mixed_requests(count=2)
    images, masks = plain.draw(requests)
    turned = generator_of(trained)
    turned.card = replace(turned.card, data=replace(turned.card.data, quarter_turns=1))
    again = turned.draw(requests)
    for found, expected in zip(again, (images, masks), strict=True):
        # Rotated counter-clockwise: the right edge becomes the top.
        assert (found == expected.transpose(0, 2, 1)[:, ::-1]).all()
    assert not (images == images.transpose(0, 2, 1)[:, ::-1]).all()
