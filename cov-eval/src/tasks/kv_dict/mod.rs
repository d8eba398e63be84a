//! `kv_dict`: a dictionary of many random entries, some of them given together with their places.
//!
//! `q · C · H(P:0.40, V:0.35, U:0.10, R:0.15)`: form, count, and the weighted harmonic mean of places, validity,
//! uniqueness and look of randomness.

mod parse;
mod plant;
mod quick;
mod random;
mod verify;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::aggregate;
use crate::error::GenError;
use crate::intake::Intake;
use crate::key::{DetRng, InstanceKey, TaskId};
use crate::length::proportional;
use crate::model::{
    Constraints, Instance, MaterialKind, Parts, PlantKind, Planted, Task, TaskConfig, Verification,
};
use crate::tasks::{self, Targets};
use parse::Pair;

/// The task.
pub(super) struct KvDict;

const VERSION: u32 = 1;
const KEY_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_";
const VALUE_ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A given entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    key: String,
    value: String,
    index: usize,
}

/// The given entries and the shape of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvDictTargets {
    entries: usize,
    /// Characters of every key and of every value.
    length: usize,
    pinned: Vec<Pinned>,
    forbidden: Vec<String>,
}

impl KvDictTargets {
    fn is_key(&self, text: &str) -> bool {
        self.is_of(text, |b| b.is_ascii_uppercase() | (b == b'_'))
    }

    fn is_value(&self, text: &str) -> bool {
        self.is_of(text, |b| b.is_ascii_lowercase() | b.is_ascii_digit())
    }

    /// Whether a text has the length asked for, and these bytes alone. All bytes are looked at, so that many are at once.
    fn is_of(&self, text: &str, good: impl Fn(u8) -> bool) -> bool {
        text.len() == self.length && text.bytes().fold(true, |all, b| all & good(b))
    }

    /// Key, value and index of the first given entry.
    pub(crate) fn first_pin(&self) -> Option<(&str, &str, usize)> {
        self.pinned.first().map(|p| (p.key.as_str(), p.value.as_str(), p.index))
    }

    /// Entries asked for.
    pub(crate) fn entry_count(&self) -> usize {
        self.entries
    }

    fn pin_of(&self, pair: &Pair<'_>) -> Option<usize> {
        self.pinned.iter().position(|p| p.key == pair.key && Some(p.value.as_str()) == pair.value.as_deref())
    }

    /// Keys that no filler may have.
    fn reserved_keys(&self) -> impl Iterator<Item = &str> {
        self.pinned.iter().map(|p| p.key.as_str()).chain(self.forbidden.iter().map(String::as_str))
    }

    /// Random fillers that are valid and look random, with the pinned entries in their places.
    fn entries(&self, rng: &mut DetRng) -> Vec<(String, String)> {
        let mut pairs = vec![(String::new(), String::new()); self.entries];
        let mut taken: HashSet<String> =
            self.pinned.iter().flat_map(|p| [p.key.clone(), p.value.clone()]).collect();
        taken.extend(self.forbidden.iter().cloned());
        for pair in &mut pairs {
            *pair = (self.fresh(KEY_ALPHABET, &mut taken, rng), self.fresh(VALUE_ALPHABET, &mut taken, rng));
        }
        for p in &self.pinned {
            if let Some(pair) = pairs.get_mut(p.index) {
                *pair = (p.key.clone(), p.value.clone());
            }
        }
        pairs
    }

    fn fresh(&self, alphabet: &[u8], taken: &mut HashSet<String>, rng: &mut DetRng) -> String {
        loop {
            let text: String = (0..self.length).map(|_| char::from(*rng.pick(alphabet))).collect();
            let stem = random::stem_length(self.length);
            let ends = [format!("^{}", &text[..stem]), format!("{}$", &text[self.length - stem..])];
            let fresh = !taken.contains(&text) && ends.iter().all(|end| !taken.contains(end));
            if fresh && random::Seen::default().looks_random(&text) {
                taken.extend(ends);
                taken.insert(text.clone());
                return text;
            }
        }
    }
}

fn targets(instance: &Instance) -> Option<&KvDictTargets> {
    match &instance.targets {
        Targets::KvDict(targets) => Some(targets),
        _ => None,
    }
}

