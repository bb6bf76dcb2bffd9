"""One variant and fold under evaluation: what its metrics look at, and the tidy rows that they add."""

from dataclasses import dataclass, field

import numpy as np

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.data.store import SliceStore
from slimdiff.evaluation.features import FeatureCache
from slimdiff.evaluation.ranges import to_uint8
from slimdiff.files import MISSING
from slimdiff.generation.samples import Samples

COLUMNS = (
    "study",
    "variant",
    "fold",
    "z_bin",
    "metric",
    "extractor",
    "value",
    "ci_low",
    "ci_high",
    "floor",
    "n",
    "note",
)
NEAREST_COLUMNS = (
    "id",
    "sample",
    "z_bin",
    "class",
    "train_row",
    "train_participant",
    "distance",
    "threshold",
    "flagged",
    "space",
)


@dataclass
class Cell:
    """Everything that the metrics of one variant and fold look at."""

    store: SliceStore
    test: np.ndarray
    """Store rows of the held-out subjects."""
    train: np.ndarray
    """Store rows of the training subjects."""
    samples: Samples
    config: EvaluationConfig
    cache: FeatureCache
    names: dict
    """Columns study, variant and fold of every row."""
    rows: list[dict] = field(default_factory=list)
    nearest: list[dict] = field(default_factory=list)

    def real(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images float16 and masks uint8 of store rows."""
        return np.asarray(self.store.images[rows]), np.asarray(self.store.masks[rows])

    @property
    def min_px(self) -> int:
        return max(1, round(self.config.min_component_mm2 / self.store.spacing_mm**2))

    @property
    def min_slice_px(self) -> int:
        """The rule that dropped small lesions from the store, for samples too."""
        return int(self.store.facts["min_lesion_px"])

    @property
    def ring_px(self) -> int:
        return max(1, round(self.config.ring_mm / self.store.spacing_mm))

    def features(self, images: np.ndarray, extractor: str) -> np.ndarray:
        return self.cache.extract(to_uint8(images), extractor)

    def add(
        self,
        metric: str,
        value: float,
        z_bin="all",
        extractor=MISSING,
        interval=None,
        floor=np.nan,
        n=0,
        note="",
    ):
        low, high = (interval.low, interval.high) if interval else (np.nan, np.nan)
        if interval and interval.reason:
            note = "; ".join(part for part in (note, f"no interval: {interval.reason}") if part)
        values = {"value": value, "ci_low": low, "ci_high": high, "floor": floor}
        self.rows.append(
            {
                **self.names,
                "z_bin": z_bin,
                "metric": metric,
                "extractor": extractor,
                **{key: float(number) for key, number in values.items()},
                "n": n,
                "note": note,
            }
        )
