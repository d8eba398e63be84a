//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use train_core::data::MediaFile;

use crate::cov::CovArgs;
use crate::judge::{JudgeArgs, ScoredArgs, StrategyName};
use crate::{
    bench, configs, convert, cov, describe, doctor, experiment, gate, generate, inspect, judge, run, what_if,
};

/// Reinforcement-learning post-training of language models.
///
/// Without arguments: trains a small mixture of experts to write digits backwards, from random weights, in one
/// or two minutes, and leaves a report.
#[derive(Parser)]
#[command(name = "trainer", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

/// What to run.
#[derive(Args, Clone, Default)]
pub(crate) struct RunArgs {
    /// A preset (see `trainer presets`) or a TOML file.
    config: Option<String>,
    /// Set a value, such as `--set update.lr=1e-3`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Train (the default).
    Run(RunArgs),
    /// Go on with a run from its last checkpoint.
    Resume {
        /// The run directory.
        run: PathBuf,
        /// Go on although config.toml was changed.
        #[arg(long)]
        allow_changes: bool,
    },
    /// Measure a run or a model directory on held-out prompts.
    Eval {
        /// A run directory, a Hugging Face directory or a GGUF file.
        target: PathBuf,
        #[command(flatten)]
        args: SetArgs,
    },
    /// Sample one response and show each token's probability.
    Sample {
        /// A run directory, a Hugging Face directory or a GGUF file.
        target: PathBuf,
        /// The prompt; a held-out one when absent.
        #[arg(long)]
        prompt: Option<String>,
        /// Alternatives to show for each token.
        #[arg(long, default_value_t = 3)]
        top: usize,
        #[command(flatten)]
        args: SetArgs,
    },
    /// Continue a text. With images or videos: answer, in the model's chat format where it has one.
    Generate {
        /// A run directory, a Hugging Face directory or a GGUF file.
        model: PathBuf,
        /// The text.
        prompt: String,
        #[command(flatten)]
        media: MediaArgs,
        #[command(flatten)]
        sampling: SamplingArgs,
    },
    /// Talk to a model, one line a turn, in its own chat format. A line `/image PATH` or `/video PATH` shows the model a
    /// file with the next turn.
    Chat {
        /// A run directory, a Hugging Face directory or a GGUF file.
        model: PathBuf,
        /// What the model is told before the conversation.
        #[arg(long, default_value = "")]
        system: String,
        /// A variable of the chat template, such as `enable_thinking=false`; may be repeated.
        #[arg(long = "variable", value_name = "NAME=VALUE")]
        variables: Vec<String>,
        #[command(flatten)]
        media: MediaArgs,
        #[command(flatten)]
        sampling: SamplingArgs,
    },
    /// Answer critique tasks (`toolrm`) into a file, and say how well the model tells right from wrong. Stopped, it goes on where
    /// it was.
    Judge {
        #[command(flatten)]
        args: JudgeArgs,
        /// The tasks, as JSON lines.
        tasks: PathBuf,
        /// Where its answers go.
        #[arg(long, short)]
        output: PathBuf,
    },
    /// Choose the best response to each step (`toolrm`), and say how often the choice is right.
    Bon {
        #[command(flatten)]
        args: ScoredArgs,
        /// How the best is found.
        #[arg(long, value_enum, default_value = "knockout")]
        strategy: StrategyName,
        /// Draws the bracket.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Let a judge criticise responses (`toolrm`) and a policy answer again, and say how many became right and how many wrong.
    Correct {
        #[command(flatten)]
        args: ScoredArgs,
        /// The policy, where it is not the judge: a run directory, a Hugging Face directory or a GGUF file.
        #[arg(long)]
        policy: Option<PathBuf>,
        /// The most answers of the policy to one response.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
    /// Ask for long answers that rules verify (`cov-eval`), and score them: tables, pictures and a report. Stopped, it goes on
    /// where it was.
    Cov(CovArgs),
    /// Write a model as a Hugging Face directory that transformers loads, or as a GGUF file.
    Convert {
        /// A GGUF file, a Hugging Face directory or a run directory.
        model: PathBuf,
        /// The directory to make, or the file, when it ends in `.gguf`.
        output: PathBuf,
        /// Type of the written weights.
        #[arg(long, value_enum, default_value = "f32")]
        dtype: WeightType,
        /// The most bytes of weights in a file of a directory, such as 5GB or 200MB; beyond them, several and an index.
        #[arg(long, default_value = "5GB", value_parser = convert::size)]
        max_shard_size: u64,
    },
    /// Show a model's tensors and parameters, and the memory it takes to train and to decode.
    Inspect {
        /// A run directory, a Hugging Face directory or a GGUF file.
        model: PathBuf,
        /// Sequences at one time.
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// Tokens of a sequence.
        #[arg(long, default_value_t = 1024)]
        length: usize,
        /// Patches of the images of a sequence, for a model with a vision tower.
        #[arg(long, default_value_t = 1024)]
        patches: usize,
    },
    /// Time a training step and decoding steps of a model, by component, beside what the machine can do.
    Bench {
        /// A run directory, a Hugging Face directory, a GGUF file, or a `config.json`, whose weights are then random.
        model: PathBuf,
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Write the report of one run, or a comparison of several.
    Report {
        /// Run directories.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// Where to write a comparison.
        #[arg(long, default_value = "comparison.html")]
        output: PathBuf,
    },
    /// Show logged samples.
    Rollouts {
        /// The run directory.
        run: PathBuf,
        /// Only this step (default: the last logged one).
        #[arg(long)]
        step: Option<u64>,
        /// Order: `reward`, `-reward`, `length` or `advantage`.
        #[arg(long)]
        sort: Option<String>,
        /// Only samples whose prompt or response contains this.
        #[arg(long)]
        grep: Option<String>,
        /// How many.
        #[arg(long, short, default_value_t = 16)]
        number: usize,
        /// As JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Look at configurations.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// List the built-in presets.
    Presets,
    /// Find the first step and metric at which two runs part.
    Diff {
        /// A run.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// Say what other objectives would have clipped and down-weighted in the batches that a run has logged.
    WhatIf {
        /// The run directory.
        run: PathBuf,
        /// Only this step (default: all that were logged).
        #[arg(long)]
        step: Option<u64>,
    },
    /// Run a study of many small runs: tables with intervals, and curves. Stopped, it goes on where it was.
    Experiment(ExperimentArgs),
    /// Keep a model from writing scripts that nobody asked for: train a gate (docs/lcg.md).
    Gate {
        #[command(subcommand)]
        verb: gate::GateVerb,
    },
    /// Say what this machine offers.
    Doctor,
}

/// A study and how much of it.
#[derive(Args, Clone)]
pub(crate) struct ExperimentArgs {
    /// Which.
    #[arg(value_enum)]
    pub(crate) study: StudyName,
    /// A part of the grid with fewer steps, in at most ten minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Stop after so many minutes.
    #[arg(long)]
    pub(crate) minutes: Option<f64>,
    /// Seeds of every setting.
    #[arg(long, default_value_t = 3)]
    pub(crate) seeds: u64,
    /// Optimiser steps of every run.
    #[arg(long)]
    pub(crate) updates: Option<u64>,
    /// Where its files go (default: `studies/<study>`).
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
    /// Set a value in every run, such as `--set rollout.precision=q8`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// A study's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StudyName {
    /// Optimiser steps a batch × ablations of MiniRL × Routing Replay (arXiv 2512.01374).
    Stability,
    /// Objectives × dense and mixture of experts (arXiv 2511.20347).
    Sapo,
}

/// What to show a model with a vision tower.
#[derive(Args, Clone, Default)]
pub(crate) struct MediaArgs {
    /// An image before the (first) text; may be repeated.
    #[arg(long = "image", value_name = "PATH")]
    images: Vec<PathBuf>,
    /// A video behind the images: a directory of frames, a GIF, an animated WebP, an APNG, or anything that ffmpeg reads; may
    /// be repeated.
    #[arg(long = "video", value_name = "PATH")]
    videos: Vec<PathBuf>,
    /// Frames a second of videos that are directories of frames.
    #[arg(long, default_value_t = 24.0)]
    fps: f64,
}

impl MediaArgs {
    pub(crate) fn files(&self) -> Vec<MediaFile> {
        let images = self.images.iter().cloned().map(MediaFile::Image);
        images.chain(self.videos.iter().cloned().map(|path| self.video(path))).collect()
    }

    pub(crate) fn video(&self, path: PathBuf) -> MediaFile {
        MediaFile::Video { path, fps: Some(self.fps) }
    }
}

/// How to draw tokens.
#[derive(Args, Clone)]
pub(crate) struct SamplingArgs {
    /// The longest response.
    #[arg(long, default_value_t = 256)]
    pub(crate) max_new_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.7)]
    pub(crate) temperature: f32,
    /// Keep the likeliest k tokens; 0: all.
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Keep the likeliest tokens of this total probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f32,
    /// Drop tokens less likely than this share of the likeliest.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f32,
    /// Decides every draw.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Draw under the language confusion gate in this folder (`trainer gate train` makes one).
    #[arg(long, value_name = "FOLDER")]
    pub(crate) gate: Option<PathBuf>,
    /// Let this smaller model of the same vocabulary draft tokens: faster where it often guesses right, and the same text.
    #[arg(long, value_name = "MODEL")]
    pub(crate) draft: Option<PathBuf>,
    /// Tokens drafted at a time.
    #[arg(long, default_value_t = 4)]
    pub(crate) draft_tokens: usize,
}

/// What to time.
#[derive(Args, Clone)]
pub(crate) struct BenchArgs {
    /// Sequences of a training step; 0: time none.
    #[arg(long, default_value_t = 4)]
    pub(crate) batch: usize,
    /// Tokens of each.
    #[arg(long, default_value_t = 256)]
    pub(crate) length: usize,
    /// Samples of an RL step, in groups of 8; 0: time none. 8, unless no training step is timed.
    #[arg(long)]
    pub(crate) rl: Option<usize>,
    /// Tokens that each of them draws.
    #[arg(long, default_value_t = 64)]
    pub(crate) response: usize,
    /// Sequences that are decoded at one time; several, by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    pub(crate) decode: Vec<usize>,
    /// Tokens of each sequence's prompt.
    #[arg(long, default_value_t = 32)]
    pub(crate) prompt: usize,
    /// Steps of each kind, after one that is not counted.
    #[arg(long, default_value_t = 5)]
    pub(crate) steps: usize,
    /// Of matrix products.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: ProductType,
    /// Threads; 0: all.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Instead, time what a language confusion gate of 128 units adds to a decoding step.
    #[arg(long)]
    pub(crate) gate: bool,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Keep only the inputs of layers in a training step and compute the rest again.
    #[arg(long)]
    pub(crate) recompute: bool,
    /// Measure once for every line of standard input, to take turns with another program: `[]` is a training step, `[8]`
    /// decoding of 8 sequences (then give `--batch 0`). The answer is a line of JSON.
    #[arg(long, conflicts_with = "json")]
    pub(crate) on_request: bool,
}

impl BenchArgs {
    /// Samples of an RL step that is timed.
    pub(crate) fn samples(&self) -> usize {
        let by_default = if self.batch > 0 && !self.on_request { 8 } else { 0 };
        self.rl.unwrap_or(by_default)
    }
}

/// The element type of written weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightType {
    /// 32-bit floats.
    F32,
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// IEEE half precision, rounded to nearest even.
    F16,
}

/// What matrix products round their operands to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProductType {
    /// Nothing.
    F32,
    /// bfloat16.
    Bf16,
}

impl ProductType {
    pub(crate) fn name(self) -> &'static str {
        if self == Self::F32 { "f32" } else { "bf16" }
    }

