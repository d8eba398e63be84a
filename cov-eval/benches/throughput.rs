//! Instances made and answers verified in a second, on one thread; and the published formulas in Python on the same
//! answers, as a ratio in the same run (`published.py`; `PYTHON` names another interpreter than `python3`).

#![allow(clippy::print_stdout)] // its output is the table

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use cov_eval::{InstanceKey, Intake, Split, TaskConfig, TaskId, compat, task};

const INSTANCES: u64 = 64;
const ROUNDS: usize = 8;

/// Calls a second.
fn rate(calls: usize, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    calls as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let mut python = Command::new(std::env::var("PYTHON").unwrap_or_else(|_| "python3".into()))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/published.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok();
    let mut cells = Vec::new();
    for &id in TaskId::ALL {
        for length in [1024, 8192] {
            let version = task(id).version();
            let key = |index| InstanceKey {
                task: id,
                version,
                split: Split::Test,
                length,
                difficulty: 1,
                base_seed: 0,
                index,
            };
            let config = TaskConfig::default();
            let mut instances = Vec::new();
            let made = rate(INSTANCES as usize, || {
                instances.extend((0..INSTANCES).filter_map(|i| task(id).generate(&key(i), &config).ok()));
            });
            let answers: Vec<String> = instances.iter().map(|i| task(id).oracle(i)).collect();
            let calls = ROUNDS * answers.len();
            let each = |run: &dyn Fn(&cov_eval::Instance, &Intake)| {
                for _ in 0..ROUNDS {
                    instances.iter().zip(&answers).for_each(|(i, a)| run(i, &Intake::from(a.as_str())));
                }
            };
            let verified = rate(calls, || {
                each(&|instance, answer| assert!(task(id).verify(instance, answer).score == 1.0));
            });
            // A perfect repair has one violation there: no line end after its last line.
            let perfect = if id == TaskId::CodeFix { 0.993 } else { 1.0 };
            let published =
                rate(calls, || each(&|instance, answer| assert!(compat::score(instance, answer) >= perfect)));
            if let Some(stdin) = python.as_mut().and_then(|p| p.stdin.as_mut()) {
                for (instance, answer) in instances.iter().zip(&answers) {
                    let line = serde_json::json!({
                        "cell": format!("{id} {length}"), "answer": answer, "targets": instance.targets,
                    });
                    writeln!(stdin, "{line}").expect("python3 reads its input");
                }
            }
            cells.push((id, length, made, verified, published));
        }
    }
    let output = python.map(|p| p.wait_with_output().expect("python3 ends"));
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let in_python = |cell: &str| {
        let line = text.lines().find(|line| line.starts_with(cell))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    println!(
        "| task | length | made /s | verified /s | published formula /s | in Python /s | verified ÷ Python |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (id, length, made, verified, published) in cells {
        let python = in_python(&format!("{id} {length} "));
        let (rate, ratio) = python
            .map_or(("–".into(), "–".into()), |r| (format!("{r:.0}"), format!("{:.1}", verified / r)));
        println!("| {id} | {length} | {made:.0} | {verified:.0} | {published:.0} | {rate} | {ratio} |");
    }
}
