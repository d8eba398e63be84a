//! Scoring a repaired file.

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};

use ruff_python_ast::{Expr, Stmt, StmtFunctionDef, Suite};

use super::{CodeTargets, Function, Signatures, program, targets};
use crate::aggregate::{Outcome, harmonic, unknown_kind};
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, Reason, Spans};
use crate::python::{
    self, Node, Program, canonical, each, findings, forbidden, functions, on_large_stack, parse, read,
};

/// The program in an answer: the last fenced block of at least half the length of the longest, else the whole text; with the
/// number of blocks, and whether the last one is open.
pub(super) fn extract(visible: &str) -> (String, usize, bool) {
    let mut blocks: Vec<String> = Vec::new();
    let mut open: Option<(char, String)> = None;
    for line in visible.split_inclusive('\n') {
        let start = line.trim_start();
        let mark =
            start.chars().next().filter(|c| "`~".contains(*c) && start.starts_with(&c.to_string().repeat(3)));
        match (&mut open, mark) {
            (Some((sign, _)), Some(found))
                if *sign == found
                    && !start.trim_end().trim_end_matches(found).contains(|c: char| c != found) =>
            {
                blocks.extend(open.take().map(|(_, text)| text));
            }
            (Some((_, text)), _) => text.push_str(line),
            (None, Some(found)) => open = Some((found, String::new())),
            (None, None) => {}
        }
    }
    let truncated = open.is_some();
    blocks.extend(open.map(|(_, text)| text));
    let longest = blocks.iter().map(String::len).max().unwrap_or(0);
    let text = blocks.iter().rev().find(|b| 2 * b.len() >= longest).map_or(visible, String::as_str);
    // Without its white space at the end, which no answer could avoid.
    (format!("{}\n", text.trim_end()), blocks.len(), truncated)
}

/// What a program that parses is worth.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// Whether each planted violation is gone.
    fixed: Vec<bool>,
    left: usize,
    new: usize,
    /// Credit and reason for each function.
    behaviour: Vec<(f64, Option<Reason>)>,
    functions: usize,
    stub: bool,
    dynamic: bool,
}

/// Whether a body only returns a constant, or does nothing.
fn is_stub(f: &StmtFunctionDef) -> bool {
    f.body.iter().all(|s| match s {
        Stmt::Pass(_) => true,
        Stmt::Expr(e) => e.value.is_literal_expr(),
        Stmt::Return(r) => match r.value.as_deref() {
            None => true,
            Some(Expr::List(l)) => l.is_empty(),
            Some(Expr::Dict(d)) => d.is_empty(),
            Some(value) => value.is_literal_expr(),
        },
        _ => false,
    })
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Kind {
    Statement(Discriminant<Stmt>),
    Expression(Discriminant<Expr>),
}

/// Pairs of kinds of neighbouring nodes, with their numbers.
fn shape(f: &StmtFunctionDef) -> HashMap<(Kind, Kind), usize> {
    let mut nodes = Vec::new();
    each(&f.body, |node| {
        nodes.push(match node {
            Node::Statement(s) => Kind::Statement(discriminant(s)),
            Node::Expression(e) => Kind::Expression(discriminant(e)),
        });
    });
    let mut counts = HashMap::new();
    nodes.windows(2).for_each(|pair| *counts.entry((pair[0], pair[1])).or_insert(0) += 1);
    counts
}

/// Jaccard similarity of two multisets.
fn similarity(a: &HashMap<(Kind, Kind), usize>, b: &HashMap<(Kind, Kind), usize>) -> f64 {
    let both: usize = a.iter().map(|(k, n)| (*n).min(b.get(k).copied().unwrap_or(0))).sum();
    let all: usize = a.values().sum::<usize>() + b.values().sum::<usize>() - both;
    if all == 0 { 1.0 } else { both as f64 / all as f64 }
}

fn signature(f: &StmtFunctionDef) -> Vec<String> {
    f.parameters.args.iter().map(|a| canonical(a.name())).collect()
}

fn by_name(statements: &[Stmt]) -> HashMap<String, &StmtFunctionDef> {
    let mut map = HashMap::new();
    for statement in statements {
        if let Stmt::FunctionDef(f) = statement {
            map.insert(canonical(f.name.as_str()), f);
        }
    }
    map
}

impl CodeTargets {
    /// Functions of the clean file, with those inside of functions and classes.
    pub(super) fn count(&self) -> usize {
        *self.count.get(|| functions(&self.clean_statements()).len())
    }

    fn clean_statements(&self) -> Suite {
        parse(&self.clean).unwrap_or_default()
    }

    /// The calls of each function, none where one of all cannot be read.
    fn calls(&self) -> &[Vec<program::Call>] {
        self.calls.get(|| {
            let all = program::calls(self.functions.iter().flat_map(|f| &f.vectors)).unwrap_or_default();
            let mut all = all.into_iter();
            self.functions.iter().map(|f| all.by_ref().take(f.vectors.len()).collect()).collect()
        })
    }

    fn signatures(&self) -> &Signatures {
        self.signatures.get(|| {
            let statements = self.clean_statements();
            by_name(&statements).into_iter().map(|(name, f)| (name, signature(f))).collect()
        })
    }
}

/// The credit of a function that is found.
fn behaviour<'a>(
    program: &Program<'a>,
    f: &StmtFunctionDef,
    wanted: &Function,
    calls: &'a [program::Call],
    targets: &CodeTargets,
) -> (f64, Option<Reason>) {
    let name = canonical(&wanted.name);
    let clean = targets.signatures().get(&name);
    if clean.is_some_and(|clean| *clean != signature(f)) {
        return (0.0, Some(Reason::Format));
    }
    if is_stub(f) {
        return (0.05, Some(Reason::Wrong));
    }
    let (mut passed, mut unsupported) = (0, false);
    for (args, expected) in calls {
        match program.gives(f.name.as_str(), args, expected) {
            Ok(right) => passed += usize::from(right),
            Err(python::Outcome::Unsupported) => unsupported = true,
            Err(_) => {}
        }
    }
    if unsupported && clean.is_some() {
        let clean = targets.clean_statements();
        let similarity = by_name(&clean).get(&name).map_or(0.0, |clean| similarity(&shape(f), &shape(clean)));
        return (0.05 + 0.75 * similarity, Some(Reason::Unsupported));
    }
    let total = wanted.vectors.len().max(1) as f64;
    (
        if passed == wanted.vectors.len() { 1.0 } else { 0.05 + 0.95 * passed as f64 / total },
        Some(Reason::Wrong),
    )
}

