"""What a specification comes to, as numbers and as text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slimdiff.config.generation import GenerationConfig
from slimdiff.model.checkpoint import ModelCard


@dataclass(frozen=True)
class Plan:
    """What a specification comes to."""

    checkpoint: Path
    card: ModelCard
    generation: GenerationConfig
    """With the specification's seed, device and replicas in it."""
    counts: dict[tuple[int, int], int]
    """(z-bin, class): samples a replica, in order and without zeros."""
    output_dir: Path
    priors: Path | None
    notes: tuple[str, ...] = ()
    """What is allowed, and may still surprise."""

    @property
    def total(self) -> int:
        """Samples in all."""
        return sum(self.counts.values()) * self.generation.replicas

    @property
    def evaluations(self) -> int:
        """Network evaluations of all samples; guidance takes twice as many, where it acts."""
        return self.total * self.generation.evaluations * (1 if self.generation.guidance == 1 else 2)

    @property
    def size_bytes(self) -> int:
        """What the pairs take on disk: images and masks, float16."""
        height, width = self.card.store_size
        return self.total * 2 * height * width * 2

    def describe(self, verbose: bool = False) -> str:
        """The plan as text: a line a z-bin, then totals; with `verbose` first what draws it, and how."""
        replicas = self.generation.replicas
        bins = sorted({z_bin for z_bin, _ in self.counts})
        lines = [*self._details(), ""] if verbose else []
        lines.append(f"{'z-bin':>7}{'control':>11}{'lesion':>11}{'replicas':>10}{'samples':>11}")
        sums = [0, 0]
        for z_bin in bins:
            row = [self.counts.get((z_bin, label), 0) for label in (0, 1)]
            sums = [a + b for a, b in zip(sums, row, strict=True)]
            lines.append(f"{z_bin:>7}{row[0]:>11}{row[1]:>11}{replicas:>10}{sum(row) * replicas:>11}")
        lines.append(f"{'all':>7}{sums[0]:>11}{sums[1]:>11}{replicas:>10}{self.total:>11}")
        files = [f"zbin-{z_bin:02d}" for z_bin in bins]
        named = files[0] if len(files) == 1 else f"{files[0]} ... {files[-1]}"
        at_most = "" if self.generation.guidance == 1 else "up to "
        lines += [
            "",
            f"{self.total} samples in {len(bins)} z-bins, {at_most}{self.evaluations} network evaluations, about "
            f"{_readable(self.size_bytes)} on disk",
            f"into {self.output_dir}: {named}, .npz (images and masks) and .tsv (their manifest) each",
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _details(self) -> Iterator[str]:
        card, settings = self.card, self.generation
        height, width = card.store_size
        yield f"checkpoint  {self.checkpoint}"
        yield f"            study {card.study}, variant {card.variant}, fold {card.fold}, step {card.step}"
        yield (
            f"            {card.diffusion['prediction']} network, {card.n_bins} z-bins, {width} x {height} px of "
            f"{card.spacing_mm:g} mm, slices {card.z_range[0]} to {card.z_range[1]}"
        )
        if card.data.acquisitions:
            yield f"            acquisitions {', '.join(card.data.acquisitions)}"
        for key, value in settings.model_dump(exclude={"per_bin_and_class", "counts"}).items():
            yield f"{key:<19} {'null' if value is None else value}"
        if self.priors:
            yield f"{'priors':<19} {self.priors}"


def _readable(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
