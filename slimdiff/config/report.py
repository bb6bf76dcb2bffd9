"""How results are shown."""

from typing import Annotated

from pydantic import Field

from slimdiff.config.base import PositiveInt, Section


class ReportConfig(Section):
    """Figures and tables."""

    title: str = "slimdiff study"
    """Heading of the report's overview."""
    notice: str = ""
    """Printed on every figure (the phantom's says that it shows no patients)."""
    columns_per_bin: Annotated[int, Field(ge=1, le=8)] = 2
    """Samples of each kind shown a z-bin."""
    nearest_pairs: PositiveInt = 8
    """Closest synthetic-training pairs shown."""
    dpi: PositiveInt = 130
    """Resolution of PNG figures."""
