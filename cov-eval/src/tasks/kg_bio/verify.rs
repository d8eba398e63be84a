//! Finding facts in prose.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::OnceLock;

use super::graph::{Fact, Object, Type};
use super::relations::RELATIONS;
use super::{KgTargets, functional, is_year, targets};
use crate::aggregate::{Outcome, harmonic, unknown_kind};
use crate::evidence::Evidence;
use crate::model::{Gate, Instance, Reason, Spans};
use crate::names::NameKind;
use crate::numbers::{Unit, numbers};
use crate::sentence::is_listing;
use crate::text::words;

/// Facts that a sentence may state, and how many it may state without a word of the relation.
const MOST_FULL: usize = 6;
const MOST_HALF: usize = 1;
/// A sentence with the words of more relations states nothing.
const MOST_RELATIONS: usize = 12;
/// Tokens within which a phrase must stand.
const WINDOW: usize = 12;

const PRONOUNS: &[&str] =
    &["he", "she", "they", "him", "her", "them", "his", "hers", "their", "theirs", "it", "its"];
const NEGATORS: &[&str] = &["not", "never", "without"];
const FUNCTION_WORDS: &[&str] = &["a", "an", "the", "of", "in", "for", "and", "to", "at", "on", "with"];

/// Every name of the inventory, in lower case.
fn inventory() -> &'static HashSet<String> {
    static ALL: OnceLock<HashSet<String>> = OnceLock::new();
    ALL.get_or_init(|| {
        use NameKind::{Given, Incident, Organization, Place, Product, Surname};
        let kinds = [Given, Surname, Place, Incident, Organization, Product];
        kinds.iter().flat_map(|k| (0..k.len()).map(|i| k.name(i).to_lowercase())).collect()
    })
}

fn type_nouns(kind: Type) -> &'static [&'static str] {
    match kind {
        Type::Person => &[],
        Type::Place => &["town", "city", "place"],
        Type::Organization => &[
            "company",
            "firm",
            "institute",
            "university",
            "school",
            "organization",
            "academy",
            "society",
            "trust",
        ],
        Type::Work => &["book", "work", "novel", "piece"],
        Type::Event => &["event", "festival", "congress", "prize", "expedition"],
    }
}

/// A sentence, taken apart.
struct Sentence {
    range: Range<usize>,
    /// In lower case, cut at hyphens and apostrophes.
    words: Vec<String>,
    /// Entities by name.
    named: Vec<usize>,
    /// The relations whose words are there, by their first cue, and whether none of them is negated.
    cues: HashMap<&'static str, bool>,
    amounts: Vec<u64>,
    pronoun: bool,
    protagonist: bool,
}

fn read(evidence: &Evidence, range: &Range<usize>, lookup: &HashMap<String, usize>) -> Sentence {
    let text = evidence.text[range.clone()].to_lowercase();
    let mut pieces = Vec::new();
    for word in words(&text) {
        pieces.extend(text[word].split(['\'', '-']).map(str::to_owned));
    }
    let has = |list: &[&str]| pieces.iter().any(|w| list.contains(&w.as_str()));
    let mut named: Vec<usize> = pieces.iter().filter_map(|w| lookup.get(w)).copied().collect();
    named.dedup();
    let money = numbers(&text).into_iter().filter(|n| n.unit == Unit::Money);
    Sentence {
        range: range.clone(),
        cues: cues(&pieces),
        amounts: money.map(|n| n.value as u64).collect(),
        pronoun: has(PRONOUNS),
        protagonist: false,
        named,
        words: pieces,
    }
}

