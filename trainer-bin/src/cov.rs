//! `cov`: long-form tasks, verified by rules (`cov-eval`), asked of a model, a server or a file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use completion::{Complete, Sampling, Server, ServerOptions};
use cov_eval::run::{Asking, Cell, Evaluation, Plan, evaluate, score, second_opinion};
use cov_eval::{Split, TaskId};
use indicatif::{ProgressBar, ProgressStyle};
use train_core::local::{LocalModel, LocalOptions};

use crate::cli::ProductType;

/// Who is asked, and what.
#[derive(Args, Clone)]
pub(crate) struct CovArgs {
    /// A run directory, a Hugging Face directory or a GGUF file; the address of an OpenAI-compatible server, such as
    /// http://localhost:8000/v1; or a file of answers (`.jsonl`: instance_id, sample, text, finish).
    source: String,
    /// The directory of the evaluation. The same command goes on with it.
    output: PathBuf,
    /// Tasks, by commas (default: all seven).
    #[arg(long, value_delimiter = ',', default_values_t = TaskId::ALL.to_vec())]
    tasks: Vec<TaskId>,
    /// Lengths of answers in tokens, 256 to 32768, by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1024])]
    lengths: Vec<u32>,
    /// Difficulties, 0 to 3, by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    difficulties: Vec<u8>,
    /// Instances of each task, length and difficulty.
    #[arg(long, short = 'n', default_value_t = 20)]
    instances: u64,
    /// Answers to each instance.
    #[arg(long, default_value_t = 1)]
    samples: u32,
    /// The population of instances: train, val, test or canary.
    #[arg(long, default_value_t = Split::Test)]
    split: Split,
    /// Makes the instances.
    #[arg(long, default_value_t = 0)]
    base_seed: u64,
    /// Pads the material to about so many tokens, where the task can be padded.
    #[arg(long)]
    in_tokens: Option<u32>,
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Keep the likeliest tokens of this total probability.
    #[arg(long, default_value_t = 0.8)]
    top_p: f32,
    /// Decides every draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Answers at one time.
    #[arg(long, default_value_t = 16)]
    rows: usize,
    /// Of matrix products, for a model of this machine.
    #[arg(long, value_enum, default_value = "f32")]
    precision: ProductType,
    /// Continue prompts as they are, rather than put them by the model's chat template.
    #[arg(long)]
    raw: bool,
    /// The model's name on a server.
    #[arg(long, default_value = "default")]
    served: String,
    /// The environment variable with the server's key.
    #[arg(long)]
    key_variable: Option<String>,
    /// A model of this machine for a second opinion on the answers, which changes no score: a run directory, a Hugging Face directory or
    /// a GGUF file. A server is asked by `cov-eval judge`.
    #[arg(long)]
    judge: Option<PathBuf>,
}

impl CovArgs {
    fn plan(&self) -> Plan {
        let mut cells = Vec::new();
        for &task in &self.tasks {
            for &length in &self.lengths {
                for &difficulty in &self.difficulties {
                    cells.push(Cell {
                        task,
                        length,
                        difficulty,
                        n: self.instances,
                        in_tokens: self.in_tokens,
                    });
                }
            }
        }
        Plan { split: self.split, base_seed: self.base_seed, samples_per_instance: self.samples, cells }
    }

    fn open(&self) -> Result<Box<dyn Complete>> {
        if self.source.starts_with("http://") || self.source.starts_with("https://") {
            let (key_variable, concurrency) = (self.key_variable.clone(), self.rows);
            let options = ServerOptions::new(&self.source, &self.served);
            return Ok(Box::new(Server::new(ServerOptions { key_variable, concurrency, ..options })?));
        }
        Ok(Box::new(self.local(Path::new(&self.source))?))
    }

    fn local(&self, path: &Path) -> Result<LocalModel> {
        let options = LocalOptions {
            chat: !self.raw,
            matmul_precision: self.precision.of_products(),
            rows: self.rows,
            ..LocalOptions::default()
        };
        Ok(LocalModel::open(path, options)?)
    }
}

/// Prints what a model says of the answers, and whether that is complete.
fn judged(args: &CovArgs, plan: &Plan, answers: &Path, judge: &Path) -> Result<bool> {
    let model = args.local(judge).with_context(|| judge.display().to_string())?;
    let (opinion, failure) = second_opinion(plan, answers, model, &args.output)?;
    write!(std::io::stdout(), "\n{}", opinion.to_markdown())?;
    if let Some(failure) = failure {
        eprintln!("the judge gave no reply: {failure}");
    }
    Ok(opinion.is_complete())
}

/// Evaluates, prints the tables, and says by its exit code whether answers or a judge's verdicts are missing (3).
pub(crate) fn cov(args: &CovArgs) -> Result<ExitCode> {
    let plan = args.plan();
    // Before a model is read.
    plan.items()?;
    let is_file = Path::new(&args.source).extension().is_some_and(|e| e == "jsonl");
    let Evaluation { summary, failures } = if is_file {
        let summary = score(&plan, Path::new(&args.source), &args.output)?;
        Evaluation { summary, failures: Vec::new() }
    } else {
        let style = ProgressStyle::with_template("{pos} of {len} answers, {elapsed} so far, {eta} to go")?;
        let bar = ProgressBar::new(0).with_style(style);
        let sampling = Sampling {
            temperature: Some(args.temperature),
            top_p: Some(args.top_p),
            seed: Some(args.seed),
            ..Sampling::greedy(0)
        };
        let asking = Asking { sampling, at_a_time: args.rows };
        let source = args.open().with_context(|| args.source.clone())?;
        evaluate(&plan, source, &asking, &args.output, move |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?
    };
    failures.iter().for_each(|error| eprintln!("{error}"));
    write!(std::io::stdout(), "{}", summary.to_markdown())?;
    if !summary.complete {
        eprintln!("answers are missing; the same command asks for them again");
    }
    let answers = if is_file { PathBuf::from(&args.source) } else { args.output.join("generations.jsonl") };
    let complete = match &args.judge {
        Some(judge) => judged(args, &plan, &answers, judge)? && summary.complete,
        None => summary.complete,
    };
    Ok(ExitCode::from(if complete { 0 } else { 3 }))
}
