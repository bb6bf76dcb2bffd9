"""How results are shown."""

from slimdiff.config.base import PositiveInt, Section, ShownText


class ReportConfig(Section):
    """Figures and tables."""

    title: ShownText | None = None
    """Heading of the report; null: the study's name."""
    notice: ShownText = ""
    """Text on every figure, page and export, for example that the data are a phantom. Here as in `title` and in the
    reasons of `data.exclude`, passwords and signatures of addresses and the folders of absolute paths are left out."""
    licence: ShownText = ""
    """Licence of the images, for example CC0 or CC BY 4.0, on the cards of models and exports; empty: the cards say
    that it is not stated."""
    dpi: PositiveInt = 130
    """Resolution of PNG figures, in dots per inch."""
