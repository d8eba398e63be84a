//! What a rollout records of the gate so that a trainer can replay its masks, and what is measured of it.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::family::FamilySet;
use crate::kept;
use crate::logprob::RowMask;
use crate::rules::{Decision, PassReason};
use crate::sample::Step;
use crate::state::GateState;
use crate::table::FamilyTable;
use crate::utf8::Pending;

/// The masks of the tokens of one response, aligned with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskRecord {
    /// Denied families of each token; 0 where the gate let it pass.
    denied: Vec<u32>,
    /// Token and [`Pending::pack`] where a gated token was drawn within a character.
    pending: Vec<(u32, u32)>,
    /// Token and bytes of what it was drawn from, where that is no whole vocabulary.
    supports: Vec<(u32, Box<[u8]>)>,
}

const MAGIC: &[u8; 8] = b"lcgmask1";

impl MaskRecord {
    /// Adds a token: the state *before* it was drawn, and the step.
    pub fn push(&mut self, state: &GateState, step: &Step) {
        let denied = step.record.denied.0;
        if denied != 0 && !state.pending.is_empty() {
            self.pending.push((self.denied.len() as u32, state.pending.pack()));
        }
        self.denied.push(denied);
    }

    /// Adds that the latest token was drawn from these tokens alone, in any order, out of `vocabulary`: what truncation kept of
    /// it, widening included, denied ones left out. Replaces what was said of it before. No token, or none in the vocabulary, says
    /// nothing.
    pub fn push_support(&mut self, kept: &[u32], vocabulary: usize) {
        let Some(latest) = self.denied.len().checked_sub(1).map(|token| token as u32) else { return };
        let mut kept: Vec<u32> = kept.iter().copied().filter(|v| (*v as usize) < vocabulary).collect();
        kept.sort_unstable();
        kept.dedup();
        self.supports.pop_if(|(token, _)| *token == latest);
        if !kept.is_empty() {
            self.supports.push((latest, kept::encode(&kept, vocabulary)));
        }
    }

    /// Adds the tokens of a record behind its own, as of another turn of one response.
    pub fn append(&mut self, next: &Self) {
        let before = self.denied.len() as u32;
        self.pending.extend(next.pending.iter().map(|(token, packed)| (before + token, *packed)));
        let supports = next.supports.iter().map(|(token, bytes)| (before + token, bytes.clone()));
        self.supports.extend(supports);
        self.denied.extend(&next.denied);
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.denied.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.denied.is_empty()
    }

