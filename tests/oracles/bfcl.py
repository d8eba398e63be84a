"""Answers of BFCL's own checker and decoders (bfcl-eval 2026.3.23), for tests/runner/bfcl_parity.rs.

usage: bfcl.py DIR (from scripts/get-bfcl.sh) GOLDS.jsonl OUT.jsonl

GOLDS has a line {"id", "calls": [{name: {…}}]} for each entry: its canonical gold calls.

Two kinds of lines. `check`: an entry's calls, as they are or damaged, with the checker's verdict under both spellings of
names. `decode`: text, with what the decoder makes of it. Values that JSON lacks are tagged: {"$tuple": […]},
{"$dict": [[key, value], …]}, {"$other": text}.
"""

import ast
import copy
import json
import random
import re
import sys
import types

root, golds_path, out_path = sys.argv[1:]
sys.path.insert(0, root)
# The checker asks this module for one flag of a model; the real one imports every model's client.
stub = types.ModuleType("bfcl_eval.constants.model_config")
stub.MODEL_CONFIG_MAPPING = {
    "exact": types.SimpleNamespace(underscore_to_dot=False),
    "dots": types.SimpleNamespace(underscore_to_dot=True),
}
sys.modules[stub.__name__] = stub

from bfcl_eval.constants.enums import Language, ReturnFormat  # noqa: E402
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # noqa: E402

CATEGORIES = ["simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple",
              "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"]


def encode(v):
    if v is None or isinstance(v, (bool, int, float, str)):
        return v
    if isinstance(v, list):
        return [encode(x) for x in v]
    if isinstance(v, tuple):
        return {"$tuple": [encode(x) for x in v]}
    if isinstance(v, dict):
        if all(isinstance(k, str) and not k.startswith("$") for k in v):
            return {k: encode(x) for k, x in v.items()}
        return {"$dict": [[encode(k), encode(x)] for k, x in v.items()]}
    return {"$other": repr(v)}


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def first_values(gold):
    return [{n: {k: v[0] for k, v in a.items() if v} for n, a in g.items()} for g in gold]


# Each mutation takes a list of calls [{name: args}] and a random generator, and changes the list in place.

def args_of(calls, rng):
    call = rng.choice(calls)
    return next(iter(call.values()))


def on_value(change):
    def mutate(calls, rng):
        args = args_of(calls, rng)
        if args:
            key = rng.choice(list(args))
            args[key] = change(args[key], rng)
    return mutate


def drop_arg(calls, rng):
    args = args_of(calls, rng)
    if args:
        del args[rng.choice(list(args))]


def rename_arg(calls, rng):
    args = args_of(calls, rng)
    if args:
        key = rng.choice(list(args))
        args[key + "_x"] = args.pop(key)


def add_arg(calls, rng):
    args_of(calls, rng)["zz_extra"] = 1


def reorder(calls, rng):
    args = args_of(calls, rng)
    items = list(args.items())
    rng.shuffle(items)
    args.clear()
    args.update(items)


def rename_call(calls, rng):
    i = rng.randrange(len(calls))
    name, args = next(iter(calls[i].items()))
    calls[i] = {rng.choice([name + "_x", name.replace(".", "_"), name.replace("_", "."), name.upper(), name.split(".")[-1]]): args}


def perturb(v, rng):
    if isinstance(v, bool):
        return not v
    if isinstance(v, (int, float)):
        return v + rng.choice([1, -1, 0.5])
    if isinstance(v, str):
        return v + rng.choice(["x", " ", ".", "\t", "\n", "'"])
    if isinstance(v, list):
        return v[:-1] if v and rng.random() < 0.5 else v + [rng.choice([0, "x", None])]
    if isinstance(v, dict):
        return {**v, "zz": 1}
    return 0


def noise(v, rng):
    if isinstance(v, str):
        at = rng.randrange(len(v) + 1)
        return v[:at] + rng.choice([" ", ",", "-", "_", ".", "/", "*", "^", "'", '"', ";", "\u00e9", "\u0130"]) + v[at:]
    if isinstance(v, list):
        return [noise(x, rng) for x in v]
    if isinstance(v, dict):
        return {k: noise(x, rng) for k, x in v.items()}
    return v


def swap_case(v, rng):
    if isinstance(v, str):
        return v.swapcase()
    if isinstance(v, list):
        return [swap_case(x, rng) for x in v]
    if isinstance(v, dict):
        return {k: swap_case(x, rng) for k, x in v.items()}
    return v


