#!/usr/bin/env bash
# The run of configs/vl_shapes.toml with four position designs and three seeds, and a table of how well each one learns.
# usage: bench/vl_positions.sh DIR   (runs are left in DIR; those that are there already are not run again)
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
[ -n "${TRAINER:-}" ] || cargo build --release --quiet -p trainer-bin
run() { # name seed settings...
    local name=$1 seed=$2
    shift 2
    [ -f "$dir/$name-$seed/vl-shapes-1/report.html" ] && return
    rm -rf "${dir:?}/$name-$seed"
    "${TRAINER:-target/release/trainer}" run configs/vl_shapes.toml --set run.dir="$dir/$name-$seed" --set run.seed="$seed" \
        --set log.console=quiet "$@" >/dev/null
}
for seed in 1 2 3; do
    run mrope_i "$seed" --set model.position_scheme=mrope_i
    run mhrope "$seed" --set model.position_scheme=mhrope --set "model.mrope_section=[1, 1, 1]"
    run chunked "$seed" --set model.mrope_interleaved=false
    run vanilla "$seed" --set model.position_scheme=vanilla
done
python3 - "$dir" <<'PY'
import glob, json, sys

def rows(design, seed):
    file = glob.glob(f"{sys.argv[1]}/{design}-{seed}/*/metrics.jsonl")[0]
    return [r for r in map(json.loads, open(file)) if r.get("eval/heldout/exact") is not None]

def show(values, digits=0):
    return f"{sum(values) / len(values):.{digits}f} ({', '.join(f'{v:.{digits}f}' for v in values)})"

print("| positions | after the supervised steps, % exact | best, % exact | last, % exact | steps to 90 % |\n|---|---|---|---|---|")
for design in ("mrope_i", "mhrope", "chunked", "vanilla"):
    runs = [rows(design, seed) for seed in (1, 2, 3)]
    exact = [[100 * r["eval/heldout/exact"] for r in run] for run in runs]
    reached = [next((str(r["step"]) for r in run if r["eval/heldout/exact"] >= 0.9), "never") for run in runs]
    print(f"| {design} | {show([e[0] for e in exact])} | {show([max(e) for e in exact])} | "
          f"{show([e[-1] for e in exact])} | {', '.join(reached)} |")
PY
