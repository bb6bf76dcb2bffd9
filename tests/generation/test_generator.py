"""Samples do not depend on their batch (docs/method.md, F4); their files record how they were made."""

import numpy as np
import pytest
import torch
from helpers.tiny_sampling import (
    CONFIG,
    EVERY_SAMPLER,
    assert_equal,
    fill,
    generator_of,
    mixed_requests,
    settings_in,
)

from slimdiff.diffusion import chain
from slimdiff.files import read_table, sha256
from slimdiff.generation.noise import normal
from slimdiff.generation.requests import Request, requests_of_bin, stream_key
from slimdiff.generation.samples import COLUMNS, read_samples, write_samples
from slimdiff.model.checkpoint import read_card, save_model


@pytest.mark.parametrize("options", EVERY_SAMPLER, ids=["2m", "ddim-0.2", "ddim-0", "sde", "unipc", "ddpm"])
def test_f4_a_sample_does_not_depend_on_its_batch(trained, options):
    """A CPU draws sample by sample whatever `batch_size`; only the selection and order of samples can differ."""
    requests = mixed_requests()
    whole = generator_of(trained, batch_size=4, **options).draw(requests)
    assert np.unique(whole[0].reshape(9, -1), axis=0).shape[0] == 9
    assert whole[0].std() > 0
    for batch_size in (1, 7, 64):
        assert_equal(generator_of(trained, batch_size=batch_size, **options).draw(requests), whole)
    order = np.random.default_rng(0).permutation(9)
    shuffled = generator_of(trained, **options).draw([requests[i] for i in order])
    assert_equal([part[np.argsort(order)] for part in shuffled], whole)
    alone = generator_of(trained, **options)
    for i in (0, 5, 8):
        assert_equal(alone.draw([requests[i]]), [part[i : i + 1] for part in whole])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_f4_a_sample_does_not_depend_on_the_number_of_threads(trained, precision):
    requests = mixed_requests(count=5)
    options = {"sampler": "ddim", "eta": 0.2, "precision": precision}
    whole = generator_of(trained, **options).draw(requests)
    before = torch.get_num_threads()
    try:
        for threads in (2, 5):
            torch.set_num_threads(threads)
            assert_equal(generator_of(trained, batch_size=threads, **options).draw(requests), whole)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_f4_the_global_random_state_is_neither_read_nor_changed(trained):
    options = {"sampler": "ddim", "eta": 1.0}
    requests = mixed_requests(count=3)
    generator = generator_of(trained, **options)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = generator.draw(requests)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    assert_equal(generator.draw(requests), first)


def test_eta_and_seed_and_conditions_change_the_sample(trained):
    requests = mixed_requests(count=2)
    plain = generator_of(trained, sampler="ddim").draw(requests)[0]
    assert (generator_of(trained, sampler="ddim", eta=0.5).draw(requests)[0] != plain).any()
    other = requests_of_bin(CONFIG.model_copy(update={"seed": 1}), 0, "base", 0)[:2]
    assert (generator_of(trained, sampler="ddim").draw(other)[0] != plain).any()
    for change in ({"z_bin": 2}, {"label": 1}):
        # The same noise with another condition.
        moved = [Request(**{**vars(request), **change}) for request in requests]
        assert (generator_of(trained, sampler="ddim").draw(moved)[0] != plain).any()


def test_estimates_are_fed_back_to_a_self_conditioned_network(trained):
    generator = generator_of(trained)
    seen = []
    hook = generator.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    generator.draw(mixed_requests(count=1))
    hook.remove()
    assert len(seen) == CONFIG.evaluations
    for _, _, _, previous in seen:
        assert previous.abs().max() <= 1
        assert previous.any()
    times = [inputs[1][0].item() for inputs in seen]
    assert times == sorted(times, reverse=True)
    # Above this noise level the Gaussian model estimates; its last estimate is the first to be fed back.
    assert generator.schedule.sigma_at(times[0]) == pytest.approx(8, rel=1e-3)
    assert len(generator.sigmas) == chain.GAUSSIAN_STEPS + CONFIG.evaluations + 1