/// The groups of relations that a sentence shows; `true` for those that no negation is before.
fn cues(words: &[String]) -> HashMap<&'static str, bool> {
    let mut found = HashMap::new();
    let mut groups: Vec<&'static [&'static str]> = Vec::new();
    for relation in RELATIONS {
        if !groups.contains(&relation.cues) {
            groups.push(relation.cues);
        }
    }
    for (at, word) in words.iter().enumerate() {
        for group in &groups {
            let starts = |cue: &&&str| {
                let mut parts = cue.split(' ');
                let first = parts.next().unwrap_or_default();
                match cue.contains(' ') {
                    true => {
                        word == first
                            && parts.zip(at + 1..).all(|(p, i)| words.get(i).is_some_and(|w| w == p))
                    }
                    false => word.starts_with(first),
                }
            };
            if group.iter().find(starts).is_some() {
                let before = &words[at.saturating_sub(4)..at];
                let contracted = |w: &String| w == "t" || w == "longer";
                let denied = before.iter().any(|w| NEGATORS.contains(&w.as_str()) || contracted(w));
                *found.entry(group[0]).or_insert(false) |= !denied;
            }
        }
    }
    found
}

/// Sentences of an answer, with an index.
struct Reading {
    sentences: Vec<Sentence>,
    by_word: HashMap<String, Vec<usize>>,
}

impl Reading {
    fn new(targets: &KgTargets, evidence: &Evidence) -> Self {
        let by_name = targets.entities.iter().enumerate();
        let lookup: HashMap<String, usize> = by_name.map(|(i, e)| (e.word.to_lowercase(), i)).collect();
        let mut sentences: Vec<Sentence> =
            evidence.sentences.iter().map(|r| read(evidence, r, &lookup)).collect();
        let is_person = |i: &usize| targets.entities.get(*i).is_some_and(|e| e.kind == Type::Person);
        let mut carried = false;
        for sentence in &mut sentences {
            let names_person = sentence.named.iter().any(is_person);
            sentence.protagonist =
                sentence.named.contains(&0) || sentence.pronoun || (carried && !names_person);
            // Only what a sentence says itself carries over.
            carried = sentence.named.contains(&0) || sentence.pronoun;
        }
        let mut by_word: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, sentence) in sentences.iter().enumerate() {
            for word in &sentence.words {
                let list = by_word.entry(word.clone()).or_default();
                if list.last() != Some(&i) {
                    list.push(i);
                }
            }
        }
        Self { sentences, by_word }
    }

    /// Sentences that name an object.
    fn with(&self, targets: &KgTargets, object: &Object) -> Vec<usize> {
        let having = |word: &str| self.by_word.get(word).cloned().unwrap_or_default();
        match object {
            Object::Entity(i) => {
                targets.entities.get(*i).map_or(Vec::new(), |e| having(&e.word.to_lowercase()))
            }
            Object::Year(year) => having(&year.to_string()),
            Object::Amount(dollars) => {
                let has = |i: &usize| self.sentences[*i].amounts.contains(dollars);
                (0..self.sentences.len()).filter(has).collect()
            }
            Object::Phrase(text) => {
                let lower = text.to_lowercase();
                let all = words(&lower).into_iter().flat_map(|w| lower[w].split(['\'', '-']));
                let tokens: Vec<&str> = all.filter(|w| !FUNCTION_WORDS.contains(w)).collect();
                let near = |i: &usize| {
                    let within = |window: &[String]| tokens.iter().all(|t| window.iter().any(|w| w == t));
                    let words = &self.sentences[*i].words;
                    let at = words
                        .iter()
                        .enumerate()
                        .filter(|(_, w)| tokens.contains(&w.as_str()))
                        .map(|(k, _)| k);
                    at.into_iter().any(|k| within(&words[k..words.len().min(k + WINDOW)]))
                };
                let first = tokens.first().map_or(Vec::new(), |t| having(t));
                first.into_iter().filter(near).collect()
            }
        }
    }

    /// Whether sentence `i` is about an entity.
    fn about(&self, targets: &KgTargets, i: usize, subject: usize) -> bool {
        let sentence = &self.sentences[i];
        if sentence.named.contains(&subject) || (subject == 0 && sentence.protagonist) {
            return true;
        }
        let Some(kind) = targets.entities.get(subject).map(|e| e.kind) else { return false };
        let before = &self.sentences[i.saturating_sub(2)..i];
        let taken_up =
            sentence.pronoun || sentence.words.iter().any(|w| type_nouns(kind).contains(&w.as_str()));
        taken_up && before.iter().any(|s| s.named.contains(&subject))
    }

    /// 1, 0.5 or 0, and whether the relation is denied there.
    fn credit(&self, targets: &KgTargets, i: usize, fact: &Fact) -> f64 {
        let sentence = &self.sentences[i];
        let cue = RELATIONS.get(fact.relation).and_then(|r| sentence.cues.get(r.cues[0]));
        match cue {
            _ if sentence.cues.len() > MOST_RELATIONS || !self.about(targets, i, fact.subject) => 0.0,
            Some(true) => 1.0,
            Some(false) => 0.0,
            None => 0.5,
        }
    }
}

