#!/usr/bin/env bash
# Asks transformers for the logits of a run's newest checkpoint, and compares them with ours; then the same of the checkpoint
# written again in bf16 and in shards.
# usage: check_checkpoint.sh RUN [python with transformers]
set -euo pipefail
run=$(realpath "$1")
python=${2:-python3}
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
checkpoint=$(ls -d "$run"/ckpt/step-* | tail -n 1)
mkdir "$out/shards"
cp "$checkpoint"/*.json "$out/shards"
cargo run --quiet -p tests --example resave -- "$checkpoint" "$out/shards" bf16 100000
test -f "$out/shards/model.safetensors.index.json"
for model in "$checkpoint" "$out/shards"; do
    cargo run --quiet -p tests --example logits -- "$model" "$out/logits.json"
    "$python" tests/oracles/check_checkpoint.py "$model" "$out/logits.json"
done