def test_the_chain_starts_from_the_sample_s_own_noise(trained):
    generator = generator_of(trained)
    seen = []
    generator.network.gaussian.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    requests = mixed_requests(count=1)
    generator.draw(requests)
    # In the coordinates of the network x_T equals the draw, which is standard normal.
    expected = normal([request.key for request in requests], 0, (2, 32, 32))
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


def test_every_step_of_a_sample_has_its_own_draw(trained, monkeypatch):
    from slimdiff.generation import generator

    draw_numbers = []

    def recorded_normal(keys, draw, shape, device):
        draw_numbers.append(draw)
        return normal(keys, draw, shape, device)

    monkeypatch.setattr(generator, "normal", recorded_normal)
    generator_of(trained, sampler="ddim", eta=0.5).draw(mixed_requests(count=1))
    # One for the start and one for each step except the last, which goes to sigma 0.
    assert len(draw_numbers) == len(set(draw_numbers)) == CONFIG.evaluations + chain.GAUSSIAN_STEPS


@pytest.mark.parametrize("given", [False, True])
def test_batches_as_on_a_gpu_give_the_same_samples_up_to_rounding(trained, given):
    """Nine samples in batches of four: the last batch is padded and cropped."""
    generator, requests, fixed = generator_of(trained), mixed_requests(), None
    if given:
        rng = np.random.default_rng(0)
        values = rng.uniform(-1, 1, (9, 2, 32, 32)).astype(np.float16)
        fixed = (values, rng.random((9, 2, 32, 32)) < 0.3)
    expected = np.stack(generator.draw(requests, fixed=fixed), axis=1)
    generator.batch_size = 4
    found = np.stack(generator.draw(requests, fixed=fixed), axis=1)
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=5e-3)


def test_samples_are_float16_in_range(trained):
    images, masks = generator_of(trained).draw(mixed_requests())
    for part in (images, masks):
        assert part.dtype == np.float16
        assert part.shape == (9, 32, 32)
        assert np.isfinite(part).all()
        assert part.min() >= -1 and part.max() <= 1


def test_bfloat16_samples_are_close_to_float32_ones(trained):
    requests = mixed_requests(count=4)
    exact = generator_of(trained).draw(requests)
    near = generator_of(trained, precision="bfloat16").draw(requests)
    for a, b in zip(exact, near, strict=True):
        assert np.abs(a.astype(float) - b.astype(float)).mean() < 0.02


def test_there_are_replicas_times_classes_times_count_requests():
    config = CONFIG.model_copy(update={"replicas": 3, "per_bin_and_class": 5})
    requests = requests_of_bin(config, 1, "base", 2)
    assert len(requests) == 30
    found = {(r.z_bin, r.label, r.replica, r.index) for r in requests}
    assert found == {
        (2, label, replica, index) for label in (0, 1) for replica in range(3) for index in range(5)
    }
    assert len({r.id for r in requests}) == 30


def test_more_samples_do_not_change_the_first_ones():
    few = requests_of_bin(CONFIG, 0, "base", 1)
    many = requests_of_bin(CONFIG.model_copy(update={"per_bin_and_class": 50, "replicas": 4}), 0, "base", 1)
    assert {r.id: r.key for r in few}.items() <= {r.id: r.key for r in many}.items()


def test_keys_are_unique_over_all_fields_of_a_request():
    keys = [
        stream_key(seed, fold, z_bin, label, replica, index, variant)
        for seed in (0, 1, 11)
        for fold in (0, 1)
        for z_bin in (0, 1, 11)
        for label in (0, 1)
        for replica in (0, 1)
        for index in (0, 1, 11)
        for variant in (None, "a", "b")
    ]
    assert len(set(keys)) == len(keys)


