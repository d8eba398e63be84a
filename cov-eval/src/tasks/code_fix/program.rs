//! A clean program, the same with violations, and what its functions must do.

use ruff_python_ast::{Expr, Stmt};

use super::archetypes::{ARCHETYPES, Archetype};
use super::dirty::{BETWEEN, INSIDE, break_rule, break_syntax, lint};
use super::{CodeTargets, Function, Planted, Vector};
use crate::key::DetRng;
use crate::python::{Outcome, Program, canonical, functions, parse};

const HEADER: &str = "\"\"\"Helpers that work on small collections.\"\"\"\n";
const CLASS: &str = r#"class {f}:
    """A step of this module."""

    def __init__(self, step):
        self.step = step

    def line(self):
        """Show the step."""
        return str(self.step)
"#;
const CLASSES: [&str; 4] = ["Step", "Entry", "Item", "Line"];
const IMPORTS: &str = "import math\nimport string\n";
const CONSTANTS: &str = "\nLIMIT = math.floor(7.9)\nDIGITS = string.digits\n";
const GUARD: &str = "if __name__ == '__main__':\n    main()\n";

/// Draws until results differ.
const REDRAWS: usize = 60;

/// Violations for each hundred lines, and different rules, by difficulty.
const DENSITY: [(usize, usize); 4] = [(15, 8), (25, 16), (40, 28), (60, usize::MAX)];

/// Blank lines before each function, and before the guard.
struct Layout {
    imports: String,
    constants: String,
    before: Vec<usize>,
    guard: usize,
}

fn main_of(names: &[String], class: &str) -> String {
    let steps: String = names.iter().map(|name| format!("        {name},\n")).collect();
    format!(
        "def main():\n    \"\"\"Show the functions of this module.\"\"\"\n    steps = [\n{steps}    ]\n    for step in \
         steps:\n        print({class}(step).line(), LIMIT, DIGITS)\n"
    )
}

fn assemble(chunks: &[String], layout: &Layout) -> String {
    let mut text = format!("{HEADER}{}{}", layout.imports, layout.constants);
    for (chunk, blank) in chunks.iter().zip(&layout.before) {
        text.push_str(&"\n".repeat(*blank));
        text.push_str(chunk);
    }
    text + &"\n".repeat(layout.guard) + GUARD
}

/// A hidden call as it is made: its arguments and the result that it must come to.
pub(super) type Call = (Box<[Expr]>, Expr);

/// The arguments and results of some calls, as expressions; nothing where one of them is none.
pub(super) fn calls<'a>(vectors: impl IntoIterator<Item = &'a Vector>) -> Option<Vec<Call>> {
    let lines: String = vectors.into_iter().map(|v| format!("f({})\n{}\n", v.args, v.expected)).collect();
    let mut expressions = parse(&lines).ok()?.into_iter().map(|statement| match statement {
        Stmt::Expr(e) => Some(*e.value),
        _ => None,
    });
    let mut found = Vec::new();
    while let Some(call) = expressions.next() {
        let Expr::Call(call) = call? else { return None };
        found.push((call.arguments.args, expressions.next()??));
    }
    Some(found)
}

/// The result of a function for some arguments.
fn result(statements: &[Stmt], name: &str, args: &str) -> Option<String> {
    let calls = calls([&Vector { args: args.to_owned(), expected: "0".into() }])?;
    match Program::new(statements).call(name, &calls.first()?.0) {
        Outcome::Value(text) => Some(text),
        _ => None,
    }
}

/// Calls whose results differ from each other and from every argument.
fn vectors(source: &str, name: &str, archetype: &Archetype, rng: &mut DetRng) -> Vec<Vector> {
    let statements = parse(source).unwrap_or_default();
    let mut found: Vec<Vector> = Vec::new();
    for round in 0..REDRAWS {
        let args: Vec<String> = archetype.args.iter().map(|a| a.draw(rng)).collect();
        let joined = args.join(", ");
        let Some(expected) = result(&statements, name, &joined) else { continue };
        let told = args.contains(&expected) || found.iter().any(|v| v.expected == expected);
        if !told || round + 3 >= REDRAWS {
            found.push(Vector { args: joined, expected });
        }
        if found.len() == 3 {
            break;
        }
    }
    found
}

