//! Finding facts in prose.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::OnceLock;

use foldhash::fast::FixedState;

use super::graph::{Fact, Object, Type};
use super::relations::{Cue, RELATIONS, cues, group};
use super::{KgTargets, functional, is_year, targets};
use crate::aggregate::{Outcome, harmonic, unknown_kind};
use crate::evidence::Evidence;
use crate::model::{Gate, Instance, Reason, Spans};
use crate::names::NameKind;
use crate::numbers::{Number, Unit, numbers};
use crate::sentence::is_listing;
use crate::text::lines;
use crate::words::words;

/// Facts that a sentence may state, and how many it may state without a word of the relation.
const MOST_FULL: usize = 6;
const MOST_HALF: usize = 1;
/// A sentence with the words of more relations states nothing.
const MOST_RELATIONS: u32 = 12;
/// Words within which a phrase must stand.
const WINDOW: usize = 12;
/// Words that a negation reaches.
const DENIED: usize = 4;

const PRONOUNS: &[&str] =
    &["he", "she", "they", "him", "her", "them", "his", "hers", "their", "theirs", "it", "its"];
const NEGATORS: &[&str] = &["not", "never", "without", "t", "longer"];
const FUNCTION_WORDS: &[&str] = &["a", "an", "the", "of", "in", "for", "and", "to", "at", "on", "with"];

/// Every name of the inventory, in lower case.
fn inventory() -> &'static HashSet<String, FixedState> {
    static ALL: OnceLock<HashSet<String, FixedState>> = OnceLock::new();
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

/// Words of a text in lower case, cut at hyphens and apostrophes.
fn pieces(lower: &str) -> impl Iterator<Item = &str> {
    words(lower).into_iter().flat_map(|word| lower[word].split(['\'', '-']))
}

/// What answers are compared with, in lower case.
#[derive(Debug, Clone)]
pub(super) struct Known {
    facts: Vec<KnownFact>,
    /// The word of each entity, and the groups of all relations that join it to others.
    entities: Vec<(String, u64)>,
    by_word: HashMap<String, usize, FixedState>,
    /// Words of names.
    names: HashSet<String, FixedState>,
    /// Years and amounts.
    values: HashSet<u64, FixedState>,
}

#[derive(Debug, Clone)]
struct KnownFact {
    /// That of its relation.
    group: u64,
    /// The words of its object; none of an amount.
    object: Vec<String>,
}

impl KnownFact {
    fn new(targets: &KgTargets, fact: &Fact) -> Self {
        let own = |word: &&str| !FUNCTION_WORDS.contains(word);
        let object = match &fact.object {
            Object::Entity(i) => {
                targets.entities.get(*i).map(|e| e.word.to_lowercase()).into_iter().collect()
            }
            Object::Year(year) => vec![year.to_string()],
            Object::Amount(_) => Vec::new(),
            Object::Phrase(text) => pieces(&text.to_lowercase()).filter(own).map(str::to_owned).collect(),
        };
        Self { group: group(fact.relation), object }
    }
}

impl Known {
    pub(super) fn new(targets: &KgTargets) -> Self {
        let facts: Vec<_> = targets.facts.iter().map(|fact| KnownFact::new(targets, fact)).collect();
        let mut entities: Vec<_> = targets.entities.iter().map(|e| (e.word.to_lowercase(), 0)).collect();
        for (fact, known) in targets.facts.iter().zip(&facts) {
            let object = if let Object::Entity(i) = fact.object { Some(i) } else { None };
            for i in [Some(fact.subject), object, fact.context].into_iter().flatten() {
                if let Some((_, groups)) = entities.get_mut(i) {
                    *groups |= known.group;
                }
            }
        }
        let names = targets.entities.iter().map(|e| e.name.as_str());
        let value = |fact: &Fact| match fact.object {
            Object::Year(value) | Object::Amount(value) => Some(value),
            _ => None,
        };
        Self {
            facts,
            by_word: entities.iter().enumerate().map(|(i, (word, _))| (word.clone(), i)).collect(),
            entities,
            names: names.flat_map(|n| words(n).into_iter().map(|w| n[w].to_lowercase())).collect(),
            values: targets.facts.iter().filter_map(value).collect(),
        }
    }
}

