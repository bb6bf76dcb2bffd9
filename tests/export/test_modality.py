"""Exports of a study of another contrast than FLAIR."""

import json

import pytest

from slimdiff.stages.export import FORMATS, export_study


@pytest.fixture
def t1w_study(study):
    """The tiny study, as if its images were T1w."""
    other = study.model_copy(update={"data": study.data.model_copy(update={"modality": "T1w"})})
    for path in (study.paths.root / "volumes").glob("*_FLAIR.nii.gz"):
        path.rename(other.paths.volume(path.name.removesuffix("_FLAIR.nii.gz"), "image"))
    return other


def test_no_file_and_no_name_of_any_format_says_flair(t1w_study):
    export_study(t1w_study, ["base"], [0], FORMATS)
    folder = t1w_study.paths.root / "export"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if "flair" in path.name.lower()]
    texts = {path: path.read_text() for path in files if path.suffix in (".json", ".tsv", ".md", "")}
    # But for the title of the paper that the cards cite.
    own = {path: text.replace("Epilepsy FLAIR MRI", "") for path, text in texts.items()}
    assert not [path for path, text in own.items() if "flair" in text.lower()]
    for ending in ("nii.gz", "json"):
        assert len(list(folder.rglob(f"sub-zbin*_desc-synth_T1w.{ending}"))) == 12
    facts = {path.name: path for path in files}
    assert json.loads(facts["dataset.json"].read_text())["channel_names"] == {"0": "T1w"}
    assert json.loads(facts["datalist.json"].read_text())["modality"] == {"0": "T1w"}
    readme = facts["README"].read_text()
    assert readme.startswith("# Synthetic T1w slices") and "`*_desc-synth_T1w.nii.gz`" in readme
    assert "T1w" in next(iter(folder.rglob("*_desc-synth_T1w.json"))).read_text()
