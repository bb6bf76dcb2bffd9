"""Tables read through pandas equal those of the plain reader; broken tables are refused."""

import numpy as np
import pandas as pd
import pytest

from slimdiff.dataframes import read_frame, write_frame
from slimdiff.files import read_table

ROWS = [
    {"a": 'x "q" y', "b": 1.5, "c": None, "d": 3},
    {"a": "", "b": float("nan"), "c": "z", "d": 4},
    {"a": "#k", "b": 1 / 3, "c": "NaN", "d": 5},
]


def test_a_frame_is_written_without_quotes_and_read_back(tmp_path):
    path = tmp_path / "t.tsv"
    write_frame(path, pd.DataFrame(ROWS))
    assert path.read_bytes() == b'a\tb\tc\td\nx "q" y\t1.5\tn/a\t3\nn/a\tn/a\tz\t4\n#k\t0.333333333\tNaN\t5\n'
    frame = read_frame(path, required=("a", "d"), numbers=("b", "d"))
    np.testing.assert_allclose(frame["b"], [1.5, np.nan, 0.333333333])
    assert frame["d"].tolist() == [3.0, 4.0, 5.0]
    # Text is kept: n/a and NaN are not converted.
    assert frame["c"].tolist() == ["n/a", "z", "NaN"]


def test_both_readers_agree_on_a_plain_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffname,age\n"a, b",7\n\nc,n/a\n'.encode())
    assert read_frame(path).to_dict("records") == read_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; expected a header line"),
        ("a\ta\n1\t2\n", "duplicate column a"),
        ("b\tc\n1\t2\n", "no column a; found b, c"),
        ("a\tb\n1\t2\n3\n", "line 3: expected 2 cells, found 1"),
        ("a\tb\n1\t2\t3\n", "line 2: expected 2 cells, found 3"),
        ("a\tb\nx\t2\n", "column a: expected numbers or n/a"),
    ],
)
def test_a_broken_table_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_frame(path, required=("a",), numbers=("a",))
    assert str(path) in str(error.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run that stage first"):
        read_frame(tmp_path / "none.tsv")


@pytest.mark.parametrize("value", ["a\tb", "a\nb"])
def test_a_cell_that_would_break_the_table_is_refused_and_nothing_is_written(tmp_path, value):
    path = tmp_path / "t.tsv"
    with pytest.raises(ValueError, match="column a: .* has a tab or a line break"):
        write_frame(path, pd.DataFrame([{"a": value}]))
    assert not list(tmp_path.iterdir())
