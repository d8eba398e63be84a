//! A policy that corrects itself by a judge's critiques.

use completion::{Complete, CompletionError, Request, Sampling};

use super::judge::{Contender, Context, InferError, Judge};
use crate::critique::correction_prompt;
use crate::parse::{Format, Mode, Parsing, parse_with};

/// What became of a response.
#[derive(Clone, Debug)]
pub struct Corrected {
    /// The last response.
    pub response: Contender,
    /// Critiques that were given, the last one included.
    pub critiques: Vec<String>,
    /// Whether the judge let the last response stand when it was asked last.
    pub accepted: bool,
    /// Tokens of all critiques, where known.
    pub tokens: u64,
}

/// Lets a judge criticise responses, and a policy answer again until the judge says `correct`, at most `rounds` times. A new
/// answer that cannot be parsed is kept as text.
///
/// # Errors
/// When a prompt cannot be written, or a request of either model fails.
pub fn correct<J: Complete, P: Complete>(
    judge: &mut Judge<J>,
    policy: &mut P,
    sampling: &Sampling,
    responses: &[(Context<'_>, Contender)],
    rounds: usize,
) -> Result<Vec<Corrected>, InferError> {
    let mut out: Vec<Corrected> = responses
        .iter()
        .map(|(_, r)| Corrected { response: r.clone(), critiques: Vec::new(), accepted: false, tokens: 0 })
        .collect();
    for round in 0..rounds {
        let open: Vec<usize> = (0..out.len()).filter(|i| !out[*i].accepted).collect();
        if open.is_empty() {
            break;
        }
        let asked: Vec<_> = open.iter().map(|i| (&responses[*i].0, &out[*i].response)).collect();
        let critiques = judge.criticise(&asked)?;
        let (mut requests, mut again) = (Vec::new(), Vec::new());
        for (i, critique) in open.into_iter().zip(critiques) {
            let (context, item) = (&responses[i].0, &mut out[i]);
            item.accepted = critique.correct;
            item.tokens += critique.tokens.unwrap_or(0);
            if !critique.correct {
                let shown = item.response.shown();
                let prompt = correction_prompt(context.tools, context.history, shown, &critique.text)?;
                let id = format!("{}/correct-{round}-{i}", context.id);
                requests.push(Request::user(id, prompt.text, sampling.clone()));
                again.push(i);
            }
            item.critiques.push(critique.text);
        }
        let failed = |id: &str, source: CompletionError| InferError::Request { id: id.to_owned(), source };
        for ((request, i), result) in requests.iter().zip(again).zip(policy.complete(&requests)) {
            let done = result.map_err(|e| failed(&request.id, e))?;
            out[i].response = read(&done.text, &responses[i].0);
        }
    }
    Ok(out)
}

fn read(text: &str, context: &Context<'_>) -> Contender {
    let parsing = Parsing { think_split: true, tools: context.tools };
    match parse_with(text, Format::Auto, Mode::Lenient, &parsing) {
        Ok(parsed) => Contender { text: parsed.text.trim().to_owned(), calls: parsed.calls },
        Err(_) => Contender::text(text),
    }
}

/// What corrections did, against what is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CorrectionReport {
    /// Responses.
    pub responses: usize,
    /// Right before.
    pub before: usize,
    /// Right after.
    pub after: usize,
    /// Wrong before, right after.
    pub fixed: usize,
    /// Right before, wrong after.
    pub broken: usize,
    /// Tokens of critiques, where known.
    pub tokens: u64,
}

impl CorrectionReport {
    /// Counts a response.
    pub fn add(&mut self, before: bool, after: bool, corrected: &Corrected) {
        self.responses += 1;
        self.before += usize::from(before);
        self.after += usize::from(after);
        self.fixed += usize::from(!before && after);
        self.broken += usize::from(before && !after);
        self.tokens += corrected.tokens;
    }
}
