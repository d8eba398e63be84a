"""Sets of (line, rule) of our lint and of flake8 with its plug-ins, on the files that `code_fix` shows.

usage: flake8.py COV_EVAL FILES

Files are those of difficulties 0 and 1, which parse, in three lengths. Rules are those that the prompt names. Prints each kind of
disagreement with its count and one place; fails where fewer than 99 of 100 findings of either are findings of both.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

cov_eval, count = sys.argv[1], int(sys.argv[2])
LENGTHS, DIFFICULTIES, LEAST = (256, 1024, 4096), (0, 1), 0.99
# None of these may be missing from what is compared, or the comparison says less than it seems to.
EXPECTED_RULES = 72


def findings(command, pattern):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{command[:3]} failed: {done.stderr.strip()}")
    found = set()
    for line in done.stdout.splitlines():
        match = re.fullmatch(pattern, line)
        if not match:
            sys.exit(f"{command[0]} printed {line!r}")
        found.add((match[1], int(match[2]), match[3]))
    return found


with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    cells = [(length, difficulty) for length in LENGTHS for difficulty in DIFFICULTIES]
    plan = scratch / "plan.toml"
    plan.write_text("".join(
        f'[[cells]]\ntask = "code_fix"\nlength = {length}\ndifficulty = {difficulty}\n'
        f"n = {count // len(cells) + (i < count % len(cells))}\n" for i, (length, difficulty) in enumerate(cells)))
    prompts = subprocess.run([cov_eval, "prompts", str(plan)], capture_output=True, text=True, check=True).stdout
    files, rules = [], set()
    for line in prompts.splitlines():
        prompt = json.loads(line)["prompt"]
        rules.update(re.findall(r"^- ([A-Z]+\d+): ", prompt, re.M))
        source = prompt.split("\n<<<MATERIAL code_fix\n")[1].split("\n>>>MATERIAL\n")[0]
        path = scratch / f"{len(files):04}.py"
        path.write_text(source)
        files.append(str(path))
    if len(files) != count or len(rules) != EXPECTED_RULES:
        sys.exit(f"{len(files)} files and {len(rules)} rules, expected {count} and {EXPECTED_RULES}")
    ours = findings([cov_eval, "lint", *files], r"(.*):(\d+): (\w+)")
    flake8 = pathlib.Path(sys.executable).with_name("flake8")
    theirs = findings(
        [str(flake8), "--isolated", "--disable-noqa", "--select", ",".join(sorted(rules)), "--format",
         "%(path)s:%(row)d: %(code)s", *files], r"(.*):(\d+): (\w+)")
    for who, extra in (("only ours", ours - theirs), ("only flake8's", theirs - ours)):
        kinds = collections.Counter(code for _, _, code in extra)
        for code, n in kinds.most_common():
            path, row, _ = min(f for f in extra if f[2] == code)
            text = pathlib.Path(path).read_text().split("\n")[row - 1]
            print(f"{who}: {code}, {n} times, as in {text!r}")

both, either = len(ours & theirs), len(ours | theirs)
seen = {code for _, _, code in ours & theirs}
print(f"{count} files, {len(ours)} findings of ours, {len(theirs)} of flake8: {both} of {either} agree, {100 * both / either:.2f} %")
print(f"{len(seen)} of {len(rules)} rules are found by both; not: {', '.join(sorted(rules - seen)) or 'none'}")
# Violations of W391 are not planted: what follows the last line of an answer does not count.
if both < LEAST * either or rules - seen != {"W391"}:
    sys.exit("below what is asked for")
