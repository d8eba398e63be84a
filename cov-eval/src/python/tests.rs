//! Programs that are run.

use ruff_python_ast::{Expr, Stmt};

use super::*;

/// Calls of one program, one after the other, come to what the first calls of as many programs come to.
#[test]
fn calls_leave_no_trace() {
    for (source, arguments, expected) in [
        ("K = 2\ndef f(x):\n    return x * K\n", ["1", "2", "1"], ["2", "4", "2"]),
        ("n = 0\ndef f(x):\n    global n\n    n += x\n    return n\n", ["1", "2", "3"], ["1", "2", "3"]),
        ("L = []\ndef f(x):\n    L.append(x)\n    return L\n", ["1", "2", "1"], ["[1]", "[2]", "[1]"]),
        ("D = ({},)\ndef f(x):\n    D[0][x] = 1\n    return len(D[0])\n", ["1", "2", "3"], ["1"; 3]),
        ("def f(x, seen=[]):\n    seen.append(x)\n    return seen\n", ["1", "2", "1"], ["[1]", "[2]", "[1]"]),
        ("it = iter([7, 8, 9])\ndef f(x):\n    return next(it) + x\n", ["0", "1", "0"], ["7", "8", "7"]),
        ("put = [].append\ndef f(x):\n    put(x)\n    return x\n", ["1", "2", "1"], ["1", "2", "1"]),
        (
            "def f(x):\n    global g\n    def g(y):\n        return x\n    return g(0)\ndef g(y):\n    return -y\n",
            ["1", "2", "3"],
            ["1", "2", "3"],
        ),
        (
            "def g():\n    return 5\ndef f(x):\n    global g\n    before = g\n    g = x\n    return before()\n",
            ["1", "2", "3"],
            ["5"; 3],
        ),
    ] {
        let statements = parse(source).unwrap();
        let lines: String = arguments.iter().map(|a| format!("({a},)\n")).collect();
        let arguments = parse(&lines).unwrap();
        let program = Program::new(&statements);
        for (args, expected) in arguments.iter().zip(expected) {
            let Stmt::Expr(e) = args else { panic!("{args:?}") };
            let Expr::Tuple(args) = &*e.value else { panic!("{e:?}") };
            let value = |outcome| if let Outcome::Value(text) = outcome { text } else { String::new() };
            assert_eq!(value(Program::new(&statements).call("f", &args.elts)), expected, "{source}");
            assert_eq!(value(program.call("f", &args.elts)), expected, "{source}");
        }
    }
}

/// Fuel and work are those of a call, however many came before.
#[test]
fn limits_are_those_of_each_call() {
    let busy = "total = 0\nfor i in range(2000):\n    total += i\n";
    let statements =
        parse(&format!("{busy}def f(n):\n    x = 0\n    for i in range(n):\n        x += i\n    return x\n"));
    let statements = statements.unwrap();
    let lines: String = (0..40).map(|i| format!("({},)\n", i * 500)).collect();
    let arguments = parse(&lines).unwrap();
    let program = Program::new(&statements);
    let mut limited = 0;
    for args in &arguments {
        let Stmt::Expr(e) = args else { panic!("{args:?}") };
        let Expr::Tuple(args) = &*e.value else { panic!("{e:?}") };
        let is_limit = |outcome| matches!(outcome, Outcome::Limit);
        let alone = is_limit(Program::new(&statements).call("f", &args.elts));
        assert_eq!(is_limit(program.call("f", &args.elts)), alone);
        limited += usize::from(alone);
    }
    assert!(limited > 0 && limited < arguments.len(), "{limited}");
}

/// Programs, each behind what CPython 3.11 returns from its `f()` or raises there.
const PROGRAMS: &str = include_str!("../../tests/golden/programs.py.txt");

