import numpy as np
import pytest
import torch

from slimdiff.evaluation.metrics import mmd


def kernel(x, y):
    return torch.exp(-torch.cdist(x, y))


def groups(n, count, seed):
    return np.random.default_rng(seed).integers(2, size=(count, n)).astype(np.float64)


def vectors(n, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 3)))


def slow_sum(x, y, members_x, members_y, within):
    total = 0.0
    for i in np.flatnonzero(members_x):
        for j in np.flatnonzero(members_y):
            if not (within and i == j):
                total += float(np.exp(-np.linalg.norm(x[i].numpy() - y[j].numpy())))
    return total


@pytest.mark.parametrize("rows", [4, 512])
@pytest.mark.parametrize("within", [True, False])
def test_sums_of_overlapping_groups_agree_with_a_loop_over_pairs(monkeypatch, rows, within):
    monkeypatch.setattr(mmd, "ROWS", rows)
    x, in_x = vectors(15, 0), groups(15, 3, 1)
    y, in_y = (x, in_x) if within else (vectors(11, 2), groups(11, 3, 3))
    others = () if within else (y, in_y)
    expected = np.array([[slow_sum(x, y, a, b, within) for b in in_y] for a in in_x])
    assert mmd.group_sums(kernel, x, in_x, *others) == pytest.approx(expected, rel=1e-12)
    paired = mmd.group_sums(kernel, x, in_x, *others, paired=True)
    assert paired == pytest.approx(np.diag(expected), rel=1e-12)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("within", [True, False])
def test_explicit_feature_space_and_blocks_give_the_same_sums(within, paired):
    x, in_x, y, in_y = vectors(15, 0), groups(15, 3, 1), vectors(11, 2), groups(11, 3, 3)
    others = (None, None) if within else (y, in_y)
    explicit = mmd.cubic_sums(x.shape[1])(x, in_x, *others, paired)
    blocked = mmd.group_sums(mmd.polynomial_kernel, x, in_x, *others, paired)
    assert explicit == pytest.approx(blocked, rel=1e-11)


def test_on_device_copies_the_array():
    array = np.ones((3, 2), np.float32)
    copy, _ = mmd.on_device("cpu", array, array)
    copy[0, 0] = 7
    assert array[0, 0] == 1


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("float32", "float32"), torch.float32),
        (("float32", "float64"), torch.float64),
        (("float16", "float16"), torch.float64),
    ],
)
def test_only_float32_stays_float32(dtypes, expected):
    assert {z.dtype for z in mmd.on_device("cpu", *(np.ones((3, 2), dtype) for dtype in dtypes))} == {
        expected
    }


def test_mps_has_no_float64_and_falls_back_to_the_cpu():
    assert mmd.on_device("mps", np.ones((3, 2)))[0].device.type == "cpu"
