//! Scoring a dictionary.

use std::collections::HashSet;
use std::ops::Range;

use foldhash::fast::FixedState;

use super::{KvDictTargets, parse, quick, random, targets};
use crate::aggregate::{Outcome, harmonic, unknown_kind};
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, Reason, Spans};

/// Shares that a dictionary is scored by.
pub(super) struct Shares {
    /// `P`, by pinned entry.
    pub(super) positions: Vec<f64>,
    pub(super) valid: f64,
    pub(super) unique: f64,
    pub(super) random: f64,
    pub(super) count: f64,
    pub(super) form: f64,
}

impl Shares {
    fn position(&self) -> f64 {
        self.positions.iter().sum::<f64>() / self.positions.len().max(1) as f64
    }

    pub(super) fn base(&self) -> f64 {
        harmonic(&[(self.position(), 0.40), (self.valid, 0.35), (self.unique, 0.10), (self.random, 0.15)])
    }
}

/// `σ = max(2, 0.05·N)`.
fn sigma(entries: usize) -> f64 {
    (0.05 * entries as f64).max(2.0)
}

/// `1/(1+(Δ/σ)²)`.
pub(super) fn placement(found: usize, index: usize, entries: usize) -> f64 {
    1.0 / (1.0 + (found.abs_diff(index) as f64 / sigma(entries)).powi(2))
}