/// A word of an answer, with what it tells of any sentence that has it.
struct Word<'a> {
    text: &'a str,
    /// The entity of that name.
    entity: Option<usize>,
    /// The groups of relations that it shows alone, and the cues that it is the first word of.
    shown: u64,
    openings: Vec<&'static Cue>,
    negates: bool,
    pronoun: bool,
    /// The types that it is a noun for, as bits.
    nouns: u8,
    /// Sentences that have it.
    places: Vec<usize>,
}

impl<'a> Word<'a> {
    fn new(text: &'a str, known: &Known) -> Self {
        const TYPES: [Type; 5] = [Type::Person, Type::Place, Type::Organization, Type::Work, Type::Event];
        let own = cues(text).iter();
        Self {
            text,
            entity: known.by_word.get(text).copied(),
            shown: own.clone().filter(|cue| cue.is_shown_by(text)).fold(0, |all, cue| all | cue.group),
            openings: own.filter(|cue| cue.is_opened_by(text)).collect(),
            negates: NEGATORS.contains(&text),
            pronoun: PRONOUNS.contains(&text),
            nouns: TYPES
                .iter()
                .filter(|kind| type_nouns(**kind).contains(&text))
                .fold(0, |all, kind| all | bit(*kind)),
            places: Vec::new(),
        }
    }
}

fn bit(kind: Type) -> u8 {
    1 << kind as u8
}

/// A sentence, taken apart.
struct Sentence {
    range: Range<usize>,
    /// Its part of the text of a [`Reading`].
    words: Range<usize>,
    /// Entities by name.
    named: Vec<usize>,
    /// The groups of relations whose words are there, and those of them that are there without a negation.
    shown: u64,
    affirmed: u64,
    amounts: Vec<u64>,
    pronoun: bool,
    /// The types of the nouns that are there, as bits.
    nouns: u8,
    protagonist: bool,
}

/// Sentences of an answer, with an index.
struct Reading<'a> {
    sentences: Vec<Sentence>,
    /// The different words, and where each is in the list.
    words: Vec<Word<'a>>,
    by_text: HashMap<&'a str, usize, FixedState>,
    /// The words of all sentences, as places in that list.
    text: Vec<usize>,
}

/// The sentences, in lower case.
fn lower(evidence: &Evidence) -> Vec<String> {
    evidence.sentences.iter().map(|range| evidence.text[range.clone()].to_lowercase()).collect()
}

impl<'a> Reading<'a> {
    fn new(targets: &KgTargets, evidence: &Evidence, lower: &'a [String]) -> Self {
        let count = evidence.words.len();
        let mut reading = Self {
            sentences: Vec::with_capacity(lower.len()),
            words: Vec::with_capacity(count / 4),
            by_text: HashMap::with_capacity_and_hasher(count / 4, FixedState::default()),
            text: Vec::with_capacity(count),
        };
        for (range, text) in evidence.sentences.iter().zip(lower) {
            reading.add(targets.known(), range.clone(), text);
        }
        let is_person = |i: &usize| targets.entities.get(*i).is_some_and(|e| e.kind == Type::Person);
        let mut carried = false;
        for sentence in &mut reading.sentences {
            let names_person = sentence.named.iter().any(is_person);
            // Only what a sentence says itself carries over.
            let own = sentence.named.contains(&0) || sentence.pronoun;
            sentence.protagonist = own || (carried && !names_person);
            carried = own;
        }
        reading
    }

    /// Reads one more sentence.
    fn add(&mut self, known: &Known, range: Range<usize>, text: &'a str) {
        let (number, start) = (self.sentences.len(), self.text.len());
        for piece in pieces(text) {
            let at = *self.by_text.entry(piece).or_insert_with(|| {
                self.words.push(Word::new(piece, known));
                self.words.len() - 1
            });
            let places = &mut self.words[at].places;
            if places.last() != Some(&number) {
                places.push(number);
            }
            self.text.push(at);
        }
        let (shown, affirmed) = self.groups(start);
        let own = || self.text[start..].iter().map(|&at| &self.words[at]);
        let money = numbers(text).into_iter().filter(|n| n.unit == Unit::Money);
        self.sentences.push(Sentence {
            range,
            words: start..self.text.len(),
            named: own().filter_map(|word| word.entity).collect(),
            shown,
            affirmed,
            amounts: money.map(|n| n.value as u64).collect(),
            pronoun: own().any(|word| word.pronoun),
            nouns: own().fold(0, |all, word| all | word.nouns),
            protagonist: false,
        });
    }

