//! Rewrites of the clean functions, as a repair of their style may leave them: what the interpreter makes of them.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use ruff_python_ast::Stmt;

use super::super::archetypes::{ARCHETYPES, Archetype};
use super::super::program::calls;
use super::*;
use crate::python::{Outcome, Program, on_large_stack, parse};

/// Blocks of `=== name` and a program that has a function of that name.
const REWRITES: &str = include_str!("../../../../tests/golden/rewrites.py.txt");

/// Numbers for the slots of each function, and calls with each.
const SLOTS: u8 = 5;
const CALLS: usize = 3;

fn rewrites() -> Vec<(&'static Archetype, &'static str)> {
    let blocks = REWRITES.split("=== ").skip(1).map(|block| block.split_once('\n').unwrap());
    blocks.map(|(name, text)| (ARCHETYPES.iter().find(|a| a.names[0] == name).unwrap(), text)).collect()
}

/// A call of a clean function or of a rewrite of it.
struct Case {
    name: &'static str,
    source: String,
    /// The arguments, and what the clean function comes to.
    vector: Vector,
    found: Result<bool, Outcome>,
    shown: Outcome,
}

fn filled(text: &str, name: &str, slots: (u64, u64)) -> String {
    text.replace("{f}", name).replace("{a}", &slots.0.to_string()).replace("{b}", &slots.1.to_string())
}

/// Calls of a clean function.
fn vectors(archetype: &Archetype, clean: &[Stmt], rng: &mut DetRng) -> Vec<Vector> {
    let draw = |_| {
        let args: Vec<String> = archetype.args.iter().map(|a| a.draw(rng)).collect();
        let mut vector = Vector { args: args.join(", "), expected: "0".into() };
        match Program::new(clean).call(archetype.names[0], &calls([&vector]).unwrap()[0].0) {
            Outcome::Value(expected) => vector.expected = expected,
            outcome => panic!("{}({}): {outcome:?}", archetype.names[0], vector.args),
        }
        vector
    };
    (0..CALLS).map(draw).collect()
}

/// The calls of one text of an archetype, tried.
fn cases(archetype: &Archetype, text: &str, salt: u8) -> Vec<Case> {
    let name = archetype.names[0];
    let mut found = Vec::new();
    for seed in 0..SLOTS {
        let mut rng = DetRng::from_seed([[salt; 16], [seed; 16]].concat().try_into().unwrap());
        let slots = (rng.range(2, 6), rng.range(14, 30));
        let (clean, source) = (filled(archetype.text, name, slots), filled(text, name, slots));
        let vectors = vectors(archetype, &parse(&clean).unwrap(), &mut rng);
        let (calls, statements) = (calls(&vectors).unwrap(), parse(&source).unwrap());
        let program = Program::new(&statements);
        found.extend(vectors.into_iter().zip(&calls).map(|(vector, (args, result))| Case {
            name,
            source: source.clone(),
            found: program.gives(name, args, result),
            shown: program.call(name, args),
            vector,
        }));
    }
    found
}

fn each_rewrite() -> Vec<Vec<Case>> {
    let tried = || rewrites().iter().zip(0..).map(|((a, text), salt)| cases(a, text, salt)).collect();
    on_large_stack(tried).unwrap()
}

/// No rewrite comes to anything else than the clean function, and of a hundred fewer than two are not known.
#[test]
fn rewrites_do_the_same() {
    let all = each_rewrite();
    for archetype in ARCHETYPES {
        let count = all.iter().filter(|cases| cases[0].name == archetype.names[0]).count();
        assert!(count >= 6, "{}: {count}", archetype.names[0]);
    }
    let mut unknown = Vec::new();
    for cases in &all {
        let is_unknown = |case: &&Case| case.found == Err(Outcome::Unsupported);
        unknown.extend(cases.iter().find(is_unknown));
        for case in cases.iter().filter(|case| !is_unknown(case)) {
            assert_eq!(case.found, Ok(true), "{}\n{:?}", case.source, case.vector);
        }
    }
    let share = unknown.len() as f64 / all.len() as f64;
    println!("{} of {} not known", unknown.len(), all.len());
    unknown.iter().for_each(|case| println!("{}", case.source));
    assert!(share < 0.02, "{share}");
}

/// CPython finds the results right, and writes them as the interpreter does but for the order, since it goes through sets in any;
/// without it nothing is compared.
#[test]
fn rewrites_agree_with_cpython() {
    let mut script = String::from(
        "import sys\nif sys.version_info < (3, 10):\n    sys.exit()\ndef check(source, name, args, expected, shown):\n    \
         scope = {}\n    exec(source, scope)\n    result = scope[name](*args)\n    assert result == expected, (source, \
         args, result)\n    assert shown is None or sorted(repr(result)) == sorted(shown), (source, args, result)\n",
    );
    let clean = || {
        let tried = ARCHETYPES.iter().zip(0..).map(|(a, salt)| cases(a, a.text, salt));
        tried.collect::<Vec<_>>()
    };
    let all: Vec<Case> = on_large_stack(clean).unwrap().into_iter().chain(each_rewrite()).flatten().collect();
    assert!(all.len() >= 2000, "{}", all.len());
    for case in &all {
        let shown = match &case.shown {
            Outcome::Value(text) => format!("{text:?}"),
            _ => "None".to_owned(),
        };
        let Case { name, source, vector: Vector { args, expected }, .. } = case;
        writeln!(script, "check({source:?}, {name:?}, ({args},), {expected}, {shown})").unwrap();
    }
    let mut python = Command::new("python3");
    let Ok(mut child) = python.arg("-").stdin(Stdio::piped()).spawn() else { return };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    println!("{} calls", all.len());
}