def test_variants_share_noise_unless_the_key_includes_the_variant():
    one, two = (requests_of_bin(CONFIG, 0, name, 1) for name in ("a", "b"))
    assert [r.key for r in one] == [r.key for r in two]
    own = CONFIG.model_copy(update={"variant_in_key": True})
    one, two = (requests_of_bin(own, 0, name, 1) for name in ("a", "b"))
    assert not {r.key for r in one} & {r.key for r in two}


def test_files_round_trip_and_record_how_the_samples_were_made(trained, tmp_path):
    generator = generator_of(trained, sampler="ddim", eta=0.2, tau=0.1, replicas=2)
    drawn = {}
    for z_bin in (0, 1, 2):
        requests = requests_of_bin(generator.config, 0, "base", z_bin)
        fill(generator, None, tmp_path, [z_bin])
        drawn[z_bin] = (requests, *generator.draw(requests))
    samples = read_samples(tmp_path)
    assert_equal(
        (samples.images, samples.masks),
        [np.concatenate([drawn[b][part] for b in range(3)]) for part in (1, 2)],
    )
    requests = [request for b in range(3) for request in drawn[b][0]]
    assert samples.id.tolist() == [request.id for request in requests]
    assert samples.z_bin.tolist() == [request.z_bin for request in requests]
    assert samples.label.tolist() == [request.label for request in requests]
    rows = [row for b in range(3) for row in read_table(tmp_path / f"zbin-{b:02d}.tsv", COLUMNS)]
    for row, request, mask in zip(rows, requests, samples.masks, strict=True):
        assert row["key"] == request.key
        assert (int(row["replica"]), int(row["index"])) == (request.replica, request.index)
        assert int(row["lesion_px"]) == int((mask.astype(np.float64) > 0.1).sum())
    for z_bin in range(3):
        settings = settings_in(tmp_path / f"zbin-{z_bin:02d}")
        assert settings["generation"] == generator.config.model_dump(mode="json")
        assert settings["checkpoint_sha256"] == sha256(trained)
        assert (tmp_path / settings["checkpoint"]).samefile(trained)
        assert settings["guide_sha256"] is settings["priors_sha256"] is None
        assert settings["runs"] == [
            {"device": "cpu", "precision": "float32", "compiled": False, "samples": None}
        ]
    with np.load(tmp_path / "zbin-00.npz", allow_pickle=False) as archive:
        assert sorted(archive) == ["images", "masks"]
        assert archive["images"].dtype == archive["masks"].dtype == np.float16
    # A sample is drawn again from its request alone.
    again = generator.draw([requests[5]])
    assert_equal(again, (samples.images[5:6], samples.masks[5:6]))


def test_inconsistent_sample_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="zbin"):
        read_samples(tmp_path)
    array = np.zeros((2, 4, 4), np.float16)
    write_samples(tmp_path / "zbin-00", array, array, [{"id": "a", "key": "k", "z_bin": 0, "class": 1}])
    with pytest.raises(ValueError, match="2 samples, but 1"):
        read_samples(tmp_path)


def test_f6_sampling_uses_the_weights_of_the_checkpoint(trained, tmp_path):
    """Changing the weights of the checkpoint, which are the EMA weights (tests/training), changes the samples."""
    generator = generator_of(trained)
    weights = {name: value.detach() for name, value in generator.network.named_parameters()}
    buffers = dict(generator.network.state_dict())
    shifted = {name: value + 0.05 for name, value in weights.items()}
    save_model(tmp_path / "m.safetensors", {**buffers, **shifted}, read_card(trained))
    requests = mixed_requests(count=2)
    assert (generator_of(tmp_path / "m.safetensors").draw(requests)[0] != generator.draw(requests)[0]).any()
    save_model(tmp_path / "same.safetensors", {**buffers, **weights}, read_card(trained))
    assert_equal(generator_of(tmp_path / "same.safetensors").draw(requests), generator.draw(requests))


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        generator_of(tmp_path / "absent.safetensors")
