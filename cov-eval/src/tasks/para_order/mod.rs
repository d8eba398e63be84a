//! `para_order`: shuffled paragraphs, written out in their order.
//!
//! `(0.6·T + 0.4·A) · κ · n / max(n, b)`: concordance of pairs, kept neighbours, fidelity of the copies, and no more
//! blocks than segments. Any order that is no better than chance gets next to nothing.

mod distance;
mod plant;
mod story;
mod verify;

use serde::{Deserialize, Serialize};

use crate::aggregate;
use crate::error::GenError;
use crate::intake::Intake;
use crate::key::{DetRng, InstanceKey, TaskId};
use crate::length::{interpolated, target_words};
use crate::model::{
    Constraints, Instance, MaterialKind, Parts, PlantKind, Planted, Task, TaskConfig, Verification,
};
use crate::tasks::{self, Targets};

/// The task.
pub(super) struct ParaOrder;

const VERSION: u32 = 1;

/// Orders that are tried before [`constructed`] is taken.
const REDRAWS: usize = 1000;

/// The segments in their order, each with the number it is shown by (from 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParaOrderTargets {
    segments: Vec<String>,
    numbers: Vec<usize>,
}

impl ParaOrderTargets {
    /// Whether the same order is asked for, of segments in other words.
    #[cfg(test)]
    pub(crate) fn differs_in_wording(&self, other: &Self) -> bool {
        self.numbers == other.numbers && self.segments != other.segments
    }

    /// Segments asked for.
    pub(crate) fn count(&self) -> usize {
        self.segments.len()
    }

    /// The segments that the tags of an answer name, in its order; an unknown number is one past the last.
    pub(crate) fn order_of(&self, visible: &str) -> Vec<usize> {
        let segment = |number: usize| self.numbers.iter().position(|&x| x == number).unwrap_or(self.count());
        verify::read_blocks(visible).into_iter().map(|(number, ..)| segment(number)).collect()
    }
}

fn targets(instance: &Instance) -> Option<&ParaOrderTargets> {
    match &instance.targets {
        Targets::ParaOrder(targets) => Some(targets),
        _ => None,
    }
}

/// Concordant less discordant pairs.
fn concordance(order: &[usize]) -> i64 {
    let pairs = order.iter().enumerate().flat_map(|(i, a)| order[i + 1..].iter().map(move |b| a < b));
    pairs.map(|ordered| if ordered { 1 } else { -1 }).sum()
}

/// Kendall's τ of an order, 0 for fewer than two.
pub(crate) fn tau(order: &[usize]) -> f64 {
    let pairs = order.len() * order.len().saturating_sub(1) / 2;
    if pairs == 0 { 0.0 } else { concordance(order) as f64 / pairs as f64 }
}

/// Whether an order tells nothing: no neighbours kept (from 6 segments on), τ within ±0.4.
fn tells_nothing(order: &[usize]) -> bool {
    let kept = order.windows(2).any(|pair| pair[0] + 1 == pair[1]);
    (order.len() < 6 || !kept) && tau(order).abs() <= 0.4
}

/// An order that tells nothing, without trial: every second from the start, then the others backwards.
fn constructed(n: usize) -> Vec<usize> {
    let first = (n + 1) % 2;
    let up = (first..n).step_by(2);
    let down = ((1 - first)..n).step_by(2).collect::<Vec<_>>().into_iter().rev();
    up.chain(down).collect()
}

fn shown_order(n: usize, rng: &mut DetRng) -> Vec<usize> {
    let drawn = (0..REDRAWS).map(|_| rng.sample(n, n)).find(|order| tells_nothing(order));
    drawn.unwrap_or_else(|| constructed(n))
}

fn tag(number: usize) -> String {
    format!("[[Segment {number}]]")
}

