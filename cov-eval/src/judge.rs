//! A second opinion of a model on what the rules decide. Off by default: it never changes a score, and rewards have no
//! place for it. [`run::second_opinion`](crate::run::second_opinion) asks a source of completions.
//!
//! What a judge cannot be read to say is unresolved, which counts neither as yes nor as no: an instance with unresolved
//! items has no judge's score at all.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a judge is: model, prompt and sampling.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeId {
    /// Its name.
    pub model: String,
    /// SHA-256 in hex of the prompt that frames the items.
    pub prompt_hash: String,
    /// Temperature and the like, as text.
    pub sampling: String,
}

/// The questions of yes and no that judged tasks come down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeQuestion {
    /// Whether the text states a fact.
    FactCovered,
    /// Whether the text has a statement.
    StatementIncluded,
    /// Whether a statement is written as the sheet wants it.
    StatementFollowsRule,
    /// Whether a question is answered.
    QuestionAnswered,
    /// Whether the answer is the expected one.
    AnswerMatches,
    /// Whether code is relevant and complete.
    CodeIsRelevantAndComplete,
}

/// One thing to decide.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeItem {
    /// What is asked.
    pub question: JudgeQuestion,
    /// The text that it is asked of.
    pub evidence: String,
    /// The fact, statement or question.
    pub claim: String,
    /// The right answer, where there is one.
    pub expected: Option<String>,
}

/// What is asked of a constraint: question, claim, and the right answer where there is one.
pub(crate) type Claim = (JudgeQuestion, String, Option<String>);

/// What a judge says to an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeVerdict {
    /// Yes or no.
    pub holds: bool,
    /// The part of the evidence that it goes by.
    pub cites: Option<String>,
    /// SHA-256 of the reply.
    pub raw_hash: [u8; 32],
}

/// Why there is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// The reply is no JSON array of booleans of the right length.
    #[error("the judge's reply is no array of {expected} booleans: {reply:?}")]
    Malformed {
        /// Items asked.
        expected: usize,
        /// The start of the reply.
        reply: String,
    },
    /// The citation is not in the evidence.
    #[error("the judge cites {cites:?}, which is not in the evidence")]
    Citation {
        /// The citation.
        cites: String,
    },
    /// The judge could not be reached.
    #[error("the judge gave no reply: {reason}")]
    Unreachable {
        /// What went wrong.
        reason: String,
    },
}

/// A model that says yes or no.
pub trait Judge: Send + Sync {
    /// What it is; verdicts are kept by it.
    fn id(&self) -> JudgeId;

    /// A verdict for each of at most [`JUDGE_BATCH`] items, in their order.
    fn judge(&self, items: &[JudgeItem]) -> Vec<Result<JudgeVerdict, JudgeError>>;

    /// [`Judge::judge`] of each batch, in their order. A judge that can work on several at one time says how.
    fn judge_all(&self, batches: &[Vec<JudgeItem>]) -> Vec<Vec<Result<JudgeVerdict, JudgeError>>> {
        batches.iter().map(|batch| self.judge(batch)).collect()
    }
}

/// Items that are asked at once.
pub const JUDGE_BATCH: usize = 5;

/// Times that a malformed reply is asked for again.
const RETRIES: usize = 2;

/// Reads a reply: a JSON array of exactly `expected` booleans, and nothing else.
///
/// # Errors
/// Any other reply.
pub fn parse_reply(reply: &str, expected: usize) -> Result<Vec<bool>, JudgeError> {
    let found: Option<Vec<bool>> = serde_json::from_str(reply.trim()).ok();
    found
        .filter(|all| all.len() == expected)
        .ok_or_else(|| JudgeError::Malformed { expected, reply: reply.chars().take(80).collect() })
}

/// Verdicts by judge and item, so that nothing is asked twice.
#[derive(Debug, Clone, Default)]
pub struct JudgeCache(HashMap<[u8; 32], JudgeVerdict>);

fn key(id: &JudgeId, item: &JudgeItem) -> [u8; 32] {
    let text = serde_json::to_vec(&(id, item)).expect("strings only");
    Sha256::digest(&text).into()
}

fn checked(item: &JudgeItem, verdict: JudgeVerdict) -> Result<JudgeVerdict, JudgeError> {
    match &verdict.cites {
        Some(cites) if !item.evidence.contains(cites.as_str()) => {
            Err(JudgeError::Citation { cites: cites.clone() })
        }
        _ => Ok(verdict),
    }
}

