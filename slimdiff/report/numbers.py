"""Numbers as text: equally many digits within one metric, and letters that lead to the reasons of n/a."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

MINUS = "−"
SIGNIFICANT = 3
MOST_DECIMALS = 5


@dataclass(frozen=True)
class Format:
    """How the numbers of one metric are written: fixed decimals, or powers of ten where they are very small."""

    decimals: int
    scientific: bool = False

    @classmethod
    def of(cls, values: Iterable[float]) -> "Format":
        """Three significant digits for the middle one of the values."""
        sizes = sorted(abs(value) for value in values if math.isfinite(value) and value != 0)
        if not sizes:
            return cls(SIGNIFICANT - 1)
        decimals = SIGNIFICANT - 1 - math.floor(math.log10(sizes[len(sizes) // 2]))
        if decimals > MOST_DECIMALS + 1 or decimals < -6:
            return cls(SIGNIFICANT - 1, scientific=True)
        return cls(min(max(decimals, 0), MOST_DECIMALS))

    def __call__(self, value: float) -> str:
        if not math.isfinite(value):
            return "n/a"
        if value == 0:
            return f"{0:.{self.decimals}f}"
        decimals, scientific = self.decimals, self.scientific
        magnitude = math.floor(math.log10(abs(value)))
        if not scientific and magnitude < -decimals:
            # A floor far below the values keeps two digits, rather than be a zero that it is not.
            decimals, scientific = 1 - magnitude, magnitude < -MOST_DECIMALS + 1
        if not scientific:
            return f"{value:.{decimals}f}".replace("-", MINUS)
        digits, power = f"{value:.{self.decimals if self.scientific else 1}e}".split("e")
        return f"{digits}×10^{{{int(power)}}}".replace("-", MINUS)

    def spread(self, value: float) -> str:
        """A standard deviation, with the digits of the mean that it stands beside."""
        return self(value) if self.scientific else f"{value:.{self.decimals}f}"


@dataclass
class Notes:
    """Footnotes: the same reason gets the same letter. A mark is written `^{a}`."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """The mark of a footnote; an empty text gets none."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return "^{" + letters(self.texts.index(text)) + "}"

    def listed(self) -> list[tuple[str, str]]:
        """Letters with their texts, in order."""
        return [(letters(number), text) for number, text in enumerate(self.texts)]


def letters(number: int) -> str:
    """a … z, aa, ab, …"""
    first, last = divmod(number, 26)
    return (letters(first - 1) if first else "") + chr(ord("a") + last)
