"""Tiny data, evaluated once, with the slices that metrics compare as docs/metrics.md defines them."""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluation.twin.naive import cells, choose, grey_levels
from scipy import ndimage

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.evaluate import evaluate
from slimdiff.evaluation.metrics.features import FeatureCache, extract
from slimdiff.generation.samples import Samples

SEED, TAU, SPACING, BINS, FEWEST_PIXELS = 5, 0.05, 2.0, 3, 12


class Twin:
    """The arrays of three sets, the naive choices of slices, and the rows that slimdiff wrote."""

    def __init__(self, held_out, training, samples, cell):
        self.held_out, self.training, self.samples = held_out, training, samples
        self.rows, self.cell = cell.rows, cell
        self.seed, self.spacing, self.bins, self.fewest_pixels = SEED, SPACING, BINS, FEWEST_PIXELS
        self.fewest_in_component = max(1, round(7.8125 / SPACING**2))
        self.ring_pixels = max(1, round(6.25 / SPACING))

    def choice(self, z_bin="all", label=None, floor_draws=1):
        sets = (cells(one.z_bin, one.label) for one in (self.held_out, self.samples, self.training))
        return choose(*sets, self.seed, z_bin, label, floor_draws)

    def check(self, metric, value=None, floor=None, z_bin="all", extractor=None, tolerance=1e-6):
        """Compare value and floor with the row of slimdiff; None is not compared."""
        found = [
            row
            for row in self.rows
            if row["metric"] == metric and row["z_bin"] == z_bin and extractor in (None, row["extractor"])
        ]
        assert len(found) == 1, (metric, z_bin, extractor, len(found))
        for column, naive in (("value", value), ("floor", floor)):
            if naive is not None:
                expected = pytest.approx(naive, rel=tolerance, abs=tolerance, nan_ok=True)
                assert found[0][column] == expected, (metric, z_bin, column)


def real_slices(make_pairs) -> SimpleNamespace:
    """200 slices of 20 participants, some with several lesions or with a lesion of a single pixel.

    Two of every three participants are scans of one person, whose name is that of the first scan.
    """
    generator = np.random.default_rng(0)
    images, masks = make_pairs(200, 3)
    subject = np.array([f"sub-{i // 10:02d}" for i in range(200)])
    number = np.arange(200) // 10
    first_scan = np.maximum(0, np.where(number % 3 == 0, number - 1, number))
    person = np.array([f"sub-{i:02d}" for i in first_scan])
    z_bin = np.sort(np.tile(np.arange(10) % BINS, 20).reshape(20, 10), axis=1).ravel()
    lesion = generator.random(200) < 0.7
    masks = masks & lesion[:, None, None]
    for i in np.flatnonzero(lesion)[::4]:
        masks[i, 30:32, 20:24] = True
        masks[i, 40, 40] = True
    pixels = masks.sum(axis=(1, 2))
    kept = (pixels == 0) | (pixels >= FEWEST_PIXELS)
    # Training subjects have fewer slices of one cell than the mix asks for.
    few = (subject < "sub-11") & (subject > "sub-01") & (z_bin == 0) & (pixels == 0)
    kept &= ~few
    return SimpleNamespace(
        image=images[kept],
        mask=masks[kept],
        subject=subject[kept],
        person=person[kept],
        z_bin=z_bin[kept],
        label=(pixels[kept] > 0).astype(int),
    )


def synthetic_slices(make_pairs) -> SimpleNamespace:
    """90 samples; some of class 0 have a lesion, and one cell has no sample."""
    generator = np.random.default_rng(1)
    images, masks = make_pairs(90, 77, contrast=0.35)
    z_bin = np.sort(generator.integers(0, BINS, 90))
    label = (generator.random(90) < 0.7).astype(int)
    label[(z_bin == 2) & (label == 0)] = 1
    masks = masks & ((label == 1) | (generator.random(90) < 0.3))[:, None, None]
    smooth = ndimage.gaussian_filter(masks * 2.0 - 1, (0, 1, 1)) + 0.1 * generator.standard_normal(
        masks.shape
    )
    return SimpleNamespace(
        image=images,
        raw_mask=np.clip(smooth, -1, 1).astype(np.float16),
        mask=np.clip(smooth, -1, 1).astype(np.float16).astype(float) > TAU,
        z_bin=z_bin,
        label=label,
    )


@pytest.fixture(scope="session")
def twin(make_pairs, alexnet, tmp_path_factory) -> Twin:
    """The evaluation of slimdiff and everything that a naive one needs."""
    real, fake = real_slices(make_pairs), synthetic_slices(make_pairs)
    store = SimpleNamespace(
        images=real.image,
        masks=real.mask.astype(np.uint8),
        participant=real.subject,
        person=real.person,
        z_bin=real.z_bin,
        label=real.label,
        acquisition=np.full(len(real.z_bin), "n/a"),
        z=np.arange(len(real.z_bin)),
        n_bins=BINS,
        spacing_mm=SPACING,
        facts={"bin_centres": [10.0, 12.5, 15.0], "min_lesion_px": FEWEST_PIXELS},
    )
    rows = {
        "training": np.flatnonzero(real.subject < "sub-11"),
        "held_out": np.flatnonzero(real.subject >= "sub-11"),
    }
    names = np.array([f"z{z}_{i:03d}" for i, z in enumerate(fake.z_bin)])
    samples = Samples(fake.image, fake.raw_mask, fake.z_bin, fake.label, names)
    config = EvaluationConfig(bootstrap=5, device="cpu", seed=SEED, lpips_pairs=40, tau=TAU)
    cache = FeatureCache(tmp_path_factory.mktemp("features"))
    about = {"study": "twin", "variant": "v", "fold": 0}
    cell = evaluate(FoldEvaluation(store, rows["held_out"], rows["training"], samples, config, cache, about))
    parts = {
        part: SimpleNamespace(**{name: values[chosen] for name, values in vars(real).items()})
        for part, chosen in rows.items()
    }
    for one in (*parts.values(), fake):
        one.feature = extract(grey_levels(one.image), alexnet, progress=False)
    fake.id = names
    return Twin(parts["held_out"], parts["training"], fake, cell)
