//! What gates do to a small multilingual model that mixes scripts: `docs/lcg.md` has the tables.
//!
//!     scripts/get-udhr.sh && cargo run --release -p tests --example gate_study -- OUTPUT
//!
//! Models of three seeds are trained on the Universal Declaration of Human Rights, with wrong words put into the texts of six
//! languages, on languages drawn evenly and unevenly; then each gate is trained on the model, and measured on articles that nothing
//! was trained on. All choices are in `study.toml`. A finished condition is a file, and is not run again. No network: the texts are
//! in `target/udhr`.

#![allow(clippy::print_stdout)]

mod config;
mod data;
mod model;
mod page;
mod score;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{Config, Setting};
use data::{Corpus, Part};
use lcg::{ControlList, Exemptions, FamilyTable, Taxonomy, Vocabulary};
use model::Source;
use score::{CONDITIONS, Outcome, Subject};
use train_core::data::TextCodec;
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
    let mut results = Results::default();
    for setting in 0..config.settings.len() {
        for seed in 0..config.seeds {
            of_model(&config, &corpus, &codec, &output, (setting, seed), &mut results)?;
            let (tables, pictures) = page::page(&config, &results)?;
            write_whole(&output.join("tables.md"), tables.as_bytes())?;
            for (name, svg) in pictures {
                write_whole(&output.join(name), svg.as_bytes())?;
            }
        }
    }
    println!("{}", output.join("tables.md").display());
    Ok(())
}

/// What came out so far.
#[derive(Default)]
struct Results {
    outcomes: Vec<Outcome>,
    /// By the place of its setting.
    models: Vec<(usize, model::Trained)>,
}

/// The families of tokens. Single Greek letters, which are mathematics by default, are often tokens of Greek in so small a vocabulary.
fn family_table(
    config: &Config,
    codec: &TextCodec,
    vocab_size: usize,
) -> Result<FamilyTable, Box<dyn Error>> {
    let taxonomy = Taxonomy::named(&config.gate.taxonomy).ok_or("the taxonomy is not known")?;
    let vocabulary =
        Vocabulary::from_tokenizer_json(&codec.tokenizer_json()?, vocab_size, &ControlList::default())?;
    let exemptions =
        Exemptions { single_greek: config.gate.exempt_single_greek, ..Exemptions::of(&taxonomy) };
    Ok(FamilyTable::new(taxonomy, vocabulary, &exemptions)?)
}

fn of_model(
    config: &Config,
    corpus: &Corpus,
    codec: &TextCodec,
    output: &Path,
    (setting, seed): (usize, u64),
    results: &mut Results,
) -> Result<(), Box<dyn Error>> {
    let Setting { name, weight, steps } = &config.settings[setting];
    let dir = output.join(format!("model-{name}-{seed}"));
    // Of the languages that are measured, so that those drawn more often do not decide when to stop.
    let source = |part, weight| Source { config, corpus, codec, part, weight };
    let record = dir.join("trained.json");
    let trained = match std::fs::read_to_string(&record) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => {
            let count = steps * config.training.sequences;
            let texts = source(Part::Training, *weight).texts(seed, count)?;
            let development = source(Part::Development, 0).texts(seed, 4 * config.training.sequences)?;
            let trained = model::train(config, codec.vocab_size(), [&texts, &development], seed, &dir)?;
            write_whole(&record, serde_json::to_string_pretty(&trained)?.as_bytes())?;
            trained
        }
    };
    results.models.push((setting, trained));
    let policy = Policy::load(&dir)?;
    let table = Arc::new(family_table(config, codec, policy.config().vocab_size)?);
    let subject = Subject { config, corpus, codec, model: &policy, table, setting, seed };
    let texts = source(Part::Development, 1).texts(seed + 1000, config.gate.texts)?;
    let texts = subject.with_continuations(texts)?;
    for condition in CONDITIONS {
        let file = output.join(format!("outcome-{name}-{seed}-{condition:?}.json"));
        let outcome = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text)?,
            Err(_) => {
                let outcome = subject.run(condition, &texts)?;
                write_whole(&file, serde_json::to_string_pretty(&outcome)?.as_bytes())?;
                outcome
            }
        };
        eprintln!("  {name}, seed {seed}: {}", condition.name());
        results.outcomes.push(outcome);
    }
    Ok(())
}
