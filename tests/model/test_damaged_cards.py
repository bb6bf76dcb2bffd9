"""A checkpoint whose card or weights are broken is named by every command that takes one, before anything is built."""

import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimdiff import cli
from slimdiff.files import CHECKSUM
from slimdiff.model.checkpoint import load_model, read_card

CPU = torch.device("cpu")
CARDS = {
    "no JSON": lambda card: "hello",
    "empty": lambda card: "",
    "a list": lambda card: "[1, 2]",
    "null": lambda card: "null",
    "a number": lambda card: "7",
    "half": lambda card: json.dumps(card)[:200],
    "nested": lambda card: '{"data": ' + "[" * 10_000 + "]" * 10_000 + "}",
    "nested without end": lambda card: '{"data": ' + "[" * 100_000,
    "a number of 5000 digits": lambda card: json.dumps(card).replace('"step": ', '"step": ' + "9" * 5000),
    "another format": lambda card: json.dumps(card | {"format": 99}),
    "a list as format": lambda card: json.dumps(card | {"format": []}),
}
VALUES = {
    "spacing_mm": [math.nan, math.inf, 0, -1, "1.25", None, [1]],
    "z_range": [[1], [3, 1], "ab", None, [math.nan, 2], {}],
    "fold": [None, "0", 1.5],
    "step": [None, "a", 1e300],
    "model": [None, [], "x", {}],
    "diffusion": [None, {}, {"schedule": "cosine", "timesteps": 10**12, "prediction": "x0"}],
    "height": ["cubits", 3],
    "mask_calibration": [
        {},
        {"log_sigma": 1},
        [],
        {"log_sigma": [1], "slopes": [], "offsets": [1], "least_px": 1},
    ],
    "data.size": [[0, 8], [10**9, 10**9], [8], 8, None],
    "data.n_bins": [0, -3, 10**12, "3", None, 1.5],
    "data.bin_centres": [[], None, [1.0], ["a"]],
    "data.acquisitions": ["a", None, [1], ["a", "b"]],
    "data.augmentations": [10**12, -1, None],
    "model.channels": [None, [], [10**9, 10**9], ["a"], [16] * 10_000, 16, [math.nan]],
    "model.res_blocks": [10**12, 0, None, "2"],
    "model.attention": [None, [True] * 100, []],
    "model.norm_groups": [0, 10**9, None],
    "model.head_channels": [0, None, 10**9],
    "model.coupling": [None, "none", 3],
    "model.patch": [0, 10**6, None],
    "model.null_token": [None, "yes"],
    "model.unknown_key": [1],
    "unknown_key": [1],
}


def rewritten(model: Path, to: Path, change) -> Path:
    """The model with another text as its card."""
    with model.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        card = json.loads(json.loads(stream.read(length))["__metadata__"]["slimdiff"])
    card.pop(CHECKSUM)
    save_file(load_file(model), to, metadata={"slimdiff": change(card)})
    return to


def with_value(card: dict, key: str, value) -> str:
    *above, last = key.split(".")
    inner = card
    for name in above:
        inner = inner[name]
    inner[last] = value
    return json.dumps(card)


def generate(path: Path, folder: Path) -> int:
    study = folder / "s.json"
    study.write_text(json.dumps({"study": "tiny", "generation": {"device": "cpu", "evaluations": 2}}))
    words = [
        "--config",
        str(study),
        "--ckpt",
        str(path),
        "--out-dir",
        str(folder / "out"),
        "--n-per-condition",
        "1",
    ]
    return cli.run_stage("generate", words)


def assert_named(path: Path, tmp_path: Path, capsys) -> str:
    assert generate(path, tmp_path) == 2
    said = capsys.readouterr().err
    assert str(path) in said and len(said) < 3000
    assert not list(tmp_path.glob("out/*"))
    return said


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_that_is_none_is_named(trained, tmp_path, capsys, kind):
    assert_named(rewritten(trained, tmp_path / "m.safetensors", CARDS[kind]), tmp_path, capsys)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in VALUES.items() for value in values]
)
def test_a_card_with_a_value_that_no_checkpoint_has_is_named(trained, tmp_path, capsys, key, value):
    path = rewritten(trained, tmp_path / "m.safetensors", lambda card: with_value(card, key, value))
    assert_named(path, tmp_path, capsys)


def test_every_missing_key_is_named(trained, tmp_path, capsys):
    keys = []
    rewritten(trained, tmp_path / "m.safetensors", lambda card: keys.extend(card) or "{}")
    optional = {"ema_decay", "mask_calibration", "height", "init", "training_run"}
    for key in set(keys) - optional:
        path = rewritten(
            trained,
            tmp_path / "m.safetensors",
            lambda card, key=key: json.dumps({name: value for name, value in card.items() if name != key}),
        )
        assert re.search(rf"\b{key}\b", assert_named(path, tmp_path, capsys)), key


def test_text_that_is_not_utf8_is_named(trained, tmp_path, capsys):
    content = trained.read_bytes()
    path = tmp_path / "m.safetensors"
    path.write_bytes(content.replace(b'\\"study\\": \\"tiny', b'\\"study\\": \\"\xe9\xe9\xe9y'))
    assert path.read_bytes() != content
    assert_named(path, tmp_path, capsys)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"\x80\x02}q\0.", "ä".encode("latin-1") * 50, b"{}", b"PK\3\4"]
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, capsys, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert_named(path, tmp_path, capsys)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named(trained, tmp_path, capsys, value):
    tensors = load_file(trained)
    name = sorted(
        name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() > 3
    )[5]
    tensors[name].view(-1)[2] = value
    with trained.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        card = json.loads(json.loads(stream.read(length))["__metadata__"]["slimdiff"])
    card.pop(CHECKSUM)
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"slimdiff": json.dumps(card)})
    said = assert_named(path, tmp_path, capsys)
    assert name in said and "NaN or infinite" in said


def test_a_card_and_weights_of_an_earlier_version_have_no_checksum_and_are_read(trained, tmp_path):
    path = rewritten(trained, tmp_path / "m.safetensors", json.dumps)
    assert read_card(path) == read_card(trained)
    theirs, ours = (load_model(model, CPU)[0].state_dict() for model in (path, trained))
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux counts it")
def test_an_absurd_card_takes_no_memory(trained, tmp_path):
    path = rewritten(
        trained, tmp_path / "m.safetensors", lambda card: with_value(card, "model.channels", [10**5, 10**5])
    )
    script = r"""
import re, sys, torch
from slimdiff.model.checkpoint import load_model, read_card

def peak():
    # Not ru_maxrss, which begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024

before = peak()
try:
    load_model(sys.argv[1], torch.device("cpu"))
except ValueError as error:
    print(error)
print("MB", peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert str(path) in done.stdout, done.stderr
    assert float(done.stdout.rsplit("MB", 1)[1]) < 200
