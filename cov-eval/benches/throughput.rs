//! Instances made and answers verified in a second of processor time, on one thread; and the published formulas in Python on
//! the same answers, as a ratio in the same run (`published.py`; `PYTHON` names another interpreter than `python3`, and `LONGWEAVE`
//! a checkout of the public code, which is timed, too). Time that other programs have is not counted, so that little depends on
//! them. Then what a batch of rewards takes, in time on the clock with all threads and in memory. `cargo bench … -- code_fix fsm` times
//! these tasks alone.

#![allow(clippy::print_stdout)] // its output is the table

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use cov_eval::{
    Completion, Instance, InstanceKey, Intake, RewardModel, Split, TaskConfig, TaskId, compat, task,
};

const INSTANCES: usize = 32;
/// Seconds of a measurement.
const SECONDS: f64 = 0.6;

/// Seconds that processors have spent on this process, all of its threads, in hundredths; `None` where Linux's `/proc` is not.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which ends in the last bracket, these are the 12th and 13th fields (proc_pid_stat(5)).
    let ticks = stat.rsplit(')').next()?.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Some(ticks.sum::<Result<f64, _>>().ok()? / 100.0)
}

/// Calls a second: `run` by turns on each of so many things, for as long as a measurement takes.
fn rate(things: usize, mut run: impl FnMut(usize)) -> f64 {
    let begin = Instant::now();
    let spent = || processor_seconds().unwrap_or_else(|| begin.elapsed().as_secs_f64());
    let (start, mut calls, mut looked) = (spent(), 0, begin);
    loop {
        run(calls % things);
        calls += 1;
        if calls >= things && looked.elapsed().as_secs_f64() > 0.02 {
            looked = Instant::now();
            let seconds = spent() - start;
            if seconds >= SECONDS {
                return calls as f64 / seconds;
            }
        }
    }
}

/// Answers in a batch of rewards.
const BATCH: usize = 1024;

/// A row on a batch of rewards: its text, seconds, and the most memory that the process held meanwhile.
fn batch(id: TaskId, instances: &[Instance], answers: &[String]) -> String {
    let answers: Vec<Completion> =
        answers.iter().cycle().take(BATCH).map(|answer| Completion::from(answer.as_str())).collect();
    let items: Vec<_> = instances.iter().cycle().zip(&answers).collect();
    let bytes: usize = answers.iter().map(|answer| answer.text.len()).sum();
    // The peak begins anew (proc_pid_clear_refs(5)).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let begin = Instant::now();
    assert!(RewardModel::default().reward_batch(&items).iter().all(|reward| reward.value == 1.0));
    let seconds = begin.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    let peak = peak.map_or("–".into(), |kib| format!("{:.0}", kib / 1024.0));
    format!("| {id} | {:.1} | {seconds:.2} | {peak} |", bytes as f64 / 1e6)
}

fn main() {
    let mut batches = Vec::new();
    let mut python = Command::new(std::env::var("PYTHON").unwrap_or_else(|_| "python3".into()))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/published.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok();
    let mut cells = Vec::new();
    // Cargo adds options of its own.
    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    for &id in
        TaskId::ALL.iter().filter(|id| named.is_empty() || named.iter().any(|name| name == id.as_str()))
    {
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
            let make =
                |i: usize| task(id).generate(&key(i as u64), &config).expect("the key is within its ranges");
            let instances: Vec<_> = (0..INSTANCES).map(make).collect();
            let answers: Vec<String> = instances.iter().map(|i| task(id).oracle(i)).collect();
            let made = rate(INSTANCES, |i| drop(make(i)));
            let verified = rate(INSTANCES, |i| {
                assert!(task(id).verify(&instances[i], &Intake::from(answers[i].as_str())).score == 1.0);
            });
            // A perfect repair has one violation there: no line end after its last line.
            let perfect = if id == TaskId::CodeFix { 0.993 } else { 1.0 };
            let published = rate(INSTANCES, |i| {
                assert!(compat::score(&instances[i], &Intake::from(answers[i].as_str())) >= perfect);
            });
            if let Some(stdin) = python.as_mut().and_then(|p| p.stdin.as_mut()) {
                for (instance, answer) in instances.iter().zip(&answers) {
                    let line = serde_json::json!({
                        "cell": format!("{id} {length}"), "answer": answer, "targets": instance.targets,
                    });
                    writeln!(stdin, "{line}").expect("python3 reads its input");
                }
            }
            cells.push((id, length, made, verified, published));
            if length == 8192 {
                batches.push(batch(id, &instances, &answers));
            }
        }
    }
    let output = python.map(|p| p.wait_with_output().expect("python3 ends"));
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let in_python = |cell: &str| -> Vec<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(cell));
        line.into_iter().flat_map(str::split_whitespace).filter_map(|rate| rate.parse().ok()).collect()
    };
    println!(
        "| task | length | made /s | verified /s | published formula /s | in Python /s | verified ÷ that | public code /s | verified ÷ \
         that |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (id, length, made, verified, published) in cells {
        let rates = in_python(&format!("{id} {length} "));
        let peer = |i: usize| match rates.get(i) {
            Some(rate) => format!("{rate:.0} | {:.1}", verified / rate),
            None => "– | –".into(),
        };
        let [formula, public] = [peer(0), peer(1)];
        println!("| {id} | {length} | {made:.0} | {verified:.0} | {published:.0} | {formula} | {public} |");
    }
    println!("\n| rewards of {BATCH} answers of 8192 tokens | MB | s | peak MiB |\n|---|---|---|---|");
    batches.iter().for_each(|row| println!("{row}"));
}
