"""Times BFCL's own checker (bfcl-eval 2026.3.23) and toolrm's on the same records, one thread each, in turn, and prints the ratios.

usage: bench/toolrm.py [ROUNDS]

Records: the entries of the leaderboard's Python categories, each with its gold calls and damaged forms of them, as Hermes text and
as Python-style text. Both sides must give the same number of verdicts of every kind.
"""

import ast
import copy
import json
import pathlib
import random
import re
import subprocess
import sys
import time
import types
from collections import Counter

repo = pathlib.Path(__file__).resolve().parent.parent
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
root = subprocess.run([repo / "scripts/get-bfcl.sh"], check=True, capture_output=True, text=True).stdout.strip()
sys.path.insert(0, root)
# The checker asks this module for one flag of a model; the real one imports every model's client.
stub = types.ModuleType("bfcl_eval.constants.model_config")
stub.MODEL_CONFIG_MAPPING = {"exact": types.SimpleNamespace(underscore_to_dot=False)}
sys.modules[stub.__name__] = stub

from bfcl_eval.constants.enums import Language, ReturnFormat  # noqa: E402
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # noqa: E402

CATEGORIES = ["simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple",
              "live_parallel", "live_parallel_multiple"]


def cut(path, names, space):
    """Functions out of a module that imports too much to be loaded."""
    tree = ast.parse(open(f"{root}/bfcl_eval/model_handler/{path}", encoding="utf-8").read())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    for n in nodes:
        n.decorator_list = []
    exec(compile(ast.fix_missing_locations(ast.Module(nodes, [])), path, "exec"), space)
    return space


python_style = cut("utils.py", {"ast_parse", "resolve_ast_call", "resolve_ast_by_type", "default_decode_ast_prompting"},
                   {"ast": ast, "re": re, "ReturnFormat": ReturnFormat})["default_decode_ast_prompting"]
hermes = cut("local_inference/qwen_fc.py", {"decode_ast", "_extract_tool_calls"}, {"json": json, "re": re})
extract, decode = hermes["_extract_tool_calls"], hermes["decode_ast"]
handler = types.SimpleNamespace(_extract_tool_calls=extract)


def hermes_style(text):
    return decode(handler, text, None, False)


def gold_calls(gold):
    """The first value of each parameter that is not left out."""
    def settle(v):
        if isinstance(v, dict):
            return {k: settle(next((x for x in a if x != ""), "")) if isinstance(a, list) else a for k, a in v.items()}
        return [settle(x) for x in v] if isinstance(v, list) else v
    return [{n: {k: settle(next(x for x in v if x != "")) for k, v in a.items() if any(x != "" for x in v)} for n, a in g.items()}
            for g in gold]


def damaged(calls, how, rng):
    calls = copy.deepcopy(calls)
    args = next(iter(rng.choice(calls).values()))
    key = rng.choice(list(args)) if args else None
    if how == 1 and key:
        del args[key]
    elif how == 2 and key:
        args[key] = 7
    elif how == 3:
        args["zz_extra"] = 1
    elif how == 4 and key:
        args[key] = f"{args[key]} x"
    return calls


def records():
    for category in CATEGORIES:
        read = lambda p: [json.loads(line) for line in open(f"{root}/bfcl_eval/data/{p}BFCL_v4_{category}.json", encoding="utf-8")]  # noqa: E731
        for question, answer in zip(read(""), read("possible_answer/")):
            calls = gold_calls(answer["ground_truth"])
            for how in range(5):
                rng = random.Random(f"{question['id']} {how}")
                some = damaged(calls, how, rng) if how else calls
                blocks = [{"name": n, "arguments": a} for c in some for n, a in c.items()]
                text = {
                    "hermes": "\n".join(f"<tool_call>\n{json.dumps(b)}\n</tool_call>" for b in blocks),
                    "pythonic": "[" + ", ".join(f"{b['name']}({', '.join(f'{k}={v!r}' for k, v in b['arguments'].items())})"
                                                for b in blocks) + "]",
                }
                yield {"id": question["id"], "category": category, "question": question["question"],
                       "function": question["function"], "ground_truth": answer["ground_truth"]}, text


def verdict(record, calls):
    try:
        result = ast_checker(record["function"], calls, record["ground_truth"], Language.PYTHON, record["category"], "exact")
    except Exception:  # noqa: BLE001
        return "fault"
    return "valid" if result["valid"] else result["error_type"]


def checked(record, text, decode):
    try:
        calls = decode(text)
    except Exception:  # noqa: BLE001
        return "ast_decoder:decoder_failed"
    return verdict(record, calls)


def reference(rows, path):
    """Microseconds a record and verdicts of each operation."""
    out = {}

    def time_it(name, work, items):
        start = time.perf_counter()
        words = [work(*item) for item in items]
        out[name] = ((time.perf_counter() - start) / len(items) * 1e6, Counter(words))

    # The checker changes what it is given, so every round has its own calls.
    time_it("check", verdict, [(r, hermes_style(t["hermes"])) for r, t in rows])
    time_it("hermes", lambda r, t: checked(r, t, hermes_style), [(r, t["hermes"]) for r, t in rows])
    time_it("pythonic", lambda r, t: checked(r, t, python_style), [(r, t["pythonic"]) for r, t in rows])

    def line(text):
        record = json.loads(text)
        word = checked(record, record["result"], hermes_style)
        json.dumps({"id": record["id"], "valid": word == "valid", "error_type": word})
        return word

    with open(path, encoding="utf-8") as f:
        time_it("jsonl", line, [(text,) for text in f])
    return out


def main():
    rows = list(records())
    work = repo / "target/bench-toolrm"
    work.mkdir(parents=True, exist_ok=True)
    for kind in ("hermes", "pythonic"):
        with open(work / f"{kind}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps({**r, "result": t[kind]}) + "\n" for r, t in rows)
    size = (work / "hermes.jsonl").stat().st_size / len(rows)
    build = ["cargo", "build", "--release", "--quiet", "-p", "toolrm", "--example", "speed"]
    subprocess.run(build, check=True, cwd=repo)
    ours, theirs = {}, {}
    for _ in range(rounds):
        for name, (micros, words) in reference(rows, work / "hermes.jsonl").items():
            theirs.setdefault(name, []).append((micros, words))
        text = subprocess.run([repo / "target/release/examples/speed", work], check=True, capture_output=True, text=True).stdout
        for name, row in json.loads(text).items():
            ours.setdefault(name, []).append((row["micros"], Counter(row.get("words", {}))))
    print(f"{len(rows)} records of {size:.0f} bytes on average, best of {rounds} rounds (of bfcl-eval; toolrm five passes in each), one thread, microseconds a record\n")
    print("| operation | bfcl-eval | toolrm | ratio | target |\n|---|---|---|---|---|")
    targets = {"check": 20, "hermes": 10, "pythonic": 15, "jsonl": 5}
    failed = []
    for name, target in targets.items():
        if ours[name][0][1] != theirs[name][0][1]:
            failed.append(f"{name}: verdicts differ: {ours[name][0][1]} and {theirs[name][0][1]}")
        a, b = min(m for m, _ in theirs[name]), min(m for m, _ in ours[name])
        print(f"| {name} | {a:.2f} | {b:.3f} | {a / b:.1f} | {target} |")
        if a / b < target:
            failed.append(f"{name}: {a / b:.1f} is below {target}")
    for name, runs in ours.items():
        if name not in targets:
            print(f"| {name} | | {min(m for m, _ in runs):.3f} | | |")
    if failed:
        sys.exit("\n".join(failed))


main()
