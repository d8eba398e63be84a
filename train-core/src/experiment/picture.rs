//! Learning curves of a study as pictures.

use std::collections::{BTreeMap, BTreeSet};

use super::Outcome;
use crate::report::{Curve, shares_svg};

/// SVG pictures, one or more for each table: held-out exact rate by optimiser step, the mean over seeds. File names and
/// texts.
#[must_use]
pub fn pictures(outcomes: &[Outcome]) -> Vec<(String, String)> {
    let mut tables: Vec<(String, Vec<Curve>)> = Vec::new();
    for outcome in outcomes {
        let [table, row, column] = &outcome.place;
        let rows = outcomes.iter().filter(|o| o.place[0] == *table && o.place[2] == *column);
        let columns = outcomes.iter().filter(|o| o.place[0] == *table && o.place[1] == *row);
        let count = |outcomes: &mut dyn Iterator<Item = &Outcome>, at: usize| {
            outcomes.map(|o| &o.place[at]).collect::<BTreeSet<_>>().len()
        };
        // A picture by column where there are few, else by row: more than a handful of curves cannot be told apart.
        let by_row = count(&mut rows.clone(), 1) <= count(&mut columns.clone(), 2) + 1;
        let (name, label) = match by_row {
            true => (format!("{table}: {row}"), column.clone()),
            false => (format!("{table}: {column}"), row.clone()),
        };
        let curves = match tables.iter().position(|(known, _)| *known == name) {
            Some(at) => &mut tables[at].1,
            None => {
                tables.push((name, Vec::new()));
                let last = tables.len() - 1;
                &mut tables[last].1
            }
        };
        if curves.iter().all(|c| c.label != label) {
            let seeds: Vec<&Outcome> = outcomes.iter().filter(|o| o.place == outcome.place).collect();
            curves.push(Curve { points: mean_curve(&seeds), label, band: Vec::new() });
        }
    }
    let file = |table: &str| {
        let name = table.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        format!("{}.svg", name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-"))
    };
    let picture = |(table, curves): (String, Vec<Curve>)| {
        let note = "held-out exact rate by optimiser step, mean over seeds";
        Some((file(&table), shares_svg(&table, note, curves)?))
    };
    tables.into_iter().filter_map(picture).collect()
}

/// The mean over seeds at each step that any of them has.
fn mean_curve(seeds: &[&Outcome]) -> Vec<(f64, f64)> {
    let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (step, exact) in seeds.iter().flat_map(|o| &o.exact) {
        let (sum, count) = sums.entry(*step).or_default();
        (*sum, *count) = (*sum + exact, *count + 1.0);
    }
    sums.into_iter().map(|(step, (sum, count))| (step as f64, sum / count)).collect()
}
