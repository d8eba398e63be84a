//! Typed answers, and whether a sentence gives them.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::SalesTargets;
use super::table::{CATEGORIES, WEEKDAYS, dollars};
use crate::numbers::{Number, Unit, numbers};
use crate::words::words;

/// What a name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Dim {
    Rep,
    Product,
    Category,
    City,
    Customer,
    Weekday,
}

/// One typed part of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    Entity(Dim, usize),
    List(Dim, Vec<usize>),
    /// Cents.
    Money(u64),
    /// Thousandths of a point, without sign.
    Percent(u64),
    Count(u64),
    /// A lexicon and a class of it.
    Label(usize, usize),
}

/// Classes of words, the first of each being the one that the question names.
pub(super) const LEXICONS: [&[&[&str]]; 4] = [
    &[
        &["rose", "grew", "up", "increased", "increase", "growth", "higher", "gained"],
        &["flat", "stable", "unchanged"],
        &["fell", "down", "declined", "decline", "decreased", "decrease", "lower", "dropped"],
    ],
    &[&["surged"], &["improved"], &["steady"], &["weakened"], &["slumped"]],
    &[&["consistent"], &["moderate"], &["variable"]],
    &[&["higher", "larger", "more"], &["lower", "smaller", "less"]],
];

impl Part {
    pub(super) fn render(&self, targets: &SalesTargets) -> String {
        match self {
            Part::Entity(dim, i) => targets.name(*dim, *i),
            Part::List(dim, ids) => {
                let names: Vec<String> = ids.iter().map(|&i| targets.name(*dim, i)).collect();
                names.join(", ")
            }
            Part::Money(cents) => dollars(*cents),
            Part::Percent(milli) => format!("{}.{}%", (milli + 50) / 1000, (milli + 50) % 1000 / 100),
            Part::Count(n) => n.to_string(),
            Part::Label(lexicon, class) => LEXICONS[*lexicon][*class][0].to_owned(),
        }
    }

    /// Whether its indices are those of something.
    pub(super) fn is_valid(&self, targets: &SalesTargets) -> bool {
        match self {
            Part::Entity(dim, i) => *i < targets.count(*dim),
            Part::List(dim, ids) => ids.iter().all(|&i| i < targets.count(*dim)),
            Part::Label(lexicon, class) => LEXICONS.get(*lexicon).is_some_and(|l| *class < l.len()),
            _ => true,
        }
    }
}

impl SalesTargets {
    pub(super) fn count(&self, dim: Dim) -> usize {
        match dim {
            Dim::Rep => self.reps.len(),
            Dim::Product => self.products.len(),
            Dim::Category => CATEGORIES.len(),
            Dim::City => self.cities.len(),
            Dim::Customer => self.customers.len(),
            Dim::Weekday => WEEKDAYS.len(),
        }
    }

    pub(super) fn name(&self, dim: Dim, i: usize) -> String {
        let list = match dim {
            Dim::Rep => &self.reps,
            Dim::Product => &self.products,
            Dim::City => &self.cities,
            Dim::Customer => &self.customers,
            Dim::Category => return CATEGORIES[i].to_owned(),
            Dim::Weekday => return WEEKDAYS[i].to_owned(),
        };
        list[i].clone()
    }

    /// Words that name something, in lower case: the last word of its name, or its id.
    pub(super) fn lookup(&self) -> HashMap<String, (Dim, usize)> {
        let mut map = HashMap::new();
        let dims = [Dim::Rep, Dim::Product, Dim::Category, Dim::City, Dim::Customer, Dim::Weekday];
        for dim in dims {
            for i in 0..self.count(dim) {
                let name = self.name(dim, i).to_lowercase();
                map.insert(name.rsplit(' ').next().unwrap_or_default().to_owned(), (dim, i));
                let id = match dim {
                    Dim::Rep => format!("r{:02}", i + 1),
                    Dim::Product => format!("p{:02}", i + 1),
                    Dim::Customer => format!("c{:03}", i + 1),
                    _ => continue,
                };
                map.insert(id, (dim, i));
            }
        }
        map
    }
}

/// What a sentence mentions.
pub(super) struct Mentions {
    entities: Vec<(Dim, usize)>,
    numbers: Vec<Number>,
    words: Vec<String>,
}

/// Numbers of a kind, and names, that a sentence may hold.
const MOST_NUMBERS: usize = 3;
const MOST_ENTITIES: usize = 2;

impl Mentions {
    pub(super) fn read(text: &str, lookup: &HashMap<String, (Dim, usize)>) -> Self {
        let lower = |range: std::ops::Range<usize>| text[range].to_lowercase();
        let found: Vec<String> = words(text).into_iter().map(lower).collect();
        let pieces = found.iter().flat_map(|word| word.split(['\'', '-']));
        Self {
            entities: pieces.filter_map(|piece| lookup.get(piece)).copied().collect(),
            numbers: numbers(text),
            words: found,
        }
    }

    fn of(&self, dim: Dim) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let same = self.entities.iter().filter(|(d, _)| *d == dim);
        same.filter(|(_, i)| seen.insert(*i)).map(|&(_, i)| i).collect()
    }

    fn with(&self, unit: Unit) -> Vec<&Number> {
        self.numbers.iter().filter(|n| n.unit == unit).collect()
    }

    /// Whether it gives that part.
    pub(super) fn gives(&self, part: &Part) -> bool {
        match part {
            Part::Entity(dim, i) => {
                let found = self.of(*dim);
                found.first() == Some(i) && found.len() <= MOST_ENTITIES
            }
            Part::List(dim, ids) => self.of(*dim) == *ids,
            Part::Money(cents) => {
                let (found, target) = (self.with(Unit::Money), *cents as f64 / 100.0);
                let near =
                    |n: &&Number| (n.value - target).abs() <= (0.005 * target).max(1.0).max(n.rounding);
                found.len() <= MOST_NUMBERS && found.first().is_some_and(near)
            }
            Part::Percent(milli) => {
                let found = self.with(Unit::Percent);
                // A thousandth of a point for the rounding of the target.
                let near = |n: &&Number| (n.value - *milli as f64 / 1000.0).abs() <= 0.151;
                found.len() <= MOST_NUMBERS && found.first().is_some_and(near)
            }
            Part::Count(target) => {
                let target = *target as f64;
                let year = |n: &&&Number| (1900.0..=2100.0).contains(&n.value) && n.value != target;
                let plain = self.with(Unit::Plain);
                let first = plain.iter().filter(|n| n.whole).find(|n| !year(n));
                first.is_some_and(|n| n.value == target)
            }
            Part::Label(lexicon, class) => {
                let has = |words: &[&str]| self.words.iter().any(|w| words.contains(&w.as_str()));
                let classes = LEXICONS.get(*lexicon).copied().unwrap_or_default();
                classes.iter().enumerate().all(|(i, words)| has(words) == (i == *class))
            }
        }
    }
}
