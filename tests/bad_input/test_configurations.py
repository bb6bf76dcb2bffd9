"""Invalid configurations: the error names the file and the key, and says what is allowed."""

from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Bad:
    """A configuration and what its refusal says."""

    content: bytes | str | dict[str, Any]
    """The file's content, or changes of the good study, dotted key: value."""
    expected: tuple[str, ...]
    """Regular expressions, all of them in the message."""
    command: str = "participants"


FILES = {
    "brackets that do not close": Bad("data: {source: bids", ("YAML", "line 1")),
    "a tab": Bad("data:\n\tsource: bids\n", ("YAML", "line 2", r"\\t")),
    "an empty file": Bad("", ("expected a mapping of sections", "empty")),
    "comments alone": Bad("# nothing yet\n", ("expected a mapping of sections", "empty")),
    "a list": Bad("- study: a\n- study: b\n", ("mapping of sections", "found a list")),
    "a word": Bad("bids\n", ("mapping of sections", "str")),
    "another encoding": Bad("report: {title: étude}\n".encode("latin-1"), ("UTF-8",)),
    "a picture": Bad(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", ("UTF-8|YAML",)),
    "a duplicate section": Bad(
        "quality: {max_spacing_mm: 7}\ndata: {source: bids, root: bids}\nfolds: {k: 2}\nfolds: {k: 3}\n",
        ("folds", "duplicate key"),
    ),
    "a Python object": Bad("study: !!python/object/apply:os.getcwd []\n", ("YAML", "python")),
    "a mapping that holds itself": Bad("variants: &a {base: *a}\n", ("itself|circular|recursive",)),
}

KEYS = {
    "unknown section": Bad({"qualty": {}}, ("qualty", r"did you mean quality\?")),
    "unknown key": Bad({"data.rot": "bids"}, (r"data\.rot", r"did you mean root\?")),
    "unknown key in a section's section": Bad(
        {"preprocess.brain.metod": "none"}, (r"preprocess\.brain\.metod", "did you mean method")
    ),
    "a word for a number": Bad({"preprocess.spacing_mm": "fine"}, (r"preprocess\.spacing_mm", '"fine"')),
    "true for a number": Bad({"preprocess.spacing_mm": True}, (r"preprocess\.spacing_mm", "number")),
    "a number for a path": Bad({"data.root": 3}, (r"data\.root", "expected text", "found 3")),
    "NaN": Bad({"preprocess.spacing_mm": float("nan")}, (r"preprocess\.spacing_mm", "finite")),
    "infinity": Bad({"quality.max_spacing_mm": float("inf")}, (r"quality\.max_spacing_mm", "finite")),
    "negative spacing": Bad({"preprocess.spacing_mm": -1.25}, (r"preprocess\.spacing_mm", "-1.25", "than 0")),
    "percentiles reversed": Bad(
        {"preprocess.percentiles": [99.5, 0.5]}, ("preprocess", "99.5, 0.5", "low < high")
    ),
    "percentiles above 100": Bad({"preprocess.percentiles": [0, 101]}, ("preprocess", "101", "<= 100")),
    "one percentile": Bad({"preprocess.percentiles": [99]}, (r"preprocess\.percentiles", "required|two|2")),
    "a grid of two numbers": Bad({"preprocess.grid": [32, 32]}, (r"preprocess\.grid", "required|three|3")),
    "a grid without slices": Bad({"preprocess.grid": [32, 32, 0]}, (r"preprocess\.grid", "found 0")),
    "a grid that the network cannot halve": Bad(
        {"preprocess.grid": [33, 32, 32]}, (r"preprocess\.grid", "multiples")
    ),
    "slices outside of the grid": Bad({"slices.z_range": [11, 32]}, (r"slices\.z_range", "32", "0 to 31")),
    "more bins than slices": Bad({"slices.n_bins": 11}, ("slices", "10 slices", "n_bins 11")),
    "braces in the results' folder": Bad({"results_dir": "out{1}"}, ("results_dir", r"out\{1\}")),
    "unknown source": Bad({"data.source": "dicom"}, (r"data\.source", '"dicom"', "bids", "nnunet", "table")),
    "bids without a folder": Bad({"data.root": None}, (r"data\.root", "bids")),
    "table without a path": Bad({"data.source": "table"}, (r"data\.table", "TSV")),
    "nnunet without a folder": Bad({"data.source": "nnunet", "data.root": None}, (r"data\.root", "nnunet")),
    "groups as a word": Bad({"data.groups": "fcd"}, (r"data\.groups", '"fcd"')),
    "exclusions without reasons": Bad({"data.exclude": ["sub-01"]}, (r"data\.exclude", "sub-01")),
    "an entity with a dash": Bad({"data.entities": {"ses-": "01"}}, (r"data\.entities", "ses-")),
    "lesion label 0": Bad({"data.lesion_labels": [0]}, (r"data\.lesion_labels", "found 0")),
    "no lesion label": Bad({"data.lesion_labels": []}, (r"data\.lesion_labels", r"at least 1|found \[\]")),
    "a brain mask that no key names": Bad(
        {"preprocess.brain": {"method": "source"}}, (r"preprocess\.brain\.method", r"data\.brain_suffix")
    ),
    "a fetched dataset for another source": Bad(
        {"data.source": "nnunet", "data.fetch": {"dataset": "ds004199"}},
        (r"data\.fetch\.dataset", "nnunet", "bids"),
    ),
    "a dataset that cannot be fetched": Bad(
        {"data.fetch": {"dataset": "ds000001"}}, (r"data\.fetch\.dataset", "ds000001", "ds004199")
    ),
    "unknown policy": Bad({"quality.policy": "warn"}, (r"quality\.policy", '"warn"', "exclude")),
    "accept of an unknown flag": Bad(
        {"quality.accept": {"blurred": "all"}}, (r"quality\.accept", "blurred", "flip_suspected")
    ),
    "accept of what cannot be used": Bad(
        {"quality.accept": {"truncated": "all"}}, (r"quality\.accept", "truncated", "thick_slices")
    ),
    "accept of a participant as a word": Bad(
        {"quality.accept": {"thick_slices": "sub-01"}}, (r"quality\.accept", "sub-01", "all")
    ),
    "a negative number of exclusions": Bad({"quality.max_excluded": -1}, (r"quality\.max_excluded", "-1")),
    "a share above 1": Bad({"quality.max_lesion_outside": 1.5}, (r"quality\.max_lesion_outside", "1.5")),
    "one fold": Bad({"folds.k": 1}, ("folds", "use_split")),
}

# Each key is right by itself; what is wrong shows beside the data.
DATA = {
    "a folder that does not exist": Bad({"data.root": "absent"}, (r"data\.root", "absent", "folder")),
    "a file instead of a folder": Bad({"data.root": "table.tsv"}, (r"data\.root", r"table\.tsv", "folder")),
    "an empty folder": Bad({"data.root": "empty"}, ("empty", "FLAIR", r"image_suffix")),
    "a suffix that no image has": Bad({"data.image_suffix": "T2star"}, ("bids", "T2star", "image_suffix")),
    "a suffix that no mask has": Bad({"data.mask_suffix": "lesion"}, ("lesion", "no .*mask")),
    "a folder of masks that does not exist": Bad(
        {"data.mask_root": "absent"}, (r"data\.mask_root", "absent")
    ),
    "entities that no image has": Bad({"data.entities": {"ses": "07"}}, (r"data\.entities|ses-07", "07")),
    "a group without participants": Bad({"data.groups": ["fdc"]}, (r"data\.groups", "'fdc'", "fcd, hc")),
    "a group of controls alone": Bad({"data.groups": ["hc"]}, ("no subject with a lesion mask",)),
    "an excluded participant that does not exist": Bad(
        {"data.exclude": {"sub-9": "motion"}}, (r"data\.exclude", "sub-9")
    ),
    "all participants excluded": Bad(
        {"data.exclude": {f"sub-{n:02d}": "motion" for n in range(1, 6)}}, ("no subject with a lesion mask",)
    ),
    "accept of a participant that does not exist": Bad(
        {"quality.accept": {"thick_slices": ["sub-9"]}}, (r"quality\.accept", "thick_slices", "sub-9")
    ),
    "more folds than patients": Bad({"folds.k": 4}, (r"folds\.k", "4 folds", "3 patients"), "kfold"),
    "a test part without participants": Bad(
        {"folds.use_split": True}, (r"folds\.use_split", "split test"), "kfold"
    ),
    "a tissue share that no slice has": Bad(
        {"slices.min_tissue": 1.0}, ("slices", "found none in z-bin"), "cache"
    ),
    "a lesion size that no slice has": Bad(
        {"slices.min_lesion_mm2": 1e6}, (r"slices\.min_lesion_mm2", "found none in .* slices"), "cache"
    ),
    "nothing to fetch": Bad({}, (r"data\.fetch\.dataset", "data.fetch.dataset: null"), "fetch"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_configuration_is_refused_by_name(case, place):
    bad = FILES[case]
    content = bad.content if isinstance(bad.content, bytes) else bad.content.encode()
    (place.folder / "study.yaml").write_bytes(content)
    place.refuses(r"study\.yaml", *bad.expected)


@pytest.mark.parametrize("case", KEYS)
def test_an_invalid_key_is_refused_with_what_is_allowed(case, place):
    bad = KEYS[case]
    place.configure(bad.content)
    place.refuses(r"study\.yaml: ", *bad.expected)


@pytest.mark.parametrize("case", DATA)
def test_a_configuration_that_does_not_fit_the_data_is_refused(case, place):
    bad = DATA[case]
    (place.folder / "empty").mkdir()
    place.configure(bad.content)
    place.refuses(*bad.expected, command=bad.command)


def test_a_folder_instead_of_the_file_is_named(place):
    (place.folder / "study.yaml").unlink()
    (place.folder / "study.yaml").mkdir()
    place.refuses(r"study\.yaml", "file")


def test_a_missing_file_is_named(place):
    (place.folder / "study.yaml").unlink()
    place.refuses(r"study\.yaml", "no such")


def test_every_fault_of_a_configuration_is_named_at_once(place):
    place.configure({"preprocess.spacing_mm": -1.0, "quality.polcy": "error", "folds.k": "two"})
    place.refuses(r"preprocess\.spacing_mm", r"quality\.polcy", r"folds\.k")
