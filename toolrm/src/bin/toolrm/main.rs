//! The command line of `toolrm`.

mod bench;
mod bfcl;
mod common;
mod critique;
mod device;
mod judge;
mod look;
mod pairs;
mod released;
mod reward;
mod sample;
mod steps;
mod text;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use common::{Global, Outcome, Usage};
use toolrm::io::RunError;

/// Tool calls of language models: parse, score, pair, sample, check, benchmark.
///
/// Files are JSON lines; `.gz` and `.zst` are compressed, `-` is standard input or output. A line that cannot be used costs
/// that line alone, and is reported with its number.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 all is well; 1 some lines were rejected; 2 usage; 3 a file cannot be used; 4 a \
    verification failed."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Parse responses: adds `calls`, `content`, `issues` to each line, or `fail`.
    Parse(text::Parse),
    /// Check tool lists, or steps, and list what is wrong.
    Validate(steps::Validate),
    /// Cut conversations into steps.
    Segment(steps::Segment),
    /// Make candidates of steps by damaging the gold responses.
    Corrupt(steps::Corrupt),
    /// Score candidates against the gold calls of their steps.
    Score(pairs::Score),
    /// Keep the steps whose candidates are neither all right nor all wrong.
    Filter(pairs::Filter),
    /// Make preference pairs of scored candidates.
    Pairs(pairs::Pairs),
    /// Sample pairs, balanced over source and intensity, the complex ones first.
    Sample(sample::Sample),
    /// Write critique tasks about pairs.
    Prompts(critique::Prompts),
    /// Read answers to critique tasks: verdicts and rewards.
    Reward(reward::Reward),
    /// Reward a policy's responses for their calls.
    RewardCalls(reward::RewardCalls),
    /// Put critique tasks to a server, or read its answers from a file, and say how well it judges.
    Judge(judge::Judge),
    /// Let a judge choose among the responses to each step.
    Bon(judge::Bon),
    /// Let a judge criticise responses, and a policy answer again.
    Correct(judge::Correct),
    /// Check responses as the Berkeley Function-Calling Leaderboard does.
    #[command(subcommand)]
    Bfcl(bfcl::Bfcl),
    /// Benchmark judges on pairs of right and wrong responses.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Read rows of a released data set as pairs and steps.
    Import(released::Import),
    /// Write pairs as rows of a released data set's columns.
    Export(released::Export),
    /// Count what is in a file.
    Stats(look::Stats),
    /// Compare two files of records.
    Diff(look::Diff),
}

fn run(verb: &Verb, global: &Global) -> anyhow::Result<Outcome> {
    let control = global.control(format!("{verb:?} {}", global.seed));
    match verb {
        Verb::Parse(args) => args.run(&control),
        Verb::Validate(args) => args.run(&control),
        Verb::Segment(args) => args.run(&control),
        Verb::Corrupt(args) => args.run(&control, global.seed),
        Verb::Score(args) => args.run(&control),
        Verb::Filter(args) => args.run(&control),
        Verb::Pairs(args) => args.run(&control),
        Verb::Sample(args) => args.run(&control, global.seed),
        Verb::Prompts(args) => args.run(&control, global.seed),
        Verb::Reward(args) => args.run(&control),
        Verb::RewardCalls(args) => args.run(&control),
        Verb::Judge(args) => args.run(&control, global.seed),
        Verb::Bon(args) => args.run(&control, global.seed),
        Verb::Correct(args) => args.run(&control, global.seed),
        Verb::Bfcl(verb) => verb.run(&control),
        Verb::Bench(verb) => verb.run(&control),
        Verb::Import(args) => args.run(&control),
        Verb::Export(args) => args.run(&control, global.seed),
        Verb::Stats(args) => args.run(&control),
        Verb::Diff(args) => args.run(&control),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = cli.global.threads {
        pool = pool.num_threads(threads.into());
    }
    let result = pool.build_global().map_err(Into::into).and_then(|()| run(&cli.verb, &cli.global));
    match result.and_then(|outcome| outcome.print(&cli.global).map(|()| outcome)) {
        Ok(outcome) if outcome.failed => ExitCode::from(4),
        Ok(outcome) if outcome.summary.rejected > 0 => ExitCode::from(1),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let rejected = matches!(error.downcast_ref(), Some(RunError::Rejected(_)));
            ExitCode::from(if error.is::<Usage>() {
                2
            } else if rejected {
                1
            } else {
                3
            })
        }
    }
}
