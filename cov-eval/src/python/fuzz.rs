//! Any text: the lexer cuts it, the lint finds something on its lines, and calls of its functions come to an end, and to the same
//! end when they are made again.

use proptest::prelude::*;

use super::*;
use crate::fuzz::{CASES, texts};

#[rustfmt::skip]
const PIECES: &[&str] = &[
    "def f(", "x", "y", "):", ":", "\n", "\n    ", "\n        ", "\t", "    ", " ", "return ", "lambda x: ", "[", "]", "(", ")", "{", "}", "for x in ",
    "range(9)", "range(10 ** 9)", "if ", "elif x:\n    pass\n", "else:", "while True:", " = ", "=", "==", " is ", "not ", "-", "~", "'", "\"",
    "'''", "\"\"\"", "f'{", "\\", "\\\n", "#", "# noqa", "#!", ";", ",", ".", "..", "...", "**", "* 99999999", "9", "1e9", "0x", "1_0", "try:",
    "except:", "finally:", "raise ", "yield ", "class ", "import os, sys", "*", "@", "->", ":=", "async ", "await ", "é", "\u{301}", "\0",
    "\u{feff}", "\u{c}", "\r", "None", "x.keys()", "list()", "global x", ".append(x)", "x[::-1]", "match x:", "case [x, *y]:", "yield from ", "nonlocal x", "*x, y = ",
    "{**x}", "f(*x, **y)", "'%s' % ", "'{:>{}}'.format(", "next(", "from itertools import *", "count()", "zip(x, y)", "defaultdict(f)", "x |= {1}",
];

const RIGHT: [&str; 5] = [
    "\"\"\"Text.\"\"\"\nimport math\n\nLIMIT = math.floor(7.9)\n\n\ndef f(x, y=None):\n    \"\"\"Text.\"\"\"\n    total = []\n    for i in \
     range(x):\n        if i % 2 == 0 and i not in total:\n            total.append(i * LIMIT)\n    return total\n",
    "def f(x):\n    seen = {}\n    while x > 0:\n        try:\n            seen[x % 10] += 1\n        except KeyError:\n            seen[x % 10] \
     = 1\n        x //= 10\n    return sorted(seen.items(), key=lambda p: (-p[1], p[0]))\n\n\nif __name__ == '__main__':\n    print(f(1))\n",
    "def f(x):\n    if x < 2:\n        return x\n    return f(x - 1) + f(x - 2)\n\n\ndef g(text='a'):\n    words = [w.strip().lower() for w in \
     text.split(',') if w]\n    return f'{len(words):>4}|' + ', '.join(words)  # joined\n",
    "from collections import Counter, defaultdict, deque\nfrom itertools import accumulate, chain, count, groupby, islice\n\n\ndef f(x):\n    \
     groups = defaultdict(list)\n    for key, group in groupby(sorted(x)):\n        groups[key].extend(group)\n    last, *_ = \
     Counter(x).most_common()\n    return last, list(chain(*groups.values())), list(accumulate(islice(count(), 4))), deque(x, 2)\n",
    "def f(x):\n    total = 0\n\n    def walk(y):\n        nonlocal total\n        for z in y:\n            match z:\n                case \
     [first, *rest]:\n                    total += 1\n                case _:\n                    total += 2\n            if total > 3:\n        \
             yield from y\n            yield total, z\n\n    return ['%s %5d' % (z, n) for n, z in walk(x)], '{:>{}}'.format(total, 9)\n",
];

fn hostile() -> impl Strategy<Value = String> {
    texts(PIECES, RIGHT.map(str::to_owned).to_vec())
}

/// What calls of the functions of a text come to, one after the other.
fn outcomes(statements: &[ast::Stmt]) -> Vec<Outcome> {
    let arguments = parse("17\n'a, B'\n[3, 1, 2]\n").unwrap();
    let expressions =
        arguments.into_iter().filter_map(|s| if let ast::Stmt::Expr(e) = s { Some(*e.value) } else { None });
    let arguments: Vec<ast::Expr> = expressions.collect();
    let program = Program::new(statements);
    let mut found = Vec::new();
    for function in functions(statements).into_iter().take(4) {
        for argument in &arguments {
            found.push(program.call(function.name.as_str(), std::slice::from_ref(argument)));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// Tokens lie one behind the other with white space and continued lines between them, and know the brackets before them.
    #[test]
    fn any_text_is_cut_into_tokens(text in hostile()) {
        let (mut end, mut depth) = (0, 0usize);
        for token in tokens(&text) {
            let gap = &text[end..token.range.start];
            prop_assert!(gap.bytes().all(|b| b.is_ascii_whitespace() || b == b'\\'), "{:?}", gap);
            let piece = &text[token.range.clone()];
            prop_assert!(!piece.is_empty());
            prop_assert_eq!(token.depth, depth);
            match (token.kind, piece) {
                (Kind::Operator, "(" | "[" | "{") => depth += 1,
                (Kind::Operator, ")" | "]" | "}") => depth = depth.saturating_sub(1),
                (Kind::Newline, _) => prop_assert!(piece == "\n" && depth == 0),
                _ => {}
            }
            end = token.range.end;
        }
        prop_assert!(text[end..].bytes().all(|b| b.is_ascii_whitespace() || b == b'\\'));
    }

    /// Findings are of known rules and on lines that there are; rules of tokens are asked of what does not parse, too.
    #[test]
    fn any_text_is_checked(text in hostile()) {
        let found = on_large_stack(|| {
            let statements = parse(&text).unwrap_or_default();
            findings(&text, &Parsed { tokens: tokens(&text), statements })
        });
        let lines = text.split('\n').count();
        for finding in found.unwrap() {
            prop_assert!((1..=lines).contains(&finding.line), "{:?}", finding);
            prop_assert!(RULES.iter().any(|rule| rule.0 == finding.code));
        }
    }

    #[test]
    fn any_program_ends(text in hostile()) {
        let ends = on_large_stack(|| match parse(&text) {
            Ok(statements) => {
                forbidden(&statements);
                (outcomes(&statements), outcomes(&statements))
            }
            Err(_) => Default::default(),
        });
        let (first, second) = ends.unwrap();
        prop_assert_eq!(first, second);
    }
}

/// Edits of right programs leave enough programs to run, and those come to every kind of end.
#[test]
fn damaged_programs_run() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut kinds = std::collections::BTreeMap::new();
    for _ in 0..4 * CASES {
        let text = hostile().new_tree(&mut runner).unwrap().current();
        let ends =
            on_large_stack(|| parse(&text).map(|statements| outcomes(&statements)).unwrap_or_default());
        for end in ends.unwrap() {
            let kind = match end {
                Outcome::Value(_) => "value",
                Outcome::Raised(_) => "raised",
                Outcome::Unsupported => "unsupported",
                Outcome::Limit => "limit",
            };
            *kinds.entry(kind).or_insert(0) += 1;
        }
    }
    assert!(kinds.len() == 4 && kinds.values().all(|&n| n >= 20), "{kinds:?}");
}
