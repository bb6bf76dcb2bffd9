"""The lesions of a set of slices in every form that mask metrics look at, and those metrics along the threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimdiff.evaluation import masks, robust
from slimdiff.evaluation.morphology import Components, components_of


@dataclass(frozen=True)
class Lesions:
    """Components with their shapes, and one vector a lesion slice."""

    components: Components
    vectors: np.ndarray
    """(L, 8), columns as `robust.COLUMNS`."""
    slices: np.ndarray
    """(L,) which slice each vector describes."""

    @property
    def shapes(self) -> np.ndarray:
        """(M, 9), columns as `morphology.FEATURES`."""
        return self.components.features


def lesions_of(
    lesion_masks: np.ndarray, z: np.ndarray, tau: float = 0.0, min_px: int = 5, min_slice_px: int = 0
) -> Lesions:
    """The lesions of slices at known heights.

    Args:
        lesion_masks: (N, H, W), see `masks.binarise`.
        z: (N,) height of each slice, see `robust.slice_vectors`.
        tau: threshold of continuous masks.
        min_px, min_slice_px: see `masks.component_features`.
    """
    found = components_of(masks.binarise(lesion_masks, tau), min_px, min_slice_px)
    return Lesions(found, *robust.slice_vectors(found, z))


def tau_sweep(
    real: Lesions,
    synthetic_masks: np.ndarray,
    z: np.ndarray,
    taus: Sequence[float],
    seed: int,
    subsets: int = 100,
    min_px: int = 5,
    min_slice_px: int = 0,
) -> list[dict[str, float]]:
    """The mask metrics for every threshold of the synthetic masks; real ones are binary.

    Args:
        real: lesions of held-out slices.
        synthetic_masks: (M, H, W) continuous, in [-1, 1].
        z: (M,) their heights.
        taus: thresholds.
        seed, subsets: see `kernels.subset_mmd2`.
        min_px, min_slice_px: see `masks.component_features`.

    Returns:
        A row per tau: tau, n_slices and n_components (synthetic, with a lesion), mmd_mf, mmd_mf_w1 (geometric mean),
        mmd_robust.
    """
    rows = []
    for tau in taus:
        drawn = lesions_of(synthetic_masks, z, tau, min_px, min_slice_px)
        distance = masks.mmd_mf(real.shapes, drawn.shapes, seed, subsets)
        rows.append(
            {
                "tau": tau,
                "n_slices": len(drawn.vectors),
                "n_components": len(drawn.shapes),
                "mmd_mf": distance.mmd.value,
                "mmd_mf_w1": distance.w1_geometric_mean,
                "mmd_robust": robust.robust_mmd(real.vectors, drawn.vectors, 0, seed).value,
            }
        )
    return rows
