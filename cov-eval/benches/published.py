"""The published formulas, in Python, timed on answers from standard input (see throughput.rs).

`code_fix` wants flake8 (7.2.0, with bugbear 24.12.12, comprehensions 3.16.0, simplify 0.21.0 and pep8-naming 0.15.1), and is left
out without it; it runs in this process, which spares the start of one for every answer. Three tasks have no formula: they ask a judge.

`LONGWEAVE` may name a checkout of the public code (github.com/ZhouYuxuanYX/LongWeave, commit 6038217): then its own scorers are timed
beside. They want numpy, scipy and scikit-learn.
"""

import contextlib
import io
import json
import math
import os
import re
import sys
import tempfile
import time
import types
from collections import Counter

try:
    from flake8.api import legacy as flake8
except ImportError:
    flake8 = None


def fsm(targets, answer):
    machine, state, expected = targets["fsm"]["machine"], targets["fsm"]["start"], []
    for symbol in targets["fsm"]["input"]:
        state, output = machine["cells"][state * machine["inputs"] + symbol]
        expected.append(chr(ord("z") + 1 - machine["outputs"] + output))
    lines = [l.strip() for l in answer.splitlines()]
    lines = [l for l in lines if l and "step" not in l.lower() and not set(l) <= set("-| ")]
    right = 0
    for line, output in zip(lines, expected):
        fields = [f.strip() for f in re.split(r"[|:,]", line)]
        if len(fields) < 4 or fields[-1] != output:
            break
        right += 1
    return right / len(expected)


def kv_dict(targets, answer):
    targets = targets["kv_dict"]
    pin, n = targets["pinned"][0], targets["entries"]
    entries = json.loads(answer[answer.find("{") : answer.rfind("}") + 1].replace("'", '"'))
    keys, values = list(entries), list(entries.values())
    if pin["key"] not in keys or pin["value"] not in values:
        return 0.0
    bell = lambda d, s: 1 / (1 + (d / s) ** 2)
    lengths = [sum(map(len, side)) / len(side) for side in (keys, values)]
    parts = [
        bell(keys.index(pin["key"]) - pin["index"], n / 4),
        bell(len(entries) - n, max(1, n / 4)),
        sum(bell(length - 32, 8) for length in lengths) / 2,
    ]
    return len(parts) / sum(1 / p for p in parts)


def vectors(texts, idf=None):
    counts = [Counter(re.findall(r"\w\w+", t.lower())) for t in texts]
    if idf is None:
        seen = Counter(w for c in counts for w in c)
        idf = {w: math.log((1 + len(texts)) / (1 + n)) + 1 for w, n in seen.items()}
    out = []
    for c in counts:
        v = {w: n * idf[w] for w, n in c.items() if w in idf}
        norm = math.sqrt(sum(x * x for x in v.values())) or 1.0
        out.append({w: x / norm for w, x in v.items()})
    return out, idf


def para_order(targets, answer):
    targets = targets["para_order"]
    n = len(targets["segments"])
    parts = re.split(r"\[\[\s*Segment\s+(\d{1,4})\s*\]\]", answer, flags=re.I)
    ids, texts = [int(i) for i in parts[1::2]], [t.strip() for t in parts[2::2]]
    if sorted(ids) != list(range(1, n + 1)):
        return 0.0
    originals, idf = vectors(targets["segments"])
    written, _ = vectors(texts, idf)
    cosine = lambda a, b: sum(x * b.get(w, 0.0) for w, x in a.items())
    order = [max(range(n), key=lambda i: cosine(w, originals[i])) for w in written]
    pairs = [(order[i] < order[j]) - (order[i] > order[j]) for i in range(n) for j in range(i + 1, n)]
    return (1 + sum(pairs) / (n * (n - 1) / 2)) / 2


def code_fix(targets, answer):
    targets = targets["code_fix"]
    source = re.search(r"```(?:python)?\n(.*?)```", answer, re.S)
    source = (source.group(1) if source else answer).strip()
    try:
        compile(source, "answer.py", "exec")
    except (SyntaxError, ValueError):
        return 0.0
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(source)
        file.flush()
        guide = flake8.get_style_guide(select=["E", "W", "F", "B", "N", "SIM", "C4"], quiet=3)
        found = guide.check_files([file.name]).total_errors
    expected = targets["clean"].count("def ")
    off = (source.count("def ") - expected) / max(1, expected / 4)
    parts = [1, 1 / (1 + found / 50), 1 / (1 + off**2)]
    return len(parts) / sum(1 / p for p in parts)