def int_float(v, rng):
    if isinstance(v, bool):
        return v
    if isinstance(v, int):
        return float(v)
    if isinstance(v, float):
        return int(v) if v == v and abs(v) < 1e300 else v
    if isinstance(v, list):
        return [int_float(x, rng) if rng.random() < 0.7 else x for x in v]
    if isinstance(v, dict):
        return {k: int_float(x, rng) for k, x in v.items()}
    return v


def bool_int(v, rng):
    if isinstance(v, bool):
        return int(v)
    if isinstance(v, (int, float)) and v in (0, 1):
        return bool(v)
    if isinstance(v, list):
        return [bool_int(x, rng) for x in v]
    return True


def shuffle_list(v, rng):
    if isinstance(v, list):
        v = v[:]
        rng.shuffle(v)
        return v
    if isinstance(v, str):
        return v[::-1]
    return [v, v]


def damage_dict(v, rng):
    if isinstance(v, list):
        return [damage_dict(x, rng) for x in v]
    if isinstance(v, dict) and v:
        v = dict(v)
        key = rng.choice(list(v))
        how = rng.randrange(4)
        if how == 0:
            del v[key]
        elif how == 1:
            v[key + "_x"] = v.pop(key)
        elif how == 2:
            v[key] = perturb(v[key], rng)
        else:
            v[key] = [v[key]]
        return v
    return {"a": v}


def number_text(v, rng):
    """Numbers as strings, and the forms of one language in another."""
    if isinstance(v, str):
        try:
            return json.loads(v)
        except ValueError:
            return rng.choice([v + "L", v + "f", v + "n", f'"{v}"', f"'{v}'", v + "\n", f"new {v}", f"[{v}]", f"{{{v}}}"])
    if isinstance(v, bool):
        return str(v)
    return str(v)


def source_text(v, rng):
    """A value as Java's or JavaScript's source, right or nearly so."""
    quote = rng.choice(['"', "'"])
    if isinstance(v, bool):
        return rng.choice(["true", "false", "True"])
    if isinstance(v, int):
        return f"{v}{rng.choice(['', 'L', 'n', '.0', 'f', ' '])}"
    if isinstance(v, float):
        return f"{v}{rng.choice(['', 'f', 'F', 'd', 'e1', 'e1f'])}"
    if isinstance(v, str):
        return rng.choice([v, f"{quote}{v}{quote}"])
    if isinstance(v, list):
        body = rng.choice([", ", ","]).join(str(source_text(x, rng)) for x in v)
        return rng.choice([f"[{body}]", f"new Array({body})", f"new String[]{{{body}}}", f"new int[] {{ {body} }}",
                           f"new ArrayList<>(Arrays.asList({body}))", f"new ArrayList<String>(Arrays.asList({body}))",
                           "new ArrayList<>() {{ " + " ".join(f"add({source_text(x, rng)});" for x in v) + " }}",
                           f"Arrays.asList({body})", f"List.of({body})"])
    if isinstance(v, dict):
        pairs = [(k, source_text(x, rng)) for k, x in v.items()]
        js = ", ".join(f"{quote}{k}{quote}: {x}" for k, x in pairs)
        java = " ".join(f'put("{k}", {x});' for k, x in pairs)
        return rng.choice(["{" + js + "}", "new HashMap<String, Object>() {{ " + java + " }}",
                           "new HashMap<>() { { " + java + "}}", "new HashMap<>()", "{" + js.replace(", ", ",") + "}"])
    return "null"


def tuples(v, rng):
    if isinstance(v, list):
        return tuple(tuples(x, rng) if rng.random() < 0.3 else x for x in v)
    return (v,)


def swap_args(calls, rng):
    args = args_of(calls, rng)
    if len(args) > 1:
        a, b = rng.sample(list(args), 2)
        args[a], args[b] = args[b], args[a]