    /// The groups of relations that the text shows from `start` on, and those of them that no negation is before.
    fn groups(&self, start: usize) -> (u64, u64) {
        let (mut shown, mut affirmed) = (0, 0);
        let mut reached = start;
        for (at, word) in (start..).zip(&self.text[start..]) {
            let word = &self.words[*word];
            let follows =
                |(at, next): (usize, &&str)| self.text.get(at).is_some_and(|&w| self.words[w].text == *next);
            let whole = |cue: &&&Cue| (at + 1..).zip(&cue.rest).all(follows);
            let groups = word.openings.iter().filter(whole).fold(word.shown, |all, cue| all | cue.group);
            shown |= groups;
            if at >= reached {
                affirmed |= groups;
            }
            if word.negates {
                reached = at + 1 + DENIED;
            }
        }
        (shown, affirmed)
    }

    /// Sentences that have a word.
    fn having(&self, word: &str) -> &[usize] {
        self.by_text.get(word).map_or(&[], |&at| &self.words[at].places)
    }

    /// Sentences that name the object of a fact, in their order.
    fn with(&self, fact: &Fact, known: &KnownFact) -> Vec<usize> {
        if let Object::Amount(amount) = fact.object {
            let has = |i: &usize| self.sentences[*i].amounts.contains(&amount);
            return (0..self.sentences.len()).filter(has).collect();
        }
        let Some(first) = known.object.first() else { return Vec::new() };
        let places = self.having(first).iter().copied();
        if known.object.len() == 1 {
            return places.collect();
        }
        let all: Option<Vec<usize>> =
            known.object.iter().map(|w| self.by_text.get(w.as_str()).copied()).collect();
        all.map_or(Vec::new(), |all| places.filter(|&i| self.is_near(i, &all)).collect())
    }

    /// Whether all these words are near each other in sentence `i`.
    fn is_near(&self, i: usize, all: &[usize]) -> bool {
        let text = &self.text[self.sentences[i].words.clone()];
        let within = |window: &[usize]| all.iter().all(|word| window.contains(word));
        let mut starts = (0..text.len()).filter(|&at| all.contains(&text[at]));
        starts.any(|at| within(&text[at..text.len().min(at + WINDOW)]))
    }

    /// Whether sentence `i` is about an entity.
    fn about(&self, targets: &KgTargets, i: usize, subject: usize) -> bool {
        let sentence = &self.sentences[i];
        if sentence.named.contains(&subject) || (subject == 0 && sentence.protagonist) {
            return true;
        }
        let Some(kind) = targets.entities.get(subject).map(|e| e.kind) else { return false };
        let before = &self.sentences[i.saturating_sub(2)..i];
        let taken_up = sentence.pronoun || sentence.nouns & bit(kind) != 0;
        taken_up && before.iter().any(|s| s.named.contains(&subject))
    }

    /// What sentence `i` gives for a fact whose object it names: 1, 0.5 or 0.
    fn credit(&self, targets: &KgTargets, i: usize, subject: usize, group: u64) -> f64 {
        let sentence = &self.sentences[i];
        match () {
            () if sentence.shown.count_ones() > MOST_RELATIONS => 0.0,
            () if !self.about(targets, i, subject) => 0.0,
            () if sentence.affirmed & group != 0 => 1.0,
            () if sentence.shown & group != 0 => 0.0,
            () => 0.5,
        }
    }
}