impl JudgeCache {
    /// A verdict for each item, `None` where it stays unresolved after two more tries. Items of one text are asked in batches of
    /// [`JUDGE_BATCH`], and all batches at once.
    pub fn resolve(&mut self, judge: &dyn Judge, items: &[JudgeItem]) -> Vec<Option<JudgeVerdict>> {
        let id = judge.id();
        let keys: Vec<[u8; 32]> = items.iter().map(|item| key(&id, item)).collect();
        for _ in 0..=RETRIES {
            let mut once = HashSet::new();
            let open =
                keys.iter().zip(items).filter(|(key, _)| !self.0.contains_key(*key) && once.insert(**key));
            let open: Vec<&JudgeItem> = open.map(|(_, item)| item).collect();
            let texts = open.chunk_by(|a, b| a.evidence == b.evidence);
            let batches = texts.flat_map(|own| own.chunks(JUDGE_BATCH));
            let batches: Vec<Vec<JudgeItem>> =
                batches.map(|batch| batch.iter().map(|&item| item.clone()).collect()).collect();
            if batches.is_empty() {
                break;
            }
            for (batch, verdicts) in batches.iter().zip(judge.judge_all(&batches)) {
                // A judge that gives too many or too few has said nothing.
                if verdicts.len() != batch.len() {
                    continue;
                }
                for (item, verdict) in batch.iter().zip(verdicts) {
                    if let Ok(verdict) = verdict.and_then(|v| checked(item, v)) {
                        self.0.insert(key(&id, item), verdict);
                    }
                }
            }
        }
        keys.iter().map(|key| self.0.get(key).cloned()).collect()
    }
}

/// How far rules and judge agree on the same items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Both say yes.
    pub both: usize,
    /// Only the rules say yes.
    pub rules_only: usize,
    /// Only the judge says yes.
    pub judge_only: usize,
    /// Both say no.
    pub neither: usize,
}

impl Agreement {
    /// Counts pairs of what rules and judge say.
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut found = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => found.both += 1,
                (true, false) => found.rules_only += 1,
                (false, true) => found.judge_only += 1,
                (false, false) => found.neither += 1,
            }
        }
        found
    }

    /// Counts those of another as well.
    pub fn add(&mut self, other: Self) {
        self.both += other.both;
        self.rules_only += other.rules_only;
        self.judge_only += other.judge_only;
        self.neither += other.neither;
    }

    /// Cohen's κ: agreement above what chance gives. `None` for no items, or where chance alone gives 1.
    pub fn kappa(&self) -> Option<f64> {
        let [both, rules, judge, neither] =
            [self.both, self.rules_only, self.judge_only, self.neither].map(|n| n as f64);
        let n = both + rules + judge + neither;
        let chance = ((both + rules) * (both + judge) + (neither + rules) * (neither + judge)) / (n * n);
        (n > 0.0 && chance < 1.0).then(|| ((both + neither) / n - chance) / (1.0 - chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn replies() {
        assert_eq!(parse_reply(" [true, false]\n", 2), Ok(vec![true, false]));
        for wrong in [
            "[true]",
            "[true, 1]",
            "true, false",
            "```\n[true, false]\n```",
            "[true, false, true]",
            "",
            "[\"true\", false]",
        ] {
            assert!(
                matches!(parse_reply(wrong, 2), Err(JudgeError::Malformed { expected: 2, .. })),
                "{wrong}"
            );
        }
    }

    /// Says yes where the claim is in the evidence; its first reply is malformed, and what it is unsure of always.
    struct Reader(AtomicUsize);

    impl Judge for Reader {
        fn id(&self) -> JudgeId {
            JudgeId { model: "reader".into(), prompt_hash: String::new(), sampling: "temperature 0".into() }
        }

        fn judge(&self, items: &[JudgeItem]) -> Vec<Result<JudgeVerdict, JudgeError>> {
            assert!(items.len() <= JUDGE_BATCH);
            let first = self.0.fetch_add(1, Ordering::Relaxed) == 0;
            let say = |item: &JudgeItem| {
                let reply = if first || item.claim == "unsure" { "perhaps" } else { "[true]" };
                parse_reply(reply, 1)?;
                let cites = (item.claim == "invented").then(|| "not there".to_owned());
                Ok(JudgeVerdict { holds: item.evidence.contains(&item.claim), cites, raw_hash: [0; 32] })
            };
            items.iter().map(say).collect()
        }
    }

    #[test]
    fn what_cannot_be_read_is_unresolved() {
        let item = |claim: &str| JudgeItem {
            question: JudgeQuestion::FactCovered,
            evidence: "it rained".into(),
            claim: claim.into(),
            expected: None,
        };
        let items: Vec<JudgeItem> =
            ["rained", "snowed", "unsure", "invented", "it", "i", "t"].map(item).into();
        let (judge, mut cache) = (Reader(AtomicUsize::new(0)), JudgeCache::default());
        let holds: Vec<Option<bool>> =
            cache.resolve(&judge, &items).into_iter().map(|v| v.map(|v| v.holds)).collect();
        assert_eq!(holds, [Some(true), Some(false), None, None, Some(true), Some(true), Some(true)]);
        // What is known is not asked again.
        let asked = judge.0.load(Ordering::Relaxed);
        cache.resolve(&judge, &items[..2]);
        assert_eq!(judge.0.load(Ordering::Relaxed), asked);
    }

    #[test]
    fn kappa_values() {
        let of = |both, rules_only, judge_only, neither| {
            Agreement { both, rules_only, judge_only, neither }.kappa()
        };
        // The example of Cohen's κ with 20, 5, 10, 15.
        assert!((of(20, 5, 10, 15).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(of(3, 0, 0, 3), Some(1.0));
        assert_eq!((of(0, 0, 0, 0), of(4, 0, 0, 0)), (None, None));
        let counted =
            Agreement::of([(true, true), (true, false), (false, true), (false, false), (true, true)]);
        assert_eq!(counted, Agreement { both: 2, rules_only: 1, judge_only: 1, neither: 1 });
    }
}
