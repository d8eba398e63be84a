//! `trainer`: reinforcement-learning post-training of language models. `trainer --help` says the rest.
#![allow(clippy::print_stdout)]

mod bench;
mod bench_gate;
mod bench_rl;
mod cli;
mod configs;
mod console;
mod convert;
mod cov;
mod describe;
mod doctor;
mod experiment;
mod gate;
mod gate_eval;
mod gate_lines;
mod generate;
mod inspect;
mod judge;
mod machine;
mod profile;
mod run;
mod what_if;

use std::process::ExitCode;

use clap::Parser;
use train_core::trainer::TrainError;

/// Training allocates and frees the same large buffers at every step; this allocator keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    machine::keep_pages();
    let cli = cli::Cli::parse();
    match cli.execute() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", cli::one_line(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// 2 bad configuration or usage, 3 stopped by a guard, 4 sampler, 5 storage.
fn exit_code(error: &anyhow::Error) -> u8 {
    use train_core::data::DataError;
    match error.downcast_ref::<TrainError>() {
        Some(
            TrainError::Guard { .. } | TrainError::Update(_) | TrainError::Reward(_) | TrainError::Loss(_),
        ) => 3,
        Some(TrainError::Engine(_) | TrainError::NoWeights) => 4,
        Some(TrainError::Storage(_) | TrainError::Checkpoint(_)) => 5,
        Some(TrainError::Data(DataError::State(_)) | TrainError::ChangedConfig { .. }) => 5,
        _ if error.is::<train_core::rundir::StorageError>() => 5,
        _ if error.is::<train_core::checkpoint::CheckpointError>() => 5,
        _ => 2,
    }
}
