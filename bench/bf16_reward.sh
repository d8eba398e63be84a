#!/usr/bin/env bash
# The default run with products in f32 and in bf16, three seeds each: how well it learns, and how fast.
# usage: bench/bf16_reward.sh DIR   (runs are left in DIR; those that are there already are not run again)
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
[ -n "${TRAINER:-}" ] || cargo build --release --quiet -p trainer-bin
for seed in 1 2 3; do
    for precision in f32 bf16; do
        ls "$dir/$precision-$seed"/*/report.html >/dev/null 2>&1 && continue
        rm -rf "${dir:?}/$precision-$seed"
        "${TRAINER:-target/release/trainer}" run --set run.dir="$dir/$precision-$seed" --set run.seed="$seed" \
            --set model.matmul_precision="$precision" --set log.console=quiet >/dev/null
    done
done
python3 - "$dir" <<'PY'
import glob, json, sys

def rows(precision, seed):
    file = glob.glob(f"{sys.argv[1]}/{precision}-{seed}/*/metrics.jsonl")[0]
    return [json.loads(line) for line in open(file)]

def show(values, digits):
    return f"{sum(values) / len(values):.{digits}f} ({', '.join(f'{v:.{digits}f}' for v in values)})"

print("| products | reward of the last ten steps | held-out, % exact | first step with a reward of 0.9 | largest `mismatch/max_abs` |")
print("|---|---|---|---|---|")
for precision in ("f32", "bf16"):
    runs = [rows(precision, seed) for seed in (1, 2, 3)]
    reward = [sum(r["reward/mean"] for r in run[-10:] if r["reward/mean"] is not None) / 10 for run in runs]
    exact = [100 * [r["eval/heldout/exact"] for r in run if r.get("eval/heldout/exact") is not None][-1] for run in runs]
    reached = [next(r["step"] for r in run if (r["reward/mean"] or 0.0) >= 0.9) for run in runs]
    mismatch = max(r.get("mismatch/max_abs") or 0.0 for run in runs for r in run)
    print(f"| {precision} | {show(reward, 3)} | {show(exact, 1)} | {', '.join(map(str, reached))} | {mismatch:g} |")
PY
