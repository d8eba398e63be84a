//! The families of every token.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::family::{FamilySet, Taxonomy};
use crate::utf8::{Pending, Reach, Split};
use crate::vocab::{Kind, Vocabulary, hex};

/// What a token writes: all that a denial depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature {
    /// Families of the letters that it completes.
    pub any: FamilySet,
    /// Families of the letters that finish its unfinished character; empty where there is none, or it is undetermined.
    pub all: FamilySet,
}

impl Signature {
    /// Whether the token is denied: it completes a letter of a denied family, or begins one that must become such.
    pub fn denied_by(self, denied: FamilySet) -> bool {
        self.any.meets(denied) || (!self.all.is_empty() && self.all.without(denied).is_empty())
    }

    /// All its families; empty for symbols.
    pub fn families(self) -> FamilySet {
        self.any | self.all
    }
}

/// Tokens, ascending, with signatures that differ from the table's.
pub type Overrides = Arc<[(u32, Signature)]>;

/// Whether each token is denied, `[V]`.
pub type Denials = Arc<[bool]>;

/// Denials remembered at a time: steps repeat a few.
const DENIALS: usize = 64;

/// Exceptions to the classification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exemptions {
    /// Texts, without spaces around them, that are never denied.
    pub strings: Vec<String>,
    /// Tokens of one Greek letter and nothing but symbols besides: mathematics.
    pub single_greek: bool,
    /// The letters A to G, as the authors' plug-in exempts them for multiple choice.
    pub option_letters: bool,
}

impl Exemptions {
    /// The defaults of a taxonomy: single Greek letters where it has a family of Greek.
    pub fn of(taxonomy: &Taxonomy) -> Self {
        Self { single_greek: taxonomy.family("greek").is_some(), ..Self::default() }
    }

    fn covers(&self, taxonomy: &Taxonomy, bytes: &[u8], signature: Signature) -> bool {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let stripped = text.trim();
        let greek = || {
            let letters = text.chars().filter(|c| !taxonomy.letter(*c).is_empty()).count();
            letters == 1 && taxonomy.family("greek").is_some_and(|f| signature.any == FamilySet::one(f))
        };
        self.strings.iter().any(|s| s == stripped)
            || self.option_letters && matches!(stripped.as_bytes(), [b'A'..=b'G'])
            || self.single_greek && greek()
    }
}

/// What was found while a table was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildReport {
    /// Tokens that begin with the end of a character.
    pub with_lead: usize,
    /// Tokens that end with the start of a character.
    pub with_tail: usize,
    /// Malformed sequences within tokens.
    pub malformed: usize,
    /// Tokens that an exemption freed.
    pub exempted: usize,
}

/// The families of every token of a vocabulary, in classes of equal [`Signature`]s.
#[derive(Debug)]
pub struct FamilyTable {
    taxonomy: Taxonomy,
    vocabulary: Vocabulary,
    reach: Reach,
    class_of: Vec<u16>,
    classes: Vec<Signature>,
    /// Text tokens that begin with continuation bytes, ascending: the only ones whose families depend on what is pending.
    with_lead: Vec<u32>,
    report: BuildReport,
    sha256: String,
    overrides: RwLock<HashMap<Pending, Overrides>>,
    denials: RwLock<HashMap<(FamilySet, Pending), Denials>>,
}

impl FamilyTable {
    /// Classifies a vocabulary.
    ///
    /// # Errors
    /// [`Error::TooManyClasses`] for more than 65,536 distinct signatures.
    pub fn new(taxonomy: Taxonomy, vocabulary: Vocabulary, exemptions: &Exemptions) -> Result<Self> {
        let reach = Reach::new(&taxonomy);
        let (mut classes, mut class_of) = (vec![Signature::default()], Vec::with_capacity(vocabulary.len()));
        let mut known = HashMap::from([(Signature::default(), 0u16)]);
        let (mut with_lead, mut report) = (Vec::new(), BuildReport::default());
        for token in 0..vocabulary.len() {
            let mut signature = Signature::default();
            if vocabulary.kind(token) == Kind::Text {
                let bytes = vocabulary.bytes(token);
                let split = Split::of(bytes);
                report.malformed += split.malformed();
                report.with_tail += usize::from(!split.tail.is_empty());
                if !split.lead.is_empty() {
                    with_lead.push(token as u32);
                }
                signature = classify(&taxonomy, &reach, &split);
                if signature != Signature::default() && exemptions.covers(&taxonomy, bytes, signature) {
                    signature = Signature::default();
                    report.exempted += 1;
                }
            }
            let next = classes.len();
            let class = *known.entry(signature).or_insert_with(|| {
                classes.push(signature);
                next as u16
            });
            if classes.len() > usize::from(u16::MAX) {
                return Err(Error::TooManyClasses { found: classes.len() });
            }
            class_of.push(class);
        }
        report.with_lead = with_lead.len();
        let mut hash = Sha256::new();
        for token in 0..vocabulary.len() {
            let Signature { any, all } = classes[usize::from(class_of[token])];
            hash.update([vocabulary.kind(token) as u8]);
            hash.update(any.0.to_le_bytes());
            hash.update(all.0.to_le_bytes());
        }
        let sha256 = hex(&hash.finalize());
        let (overrides, denials) = (RwLock::default(), RwLock::default());
        Ok(Self {
            taxonomy,
            vocabulary,
            reach,
            class_of,
            classes,
            with_lead,
            report,
            sha256,
            overrides,
            denials,
        })
    }

