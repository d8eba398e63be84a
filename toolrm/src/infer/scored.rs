//! Scored responses of a file, and what a judge makes of them.

use std::collections::HashMap;

use completion::{Complete, Sampling};

use super::best_of::{BestOf, BestOfReport, Selected};
use super::correct::{CorrectionReport, correct};
use super::judge::{Contender, Context, InferError, Judge};
use crate::canon::canon_hash;
use crate::parse::Format;
use crate::record::{Candidate, GOLD_ORIGIN, Scored, Step};
use crate::rule::{Rational, ScoreOptions, rule_score};
use crate::value::{Map, Val};

impl<'a> From<&'a Step> for Context<'a> {
    fn from(step: &'a Step) -> Self {
        Context { id: &step.id, tools: &step.tools, history: &step.history }
    }
}

impl From<&Scored> for Contender {
    fn from(scored: &Scored) -> Self {
        Contender { text: scored.content.clone(), calls: scored.calls.clone().unwrap_or_default() }
    }
}

/// The scored responses of each step that has some, as a group, with the places of its responses in `scored`. A hash decides their order:
/// nothing of it tells which response is right.
pub fn scored_groups<'a>(steps: &'a [Step], scored: &[Scored]) -> Vec<(BestOf<'a>, Vec<usize>)> {
    let mut of: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, s) in scored.iter().enumerate() {
        of.entry(&s.candidate.step_id).or_default().push(i);
    }
    let group = |step: &'a Step| {
        let mut places = of.remove(step.id.as_str())?;
        places.sort_by_key(|i| canon_hash(&format!("{}/{}", step.id, scored[*i].candidate.origin).into()));
        let contenders = places.iter().map(|i| Contender::from(&scored[*i])).collect();
        Some((BestOf { context: step.into(), contenders }, places))
    };
    steps.iter().filter_map(group).collect()
}

/// The response selected of each group of [`scored_groups`], with its `index` among those of its step in the file and the number of
/// `distinct` ones; and how often it is right, which is what a score of 1 says.
pub fn chosen_responses(
    scored: &[Scored],
    groups: &[BestOf<'_>],
    places: &[Vec<usize>],
    selected: &[Selected],
) -> (Vec<Scored>, BestOfReport) {
    let mut report = BestOfReport::default();
    let mut rows = Vec::with_capacity(groups.len());
    for ((group, places), selected) in groups.iter().zip(places).zip(selected) {
        let right: Vec<bool> = places.iter().map(|i| scored[*i].score == Rational::ONE).collect();
        report.add(&group.contenders, &right, selected.index);
        let place = places[selected.index];
        let index = places.iter().filter(|i| **i < place).count();
        let mut row = scored[place].clone();
        row.candidate.meta.insert("index".into(), Val::Int(index as i64));
        row.candidate.meta.insert("distinct".into(), Val::Int(selected.distinct as i64));
        rows.push(row);
    }
    (rows, report)
}

/// What became of the responses of a file.
#[derive(Clone, Debug, Default)]
pub struct CorrectedResponses {
    /// The last response in the place of each that was asked about, scored, with its `critiques` and whether it was `accepted`.
    pub rows: Vec<Scored>,
    /// What it did.
    pub report: CorrectionReport,
    /// Responses whose step is not among the steps; nothing was asked about them.
    pub without_step: u64,
}

/// [`correct`] on the responses of a file: gold ones are passed over.
///
/// # Errors
/// As [`correct`].
pub fn correct_responses<J: Complete, P: Complete>(
    judge: &mut Judge<J>,
    policy: &mut P,
    sampling: &Sampling,
    steps: &[Step],
    scored: &[Scored],
    rounds: usize,
) -> Result<CorrectedResponses, InferError> {
    let of: HashMap<&str, &Step> = steps.iter().map(|s| (s.id.as_str(), s)).collect();
    let mut out = CorrectedResponses::default();
    let mut asked: Vec<(&Step, &Scored)> = Vec::new();
    for s in scored.iter().filter(|s| s.candidate.origin != GOLD_ORIGIN) {
        match of.get(s.candidate.step_id.as_str()) {
            Some(step) => asked.push((step, s)),
            None => out.without_step += 1,
        }
    }
    let responses: Vec<_> =
        asked.iter().map(|(step, s)| (Context::from(*step), Contender::from(*s))).collect();
    let done = correct(judge, policy, sampling, &responses, rounds)?;
    for ((step, before), corrected) in asked.into_iter().zip(&done) {
        let mut after = scored_again(step, before, &corrected.response);
        out.report.add(before.score == Rational::ONE, after.score == Rational::ONE, corrected);
        let critiques = corrected.critiques.iter().map(|c| Val::from(c.as_str())).collect();
        after.candidate.meta.insert("critiques".into(), Val::List(critiques));
        after.candidate.meta.insert("accepted".into(), Val::Bool(corrected.accepted));
        out.rows.push(after);
    }
    Ok(out)
}

/// A response in the place of another, with its own score.
fn scored_again(step: &Step, before: &Scored, response: &Contender) -> Scored {
    // What could not be parsed before and stands as it was still cannot be.
    let same = before.calls.is_none() && response.calls.is_empty() && response.text == before.content;
    let calls = (!same).then(|| response.calls.clone());
    let out = rule_score(&step.calls, calls.as_deref(), &ScoreOptions::default());
    Scored {
        candidate: Candidate {
            step_id: step.id.clone(),
            origin: before.candidate.origin.clone(),
            text: response.text.clone(),
            format: Format::Auto,
            meta: Map::default(),
        },
        source: step.source.clone(),
        content: response.text.clone(),
        calls,
        score: out.ratio,
        message: out.message.to_owned(),
        per_gold: out.per_gold.iter().map(|(i, sim)| (i.map(|i| i as u64), *sim)).collect(),
    }
}
