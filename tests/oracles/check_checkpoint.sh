#!/usr/bin/env bash
# Trains the default model for a few steps and asks transformers for the logits of its checkpoint.
# usage: check_checkpoint.sh [python with transformers]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo run --quiet -p trainer-bin -- --set run.dir="$out" --set run.steps=3 --set log.console=quiet --set eval.every=0 >/dev/null
checkpoint=$(ls -d "$out"/*/ckpt/step-000003)
cargo run --quiet -p tests --example logits -- "$checkpoint" "$out/logits.json"
"$python" tests/oracles/check_checkpoint.py "$checkpoint" "$out/logits.json"
