//! What gates do to a small multilingual model that mixes scripts: `docs/lcg.md` has the tables.
//!
//!     scripts/get-udhr.sh && cargo run --release -p tests --example gate_study -- OUTPUT
//!
//! Models of three seeds are trained on the Universal Declaration of Human Rights, with wrong words put into the texts of six
//! languages; then each gate is trained on the model, and measured on articles that nothing was trained on. All choices are in
//! `study.toml`. A finished condition is a file, and is not run again. No network: the texts are in `target/udhr`.

#![allow(clippy::print_stdout)]

mod config;
mod data;
mod model;
mod page;
mod score;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::Config;
use data::Corpus;
use score::{CONDITIONS, Outcome, Subject};
use train_core::gate::family_table;
use train_core::policy::Policy;
use train_core::rundir::write_whole;

fn main() {
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let output: PathBuf = std::env::args().nth(1).ok_or("usage: gate_study OUTPUT [CONFIG]")?.into();
    let config = Config::read(std::env::args().nth(2).as_deref())?;
    std::fs::create_dir_all(&output)?;
    let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/udhr");
    let corpus =
        Corpus::read(&config, &texts).map_err(|e| format!("{e} (scripts/get-udhr.sh gets the texts)"))?;
    let codec = model::tokenizer(&config, &corpus, &output)?;
    let mut outcomes = Vec::new();
    for seed in 0..config.seeds {
        outcomes.extend(of_seed(&config, &corpus, &codec, &output, seed)?);
        let (tables, pictures) = page::page(&config, &outcomes)?;
        write_whole(&output.join("tables.md"), tables.as_bytes())?;
        for (name, svg) in pictures {
            write_whole(&output.join(name), svg.as_bytes())?;
        }
    }
    println!("{}", output.join("tables.md").display());
    Ok(())
}

fn of_seed(
    config: &Config,
    corpus: &Corpus,
    codec: &train_core::data::TextCodec,
    output: &Path,
    seed: u64,
) -> Result<Vec<Outcome>, Box<dyn Error>> {
    let dir = output.join(format!("model-{seed}"));
    let policy = match dir.join("model.safetensors").exists() {
        true => Policy::load(&dir)?,
        false => {
            let count = config.training.steps * config.training.sequences;
            let texts = model::texts(config, corpus, codec, seed, count)?;
            let (policy, _) = model::train(config, codec, &texts, seed)?;
            policy.save(&dir, qwen3::SaveType::F32)?;
            policy
        }
    };
    let table = Arc::new(family_table(&config.gate.taxonomy, codec, policy.config().vocab_size)?);
    let subject = Subject { config, corpus, codec, model: &policy, table, seed };
    let texts = model::texts(config, corpus, codec, seed + 1000, 2000)?;
    let mut outcomes = Vec::new();
    for condition in CONDITIONS {
        let file = output.join(format!("outcome-{seed}-{condition:?}.json"));
        let outcome = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text)?,
            Err(_) => {
                let outcome = subject.run(condition, &texts)?;
                write_whole(&file, serde_json::to_string_pretty(&outcome)?.as_bytes())?;
                outcome
            }
        };
        eprintln!("  seed {seed}: {}", condition.name());
        outcomes.push(outcome);
    }
    Ok(outcomes)
}
