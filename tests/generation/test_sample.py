"""`slimdiff.sample`: arrays from a checkpoint, the same as those of the stage."""

import numpy as np
import pytest

import slimdiff
from slimdiff import cli, load_model, sample
from slimdiff.generation.samples import read_samples

SETTINGS = {"evaluations": 3, "device": "cpu", "seed": 5}


def test_the_samples_are_those_of_the_stage(checkpoint, study, tmp_path):
    name = study(generation={"evaluations": 3, "seed": 5, "per_bin_and_class": 3, "where": "everywhere"})
    arguments = ["--config", name, "--ckpt", str(checkpoint), "--out-dir", "drawn", "--z-bins", "1"]
    assert cli.run_stage("generate", arguments) == 0
    drawn = read_samples(tmp_path / "drawn")
    for label in (0, 1):
        images, masks = sample(checkpoint, 3, 1, label, **SETTINGS)
        rows = (drawn.z_bin == 1) & (drawn.label == label)
        assert np.array_equal(images, np.asarray(drawn.images[rows], np.float32))
        assert np.array_equal(masks, np.asarray(drawn.masks[rows], np.float32) > 0)
    # Fewer samples are the first ones, and the class and the z-bin matter.
    first, _ = sample(checkpoint, 1, 1, 1, **SETTINGS)
    assert np.array_equal(first[0], images[0])
    other, _ = sample(checkpoint, 1, 2, 1, **SETTINGS)
    assert not np.array_equal(other, first)


def test_a_given_part_is_in_the_sample(checkpoint):
    values = np.full((2, 2, 8, 8), 0.25, np.float32)
    where = np.zeros_like(values, bool)
    where[:, 0, :, :4] = True
    images, _ = sample(checkpoint, 2, 0, 0, fixed=(values, where), background="drawn", **SETTINGS)
    assert (images[:, :, :4] == 0.25).all() and not (images[:, :, 4:] == 0.25).all()


def test_the_network_and_its_card(checkpoint):
    network, card = load_model(checkpoint)
    assert card.study == "tiny" and not network.training
    assert next(network.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 0}, "n: expected a whole number from 1 up, found 0"),
        ({"z_bin": 3}, "z_bin: expected a whole number from 0 to 2, found 3"),
        ({"label": 2}, "label: expected a whole number from 0 to 1, found 2"),
        ({"evaluation": 3}, "settings.evaluation: unknown key"),
        ({"evaluations": 0}, "settings.evaluations: expected"),
        (
            {"fixed": (np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 4), bool))},
            r"expected values and where of shape \(1, 2, 8, 8\)",
        ),
    ],
)
def test_wrong_arguments_are_named(checkpoint, changes, said):
    given = {"n": 1, "z_bin": 0, "label": 0, **changes}
    with pytest.raises(ValueError, match=said):
        sample(checkpoint, **given)


def test_other_names_of_the_package_are_errors():
    assert {"SliceStore", "load_model", "sample"} <= set(dir(slimdiff))
    with pytest.raises(AttributeError, match="has no attribute 'samples_of'"):
        slimdiff.samples_of  # noqa: B018