    /// The denied families of each token; empty where the gate let it pass.
    pub fn denied(&self) -> impl Iterator<Item = FamilySet> + '_ {
        self.denied.iter().map(|d| FamilySet(*d))
    }

    /// The mask of a token.
    ///
    /// # Errors
    /// [`Error::Record`] for a token that is not there, for a pending start that is none, and for a support that is none.
    pub fn mask<'a>(&self, table: &'a FamilyTable, token: usize) -> Result<RowMask<'a>> {
        let (denied, pending) = self.at(token)?;
        Ok(RowMask { view: table.view(pending), denied, kept: self.support(table, token)?.map(Cow::Owned) })
    }

    /// What a token was drawn from, ascending, where that is recorded.
    ///
    /// # Errors
    /// [`Error::Record`] for bytes that are no support of the table's vocabulary.
    pub fn support(&self, table: &FamilyTable, token: usize) -> Result<Option<Vec<u32>>> {
        let Ok(at) = self.supports.binary_search_by_key(&(token as u32), |(t, _)| *t) else {
            return Ok(None);
        };
        let broken = || Error::Record { reason: format!("the support of token {token} is none") };
        kept::decode(&self.supports[at].1, table.len()).map(Some).ok_or_else(broken)
    }

    /// The denied families of a token, and the unfinished character before it, which is empty where nothing is denied.
    ///
    /// # Errors
    /// As [`Self::mask`], but for supports.
    pub fn at(&self, token: usize) -> Result<(FamilySet, Pending)> {
        let missing = || Error::Record { reason: format!("token {token} of {}", self.denied.len()) };
        let denied = FamilySet(*self.denied.get(token).ok_or_else(missing)?);
        let pending = match self.pending.binary_search_by_key(&(token as u32), |(t, _)| *t) {
            Ok(at) => {
                let packed = self.pending[at].1;
                let broken =
                    || Error::Record { reason: format!("{packed:#010x} is no start of a character") };
                Pending::unpack(packed).ok_or_else(broken)?
            }
            Err(_) => Pending::default(),
        };
        Ok((denied, pending))
    }

    /// The record as bytes: 4 a token, 8 more for one within a character, and 56 for the table's hash and the `version` of the
    /// gate; for a support 8 and its ids, in one to three bytes each, or a bit for each token of the vocabulary.
    pub fn to_bytes(&self, table: &FamilyTable, version: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(&table.sha256().as_bytes()[..32]);
        let head = [version, self.denied.len() as u32, self.pending.len() as u32, self.supports.len() as u32];
        let words = head.iter().chain(&self.denied).copied();
        let words = words.chain(self.pending.iter().flat_map(|(token, pending)| [*token, *pending]));
        bytes.extend(words.flat_map(u32::to_le_bytes));
        for (token, support) in &self.supports {
            bytes.extend(token.to_le_bytes());
            bytes.extend((support.len() as u32).to_le_bytes());
            bytes.extend(support);
        }
        bytes
    }

    /// The record, and the version of the gate.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a record under another table; [`Error::Record`] for bytes that are none.
    pub fn from_bytes(bytes: &[u8], table: &FamilyTable) -> Result<(Self, u32)> {
        let broken = |reason: &str| Error::Record { reason: reason.to_owned() };
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| broken("it does not begin with lcgmask1"))?;
        let (hash, rest) = rest.split_at_checked(32).ok_or_else(|| broken("it ends in the hash"))?;
        if hash != &table.sha256().as_bytes()[..32] {
            let (found, expected) =
                (table.sha256()[..32].to_owned(), String::from_utf8_lossy(hash).into_owned());
            return Err(Error::Mismatch { what: "family table", found, expected });
        }
        let (head, rest) = take(rest, 4).ok_or_else(|| broken("it ends in the sizes"))?;
        let [version, tokens, pending, supports] = [head[0], head[1], head[2], head[3]];
        let short = || broken("its length is not that of its sizes");
        let (denied, rest) = take(rest, u64::from(tokens)).ok_or_else(short)?;
        let (pairs, mut rest) = take(rest, 2 * u64::from(pending)).ok_or_else(short)?;
        let pending: Vec<(u32, u32)> = pairs.as_chunks::<2>().0.iter().map(|[t, p]| (*t, *p)).collect();
        let mut of_tokens = Vec::new();
        for _ in 0..supports {
            let (head, behind) = take(rest, 2).ok_or_else(short)?;
            let (bytes, behind) = behind.split_at_checked(head[1] as usize).ok_or_else(short)?;
            of_tokens.push((head[0], Box::from(bytes)));
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(short());
        }
        let ordered = |places: &[u32]| {
            places.windows(2).all(|w| w[0] < w[1]) && places.last().is_none_or(|last| *last < tokens)
        };
        if !ordered(&pending.iter().map(|(t, _)| *t).collect::<Vec<_>>()) {
            return Err(broken("its pending characters are out of order"));
        }
        if !ordered(&of_tokens.iter().map(|(t, _)| *t).collect::<Vec<_>>()) {
            return Err(broken("its supports are out of order"));
        }
        Ok((Self { denied, pending, supports: of_tokens }, version))
    }
}

/// The first `count` words of bytes, and the bytes behind them.
fn take(bytes: &[u8], count: u64) -> Option<(Vec<u32>, &[u8])> {
    let (words, rest) = bytes.split_at_checked(usize::try_from(4 * count).ok()?)?;
    Some((words.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect(), rest))
}

/// Sums over steps. With `top_p` of 1 nearly every step has some denied token in its support: `lcg/flip_rate` is the one to watch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GateMetrics {
    steps: u64,
    interventions: u64,
    flips: u64,
    vetoes: u64,
    nan: u64,
    denied_mass: f64,
}

impl GateMetrics {
    /// Adds a step.
    pub fn add(&mut self, step: &Step) {
        self.steps += 1;
        self.interventions += u64::from(step.record.intervened);
        self.flips += u64::from(step.record.flipped);
        self.vetoes += u64::from(step.decision == Decision::Pass(PassReason::Contradicted));
        self.nan += u64::from(step.decision == Decision::Pass(PassReason::GateNaN));
        self.denied_mass += f64::from(step.record.denied_mass);
    }

    /// Adds the sums of other steps.
    pub fn merge(&mut self, other: &Self) {
        self.steps += other.steps;
        self.interventions += other.interventions;
        self.flips += other.flips;
        self.vetoes += other.vetoes;
        self.nan += other.nan;
        self.denied_mass += other.denied_mass;
    }

    /// Means by their names; `None` where there was no step.
    pub fn entries(&self) -> Option<[(&'static str, f64); 5]> {
        let mean = |sum: f64| sum / self.steps as f64;
        (self.steps > 0).then(|| {
            [
                ("lcg/intervention_rate", mean(self.interventions as f64)),
                ("lcg/flip_rate", mean(self.flips as f64)),
                ("lcg/veto_rate", mean(self.vetoes as f64)),
                ("lcg/nan_rate", mean(self.nan as f64)),
                ("lcg/denied_mass", mean(self.denied_mass)),
            ]
        })
    }
}
