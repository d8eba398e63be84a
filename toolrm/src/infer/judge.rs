//! A judge of pairs and of single responses.

use std::cmp::Ordering;

use completion::{Complete, Completion, CompletionError, Request, Sampling};

use crate::critique::{
    Level, Prompt, Reading, Shown, Variant, best_of_prompt, pair_prompt, point_prompt, read_choice,
    read_verdict,
};
use crate::msg::{Call, Message};
use crate::parse::NoForm;
use crate::schema::ToolDef;

/// Why a judge could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// A prompt cannot be written.
    #[error(transparent)]
    Prompt(#[from] NoForm),
    /// A request failed.
    #[error("{id}: {source}")]
    Request {
        /// The request.
        id: String,
        /// Why.
        source: CompletionError,
    },
    /// A group without responses, of which none can be the best.
    #[error("{0} has no responses")]
    Nobody(String),
    /// Numbers of a reward model that do not fit the responses.
    #[error("scores of {id}: {reason}")]
    Scores {
        /// The group.
        id: String,
        /// What is wrong with them.
        reason: String,
    },
}

/// The conversation that responses answer.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Its id, which begins the ids of requests about it.
    pub id: &'a str,
    /// The tools.
    pub tools: &'a [ToolDef],
    /// The messages so far.
    pub history: &'a [Message],
}

/// A response that is judged.
#[derive(Clone, Debug)]
pub struct Contender {
    /// What it says beside calls.
    pub text: String,
    /// Its calls.
    pub calls: Vec<Call>,
}

impl Contender {
    /// A response of text alone.
    pub fn text(text: impl Into<String>) -> Self {
        Contender { text: text.into(), calls: Vec::new() }
    }

    /// As a judge sees it.
    pub fn shown(&self) -> Shown<'_> {
        Shown { text: &self.text, calls: &self.calls }
    }
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The first response won.
    A,
    /// The second won.
    B,
    /// Nobody: the judge contradicted itself, or could not be read.
    Tie,
}

impl Outcome {
    /// That of a reward model's numbers: the higher wins, equal ones tie.
    pub fn of_scores(a: f64, b: f64) -> Self {
        match a.partial_cmp(&b) {
            Some(Ordering::Greater) => Outcome::A,
            Some(Ordering::Less) => Outcome::B,
            _ => Outcome::Tie,
        }
    }
}

/// A comparison with what the judge said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What came of it.
    pub outcome: Outcome,
    /// The place chosen in each orientation (1: shown first), none where it could not be read.
    pub choices: Vec<Option<u32>>,
}

/// A judgement of one response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Critique {
    /// What the judge wrote.
    pub text: String,
    /// Whether the response may stand; an answer that says nothing lets it stand.
    pub correct: bool,
    /// Whether a verdict could be read.
    pub read: bool,
    /// Tokens of the critique, where known.
    pub tokens: Option<u64>,
}

/// What was asked of a judge so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompts.
    pub calls: u64,
    /// Tokens of prompts, where known.
    pub tokens_in: u64,
    /// Tokens of answers, where known.
    pub tokens_out: u64,
    /// Answers in the form that was asked for.
    pub strict: u64,
    /// Answers that could be read only leniently.
    pub soft: u64,
    /// Answers that could not be read.
    pub unread: u64,
}

/// A model that judges.
pub struct Judge<C> {
    model: C,
    variant: Variant,
    sampling: Sampling,
    usage: Usage,
}

impl<C: Complete> Judge<C> {
    /// A judge that answers greedily, with at most `max_tokens` tokens.
    pub fn new(model: C, variant: Variant, max_tokens: usize) -> Self {
        Judge { model, variant, sampling: Sampling::greedy(max_tokens), usage: Usage::default() }
    }

