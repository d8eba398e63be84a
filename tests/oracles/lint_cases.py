"""What flake8 and its plug-ins find in the snippets of cov-eval/tests/golden/lint.txt, cases of `cov-eval lint`.

usage: lint_cases.py [--write] [FILE]     (with the Python of flake8.sh's environment, target/flake8/bin/python)

A snippet starts below a line `=== RULE yes: FINDINGS` or `=== RULE no: FINDINGS` and runs until the next such line.
FINDINGS are the sorted `line:CODE` of the profile's rules, one for each finding, so two of a rule in a line are two.
`yes` says that RULE is among them, `no` that it is not. Fails where the findings of flake8 are others, where a snippet
is not what its header says, or where a rule has fewer than five snippets of either kind; --write puts flake8's findings
into the file. Python 3.11 wrote it, for which an f-string is one token; 3.12 looks at the blanks inside it, too.
"""

import collections
import pathlib
import re
import subprocess
import sys
import tempfile

PROFILE = """
E111 E117 E201 E202 E203 E211 E221 E222 E225 E231 E251 E261 E262 E265 E266 E271 E272 E301 E302 E303 E305 E306 E401 E402
E501 E701 E702 E703 E711 E712 E713 E714 E721 E722 E731 E741 W191 W291 W293 W391 W605 F401 F541 F811 F821 F841 B006 B007
B008 N801 N802 N803 N806 SIM102 SIM103 SIM108 SIM118 SIM201 SIM202 SIM210 SIM300 C400 C401 C402 C403 C404 C405 C408 C411
C416 C417 C419
""".split()
LEAST = 5
HEADER = re.compile(r"=== (\w+) (yes|no):(.*)")
VERSIONS = {"flake8": "7.2.0", "flake8-bugbear": "24.12.12", "flake8-comprehensions": "3.16.0",
            "flake8-simplify": "0.21.0", "pep8-naming": "0.15.1"}

arguments = sys.argv[1:]
write = "--write" in arguments
arguments = [a for a in arguments if a != "--write"]
golden = pathlib.Path(__file__).resolve().parents[2] / "cov-eval/tests/golden/lint.txt"
path = pathlib.Path(arguments[0]) if arguments else golden


def environment():
    from importlib.metadata import version
    for package, wanted in VERSIONS.items():
        if version(package) != wanted:
            sys.exit(f"{package} is {version(package)}, not {wanted}")
    if sys.version_info[:2] != (3, 11):
        print("this is not Python 3.11: f-strings may have other findings", file=sys.stderr)


def read(text):
    """The lines above the first snippet, and the snippets: [line of the header, rule, yes or no, findings, source]."""
    head, cases = [], []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if match := HEADER.fullmatch(line):
            cases.append([number, match[1], match[2], match[3].split(), ""])
        elif line.startswith("==="):
            sys.exit(f"{path}:{number}: not a header: {line}")
        elif cases:
            cases[-1][4] += line + "\n"
        else:
            head.append(line)
    return head, cases


def place(finding):
    line, code = finding.split(":")
    return int(line), code


def flake8(sources):
    """flake8's sorted findings for each source."""
    found = [[] for _ in sources]
    with tempfile.TemporaryDirectory() as scratch:
        for index, source in enumerate(sources):
            pathlib.Path(scratch, f"{index:05}.py").write_text(source, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "flake8", "--isolated", "--select", ",".join(PROFILE + ["E9"]), "--max-line-length",
             "79", "--disable-noqa", "--format", "%(path)s:%(row)d:%(code)s", "."],
            cwd=scratch, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"flake8 failed: {done.stderr.strip()}")
    for line in done.stdout.splitlines():
        match = re.fullmatch(r"(?:\./)?(\d+)\.py:(\d+):(\w+)", line)
        if not match:
            sys.exit(f"flake8 printed {line!r}")
        found[int(match[1])].append(f"{match[2]}:{match[3]}")
    return [sorted(f, key=place) for f in found]


environment()
head, cases = read(path.read_text(encoding="utf-8"))
found = flake8([case[4] for case in cases])
wrong = 0
for case, findings in zip(cases, found):
    number, rule, kind, expected, source = case
    where = f"{path}:{number}: {rule} {kind}"
    codes = {place(f)[1] for f in findings}
    problems = []
    if rule not in PROFILE:
        problems.append("no such rule")
    if codes - set(PROFILE):
        problems.append(f"flake8 cannot read it: {' '.join(findings)}")
    if not source.strip("\n") and rule != "W391":
        problems.append("empty")
    if (rule in codes) != (kind == "yes"):
        problems.append(f"flake8 says: {' '.join(findings)}")
    if not write and expected != findings:
        problems.append(f"expected {' '.join(expected)}; flake8 says: {' '.join(findings)}")
    case[3] = findings
    wrong += bool(problems)
    for problem in problems:
        print(f"{where}: {problem}")
seen = set()
for number, rule, kind, _, source in cases:
    if (rule, source) in seen:
        print(f"{path}:{number}: {rule} {kind}: a second time")
        wrong += 1
    seen.add((rule, source))
counts = collections.Counter((rule, kind) for _, rule, kind, *_ in cases)
for rule in PROFILE:
    for kind in ("yes", "no"):
        if counts[rule, kind] < LEAST:
            print(f"{rule}: {counts[rule, kind]} snippets of the kind `{kind}`, fewer than {LEAST}")
            wrong += 1
if write:
    lines = head[:]
    for _, rule, kind, findings, source in cases:
        lines.append(" ".join([f"=== {rule} {kind}:", *findings]))
        lines += source.split("\n")[:-1]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
print(f"{len(cases)} snippets, {sum(map(len, found))} findings, {wrong} faults")
sys.exit(wrong > 0)
