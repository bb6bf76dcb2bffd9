"""The samples are compared with each site alone, and the worst site is named."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.measure import label, regionprops

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.axes.sites import site_axis
from slimdiff.evaluation.metrics import lesions
from slimdiff.evaluation.metrics.components import FEATURES
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.files import MISSING
from slimdiff.generation.samples import Samples

SIDE, SLICES = 48, 4


class Grey:
    """Features of an image that need no weights: means of 16 blocks of its pixels."""

    def stored(self, images, extractor, device=None):
        whole = np.asarray(images[:], np.float64)
        parts = whole.reshape(len(whole), 4, SIDE // 4, 4, SIDE // 4)
        return parts.mean(axis=(2, 4)).reshape(len(whole), 16) / 255


def drawn_slices(n: int, shift: float, grow: int, generator: np.random.Generator):
    """n slices brighter by `shift`, each with a wavy elliptic lesion that is larger by `grow` px."""
    images = generator.normal(-0.2 + shift, 0.1, (n, SIDE, SIDE)).clip(-1, 1)
    masks = np.zeros((n, SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for mask in masks:
        (height, width), (top, left) = generator.uniform(2.5, 6, 2) + grow, generator.integers(16, 32, 2)
        wavy = 0.3 * ndimage.gaussian_filter(generator.standard_normal((SIDE, SIDE)), 1.5)
        found = label(np.hypot((y - top) / height, (x - left) / width) + wavy < 1, connectivity=1)
        # The largest component alone, so that each slice has one lesion.
        mask[found == 1 + np.argmax(np.bincount(found.ravel())[1:])] = 1
    return images.astype(np.float16), masks


def evaluated(
    tmp_path, subjects: dict[str, int], acquisition: str = MISSING, known=True, trained=True
) -> FoldEvaluation:
    """Sites with this number of held-out (and of training) subjects; `bright` is shifted, and the samples look like the
    others."""
    generator = np.random.default_rng(0)
    people, sites, images, masks = [], {}, [], []
    for part in ("test", "train"):
        for site, number in subjects.items():
            number = 1 if part == "train" and not trained else number
            for one in range(number):
                name = f"{part}-{site}-{one}"
                sites[name] = site
                people += [name] * SLICES
                own = drawn_slices(SLICES, 0.3 * (site == "bright"), 6 * (site == "bright"), generator)
                images.append(own[0])
                masks.append(own[1])
    names = np.array(people)
    ones, zeros = np.ones(len(names), int), np.zeros(len(names), int)
    store = SimpleNamespace(
        images=np.concatenate(images),
        masks=np.concatenate(masks),
        participant=names,
        person=names,
        z_bin=zeros,
        label=ones,
        acquisition=np.array([sites[name] if acquisition == "site" else acquisition for name in names]),
    )
    store.n_bins, store.spacing_mm = 1, 1.0
    store.facts = {"bin_centres": [0.0], "min_lesion_px": 5}
    drawn, of_drawn = drawn_slices(60, 0.0, 0, generator)
    samples = Samples(
        drawn,
        (2.0 * of_drawn - 1).astype(np.float16),
        np.zeros(60, int),
        np.ones(60, int),
        np.array([f"s{number}" for number in range(60)]),
    )
    test, train = (np.flatnonzero(np.char.startswith(names, part)) for part in ("test", "train"))
    config = EvaluationConfig(
        min_component_mm2=5, ring_mm=3, bootstrap=40, taus=(), extractors=("alexnet",), device="cpu"
    )
    found = FoldEvaluation(
        store,
        test,
        train,
        samples,
        config,
        FeatureCache(tmp_path),
        {"study": "s", "variant": "v", "fold": 0},
        sites=sites if known else {},
    )
    found.cache = Grey()
    site_axis(found)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("sites"), {"bright": 6, "dark": 7, "few": 3})


def of(evaluation: FoldEvaluation, metric: str, name: str) -> dict:
    (row,) = [row for row in evaluation.by_site if (row["metric"], row["name"]) == (metric, name)]
    return row


@pytest.mark.parametrize("metric", ["kid", "mmd_mf_w1"])
def test_the_site_that_the_samples_do_not_look_like_is_the_worst(two, metric):
    bright, dark = of(two, metric, "bright"), of(two, metric, "dark")
    assert bright["value"] > 3 * dark["value"] and bright["value"] > 3 * bright["floor"]
    assert bright["ci_low"] > dark["ci_high"]
    # The others look like the samples.
    assert bright["others"] == pytest.approx(bright["value"], rel=0.3)
    (row,) = [row for row in two.rows if row["metric"] == f"{metric}_worst_site"]
    assert row["reason"].startswith("site bright, the worst of 2")
    assert "few (3 held-out subjects, at least 5 are required)" in row["reason"]
    keys = ("value", "ci_low", "ci_high", "floor")
    assert [row[key] for key in keys] == [bright[key] for key in keys]


@pytest.mark.parametrize("metric", ["kid", "mmd_mf_w1"])
def test_a_site_with_few_subjects_has_a_reason_and_no_number(two, metric):
    row = of(two, metric, "few")
    assert np.isnan([row[key] for key in ("value", "ci_low", "ci_high", "floor", "others")]).all()
    assert row["subjects"] == 3
    assert row["reason"].startswith("3 held-out subjects") and row["interval_reason"] == (
        "3 held-out subjects, at least 5 are required"
    )


def held_out(evaluation: FoldEvaluation, site: str) -> np.ndarray:
    return np.flatnonzero(np.char.startswith(evaluation.store.participant, f"test-{site}-"))


def test_wasserstein_distance_to_the_others_by_a_plain_computation(two):
    def plain(rows: np.ndarray) -> np.ndarray:
        table = []
        for mask in two.store.masks[rows]:
            (one,) = regionprops(label(mask, connectivity=1))
            table.append([one.area, one.extent, one.axis_major_length, one.axis_minor_length])
        return np.array(table, float)

    names = ("area", "extent", "major_axis", "minor_axis")
    assert set(names) <= set(FEATURES)
    real, others = held_out(two, "bright"), np.r_[held_out(two, "dark"), held_out(two, "few")]
    found = lesions.mmd_mf(*(lesions.component_features(two.store.masks[rows])[0] for rows in (real, others)))
    assert of(two, "mmd_mf_w1", "bright")["others"] == pytest.approx(found.w1_geometric_mean, rel=1e-12)
    a, b = plain(real), plain(others)
    for column, name in enumerate(names):
        expected = wasserstein_distance(a[:, column], b[:, column]) / a[:, column].std()
        assert found.w1[name] == pytest.approx(expected, rel=1e-6)


def test_kid_of_a_site_is_near_the_unbiased_mmd_of_all_pairs(two):
    x = Grey().stored((two.store.images[held_out(two, "bright")].astype(float) + 1) * 127.5, "")
    y = Grey().stored((two.samples.images[:].astype(float) + 1) * 127.5, "")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    xx, yy = kernel(x, x), kernel(y, y)
    n, m = len(x), len(y)
    mmd2 = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    mmd2 -= 2 * kernel(x, y).mean()
    row = of(two, "kid", "bright")
    assert row["n_real"] == n == 24
    assert row["value"] == pytest.approx(mmd2, rel=0.02)


def test_no_rows_without_sites(tmp_path):
    found = evaluated(tmp_path, {"bright": 6, "dark": 6}, known=False)
    assert not found.rows and not found.by_site
    assert not evaluated(tmp_path, {"dark": 6}).rows


def test_acquisitions_are_a_second_kind_only_where_they_are_not_the_sites(tmp_path):
    subjects = {"bright": 6, "dark": 6}
    assert {row["kind"] for row in evaluated(tmp_path, subjects, "site").by_site} == {"site"}
    found = evaluated(tmp_path, subjects, "site", known=False)
    assert {row["kind"] for row in found.by_site} == {"acquisition"}
    assert found.rows[0]["reason"].startswith("acquisition bright, the worst of 2")


def test_a_site_with_few_training_slices_has_a_number_without_a_floor(tmp_path):
    row = of(evaluated(tmp_path, {"bright": 6, "dark": 6}, trained=False), "kid", "bright")
    assert np.isfinite(row["value"]) and np.isnan(row["floor"])
    assert row["reason"].endswith("no floor: 4 training slices, at least 10 are required")
