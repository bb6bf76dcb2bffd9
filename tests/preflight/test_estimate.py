"""Jobs, hours and storage of a study: as Snakemake counts them, and as the numbers of the study say."""

from pathlib import Path

import pytest

from slimdiff.config import load_study, study_from_mapping
from slimdiff.files import write_table
from slimdiff.preflight import estimate as module
from slimdiff.preflight.estimate import estimate, jobs_of, main_memory_gb, used_gb

DEMO = load_study(Path(__file__).parents[2] / "config" / "demo.yaml")


@pytest.fixture(autouse=True)
def _no_results(tmp_path, monkeypatch):
    """The speed of a study that has run here already would count."""
    monkeypatch.chdir(tmp_path)


def changed(**sections):
    values = DEMO.model_dump(exclude_unset=True, mode="json")
    return study_from_mapping(
        {**values, **{name: {**values.get(name, {}), **part} for name, part in sections.items()}}
    )


def test_a_second_variant_doubles_its_own_jobs_only():
    one, two = jobs_of(DEMO, 40), jobs_of(changed(variants={"base": {}, "b": {}}), 40)
    doubled = {rule for rule in one if two[rule] == 2 * one[rule]}
    assert doubled == {"train", "generate", "metrics", "utility"}
    assert "segmenter" not in jobs_of(changed(utility={"enabled": False}), 40)


def test_twice_the_steps_cost_twice_the_training():
    base, twice = estimate(DEMO, 40), estimate(changed(training={"steps": 1240}), 40)
    assert twice.training_flop == pytest.approx(2 * base.training_flop)
    assert base.hours < twice.hours < 2 * base.hours
    assert twice.storage_gb == base.storage_gb


def test_more_cores_and_a_gpu_take_less_time():
    hours = [estimate(DEMO, 40, cores, gpus).hours for cores, gpus in ((1, 0), (4, 0), (4, 1))]
    assert hours == sorted(hours, reverse=True)
    assert hours[0] == pytest.approx(4 * hours[1])


def test_the_demo_takes_its_minutes_and_its_memory():
    """README.md: 6 to 10 minutes on two cores; docs/explain/limits.md: about 1 GB per job."""
    found = estimate(DEMO, 40, cores=2)
    assert 5 < 60 * found.hours < 20
    assert 0.5 < found.memory_gb < 2
    assert 0.02 < found.storage_gb < 0.5


def test_the_papers_training_step_takes_its_memory():
    """docs/performance.md: 4.2 GB for four slices of 160 x 160 px on a CPU."""
    assert 3 < estimate(changed_paper(4), 78).memory_gb < 6


def changed_paper(batch_size: int):
    return study_from_mapping({"model": {}, "training": {"batch_size": batch_size}})


def test_a_measured_speed_replaces_the_assumption(tmp_path):
    study = DEMO.model_copy(update={"results_dir": str(tmp_path)})
    before = estimate(study, 40, cores=1)
    assert not before.measured
    rows = [{"step": step, "images_per_s": 1.0} for step in (50, 100, 150)]
    write_table(study.paths.model("base", 0) / "history.tsv", rows, ("step", "images_per_s"))
    after = estimate(study, 40, cores=1)
    assert after.measured
    # Two trainings of 620 steps of 8 slices, one after the other on one core.
    training = before.training_flop / module.CPU_FLOP_PER_S
    assert 3600 * (after.hours - before.hours) == pytest.approx(2 * 620 * 8 / 1.0 - training)


def test_a_dataset_to_fetch_is_part_of_the_storage():
    values = {"data": {"source": "bids", "root": "d", "fetch": {"dataset": "ds004199"}}}
    without = {"data": {"source": "bids", "root": "d"}}
    more = (
        estimate(study_from_mapping(values), 10).storage_gb
        - estimate(study_from_mapping(without), 10).storage_gb
    )
    assert 0.5 < more < 50


def test_the_memory_of_a_container_is_its_limit(tmp_path):
    whole = main_memory_gb(())
    (tmp_path / "limit").write_text("2000000000\n")
    (tmp_path / "none").write_text("max\n")
    assert main_memory_gb((tmp_path / "limit", tmp_path / "none", tmp_path / "absent")) == min(2.0, whole)
    assert main_memory_gb((tmp_path / "none",)) == whole


def test_files_are_added_up_and_a_missing_folder_has_none(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x", "y"):
        (tmp_path / name).write_bytes(bytes(1000))
    assert used_gb(tmp_path) == pytest.approx(2e-6)
    assert used_gb(tmp_path / "absent") == 0
    assert module.existing(tmp_path / "absent" / "deeper") == tmp_path
    assert module.existing(Path("/")) == Path("/")
