#!/usr/bin/env bash
# Writes the golden Qwen3-VL models again, in shards, and asks transformers for their logits.
# usage: check_vl_checkpoint.sh [python with transformers]
set -euo pipefail
python=${1:-python3}
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for model in qwen3_vl qwen3_vl_moe; do
    cargo run --quiet -p tests --example resave -- "tests/golden/models/$model" "$out/$model" f32 50000
    test -f "$out/$model/model.safetensors.index.json"
    "$python" tests/oracles/check_vl_checkpoint.py "tests/golden/models/$model" "$out/$model"
done
