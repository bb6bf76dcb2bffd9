"""Batches do not depend on where the training slices are held."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.tiny_training import CPU, PARTICIPANTS, assert_same_run, tiny_store, trainer_in

from slimdiff.training import data
from slimdiff.training.data import READ_AHEAD, OnDevice, OnDisk, TrainingSet, slice_loader, step_rng


def rows_at(step):
    return step_rng(0, step).integers(18, size=5)


def both(tmp_path):
    store = tiny_store(tmp_path)
    rows = store.rows_of(PARTICIPANTS)
    return OnDevice(store, rows, CPU), OnDisk(store, rows, CPU)


@pytest.mark.parametrize("steps", [range(8), [5, 6, 2, 3, 40, 41]])
def test_slices_read_ahead_equal_those_on_the_device(tmp_path, steps):
    """For consecutive steps, and for steps out of order."""
    on_device, on_disk = both(tmp_path)
    for step in steps:
        for one, other in zip(on_device.read(step, rows_at), on_disk.read(step, rows_at), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_slices_of_the_next_steps_are_loaded_ahead(tmp_path):
    _, on_disk = both(tmp_path)
    loaded = []
    load = on_disk._load
    on_disk._load = lambda rows: loaded.append(rows.tolist()) or load(rows)
    on_disk.read(7, rows_at)
    on_disk.thread.shutdown(wait=True)
    assert loaded == [rows_at(step).tolist() for step in range(7, 8 + READ_AHEAD)]


class RecordingArray:
    """A memory-mapped array that records which rows are read."""

    def __init__(self, array):
        assert isinstance(array, np.memmap)
        self.array, self.rows = array, []

    def __getitem__(self, rows):
        self.rows += rows.tolist()
        return self.array[rows]


def test_from_disk_only_the_rows_of_the_batch_are_read(store):
    rows = store.rows_of(sorted(set(store.participant)))
    images, masks = RecordingArray(store.images), RecordingArray(store.masks)
    kept = slice_loader(dataclasses.replace(store, images=images, masks=masks), rows, CPU, "disk")
    found, _ = kept.at(np.array([3, 3, 0]))
    assert images.rows == masks.rows == [3, 3, 0]
    np.testing.assert_array_equal(found.numpy(), store.images[[3, 3, 0]])


def test_a_store_of_several_blocks_is_copied_completely(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 5)
    store = tiny_store(tmp_path)
    rows = store.rows_of(PARTICIPANTS)
    kept = OnDevice(store, rows, CPU)
    np.testing.assert_array_equal(kept.images.numpy(), store.images[rows])
    np.testing.assert_array_equal(kept.masks.numpy(), store.masks[rows])


@pytest.mark.parametrize(("free", "expected"), [(1.0, OnDisk), (1e12, OnDevice)])
def test_auto_uses_the_device_only_if_memory_suffices(tmp_path, monkeypatch, free, expected):
    monkeypatch.setattr(data, "free_memory", lambda device: free)
    training_set = TrainingSet(tiny_store(tmp_path), PARTICIPANTS, CPU, where="auto")
    assert type(training_set.slices) is expected


def test_training_from_disk_is_bit_identical(tmp_path, monkeypatch):
    for where, kind, free in (("device", OnDevice, 1e12), ("disk", OnDisk, 1.0)):
        monkeypatch.setattr(data, "free_memory", lambda device, free=free: free)
        trainer = trainer_in(tmp_path / where)
        assert type(trainer.set.slices) is kind
        trainer.run()
    assert_same_run(tmp_path / "device", tmp_path / "disk")
