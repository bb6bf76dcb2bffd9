"""Views of real and synthetic data against the files that they show."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_sampling import fill, generator_of
from torch.utils.data import ConcatDataset, DataLoader

from slimdiff import datasets
from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.read import read_volume
from slimdiff.generation.samples import read_samples

torchio = pytest.importorskip("torchio")


@pytest.fixture(scope="module")
def study(prepared, trained, tmp_path_factory) -> Study:
    """The prepared study with samples of one fold, in a folder of its own."""
    root = tmp_path_factory.mktemp("datasets")
    (root / prepared.study).symlink_to(prepared.paths.root)
    values = prepared.model_dump(mode="json") | {"results_dir": str(root)}
    study = Study.model_validate_json(json.dumps(values))
    folder = study.paths.samples("base", 0)
    if not folder.exists():
        fill(generator_of(trained), None, folder)
    return study


def test_real_slices_are_the_store_s_rows_of_the_part(study):
    store, parts = SliceStore.open(study.paths.store), read_folds(study.paths.folds, 0)
    seen = set()
    for part in ("train", "val", "test"):
        found = datasets.real_slices(study, 0, part)
        assert len(found) == np.isin(store.participant, parts[part]).sum()
        for item in found:
            name, z = item["name"].split("_z-")
            (row,) = np.flatnonzero((store.participant == name) & (store.z == int(z)))
            np.testing.assert_array_equal(item["image"][0].numpy(), store.images[row].astype(np.float32))
            np.testing.assert_array_equal(item["mask"][0].numpy(), store.masks[row])
            assert (item["z_bin"], item["label"]) == (store.z_bin[row], store.label[row])
            assert item["participant"] in parts[part]
            seen.add(row)
    assert len(seen) == len(store)
    assert {item["label"] for item in found} == {0, 1}


def test_synthetic_slices_are_the_samples_with_masks_at_tau(study):
    samples = read_samples(study.paths.samples("base", 0), study.slices.n_bins)
    found = datasets.synthetic_slices(study, "base", 0)
    assert len(found) == len(samples.id) > 3
    for row, item in enumerate(found):
        assert item["name"] == samples.id[row]
        np.testing.assert_array_equal(item["image"][0].numpy(), samples.images[row].astype(np.float32))
        expected = samples.masks[row].astype(np.float32) > np.float32(study.export.tau)
        np.testing.assert_array_equal(item["mask"][0].numpy(), expected)
    # The threshold counts.
    lower = study.model_copy(update={"export": study.export.model_copy(update={"tau": -0.999})})
    low = sum(float(item["mask"].sum()) for item in datasets.synthetic_slices(lower, "base", 0))
    assert low != sum(float(item["mask"].sum()) for item in found)


def test_real_and_synthetic_slices_mix_in_one_loader(study):
    real, synthetic = datasets.real_slices(study, 0), datasets.synthetic_slices(study, "base", 0)
    loader = DataLoader(ConcatDataset([real, synthetic]), batch_size=8, shuffle=True)
    names, kinds = [], set()
    for batch in loader:
        assert batch["image"].shape[1:] == batch["mask"].shape[1:] == (1, 32, 32)
        assert set(torch.unique(batch["mask"]).tolist()) <= {0.0, 1.0}
        names += batch["name"]
        kinds |= {name == "n/a" for name in batch["participant"]}
    assert len(set(names)) == len(real) + len(synthetic)
    assert kinds == {True, False}


def test_slices_as_subjects_lie_as_in_the_volume(study):
    """The first axis from left to right, the second from posterior to anterior, as in the volume that was cut."""
    slices = datasets.real_slices(study, 0, "test")
    subjects = slices.as_subjects()
    assert isinstance(subjects, torchio.SubjectsDataset)
    assert len(subjects) == len(slices)
    lesioned = next(i for i in range(len(slices)) if slices[i]["label"])
    for i in (0, lesioned):
        subject = subjects[i]
        name, z = subject.name.split("_z-")
        for kind, image in (("image", subject.image), ("mask", subject.mask)):
            volume = read_volume(study.paths.volume(name, kind), name).values[:, :, int(z)]
            np.testing.assert_allclose(image.data[0, :, :, 0].numpy(), volume, atol=1e-3)
        assert subject.image.spacing == pytest.approx((slices.spacing_mm,) * 3)
        assert subject.image.orientation == ("R", "A", "S")
    flipped = torchio.RandomFlip(axes=0, flip_probability=1)(subjects[lesioned])
    assert not torch.equal(flipped.mask.data, subjects[lesioned].mask.data)


def test_volumes_are_those_of_the_part_and_all_without_a_fold(study):
    parts = read_folds(study.paths.folds, 0)
    found = datasets.real_volumes(study, 0, "val")
    assert sorted(subject.participant for subject in found) == sorted(parts["val"])
    everyone = datasets.real_volumes(study)
    assert len(everyone) == sum(map(len, parts.values()))
    name = found[0].participant
    expected = read_volume(study.paths.volume(name, "image"), name).values
    np.testing.assert_allclose(found[0].image.data[0].numpy(), expected, atol=1e-6)
    assert found[0].mask.data.unique().tolist() in ([0], [0, 1])


def test_an_unknown_part_and_an_index_out_of_range_are_refused(study):
    with pytest.raises(ValueError, match="part: expected one of train, val, test, found 'validation'"):
        datasets.real_slices(study, 0, "validation")
    with pytest.raises(ValueError, match="part: expected one of train"):
        datasets.real_volumes(study, 0, "x")
    found = datasets.real_slices(study, 0)
    with pytest.raises(IndexError):
        found[len(found)]
    with pytest.raises(FileNotFoundError, match="run the stage generate"):
        datasets.synthetic_slices(study, "missing_variant", 1)
