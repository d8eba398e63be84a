//! The command line of `cov-eval`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use completion::{Complete, Replay, Server, ServerOptions};
use cov_eval::run::{self, Plan};
use cov_eval::{InstanceKey, Intake, Split, Status, TaskConfig, TaskId, lint, task};

/// Long-form generation tasks, verified by rules.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write the prompts of a plan as JSON lines: instance_id, sample, prompt, max_new_tokens.
    Prompts {
        /// A TOML file with cells, or `longweave` for the whole suite.
        plan: String,
    },
    /// Score a file of answers (JSON lines: instance_id, sample, text, finish) into a run directory.
    Score {
        /// A TOML file with cells, or `longweave` for the whole suite.
        plan: String,
        /// The answers.
        answers: PathBuf,
        /// The run directory; the same command on it goes on where it stopped.
        directory: PathBuf,
    },
    /// Ask a model for a second opinion on answers, which changes no score: agreement and Cohen's kappa by task.
    Judge {
        /// A TOML file with cells, or `longweave` for the whole suite.
        plan: String,
        /// The answers, as for `score`.
        answers: PathBuf,
        /// The run directory; replies are kept in its `judge.jsonl`, and asked for once.
        directory: PathBuf,
        /// `replay:FILE` (replies by `judge_id`) or a server, such as http://localhost:8000/v1.
        #[arg(long)]
        backend: String,
        /// The model's name on the server.
        #[arg(long, default_value = "")]
        model: String,
        /// The environment variable with the server's key.
        #[arg(long)]
        key_variable: Option<String>,
        /// Requests to a server that are under way at one time.
        #[arg(long, default_value_t = 8)]
        concurrency: usize,
    },
    /// Compare two run directories on the instances that both have.
    Compare {
        /// The baseline.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Show an instance, and with an answer its verdicts.
    Show {
        /// An id, such as fsm/v1/test/1024/d1/0/0.
        id: String,
        /// A file with an answer; `oracle` for the perfect one.
        answer: Option<String>,
    },
    /// Check Python files by the rules of `code_fix`, and print file, line and rule of what breaks them; exit code 1 if anything does.
    Lint {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Score answers of no worth.
    Nulls {
        /// Output tokens.
        #[arg(long, default_value_t = 1024)]
        length: u32,
        /// Instances for each cell.
        #[arg(short, long, default_value_t = 100)]
        n: u64,
    },
    /// Check oracles and planted faults of every task and difficulty.
    Selftest {
        /// Output tokens.
        #[arg(long, default_value_t = 1024)]
        length: u32,
        /// Instances for each cell.
        #[arg(short, long, default_value_t = 32)]
        n: u64,
    },
}

fn main() -> ExitCode {
    match execute(Cli::parse().verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn read_plan(name: &str) -> Result<Plan> {
    if name == "longweave" {
        return Ok(Plan::suite(200));
    }
    let text = std::fs::read_to_string(name).with_context(|| name.to_owned())?;
    toml::from_str(&text).with_context(|| name.to_owned())
}

/// 0 complete, 1 broken rules, 3 answers or verdicts missing, 4 a task fails its own test.
fn execute(verb: Verb) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    match verb {
        Verb::Prompts { plan } => {
            for request in run::requests(&read_plan(&plan)?)? {
                writeln!(out, "{}", serde_json::to_string(&request)?)?;
            }
        }
        Verb::Score { plan, answers, directory } => {
            let summary = run::score(&read_plan(&plan)?, &answers, &directory)?;
            write!(out, "{}", summary.to_markdown())?;
            return Ok(if summary.complete { 0 } else { 3 });
        }
        Verb::Judge { plan, answers, directory, backend, model, key_variable, concurrency } => {
            let source: Box<dyn Complete + Send> = match backend.strip_prefix("replay:") {
                Some(file) => Box::new(Replay::open(file.as_ref(), "judge_id")?),
                None => {
                    ensure!(
                        backend.starts_with("http"),
                        "{backend:?} is no backend: expected replay:FILE or http://…"
                    );
                    Box::new(Server::new(ServerOptions {
                        key_variable,
                        concurrency,
                        ..ServerOptions::new(backend, model)
                    })?)
                }
            };
            let (opinion, failure) = run::second_opinion(&read_plan(&plan)?, &answers, source, &directory)?;
            write!(out, "{}", opinion.to_markdown())?;
            if let Some(failure) = failure {
                eprintln!("the judge gave no reply: {failure}");
            }
            return Ok(if opinion.is_complete() { 0 } else { 3 });
        }
        Verb::Compare { first, second } => {
            writeln!(out, "| task | pairs | difference | 95 % | p (Holm) |\n|---|---|---|---|---|")?;
            for (name, c) in run::compare(&first, &second)? {
                let [difference, low, high] = [c.difference, c.interval.0, c.interval.1].map(|x| 100.0 * x);
                writeln!(
                    out,
                    "| {name} | {} | {difference:+.1} | {low:+.1} to {high:+.1} | {:.4} |",
                    c.pairs, c.p
                )?;
            }
        }
        Verb::Show { id, answer } => show(&mut out, &id, answer.as_deref())?,
        Verb::Lint { files } => {
            let mut clean = true;
            for file in files {
                let source = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let found = lint(&source).with_context(|| format!("{} cannot be parsed", file.display()))?;
                for (line, code) in found {
                    writeln!(out, "{}:{line}: {code}", file.display())?;
                    clean = false;
                }
            }
            return Ok(u8::from(!clean));
        }
        Verb::Nulls { length, n } => {
            writeln!(out, "| task | d | null | mean |\n|---|---|---|---|")?;
            for (id, difficulty) in cells() {
                let mut sums: Vec<(&str, f64)> = Vec::new();
                for index in 0..n {
                    let instance = instance(id, length, difficulty, index)?;
                    for (name, text) in task(id).nulls(&instance) {
                        let score = task(id).verify(&instance, &Intake::from(text.as_str())).score;
                        match sums.iter_mut().find(|(known, _)| *known == name) {
                            Some((_, sum)) => *sum += score,
                            None => sums.push((name, score)),
                        }
                    }
                }
                for (name, sum) in sums {
                    writeln!(out, "| {id} | {difficulty} | {name} | {:.4} |", sum / n as f64)?;
                }
            }
        }
        Verb::Selftest { length, n } => {
            let mut failures = 0;
            for (id, difficulty) in cells() {
                let mut placed = std::collections::HashSet::new();
                for index in 0..n {
                    let instance = instance(id, length, difficulty, index)?;
                    let oracle = task(id).oracle(&instance);
                    let score = |text: &str| task(id).verify(&instance, &Intake::from(text)).score;
                    let mut fail = |what: &str, score: f64| {
                        failures += 1;
                        eprintln!("{}: {what} scores {score}", instance.id);
                    };
                    if score(&oracle) != 1.0 {
                        fail("the oracle", score(&oracle));
                    }
                    for kind in task(id).plants() {
                        // Not every fault has a place in every instance.
                        let rng = &mut instance.key.rng("plant");
                        let Some(planted) = task(id).plant(&instance, &oracle, kind, rng) else { continue };
                        placed.insert(*kind);
                        let found = score(&planted.text);
                        if found >= 1.0 {
                            fail(kind, found);
                        }
                    }
                }
                for kind in task(id).plants().iter().filter(|kind| !placed.contains(*kind)) {
                    eprintln!("{id} difficulty {difficulty}: no place for {kind}");
                }
                writeln!(out, "{id} difficulty {difficulty}: {n} instances")?;
            }
            return Ok(if failures == 0 { 0 } else { 4 });
        }
    }
    Ok(0)
}

fn cells() -> impl Iterator<Item = (TaskId, u8)> {
    TaskId::ALL.iter().flat_map(|&id| (0..=3).map(move |difficulty| (id, difficulty)))
}

fn instance(id: TaskId, length: u32, difficulty: u8, index: u64) -> Result<cov_eval::Instance> {
    let version = task(id).version();
    let key = InstanceKey { task: id, version, split: Split::Val, length, difficulty, base_seed: 0, index };
    Ok(task(id).generate(&key, &TaskConfig::default())?)
}

fn show(out: &mut impl Write, id: &str, answer: Option<&str>) -> Result<()> {
    let key = InstanceKey::from_id(id)?;
    let instance = task(key.task).generate(&key, &TaskConfig::default())?;
    writeln!(out, "{}\n\n{}", instance.id, instance.prompt.user)?;
    let Some(answer) = answer else { return Ok(()) };
    let text = match answer {
        "oracle" => task(key.task).oracle(&instance),
        path => {
            ensure!(Path::new(path).is_file(), "{path} is no file");
            String::from_utf8_lossy(&std::fs::read(path)?).into_owned()
        }
    };
    let intake = Intake::from(text.as_str());
    let found = task(key.task).verify(&instance, &intake);
    writeln!(out, "\nscore {} (dense {}), gate {:?}", found.score, found.dense, found.gate)?;
    writeln!(out, "components {:?}, multipliers {:?}", found.components, found.multipliers)?;
    writeln!(out, "flags {:?}\n", found.flags.names())?;
    for (verdict, constraint) in found.verdicts.iter().zip(&instance.constraints) {
        let quote = verdict.spans.first().and_then(|s| intake.visible.get(s.start as usize..s.end as usize));
        let quote: String = quote.unwrap_or_default().chars().take(60).collect();
        let mark = if verdict.status == Status::Pass { "pass" } else { "LOST" };
        writeln!(
            out,
            "{mark} {}:{} {:.3} {:?} {quote:?}",
            constraint.kind, constraint.target, verdict.credit, verdict.reason
        )?;
    }
    Ok(())
}
