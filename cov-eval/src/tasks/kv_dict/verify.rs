//! Scoring a dictionary.

use std::collections::HashSet;

use foldhash::fast::FixedState;

use super::parse::{self, Object};
use super::{KvDictTargets, random, targets};
use crate::aggregate::{Outcome, harmonic, unknown_kind};
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, Reason};

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
fn stands_alone(visible: &str, object: &Object<'_>) -> bool {
    let rest = [&visible[..object.range.start], &visible[object.range.end..]];
    let blank_or_fence = |line: &str| {
        let line = line.trim();
        line.is_empty()
            || line.strip_prefix("```").is_some_and(|info| info.chars().all(char::is_alphanumeric))
    };
    rest.iter().all(|text| text.lines().all(blank_or_fence))
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let mut flags = FlagSet::default();
    let (Some(targets), Some(object)) = (targets(instance), parse::find(visible)) else {
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
    let alone = stands_alone(visible, &object);
    flags.set(FlagSet::TRUNCATED_OBJECT, !object.complete);
    flags.set(FlagSet::MULTI_ANSWER, parse::find(&visible[object.range.end..]).is_some());
    let total = object.pairs.len();
    let mut first_at = vec![None; targets.pinned.len()];
    let set = || HashSet::<&str, FixedState>::with_capacity_and_hasher(total, FixedState::default());
    let (mut keys, mut values) = (set(), set());
    let (mut fillers, mut valid, mut random) = (0, 0, 0);
    let (mut keys_valid, mut values_valid, mut forbidden) = (0, 0, 0);
    let mut seen = random::Seen::with_capacity(2 * total);
    let reserved = targets.reserved();
    for (i, pair) in object.pairs.iter().enumerate() {
        let new_key = keys.insert(&*pair.key);
        let value = pair.value.as_deref();
        values.extend(value);
        if let Some(pin) = targets.pin_of(pair) {
            first_at[pin].get_or_insert(i);
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
    let positions = first_at.iter().zip(&targets.pinned);
    let shares = Shares {
        positions: positions
            .map(|(at, p)| at.map_or(0.0, |at| placement(at, p.index, targets.entries)))
            .collect(),
        valid: share(valid, fillers),
        unique: share(keys.len() + values.len(), 2 * total),
        random: share(random, fillers),
        count: share(total.min(targets.entries), total.max(targets.entries)),
        form: [1.0, 0.95][usize::from(!object.strict)] * [1.0, 0.95][usize::from(!alone)],
    };
    flags.set(FlagSet::LOW_ENTROPY, shares.random < 0.5);
    let (unique_keys, unique_values) = (share(keys.len(), total), share(values.len(), total));
    let pure = (1.0 + f64::from(object.strict) + f64::from(alone)) / 3.0;
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
            let found = first_at.get(pin).copied().flatten();
            let span = || found.map(|at| object.pairs[at].span.clone()).into_iter().collect();
            match &*c.kind {
                "present" => (f64::from(found.is_some()), Reason::Missing, span()),
                "position" if found.is_none() => (0.0, Reason::Missing, Vec::new()),
                "position" => (shares.positions[pin], Reason::Misplaced, span()),
                "count" => (shares.count, Reason::Count, Vec::new()),
                "keys_valid" => (share(keys_valid, fillers), Reason::Format, Vec::new()),
                "values_valid" => (share(values_valid, fillers), Reason::Format, Vec::new()),
                "unique_keys" => (unique_keys, Reason::Repeated, Vec::new()),
                "unique_values" => (unique_values, Reason::Repeated, Vec::new()),
                "random_looking" => (shares.random, Reason::Format, Vec::new()),
                "pure_output" => (pure, Reason::Format, Vec::new()),
                "no_forbidden_key" => (share(fillers - forbidden, fillers), Reason::Extra, Vec::new()),
                _ => unknown_kind(),
            }
        }),
    }
}
