//! Statements that break a rule, with their right form.

use serde::{Deserialize, Serialize};

use super::fault::{Fault, fault};
use super::pattern::Pattern;
use super::sheet::{RULES, rule};
use crate::key::DetRng;
use crate::prose::capital;

/// A rule that a statement breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Style {
    /// The place of the rule in the sheet.
    pub(super) rule: usize,
    pub(super) must: Pattern,
    pub(super) must_not: Pattern,
    /// What is wrong, and what to put there; both occur once in their form of the statement.
    pub(super) wrong: String,
    pub(super) right: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statement {
    pub(super) category: usize,
    /// What identifies it: nobody else has the name, nothing else is called so.
    pub(super) surname: String,
    pub(super) noun: String,
    pub(super) wrong: String,
    pub(super) right: String,
    pub(super) styles: Vec<Style>,
}

/// `{S}` the name, `{n}` the noun, `{b}` what breaks the rule.
const FRAMES: &[&str] = &[
    "{S} told visitors at the {n} that {b}.",
    "At the {n}, {S} said that {b}.",
    "Outside the {n}, {S} confirmed that {b}.",
    "{S} wrote to the {n} that {b}.",
    "For the {n}, {S} reported that {b}.",
    "{S}, who runs the {n}, noted that {b}.",
    "{S}, who lives by the {n}, found that {b}.",
    "According to {S} of the {n}, {b}.",
    "People at the {n} heard from {S} that {b}.",
    "{S} left the {n} after hearing that {b}.",
    "A note from {S} to the {n} said that {b}.",
    "{S} visited the {n} and saw that {b}.",
    "Near the {n}, {S} learned that {b}.",
    "{S} reminded staff of the {n} that {b}.",
    "In a talk on the {n}, {S} stated that {b}.",
    "{S} warned the {n} that {b}.",
    "Inside the {n}, {S} explained that {b}.",
    "{S} assured guests of the {n} that {b}.",
    "Behind the {n}, {S} admitted that {b}.",
    "{S} photographed the {n} and added that {b}.",
];

/// A statement of a category; `double` breaks a second rule where the category allows it.
pub(super) fn draw(
    category: usize,
    place: usize,
    double: bool,
    names: (&str, &str),
    rng: &mut DetRng,
) -> Statement {
    let (surname, noun) = names;
    let ids: Vec<&str> = RULES.iter().filter(|r| r.1 == category).map(|r| r.0).collect();
    let first = ids[place % ids.len()];
    let mut faults = vec![(rule(first), fault(first, surname, noun, rng))];
    if double {
        // Two clauses, of different rules.
        let clauses: Vec<&str> = ids
            .iter()
            .copied()
            .filter(|&id| id != first && !["P2", "P3", "T1", "T2", "T3"].contains(&id))
            .collect();
        if !clauses.is_empty() {
            let second = *rng.pick(&clauses);
            faults.push((rule(second), fault(second, surname, noun, rng)));
        }
    }
    let frame = *rng.pick(FRAMES);
    let render = |pick: &dyn Fn(&Fault) -> String| {
        let text = pick(&faults[0].1);
        let mut text = if faults[0].1.whole { text } else { frame.replace("{b}", &text) };
        if let Some((_, second)) = faults.get(1) {
            text.truncate(text.len() - 1);
            text = format!("{text}, and that {}.", pick(second));
        }
        capital(&text.replace("{S}", surname).replace("{n}", noun))
    };
    let (wrong, right) = (render(&|b| b.wrong.clone()), render(&|b| b.right.clone()));
    let style = |(rule, b): (usize, Fault)| Style {
        rule,
        must: b.must,
        must_not: b.must_not,
        wrong: b.swap.0,
        right: b.swap.1,
    };
    Statement {
        category,
        surname: surname.to_owned(),
        noun: noun.to_owned(),
        wrong,
        right,
        styles: faults.into_iter().map(style).collect(),
    }
}
