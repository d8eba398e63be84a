//! Asking a source of completions for the answers of a plan.

use std::collections::HashMap;
use std::path::Path;

use completion::{Complete, CompletionError, Recorded, Sampling};
use sha2::{Digest, Sha256};

use super::{Answer, Plan, RunError, Summary, requests, score_answers, store};
use crate::intake::Finish;

/// What an evaluation came to.
#[derive(Debug)]
pub struct Evaluation {
    /// The scores.
    pub summary: Summary,
    /// Why answers are missing. The same evaluation asks for them again.
    pub failures: Vec<CompletionError>,
}

/// How a source is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Asking {
    /// How to draw. `max_tokens` does not count: every instance has its own limit. `seed` (0 when absent) is the run's; that
    /// of a request follows from it, the instance and the sample.
    pub sampling: Sampling,
    /// The most answers that are written at one time, and that a source is asked for which cannot say how many it works on.
    pub at_a_time: usize,
}

/// Asks for the answers that are not there yet, scores what has no score, and writes tables and pictures. The directory
/// is one of [`score`](super::score), with the answers in `generations.jsonl`; killed and called again, it ends with the
/// same files, where the source answers the same. `tell` hears how many answers of how many there are.
///
/// # Errors
/// Files that cannot be read or written; a directory of another plan, source or sampling. A request without an answer is
/// no error: it is missing.
pub fn evaluate(
    plan: &Plan,
    source: impl Complete,
    asking: &Asking,
    directory: &Path,
    tell: impl FnMut(usize, usize) + Send + 'static,
) -> Result<Evaluation, RunError> {
    let Asking { sampling, at_a_time } = asking;
    let mut identity = plan.identity();
    let drawn = Sampling { max_tokens: 0, ..sampling.clone() };
    identity["asked"] = serde_json::json!({ "source": source.name(), "sampling": drawn });
    // Another run's directory is refused before anything is asked.
    drop(store::Store::open(directory, &identity)?);
    let wanted = requests(plan)?;
    let asked: Vec<completion::Request> = wanted
        .iter()
        .map(|r| {
            let seed = Some(request_seed(sampling.seed.unwrap_or(0), &r.instance_id, r.sample));
            let sampling = Sampling { max_tokens: r.max_new_tokens as usize, seed, ..sampling.clone() };
            completion::Request::user(answer_id(&r.instance_id, r.sample), r.prompt.as_str(), sampling)
        })
        .collect();
    let mut source = Recorded::open(source, &directory.join("generations.jsonl"), "instance_id")?
        .at_a_time(*at_a_time)
        .on_progress(tell);
    let (mut answers, mut failures) = (HashMap::new(), Vec::new());
    for (request, result) in wanted.into_iter().zip(source.complete(&asked)) {
        match result {
            Err(error) => failures.push(error),
            Ok(done) => {
                let finish = done.finish.map_or(Finish::Stop, Finish::from);
                let (instance_id, sample) = (request.instance_id, request.sample);
                let key = (instance_id.clone(), sample);
                let (text, reasoning) = (done.text, done.reasoning);
                answers.insert(key, Answer { instance_id, sample, text, reasoning, finish });
            }
        }
    }
    Ok(Evaluation { summary: score_answers(plan, &identity, &answers, directory)?, failures })
}

/// Names an answer among those of a file: the instance, with `#sample` for all but the first.
fn answer_id(instance: &str, sample: u32) -> String {
    if sample == 0 { instance.to_owned() } else { format!("{instance}#{sample}") }
}

/// 31 bits, which every server takes.
fn request_seed(run: u64, instance: &str, sample: u32) -> u64 {
    let hash = Sha256::digest(format!("{run}\n{instance}\n{sample}"));
    hash.iter().take(4).fold(0u64, |seed, &byte| (seed << 8) | u64::from(byte)) >> 1
}