MUTATIONS = {
    "drop_arg": drop_arg,
    "rename_arg": rename_arg,
    "add_arg": add_arg,
    "reorder": reorder,
    "swap_args": swap_args,
    "rename_call": rename_call,
    "drop_call": lambda calls, rng: calls.pop(rng.randrange(len(calls))),
    "duplicate_call": lambda calls, rng: calls.append(copy.deepcopy(rng.choice(calls))),
    "shuffle_calls": lambda calls, rng: rng.shuffle(calls),
    "text": on_value(lambda v, rng: json.dumps(v) if isinstance(v, (dict, list)) else str(v)),
    "number_text": on_value(number_text),
    "source_text": on_value(source_text),
    "seven": on_value(lambda v, rng: 7),
    "perturb": on_value(perturb),
    "noise": on_value(noise),
    "swap_case": on_value(swap_case),
    "int_float": on_value(int_float),
    "bool_int": on_value(bool_int),
    "null": on_value(lambda v, rng: None),
    "empty": on_value(lambda v, rng: rng.choice(["", [], {}, 0, False])),
    "wrap": on_value(lambda v, rng: [v]),
    "shuffle_list": on_value(shuffle_list),
    "damage_dict": on_value(damage_dict),
    "tuples": on_value(tuples),
    "huge": on_value(lambda v, rng: rng.choice([10**400, 10**30, -(2**63), 1e300, 2**53 + 1])),
    "twice": lambda calls, rng: [rng.choice([m for n, m in MUTATIONS.items() if n != "twice"])(calls, rng)
                                 for _ in range(2) if calls],
}


def verdict(tools, calls, gold, language, category, names):
    try:
        result = ast_checker(tools, calls, gold, language, category, names)
    except Exception as e:  # noqa: BLE001
        return f"fault {type(e).__name__}"
    return "valid" if result["valid"] else result["error_type"]


def decoder():
    """The decoder of Python-style text, cut out of a module that imports too much to be loaded."""
    source = open(f"{root}/bfcl_eval/model_handler/utils.py", encoding="utf-8").read()
    wanted = {"ast_parse", "resolve_ast_call", "resolve_ast_by_type", "default_decode_ast_prompting"}
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in wanted]
    space = {"ast": ast, "re": re, "ReturnFormat": ReturnFormat, "eval": literal_eval}
    exec(compile(tree, "utils.py", "exec"), space)
    return space["default_decode_ast_prompting"]


