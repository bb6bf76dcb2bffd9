"""Nearest neighbours against a loop over all pairs, with data that is sensitive to rounding."""

import numpy as np
import pytest
import torch

from slimdiff.evaluation.metrics import neighbours
from slimdiff.evaluation.metrics.neighbours import nearest


def cohort(n, seed, bins=4, d=12):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)), generator.integers(bins, size=n)


def slow_nearest(query, reference, query_bin, reference_bin, metric):
    found = []
    for q, b in zip(query.astype(np.float64), query_bin, strict=True):
        best = (np.nan, -1)
        for j, r in enumerate(reference.astype(np.float64)):
            if reference_bin[j] != b:
                continue
            if metric == "euclidean":
                distance = np.linalg.norm(q - r)
            else:
                a, c = (x.ravel() - x.mean() for x in (q, r))
                distance = np.sum((a / np.linalg.norm(a) - c / np.linalg.norm(c)) ** 2) / 2
            if not best[0] <= distance:
                best = (distance, j)
        found.append(best)
    return np.array([f[0] for f in found]), np.array([f[1] for f in found])


@pytest.mark.parametrize("metric", ["euclidean", "ncc"])
@pytest.mark.parametrize("block", [1024, 3])
def test_nearest_agrees_with_a_loop(metric, block):
    (query, query_bin), (reference, reference_bin) = cohort(30, 0), cohort(40, 1)
    distance, index = nearest(query, reference, query_bin, reference_bin, metric, block)
    slow_distance, slow_index = slow_nearest(query, reference, query_bin, reference_bin, metric)
    assert np.array_equal(index, slow_index)
    assert distance == pytest.approx(slow_distance, rel=1e-9)


def test_the_distance_of_ncc_is_one_minus_the_correlation():
    (query, query_bin), (reference, reference_bin) = cohort(20, 0), cohort(40, 1)
    distance, index = nearest(query, reference, query_bin, reference_bin, "ncc")
    expected = [1 - np.corrcoef(q, reference[i])[0, 1] for q, i in zip(query, index, strict=True)]
    assert distance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", ["euclidean", "ncc"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("away", [0.0, 100.0])
def test_near_copies_are_distinguished(metric, dtype, away):
    """Copies that differ by 1e-4 are closer than the error of a float32 product, above all far from the origin."""
    generator = np.random.default_rng(3)
    centres = generator.standard_normal((6, 300))
    reference = np.repeat(centres, 12, axis=0) + 1e-4 * generator.standard_normal((72, 300))
    query = centres[[0, 3, 5, 2]] + 1e-4 * generator.standard_normal((4, 300))
    query, reference = ((part + away).astype(dtype) for part in (query, reference))
    # Exact copies: the lowest index is returned.
    reference[[20, 30, 44]] = reference[[8, 50, 9]]
    query = np.concatenate([query, reference[[20, 30, 44]]])
    bins = np.zeros(len(reference), int)
    distance, index = nearest(query, reference, bins[: len(query)], bins, metric)
    slow_distance, slow_index = slow_nearest(query, reference, bins[: len(query)], bins, metric)
    assert np.array_equal(index, slow_index)
    assert distance == pytest.approx(slow_distance, rel=1e-6, abs=1e-13)
    assert distance[4:] == pytest.approx(0, abs=1e-13)


def test_without_the_rounding_margin_a_wrong_neighbour_is_returned(monkeypatch):
    """Control of the test above: without the margin for rounding, a wrong near copy is returned."""
    generator = np.random.default_rng(3)
    reference = 100 + generator.standard_normal(300) + 1e-6 * generator.standard_normal((400, 300))
    bins = np.zeros(len(reference), int)
    expected = slow_nearest(reference[:20] + 1e-6, reference, bins[:20], bins, "ncc")[1]
    assert np.array_equal(nearest(reference[:20] + 1e-6, reference, bins[:20], bins, "ncc")[1], expected)
    monkeypatch.setattr(neighbours, "_ROUNDING", 0.0)
    assert not np.array_equal(nearest(reference[:20] + 1e-6, reference, bins[:20], bins, "ncc")[1], expected)


