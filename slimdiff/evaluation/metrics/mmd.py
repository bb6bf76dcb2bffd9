"""The unbiased squared MMD of any kernel, from sums of the kernel over groups of vectors (Gretton et al. 2012).

Sums are computed in blocks, so memory does not grow with the square of the set size. On one machine the same vectors
give bit-identical results. Needs only torch and numpy.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch

from slimdiff.stored_rows import Rows, blocks_of

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MIN_VECTORS = 10  # with fewer vectors in either set the MMD is NaN
ROWS = 512  # kernel rows and columns in memory
LARGEST_SYNTHETIC = 20_000
"""Synthetic vectors in a sum of a kernel over all of their pairs, whose time grows with the square of their number."""
_CHECKED = 2**23  # values in memory


def unbiased_mmd2(within_real, within_synthetic, across, n_real, n_synthetic):
    """Squared MMD from kernel sums (Gretton et al. 2012, eq. 3).

    Args:
        within_real, within_synthetic: kernel sums over ordered pairs of different vectors within a set.
        across: kernel sum over all pairs of a real and a synthetic vector.
        n_real, n_synthetic: number of vectors in each set.
    """
    of_real = within_real / (n_real * (n_real - 1))
    of_synthetic = within_synthetic / (n_synthetic * (n_synthetic - 1))
    return of_real + of_synthetic - 2 * across / (n_real * n_synthetic)


def at_most(vectors: np.ndarray | Rows, largest: int | None = None) -> np.ndarray:
    """The vectors, or a random choice of `largest` of them (None: LARGEST_SYNTHETIC), in their order.

    The choice is always the same for a number of vectors. The estimate stays unbiased.
    """
    largest = LARGEST_SYNTHETIC if largest is None else largest
    if len(vectors) <= largest:
        return np.asarray(vectors)
    return vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:largest])]


def group_sums(
    kernel: Kernel,
    x: torch.Tensor,
    in_x: np.ndarray,
    y: torch.Tensor | None = None,
    in_y: np.ndarray | None = None,
    paired: bool = False,
) -> np.ndarray:
    """Sums of a kernel over the pairs of vectors of two groups; each kernel entry is computed once for all groups.

    Args:
        kernel: symmetric function of (n, D) and (m, D) that returns (n, m).
        x: (N, D) vectors.
        in_x: (A, N) 0/1, the members of each group.
        y, in_y: (M, D) vectors and (B, M) groups. None: x and in_x; then no vector is paired with itself.
        paired: sum only over group i of x with group i of y.

    Returns:
        (A, B) float64, or (A,) if paired.
    """
    within = y is None
    in_x = torch.from_numpy(in_x).to(x.device, torch.float64)
    y, in_y = (x, in_x) if within else (y, torch.from_numpy(in_y).to(x.device, torch.float64))
    total = torch.zeros(len(in_x) if paired else (len(in_x), len(in_y)), dtype=torch.float64, device=x.device)
    for rows, columns in product(row_blocks(len(x)), row_blocks(len(y))):
        if within and columns.start < rows.start:
            continue
        entries = kernel(x[rows], y[columns]).double()
        if within and rows == columns:
            entries.fill_diagonal_(0)
        part = in_x[:, rows] @ entries
        part = (part * in_y[:, columns]).sum(dim=1) if paired else part @ in_y[:, columns].T
        total += part
        if within and rows != columns:
            # The mirrored block below the diagonal.
            total += part if paired else part.T
    return total.cpu().numpy()


def row_blocks(n: int) -> Iterator[slice]:
    """Slices that cover rows 0 ... n - 1 in blocks."""
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

    A subject drawn twice counts as two similar subjects. Its vectors are paired within each copy, but not between
    the copies: the kernel of a vector with itself would bias every resampling upwards.

    The average over pairs is of k(x, x') - c(x) - c(x'), where c(x) is the mean kernel with the synthetic vectors.
    Without resampling this is the usual estimate. With resampling, the excluded pairs have the same weight in all
    terms. Otherwise their main effects do not cancel, and the spread near 0 is several times too wide.

    Args:
        sums: sums of the kernel between groups, `group_sums` without its first argument.
        x, y: (N, D) real and (M, D) synthetic vectors.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.

    Returns:
        (B,) float64; NaN if a set has fewer than 10 vectors or a resampling has no pair.

    Raises:
        ValueError: the subjects do not match the vectors or counts.
    """
    check_subjects(x, subjects, counts)
    counts, n = np.asarray(counts, np.float64), len(y)
    if not len(counts) or min(len(x), n) < MIN_VECTORS:
        return np.full(len(counts), np.nan)
    member, everything = np.eye(counts.shape[1])[:, subjects], np.ones((1, n))
    size = member.sum(axis=1)
    # across: sum of c(x) per subject; between: sum of k(x, x') - c(x) - c(x') per pair of subjects.
    across = sums(x, member, y, everything)[:, 0] / n
    between = sums(x, member) - np.outer(across, size) - np.outer(size, across)
    of_synthetic = sums(y, everything)[0, 0] / (n * (n - 1))
    # Within a subject no vector is paired with itself, so c(x) is subtracted once less for each vector.
    own, own_pairs = np.diag(between) + 2 * across, size * (size - 1)
    pairs = np.outer(size, size)
    np.fill_diagonal(between, 0)
    np.fill_diagonal(pairs, 0)
    kernel_sum = np.einsum("bs,st,bt->b", counts, between, counts, optimize=True) + counts @ own
    pair_sum = np.einsum("bs,st,bt->b", counts, pairs, counts, optimize=True) + counts @ own_pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        return kernel_sum / pair_sum + of_synthetic


