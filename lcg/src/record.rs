//! What a rollout records of the gate so that a trainer can replay its masks, and what is measured of it.

use crate::error::{Error, Result};
use crate::family::FamilySet;
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

    /// Adds the tokens of a record behind its own, as of another turn of one response.
    pub fn append(&mut self, next: &Self) {
        let before = self.denied.len() as u32;
        self.pending.extend(next.pending.iter().map(|(token, packed)| (before + token, *packed)));
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
    /// [`Error::Record`] for a token that is not there, and for a pending start that is none.
    pub fn mask<'a>(&self, table: &'a FamilyTable, token: usize) -> Result<RowMask<'a>> {
        let (denied, pending) = self.at(token)?;
        Ok(RowMask { view: table.view(pending), denied, kept: None })
    }

    /// The denied families of a token, and the unfinished character before it, which is empty where nothing is denied.
    ///
    /// # Errors
    /// As [`Self::mask`].
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
    /// gate.
    pub fn to_bytes(&self, table: &FamilyTable, version: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(&table.sha256().as_bytes()[..32]);
        let head = [version, self.denied.len() as u32, self.pending.len() as u32, 0];
        let words = head.iter().chain(&self.denied).copied();
        let words = words.chain(self.pending.iter().flat_map(|(token, pending)| [*token, *pending]));
        bytes.extend(words.flat_map(u32::to_le_bytes));
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
        let (words, odd) = rest.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|w| u32::from_le_bytes(*w)).collect();
        let (&[version, tokens, pending, zero], data) =
            words.split_first_chunk().ok_or_else(|| broken("it ends in the sizes"))?;
        let (tokens, pending) = (tokens as usize, pending as usize);
        if zero != 0 || !odd.is_empty() || data.len() as u64 != tokens as u64 + 2 * pending as u64 {
            return Err(broken("its length is not that of its sizes"));
        }
        let (denied, pairs) = data.split_at(tokens);
        let pending: Vec<(u32, u32)> = pairs.as_chunks::<2>().0.iter().map(|[t, p]| (*t, *p)).collect();
        if !pending.windows(2).all(|w| w[0].0 < w[1].0) || pending.iter().any(|(t, _)| *t as usize >= tokens)
        {
            return Err(broken("its pending characters are out of order"));
        }
        Ok((Self { denied: denied.to_vec(), pending }, version))
    }
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