/// Parses and tries a program; nothing where it does not parse.
pub(super) fn examine(targets: &CodeTargets, source: &str) -> Option<Found> {
    let parsed = read(source).ok()?;
    let all = findings(source, &parsed);
    let statements = &parsed.statements;
    let mut left: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for finding in &all {
        *left.entry((finding.code, finding.function.as_str())).or_default() += 1;
    }
    let mut planted: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for p in &targets.planted {
        *planted.entry((p.code.as_str(), p.function.as_str())).or_default() += 1;
    }
    // Of those in a bucket the last ones are taken to be left.
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let fixed = targets.planted.iter().map(|p| {
        let key = (p.code.as_str(), p.function.as_str());
        let place = seen.entry(key).or_default();
        *place += 1;
        *place + left.get(&key).copied().unwrap_or(0) <= planted.get(&key).copied().unwrap_or(0)
    });
    let fixed: Vec<bool> = fixed.collect();
    let new = left.iter().map(|(key, n)| n.saturating_sub(planted.get(key).copied().unwrap_or(0))).sum();
    let dynamic = forbidden(statements);
    let by_name = by_name(statements);
    let of = |f: &Function| by_name.get(&canonical(&f.name)).copied();
    let program = Program::new(statements);
    let wanted = if dynamic { &[][..] } else { &targets.functions };
    let credits = wanted.iter().zip(targets.calls()).map(|(wanted, calls)| match of(wanted) {
        Some(f) => behaviour(&program, f, wanted, calls, targets),
        None => (0.0, Some(Reason::Missing)),
    });
    Some(Found {
        fixed,
        left: all.len(),
        new,
        behaviour: credits.collect(),
        functions: functions(statements).len(),
        stub: targets.functions.iter().any(|wanted| of(wanted).is_some_and(is_stub)),
        dynamic,
    })
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let empty = CodeTargets::default();
    let targets = targets(instance).unwrap_or(&empty);
    let (source, blocks, truncated) = extract(visible);
    let mut flags = FlagSet::default();
    flags.set(FlagSet::TRUNCATED_BLOCK, truncated);
    flags.set(FlagSet::MULTI_ANSWER, blocks > 1);
    let found = on_large_stack(|| examine(targets, &source)).flatten();
    let Some(found) = found else {
        return Outcome {
            gate: Gate::Syntax,
            base: 0.0,
            components: Vec::new(),
            multipliers: Vec::new(),
            flags,
            may_echo: true,
            verdict: Box::new(|_| unknown_kind()),
        };
    };
    flags.set(FlagSet::DYNAMIC_CODE, found.dynamic);
    flags.set(FlagSet::STUB_CODE, found.stub);
    let weight = targets.weight().max(1) as f64;
    let fix = (1.0 - found.left as f64 / weight).max(0.0);
    let credits: f64 = found.behaviour.iter().map(|b| b.0).sum();
    let behaviour = credits / targets.functions.len().max(1) as f64;
    let expected = targets.count();
    let off = found.functions.abs_diff(expected) as f64 / (expected as f64 / 4.0).max(1.0);
    let count = 1.0 / (1.0 + off * off);
    Outcome {
        gate: Gate::Open,
        base: harmonic(&[(fix, 0.45), (behaviour, 0.45), (count, 0.10)]),
        components: vec![("fix", fix), ("behaviour", behaviour), ("count", count)],
        multipliers: Vec::new(),
        flags,
        may_echo: true,
        verdict: Box::new(move |c| {
            let i = c.target as usize;
            let whole = |holds: bool, loss| (f64::from(u8::from(holds)), loss, Spans::new());
            match (&*c.kind, found.fixed.get(i), found.behaviour.get(i)) {
                ("syntax", ..) => whole(true, Reason::Format),
                ("lint", Some(&fixed), _) => whole(fixed, Reason::Wrong),
                ("no_new_findings", ..) => whole(found.new == 0, Reason::Extra),
                ("behaviour", _, Some(&(credit, loss))) => {
                    (credit, loss.unwrap_or(Reason::Wrong), Spans::new())
                }
                ("function_count", ..) => (count, Reason::Count, Spans::new()),
                ("single_block", ..) => whole(blocks <= 1, Reason::Repeated),
                _ => unknown_kind(),
            }
        }),
    }
}

impl Found {
    pub(super) fn fixed(&self) -> &[bool] {
        &self.fixed
    }

    /// Whether all functions have the same credit.
    pub(super) fn behaves_as(&self, other: &Self) -> bool {
        self.behaviour == other.behaviour
    }

    /// The credit of a function.
    pub(super) fn credit(&self, function: usize) -> f64 {
        self.behaviour.get(function).map_or(0.0, |b| b.0)
    }
}