/// A violation of a rule between functions; whether there was a place.
fn between(code: &str, layout: &mut Layout, rng: &mut DetRng) -> bool {
    match code {
        "E302" => {
            let places: Vec<usize> = (0..layout.before.len()).filter(|&i| layout.before[i] == 2).collect();
            let Some(&i) = places.get(rng.index(places.len().max(1))) else { return false };
            layout.before[i] = 1;
        }
        "E305" if layout.guard == 2 => layout.guard = 1,
        "F401" if !layout.imports.contains("json") => layout.imports.push_str("import json\n"),
        "E401" if layout.imports.starts_with("import math\nimport string\n") => {
            layout.imports = layout.imports.replacen("math\nimport ", "math, ", 1);
        }
        "F811" if !layout.imports.contains("string\nimport string") => {
            layout.imports.push_str("import string\n");
        }
        "E402" if layout.constants == CONSTANTS && layout.imports.contains("import string\n") => {
            layout.imports = layout.imports.replacen("import string\n", "", 1);
            layout.constants = CONSTANTS.replacen("DIGITS", "import string\nDIGITS", 1);
        }
        _ => return false,
    }
    true
}

/// A program of `count` functions with its violations.
pub(super) fn draw(
    count: usize,
    difficulty: u8,
    rng: &mut DetRng,
    dirt: &mut DetRng,
) -> (String, CodeTargets) {
    let order: Vec<usize> = (0..count.div_ceil(ARCHETYPES.len()))
        .flat_map(|_| rng.sample(ARCHETYPES.len(), ARCHETYPES.len()))
        .take(count)
        .collect();
    let mut names: Vec<String> = Vec::new();
    let mut chunks: Vec<String> = Vec::new();
    let mut targets: Vec<Function> = Vec::new();
    for (i, &which) in order.iter().enumerate() {
        let archetype = &ARCHETYPES[which];
        let round = i / ARCHETYPES.len();
        let name = archetype.names[(which + round) % archetype.names.len()];
        let name =
            if round < archetype.names.len() { name.to_owned() } else { format!("{name}_{}", round + 1) };
        let (a, b) = (rng.range(2, 6).to_string(), rng.range(14, 30).to_string());
        let text = archetype.text.replace("{f}", &name).replace("{a}", &a).replace("{b}", &b);
        targets.push(Function { name: name.clone(), vectors: vectors(&text, &name, archetype, rng) });
        names.push(name);
        chunks.push(text);
    }
    let clean_layout = || Layout {
        imports: IMPORTS.to_owned(),
        constants: CONSTANTS.to_owned(),
        before: vec![2; count + 2],
        guard: 2,
    };
    let mut class = (*rng.pick(&CLASSES)).to_owned();
    chunks.push(CLASS.replace("{f}", &class));
    let with_main =
        |chunks: &[String], names: &[String], class: &str| [chunks, &[main_of(names, class)]].concat();
    let clean = assemble(&with_main(&chunks, &names, &class), &clean_layout());

    let (density, variety) = DENSITY[usize::from(difficulty.min(3))];
    let mut codes: Vec<&str> = INSIDE.iter().chain(BETWEEN).copied().collect();
    dirt.shuffle(&mut codes);
    // A rule for which a place is not found gives way to another one.
    let mut others = codes.split_off(variety.min(codes.len()));
    let mut layout = clean_layout();
    let lines = clean.lines().count();
    let wanted = (lines * density / 100).max(6);
    let mut broken = chunks.clone();
    let mut planted = 0;
    for _ in 0..4 * wanted {
        if planted == wanted {
            break;
        }
        let which = dirt.index(codes.len());
        let code = codes[which];
        let done = if BETWEEN.contains(&code) {
            between(code, &mut layout, dirt)
        } else {
            let i = dirt.index(broken.len());
            break_rule(&broken[i], code, dirt).map(|text| broken[i] = text).is_some()
        };
        planted += usize::from(done);
        if !done && let Some(other) = others.pop() {
            codes[which] = other;
        }
    }
    // What a function is called now, and whether it still does the same.
    for i in 0..count {
        let statements = parse(&broken[i]).unwrap_or_default();
        let name = functions(&statements).first().map(|f| f.name.to_string()).unwrap_or_default();
        let same = |v: &Vector| result(&statements, &name, &v.args).as_ref() == Some(&v.expected);
        if targets[i].vectors.iter().all(same) && canonical(&name) == canonical(&names[i]) {
            names[i] = name;
        } else {
            broken[i].clone_from(&chunks[i]);
        }
    }
    if let Some(Stmt::ClassDef(c)) = parse(&broken[count]).unwrap_or_default().first() {
        class = c.name.to_string();
    }
    let mut dirty = assemble(&with_main(&broken, &names, &class), &layout);
    let found = lint(&dirty).unwrap_or_default();
    let planted: Vec<Planted> =
        found.into_iter().map(|f| Planted { code: f.code.to_owned(), function: f.function }).collect();
    let mut faults = 0;
    if difficulty >= 2 {
        for _ in 0..dirt.range(1, 3) {
            if let Some(text) = break_syntax(&dirty, dirt) {
                dirty = text;
                faults += 1;
            }
        }
    }
    (dirty, CodeTargets { clean, planted, faults, functions: targets, ..CodeTargets::default() })
}
