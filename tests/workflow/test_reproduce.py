"""A study is run again from its provenance.json alone."""

import shutil

import pytest
from helpers.workflow_runs import snakemake

from slimdiff import cli


@pytest.mark.slow
def test_the_recorded_study_gives_the_same_slices_and_weights(whole_run, tmp_path, monkeypatch, capsys):
    record = tmp_path / "provenance.json"
    shutil.copyfile(whole_run[0] / "results" / "tiny" / "provenance.json", record)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", "provenance.json", "--write", "again.json"]) == 0
    done = snakemake("--cores", "2", "--configfile", "again.json", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cli.main(["reproduce", "provenance.json", "--against", "reproduced/tiny/provenance.json"]) == 0
    assert "slices: the same; models with the same weights: 2 of 2" in capsys.readouterr().out
