#!/usr/bin/env bash
# Collects the wheels of benchmarks/speed/gpu.sh where pip has an index, for a machine that has none:
#   bash benchmarks/speed/pack_wheels.sh [folder]
# Both sides' packages but torch, numpy, scipy, pandas and safetensors, which that machine has to have. PYTHON is its
# version, PLATFORM its tag (of 64-bit Linux with glibc).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-data/wheels}
version=${PYTHON:-3.12}
platform=${PLATFORM:-x86_64}
limit_mib=64

# What needs torch is listed with what it brings, so that no second torch is among them.
alone=(contourpy cycler einops filelock fonttools fsspec imageio kiwisolver lazy-loader lightning-utilities lpips
    matplotlib monai==1.6.0 networkx nibabel packaging pillow pyparsing python-dateutil pytorch-lightning scikit-image
    six tifffile torchmetrics importlib-resources)
with_dependencies=(aiohttp omegaconf pydantic tqdm)

mkdir -p "$folder"
get=(python3 -m pip download --quiet --disable-pip-version-check --only-binary :all: --dest "$folder"
    --implementation cp --python-version "$version" --platform "manylinux_2_28_$platform"
    --platform "manylinux_2_27_$platform" --platform "manylinux_2_17_$platform" --platform "manylinux2014_$platform")
"${get[@]}" --no-deps "${alone[@]}"
"${get[@]}" "${with_dependencies[@]}"
python3 benchmarks/published/environment.py --requirement >"$folder/reference.txt"
"${get[@]}" --no-deps --require-hashes --requirement "$folder/reference.txt"
size=$(du -sm "$folder" | cut -f1)
echo "$folder: $(find "$folder" -name '*.whl' | wc -l) wheels, $size MiB"
if [ "$size" -ge "$limit_mib" ]; then
    echo "more than $limit_mib MiB" >&2
    exit 1
fi
