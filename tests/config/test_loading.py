"""The file of a study is read correctly, or the error names it."""

import pytest

from slimdiff.config import ConfigError, load_study


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001"])
def test_yaml_1_1_numbers_that_are_parsed_as_text_are_converted(text, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(f"training: {{learning_rate: {text}}}\n")
    assert load_study(path).training.learning_rate == 1e-4


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: marked\n", encoding="utf-8-sig")
    assert load_study(path).study == "marked"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.yaml", "training: [1, 2\n", "YAML"),
        ("a.yaml", "training:\n\tsteps: 3\n", "YAML"),
        ("a.json", '{"study": }', "JSON"),
        ("a.json", '{"folds": {"k": 3, "k": 5}}', 'duplicate key "k" in {"k": 5}; keep one'),
        ("a.json", "[" * 100_000, "JSON"),
        ("a.json", '{"preprocess": {"grid": [1, "a", 3]}}', "preprocess.grid[1]: "),
        ("a.yaml", "- a\n- b\n", "mapping"),
        ("a.yaml", "", "mapping"),
        ("a.yaml", "preprocess: {spacing_mm: 2020-01-01}\n", "preprocess.spacing_mm"),
    ],
)
def test_unreadable_files_are_named(name, content, expected, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("report: {title: étude}\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load_study(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_study(tmp_path / "absent.yaml")
