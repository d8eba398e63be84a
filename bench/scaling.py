"""Time a token and memory of training steps over the tokens of a batch, and memory of the loss over the vocabulary: a table and a
figure (`docs/scaling.svg`). Called by `compare.py`."""
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = [1024, 2048, 4096, 8192, 16384]
VOCABULARIES = [32_768, 65_536, 131_072, 262_144]
LENGTH = 128


def measure(worker, args, say):
    shape = HERE / "shapes" / "tiny.json"
    steps = []
    say(f"| tokens (training step, tiny, bf16, packed from sequences of {LENGTH}) | µs a token | of that at {TOKENS[0]} | MiB | MiB a 1024 tokens more |")
    say("|---|---|---|---|---|")
    sizes = ["--length", LENGTH, "--precision", "bf16", "--threads", 2, "--on-request"]
    workers = [worker(args.trainer, "bench", shape, "--batch", n // LENGTH, *sizes) for n in TOKENS]
    # In turn, so that every size sees the machine at every speed.
    rounds = [[w.measure() for w in workers] for _ in range(args.rounds)]
    for w in workers:
        w.__exit__()
    for i, n in enumerate(TOKENS):
        found = [r[i] for r in rounds]
        micro = 1e6 / n * median([f["seconds"] for f in found])
        ratio = median([r[i]["seconds"] / n / (r[0]["seconds"] / TOKENS[0]) for r in rounds])
        steps.append((n, micro, ratio, found[-1]["peak_mib"]))
    for i, (n, micro, ratio, mib) in enumerate(steps):
        more = (mib - steps[0][3]) / (n - TOKENS[0]) * 1024 if i else float("nan")
        say(f"| {n} | {micro:.1f} | {ratio:.2f} | {mib:.0f} | {'' if i == 0 else f'{more:.0f}'} |")

    say("\n| vocabulary (loss from hidden states, T 2048, hidden 64, f32) | MiB | of that weights and their gradient | the rest | all logits would be |\n|---|---|---|---|---|")
    loss = []
    for vocabulary in VOCABULARIES:
        with worker(args.trainer.parent / "examples/loss", "hidden", 2048, vocabulary, 64, "f32") as one:
            mib = one.measure()["peak_mib"]
        weights, logits = 2 * 4 * 64 * vocabulary / 2**20, 4 * 2048 * vocabulary / 2**20
        loss.append((vocabulary, mib - weights, logits))
        say(f"| {vocabulary} | {mib:.0f} | {weights:.0f} | {mib - weights:.0f} | {logits:.0f} |")
    draw(steps, loss)


def median(values):
    return sorted(values)[len(values) // 2]


def draw(steps, loss):
    panels = [
        ("time a token, that at 1K = 100, training step", [n for n, *_ in steps], [("tiny, bf16", [100 * s[2] for s in steps])]),
        ("MiB, training step", [n for n, *_ in steps], [("tiny, bf16", [s[3] for s in steps])]),
        (
            "MiB, loss from hidden states",
            [v for v, *_ in loss],
            [("beside weights", [l[1] for l in loss]), ("all logits", [l[2] for l in loss])],
        ),
    ]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 260" font-family="sans-serif" font-size="11">']
    out.append('<rect width="960" height="260" fill="white"/>')
    for i, (title, xs, lines) in enumerate(panels):
        out += panel(320 * i, title, xs, lines)
    out.append("</svg>\n")
    (HERE.parent / "docs" / "scaling.svg").write_text("\n".join(out))


def panel(left, title, xs, lines):
    """Points at equal distances (each x is twice the one before), values from 0."""
    x0, y0, width, height = left + 56, 214, 236, 160
    most = 1.1 * max(max(values) for _, values in lines)
    x = lambda i: x0 + width * i / (len(xs) - 1)
    y = lambda v: y0 - height * v / most
    out = [f'<text x="{left + 12}" y="24" font-weight="bold">{title}</text>']
    for tick in range(5):
        value = most * tick / 4
        out.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{x0 - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value:.0f}</text>')
    for i, value in enumerate(xs):
        out.append(f'<text x="{x(i):.1f}" y="{y0 + 18}" text-anchor="middle" fill="#555">{value // 1024}K</text>')
    for (name, values), color in zip(lines, ["#1f5fa8", "#b5541c"]):
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
        out.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{x(i):.1f}" cy="{y(v):.1f}" r="3" fill="{color}"/>' for i, v in enumerate(values)]
        out.append(f'<text x="{x0 + 8}" y="{48 + 16 * [n for n, _ in lines].index(name)}" fill="{color}">{name}</text>')
    return out
