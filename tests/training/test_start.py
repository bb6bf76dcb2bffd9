"""`training.init`: a training starts from the weights of another model, mapped to its own network."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tiny_networks import DATA, SMALL, TWO_PROTOCOLS, card_of, inputs, small, three_maps
from helpers.tiny_training import CPU, assert_same_run, fail_at, study_with_own_models, trainer_in, weights_of
from safetensors.torch import load_file, save_file

from slimdiff import cli
from slimdiff.config.diffusion import DiffusionConfig
from slimdiff.files import sha256
from slimdiff.model.checkpoint import load_model, save_model
from slimdiff.model.conditioning import Condition
from slimdiff.training.checkpoint import Interrupted, StateMismatch
from slimdiff.training.start import Start, StartError, StudyNetwork, put_start, read_start

DIFFUSION = DiffusionConfig().model_dump(mode="json")
OTHER_HEIGHTS = replace(DATA, n_bins=6, bin_centres=[10 * number + 5.0 for number in range(6)])


def start_of(
    network, data=DATA, model=SMALL, diffusion=DIFFUSION, height="slice", z_range=(11, 20), spacing_mm=1.25
):
    card = replace(
        card_of(model),
        diffusion=diffusion,
        data=data,
        spacing_mm=spacing_mm,
        z_range=z_range,
        height=height,
    )
    return Start(Path("other.safetensors"), "0" * 64, card, network.state_dict())


def own(network, data=DATA, model=SMALL, diffusion=DIFFUSION, height="slice", z_range=(11, 20)):
    return StudyNetwork(network, model, diffusion, data, 1.25, height, z_range)


def fresh(data=DATA, priors=None, **changes):
    """Another network than `small`, without zero weights."""
    network = small(data, priors, **changes)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return network


def test_the_same_network_takes_every_weight():
    network, source = fresh(), small()
    assert put_start(own(network), start_of(source), fill=False) == ["100.0% of the weights"]
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), source.parameters(), strict=True))


def test_the_size_of_a_slice_changes_no_weight():
    data = replace(DATA, size=(32, 16))
    network, source = fresh(data), small()
    notes = put_start(own(network, data), start_of(source, spacing_mm=3.0), fill=False)
    assert torch.equal(network(*inputs()), source(*inputs()))
    assert notes[-1] == "pixels of 1.25 mm instead of 3 mm, with the same weights"


@pytest.mark.parametrize(
    ("height", "z_range", "z_bin", "equal"),
    [("relative", (0, 0.6), 1, 0), ("slice", (0, 59), 4, 2), ("mm", (0, 60), 4, 2)],
)
def test_z_bins_are_mapped_by_their_relative_height(height, z_range, z_bin, equal):
    """Six z-bins with other centres and units: where a centre is at the height of one of three, outputs are equal."""
    source = start_of(small(), replace(DATA, bin_centres=[12.5, 17.5, 22.5]), z_range=(10, 24))
    # Centres of three bins are at 1/6, 3/6, 5/6 of the range; of six at 1/12, 3/12, ...
    centres = [
        100 * 0.6 * share if height == "relative" else 60 * share for share in (0, 1 / 6, 0.3, 0.4, 5 / 6, 1)
    ]
    network = fresh(replace(OTHER_HEIGHTS, bin_centres=centres))
    study = own(network, replace(OTHER_HEIGHTS, bin_centres=centres), height=height, z_range=z_range)
    notes = put_start(study, source, fill=False)
    assert "6 z-bins by height from 3" in notes
    known = small(replace(DATA, bin_centres=[12.5, 17.5, 22.5]))
    x, time, _ = inputs()
    label = torch.tensor([0, 1, 0])
    found = network(x, time, Condition(torch.full((3,), z_bin), label))
    wanted, other = (
        known(x, time, Condition(torch.full((3,), number), label)) for number in (equal, 1 - equal // 2)
    )
    assert (found - wanted).abs().mean() < 0.2 * (found - other).abs().mean()
    largest = known.condition.bins.weight.abs().max()
    assert network.condition.bins.weight.abs().max() < 30 * largest, "not the thousandfold"


def test_between_two_z_bins_the_position_is_between_theirs():
    data = replace(DATA, bin_centres=[0.0, 10.0, 20.0])
    source = start_of(small(data), data, height="mm", z_range=(0, 20))
    wanted = replace(DATA, bin_centres=[5.0, 10.0, 40.0])
    network = fresh(wanted)
    put_start(own(network, wanted, height="mm", z_range=(0, 60)), source, fill=False)
    theirs, ours = (_positions(one) for one in (small(data), network))
    wanted = torch.stack([(theirs[0] + theirs[1]) / 2, *theirs[1:]])
    assert (ours - wanted).abs().mean() < 0.1 * (theirs[0] - theirs[2]).abs().mean()


@torch.no_grad()
def _positions(network):
    part = network.condition
    return part.position(torch.cat([part.bins.weight, part.sinusoids], dim=1))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"self_conditioning": False}, {}),
        ({"self_conditioning": False}, {"prior": "concat"}),
        ({"patch": 2, "self_conditioning": False}, {"patch": 2, "prior": "concat"}),
        (
            {"coupling": "independent", "self_conditioning": False},
            {"coupling": "independent", "prior": "concat"},
        ),
        ({}, {"self_conditioning": False}),
    ],
)
def test_inputs_that_one_of_both_lacks(theirs, ours):
    """A new input begins with zero weights; the previous estimate, which this network may lack, was zero before."""
    source = small(**theirs)
    network = fresh(priors=three_maps(1) if "prior" in ours else None, **ours)
    put_start(own(network, model=SMALL | ours), start_of(source, model=SMALL | theirs), fill=False)
    assert torch.allclose(network(*inputs()), source(*inputs()), atol=1e-5)
    if ours.get("self_conditioning", True) and not theirs.get("self_conditioning", True):
        previous = torch.randn(3, 2, 16, 24, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(network(*inputs(), previous), source(*inputs()), atol=1e-5)


def test_a_gaussian_estimate_is_a_new_input():
    model = SMALL | {"gaussian_components": 4, "self_conditioning": False}
    source = small(self_conditioning=False)
    network = fresh(gaussian_components=4, self_conditioning=False)
    notes = put_start(
        own(network, model=model), start_of(source, model=SMALL | {"self_conditioning": False}), fill=False
    )
    assert "trunk.encoder.stem.weight begins without the input Gaussian estimate" in notes
    weight = network.trunk.encoder.stem.weight
    assert torch.equal(weight[:, :2], source.trunk.encoder.stem.weight) and not weight[:, 2:].any()


@pytest.mark.parametrize(("key", "layer"), [("head_channels", "attend.query"), ("norm_groups", "norm1")])
def test_groups_of_channels_that_no_shape_shows_must_be_equal(key, layer):
    model = SMALL | {key: 4}
    with pytest.raises(StartError, match=rf"model.{key}: the file has 4, the study {SMALL[key]}"):
        put_start(own(fresh()), start_of(small(**{key: 4}), model=model), fill=False)
    notes = put_start(own(fresh()), start_of(small(**{key: 4}), model=model), fill=True)
    assert layer in notes[-1] and notes[-1].startswith("random values") and not notes[0].startswith("100")


def test_layers_that_only_the_file_has_are_left_out_and_not_called_random():
    deeper = {"res_blocks": 2}
    with pytest.raises(StartError, match="this network has no such layer"):
        put_start(own(fresh()), start_of(small(**deeper), model=SMALL | deeper), fill=False)
    notes = put_start(own(fresh()), start_of(small(**deeper), model=SMALL | deeper), fill=True)
    left = next(note for note in notes if note.startswith("left out"))
    own_names = fresh().state_dict().keys()
    assert not own_names & set(left.removeprefix("left out: ").split(", "))


def test_numbers_of_a_card_that_lead_nowhere():
    """Acquisitions without a slice have equal weights; a z-range without extent is an error that names the file."""
    empty = replace(TWO_PROTOCOLS, acquisition_counts=[[0, 0], [0, 0]])
    network = fresh()
    put_start(
        own(network), start_of(small(empty, acquisition=True), empty, SMALL | {"acquisition": True}), False
    )
    assert all(value.isfinite().all() for value in network.parameters())
    start = start_of(small(), replace(DATA, bin_centres=[1.0, 2.0, 3.0]), height="mm", z_range=(5, 5))
    with pytest.raises(StartError, match=r"other.safetensors: the z-range.*found 5 to 5"):
        put_start(own(fresh()), start, fill=False)


def test_an_input_that_carries_the_outline_cannot_be_left_out():
    with pytest.raises(StartError, match="no input prior"):
        given = start_of(small(priors=three_maps(), prior="concat"), model=SMALL | {"prior": "concat"})
        put_start(own(fresh()), given, fill=False)
    known = SMALL | {"gaussian_components": 4}
    with pytest.raises(
        StartError, match=r"no input Gaussian estimate.*model.gaussian_components: the file has 4"
    ):
        put_start(own(fresh()), start_of(small(**known), model=known), fill=False)


def test_acquisitions_are_mapped_by_name():
    model, source = SMALL | {"acquisition": True}, small(TWO_PROTOCOLS, acquisition=True)
    data = replace(TWO_PROTOCOLS, acquisitions=["other", "one"])
    network = fresh(data, acquisition=True)
    put_start(own(network, data, model), start_of(source, TWO_PROTOCOLS, model), fill=False)
    found = network(*inputs(acquisition=torch.tensor([0, 1, 0])))
    assert torch.allclose(found, source(*inputs(acquisition=torch.tensor([1, 0, 1]))), atol=1e-6)
    other = replace(TWO_PROTOCOLS, acquisitions=["one", "third"])
    with pytest.raises(StartError, match="the file has no acquisition third"):
        put_start(
            own(fresh(other, acquisition=True), other, model), start_of(source, TWO_PROTOCOLS, model), False
        )


def test_without_acquisitions_their_mean_takes_their_place():
    data = replace(TWO_PROTOCOLS, acquisition_counts=[[3, 0], [0, 1]])
    source = small(data, acquisition=True)
    network = fresh()
    notes = put_start(own(network), start_of(source, data, SMALL | {"acquisition": True}), fill=False)
    assert "the mean of the file's acquisitions instead of each" in notes
    with torch.no_grad():
        table = source.condition.acquisitions.weight
        table.copy_((0.75 * table[0] + 0.25 * table[1]).expand_as(table))
    wanted = source(*inputs(acquisition=torch.tensor([0, 1, 0])))
    assert torch.allclose(network(*inputs()), wanted, atol=1e-5)


def test_a_network_of_turned_slices_computes_the_turned_output():
    flat = {"channels": (16,), "attention": (False,)}
    source, network = small(**flat), fresh(**flat)
    start = start_of(source, replace(DATA, quarter_turns=1), SMALL | flat)
    notes = put_start(own(network, model=SMALL | flat), start, fill=False)
    assert notes[1].startswith("kernels turned by 90 degrees")
    x, *given = inputs()
    wanted = torch.rot90(source(x, *given), 1, (2, 3))
    torch.testing.assert_close(network(torch.rot90(x, 1, (2, 3)), *given), wanted, rtol=1e-4, atol=1e-4)


def test_other_channels_are_an_error_that_names_layers_and_keys():
    wide = SMALL | {"channels": [16, 64]}
    with pytest.raises(StartError) as caught:
        put_start(own(fresh()), start_of(small(**wide), model=wide), fill=False)
    text = str(caught.value)
    assert text.startswith("other.safetensors: ") and "expected shape" in text
    assert "model.channels: the file has [16, 64], the study [16, 32]" in text
    assert "training.init_missing: random" in text


def test_missing_layers_stay_at_their_initial_values_where_the_user_says_so():
    network, source = fresh(null_token=True), small()
    before = network.condition.null.clone()
    with pytest.raises(StartError, match=r"1 layers.*condition\.null: the file has no such layer"):
        put_start(own(network, model=SMALL | {"null_token": True}), start_of(source), fill=False)
    assert torch.equal(network.condition.null, before)
    notes = put_start(own(network, model=SMALL | {"null_token": True}), start_of(source), fill=True)
    assert notes[-1] == "random values: condition.null"
    assert torch.equal(network.condition.null, before)
    assert torch.equal(network.condition.merge.weight, source.condition.merge.weight)


def test_a_network_of_which_nearly_nothing_fits_is_an_error_in_any_case():
    deep = SMALL | {"channels": (32, 64), "norm_groups": 8}
    with pytest.raises(StartError, match=r"only \d+% of the weights"):
        put_start(own(fresh(**deep), model=deep), start_of(small()), fill=True)


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        ({"prediction": "v"}, "trunk.decoder.head.bias"),
        ({"schedule": "linear"}, "time.0.bias"),
        ({"timesteps": 500}, "time.2.weight"),
    ],
)
def test_layers_whose_meaning_the_diffusion_changes(change, layer):
    key, value = next(iter(change.items()))
    start = start_of(small(), diffusion=DIFFUSION | change)
    network = fresh()
    before = network.state_dict()[layer].clone()
    with pytest.raises(StartError, match=rf"diffusion.*{key}.*the file has {value}"):
        put_start(own(network), start, fill=False)
    assert layer in put_start(own(network), start, fill=True)[-1]
    assert torch.equal(network.state_dict()[layer], before)


@pytest.fixture
def finished(tmp_path):
    """A finished tiny training, for others to start from."""
    trainer_in(tmp_path / "first", steps=4, seed=3).run()
    return tmp_path / "first" / "model.safetensors"


def test_a_training_starts_from_the_averaged_weights_and_says_so(tmp_path, finished, capsys):
    trainer = trainer_in(tmp_path / "second", init=str(finished), steps=0)
    source, _ = weights_of(finished.parent)
    for name, value in trainer.network.named_parameters():
        assert torch.equal(value, source[name]), name
    assert all(torch.equal(trainer.emas[0].weights()[name], source[name]) for name in source), "EMA restarts"
    trainer.run()
    assert "starts from model.safetensors: 100.0% of the weights" in capsys.readouterr().err
    weights, card = weights_of(tmp_path / "second")
    assert all(torch.equal(weights[name], source[name]) for name in source)
    assert card.init == {
        "file": "model.safetensors",
        "sha256": sha256(finished),
        "study": "tiny",
        "variant": "base",
        "fold": 0,
        "step": 4,
        "notes": ["100.0% of the weights"],
    }
    assert card.training["init"] == "model.safetensors", "no path of this machine"


def test_a_resumed_training_does_not_start_again(tmp_path, finished):
    trainer_in(tmp_path / "whole", init=str(finished)).run()
    halted = trainer_in(tmp_path / "halted", init=str(finished))
    fail_at(halted, 5, lambda: halted._ask_to_stop(15, None))
    with pytest.raises(Interrupted):
        halted.run()
    trainer_in(tmp_path / "halted", init=str(finished)).run()
    assert_same_run(tmp_path / "whole", tmp_path / "halted")
    scratch, _ = (weights_of(tmp_path / name)[0] for name in ("whole", "first"))
    trainer_in(tmp_path / "scratch").run()
    random = weights_of(tmp_path / "scratch")[0]
    assert any(not torch.equal(random[name], scratch[name]) for name in random), "the start counts"


def test_another_file_to_start_from_is_another_training(tmp_path, finished):
    halted = trainer_in(tmp_path / "halted", init=str(finished))
    fail_at(halted, 5, lambda: halted._ask_to_stop(15, None))
    with pytest.raises(Interrupted):
        halted.run()
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(finished.read_bytes())
    assert trainer_in(tmp_path / "halted", init=str(moved))._restore(), "the same content at another place"
    network, card = load_model(moved, CPU)
    save_model(moved, {**network.state_dict(), "time.0.bias": network.time[0].bias.detach() + 1}, card)
    with pytest.raises(StateMismatch):
        trainer_in(tmp_path / "halted", init=str(moved)).run()


def broken(path: Path, kind: str, finished: Path) -> dict:
    """Write a file that cannot be a start; returns the keys of `training`."""
    if kind == "missing":
        return {}
    if kind == "no model":
        path.write_bytes(b"a picture, perhaps")
    elif kind == "no card":
        save_file(load_file(finished), path)
    elif kind == "half":
        path.write_bytes(finished.read_bytes()[:2000])
    elif kind == "NaN":
        network, card = load_model(finished, CPU)
        weights = network.state_dict()
        weights["time.0.bias"] = torch.full_like(weights["time.0.bias"], torch.nan)
        save_model(path, weights, card)
    else:
        path.write_bytes(finished.read_bytes())
    return {"init_sha256": "0123456789abcdef"} if kind == "another" else {}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "not found, but training.init names it"),
        ("no model", "not a safetensors file.*copy or build it again"),
        ("no card", "expected the slimdiff model card"),
        ("half", "damaged|cut off"),
        ("NaN", "NaN"),
        ("another", "expected a file with the sha256 0123456789abcdef"),
        ("other network", "do not fit the network of this study"),
    ],
)
def test_a_file_that_cannot_be_a_start_is_refused_before_the_first_step(
    prepared, tmp_path, finished, capfd, kind, said
):
    path = tmp_path / "start.safetensors"
    keys = broken(path, kind, finished)
    config = study_with_own_models(prepared, tmp_path, init=str(path), **keys)
    assert cli.run_stage("train", ["--config", str(config), "--variant", "base", "--fold", "0"]) == 2
    error = capfd.readouterr().err
    assert str(path) in error and "Traceback" not in error
    assert re.search(said, error), error
    assert not [found for found in (tmp_path / "results" / prepared.study).rglob("*.safetensors")]


def test_again_from_a_file_that_is_refused_keeps_the_state(prepared, tmp_path, finished):
    config = study_with_own_models(prepared, tmp_path, steps=2)
    command = ["--config", str(config), "--variant", "base", "--fold", "0", "--again"]
    assert cli.run_stage("train", command) == 0
    (state,) = (tmp_path / "results" / prepared.study).rglob("last.pt")
    before = state.read_bytes()
    study_with_own_models(prepared, tmp_path, steps=2, init=str(finished))
    assert cli.run_stage("train", command) == 2
    assert state.read_bytes() == before


def test_the_hash_may_be_its_beginning_in_any_case(finished):
    assert read_start(finished, sha256(finished)[:8].upper()).card.step == 4
