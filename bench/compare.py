"""Ours and a peer's work in turn on the same cores: tables in Markdown of medians, ratios and peak memory.

usage: compare.py TRAINER SECTION... [--rounds N] [--quick] [--write]
       (sections: loss, training, decoding, rl, scaling, profile; --write puts their tables into docs/performance.md)

Both sides are processes that stay: they load, warm up, and then measure once for every request, so that the two halves of a
pair are seconds apart. The speed of a shared machine moves by more than the differences sought here, but over minutes.
"""
import argparse
import glob
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from scaling import measure as measure_scaling

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent / "target"
PYTHON = TARGET / "bench-venv/bin/python"
VLLM_PYTHON = TARGET / "vllm-venv/bin/python"
SMOLLM2 = TARGET / "smollm2"

parser = argparse.ArgumentParser()
parser.add_argument("trainer", type=pathlib.Path)
parser.add_argument("sections", nargs="+", choices=["loss", "training", "decoding", "rl", "scaling", "profile"])
parser.add_argument("--rounds", type=int, default=5, help="pairs of a row")
parser.add_argument("--quick", action="store_true", help="leave out torch.compile and vLLM, which take minutes to start")
parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
parser.add_argument("--only", help="rows whose name contains this")
args = parser.parse_args()
said = []


def say(line=""):
    print(line, flush=True)
    said.append(line)