impl Task for ParaOrder {
    fn version(&self) -> u32 {
        VERSION
    }

    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError> {
        tasks::check(TaskId::ParaOrder, VERSION, key, cfg)?;
        let n = interpolated([8, 12, 20, 32], key.length, 4);
        let segments = story::tell(key, n, target_words(key.length) as usize);
        let order = shown_order(n, &mut key.rng("material"));
        let mut numbers = vec![0; n];
        order.iter().enumerate().for_each(|(shown, &segment)| numbers[segment] = shown + 1);
        let block = |(shown, &segment): (usize, &usize)| format!("{}\n{}", tag(shown + 1), segments[segment]);
        let material = order.iter().enumerate().map(block).collect::<Vec<_>>().join("\n\n");

        let mut constraints = Constraints::default();
        let locus = |i: usize| Some(i as f64 / (n - 1) as f64);
        for i in 0..n {
            constraints.push("exactly_once", i, locus(i));
            constraints.push("verbatim", i, locus(i));
        }
        (0..n - 1).for_each(|i| constraints.push("adjacent", i, locus(i)));
        constraints.whole("global_order");
        let query = format!(
            "The {n} segments of a report are out of order. Put them back in the one order in which each segment \
             takes up what the one before it brought in: a person first introduced in full, an object left behind, \
             an incident named.\n\n\
             1. exactly_once: every segment exactly once; further blocks lower the score.\n\
             2. verbatim: its text copied in full, unchanged.\n\
             3. adjacent: segments that belong next to each other stand next to each other.\n\
             4. global_order: earlier segments stand before later ones.\n\
             The numbers of the segments say nothing about the order."
        );
        let contract =
            "Write all segments in the right order, and nothing else. Each is a line with its tag, \
                        [[Segment X]], X being its number above, and its text on the next line."
                .to_owned();
        Ok(Instance::assemble(
            key,
            cfg,
            Parts {
                query,
                material: (MaterialKind::Segments, material),
                contract,
                constraints,
                targets: Targets::ParaOrder(ParaOrderTargets { segments, numbers }),
                prose: false,
            },
        ))
    }

    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification {
        aggregate::verify(instance, answer, |visible| verify::analyse(instance, visible))
    }

    fn oracle(&self, instance: &Instance) -> String {
        let Some(targets) = targets(instance) else { return String::new() };
        let blocks = targets.numbers.iter().copied().zip(targets.segments.iter().cloned());
        render(&blocks.collect::<Vec<_>>())
    }

    fn plants(&self) -> &'static [PlantKind] {
        &[
            "adjacent_swap",
            "far_swap",
            "rotate",
            "drop_first",
            "drop_last",
            "duplicate_block",
            "edit_block",
            "wrong_id",
            "untagged",
        ]
    }

    fn plant(&self, instance: &Instance, answer: &str, kind: PlantKind, rng: &mut DetRng) -> Option<Planted> {
        plant::plant(instance, targets(instance)?, answer, kind, rng)
    }

    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)> {
        let mut nulls = tasks::common_nulls(instance);
        let Some(targets) = targets(instance) else { return nulls };
        let n = targets.segments.len();
        let mut rng = instance.key.rng("plant");
        let block = |segment: usize| (targets.numbers[segment], targets.segments[segment].clone());
        let by_number = |number: usize| targets.numbers.iter().position(|&x| x == number).map(block);
        let constant: Vec<_> = (1..=n).rev().filter_map(by_number).collect();
        let random: Vec<_> = rng.sample(n, n).into_iter().map(block).collect();
        // Everything twice, in two random orders.
        let twice: Vec<_> = random.iter().cloned().chain(rng.sample(n, n).into_iter().map(block)).collect();
        nulls.extend([
            ("constant", render(&constant)),
            ("random", render(&random)),
            ("cheat", render(&twice)),
        ]);
        nulls
    }
}

fn render(blocks: &[(usize, String)]) -> String {
    blocks.iter().map(|(number, text)| format!("{}\n{text}", tag(*number))).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests;
