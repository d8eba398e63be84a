#!/usr/bin/env bash
# Asks transformers for the logits of a run's newest checkpoint, and compares them with ours.
# usage: check_checkpoint.sh RUN [python with transformers]
set -euo pipefail
run=$(realpath "$1")
python=${2:-python3}
cd "$(dirname "$0")/../.."
logits=$(mktemp)
trap 'rm -f "$logits"' EXIT
checkpoint=$(ls -d "$run"/ckpt/step-* | tail -n 1)
cargo run --quiet -p tests --example logits -- "$checkpoint" "$logits"
"$python" tests/oracles/check_checkpoint.py "$checkpoint" "$logits"
