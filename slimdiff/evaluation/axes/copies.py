"""Closest training slices of samples and held-out slices in the spaces of `evaluation.copies`, and in all together."""

import numpy as np

from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.copies.contrastive import learnt_once, reduced
from slimdiff.evaluation.copies.spaces import JOINT, LESIONS, Search, Slices, joint, units
from slimdiff.evaluation.statistics.bootstrap import FEWEST_SUBJECTS
from slimdiff.stored_rows import ConvertedRows

Found = tuple[np.ndarray, np.ndarray]
"""Distance, and index into the training slices; NaN and -1 where there is none."""
UNMATCHED = {LESIONS: "samples without a lesion, or without a training lesion"}


def found_in_spaces(evaluation: FoldEvaluation) -> dict[str, tuple[Found, Found]]:
    """Space to what was found for samples and for held-out slices, the joint space first."""
    store, samples, config = evaluation.store, evaluation.samples, evaluation.config
    train, test = (_stored(evaluation, rows) for rows in (evaluation.train, evaluation.test))
    small = reduced(train.images)
    network = learnt_once(evaluation.cache.folder, small, train.z_bin, config.seed, evaluation.device)
    rule = (config.tau, evaluation.min_px, evaluation.device)
    search = Search(train, store.person[evaluation.train], network, small, *rule)
    of_test = search.closest(test)
    of_samples = search.closest(Slices(samples.images, samples.masks, samples.z_bin))
    used = [space for space in of_test if space != LESIONS or not too_few_lesions(evaluation)]
    # Spaces without a value have no part in the joint one.
    of_units = units({space: of_test[space][0] for space in used})
    result = {JOINT: (joint(of_samples, of_units), joint(of_test, of_units))}
    if LESIONS not in used:
        of_samples[LESIONS] = (np.full_like(of_samples[LESIONS][0], np.nan), of_samples[LESIONS][1] * 0 - 1)
    return result | {space: (of_samples[space], of_test[space]) for space in of_test}


def too_few_lesions(evaluation: FoldEvaluation) -> str:
    """Why the space of lesions has no value: fewer held-out subjects with a lesion than an interval needs; or empty."""
    ill = evaluation.test[evaluation.store.label[evaluation.test] == 1]
    count = len(np.unique(evaluation.store.person[ill]))
    if count >= FEWEST_SUBJECTS:
        return ""
    return f"{count} held-out subjects with a lesion, at least {FEWEST_SUBJECTS} are required"


def _stored(evaluation: FoldEvaluation, rows: np.ndarray) -> Slices:
    images, masks = evaluation.real(rows)
    return Slices(images, ConvertedRows(masks, _signed, np.float16), evaluation.store.z_bin[rows])


def _signed(masks: np.ndarray) -> np.ndarray:
    """Masks {0, 1} as those of samples: -1 outside a lesion, 1 inside."""
    return 2 * masks.astype(np.float16) - 1