    /// With other sampling. Published judges that reason use temperature 0.6, top-p 0.95, top-k 20 and 8,192 tokens.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// What was asked so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn reading(&self) -> Reading {
        Reading { form: self.variant.into(), ..Reading::default() }
    }

    fn ask(&mut self, prompts: Vec<(String, Prompt)>) -> Result<Vec<Completion>, InferError> {
        let requests: Vec<Request> =
            prompts.into_iter().map(|(id, p)| Request::user(id, p.text, self.sampling.clone())).collect();
        let results = self.model.complete(&requests);
        let mut out = Vec::with_capacity(requests.len());
        for (request, result) in requests.into_iter().zip(results) {
            let done = result.map_err(|source| InferError::Request { id: request.id, source })?;
            self.usage.calls += 1;
            self.usage.tokens_in += done.tokens_in.unwrap_or(0);
            self.usage.tokens_out += done.tokens_out.unwrap_or(0);
            out.push(done);
        }
        Ok(out)
    }

    fn count(&mut self, level: Option<Level>, read: bool) {
        match level.filter(|_| read) {
            Some(Level::Strict) => self.usage.strict += 1,
            Some(Level::Soft) => self.usage.soft += 1,
            None => self.usage.unread += 1,
        }
    }

    fn choices(&mut self, prompts: Vec<(String, Prompt)>, n: &[u32]) -> Result<Vec<Option<u32>>, InferError> {
        let (reading, done) = (self.reading(), self.ask(prompts)?);
        let reads: Vec<_> = done.iter().zip(n).map(|(d, n)| read_choice(&d.text, *n, &reading)).collect();
        reads.iter().for_each(|r| self.count(r.level, r.choice.is_some()));
        Ok(reads.into_iter().map(|r| r.choice).collect())
    }

    /// Compares pairs: each in the order given and, with `both`, in the other order too. Then a response wins only when it wins
    /// in both.
    ///
    /// # Errors
    /// When a prompt cannot be written, or a request fails.
    pub fn compare(
        &mut self,
        pairs: &[(&Context<'_>, [&Contender; 2])],
        both: bool,
    ) -> Result<Vec<Comparison>, InferError> {
        let orders: &[bool] = if both { &[false, true] } else { &[false] };
        let mut prompts = Vec::with_capacity(pairs.len() * orders.len());
        for (i, (context, [a, b])) in pairs.iter().enumerate() {
            for swapped in orders {
                let shown = if *swapped { [b.shown(), a.shown()] } else { [a.shown(), b.shown()] };
                let prompt = pair_prompt(context.tools, context.history, shown, self.variant)?;
                let order = if *swapped { "ba" } else { "ab" };
                // Requests of one call need ids of their own; across calls the usage tells them apart.
                prompts.push((format!("{}/{}-{i}-{order}", context.id, self.usage.calls), prompt));
            }
        }
        let choices = self.choices(prompts, &vec![2; pairs.len() * orders.len()])?;
        let winner = |choices: &[Option<u32>]| {
            // The second orientation shows B first.
            let votes: Vec<Option<bool>> =
                choices.iter().zip(orders).map(|(c, swapped)| c.map(|c| (c == 1) != *swapped)).collect();
            match votes[0] {
                Some(a) if votes.iter().all(|v| *v == Some(a)) => {
                    if a {
                        Outcome::A
                    } else {
                        Outcome::B
                    }
                }
                _ => Outcome::Tie,
            }
        };
        let outcomes = choices.chunks(orders.len());
        Ok(outcomes.map(|c| Comparison { outcome: winner(c), choices: c.to_vec() }).collect())
    }

    /// Chooses among each list of responses in one prompt; none where the answer could not be read.
    ///
    /// # Errors
    /// As [`Judge::compare`].
    pub fn choose(
        &mut self,
        lists: &[(&Context<'_>, Vec<&Contender>)],
    ) -> Result<Vec<Option<usize>>, InferError> {
        let mut prompts = Vec::with_capacity(lists.len());
        for (i, (context, list)) in lists.iter().enumerate() {
            let shown: Vec<Shown<'_>> = list.iter().map(|c| c.shown()).collect();
            let prompt = best_of_prompt(context.tools, context.history, &shown, self.variant)?;
            prompts.push((format!("{}/{}-{i}-list", context.id, self.usage.calls), prompt));
        }
        let n: Vec<u32> = lists.iter().map(|(_, list)| list.len() as u32).collect();
        Ok(self.choices(prompts, &n)?.into_iter().map(|c| c.map(|c| c as usize - 1)).collect())
    }

    /// Criticises responses one by one.
    ///
    /// # Errors
    /// As [`Judge::compare`].
    pub fn criticise(
        &mut self,
        responses: &[(&Context<'_>, &Contender)],
    ) -> Result<Vec<Critique>, InferError> {
        let mut prompts = Vec::with_capacity(responses.len());
        for (i, (context, response)) in responses.iter().enumerate() {
            let prompt = point_prompt(context.tools, context.history, response.shown(), self.variant)?;
            prompts.push((format!("{}/{}-{i}-point", context.id, self.usage.calls), prompt));
        }
        let (reading, done) = (self.reading(), self.ask(prompts)?);
        let mut out = Vec::with_capacity(done.len());
        for completion in done {
            let verdict = read_verdict(&completion.text, &reading);
            let level = verdict.and_then(|v| v.level);
            self.count(level, level.is_some());
            out.push(Critique {
                correct: verdict.is_none_or(|v| v.correct),
                read: level.is_some(),
                tokens: completion.tokens_out,
                text: completion.text,
            });
        }
        Ok(out)
    }
}