/// Credit of each fact, with the sentence that gives it.
fn facts(targets: &KgTargets, reading: &Reading) -> Vec<(f64, Option<usize>)> {
    let n = reading.sentences.len();
    let (mut full, mut half) = (vec![0; n], vec![0; n]);
    let mut credits = Vec::with_capacity(targets.facts.len());
    let mut open = Vec::new();
    for (f, fact) in targets.facts.iter().enumerate() {
        let found: Vec<(usize, f64)> = reading
            .with(targets, &fact.object)
            .into_iter()
            .map(|i| (i, reading.credit(targets, i, fact)))
            .collect();
        let place = found.iter().copied().find(|&(i, credit)| credit == 1.0 && full[i] < MOST_FULL);
        if let Some((i, _)) = place {
            full[i] += 1;
        } else {
            open.push((f, found));
        }
        credits.push((f64::from(place.is_some()), place.map(|p| p.0)));
    }
    for (f, found) in open {
        if let Some(&(i, _)) = found.iter().find(|&&(i, credit)| credit == 0.5 && half[i] < MOST_HALF) {
            half[i] += 1;
            credits[f] = (0.5, Some(i));
        }
    }
    credits
}

/// Distinct claims without support: names, years and numbers that are not in the material, and wrong values.
fn unsupported(targets: &KgTargets, reading: &Reading, evidence: &Evidence) -> usize {
    let mut known: HashSet<String> = HashSet::new();
    for entity in &targets.entities {
        known.extend(words(&entity.name).into_iter().map(|w| entity.name[w].to_lowercase()));
    }
    let mut values: HashSet<u64> = HashSet::new();
    for fact in &targets.facts {
        match fact.object {
            Object::Year(value) | Object::Amount(value) => drop(values.insert(value)),
            _ => {}
        }
    }
    let names = reading.by_word.keys().filter(|w| inventory().contains(*w) && !known.contains(*w)).count();
    let number = |n: crate::numbers::Number| (n.value >= 100.0).then_some(n.value as u64);
    let claimed: BTreeSet<u64> = numbers(&evidence.text).into_iter().filter_map(number).collect();
    let strange = claimed.iter().filter(|value| !values.contains(value)).count();
    let wrong =
        targets.facts.iter().filter(|f| functional(f.relation) && contradicted(targets, reading, f)).count();
    names + strange + 2 * wrong
}

/// Whether a sentence about the subject shows the relation with another value of the same type, and not with this one.
fn contradicted(targets: &KgTargets, reading: &Reading, fact: &Fact) -> bool {
    let Some(relation) = RELATIONS.get(fact.relation) else { return false };
    let wanted = match fact.object {
        Object::Entity(o) => targets.entities.get(o).map(|e| e.kind),
        _ if is_year(fact.relation) => None,
        _ => return false,
    };
    let subject = targets.entities.get(fact.subject).map(|e| e.word.to_lowercase()).unwrap_or_default();
    let places = reading.by_word.get(&subject).map_or(&[][..], Vec::as_slice);
    let right: HashSet<usize> = reading.with(targets, &fact.object).into_iter().collect();
    places.iter().filter(|i| !right.contains(i)).any(|&i| {
        let sentence = &reading.sentences[i];
        let other = match wanted {
            // Another entity of that type, which the same words do not join to the subject in truth.
            Some(kind) => sentence.named.iter().any(|&e| {
                let same = e != fact.subject && targets.entities.get(e).is_some_and(|x| x.kind == kind);
                let true_of = |f: &Fact| {
                    let cues = RELATIONS.get(f.relation).map(|r| r.cues);
                    let joined = f.object == Object::Entity(e) || f.subject == e || f.context == Some(e);
                    joined && cues.is_some_and(|cues| sentence.cues.contains_key(cues[0]))
                };
                same && !targets.facts.iter().any(true_of)
            }),
            None => {
                let year = |w: &String| w.len() == 4 && w.bytes().all(|b| b.is_ascii_digit());
                let true_of = |w: &String| {
                    let value = w.parse().map(Object::Year);
                    targets.facts.iter().any(|f| {
                        Ok(&f.object) == value.as_ref()
                            && f.subject == fact.subject
                            && RELATIONS
                                .get(f.relation)
                                .is_some_and(|r| sentence.cues.contains_key(r.cues[0]))
                    })
                };
                sentence.words.iter().any(|w| year(w) && !true_of(w))
            }
        };
        other && sentence.cues.get(relation.cues[0]) == Some(&true)
    })
}

