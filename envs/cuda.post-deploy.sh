#!/usr/bin/env bash
# Runs in the new environment, in the folder where snakemake was started: the checkout.
set -euo pipefail
if [ ! -f pyproject.toml ]; then
    echo "start snakemake in slimdiff's checkout, so that its package can be installed into the environment" >&2
    exit 1
fi
pip install --no-deps --editable .