def on_device(device: str | torch.device, *sets: np.ndarray | Rows) -> list[torch.Tensor]:
    """Copies on the device, float32 if all sets are float32, else float64.

    Copies are necessary: the last bits of a matrix product depend on the memory alignment of its factors, and torch
    aligns its own memory.
    """
    precision = torch.float32 if all(z.dtype == np.float32 for z in sets) else torch.float64
    # Sums are computed in float64, which MPS does not support.
    device = "cpu" if torch.device(device).type == "mps" else device
    return [torch.tensor(np.asarray(z), dtype=precision, device=device) for z in sets]


def check_subjects(real: np.ndarray | torch.Tensor, subjects: np.ndarray, counts: np.ndarray) -> None:
    """Check that every real vector has one valid subject index.

    Raises:
        ValueError: the number of indices differs from the number of vectors, or an index is not below S of counts.
    """
    found, n_subjects = len(subjects), np.shape(counts)[1]
    if found != len(real) or (found and np.max(subjects) >= n_subjects):
        raise ValueError(
            f"expected a subject index below {n_subjects} for each of {len(real)} vectors, "
            f"found {found} indices up to {np.max(subjects, initial=0)}"
        )


# Largest number of features for which the explicit feature space of the cubic kernel (455 monomials) is cheaper.
LARGEST_EXPLICIT = 12
_RESAMPLINGS = 128  # distribution functions in memory


def polynomial_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """k(x, y) = (x . y / D + 1)^3 for vectors x (N, D) and y (M, D); returns (N, M) in the same precision."""
    base = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return (base * base).mul_(base)


