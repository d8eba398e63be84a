//! Faults in a trace.

use super::machine::Machine;
use super::{FsmTargets, Row, lines, name, output_symbol, verify};
use crate::key::DetRng;
use crate::model::{Instance, PlantKind, Planted};

pub(super) fn plant(
    instance: &Instance,
    targets: &FsmTargets,
    answer: &str,
    kind: PlantKind,
    rng: &mut DetRng,
) -> Option<Planted> {
    let expected = targets.rows();
    let mut rows: Vec<Row> = verify::rows(answer).into_iter().map(|row| row.map(str::to_owned)).collect();
    let n = expected.len();
    let right: Vec<usize> = (0..n.min(rows.len())).filter(|&i| rows[i] == expected[i]).collect();
    if right.is_empty() {
        return None;
    }
    let at = *rng.pick(&right);
    let Machine { states, outputs, .. } = targets.machine;
    let steps = |wanted: &dyn Fn(usize) -> bool| instance.ids(|kind, i| kind == "step" && wanted(i));
    let count = || instance.ids(|kind, _| kind == "row_count");
    let from_here = |i: usize| i >= at;
    let mut preamble = String::new();
    let (must_fail, may_fail) = match kind {
        "wrong_output" => {
            let other = (0..outputs).map(|o| output_symbol(outputs, o)).filter(|o| *o != expected[at][4]);
            rows[at][4] = rng.pick(&other.collect::<Vec<_>>()).clone();
            (steps(&|i| i == at), vec![])
        }
        "wrong_next" => {
            let true_next = expected[at][3].clone();
            let wrong = *rng.pick(&(0..states).filter(|&s| name(s) != true_next).collect::<Vec<_>>());
            rows[at][3] = name(wrong);
            rows.truncate(at + 1);
            rows.extend(targets.continued(at + 1, wrong));
            (steps(&|i| i == at || (i == at + 1 && right.contains(&i))), steps(&|i| i > at + 1))
        }
        "missing_row" => {
            rows.remove(at);
            let mut must = steps(&|i| i >= at && right.contains(&i));
            must.extend(count().into_iter().filter(|_| rows.len() < n));
            (must, vec![])
        }
        "duplicated_row" => {
            rows.insert(at, rows[at].clone());
            let mut must = steps(&|i| i > at && right.contains(&i));
            must.extend(count().into_iter().filter(|_| rows.len() > n));
            (must, count())
        }
        "extra_rows" => {
            let mut extra = expected[n - 1].clone();
            for _ in 0..2 {
                extra[0] = (rows.len() + 1).to_string();
                rows.push(extra.clone());
            }
            (count(), vec![])
        }
        "shifted_steps" => {
            for (i, row) in rows.iter_mut().enumerate().filter(|&(i, _)| from_here(i)) {
                row[0] = i.to_string();
            }
            (steps(&|i| from_here(i) && right.contains(&i)), vec![])
        }
        "long_preamble" => {
            for i in 0..10 {
                preamble.push_str(&format!("Thinking about the machine, part {i}.\n"));
            }
            (instance.ids(|kind, _| kind == "no_extra_text"), vec![])
        }
        _ => return None,
    };
    Some(Planted { text: preamble + &lines(&rows), must_fail, may_fail })
}
