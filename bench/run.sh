#!/usr/bin/env bash
# Steps of training and decoding, ours and PyTorch's in turn on the same cores, and an RL step against TRL's:
# tables of medians, ratios and peak memory.
# usage: bench/run.sh [python with torch, transformers, trl, datasets] [compare.py's options]
#   (default: installs them under target/)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-}
shift || true
if [ -z "$python" ]; then
    python3 -m venv target/bench-venv
    target/bench-venv/bin/pip install --quiet --retries 1 torch transformers "trl>=1.0" datasets \
        --extra-index-url https://download.pytorch.org/whl/cpu
    python=target/bench-venv/bin/python
fi
cargo build --release --quiet -p trainer-bin
"$python" bench/compare.py target/release/trainer "$python" "$@"
bash bench/trl.sh "$python"