/// `clamp(1 − (share of words in lists and tables − 0.05)/0.45, 0, 1)`.
fn prose(text: &str) -> f64 {
    let (mut listed, mut all) = (0, 0);
    for line in text.lines() {
        let count = words(line).len();
        all += count;
        if is_listing(line) || line.matches('|').count() >= 2 {
            listed += count;
        }
    }
    let share = listed as f64 / f64::from(u32::try_from(all).unwrap_or(u32::MAX).max(1));
    (1.0 - (share - 0.05) / 0.45).clamp(0.0, 1.0)
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let evidence = Evidence::read(instance, visible);
    let empty = KgTargets::default();
    let targets = targets(instance).unwrap_or(&empty);
    let reading = Reading::new(targets, &evidence);
    let credits = facts(targets, &reading);
    let total = credits.len().max(1) as f64;
    let covered = credits.iter().map(|c| c.0).sum::<f64>() / total;
    let claims = unsupported(targets, &reading, &evidence);
    let supported = 1.0 / (1.0 + claims as f64 / (0.05 * total + 1.0));
    let prose = prose(&evidence.text);
    let length = evidence.length;
    let mut multipliers = vec![("prose", prose)];
    multipliers.extend(evidence.multipliers());
    let spans: Vec<_> =
        credits.iter().map(|c| c.1.map(|i| evidence.span(&reading.sentences[i].range))).collect();
    Outcome {
        gate: Gate::Open,
        base: harmonic(&[(covered, 0.7), (supported, 0.3)]),
        components: vec![("covered", covered), ("supported", supported)],
        multipliers,
        flags: evidence.flags(),
        may_echo: false,
        verdict: Box::new(move |c| {
            let i = c.target as usize;
            match (&*c.kind, credits.get(i)) {
                ("fact", Some(&(credit, _))) => {
                    let reason = if credit == 0.0 { Reason::Missing } else { Reason::Wrong };
                    (credit, reason, spans[i].clone().into_iter().collect())
                }
                ("no_unsupported", _) => (supported, Reason::Extra, Spans::new()),
                ("prose", _) => (prose, Reason::Format, Spans::new()),
                ("length", _) => (length, Reason::Count, Spans::new()),
                _ => unknown_kind(),
            }
        }),
    }
}

/// The credit of each fact with the sentence of `evidence` that gives it.
pub(super) fn stated(targets: &KgTargets, evidence: &Evidence) -> Vec<(f64, Option<Range<usize>>)> {
    let reading = Reading::new(targets, evidence);
    let range = |i: usize| reading.sentences[i].range.clone();
    facts(targets, &reading).into_iter().map(|(credit, i)| (credit, i.map(range))).collect()
}

/// Where the words stand that show a relation.
pub(super) fn cue_at(text: &str, relation: usize) -> Option<usize> {
    let lower = text.to_lowercase();
    let cues = RELATIONS.get(relation)?.cues;
    let starts = |at: usize| at == 0 || !lower.as_bytes()[at - 1].is_ascii_alphanumeric();
    cues.iter().filter_map(|cue| lower.match_indices(cue).map(|m| m.0).find(|&at| starts(at))).min()
}
