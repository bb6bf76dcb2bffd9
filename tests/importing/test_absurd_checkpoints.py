"""Checkpoints that unpack or unfold without end, promise absurd sizes, or lack a key: refused by name, built never."""

import pickle
import re
import subprocess
import sys
import zipfile
from copy import copy, deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.published_checkpoints import configuration, lightning, reference_without_wheel

from slimdiff.cli import import_
from slimdiff.model.checkpoint import read_card

CONFIG = configuration(self_conditioning=False)


@pytest.fixture(scope="module")
def network():
    return reference_without_wheel(self_conditioning=False)


def refused(path: Path, capsys, *words: str, arguments=()) -> str:
    out = path.with_name("model.safetensors")
    assert import_(["--ckpt", str(path), "--out", str(out), *arguments]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and "Traceback" not in said and "weights_only" not in said
    assert all(word in said for word in words), said
    assert not out.exists()
    return said


def leaves(values: dict, path: tuple[str, ...] = ()):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


# Keys that the published code has a default for, or that describe its disk and its training only.
OPTIONAL = {
    *(
        "data.root",
        "data.cache",
        "conditioning.cfg",
        "conditioning.cfg.enabled",
        "conditioning.cfg.null_token",
    ),
    *("model.anatomical_conditioning", "model.anatomical_conditioning_method", "model.cross_attention_dim"),
    *("training.self_conditioning.probability", "loss", "loss.mode", "loss.lp_norm", "loss.lp_norm.p"),
}


@pytest.mark.parametrize("path", [".".join(path) for path in leaves(CONFIG)])
def test_a_configuration_without_a_key_names_it(network, tmp_path, capsys, path):
    config = deepcopy(CONFIG)
    *above, last = path.split(".")
    inner = config
    for key in above:
        inner = inner[key]
    del inner[last]
    file = lightning(tmp_path / "x.ckpt", network, config)
    if path in OPTIONAL:
        assert import_(["--ckpt", str(file), "--out", str(tmp_path / "model.safetensors")]) == 0
        card = read_card(tmp_path / "model.safetensors")
        assert (card.spacing_mm, card.z_range, card.n_bins) == (1.25, (34, 115), 7)
    else:
        refused(file, capsys, path)


VALUES = {
    "conditioning.z_bins": [10**12, 0, -1, "7", None, 1.5],
    "data.transforms.target_spacing": [[0], [float("nan")], [1e300], [], "x", None],
    "data.transforms.roi_size": [[10**9, 10**9, 1], [0, 0], [], "ab", None],
    "data.slice_sampling.z_range": [[1], [1, 2, 3], "x", None],
    "model.channels": [[10**6, 10**6], [], None, 16, ["a"]],
    "model.num_res_blocks": [10**9, 0, "2", None],
    "model.norm_num_groups": [10**9, 0, None],
    "model.num_head_channels": [0, "x"],
    "model.attention_levels": [[True] * 50, None],
    "scheduler.num_train_timesteps": [10**12, 0, "x", None],
    "scheduler.schedule": ["linear", None, ["cosine"]],
    "loss.lp_norm.p": [1e300, float("nan"), "x"],
    "data": [[], 3, None, "x"],
    "model": ["x"],
    "training": [None, []],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in VALUES.items() for value in values]
)
def test_a_value_that_no_network_has_is_refused(network, tmp_path, capsys, key, value):
    config = deepcopy(CONFIG)
    *above, last = key.split(".")
    inner = config
    for name in above:
        inner = inner[name]
    inner[last] = value
    torch.save(
        {"state_dict": network.state_dict(), "ema_state_dict": {}, "hyper_parameters": config},
        tmp_path / "x.ckpt",
    )
    refused(tmp_path / "x.ckpt", capsys)


def saved(path: Path, network, **changes) -> Path:
    content = {"state_dict": network.state_dict(), "ema_state_dict": {}, "hyper_parameters": deepcopy(CONFIG)}
    torch.save({**content, **changes}, path)
    return path


def test_the_checkpoint_of_these_tests_can_be_imported(network, tmp_path):
    path = saved(tmp_path / "x.ckpt", network)
    assert import_(["--ckpt", str(path), "--out", str(tmp_path / "model.safetensors")]) == 0


@pytest.mark.parametrize("record", ["data.pkl", "data/0"])
def test_a_compressed_record_is_refused_before_it_is_unpacked(network, tmp_path, capsys, record):
    whole, path = saved(tmp_path / "whole.ckpt", network), tmp_path / "x.ckpt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            packed = info.filename.endswith(record)
            kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            target.writestr(info.filename, bytes(300_000_000) if packed else source.read(info), kind)
    assert path.stat().st_size < 2_000_000
    refused(path, capsys, record, "compressed", "nothing was unpacked")