def resampled_mmd2(
    real: np.ndarray,
    synthetic: np.ndarray,
    subjects: np.ndarray,
    counts: np.ndarray,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Unbiased squared MMD of all vectors for every resampling of the real subjects.

    Precision as in `kid.subset_mmd2`. With more than 12 features, at most LARGEST_SYNTHETIC synthetic vectors are used
    (`at_most`); with fewer, the time is linear.

    Args:
        real, synthetic: (N, D) and (M, D) features; the synthetic ones are not resampled.
        subjects: (N,) index of each real vector's subject, 0 ... S-1.
        counts: (B, S) how often each resampling drew each subject.
        device: where kernels are computed.

    Returns:
        (B,) float64; NaN if a set has fewer than 10 vectors or a resampling has no pair.

    Raises:
        ValueError: mismatched shapes, or values that are not finite.
    """
    check_sets(real, synthetic)
    if real.shape[1] > LARGEST_EXPLICIT:
        synthetic = at_most(synthetic)
    x, y = on_device(device, real, synthetic)
    return resampled_by_subject(cubic_sums(x.shape[1]), x, y, subjects, counts)


def complete_mmd2(real: np.ndarray, synthetic: np.ndarray, device: str | torch.device = "cpu") -> float:
    """Unbiased squared MMD of all vectors with the cubic kernel (Gretton et al. 2012, eq. 3), without subsets.

    Args:
        real, synthetic: (N, D) and (M, D) features.
        device: where kernels are computed.

    Returns:
        The squared MMD, which may be below 0; NaN if a set has fewer than 10 vectors.

    Raises:
        ValueError: mismatched shapes, or values that are not finite.
    """
    one_subject = np.zeros(len(real), np.int64)
    return float(resampled_mmd2(real, synthetic, one_subject, np.ones((1, 1)), device)[0])


def cubic_sums(dim: int) -> Callable[..., np.ndarray]:
    """`group_sums` of the cubic kernel, for vectors of `dim` features."""
    return partial(group_sums, polynomial_kernel) if dim > LARGEST_EXPLICIT else _explicit_sums


def _explicit_sums(
    x: torch.Tensor,
    in_x: np.ndarray,
    y: torch.Tensor | None = None,
    in_y: np.ndarray | None = None,
    paired: bool = False,
) -> np.ndarray:
    """Kernel sums for few features, computed in the explicit feature space of the kernel.

    In this space the kernel is an inner product, so the sum over pairs of two groups is the inner product of the
    sums of the groups.
    """
    of_x = _monomial_sums(x, in_x)
    if y is not None:
        of_y = _monomial_sums(y, in_y)
        return ((of_x * of_y).sum(dim=1) if paired else of_x @ of_y.T).cpu().numpy()
    itself = (x.double().square().mean(dim=1) + 1).pow(3).cpu().numpy()
    if paired:
        return of_x.square().sum(dim=1).cpu().numpy() - in_x @ itself
    return (of_x @ of_x.T).cpu().numpy() - in_x * itself @ in_x.T


def _monomial_sums(x: torch.Tensor, in_x: np.ndarray) -> torch.Tensor:
    """(A, P) sum per group of x (N, D) of all P = (D + 3 choose 3) weighted monomials of degree up to 3.

    The inner product of these monomials is the cubic kernel. With u = (1, x / sqrt D), (u . v)^3 is the sum over
    i <= j <= k of c_ijk (u_i u_j u_k) (v_i v_j v_k), where c_ijk is the number of permutations of ijk.
    """
    dim, in_x = x.shape[1], torch.from_numpy(in_x).to(x.device, torch.float64)
    ijk = torch.combinations(torch.arange(dim + 1), 3, with_replacement=True)
    distinct = 1 + (ijk.diff(dim=1) > 0).sum(dim=1)
    weights = torch.tensor([0, 1, 3, 6], dtype=torch.float64)[distinct].sqrt().to(x.device)
    total = torch.zeros(len(in_x), len(ijk), dtype=torch.float64, device=x.device)
    for rows in row_blocks(len(x)):
        u = torch.nn.functional.pad(x[rows].double() / dim**0.5, (1, 0), value=1.0)
        i, j, k = ijk.to(x.device).T
        total += in_x[:, rows] @ (u[:, i] * u[:, j]).mul_(u[:, k]).mul_(weights)
    return total


Scale = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Centre (D,) and scale (D,) of real vectors (N, D), for z-scores."""


def mean_and_sd(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd (ddof 0) of each feature; the sd of a constant feature is 1."""
    mean, sd = real.mean(axis=0), real.std(axis=0)
    # The computed sd of equal values may be a rounding error instead of 0.
    return mean, np.where(sd > _tiny(mean), sd, 1.0)


def median_and_mad(real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and MAD (times 1.4826) of each feature; sd where the MAD is 0, and 1 for a constant feature."""
    middle = np.median(real, axis=0)
    spread = 1.4826 * np.median(np.abs(real - middle), axis=0)
    spread = np.where(spread > _tiny(middle), spread, real.std(axis=0))
    return middle, np.where(spread > _tiny(middle), spread, 1.0)


def _tiny(centre: np.ndarray) -> np.ndarray:
    return 1e-12 * np.maximum(np.abs(centre), 1)


def standardise(
    real: np.ndarray, synthetic: np.ndarray, drawn: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """z-scores of both sets with the mean and sd of all real vectors (`mean_and_sd`).

    Without real vectors both sets are returned unchanged. drawn: (K, D) resampled real vectors that give mean and sd
    instead of all real vectors.
    """
    real, synthetic = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    if not len(real):
        return real, synthetic
    mean, sd = mean_and_sd(real if drawn is None else drawn)
    return (real - mean) / sd, (synthetic - mean) / sd


CLIP = 5.0
"""Largest absolute robust z-score: a few extreme lesions must not decide the cubic kernel."""


def clipped_scores(
    real: np.ndarray, synthetic: np.ndarray, drawn: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Robust z-scores of both sets by median and MAD of all real vectors (`median_and_mad`), clipped to ±5.

    drawn: as in `standardise`.
    """
    real, synthetic = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    if not len(real):
        return real, synthetic
    middle, spread = median_and_mad(real if drawn is None else np.asarray(drawn, np.float64))
    return tuple(np.clip((table - middle) / spread, -CLIP, CLIP) for table in (real, synthetic))


RESCALED_SYNTHETIC = 5_000
"""Synthetic vectors in a resampling that scales all vectors again."""


def rescaled_mmd2(
    scores: Callable[..., tuple[np.ndarray, np.ndarray]],
    real: np.ndarray,
    synthetic: np.ndarray,
    subjects: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """As `resampled_mmd2`, with z-scores by the real vectors of each resampling.

    With the z-scores of all real vectors a resampling would lack the variation of mean and sd between sets of
    subjects, which is most of the variation of an MMD with a cubic kernel.

    Args:
        scores: `standardise` or `clipped_scores`.
        real, synthetic: (N, D) and (M, D) features in their own units; at most RESCALED_SYNTHETIC of the latter are
            used.
        subjects, counts: as in `resampled_mmd2`.

    Returns:
        (B,) float64; NaN if a set has fewer than 10 vectors or a resampling has no pair.
    """
    check_sets(real, synthetic)
    check_subjects(real, subjects, counts)
    if min(len(real), len(synthetic)) < MIN_VECTORS:
        return np.full(len(counts), np.nan)
    synthetic, values = at_most(synthetic, RESCALED_SYNTHETIC), np.full(len(counts), np.nan)
    for number, count in enumerate(np.asarray(counts)):
        drawn = np.repeat(real, count[subjects], axis=0)
        if len(drawn):
            x, y = scores(real, synthetic, drawn)
            values[number] = resampled_mmd2(x, y, subjects, count[None])[0]
    return values


SCALE_CHANGE = 10.0
"""Factor by which a feature's scale may change without any one subject; the cubic kernel changes by its sixth power."""


def rests_on_one(
    real: np.ndarray,
    subjects: np.ndarray,
    scale: Scale | None = None,
    names: Sequence[str] = (),
    unit: str = "components",
) -> str:
    """Why an MMD means nothing because it rests on the vectors of one subject; empty if it does not.

    It rests on a subject without which fewer than 10 vectors are left, or without which the scale of a feature would
    be smaller or larger by more than SCALE_CHANGE.

    Args:
        real: (N, D) vectors; with fewer than 10 there is no MMD anyway, and the answer is empty.
        subjects: (N,) subject of each.
        scale: centre and scale of the z-scores; None: these are not looked at.
        names: names of the D features, for a scale.
        unit: plural noun for the vectors.
    """
    real = np.asarray(real, np.float64)
    if len(real) < MIN_VECTORS:
        return ""
    people, index = np.unique(np.asarray(subjects), return_inverse=True)
    whole = None if scale is None else scale(real)[1]
    for number, name in enumerate(people):
        left = real[index != number]
        if len(left) < MIN_VECTORS:
            own = len(real) - len(left)
            return (
                f"{own} of {len(real)} {unit} are of one held-out subject ({name}); expected at least {MIN_VECTORS} "
                "of others, so the value would be that of one subject"
            )
        if scale is None:
            continue
        ratio = whole / scale(left)[1]
        factors = np.maximum(ratio, 1 / ratio)
        worst = int(np.argmax(factors))
        if factors[worst] > SCALE_CHANGE:
            return (
                f"without one held-out subject ({name}) the scale of {names[worst]} changes by a factor of "
                f"{factors[worst]:.2g}; expected at most {SCALE_CHANGE:g}, so the value would be that of one subject"
            )
    return ""


def check_sets(real: np.ndarray | Rows, synthetic: np.ndarray | Rows) -> None:
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), found {real.shape} and {synthetic.shape}")
    if not all(
        np.isfinite(part[block]).all() for part in (real, synthetic) for block in blocks_of(part, _CHECKED)
    ):
        raise ValueError("expected finite features, found NaN or infinite values")
