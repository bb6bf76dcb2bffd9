"""The evaluation of one variant and fold: the slices that are compared, and the table rows that metrics add."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.data.store import SliceStore
from slimdiff.data.zbins import bin_positions
from slimdiff.devices import pick_device
from slimdiff.evaluation.axes.floor import FLOOR_DRAWS
from slimdiff.evaluation.axes.mix import Selection, cells_of, select
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.evaluation.metrics.grey_levels import to_uint8
from slimdiff.evaluation.registry import describe
from slimdiff.evaluation.statistics.bootstrap import Resampling
from slimdiff.files import MISSING
from slimdiff.generation.samples import Samples
from slimdiff.stored_rows import ChosenRows, ConvertedRows, Rows, StoredRows

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
FLAGGED_COLUMNS = ("id", "z_bin", "class", "space", "distance", "threshold", "train_participant")
TRAINING_SUBJECT_COLUMNS = (
    "space",
    "participant",
    "n_slices",
    "n_nearest",
    "expected_share",
    "n_suspects",
    "closest",
)


def joined(*notes: str) -> str:
    """The notes that are not empty, as one note."""
    return "; ".join(note for note in notes if note)


@dataclass
class FoldEvaluation:
    """Inputs and result rows of the metrics of one variant and fold."""

    store: SliceStore
    test: np.ndarray
    """Store rows of the held-out subjects."""
    train: np.ndarray
    """Store rows of the training subjects."""
    samples: Samples
    config: EvaluationConfig
    cache: FeatureCache
    names: dict
    """Values of the columns study, variant and fold, the same in every row."""
    exact_mix: bool = True
    """Whether the samples have exactly the held-out mix, see `mix.select`; false for training slices as samples."""
    sites: dict[str, str] = field(default_factory=dict)
    """Participant to its site; empty where none is known."""
    rows: list[dict] = field(default_factory=list)
    nearest: list[dict] = field(default_factory=list)
    """The nearest training slice of every sample, in every space."""
    training_subjects: list[dict] = field(default_factory=list)
    """How often each training subject is the nearest, in every space."""
    tau_sweep: list[dict] = field(default_factory=list)
    """One row per threshold, see `axes.mask`."""
    outliers: list[dict] = field(default_factory=list)
    """One row per sample, the most deviating one first, see `axes.outliers`."""
    lesions: list[dict] = field(default_factory=list)
    """One row per lesion of held-out, training and synthetic slices, see `axes.mask`."""
    by_site: list[dict] = field(default_factory=list)
    """One row per site or acquisition and distance, see `axes.sites`."""

    def real(self, rows: np.ndarray) -> tuple[Rows, Rows]:
        """Images float16 and masks uint8 of store rows; they are read when they are indexed."""
        return ChosenRows(self.store.images, rows), ChosenRows(self.store.masks, rows)

    @cached_property
    def selections(self) -> list[Selection]:
        """The slices that image metrics compare: of all z-bins together, then of each z-bin."""
        return [self._select(z_bin) for z_bin in ("all", *range(self.store.n_bins))]

    @cached_property
    def lesion_selection(self) -> Selection:
        """The slices of the lesion class that lesion metrics compare, with several choices for the floor."""
        return self._select("all", label=1, floors=FLOOR_DRAWS)

    def _select(self, z_bin: int | str, label: int | None = None, floors: int = 1) -> Selection:
        store, samples = self.store, self.samples
        test, train = (cells_of(store.z_bin[rows], store.label[rows]) for rows in (self.test, self.train))
        drawn = cells_of(samples.z_bin, samples.label)
        return select(test, drawn, train, self.config.seed, z_bin, label, floors, self.exact_mix)

    @property
    def lesion_rows(self) -> np.ndarray:
        """Store rows of the held-out slices of `lesion_selection`."""
        return self.test[self.lesion_selection.held_out]

    def in_floor(self, rows: np.ndarray) -> list[np.ndarray]:
        """For every choice of the lesion metrics' floor, whether each of these indices into `train` is in it."""
        return [np.isin(rows, chosen) for chosen in self.lesion_selection.floors]

    def resampling(self, rows: np.ndarray) -> Resampling:
        """Bootstrap over the persons of these store rows, each with all its scans."""
        return Resampling.of(self.store.person[rows], self.config.bootstrap, self.config.seed)

    @cached_property
    def device(self) -> torch.device:
        # Distances are computed in float64, which MPS lacks.
        return pick_device(self.config.device, among=("cuda", "cpu"))

    @cached_property
    def z_centres(self) -> np.ndarray:
        """(n_bins,) centre of each z-bin (`data.zbins.bin_positions`); the height of both samples and real slices."""
        return np.asarray(bin_positions(self.store.facts), np.float64)

    @property
    def min_px(self) -> int:
        return max(1, round(self.config.min_component_mm2 / self.store.spacing_mm**2))

    @property
    def min_slice_px(self) -> int:
        """Smallest lesion area of a slice in px: the rule of the slice store, applied to samples too."""
        return int(self.store.facts["min_lesion_px"])

    @property
    def ring_px(self) -> int:
        return max(1, round(self.config.ring_mm / self.store.spacing_mm))

    def features(self, images: np.ndarray | Rows, extractor: str) -> StoredRows:
        """(N, D) features of images; they stay in the cache's folder and are read when they are indexed."""
        grey = ConvertedRows(images, to_uint8, np.uint8)
        return self.cache.stored(grey, extractor, device=self.device)

    @property
    def flagged(self) -> list[dict]:
        """The rows of `nearest` that are flagged, by sample and space."""
        return sorted(
            (row for row in self.nearest if row["flagged"]), key=lambda row: (str(row["id"]), row["space"])
        )

    def add(
        self,
        metric: str,
        value: float,
        z_bin="all",
        extractor=MISSING,
        interval=None,
        floor=np.nan,
        n=0,
        reason="",
        interval_reason="",
    ) -> None:
        """Add a row of metrics.tsv.

        Args:
            metric: a name of the registry.
            interval: the interval; if it has no limits, its own reason is written to `interval_reason`.
            reason: why there is no value, or a note on the value.
            interval_reason: why there is no interval, if `interval` is None.

        Raises:
            ValueError: the registry has no metric of this name.
        """
        describe(metric)
        low, high = (interval.low, interval.high) if interval else (np.nan, np.nan)
        values = {"value": value, "ci_low": low, "ci_high": high, "floor": floor}
        self.rows.append(
            {
                **self.names,
                "z_bin": z_bin,
                "metric": metric,
                "extractor": extractor,
                **{key: float(number) for key, number in values.items()},
                "n": n,
                "reason": reason,
                "interval_reason": (interval and interval.reason) or interval_reason,
            }
        )
