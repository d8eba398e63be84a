//! Tasks from steps and pairs.

use super::prompt::{Prompt, Shown, Variant, best_of_prompt, pair_prompt, point_prompt};
use crate::parse::NoForm;
use crate::random::bits;
use crate::record::{Kind, Orientation, Pair, Response, Step, Task};
use crate::rule::Rational;
use crate::value::{Map, Val};

/// The orientation that a pair is trained in: a coin of `(seed, pair id)`, the same wherever the pair stands.
pub fn orientation(seed: u64, pair_id: &str) -> Orientation {
    if bits(seed, pair_id, 0) & 1 == 1 { Orientation::Swapped } else { Orientation::Original }
}

fn task(id: String, kind: Kind, prompt: Prompt, label: Option<String>, variant: Variant) -> Task {
    let mut meta = Map::default();
    meta.insert("variant".into(), variant.name().into());
    if prompt.broken_tags > 0 {
        meta.insert("broken_tags".into(), Val::Int(prompt.broken_tags as i64));
    }
    Task {
        id,
        pair_id: None,
        kind,
        prompt: prompt.text,
        label,
        orientation: Orientation::Original,
        split: String::new(),
        meta,
    }
}

/// The task of a pair. Its label is the place of the chosen response: `1` in the original orientation, `2` swapped.
///
/// # Errors
/// [`NoForm`] when calls or tools hold a value that JSON has not.
pub fn pair_task(
    step: &Step,
    pair: &Pair,
    orientation: Orientation,
    variant: Variant,
) -> Result<Task, NoForm> {
    let (chosen, rejected) = (Shown::from(&pair.chosen), Shown::from(&pair.rejected));
    let (shown, label) = match orientation {
        Orientation::Original => ([chosen, rejected], "1"),
        Orientation::Swapped => ([rejected, chosen], "2"),
    };
    let prompt = pair_prompt(&step.tools, &step.history, shown, variant)?;
    let id = format!("{}-{}", pair.id, orientation.name());
    let mut task = task(id, Kind::Pairwise, prompt, Some(label.to_owned()), variant);
    task.pair_id = Some(pair.id.clone());
    task.orientation = orientation;
    task.split = pair.source.clone();
    Ok(task)
}

/// The task of one response: its label is `correct` when its score is 1, else `revise`.
///
/// # Errors
/// As [`pair_task`].
pub fn point_task(step: &Step, id: &str, response: &Response, variant: Variant) -> Result<Task, NoForm> {
    let prompt = point_prompt(&step.tools, &step.history, response.into(), variant)?;
    let label = if response.score == Rational::ONE { "correct" } else { "revise" };
    let mut task = task(id.to_owned(), Kind::Pointwise, prompt, Some(label.to_owned()), variant);
    task.split = step.source.clone();
    Ok(task)
}

/// The task of several responses in the order given; `n` in its `meta` is their count, and its label the place of the first
/// with the highest score.
///
/// # Errors
/// As [`pair_task`].
pub fn best_of_task(step: &Step, id: &str, responses: &[Response], variant: Variant) -> Result<Task, NoForm> {
    let shown: Vec<Shown<'_>> = responses.iter().map(Shown::from).collect();
    let prompt = best_of_prompt(&step.tools, &step.history, &shown, variant)?;
    let best = (0..responses.len()).rev().max_by_key(|i| responses[*i].score);
    let label = best.map(|i| (i + 1).to_string());
    let mut task = task(id.to_owned(), Kind::BestOfN, prompt, label, variant);
    task.meta.insert("n".into(), Val::Int(responses.len() as i64));
    task.split = step.source.clone();
    Ok(task)
}
