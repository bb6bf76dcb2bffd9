"""The memorisation axis: nearest training slices of samples and held-out slices, in features and in pixels."""

import numpy as np

from slimdiff.evaluation import memorisation, statistics
from slimdiff.evaluation.cell import Cell


def memorisation_axis(cell: Cell) -> None:
    """Nearest training slices of samples and of held-out slices, in features and in pixels."""
    config, store, samples = cell.config, cell.store, cell.samples
    test_images, train_images = cell.real(cell.test)[0], cell.real(cell.train)[0]
    extractor = config.extractors[0]
    spaces = {
        extractor: ("euclidean", lambda images: cell.features(images, extractor)),
        "pixels": ("ncc", lambda images: np.asarray(images, np.float32)),
    }
    test_bins, train_bins = store.z_bin[cell.test], store.z_bin[cell.train]
    subjects = store.participant[cell.test]
    for space, (metric, represent) in spaces.items():
        train = represent(train_images)
        distance, index = memorisation.nearest(
            represent(samples.images), train, samples.z_bin, train_bins, metric
        )
        test_distance, _ = memorisation.nearest(represent(test_images), train, test_bins, train_bins, metric)
        found = memorisation.memorisation(distance, test_distance, subjects, config.seed)
        middle = np.median(distance[np.isfinite(distance)])
        interval = statistics.subject_bootstrap(
            lambda rows, middle=middle, d=test_distance: middle / np.nanmedian(d[rows]),
            subjects,
            config.bootstrap,
            config.seed,
        )
        n = len(distance)
        cell.add("memorisation_ratio", found.ratio, extractor=space, interval=interval, floor=1.0, n=n)
        note = (
            f"threshold from {found.n_calibration} held-out slices; floor column: share of the other half's"
        )
        cell.add(
            "suspect_share", found.suspect_share, extractor=space, floor=found.check_share, n=n, note=note
        )
        cell.add(
            "suspect_share_ref",
            found.suspects_ref.mean(),
            extractor=space,
            n=n,
            note="closer than any test slice",
        )
        cell.add("memorisation_w1", found.w1, extractor=space, n=n)
        for i in range(n):
            row = int(cell.train[index[i]]) if index[i] >= 0 else None
            cell.nearest.append(
                {
                    "id": samples.id[i],
                    "sample": i,
                    "z_bin": int(samples.z_bin[i]),
                    "class": int(samples.label[i]),
                    "train_row": row,
                    "train_participant": store.participant[row] if row is not None else None,
                    "distance": float(distance[i]),
                    "threshold": found.threshold,
                    "flagged": int(found.suspects[i]),
                    "space": space,
                }
            )
