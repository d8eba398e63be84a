//! Instances made and answers verified in a second on one thread: half of a floor at least. Optimised builds are five times
//! above the floors and more (`cargo bench -p cov-eval`), so that this notices what grew by orders, not by percents.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use cov_eval::{InstanceKey, Intake, Split, TaskConfig, TaskId, task};

/// Made in a second at 1024 and 8192 tokens, verified in a second at both.
fn floors(id: TaskId) -> [[f64; 2]; 2] {
    match id {
        TaskId::Fsm => [[3000.0, 1500.0], [10_000.0, 2000.0]],
        TaskId::KvDict => [[3000.0, 600.0], [8000.0, 1000.0]],
        TaskId::ParaOrder => [[500.0, 80.0], [2000.0, 300.0]],
        TaskId::KgBio => [[300.0, 40.0], [1000.0, 120.0]],
        TaskId::ApNews => [[300.0, 60.0], [500.0, 60.0]],
        TaskId::SalesReport => [[150.0, 30.0], [1000.0, 150.0]],
        TaskId::CodeFix => [[60.0, 8.0], [150.0, 20.0]],
    }
}

/// Edited paragraphs are compared letter by letter.
const EDITED: [f64; 2] = [500.0, 60.0];

const INSTANCES: usize = 4;

/// The highest rate of five rounds of `run` on each instance, a second: other work on the machine has to meet all of them.
fn rate(mut run: impl FnMut(usize)) -> f64 {
    let mut round = || {
        let begin = Instant::now();
        (0..INSTANCES).for_each(&mut run);
        INSTANCES as f64 / begin.elapsed().as_secs_f64()
    };
    (0..5).map(|_| round()).fold(0.0, f64::max)
}

#[test]
fn no_task_is_slow() {
    for &id in TaskId::ALL {
        for (length, i) in [(1024, 0), (8192, 1)] {
            let (task, config) = (task(id), TaskConfig::default());
            let key = |index| InstanceKey {
                task: id,
                version: task.version(),
                split: Split::Test,
                length,
                difficulty: 1,
                base_seed: 0,
                index,
            };
            let make = |i: usize| task.generate(&key(i as u64), &config).unwrap();
            let instances: Vec<_> = (0..INSTANCES).map(make).collect();
            let answers: Vec<String> = instances.iter().map(|i| task.oracle(i)).collect();
            let verify = |answers: &[String]| {
                rate(|i| drop(task.verify(&instances[i], &Intake::from(answers[i].as_str()))))
            };
            let [made, verified] = floors(id);
            let mut found =
                vec![("made", rate(|i| drop(make(i))), made[i]), ("verified", verify(&answers), verified[i])];
            if id == TaskId::ParaOrder {
                let edited = |(instance, answer): (_, &String)| {
                    let mut rng = key(0).rng("plant");
                    task.plant(instance, answer, "edit_block", &mut rng).unwrap().text
                };
                let edited: Vec<String> = instances.iter().zip(&answers).map(edited).collect();
                found.push(("verified with an edit", verify(&edited), EDITED[i]));
            }
            for (what, rate, floor) in found {
                assert!(
                    rate >= 0.5 * floor,
                    "{id} of {length} tokens: {rate:.0} {what} a second, half of {floor} wanted"
                );
            }
        }
    }
}
