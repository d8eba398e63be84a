"""Training and decoding steps of `trainer bench` and of PyTorch, in turn on the same cores; a table in Markdown.

usage: compare.py TRAINER PYTHON [--rounds N] [--steps N] [--compile]
"""
import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
parser = argparse.ArgumentParser()
parser.add_argument("trainer")
parser.add_argument("python", help="with torch and transformers")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--compile", action="store_true", help="torch.compile too; its warm-up takes minutes")
args = parser.parse_args()


def output(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done.stdout


def ours(shape, precision, batch, length, decode):
    file = pathlib.Path(args.trainer).parent / "bench.json"
    sizes = ["--batch", batch, "--length", length, "--steps", args.steps if batch else 16]
    sizes += ["--decode", ",".join(map(str, decode))] if decode else ["--decode", "1"]
    output([args.trainer, "bench", shape, *sizes, "--precision", precision, "--threads", 2, "--json", file])
    return json.loads(file.read_text())


def peer(script, *arguments):
    return json.loads(output([args.python, HERE / script, *arguments]).splitlines()[-1])


def median(values):
    return sorted(values)[len(values) // 2]


def row(work, rounds):
    """`rounds`: pairs of (ours, theirs), each with `seconds` and `peak_mib`."""
    (us, them) = ([r[i]["seconds"] for r in rounds] for i in (0, 1))
    (our_mib, their_mib) = (median([r[i]["peak_mib"] for r in rounds]) for i in (0, 1))
    ratios = sorted(t / u for u, t in zip(us, them))
    print(
        f"| {work} | {median(us):.4g} | {median(them):.4g} | {median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        f" | {our_mib:.0f} | {their_mib:.0f} | {our_mib / their_mib:.2f} |",
        flush=True,
    )


print("| work | ours, s | peer, s | times faster (range) | ours, MiB | peer, MiB | memory |")
print("|---|---|---|---|---|---|---|")
for name, batch, length in [("tiny", 16, 128), ("smollm2", 4, 256), ("moe60m", 4, 256)]:
    shape = HERE / "shapes" / f"{name}.json"
    for precision in ["f32", "bf16"]:
        forms = [[]]
        if args.compile and precision == "bf16" and name != "moe60m":
            forms.append(["--compile"])
        if name == "moe60m":
            forms = [["--experts", e] for e in ["eager", "grouped_mm"]]
        for form in forms:
            rounds = [
                (
                    ours(shape, precision, batch, length, [])["training"],
                    peer("peer_training.py", shape, precision, batch, length, args.steps, *form),
                )
                for _ in range(args.rounds)
            ]
            what = " ".join(f.removeprefix("--") for f in form)
            row(f"training step, {name}, {batch} × {length}, {precision}; PyTorch {precision} {what}".rstrip(), rounds)
shape = HERE / "shapes" / "smollm2.json"
for precision in ["f32", "bf16"]:
    for batch in [1, 8, 32]:
        rounds = [
            (
                ours(shape, precision, 0, 2, [batch])["decoding"][0],
                peer("peer_decoding.py", shape, precision, batch, 32, 16),
            )
            for _ in range(args.rounds)
        ]
        row(f"decoding step, smollm2, batch {batch}, {precision}; transformers {precision}", rounds)
