"""A folder as a user has it, through the commands: from its table to folds and slices."""

import json

import numpy as np
import pytest
from helpers.synthetic import ball, head, save_nifti, study_mapping

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_participants
from slimdiff.data.store import SliceStore

PERSONS = range(1, 9)
NEGATIVE = "sub-05_ses-1"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Eight persons, three of them scanned twice; five have FCD, one of these without a visible lesion."""
    rows = []
    for number in PERSONS:
        for session in (1, 2) if number < 4 else (1,):
            name, patient = f"sub-{number:02d}_ses-{session}", number < 6
            volume, lesion = head(10 * number + session), ball((12 + number % 3 * 4, 14, 16), 3.5)
            mask = "n/a"
            if patient and name != NEGATIVE:
                volume[lesion] += 40
                mask = str(save_nifti(tmp_path / f"{name}_roi.nii.gz", lesion.astype(np.uint8)))
            image = save_nifti(tmp_path / f"{name}.nii.gz", volume)
            rows.append([name, image, mask, ("fcd", "FCD")[number % 2] if patient else "hc", "", ""])
    header = "Participant_ID\tImage\tMASK\tDx\t\t"
    lines = [header, *("\t".join(map(str, row)) for row in rows), "\t\t\t", ""]
    (tmp_path / "table.tsv").write_text("\n".join(lines))
    values = study_mapping(tmp_path, tmp_path) | {"results_dir": "${PLACE}/out"}
    values |= {"data": {"source": "table", "table": "$PLACE/table.tsv"}, "quality": {"max_spacing_mm": 7.0}}
    path = tmp_path / "study.json"
    path.write_text(json.dumps(values))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return path


def test_from_the_table_to_slices(study, capsys):
    for command in ("participants", "preprocess", "kfold", "cache"):
        assert getattr(cli, command)(["--config", str(study)]) == 0, command
        if command == "participants":
            lines = capsys.readouterr().err.splitlines()
    begin = lines.index("Who counts as what:")
    assert lines[begin + 2].split() in (["fcd", "n/a", *"7001"], ["FCD", "n/a", *"7001"])
    assert lines[begin + 3].split() == ["hc", "n/a", *"0030"]
    assert any(NEGATIVE in line and "data.patients_without_mask" in line for line in lines[begin:])
    assert lines[-1] == "10 participants included, 1 excluded"
    paths = load_study(study).paths
    assert paths.root == study.parent / "out" / "tiny" and not (study.parent / "${PLACE}").exists()
    person = {row.participant_id: row.person for row in read_participants(paths.participants)}
    for fold in range(load_study(study).folds.k):
        parts = [{person[name] for name in names} for names in read_folds(paths.folds, fold).values()]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 7
    store = SliceStore.open(paths.store)
    assert store.facts["persons"] == {f"sub-{n:02d}_ses-2": f"sub-{n:02d}_ses-1" for n in (1, 2, 3)}
    assert len(set(store.participant)) == 10 and len(set(store.person)) == 7
    # No slice of class 0 is of the patient without a visible lesion.
    assert len(store.rows_of([NEGATIVE])) == 0