def test_records_that_share_their_bytes_are_refused(network, tmp_path, capsys):
    path = saved(tmp_path / "x.ckpt", network)
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        for number in range(3):
            again = copy(largest)
            again.filename = f"{largest.filename}{number}"
            archive.filelist.append(again)
        archive._didModify = True
    refused(path, capsys, "overlap", "nothing was unpacked", str(path.stat().st_size))


@pytest.mark.parametrize("value", [Path("home"), np.float64(3)], ids=["a path", "a number of numpy"])
def test_no_advice_to_admit_code_is_passed_on(network, tmp_path, capsys, value):
    said = refused(saved(tmp_path / "x.ckpt", network, more=value), capsys, "was not an allowed global")
    assert not re.search("safe_globals|allowlist|Please use", said)


def test_a_tensor_larger_than_its_file_is_refused(network, tmp_path, capsys):
    huge = torch.zeros(1).expand(1_000_000, 1_000_000, 1000)
    state = {**network.state_dict(), "model.conv_in.conv.weight": huge}
    refused(
        saved(tmp_path / "x.ckpt", network, state_dict=state), capsys, "model.conv_in.conv.weight", "1000000"
    )


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_a_tensor_without_its_values_is_refused(network, tmp_path, capsys, kind):
    shape = (10**6, 10**6)
    value = torch.sparse_coo_tensor(size=shape) if kind == "sparse" else torch.empty(shape, device="meta")
    state = {**network.state_dict(), "model.conv_in.conv.weight": value}
    refused(saved(tmp_path / "x.ckpt", network, state_dict=state), capsys)


def laughs(levels: int = 40):
    value = ["x"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


UNFOLDED = {
    "lists in lists": lambda: {"more": laughs()},
    "references": lambda: {"r0": "x"} | {f"r{n}": [f"${{r{n - 1}}}"] * 10 for n in range(1, 40)},
    "a reference to itself": lambda: {"a": {"b": "${a}"}},
    "two references to each other": lambda: {"a": {"b": "${c}"}, "c": {"d": "${a}"}},
}


@pytest.mark.parametrize("kind", UNFOLDED)
def test_a_configuration_that_unfolds_without_end_is_refused(network, tmp_path, capsys, kind):
    refused(saved(tmp_path / "x.ckpt", network, hyper_parameters=CONFIG | UNFOLDED[kind]()), capsys)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\3\4", pickle.dumps({"a": 1}), b"\x80\x02}q\0.", b"[" * 100_000],
    ids=["empty", "text", "zip", "pickle", "old pickle", "brackets"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, capsys, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    refused(tmp_path / "x.ckpt", capsys)


@pytest.mark.parametrize("state", [None, [], 3, {"model.x": "text"}, {"model.x": None}])
def test_a_state_that_holds_no_weights_is_refused(network, tmp_path, capsys, state):
    refused(saved(tmp_path / "x.ckpt", network, state_dict=state), capsys)


def test_a_weight_that_is_not_finite_is_named(network, tmp_path, capsys):
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["model.conv_in.conv.bias"][0] = float("nan")
    refused(saved(tmp_path / "x.ckpt", network, state_dict=state), capsys, "trunk.encoder.stem.bias", "NaN")


YAML = {
    "latin-1": "data: caf\xe9".encode("latin-1"),
    "binary": bytes(range(256)),
    "brackets": b"data: " + b"[" * 5000,
    "aliases": "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9) if n else 1}]\n" for n in range(12)
    ).encode(),
    "empty": b"",
    "a list": b"- 1",
}


@pytest.mark.parametrize("kind", YAML)
def test_a_configuration_file_that_is_none_is_named(network, tmp_path, capsys, kind):
    path = tmp_path / "published.yaml"
    path.write_bytes(YAML[kind])
    checkpoint = saved(tmp_path / "x.ckpt", network)
    words = ["--ckpt", str(checkpoint), "--out", str(tmp_path / "m.safetensors"), "--config", str(path)]
    assert import_(words) == 2
    said = capsys.readouterr().err
    assert str(path) in said and "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux counts it")
def test_an_absurd_checkpoint_takes_no_memory(network, tmp_path):
    config = deepcopy(CONFIG)
    config["model"]["channels"] = [10**5, 10**5]
    path = saved(tmp_path / "x.ckpt", network, hyper_parameters=config)
    # Not ru_maxrss, which begins with that of the process that started it.
    script = (
        "import re, sys\nfrom slimdiff.cli import import_\nimport torch\n"
        "status = import_(['--ckpt', sys.argv[1], '--out', sys.argv[1] + '.out'])\n"
        "print('status', status, 'MB', "
        "int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "status 2" in done.stdout, done.stderr
    assert float(done.stdout.split()[-1]) < 1000