def literal_eval(text):
    """Arithmetic on literals alone: the decoder's `eval` runs any code, which no test should."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        known = (ast.Expression, ast.BinOp, ast.Constant, ast.operator, ast.UnaryOp, ast.USub, ast.UAdd, ast.List, ast.Load)
        if not isinstance(node, known) or isinstance(node, (ast.BitOr, ast.BitXor, ast.BitAnd, ast.LShift, ast.RShift, ast.MatMult)):
            raise ValueError("not supported")
    return eval(text, {"__builtins__": {}})


def hermes_decode(text):
    source = open(f"{root}/bfcl_eval/model_handler/local_inference/qwen_fc.py", encoding="utf-8").read()
    cls = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef))
    body = [n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name in ("decode_ast", "_extract_tool_calls")]
    for n in body:
        n.decorator_list = [d for d in n.decorator_list if ast.unparse(d) == "staticmethod"]
    space = {"json": json, "re": re}
    module = ast.Module([ast.ClassDef("Q", [], [], body, [])], [])
    exec(compile(ast.fix_missing_locations(module), "qwen_fc.py", "exec"), space)
    global hermes_decode
    handler = space["Q"]()
    hermes_decode = lambda t: handler.decode_ast(t, None, False)  # noqa: E731
    return hermes_decode(text)


def well_formed(decoded):
    return type(decoded) is list and all(type(d) is dict and len(d) == 1 and type(next(iter(d.values()))) is dict for d in decoded)


def decoded(decode, text):
    try:
        value = decode(text)
    except RecursionError:
        return None
    except Exception:  # noqa: BLE001
        return "fail"
    if not well_formed(value):
        return "wrong"
    return [encode(v) for v in value]


def source_of(calls, rng):
    def arg(v):
        if rng.random() < 0.06:
            return rng.choice(["x", "true", "g(1)", "g(b=1)", "b[0]", "b[1:2, 'k']", "...", "+5", "~5", "not True", "2*3", "'x'+'y'", "(1, 2)",
                               "x.y", "{1, 2}", "[i for i in x]", "f'a'", "1 if x else 2", "1 < 2", "a or b", "--5", "1_000", "0x1F", "007",
                               "r'\\d'", "'a' 'b'", "b'x'", "1e5", "1.", "-2**2", "(-7)//2", "7%-3", "2**-1", "1/3", "lambda: 1", "datetime.date(2020, 1, 2)",
                               "'\\u00e9\\x41\\101'", "{'a': 1, **b}", "{1: 2, True: 3}", "[*a]", "x().y(a=1)", "-True", "None", "1j", "g(a, *b)",
                               "g(-x ** 2, (1,), {'k': [1.0, 1e20]}, 'it\\'s', \"a'b\")", "(yield)", "a if b", "3 .real", "(a := 1)", "g(a=1)(b=2)",
                               "[1] + [2, 'x']", "- 0.0", "x[...]", "g(1)[0](2)"])
        return repr(v)
    parts = []
    for call in calls:
        name, args = next(iter(call.items()))
        items = [f"{k}={arg(v)}" for k, v in args.items()]
        if rng.random() < 0.03:
            items.insert(0, rng.choice(["1", "x", "*a", "lambda a, *b, c=1: a"]))
        if rng.random() < 0.02:
            items.append(rng.choice(["**{'a': 1}", "**kw", ""]))
        parts.append(f"{name}({', '.join(items)})")
    text = ", ".join(parts)
    return text if rng.random() < 0.2 else f"[{text}]"


def damage_text(text, rng):
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(text) + 1)
        if rng.random() < 0.5:
            text = text[:at] + rng.choice("[](){}=,'\"\\ \n\t#:.-+*x1_`<>\u00e9") + text[at:]
        else:
            text = text[:at] + text[at + 1:]
    return text


def main():
    decode = decoder()
    golds = {row["id"]: row["calls"] for row in lines(golds_path)}
    with open(out_path, "w", encoding="utf-8") as out:
        for category in CATEGORIES:
            questions = lines(f"{root}/bfcl_eval/data/BFCL_v4_{category}.json")
            answers = lines(f"{root}/bfcl_eval/data/possible_answer/BFCL_v4_{category}.json")
            assert len(questions) == len(answers)
            language = Language.PYTHON
            if "javascript" in category:
                language = Language.JAVASCRIPT
            elif "java" in category:
                language = Language.JAVA
            for question, answer in zip(questions, answers):
                assert question["id"] == answer["id"]
                tools, gold = question["function"], answer["ground_truth"]
                base = golds[question["id"]]
                cases = [("canonical", base), ("first_values", first_values(gold))]
                for name, mutate in MUTATIONS.items():
                    rng = random.Random(f"{question['id']} {name}")
                    calls = copy.deepcopy(base)
                    mutate(calls, rng)
                    cases.append((name, calls))
                if language is not Language.PYTHON:
                    # Golds as source, several times: the conversions are most of what these categories check.
                    for i in range(8):
                        rng = random.Random(f"{question['id']} source {i}")
                        values = [{n: {k: rng.choice(v) for k, v in a.items() if v} for n, a in g.items()} for g in gold]
                        cases.append((f"source {i}", [{n: {k: source_text(v, rng) for k, v in a.items()} for n, a in c.items()}
                                                      for c in values]))
                for name, calls in cases:
                    spelled = [{n.replace(".", "_"): a for n, a in c.items()} for c in calls]
                    row = {"kind": "check", "id": question["id"], "category": category, "case": name,
                           "calls": [encode(c) for c in calls],
                           "exact": verdict(tools, copy.deepcopy(calls), gold, language, category, "exact"),
                           "dots": verdict(tools, copy.deepcopy(spelled), gold, language, category, "dots")}
                    out.write(json.dumps(row) + "\n")
                for i in range(3):
                    rng = random.Random(f"{question['id']} decode {i}")
                    text = source_of(rng.choice(cases)[1], rng)
                    text = damage_text(text, rng) if i else text
                    row = {"kind": "decode", "format": "pythonic", "id": question["id"], "text": text, "decoded": decoded(decode, text)}
                    out.write(json.dumps(row) + "\n")
                rng = random.Random(f"{question['id']} hermes")
                blocks = [{"name": n, "arguments": a} for c in rng.choice(cases)[1] for n, a in c.items()]
                text = "\n".join(f"<tool_call>\n{json.dumps(b, ensure_ascii=rng.random() < 0.5)}\n</tool_call>" for b in blocks)
                text = damage_text(text, rng)
                row = {"kind": "decode", "format": "hermes", "id": question["id"], "text": text, "decoded": decoded(hermes_decode, text)}
                out.write(json.dumps(row) + "\n")


main()