class Worker:
    """A process that measures on request: `worker.py`, `trainer bench --on-request`, `examples/loss`."""

    def __init__(self, *command):
        self.command = " ".join(map(str, command))
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        # Libraries may print while they load.
        while self.read() != "ready\n":
            pass

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.command}\n{self.log.read()[-3000:]}")
        return line

    def measure(self, *arguments):
        print(json.dumps(arguments), file=self.process.stdin, flush=True)
        found = json.loads(self.read())
        # Threads of the peers spin for a while after their work.
        time.sleep(0.3)
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def median(values):
    return sorted(values)[len(values) // 2]


def header():
    say("| work | ours, s | peer, s | times faster (range) | ours, MiB | peer, MiB | memory |")
    say("|---|---|---|---|---|---|---|")


def wanted(work):
    return args.only is None or args.only in work


def row(work, ours, theirs, rounds=None):
    """`ours` and `theirs` measure once. Who begins changes with every pair."""
    if not wanted(work):
        return
    pairs = []
    for turn in range(rounds or args.rounds):
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        found = [first(), second()]
        pairs.append(found if turn % 2 == 0 else found[::-1])
    seconds = [[pair[i]["seconds"] for pair in pairs] for i in (0, 1)]
    mib = [max(pair[i]["peak_mib"] for pair in pairs) for i in (0, 1)]
    ratios = sorted(theirs / ours for ours, theirs in zip(*seconds))
    say(
        f"| {work} | {median(seconds[0]):.4g} | {median(seconds[1]):.4g} | {median(ratios):.2f}"
        f" ({ratios[0]:.2f}–{ratios[-1]:.2f}) | {mib[0]:.0f} | {mib[1]:.0f} | {mib[0] / mib[1]:.2f} |"
    )


def loss():
    header()
    example = args.trainer.parent / "examples/loss"
    # The hidden sizes are SmolLM2's and Qwen3-0.6B's.
    for start, tokens, vocabulary, size, precision, compiled in [
        ("logits", 2048, 49152, 576, "f32", False),
        ("logits", 2048, 151936, 1024, "f32", True),
        ("hidden", 2048, 49152, 576, "f32", True),
        ("hidden", 2048, 49152, 576, "bf16", True),
        ("hidden", 256, 151936, 1024, "f32", False),
        ("hidden", 2048, 151936, 1024, "f32", False),
        ("hidden", 2048, 151936, 1024, "bf16", True),
    ]:
        sizes = [start, tokens, vocabulary, size, precision]
        of = f", hidden {size}" if start == "hidden" else ""
        work = f"loss from {start}, T {tokens}, V {vocabulary}{of}, {precision}"
        for form in [[], ["--compile"]] if compiled and not args.quick else [[]]:
            name = f"{work}; TRL on PyTorch {precision}{' compiled' * len(form)}"
            if not wanted(name):
                continue
            with Worker(example, *sizes) as ours, Worker(PYTHON, HERE / "peer_loss.py", *sizes, *form) as theirs:
                row(name, ours.measure, theirs.measure)


def training():
    header()
    for name, batch, length, forms in [
        ("tiny", 16, 128, [[], ["--compile"]]),
        ("smollm2", 4, 256, [[], ["--compile"]]),
        ("moe60m", 4, 256, [["--experts", "eager"], ["--experts", "grouped_mm"]]),
    ]:
        shape = HERE / "shapes" / f"{name}.json"
        for precision in ["f32", "bf16"]:
            sizes = ["--batch", batch, "--length", length, "--precision", precision, "--threads", 2]
            for form in forms:
                if "--compile" in form and (precision == "f32" or args.quick):
                    continue
                what = " ".join(["", *(f.removeprefix("--") for f in form)])
                work = f"training step, {name}, {batch} × {length}, {precision}; PyTorch {precision}{what}"
                if not wanted(work):
                    continue
                peer = [PYTHON, HERE / "peer_training.py", shape, precision, batch, length, *form]
                with Worker(args.trainer, "bench", shape, *sizes, "--on-request") as ours, Worker(*peer) as theirs:
                    row(work, ours.measure, theirs.measure)


def decoding():
    header()
    prompt, steps, hf = 32, 32, SMOLLM2 / "hf"
    engines = {
        "transformers f32": ("f32", [PYTHON, HERE / "peer_decoding.py", hf, "f32", prompt, steps]),
        "transformers bf16": ("bf16", [PYTHON, HERE / "peer_decoding.py", hf, "bf16", prompt, steps]),
        "llama.cpp bf16": ("bf16", [PYTHON, HERE / "peer_llama.py", SMOLLM2 / "bf16.gguf", prompt, steps]),
        "llama.cpp q8_0": ("bf16", [PYTHON, HERE / "peer_llama.py", SMOLLM2 / "q8_0.gguf", prompt, steps]),
        "vLLM bf16": ("bf16", [VLLM_PYTHON, HERE / "peer_vllm.py", hf, prompt, steps]),
    }
    for engine, (precision, command) in engines.items():
        if (args.quick and engine.startswith("vLLM")) or not wanted(engine):
            continue
        sizes = ["--batch", 0, "--length", 2, "--prompt", prompt, "--steps", steps, "--threads", 2]
        sizes += ["--precision", precision, "--decode", 1]
        with Worker(args.trainer, "bench", HERE / "shapes/smollm2.json", *sizes, "--on-request") as ours, Worker(*command) as theirs:
            for batch in [1, 8, 32]:
                work = f"decoding step, SmolLM2, batch {batch}, {precision}; {engine}"
                row(work, lambda: ours.measure(batch), lambda: theirs.measure(batch))


def steps_of(directory, skip):
    """The median step of a run of ours, after `skip` of them."""
    metrics = pathlib.Path(glob.glob(f"{directory}/*/metrics.jsonl")[0])
    rows = [json.loads(line) for line in metrics.read_text().splitlines()][skip:]
    return {"seconds": median([row["time/total"] for row in rows]), "peak_mib": rows[-1]["mem/peak_mib"]}


def run_of(skip, settings):
    with tempfile.TemporaryDirectory() as directory:
        settings = {"run.dir": directory, "run.threads": 2, "log.console": "quiet", **settings}
        settings |= {"eval.every": 0, "ckpt.every": 0, "rollout.group": 8, "loss.entropy_coef": 0, "update.minibatches": 1}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        done = subprocess.run([args.trainer, "run", *sets], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        return steps_of(directory, skip)


def rl():
    header()
    default = {
        "run.steps": 40, "model.hidden_size": 128, "model.num_hidden_layers": 2, "model.num_attention_heads": 4,
        "model.num_key_value_heads": 2, "model.head_dim": 32, "model.num_experts": 8, "model.moe_intermediate_size": 64,
        "rollout.prompts": 32, "rollout.max_new_tokens": 5, "data.levels": "[4]", "loss.objective": "sapo",
        "update.lr": 1e-3,
    }

    work = "RL step, default's shape, 256 samples × 5, f32; TRL f32"
    if wanted(work):
        with Worker(PYTHON, HERE / "peer_trl.py", "default") as trl:
            row(work, lambda: run_of(5, default), lambda: trl.measure(12))
    endless = SMOLLM2 / "endless"
    smollm2 = {
        "run.steps": 2, "model.path": endless, "model.matmul_precision": "bf16", "data.task": "",
        "data.path": endless / "prompts.jsonl", "rollout.prompts": 4, "rollout.max_new_tokens": 64,
        "reward.parts": '[{ kind = "regex", weight = 1.0, pattern = "and" }]', "loss.objective": "dapo",
        "update.lr": 1e-6,
    }
    work = "RL step, SmolLM2, 32 samples × 64, bf16; TRL bf16"
    if wanted(work):
        with Worker(PYTHON, HERE / "peer_trl.py", "smollm2", endless) as trl:
            row(work, lambda: run_of(1, smollm2), lambda: trl.measure(1))


def scaling():
    measure_scaling(Worker, args, say)


def profile():
    say("`trainer bench bench/shapes/smollm2.json --precision bf16 --threads 2`:\n\n```")
    shape = [HERE / "shapes/smollm2.json", "--precision", "bf16", "--threads", 2]
    done = subprocess.run([str(c) for c in [args.trainer, "bench", *shape]], capture_output=True, text=True, check=True)
    say(done.stdout.replace(f"{HERE.parent}/", "").rstrip())
    say("```")


def write(section):
    """Replaces what docs/performance.md has of a section."""
    page = HERE.parent / "docs/performance.md"
    text = page.read_text()
    start = f"<!-- bench/run.sh {section} -->\n"
    before, found, after = text.partition(start)
    if not found:
        sys.exit(f"{page} has no place for {section}")
    page.write_text(before + start + "\n".join(said) + "\n" + after[after.index("<!-- end -->"):])


for section in args.sections:
    said.clear()
    {"loss": loss, "training": training, "decoding": decoding, "rl": rl, "scaling": scaling, "profile": profile}[section]()
    if args.write:
        write(section)
