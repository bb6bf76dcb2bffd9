"""An invalid study stops before the first job, with a message of this package."""

import pytest
from helpers.synthetic import write_bids
from helpers.workflow_runs import snakemake, write_study


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"chanels": [16]}}, ["model.chanels", "did you mean channels?"]),
        ({"training": {"steps": "many"}}, ["training.steps", '"many"', "whole number"]),
        ({"slices": {"z_range": [10, 40]}}, ["slices.z_range", "[10, 40]", "0 to 31"]),
        ({"folds": {"k": 4}}, ["folds.k", "4 folds", "set k to 3 or less"]),
        ({"evaluation": {"extractors": ["resnet"]}}, ["evaluation.extractors", '"resnet"', "alexnet"]),
        ({"data": {"source": "bids", "root": "nowhere"}}, ["data.root", "nowhere"]),
    ],
)
def test_an_invalid_study_stops_before_the_first_job(tmp_path, changes, words):
    done = snakemake("--cores", "1", "--configfile", str(write_study(tmp_path, **changes)), folder=tmp_path)
    assert done.returncode != 0
    for word in words:
        assert word in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["in{1}", "in<results>"])
def test_wildcards_in_a_path_are_refused_by_name(tmp_path, name):
    root = write_bids(tmp_path / name, patients=3, controls=1)
    config = write_study(tmp_path, data={"source": "bids", "root": str(root)})
    done = snakemake("preprocessed", "--dry-run", "--configfile", str(config), folder=tmp_path)
    assert done.returncode != 0
    assert "sub-01_FLAIR.nii.gz: braces in a path" in done.stdout + done.stderr


def test_f1_a_chain_that_starts_with_signal_left_is_refused_before_the_first_job(tmp_path):
    for evaluations, fits in ((250, True), (300, False)):
        change = {"sampler": "ddim", "spacing": "leading", "evaluations": evaluations}
        config = write_study(tmp_path, generation=change)
        done = snakemake("--dry-run", "--configfile", str(config), folder=tmp_path)
        assert (done.returncode == 0) == fits
        if not fits:
            assert "variants.base: generation: the chain starts" in done.stdout + done.stderr
            assert "sqrt(alpha_bar) is 0.158" in done.stdout + done.stderr