def public_scorers(checkout):
    """The scorers of the public code, by task: each makes, of targets and an answer, what scores that answer.

    What they import for other ends (a client, PyTorch for its seeds, all other tasks) is left out.
    """
    sys.path.insert(0, checkout)
    tasks = types.ModuleType("core.tasks")
    tasks.__path__ = [f"{checkout}/core/tasks"]
    client = types.ModuleType("core.serve.unified_api")
    seed = types.ModuleType("core.seed")
    client.unified_call = seed.generate_seed_from_id = None
    sys.modules.update({m.__name__: m for m in (tasks, client, seed)})
    from core.simulation.state_machine import StateMachine
    from core.tasks.code_fix_task import CODE_FIXING
    from core.tasks.gen_kv_dictionary_task import GenKvDictionaryTask
    from core.tasks.paragraph_ordering_task import ParagraphOrderingTask
    from core.tasks.state_machine_task import StateMachineTask

    def scorer(task, metric, answer, **metadata):
        return lambda: task.evaluate(answer, metadata=metadata)[metric]

    def fsm(targets, answer):
        machine, start = targets["fsm"]["machine"], targets["fsm"]["start"]
        states = [f"S{i}" for i in range(machine["states"])]
        inputs = [chr(ord("a") + i) for i in range(machine["inputs"])]
        outputs = [chr(ord("z") + 1 - machine["outputs"] + i) for i in range(machine["outputs"])]
        cells = iter(machine["cells"])
        cell = lambda next_state, output: {"next_state": states[next_state], "output": outputs[output]}
        table = {state: {symbol: cell(*next(cells)) for symbol in inputs} for state in states}
        task = object.__new__(StateMachineTask)
        task.state_machine = StateMachine(states, states[start], inputs, outputs, table)
        # Its rows have no number.
        answer = "\n".join(line.split(" | ", 1)[1] for line in answer.splitlines())
        return scorer(task, "match_ratio", answer, input_string="".join(inputs[i] for i in targets["fsm"]["input"]))

    def kv_dict(targets, answer):
        targets = targets["kv_dict"]
        pin = targets["pinned"][0]
        task = GenKvDictionaryTask({"num_entries": targets["entries"], "key_length": 32, "value_length": 32})
        where = {"target_key": pin["key"], "target_value": pin["value"], "target_index": pin["index"]}
        return scorer(task, "total_score", answer, num_entries=targets["entries"], **where)

    def para_order(targets, answer):
        segments = targets["para_order"]["segments"]
        # Its numbers begin at 0.
        answer = re.sub(r"(?<=\[\[Segment )\d+", lambda n: str(int(n[0]) - 1), answer)
        task = object.__new__(ParagraphOrderingTask)
        return scorer(task, "kendalls_tau", answer, doc_id="", original=segments, shuffled=segments)

    def code_fix(targets, answer):
        clean = targets["code_fix"]["clean"]
        return scorer(CODE_FIXING({}), "total_score", answer, original_file_path="clean.py", original_code=clean)

    return {"fsm": fsm, "kv_dict": kv_dict, "para_order": para_order, "code_fix": code_fix}


def rate(scores, perfect):
    """Calls a second of processor time, as in throughput.rs; each gives `perfect` at least."""
    assert all(score() >= perfect for score in scores)
    start, calls = time.process_time(), 0
    while time.process_time() - start < 1.0:
        for score in scores:
            score()
            calls += 1
            if time.process_time() - start > 2.0:
                break
    return f"{calls / (time.process_time() - start):.1f}"


def main():
    cells = {}
    for line in sys.stdin:
        row = json.loads(line)
        cells.setdefault(row["cell"], []).append((row["targets"], row["answer"]))
    formulas = {"fsm": fsm, "kv_dict": kv_dict, "para_order": para_order, "code_fix": flake8 and code_fix}
    checkout = os.environ.get("LONGWEAVE")
    # The public code prints what it does.
    with contextlib.redirect_stdout(io.StringIO()):
        public = public_scorers(checkout) if checkout else {}
    for cell, rows in cells.items():
        task = cell.split()[0]
        formula, theirs = formulas.get(task), public.get(task)
        if formula is None:
            continue
        # A perfect repair lacks a line end there, which costs: 0.9934.
        perfect = 0.993 if task == "code_fix" else 1 - 1e-9
        own = rate([lambda row=row: formula(*row) for row in rows], perfect)
        with contextlib.redirect_stdout(io.StringIO()):
            their = rate([theirs(*row) for row in rows], perfect) if theirs else "-"
        print(cell, own, their)


main()