    /// The taxonomy.
    pub fn taxonomy(&self) -> &Taxonomy {
        &self.taxonomy
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The number of tokens, `V`: the width of the logits.
    pub fn len(&self) -> usize {
        self.class_of.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.class_of.is_empty()
    }

    /// The signature of a token where no character is unfinished.
    pub fn signature(&self, token: usize) -> Signature {
        self.classes[usize::from(self.class_of[token])]
    }

    /// The class of every token, `[V]`.
    pub fn class_of(&self) -> &[u16] {
        &self.class_of
    }

    /// The signatures of the classes.
    pub fn classes(&self) -> &[Signature] {
        &self.classes
    }

    /// What was found while it was built.
    pub fn report(&self) -> BuildReport {
        self.report
    }

    /// SHA-256 of kinds and signatures by id.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The families of a token, for labels: its letters, a start that only one family finishes, or symbols. Empty for
    /// holes and impossible bytes.
    pub fn label_families(&self, token: usize) -> FamilySet {
        let Signature { any, all } = self.signature(token);
        let start = if all.0.count_ones() == 1 { all } else { FamilySet::EMPTY };
        match self.vocabulary.kind(token) {
            Kind::Text | Kind::Control if (any | all).is_empty() => FamilySet::one(self.taxonomy.symbols()),
            _ => any | start,
        }
    }

    /// The families of every token after `pending`.
    pub fn view(&self, pending: Pending) -> View<'_> {
        View { table: self, pending, overrides: self.overrides(pending) }
    }

    /// Tokens whose signature depends on `pending`, ascending, with what it is after it.
    pub fn overrides(&self, pending: Pending) -> Overrides {
        if pending.is_empty() || self.with_lead.is_empty() {
            return Arc::new([]);
        }
        let poisoned = std::sync::PoisonError::into_inner;
        if let Some(known) = self.overrides.read().unwrap_or_else(poisoned).get(&pending) {
            return Arc::clone(known);
        }
        let judged = |token: &u32| {
            let joined = [pending.bytes(), self.vocabulary.bytes(*token as usize)].concat();
            (*token, classify(&self.taxonomy, &self.reach, &Split::of(&joined)))
        };
        let new: Overrides = self.with_lead.iter().map(judged).collect();
        let mut cache = self.overrides.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(cache.entry(pending).or_insert(new))
    }
}

fn classify(taxonomy: &Taxonomy, reach: &Reach, split: &Split<'_>) -> Signature {
    let any = split.chars().fold(FamilySet::EMPTY, |set, c| set | taxonomy.letter(c));
    Signature { any, all: reach.families(split.tail) }
}

/// The families of every token at one position of one sequence.
#[derive(Clone, Debug)]
pub struct View<'a> {
    table: &'a FamilyTable,
    pending: Pending,
    overrides: Overrides,
}

impl<'a> View<'a> {
    /// The table.
    pub fn table(&self) -> &'a FamilyTable {
        self.table
    }

    /// The signature of a token here.
    pub fn signature(&self, token: usize) -> Signature {
        match self.overrides.binary_search_by_key(&(token as u32), |(t, _)| *t) {
            Ok(at) => self.overrides[at].1,
            Err(_) => self.table.signature(token),
        }
    }

    /// Whether a token is denied here.
    pub fn denies(&self, denied: FamilySet, token: usize) -> bool {
        self.signature(token).denied_by(denied)
    }

    /// Tokens that differ from the table, with their signatures.
    pub fn overrides(&self) -> &[(u32, Signature)] {
        &self.overrides
    }

    /// Whether each token is denied here. Remembered, so that a step reads it rather than makes it.
    pub fn denials(&self, denied: FamilySet) -> Denials {
        let (key, poisoned) = ((denied, self.pending), std::sync::PoisonError::into_inner);
        if let Some(known) = self.table.denials.read().unwrap_or_else(poisoned).get(&key) {
            return Arc::clone(known);
        }
        let by_class = self.denied_classes(denied);
        let mut new: Vec<bool> =
            self.table.class_of.iter().map(|class| by_class[usize::from(*class)]).collect();
        for (token, signature) in self.overrides.iter() {
            new[*token as usize] = signature.denied_by(denied);
        }
        let mut cache = self.table.denials.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if cache.len() >= DENIALS {
            cache.clear();
        }
        Arc::clone(cache.entry(key).or_insert(new.into()))
    }

    fn denied_classes(&self, denied: FamilySet) -> Vec<bool> {
        self.table.classes.iter().map(|s| s.denied_by(denied)).collect()
    }

    /// Puts the logits of denied tokens at −∞; the logits are of the tokens from `first` on.
    pub fn ban(&self, denied: FamilySet, first: usize, logits: &mut [f32]) {
        let by_class = self.denied_classes(denied);
        let here = |(token, signature): &(u32, Signature)| {
            let place = (*token as usize).checked_sub(first)?;
            let z = *logits.get(place)?;
            Some((place, if signature.denied_by(denied) { f32::NEG_INFINITY } else { z }))
        };
        let changed: Vec<(usize, f32)> = self.overrides.iter().filter_map(here).collect();
        for (z, class) in logits.iter_mut().zip(self.table.class_of.get(first..).unwrap_or_default()) {
            *z = if by_class[usize::from(*class)] { f32::NEG_INFINITY } else { *z };
        }
        changed.into_iter().for_each(|(place, z)| logits[place] = z);
    }
}
