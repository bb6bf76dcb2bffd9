import json
from pathlib import Path

from slimdiff.data.participants import Participant
from slimdiff.data.volumes.input_fingerprint import MADE_OF, has_changed, made_of, short_hash

ROW = Participant("sub-1", "fcd", Path("/data/anna/i.nii.gz"), Path("/data/anna/m.nii.gz"))


def write(path: Path, fingerprint: dict) -> Path:
    path.write_text(json.dumps({MADE_OF: fingerprint}))
    return path


def test_a_record_has_no_folders_and_other_files_are_another_volume(tmp_path):
    record = write(tmp_path / "r.json", made_of(ROW, "settings"))
    assert "anna" not in record.read_text()
    assert not has_changed(record, ROW, "settings", ())
    assert has_changed(record, ROW, "other settings", ())
    other = Participant("sub-1", "fcd", Path("/data/anna/j.nii.gz"), ROW.mask)
    assert has_changed(record, other, "settings", ())


def test_a_record_of_an_earlier_version_with_paths_is_still_the_same_volume(tmp_path):
    files = {"image": str(ROW.image), "mask": str(ROW.mask), "brain_mask": None}
    old = write(tmp_path / "r.json", {"settings": short_hash("settings"), "files": files})
    assert not has_changed(old, ROW, "settings", ())
    changed = {"settings": short_hash("settings"), "files": files | {"image": "/data/anna/j.nii.gz"}}
    assert has_changed(write(tmp_path / "r.json", changed), ROW, "settings", ())
