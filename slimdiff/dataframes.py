"""Tab-separated tables as pandas frames, in BIDS form: UTF-8, no quoting, n/a where a value is missing.

The core (training, generation) reads its tables with `slimdiff.files`, which needs no pandas.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from slimdiff.files import MISSING, read_cells, write_table


def read_frame(path: Path, required: Sequence[str] = (), numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Read a TSV or CSV (by its ending); every cell is text, but for the columns `numbers`.

    required: columns that must be there. numbers: columns that become float64, NaN where a cell is n/a.

    Raises FileNotFoundError, and ValueError naming the file where it is empty, a column is missing or duplicate, a row
    has too few or too many cells, or a number cannot be read.
    """
    header, body = read_cells(path, required, ended=True)
    frame = pd.DataFrame(body, columns=header, dtype=str)
    for name in numbers:
        try:
            frame[name] = frame[name].where(frame[name] != MISSING).astype(float)
        except ValueError as error:
            raise ValueError(f"{path}: column {name}: expected numbers or {MISSING}: {error}") from None
    return frame


def write_frame(path: Path, frame: pd.DataFrame, columns: Sequence[str] | None = None) -> None:
    """Write a frame as TSV, whole or not at all; missing values and empty text become n/a, floats have nine digits.

    columns: which, in which order; by default all.
    Raises ValueError naming the file, column and value where a cell holds a tab or a line break.
    """
    columns = list(frame.columns if columns is None else columns)
    rows = frame.reindex(columns=columns).astype(object)
    write_table(path, rows.where(rows.notna(), None).to_dict("records"), columns)
