//! Faults in a repaired file.

use std::ops::Range;

use ruff_python_ast::Stmt;
use ruff_text_size::Ranged;

use super::dirty::{break_rule, break_syntax, lint};
use super::verify::{Found, examine, extract};
use super::{CodeTargets, Planted};
use crate::key::DetRng;
use crate::model::{Instance, PlantKind, Planted as PlantedAnswer};
use crate::python::{Kind, canonical, parse, tokens};

/// Top-level functions but `main`: canonical name and bytes, with the line end.
fn chunks(source: &str) -> Vec<(String, Range<usize>)> {
    let statements = parse(source).unwrap_or_default();
    let range = |s: &Stmt| match s {
        Stmt::FunctionDef(f) if f.name.as_str() != "main" => {
            let end = usize::from(f.range().end());
            let end = end + usize::from(source[end..].starts_with('\n'));
            Some((canonical(f.name.as_str()), usize::from(f.range().start())..end))
        }
        _ => None,
    };
    statements.iter().filter_map(range).collect()
}

/// The source with another text for some bytes.
fn with(source: &str, range: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &source[..range.start], &source[range.end..])
}

pub(super) fn plant(
    instance: &Instance,
    targets: &CodeTargets,
    answer: &str,
    kind: PlantKind,
    rng: &mut DetRng,
) -> Option<PlantedAnswer> {
    let source = extract(answer).0;
    let mut places = chunks(&source);
    rng.shuffle(&mut places);
    let ids = |kind: &str, i: usize| instance.ids(|k, t| k == kind && t == i);
    let whole = |kind: &str| instance.ids(|k, _| k == kind);
    let index = |name: &str| targets.functions.iter().position(|f| canonical(&f.name) == name);
    let of = |name: &str| index(name).map(|i| ids("behaviour", i)).unwrap_or_default();
    let counted = whole("function_count");
    // What no longer is there cannot be violated, and what it used may now be unused.
    let may_fail = whole("no_new_findings");
    let before = examine(targets, &source)?;
    let done = |text: String, must_fail: Vec<u16>| {
        Some(PlantedAnswer { text, must_fail, may_fail: may_fail.clone() })
    };
    match kind {
        "leave_finding" | "noqa" => {
            let mut wanted: Vec<&Planted> =
                targets.planted.iter().filter(|p| !p.function.is_empty()).collect();
            rng.shuffle(&mut wanted);
            for p in wanted {
                let Some((_, range)) = places.iter().find(|(name, _)| *name == p.function) else { continue };
                let Some(mut text) = break_rule(&source[range.clone()], &p.code, rng) else { continue };
                if kind == "noqa" {
                    // On the line that has it.
                    let finding = lint(&text)?.into_iter().find(|f| f.code == p.code)?;
                    let line = text.lines().nth(finding.line - 1)?.to_owned();
                    if !line.trim_end().ends_with([')', ']', '}', '0'])
                        || line.contains('#')
                        || line.len() > 68
                    {
                        continue;
                    }
                    text = text.replacen(&format!("{line}\n"), &format!("{line}  # noqa\n"), 1);
                }
                let text = with(&source, range.clone(), &text);
                let after = examine(targets, &text)?;
                let lost: Vec<u16> = lost(&before, &after).into_iter().flat_map(|i| ids("lint", i)).collect();
                // Some edits of a rule change what some functions do.
                if lost.len() == 1 && after.behaves_as(&before) {
                    return done(text, lost);
                }
            }
            None
        }
        "add_finding" => {
            for (name, range) in &places {
                for code in ["E225", "E231", "W291", "E703", "E261"] {
                    if targets.planted.iter().any(|p| p.code == code && p.function == *name) {
                        continue;
                    }
                    if let Some(text) = break_rule(&source[range.clone()], code, rng) {
                        return done(with(&source, range.clone(), &text), whole("no_new_findings"));
                    }
                }
            }
            None
        }
        "rename_function" => {
            let (name, range) = places.first()?;
            let text = source[range.clone()].replacen("def ", "def other_", 1);
            done(with(&source, range.clone(), &text), of(name))
        }
        "drop_function" | "hide_in_string" => {
            let (name, mut range) = places.first().cloned()?;
            if kind == "drop_function" {
                // With the blank lines after it, which would be too many.
                let after = &source[range.end..];
                range.end += after.len() - after.trim_start_matches('\n').len();
            }
            let name = &name;
            let new = match kind {
                "drop_function" => String::new(),
                _ => format!("HIDDEN = '''{}'''\n", source[range.clone()].replace("\"\"\"", "")),
            };
            done(with(&source, range.clone(), &new), [of(name), counted].concat())
        }
        "change_constant" | "swap_comparison" => {
            for (name, range) in &places {
                let i = index(name)?;
                let chunk = &source[range.clone()];
                // Inside the body, after its docstring.
                let body = chunk.find("\"\"\"\n").unwrap_or(0);
                for token in tokens(chunk).into_iter().filter(|t| t.range.start > body) {
                    let text = &chunk[token.range.clone()];
                    let new = match (kind, token.kind, text) {
                        ("change_constant", Kind::Number, n) => (n.parse::<u32>().ok()? + 1).to_string(),
                        ("swap_comparison", Kind::Operator, "<") => ">=".into(),
                        ("swap_comparison", Kind::Operator, ">") => "<=".into(),
                        ("swap_comparison", Kind::Operator, "==") => "!=".into(),
                        ("swap_comparison", Kind::Operator, "<=") => ">".into(),
                        ("swap_comparison", Kind::Operator, ">=") => "<".into(),
                        _ => continue,
                    };
                    let changed = with(&source, range.clone(), &with(chunk, token.range, &new));
                    let Some(after) = examine(targets, &changed) else { continue };
                    if after.credit(i) < before.credit(i) {
                        return done(changed, of(name));
                    }
                }
            }
            None
        }
        "stub_body" => {
            let able = |name: &str| index(name).is_some_and(|i| before.credit(i) > 0.5);
            // Without functions of its own, which would be gone too.
            let whole = |range: &Range<usize>| source[range.clone()].matches("def ").count() == 1;
            let (name, range) = places.iter().find(|(name, range)| able(name) && whole(range))?;
            let head = source[range.clone()].lines().next()?;
            done(with(&source, range.clone(), &format!("{head}\n    return None\n")), of(name))
        }
        "add_function" => {
            let (_, range) = places.first()?;
            let text = format!("def extra_{}():\n    return 1\n\n\n", rng.below(1 << 20));
            done(with(&source, range.start..range.start, &text), counted)
        }
        "break_syntax" => {
            let text = break_syntax(&source, rng)?;
            let all = instance.constraints.iter().map(|c| c.id).collect();
            done(text, all)
        }
        _ => None,
    }
}

/// Planted violations that were gone and are there again.
fn lost(before: &Found, after: &Found) -> Vec<usize> {
    let gone = before.fixed().iter().zip(after.fixed()).enumerate();
    gone.filter(|(_, (was, is))| **was && !**is).map(|(i, _)| i).collect()
}
