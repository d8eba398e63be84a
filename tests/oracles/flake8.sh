#!/usr/bin/env bash
# Compares what `cov-eval lint` finds in 500 files of `code_fix` with what flake8 and its plug-ins find; fails below 99 % of agreement.
# Makes a Python environment in target/flake8.
# usage: flake8.sh [files]
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=target/flake8
[ -x "$venv/bin/flake8" ] || {
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q flake8==7.2.0 flake8-bugbear==24.12.12 flake8-comprehensions==3.16.0 flake8-simplify==0.21.0 \
        pep8-naming==0.15.1
}
cargo build --quiet -p cov-eval
"$venv/bin/python" tests/oracles/flake8.py "${CARGO_TARGET_DIR:-target}/debug/cov-eval" "${1:-500}"
