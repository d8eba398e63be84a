//! A policy that corrects itself by a judge's critiques.

use completion::{Complete, CompletionError, Request, Sampling};

use super::judge::{Contender, Context, InferError, Judge};
use crate::critique::correction_prompt;
use crate::parse::{Format, Mode, Parsing, parse_with};
use crate::value::Val;

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
    /// Critiques.
    pub critiques: usize,
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
        self.critiques += corrected.critiques.len();
        self.tokens += corrected.tokens;
    }

    /// A few lines for a reader.
    pub fn to_text(&self) -> String {
        let share = |k: usize| 100.0 * k as f64 / self.responses.max(1) as f64;
        format!(
            "responses    {}\nright        {:.1} % before, {:.1} % after\nfixed        {}\nbroken       {}\nunchanged    {}\n\
             critiques    {}, of {:.1} tokens on average\n",
            self.responses,
            share(self.before),
            share(self.after),
            self.fixed,
            self.broken,
            self.responses - self.fixed - self.broken,
            self.critiques,
            self.tokens as f64 / self.critiques.max(1) as f64,
        )
    }

    /// The same as an object.
    pub fn to_val(&self) -> Val {
        let int = |n: usize| Val::Int(n as i64);
        Val::dict([
            ("responses", int(self.responses)),
            ("before", int(self.before)),
            ("after", int(self.after)),
            ("fixed", int(self.fixed)),
            ("broken", int(self.broken)),
            ("critiques", int(self.critiques)),
            ("tokens", Val::int(self.tokens.into())),
        ])
    }
}