def test_block_sizes_do_not_change_a_bit(monkeypatch, slice_pairs):
    images, _ = slice_pairs
    bins = np.arange(40) % 2
    whole = nearest(images, images[::-1][:31], bins, bins[::-1][:31], "ncc")
    monkeypatch.setattr(neighbours, "_ROWS", 3 * 64 * 64)
    monkeypatch.setattr(neighbours, "_EXACT", 2 * 64 * 64)
    monkeypatch.setattr(neighbours, "_CACHED", 2 * 64 * 64)
    monkeypatch.setattr(neighbours, "_PRODUCTS", 64)
    for a, b in zip(whole, nearest(images, images[::-1][:31], bins, bins[::-1][:31], "ncc"), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("metric", ["euclidean", "ncc"])
def test_a_device_with_low_precision_products_gives_the_same_bits(metric, monkeypatch):
    generator = np.random.default_rng(0)
    # Two distant clusters of near copies.
    clusters = generator.standard_normal((2, 400))[np.arange(300) % 2]
    reference, query = (clusters[:n] + 1e-2 * generator.standard_normal((n, 400)) for n in (300, 30))
    bins = np.zeros(300, int)
    expected = nearest(query, reference, bins[:30], bins, metric)

    def found(device="cpu"):
        again = nearest(query, reference, bins[:30], bins, metric, device=device)
        return all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))

    if torch.cuda.is_available():
        assert found("cuda")
    # As on a GPU with TensorFloat-32: factors are rounded to 11 bits.
    rows = neighbours._rows

    def coarse(*arguments):
        values, norm = rows(*arguments)
        mantissa, exponent = torch.frexp(values)
        return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent), norm

    monkeypatch.setattr(neighbours, "_rows", coarse)
    assert not found()
    # The extra margin of a GPU, here in units of sqrt(400).
    monkeypatch.setattr(neighbours, "_ROUNDING", neighbours._ROUNDING + neighbours._OF_A_CARD / 20)
    assert found()


@pytest.mark.parametrize("metric", ["euclidean", "ncc"])
def test_a_copy_is_found_at_distance_zero(metric, slice_pairs):
    images, _ = slice_pairs
    bins = np.zeros(40, int)
    distance, index = nearest(images[[7, 3]], images, bins[:2], bins, metric)
    assert index.tolist() == [7, 3]
    assert distance == pytest.approx(0, abs=1e-12)


def test_correlation_ignores_gain_and_offset(slice_pairs):
    images = slice_pairs[0].astype(np.float64)
    bins = np.zeros(40, int)
    distance, index = nearest(0.5 * images[:5] + 0.2, images, bins[:5], bins, "ncc")
    assert index.tolist() == [0, 1, 2, 3, 4]
    assert distance == pytest.approx(0, abs=1e-9)


def test_a_constant_image_has_zero_correlation(slice_pairs):
    images, _ = slice_pairs
    distance, index = nearest(np.full((1, 64, 64), 0.1), images, [0], np.zeros(40), "ncc")
    assert (distance.tolist(), index.tolist()) == ([1.0], [0])


def test_a_constant_reference_is_further_away_than_a_weak_correlation():
    """Its normalised vector is zero, so half the squared distance to a unit vector is 0.5, but 1 - correlation is 1."""
    wave = np.sin(np.linspace(0, 20, 100))
    weak = 0.3 * wave + np.random.default_rng(0).standard_normal(100)
    distance, index = nearest(wave[None], np.stack([np.full(100, 0.1), weak]), [0], [0, 0], "ncc")
    correlation = np.corrcoef(wave, weak)[0, 1]
    assert 0 < correlation < 0.5
    assert (index.tolist(), distance.tolist()) == ([1], pytest.approx([1 - correlation]))


def test_only_the_same_z_bin_is_searched():
    query, _ = cohort(2, 0)
    reference = np.concatenate([query, query + 1])
    distance, index = nearest(query, reference, [5, 6], [0, 0, 5, 0])
    assert index.tolist() == [2, -1]
    assert np.isnan(distance[1])


def test_invalid_arguments_are_refused():
    query, bins = cohort(4, 0)
    with pytest.raises(ValueError, match="cosine"):
        nearest(query, query, bins, bins, "cosine")
    with pytest.raises(ValueError, match="z-bin"):
        nearest(query, query, bins[:2], bins)
    with pytest.raises(ValueError, match="of the same length, found 12 and 11"):
        nearest(query, query[:, 1:], bins, bins)
    for bad in (np.nan, np.inf):
        query[1, 2] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            nearest(query, query, np.zeros(4), np.zeros(4))