#[test]
fn programs_do_what_they_do_in_cpython() {
    let mut wrong = Vec::new();
    for block in PROGRAMS.split("=== ").skip(1) {
        let (expected, source) = block.split_once('\n').unwrap();
        let statements = parse(source).unwrap();
        let found = match Program::new(&statements).call("f", &[]) {
            Outcome::Value(text) => text,
            Outcome::Raised(kind) => kind,
            other => format!("{other:?}"),
        };
        if found != expected {
            wrong.push(format!("{source}{expected}\n{found}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What goes beyond the whole numbers that are known is not supported, and nothing wraps round.
#[test]
fn whole_numbers_end_as_unsupported() {
    let least = "(-2 ** 126 * 2)";
    for (expression, expected) in [
        (format!("{least} + 2 ** 126 == -2 ** 126"), Some("True")),
        (format!("-{least}"), None),
        (format!("abs({least})"), None),
        (format!("{least} // -1"), None),
        (format!("{least} % -1"), Some("0")),
        (format!("{least} // 7 < 0"), Some("True")),
        (format!("{least} << 1"), None),
        (format!("{least} - 1"), None),
        (format!("divmod({least}, -1)"), None),
        (format!("[1, 2, 3][::{least}]"), Some("[3]")),
        ("[1, 2, 3][::2 ** 126]".to_owned(), Some("[1]")),
        (format!("list(range(5, 0, {least}))"), Some("[5]")),
        (format!("mean([{least}])"), None),
    ] {
        let source = format!("from statistics import mean\n\n\ndef f():\n    return {expression}\n");
        let statements = parse(&source).unwrap();
        let expected = expected.map_or(Outcome::Unsupported, |text| Outcome::Value(text.to_owned()));
        assert_eq!(Program::new(&statements).call("f", &[]), expected, "{expression}");
    }
}

/// What has no end stops, however it is made.
#[test]
fn endless_programs_stop() {
    for body in [
        "return list(count())",
        "return sum(cycle([1]))",
        "return list(cycle([]))",
        "return [x for x in repeat(1) if x > 1]",
        "it = iter([1])\n    while True:\n        it = map(abs, it)",
        "it = iter([1])\n    for _ in range(9000):\n        it = chain(it)\n    return list(it)",
        "def g():\n        yield from g()\n    return list(g())",
        "def g(n):\n        yield n\n        yield from g(n + 1)\n    return list(g(0))",
        "it = []\n    it.append(map(lambda x: next(it[0]), [1]))\n    return next(it[0])",
        "def g():\n        yield next(it)\n    it = g()\n    return next(it)",
        "p = abs\n    for _ in range(9000):\n        p = partial(p)\n    return p(1)",
        "x = []\n    x.extend(y for y in count())\n    return x",
        "x = [1]\n    for y in x:\n        x.append(y)\n    return x",
        "q = deque()\n    while True:\n        q.extend([0] * 999)",
        "return list(product(range(99), repeat=9))",
        "return list(product(range(999), range(999)))",
        "return len(list(zip(*[range(400)] * 400)))",
        "d = defaultdict(lambda: d[0])\n    return d[0]",
        "x = [1]\n    while True:\n        x[:0] = x",
        "s = '{0}{0}'\n    while True:\n        s = s.format(s)",
        "s = '%s'\n    while True:\n        s = '%s%s' % (s, s)",
        "return '%999999999d' % 1",
        "a, *b = count()\n    return b",
        "return f(*count())",
        "return max(count())",
        "return 1 in (x for x in repeat(0))",
        "while True:\n        global x",
    ] {
        let source = format!(
            "from collections import defaultdict, deque\nfrom functools import partial\nfrom itertools import chain, count, \
             cycle, product, repeat\n\n\ndef f():\n    {body}\n"
        );
        let statements = parse(&source).unwrap();
        let found = on_large_stack(|| Program::new(&statements).call("f", &[])).unwrap();
        let ended = body.contains("cycle([])") && found == Outcome::Value("[]".into());
        assert!(ended || !matches!(found, Outcome::Value(_)), "{body}: {found:?}");
    }
}