impl KvDictTargets {
    /// How many entries off a given one is whose place has this credit, as [`placement`] gives it; `None` where it is missing.
    pub(crate) fn places_off(&self, credit: f64) -> Option<u32> {
        (credit > 0.0).then(|| (sigma(self.entries) * (1.0 / credit - 1.0).sqrt()).round() as u32)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Whether nothing but the object, or a fence around it, is visible.
pub(super) fn stands_alone(visible: &str, object: &Range<usize>) -> bool {
    let rest = [&visible[..object.start], &visible[object.end..]];
    let blank_or_fence = |line: &str| {
        let line = line.trim();
        line.is_empty()
            || line.strip_prefix("```").is_some_and(|info| info.chars().all(char::is_alphanumeric))
    };
    rest.iter().all(|text| text.lines().all(blank_or_fence))
}

/// What a dictionary holds.
#[derive(Debug, PartialEq)]
pub(super) struct Tally {
    /// For each given entry the number of the first that is it, and its bytes.
    pub(super) first_at: Vec<Option<(usize, Range<u32>)>>,
    pub(super) total: usize,
    /// Entries that are not given, and how many of them are as they should be in some respect.
    pub(super) fillers: usize,
    pub(super) valid: usize,
    pub(super) keys_valid: usize,
    pub(super) values_valid: usize,
    pub(super) random: usize,
    pub(super) forbidden: usize,
    pub(super) unique_keys: usize,
    pub(super) unique_values: usize,
    pub(super) strict: bool,
    pub(super) complete: bool,
    pub(super) alone: bool,
    /// Where it ends.
    pub(super) end: usize,
}

/// What the first dictionary of any text holds.
pub(super) fn thorough(targets: &KvDictTargets, visible: &str) -> Option<Tally> {
    let object = parse::find(visible)?;
    let total = object.pairs.len();
    let mut first_at = vec![None; targets.pinned.len()];
    let set = || HashSet::<&str, FixedState>::with_capacity_and_hasher(total, FixedState::default());
    let (mut keys, mut values) = (set(), set());
    let (mut fillers, mut valid, mut random) = (0, 0, 0);
    let (mut keys_valid, mut values_valid, mut forbidden) = (0, 0, 0);
    let mut seen = random::Seen::with_capacity(2 * total);
    let reserved: HashSet<&str, FixedState> = targets.reserved_keys().collect();
    for (i, pair) in object.pairs.iter().enumerate() {
        let new_key = keys.insert(&*pair.key);
        let value = pair.value.as_deref();
        values.extend(value);
        if let Some(pin) = targets.pin_of(pair) {
            first_at[pin].get_or_insert_with(|| (i, pair.span.clone()));
            continue;
        }
        fillers += 1;
        let key_reserved = reserved.contains(&*pair.key);
        forbidden += usize::from(key_reserved && targets.pinned.iter().all(|p| p.key != pair.key));
        let key_ok = targets.is_key(&pair.key) && !key_reserved;
        let value_ok = value.is_some_and(|v| targets.is_value(v));
        keys_valid += usize::from(key_ok);
        values_valid += usize::from(value_ok);
        valid += usize::from(key_ok && value_ok && new_key);
        // Both are looked at, so that both are remembered.
        let looks = [seen.looks_random(&pair.key), value.is_some_and(|v| seen.looks_random(v))];
        random += usize::from(looks == [true, true]);
    }
    Some(Tally {
        first_at,
        total,
        fillers,
        valid,
        keys_valid,
        values_valid,
        random,
        forbidden,
        unique_keys: keys.len(),
        unique_values: values.len(),
        strict: object.strict,
        complete: object.complete,
        alone: stands_alone(visible, &object.range),
        end: object.range.end,
    })
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let read = |targets| quick::read(targets, visible).or_else(|| thorough(targets, visible));
    let found = targets(instance).and_then(|targets| Some((targets, read(targets)?)));
    let mut flags = FlagSet::default();
    let Some((targets, tally)) = found else {
        return Outcome {
            gate: Gate::NoObject,
            base: 0.0,
            components: Vec::new(),
            multipliers: Vec::new(),
            flags,
            may_echo: false,
            verdict: Box::new(|_| unknown_kind()),
        };
    };
    let Tally { first_at, total, fillers, strict, alone, .. } = tally;
    flags.set(FlagSet::TRUNCATED_OBJECT, !tally.complete);
    flags.set(FlagSet::MULTI_ANSWER, parse::find(&visible[tally.end..]).is_some());
    let positions = first_at.iter().zip(&targets.pinned);
    let shares = Shares {
        positions: positions
            .map(|(at, p)| at.as_ref().map_or(0.0, |at| placement(at.0, p.index, targets.entries)))
            .collect(),
        valid: share(tally.valid, fillers),
        unique: share(tally.unique_keys + tally.unique_values, 2 * total),
        random: share(tally.random, fillers),
        count: share(total.min(targets.entries), total.max(targets.entries)),
        form: [1.0, 0.95][usize::from(!strict)] * [1.0, 0.95][usize::from(!alone)],
    };
    flags.set(FlagSet::LOW_ENTROPY, shares.random < 0.5);
    let pure = (1.0 + f64::from(strict) + f64::from(alone)) / 3.0;
    Outcome {
        gate: Gate::Open,
        base: shares.base(),
        components: vec![
            ("position", shares.position()),
            ("valid", shares.valid),
            ("unique", shares.unique),
            ("random", shares.random),
        ],
        multipliers: vec![("form", shares.form), ("count", shares.count)],
        flags,
        may_echo: false,
        verdict: Box::new(move |c| {
            let pin = c.target as usize;
            let found = first_at.get(pin).and_then(Option::as_ref);
            let span = || found.map(|at| at.1.clone()).into_iter().collect();
            match &*c.kind {
                "present" => (f64::from(found.is_some()), Reason::Missing, span()),
                "position" if found.is_none() => (0.0, Reason::Missing, Spans::new()),
                "position" => (shares.positions[pin], Reason::Misplaced, span()),
                "count" => (shares.count, Reason::Count, Spans::new()),
                "keys_valid" => (share(tally.keys_valid, fillers), Reason::Format, Spans::new()),
                "values_valid" => (share(tally.values_valid, fillers), Reason::Format, Spans::new()),
                "unique_keys" => (share(tally.unique_keys, total), Reason::Repeated, Spans::new()),
                "unique_values" => (share(tally.unique_values, total), Reason::Repeated, Spans::new()),
                "random_looking" => (shares.random, Reason::Format, Spans::new()),
                "pure_output" => (pure, Reason::Format, Spans::new()),
                "no_forbidden_key" => {
                    (share(fillers - tally.forbidden, fillers), Reason::Extra, Spans::new())
                }
                _ => unknown_kind(),
            }
        }),
    }
}
