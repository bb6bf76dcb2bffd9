"""The mix of z-bins and classes in which all sets of slices are compared: that of the held-out slices.

A study draws z-bins and classes in its own shares, and the training subjects have theirs. A perfect model in another
mix would still differ from the held-out slices, so samples and training slices are chosen in the held-out mix.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Cell = tuple[int, int]
"""z-bin and class."""


def cells_of(z_bin: np.ndarray, label: np.ndarray) -> list[Cell]:
    """z-bin and class of each slice."""
    return list(zip(np.asarray(z_bin).tolist(), np.asarray(label).tolist(), strict=True))


def proportional_counts(held_out: Mapping[Cell, int], factor: Fraction) -> Counter[Cell]:
    """`factor` times the number of held-out slices of each cell, rounded by largest remainders.

    The sum is rounded down. The cells with the largest remainders are rounded up, of equal remainders the cells that
    come first in the order of z-bin and class.

    Args:
        held_out: number of held-out slices of each cell.
        factor: at least 0.
    """
    exact = {cell: factor * number for cell, number in sorted(held_out.items())}
    counts = Counter({cell: math.floor(number) for cell, number in exact.items()})
    rounded_up = math.floor(sum(exact.values())) - counts.total()
    for cell in sorted(exact, key=lambda cell: counts[cell] - exact[cell])[:rounded_up]:
        counts[cell] += 1
    return counts


def choose_rows(counts: Mapping[Cell, int], cells: Sequence[Cell], seed: int) -> np.ndarray:
    """Choose the given number of rows of each cell without replacement.

    The rows are the first of each cell in a random permutation of all rows. A cell with fewer rows contributes all of
    them; drawing with replacement would add copies.

    Args:
        counts: number of rows of each cell.
        cells: (N,) cell of each row.
        seed: seed of the permutation.

    Returns:
        Indices into `cells`, sorted.
    """
    chosen, taken = [], Counter()
    for row in np.random.default_rng(seed).permutation(len(cells)):
        cell = cells[row]
        if taken[cell] < counts.get(cell, 0):
            taken[cell] += 1
            chosen.append(row)
    return np.sort(np.array(chosen, np.int64))


@dataclass(frozen=True)
class Selection:
    """The slices that are compared, in the held-out mix: indices into held-out slices, samples and training slices."""

    z_bin: int | str
    """One z-bin, or `all`."""
    label: int | None
    """One class, or None for both."""
    held_out: np.ndarray
    """Held-out slices whose z-bin and class has samples."""
    samples: np.ndarray
    floors: tuple[np.ndarray, ...]
    """Different choices of training slices for the floor; a single one if every choice is the same."""
    matched: np.ndarray
    """As many samples of each z-bin and class as the first floor has training slices; without such slices, all of
    `samples`."""
    n_held_out: int
    """Number of held-out slices of this z-bin and class, with and without samples."""
    n_samples: int
    """Number of samples of this z-bin and class, from which `samples` is chosen."""

    @property
    def floor(self) -> np.ndarray:
        """The choice of training slices for floors that are not averaged over choices."""
        return self.floors[0]

    @property
    def left_out(self) -> str:
        """How many held-out slices are not compared, and why; empty if all are."""
        number = self.n_held_out - len(self.held_out)
        slices = f"{number} of {self.n_held_out} held-out slices{self._of_class}"
        return f"{slices} left out: no sample of their z-bin and class" if number else ""

    @property
    def note(self) -> str:
        """How many samples and held-out slices are compared; empty if all are."""
        used = f"{len(self.samples)} of {self.n_samples} samples{self._of_class}, in the mix of the held-out slices"
        return "; ".join(filter(None, (used if len(self.samples) < self.n_samples else "", self.left_out)))

    @property
    def _of_class(self) -> str:
        return "" if self.label is None else f" of class {self.label}"


def select(
    held_out: Sequence[Cell],
    samples: Sequence[Cell],
    training: Sequence[Cell],
    seed: int,
    z_bin: int | str = "all",
    label: int | None = None,
    floors: int = 1,
    exact: bool = True,
) -> Selection:
    """Choose samples, and training slices for the floor, in the held-out mix of z-bins and classes.

    Only cells with held-out slices and samples are compared. Of every cell the samples contribute k times its number
    of held-out slices; k is the largest factor that all cells allow. For the floor, training slices are chosen with
    the same k, but at most the ratio of all training slices to all held-out slices; cells with fewer training slices
    contribute all of them.

    Args:
        held_out, samples, training: (N,), (M,) and (L,) cell of each slice.
        seed: seed of the choice of samples and of the first floor.
        z_bin, label: only this z-bin and class; `all`, None: all.
        floors: number of random choices of training slices, of seeds `seed`, `seed` + 1, ...
        exact: whether all cells limit k. If false, the samples are chosen by the rule of the training slices: a few
            rare cells would leave few training slices.
    """
    n_held_out, n_samples, n_training = (
        Counter(cell for cell in cells if z_bin in ("all", cell[0]) and label in (None, cell[1]))
        for cells in (held_out, samples, training)
    )
    common = {cell: number for cell, number in n_held_out.items() if n_samples[cell]}

    def ratio(available: Counter[Cell]) -> Fraction:
        return Fraction(sum(available[cell] for cell in common), sum(common.values()) or 1)

    factor = ratio(n_samples)
    if exact:
        factor = min((Fraction(n_samples[cell], number) for cell, number in common.items()), default=factor)
    chosen = choose_rows(proportional_counts(common, factor), samples, seed)
    # Without this limit, many samples would request all training slices, which have their own mix.
    of_floor = proportional_counts(common, min(factor, ratio(n_training)))
    choices = [choose_rows(of_floor, training, seed + number) for number in range(floors)]
    choices = list({choice.tobytes(): choice for choice in choices}.values())
    matched = choose_rows(Counter(training[row] for row in choices[0]), samples, seed)
    return Selection(
        z_bin,
        label,
        np.flatnonzero([cell in common for cell in held_out]),
        chosen,
        tuple(choices),
        matched if len(choices[0]) else chosen,
        n_held_out.total(),
        n_samples.total(),
    )
