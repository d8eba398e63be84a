#!/usr/bin/env bash
# Time a step and peak memory: TRL's GRPOTrainer against `trainer`, in turn on the same cores.
# usage: bench/trl.sh [python with torch, transformers, trl, datasets]   (default: installs them under target/)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-}
if [ -z "$python" ]; then
    python3 -m venv target/bench-venv
    target/bench-venv/bin/pip install --quiet --retries 1 torch transformers "trl>=1.0" datasets \
        --extra-index-url https://download.pytorch.org/whl/cpu
    python=target/bench-venv/bin/python
fi
cargo build --release --quiet -p trainer-bin
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
ours() {
    target/release/trainer --set run.dir="$out/$1" --set run.steps=40 --set run.threads=2 --set log.console=quiet \
        --set model.hidden_size=128 --set model.num_hidden_layers=2 --set model.num_attention_heads=4 \
        --set model.num_key_value_heads=2 --set model.head_dim=32 --set model.num_experts=8 \
        --set model.moe_intermediate_size=64 --set model.tie_word_embeddings=true \
        --set rollout.prompts=32 --set rollout.group=8 --set rollout.max_new_tokens=5 --set "data.levels=[4]" \
        --set loss.objective=sapo --set loss.entropy_coef=0 --set update.minibatches=1 --set update.lr=1e-3 \
        --set advantage.estimator=auto --set eval.every=0 --set ckpt.every=0 >/dev/null
    python3 - "$out/$1" <<'PY'
import glob, json, sys
rows = [json.loads(line) for line in open(glob.glob(sys.argv[1] + "/*/metrics.jsonl")[0])][5:]
times = sorted(row["time/total"] for row in rows)
print(f"trainer {times[len(times) // 2]:.4f} {rows[-1]['mem/peak_mib']:.0f}")
PY
}
theirs() { "$python" bench/trl_default.py 12; }
for round in 1 2 3; do
    ours "$round" | tee -a "$out/result"
    theirs | tee -a "$out/result"
done
python3 - "$out/result" <<'PY'
import sys
seen = {}
for line in open(sys.argv[1]):
    name, seconds, mib = line.split()
    seen.setdefault(name, []).append((float(seconds), float(mib)))
median = lambda v: sorted(v)[len(v) // 2]
(ts, tm), (us, um) = [(median([s for s, _ in seen[n]]), median([m for _, m in seen[n]])) for n in ("trl", "trainer")]
print(f"TRL {ts:.3f} s a step, {tm:.0f} MiB; trainer {us:.4f} s a step, {um:.0f} MiB: {ts / us:.1f} x faster, {um / tm:.2f} of the memory")
PY
