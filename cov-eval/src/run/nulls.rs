//! What answers of no worth get on the instances of a plan: a score means what it has above these.

use rayon::prelude::*;

use super::summary::Means;
use super::{Item, Plan, RunError};
use crate::intake::Intake;
use crate::tasks::task;

/// Instances of a cell that are tried.
const INSTANCES: usize = 20;

/// For each cell of a plan: the mean score of each kind of worthless answer, by its name.
pub(super) type Nulls = Vec<Vec<(String, f64)>>;

/// Scores them all.
///
/// # Errors
/// An instance that cannot be made.
pub(super) fn measure(plan: &Plan, items: &[Item]) -> Result<Nulls, RunError> {
    let of_instance = |item: &Item| -> Result<Vec<(&'static str, f64)>, RunError> {
        let task = task(item.key.task);
        let instance = task.generate(&item.key, &item.config)?;
        let score = |(name, text): (&'static str, String)| {
            (name, task.verify(&instance, &Intake::from(text.as_str())).score)
        };
        Ok(task.nulls(&instance).into_iter().map(score).collect())
    };
    let of_cell = |cell: usize| {
        let own = items.iter().filter(|item| item.cell == cell && item.sample == 0).take(INSTANCES);
        let own: Vec<&Item> = own.collect();
        let scores: Vec<Vec<(&str, f64)>> = own.into_par_iter().map(of_instance).collect::<Result<_, _>>()?;
        let mut means = Means::default();
        scores.into_iter().flatten().for_each(|(name, score)| means.add(name, score, 1.0));
        Ok(means.finish())
    };
    (0..plan.cells.len()).map(of_cell).collect()
}