fn render(pairs: &[(String, String)], quote: char) -> String {
    let line = |(key, value): &(String, String)| format!("{quote}{key}{quote}: {quote}{value}{quote}");
    format!("{{\n{}\n}}", pairs.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

impl Task for KvDict {
    fn version(&self) -> u32 {
        VERSION
    }

    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError> {
        tasks::check(TaskId::KvDict, VERSION, key, cfg)?;
        let entries = proportional(20, key.length, 6);
        let pins = [1, 1, 4, 8][usize::from(key.difficulty)].min(entries / 3);
        let length = if key.difficulty == 0 { 8 } else { 32 };
        let mut rng = key.rng("target");
        let mut targets = KvDictTargets { entries, length, pinned: Vec::new(), forbidden: Vec::new() };
        let mut taken = HashSet::new();
        for index in rng.sample(entries, pins) {
            let key = targets.fresh(KEY_ALPHABET, &mut taken, &mut rng);
            let value = targets.fresh(VALUE_ALPHABET, &mut taken, &mut rng);
            targets.pinned.push(Pinned { key, value, index });
        }
        let mut material = String::from("index | key | value\n");
        for p in &targets.pinned {
            material.push_str(&format!("{} | {} | {}\n", p.index, p.key, p.value));
        }
        let mut distractor = key.rng("distractor");
        let forbidden = tasks::room(cfg, &material)? * 4 / (length + 1);
        for i in 0..forbidden {
            if i == 0 {
                material.push_str("\nforbidden keys:\n");
            }
            let key = targets.fresh(KEY_ALPHABET, &mut taken, &mut distractor);
            material.push_str(&key);
            material.push('\n');
            targets.forbidden.push(key);
        }

        let mut constraints = Constraints::default();
        for (i, p) in targets.pinned.iter().enumerate() {
            let locus = Some(p.index as f64 / (entries - 1) as f64);
            constraints.push("present", i, locus);
            constraints.push("position", i, locus);
        }
        let whole = ["count", "keys_valid", "values_valid", "unique_keys", "unique_values", "random_looking"];
        whole.into_iter().for_each(|kind| constraints.whole(kind));
        constraints.whole("pure_output");
        let mut query = format!(
            "Write a dictionary of random strings with some entries given.\n\n\
             1. present: each entry of the table below, its key together with its value.\n\
             2. position: each of them at the given index; the first entry of the dictionary has index 0.\n\
             3. count: exactly {entries} entries in all, the given ones included.\n\
             4. keys_valid: every key has exactly {length} characters, each an upper-case letter A to Z or an \
             underscore.\n\
             5. values_valid: every value has exactly {length} characters, each a lower-case letter a to z or a \
             digit.\n\
             6. unique_keys: no key twice.\n\
             7. unique_values: no value twice.\n\
             8. random_looking: the other keys and values look random: no character in one of them more than {most} \
             times, no character five times running, no eight characters in alphabetical or numerical order, and no \
             two strings with the same first {stem} or last {stem} characters.\n\
             9. pure_output: one JSON object with double quotes, and nothing else.",
            most = random::most_of_one(length),
            stem = random::stem_length(length),
        );
        if forbidden > 0 {
            constraints.whole("no_forbidden_key");
            query.push_str("\n10. no_forbidden_key: none of the forbidden keys below.");
        }
        Ok(Instance::assemble(
            key,
            cfg,
            Parts {
                query,
                material: (MaterialKind::DictSpec, material.trim_end().to_owned()),
                contract: "Write only the dictionary: {\"KEY\": \"value\", …}".to_owned(),
                constraints,
                targets: Targets::KvDict(targets),
                prose: false,
            },
        ))
    }

    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification {
        aggregate::verify(instance, answer, |visible| verify::analyse(instance, visible))
    }

    fn oracle(&self, instance: &Instance) -> String {
        let mut rng = instance.key.rng("material");
        targets(instance).map(|t| render(&t.entries(&mut rng), '"')).unwrap_or_default()
    }

    fn plants(&self) -> &'static [PlantKind] {
        &[
            "off_by_one",
            "pair_split",
            "missing_entry",
            "extra_entry",
            "short_key",
            "lower_case_key",
            "duplicate_key",
            "duplicate_value",
            "low_entropy",
            "single_quotes",
            "prose_before",
        ]
    }

    fn plant(&self, instance: &Instance, answer: &str, kind: PlantKind, rng: &mut DetRng) -> Option<Planted> {
        plant::plant(instance, targets(instance)?, answer, kind, rng)
    }

    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)> {
        let mut nulls = tasks::common_nulls(instance);
        let Some(targets) = targets(instance) else { return nulls };
        let mut rng = instance.key.rng("plant");
        let KvDictTargets { entries, length, pinned, .. } = targets;
        let unpinned = KvDictTargets { pinned: Vec::new(), ..targets.clone() };
        let constant = |_| ("K".repeat(*length), "v".repeat(*length));
        // The pinned entries in their places among constants with a counter.
        let counted = |i: usize| {
            let tail: String = format!("{i:04}").bytes().map(|b| char::from(b - b'0' + b'A')).collect();
            let filler =
                (format!("{}{tail}", "K".repeat(length - 4)), format!("{}{i:04}", "v".repeat(length - 4)));
            pinned.iter().find(|p| p.index == i).map_or(filler, |p| (p.key.clone(), p.value.clone()))
        };
        nulls.extend([
            ("constant", render(&(0..*entries).map(constant).collect::<Vec<_>>(), '"')),
            ("random", render(&unpinned.entries(&mut rng), '"')),
            ("cheat", render(&(0..*entries).map(counted).collect::<Vec<_>>(), '"')),
        ]);
        nulls
    }
}

#[cfg(test)]
mod tests;
