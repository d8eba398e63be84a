#!/usr/bin/env bash
# Ours against pinned peers, in turn on the same two cores: tables of medians, ratios and peak memory.
# usage: bench/run.sh [loss] [training] [decoding] [rl] [scaling] [profile]
#        [--rounds N] [--quick] [--only TEXT] [--write]   (default: all sections; --write: into docs/performance.md)
# Installs the peers under target/ on the first run (bench/peers.sh: gigabytes, and llama.cpp is compiled).
set -euo pipefail
cd "$(dirname "$0")/.."
sections=() options=()
while [ $# -gt 0 ]; do
    case $1 in
        --rounds | --only) options+=("$1" "$2") && shift ;;
        --*) options+=("$1") ;;
        *) sections+=("$1") ;;
    esac
    shift
done
[ ${#sections[@]} -gt 0 ] || sections=(loss training decoding rl scaling profile)
has() { [[ " ${sections[*]} ${options[*]} " == *" $1 "* ]]; }

if has decoding && ! has --quick; then bench/peers.sh bench vllm; else bench/peers.sh bench; fi
cargo build --release --quiet -p trainer-bin
cargo build --release --quiet -p tests --example loss
trainer=target/release/trainer python=target/bench-venv/bin/python

# SmolLM2 as the peers read it, and once more without an end token that a text would reach.
if has decoding || has rl; then
    model=$(scripts/get-smollm2.sh "$python")
    dir=target/smollm2
    [ -f $dir/hf/config.json ] || "$trainer" convert "$model" $dir/hf
    [ -f $dir/bf16.gguf ] || "$trainer" convert "$model" $dir/bf16.gguf --dtype bf16
    [ -f $dir/f32.gguf ] || "$trainer" convert "$model" $dir/f32.gguf
    [ -f $dir/q8_0.gguf ] || "$python" bench/peer_llama.py quantize $dir/f32.gguf $dir/q8_0.gguf q8_0
    rm -rf $dir/endless && mkdir $dir/endless
    ln -s ../hf/model.safetensors ../hf/tokenizer.json $dir/endless
    sed 's/"eos_token_id": 2/"eos_token_id": 16/' $dir/hf/config.json >$dir/endless/config.json
    sed 's/"eos_token": "[^"]*"/"eos_token": "<empty_output>"/' $dir/hf/tokenizer_config.json >$dir/endless/tokenizer_config.json
    "$python" - $dir/endless <<'PY'
import json, sys

prompts = [
    f"Question {i}: list three short words that start with the letter {chr(97 + i % 26)}. Answer:" for i in range(64)
]
with open(f"{sys.argv[1]}/prompts.txt", "w") as plain, open(f"{sys.argv[1]}/prompts.jsonl", "w") as rows:
    for prompt in prompts:
        print(prompt, file=plain)
        print(json.dumps({"prompt": prompt}), file=rows)
PY
fi
exec "$python" bench/compare.py "$trainer" "${sections[@]}" "${options[@]}"
