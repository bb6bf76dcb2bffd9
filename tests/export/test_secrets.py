"""What an export says to readers without the study has no secrets and no markup of the study's texts."""

import json

import pytest
from helpers.hostile_study import ADDRESS, secrets_in, text

from slimdiff.config import study_from_mapping
from slimdiff.export import bids, monai, nnunet, png
from slimdiff.export.folder import folder_of

WRITERS = {"bids": bids.write, "monai": monai.write, "nnunet": nnunet.write, "png": png.write}


@pytest.mark.parametrize("form", WRITERS)
def test_no_file_of_an_export_has_a_secret(study, opened, form):
    notice = f"{text('notice')}\n\n# heading {ADDRESS} /home/annasecret/x"
    report = study_from_mapping({"report": {"notice": notice}}, complete=False).report
    hostile = study.model_copy(update={"report": report})
    WRITERS[form](opened(hostile, 0))
    folder = folder_of(hostile, form, "base", 0)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10 and not {path.name for path in files if secrets_in(path)}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.name.startswith("README"):
            assert "\\</script>" in path.read_text() and "\n# heading" not in path.read_text()
