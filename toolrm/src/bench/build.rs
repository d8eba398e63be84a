//! Pairs from entries of the leaderboard and models' results.

use std::collections::{BTreeMap, HashSet};

use crate::bfcl::{self, Entry, Lang, NamePolicy, Options, Verdict};
use crate::canon::canon_calls;
use crate::msg::Call;
use crate::pairs::{complexity, intensity_bin};
use crate::parse::ParseFail;
use crate::record::{GOLD_ORIGIN, Pair, Response};
use crate::rule::{Rational, ScoreOptions, rule_score};
use crate::value::{Map, Val};

/// How pairs are built.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuildOptions {
    /// How names are spelled in the results.
    pub names: NamePolicy,
    /// The most pairs of one entry with one error type.
    pub cap: Option<usize>,
}

/// What a model made of an entry.
#[derive(Clone, Debug)]
pub struct ModelResult {
    /// The model.
    pub origin: String,
    /// What it wrote.
    pub text: String,
    /// The calls in it.
    pub calls: Result<Vec<Call>, ParseFail>,
}

/// Pairs of an entry, and what became of the other results.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// The pairs; `source` is the split, `meta` has the `error_type`.
    pub pairs: Vec<Pair>,
    /// How many results gave no pair, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// Pairs of an entry's canonical gold calls with every result that the checker finds wrong. An entry whose canonical gold is not valid gives none; results that are right, cannot be
/// checked, repeat another, or equal the gold calls are dropped. Names on both sides are the tools' own, so that spelling
/// gives nothing away.
pub fn build_pairs(entry: &Entry, category: &str, results: &[ModelResult], options: &BuildOptions) -> Built {
    let mut built = Built::default();
    let mut drop = |reason: &'static str, n: u64| *built.dropped.entry(reason).or_default() += n;
    let gold = bfcl::canonical_gold(&entry.tools, &entry.gold, Lang::of(category))
        .filter(|gold| bfcl::check(&entry.tools, gold, &entry.gold, category, Options::default()).is_valid());
    let Some(gold) = gold else {
        drop("gold_invalid", results.len() as u64);
        return built;
    };
    let chosen = Response {
        text: String::new(),
        calls: Some(gold.clone()),
        score: Rational::ONE,
        message: "ok".into(),
        origin: GOLD_ORIGIN.into(),
        meta: Map::default(),
    };
    let gold_text = canon_calls(&gold);
    let mut seen = HashSet::new();
    let mut by_type: BTreeMap<&'static str, usize> = BTreeMap::new();
    for ModelResult { origin, text, calls: decoded } in results {
        let check = Options { names: options.names, ..Options::default() };
        let verdict = bfcl::check_response(&entry.tools, decoded.as_deref(), &entry.gold, category, check);
        let error_type = match verdict {
            Verdict::Valid => {
                drop("valid", 1);
                continue;
            }
            Verdict::Fault { .. } => {
                drop("fault", 1);
                continue;
            }
            Verdict::Invalid(i) => i.error_type,
        };
        let calls = decoded.as_ref().ok().map(|calls| own_names(calls, &entry.tools, options.names));
        // What no judge could be shown.
        let calls = calls.filter(|calls| {
            calls.iter().all(|c| crate::json::write_map(&c.args, &mut String::new()).is_ok())
        });
        let content = calls.as_deref().map_or_else(|| format!("\0{text}"), canon_calls);
        let score = rule_score(&gold, calls.as_deref(), &ScoreOptions::default());
        if content == gold_text || score.ratio == Rational::ONE {
            drop("equal_to_gold", 1);
            continue;
        }
        if !seen.insert(content.clone()) {
            drop("repeated", 1);
            continue;
        }
        let count = by_type.entry(error_type).or_default();
        if options.cap.is_some_and(|cap| *count >= cap) {
            drop("beyond_cap", 1);
            continue;
        }
        *count += 1;
        let Some(intensity) = Rational::ONE.minus(score.ratio) else { continue };
        let mut meta = Map::default();
        meta.insert("error_type".into(), error_type.into());
        built.pairs.push(Pair {
            id: format!("{}-{:016x}", entry.id, xxhash_rust::xxh3::xxh3_64(content.as_bytes())),
            step_id: entry.id.clone(),
            source: category.to_owned(),
            chosen: chosen.clone(),
            rejected: Response {
                text: if calls.is_some() { String::new() } else { text.clone() },
                calls,
                score: score.ratio,
                message: score.message.into(),
                origin: origin.clone(),
                meta: Map::default(),
            },
            intensity,
            complexity: complexity(&gold),
            bin: intensity_bin(intensity, 10),
            meta,
        });
    }
    built
}

/// Calls whose names are spelled as the tools', where the policy spelled them otherwise.
fn own_names(calls: &[Call], tools: &Val, policy: NamePolicy) -> Vec<Call> {
    let mut calls = calls.to_vec();
    if policy == NamePolicy::DotToUnderscore {
        let names =
            tools.as_list().unwrap_or_default().iter().filter_map(|t| t.get("name").and_then(Val::as_str));
        let names: Vec<&str> = names.collect();
        for call in &mut calls {
            if let Some(own) = names.iter().find(|n| n.replace('.', "_") == call.name) {
                call.name = (*own).into();
            }
        }
    }
    calls
}