    pub(crate) fn of_products(self) -> qwen3::MatmulPrecision {
        if self == Self::F32 { qwen3::MatmulPrecision::F32 } else { qwen3::MatmulPrecision::Bf16 }
    }

    /// Of a weight that a decoder keeps for products.
    pub(crate) fn bytes(self) -> f64 {
        if self == Self::F32 { 4.0 } else { 2.0 }
    }
}

/// Changes to a configuration.
#[derive(Args, Clone, Default)]
pub(crate) struct SetArgs {
    /// Set a value, such as `--set eval.prompts=512`; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Print the merged configuration with the origin of each value.
    Show(RunArgs),
    /// Check a configuration without running it.
    Check(RunArgs),
    /// Say what a key means.
    Explain {
        /// Dotted, such as `update.lr`; all keys when absent.
        key: Option<String>,
    },
}

impl RunArgs {
    pub(crate) fn config(&self) -> Option<&str> {
        self.config.as_deref()
    }
}

impl Cli {
    pub(crate) fn execute(self) -> Result<ExitCode> {
        match self.verb {
            None => run::start(&self.run),
            Some(Verb::Run(args)) => run::start(&args),
            Some(Verb::Resume { run, allow_changes }) => run::resume(&run, allow_changes),
            Some(Verb::Eval { target, args }) => inspect::eval(&target, &args).map(done),
            Some(Verb::Sample { target, prompt, top, args }) => {
                inspect::sample(&target, prompt.as_deref(), top, &args).map(done)
            }
            Some(Verb::Generate { model, prompt, media, sampling }) => {
                generate::generate(&model, &prompt, &media, &sampling).map(done)
            }
            Some(Verb::Chat { model, system, variables, media, sampling }) => {
                generate::chat(&model, &system, &variables, &media, &sampling).map(done)
            }
            Some(Verb::Judge { args, tasks, output }) => judge::judge(&args, &tasks, &output).map(done),
            Some(Verb::Bon { args, strategy, seed }) => judge::best_of(&args, strategy, seed).map(done),
            Some(Verb::Correct { args, policy, rounds }) => {
                judge::correct(&args, policy.as_deref(), rounds).map(done)
            }
            Some(Verb::Cov(args)) => cov::cov(&args),
            Some(Verb::Convert { model, output, dtype, max_shard_size }) => {
                convert::convert(&model, &output, dtype, max_shard_size).map(done)
            }
            Some(Verb::Inspect { model, batch, length, patches }) => {
                describe::describe(&model, batch, length, patches).map(done)
            }
            Some(Verb::Bench { model, args }) => bench::bench(&model, &args).map(done),
            Some(Verb::Report { runs, output }) => inspect::report(&runs, &output).map(done),
            Some(Verb::Rollouts { run, step, sort, grep, number, json }) => {
                inspect::rollouts(&run, step, sort.as_deref(), grep.as_deref(), number, json).map(done)
            }
            Some(Verb::Config { verb: ConfigVerb::Show(args) }) => configs::show(&args).map(done),
            Some(Verb::Config { verb: ConfigVerb::Check(args) }) => configs::check(&args).map(done),
            Some(Verb::Config { verb: ConfigVerb::Explain { key } }) => {
                configs::explain(key.as_deref()).map(done)
            }
            Some(Verb::Presets) => configs::presets().map(done),
            Some(Verb::Diff { first, second }) => inspect::diff(&first, &second),
            Some(Verb::WhatIf { run, step }) => what_if::what_if(&run, step).map(done),
            Some(Verb::Experiment(args)) => experiment::experiment(&args).map(done),
            Some(Verb::Gate { verb }) => gate::gate(&verb).map(done),
            Some(Verb::Doctor) => doctor::doctor().map(done),
        }
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// An error and its causes on one line, each said once.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        // candle adds a backtrace after the first line.
        let cause = cause.to_string();
        let line = cause.lines().next().unwrap_or_default();
        if !text.contains(line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(line);
        }
    }
    text
}
