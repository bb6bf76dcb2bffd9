"""How results are shown."""

from slimdiff.config.base import PositiveInt, Section


class ReportConfig(Section):
    """Figures and tables."""

    title: str | None = None
    """Heading of the report; null: the study's name."""
    notice: str = ""
    """Text on every figure, for example that the data are a phantom."""
    dpi: PositiveInt = 130
    """Resolution of PNG figures, in dots per inch."""