/// Credit of each fact, with the sentence that gives it.
fn facts(targets: &KgTargets, reading: &Reading) -> Vec<(f64, Option<usize>)> {
    let n = reading.sentences.len();
    let (mut full, mut half) = (vec![0; n], vec![0; n]);
    let mut credits = Vec::with_capacity(targets.facts.len());
    let mut open = Vec::new();
    for (f, (fact, known)) in targets.facts.iter().zip(&targets.known().facts).enumerate() {
        let credit = |i| (i, reading.credit(targets, i, fact.subject, known.group));
        let found: Vec<(usize, f64)> = reading.with(fact, known).into_iter().map(credit).collect();
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
    let known = targets.known();
    let is_strange = |w: &&Word| inventory().contains(w.text) && !known.names.contains(w.text);
    let names = reading.words.iter().filter(is_strange).count();
    let number = |n: Number| (n.value >= 100.0).then_some(n.value as u64);
    let claimed = numbers(&evidence.text).into_iter().filter_map(number);
    let strange: HashSet<u64, FixedState> = claimed.filter(|value| !known.values.contains(value)).collect();
    let pairs = targets.facts.iter().zip(&known.facts);
    let wrong = pairs.filter(|(f, k)| functional(f.relation) && contradicted(targets, reading, f, k)).count();
    names + strange.len() + 2 * wrong
}

/// Whether a sentence about the subject shows the relation with another value of the same type, and not with this one.
fn contradicted(targets: &KgTargets, reading: &Reading, fact: &Fact, known: &KnownFact) -> bool {
    let wanted = match fact.object {
        Object::Entity(o) => targets.entities.get(o).map(|e| e.kind),
        _ if is_year(fact.relation) => None,
        _ => return false,
    };
    let Some((subject, _)) = targets.known().entities.get(fact.subject) else { return false };
    let right = reading.with(fact, known);
    reading.having(subject).iter().any(|i| {
        let sentence = &reading.sentences[*i];
        let shows = sentence.affirmed & known.group != 0 && right.binary_search(i).is_err();
        shows
            && match wanted {
                Some(kind) => names_other(targets, sentence, fact.subject, kind),
                None => names_other_year(targets, reading, sentence, fact.subject),
            }
    })
}

/// Whether a sentence names an entity of that type which the same words do not join to the subject in truth.
fn names_other(targets: &KgTargets, sentence: &Sentence, subject: usize, kind: Type) -> bool {
    let joined =
        |e: usize| targets.known().entities.get(e).is_some_and(|known| known.1 & sentence.shown != 0);
    let same = |e: usize| e != subject && targets.entities.get(e).is_some_and(|x| x.kind == kind);
    sentence.named.iter().any(|&e| same(e) && !joined(e))
}

/// Whether a sentence names a year which the same words do not join to the subject in truth.
fn names_other_year(targets: &KgTargets, reading: &Reading, sentence: &Sentence, subject: usize) -> bool {
    let pairs = targets.facts.iter().zip(&targets.known().facts);
    let shown = pairs.filter(|(f, known)| f.subject == subject && known.group & sentence.shown != 0);
    let years: Vec<&Object> = shown.map(|(f, _)| &f.object).collect();
    let year = |w: &str| w.len() == 4 && w.bytes().all(|b| b.is_ascii_digit());
    let own = reading.text[sentence.words.clone()].iter().map(|&at| reading.words[at].text);
    own.filter(|w| year(w)).any(|w| w.parse().is_ok_and(|value| !years.contains(&&Object::Year(value))))
}

/// `clamp(1 − (share of words in lists and tables − 0.05)/0.45, 0, 1)`.
fn prose(evidence: &Evidence) -> f64 {
    let (mut listed, mut left) = (0, &evidence.words[..]);
    for (start, line) in lines(&evidence.text) {
        let (own, after) = left.split_at(left.partition_point(|word| word.start < start + line.len()));
        left = after;
        if is_listing(line) || line.matches('|').count() >= 2 {
            listed += own.len();
        }
    }
    let share = listed as f64 / f64::from(u32::try_from(evidence.words.len()).unwrap_or(u32::MAX).max(1));
    (1.0 - (share - 0.05) / 0.45).clamp(0.0, 1.0)
}

pub(super) fn analyse<'a>(instance: &'a Instance, visible: &'a str) -> Outcome<'a> {
    let evidence = Evidence::read(instance, visible);
    let empty = KgTargets::default();
    let targets = targets(instance).unwrap_or(&empty);
    let lower = lower(&evidence);
    let reading = Reading::new(targets, &evidence, &lower);
    let credits = facts(targets, &reading);
    let total = credits.len().max(1) as f64;
    let covered = credits.iter().map(|c| c.0).sum::<f64>() / total;
    let claims = unsupported(targets, &reading, &evidence);
    let supported = 1.0 / (1.0 + claims as f64 / (0.05 * total + 1.0));
    let prose = prose(&evidence);
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
    let lower = lower(evidence);
    let reading = Reading::new(targets, evidence, &lower);
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
