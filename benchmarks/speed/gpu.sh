#!/usr/bin/env bash
# The benchmarks of training, sampling and noise on a CUDA card, without a network: bash benchmarks/speed/gpu.sh [wheels] [out]
# The machine has torch >= 2.8, numpy, scipy, pandas and safetensors; `wheels` is the folder that
# benchmarks/speed/pack_wheels.sh made, `out` (default: $OUT, else results/gpu) takes train.tsv, sample.tsv, noise_cost.tsv and
# versions.txt.
# WORK="train" or "sample" runs one of them, BATCH="32 64" chooses batch sizes; DEVICE=cpu OPTIONS="--size 32" tries the
# script out where there is no card.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=${1:-data/wheels}
out=${2:-${OUT:-results/gpu}}
python=${PYTHON:-python3}
read -ra batch <<<"${BATCH:-32 64 128}"
read -ra work <<<"${WORK:-train sample}"
mkdir -p "$out" build

packages=$PWD/build/gpu-packages
$python -m pip install --quiet --no-index --find-links "$wheels" --upgrade --target "$packages" pydantic tqdm
export PYTHONPATH=$PWD:$packages
reference=(--wheels "$wheels")
if ! $python benchmarks/published/environment.py --wheels "$wheels"; then
    echo "measuring slimdiff alone" >&2
    reference=(--no-reference)
fi
{
    date -u
    $python -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__,
        "cuda", torch.version.cuda, "cudnn", torch.backends.cudnn.version())'
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv || true
} | tee "$out/versions.txt"
for name in "${work[@]}"; do
    $python "benchmarks/speed/$name.py" --device "${DEVICE:-cuda}" --precision bfloat16 --batch "${batch[@]}" \
        "${reference[@]}" ${OPTIONS:-} --out "$out/$name.tsv"
done
$python benchmarks/speed/noise_cost.py | tee "$out/noise_cost.tsv"
