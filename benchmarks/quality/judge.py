"""Metrics for the sampling benchmarks: those of the stage `metrics`, without floors and intervals."""

import argparse

import numpy as np

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.metrics import lesion_contrast, lesions
from slimdiff.evaluation.metrics.features import FeatureCache, extract
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.metrics.kid import kid
from slimdiff.evaluation.metrics.memorisation import bin_scales, memorisation
from slimdiff.evaluation.metrics.neighbours import nearest
from slimdiff.generation.generator import Generator
from slimdiff.generation.requests import Request, requests_of_bin


def cell_parser(description: str) -> argparse.ArgumentParser:
    """A command-line parser for a study, a variant and a fold; default: fold 0 of the demo."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/demo.yaml")
    parser.add_argument("--variant", default="base")
    parser.add_argument("--fold", type=int, default=0)
    return parser


def drawn_requests(
    generator: Generator, labels: tuple[int, ...] = (0, 1), name: str = "sample"
) -> tuple[list[Request], np.ndarray, np.ndarray]:
    """Requests for every z-bin and these classes, as configured in the generator, with their images and masks."""
    card, config = generator.card, generator.config
    requests = [
        request
        for z_bin in range(card.n_bins)
        for request in requests_of_bin(config, card.fold, card.variant, z_bin)
        if request.label in labels
    ]
    return requests, *generator.draw(requests, name)


class Judge:
    """Evaluates samples against the held-out slices of a fold and, for memorisation, its training slices."""

    def __init__(self, study: Study, fold: int):
        self.store = SliceStore.open(study.paths.store)
        self.config, self.extractor = study.evaluation, study.evaluation.extractors[0]
        parts = read_folds(study.paths.folds, fold)
        self.test, self.train = (self.store.rows_of(parts[name]) for name in ("test", "train"))
        cache = FeatureCache(study.paths.root / "metrics" / "features")
        self.real, self.learnt = (
            cache.extract(to_uint8(self.images(rows)), self.extractor, progress=False)
            for rows in (self.test, self.train)
        )
        spacing = self.store.spacing_mm
        self.min_px = max(1, round(self.config.min_component_mm2 / spacing**2))
        self.options = {
            "tau": self.config.tau,
            "min_px": self.min_px,
            "min_slice_px": int(self.store.facts["min_lesion_px"]),
        }
        self.ring = {"ring_px": max(1, round(self.config.ring_mm / spacing))}
        test_masks = np.asarray(self.store.masks[self.test])
        self.real_shapes, _ = lesions.component_features(test_masks, **self.options)
        self.real_pairs, _ = lesion_contrast.pair_features(
            self.images(self.test), test_masks, **self.options, **self.ring
        )

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Images of store rows."""
        return np.asarray(self.store.images[rows])

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of images in [-1, 1]."""
        return extract(to_uint8(images), self.extractor, progress=False)

    def image_numbers(self, images: np.ndarray, z_bin: np.ndarray) -> dict[str, float]:
        """KID, and memorisation in features and pixels."""
        config, store = self.config, self.store
        drawn = self.features(images)
        found = {"kid": kid(self.real, drawn, config.seed).value}
        subjects, bins = store.person[self.test], (store.z_bin[self.test], store.z_bin[self.train])
        pixels = [
            np.asarray(part, np.float32) for part in (images, self.images(self.test), self.images(self.train))
        ]
        for space, metric, (own, real, learnt) in (
            ("features", "euclidean", (drawn, self.real, self.learnt)),
            ("pixels", "ncc", pixels),
        ):
            distance, _ = nearest(own, learnt, z_bin, bins[1], metric)
            of_test, _ = nearest(real, learnt, *bins, metric)
            scales = bin_scales(of_test, bins[0], store.n_bins)
            answer = memorisation(distance, of_test, subjects, config.seed, scales[z_bin], scales[bins[0]])
            found[f"r_{space}"] = answer.ratio
            found[f"suspects_{space}"] = float(answer.suspect_share)
        return found

    def mask_numbers(self, images: np.ndarray, drawn: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """MMD-MF and MMD-PL of class-1 samples, and class fidelity of all samples."""
        config, chosen = self.config, label == 1
        shapes, _ = lesions.component_features(drawn[chosen], **self.options)
        fidelity = lesions.class_fidelity(drawn, label, config.tau, self.min_px)
        return {
            "mmd_mf": lesions.mmd_mf(self.real_shapes, shapes).mmd,
            **self.pair_numbers(images[chosen], drawn[chosen]),
            "class1": fidelity.lesion_share,
            "class0": 1 - fidelity.clean_share,
        }

    def pair_numbers(self, images: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
        """MMD-PL, and the median contrast of a mask to its ring, relative to held-out slices."""
        own, _ = lesion_contrast.pair_features(images, drawn, **self.options, **self.ring)
        column = lesion_contrast.FEATURES.index("delta")
        contrast = np.median(own[:, column]) / np.median(self.real_pairs[:, column]) if len(own) else np.nan
        distance = lesion_contrast.mmd_pl(self.real_pairs, own).mmd
        return {"mmd_pl": distance, "contrast": float(contrast)}
