"""The unbiased squared MMD of any kernel, from its sums over groups of vectors (Gretton et al. 2012).

Sums are taken block by block, so that memory does not grow with the square of the sets; on one machine the same vectors
give the same bits. Needs torch and numpy only.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FEWEST = 10  # below this many vectors in either set an MMD says nothing
ROWS = 512  # kernel rows and columns held at once


def unbiased_mmd2(within_real, within_synthetic, across, n_real, n_synthetic):
    """Squared MMD from kernel sums (Gretton et al. 2012, eq. 3).

    Args:
        within_real, within_synthetic: sums over ordered pairs of different vectors of a set.
        across: sum over all pairs of a real and a synthetic vector.
        n_real, n_synthetic: vectors in each set.
    """
    of_real = within_real / (n_real * (n_real - 1))
    of_synthetic = within_synthetic / (n_synthetic * (n_synthetic - 1))
    return of_real + of_synthetic - 2 * across / (n_real * n_synthetic)


def group_sums(
    kernel: Kernel,
    x: torch.Tensor,
    in_x: np.ndarray,
    y: torch.Tensor | None = None,
    in_y: np.ndarray | None = None,
    paired: bool = False,
) -> np.ndarray:
    """Sums of a kernel over the pairs of vectors of two groups, every entry computed once for all groups.

    Args:
        kernel: symmetric; takes (n, D) and (m, D), gives (n, m).
        x: (N, D).
        in_x: (A, N) 0/1, the members of each group.
        y, in_y: (M, D) and (B, M); None: x and in_x themselves, and no vector is paired with itself.
        paired: only each group of x with the group of y that has its number.

    Returns:
        (A, B) float64, or (A,) if paired.
    """
    within = y is None
    in_x = torch.from_numpy(in_x).to(x.device, torch.float64)
    y, in_y = (x, in_x) if within else (y, torch.from_numpy(in_y).to(x.device, torch.float64))
    total = torch.zeros(len(in_x) if paired else (len(in_x), len(in_y)), dtype=torch.float64, device=x.device)
    for rows, columns in product(blocks(len(x)), blocks(len(y))):
        if within and columns.start < rows.start:
            continue
        entries = kernel(x[rows], y[columns]).double()
        if within and rows == columns:
            entries.fill_diagonal_(0)
        part = in_x[:, rows] @ entries
        part = (part * in_y[:, columns]).sum(dim=1) if paired else part @ in_y[:, columns].T
        total += part
        if within and rows != columns:
            # the block on the other side of the diagonal
            total += part if paired else part.T
    return total.cpu().numpy()


def blocks(n: int) -> Iterator[slice]:
    """Rows 0 ... n - 1 in blocks."""
    for start in range(0, n, ROWS):
        yield slice(start, start + ROWS)


def resampled_by_subject(
    sums: Callable[..., np.ndarray],
    x: torch.Tensor,
    y: torch.Tensor,
    subjects: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Unbiased squared MMD under any kernel for every resampling of the real subjects.

    A subject drawn twice is two subjects that look alike: its vectors are paired within each copy, never
    across the copies of itself, because the kernel of a vector with itself would lift every resampling above
    the estimate. What is averaged over those pairs is k(x, x') - c(x) - c(x'), where c(x) is the mean kernel with the
    synthetic vectors: without resampling that is the estimate itself, and with it the pairs that are left out weigh
    the same in both terms. Otherwise their main effects do not cancel, and near 0 the spread is several times too wide.

    Args:
        sums: the kernel's sums between groups, `group_sums` without its first argument.
        x, y: (N, D) real and (M, D) synthetic vectors.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,) float64; NaN where a set has fewer than 10 vectors, or a resampling has no pair.

    Raises:
        ValueError: subjects that do not fit.
    """
    check_subjects(x, subjects, counts)
    counts, n = np.asarray(counts, np.float64), len(y)
    if not len(counts) or min(len(x), n) < FEWEST:
        return np.full(len(counts), np.nan)
    member, everything = np.eye(counts.shape[1])[:, subjects], np.ones((1, n))
    size = member.sum(axis=1)
    # Per subject the sum of c(x); per two subjects that of k(x, x') - c(x) - c(x').
    across = sums(x, member, y, everything)[:, 0] / n
    between = sums(x, member) - np.outer(across, size) - np.outer(size, across)
    of_synthetic = sums(y, everything)[0, 0] / (n * (n - 1))
    # Within a subject no vector is paired with itself, so c(x) stands there once less for each.
    own, own_pairs = np.diag(between) + 2 * across, size * (size - 1)
    pairs = np.outer(size, size)
    np.fill_diagonal(between, 0)
    np.fill_diagonal(pairs, 0)
    kernel_sum = np.einsum("bs,st,bt->b", counts, between, counts, optimize=True) + counts @ own
    pair_sum = np.einsum("bs,st,bt->b", counts, pairs, counts, optimize=True) + counts @ own_pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        return kernel_sum / pair_sum + of_synthetic


def on_device(device: str | torch.device, *sets: np.ndarray) -> list[torch.Tensor]:
    """Copies on the device, float32 where all are float32, else float64. Copies, because the last bits of a matrix
    product depend on where in memory its factors begin, and torch's begin at round addresses."""
    precision = torch.float32 if all(z.dtype == np.float32 for z in sets) else torch.float64
    # Sums are taken in float64, which MPS does not have.
    device = "cpu" if torch.device(device).type == "mps" else device
    return [torch.tensor(z, dtype=precision, device=device) for z in sets]


def check_subjects(real: np.ndarray | torch.Tensor, subjects: np.ndarray, counts: np.ndarray) -> None:
    """Raises ValueError where there is not one subject index of the counts' S subjects for each real vector."""
    found, n_subjects = len(subjects), np.shape(counts)[1]
    if found != len(real) or (found and np.max(subjects) >= n_subjects):
        raise ValueError(f"{found} subject indices below {n_subjects} do not fit {len(real)} vectors")
