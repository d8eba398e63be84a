//! `gate eval`: how often a model writes scripts that it should not, without a gate and with one, on the same prompts with
//! the same random numbers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use lcg::metrics::{Rate, ScriptConfusion, expected_families, mcnemar, strip_code};
use lcg::record::GateMetrics;
use lcg::{FamilySet, Taxonomy};
use qwen3::VisualItems;
use rollout_engine::{Engine, EngineOptions, Gate, Request, SamplingParams};
use serde::Deserialize;
use train_core::chat::Chat;
use train_core::gate::GateSetup;
use train_core::setup;

use crate::gate_lines::read_lines;
use crate::inspect::model_of;

#[derive(Args)]
pub(crate) struct EvalArgs {
    /// A run directory, a Hugging Face directory or a GGUF file.
    model: PathBuf,
    /// JSON lines with the columns `prompt` and `language`: the ISO 639-1 code of the language to answer in.
    prompts: PathBuf,
    /// The folder of the gate.
    #[arg(long)]
    gate: PathBuf,
    /// Leave out lines that are broken (not UTF-8, no JSON, an unknown language), and say how many.
    #[arg(long)]
    skip_bad: bool,
    /// Put each prompt to the model as a user's message, by its chat template.
    #[arg(long)]
    chat: bool,
    /// Responses to each prompt.
    #[arg(long, default_value_t = 4)]
    samples: u64,
    /// The longest response.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Keep the likeliest k tokens; 0: all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the likeliest tokens of this total probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Decides every draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
    language: String,
}

/// What came out under one condition.
#[derive(Default)]
struct Measured {
    by_language: BTreeMap<String, ScriptConfusion>,
    /// Of each response: whether it has a letter that it should not.
    confused: Vec<bool>,
    tokens: usize,
    gate: GateMetrics,
}

pub(crate) fn eval(args: &EvalArgs) -> Result<()> {
    let path = model_of(&args.model)?;
    let model = setup::read_policy(&path)?;
    let codec = setup::read_codec(&path, model.config())?;
    let gate = GateSetup::load(&args.gate, &codec, model.config())?;
    let taxonomy = gate.table().taxonomy().clone();
    let prompts = read_lines(&args.prompts, args.skip_bad, |line| {
        let line: Line = serde_json::from_str(line)?;
        expected_families(&taxonomy, &line.language)?;
        let tokens = match args.chat {
            true => codec.encode_chat(&Chat::prompt("", &line.prompt))?,
            false => codec.encode(&line.prompt)?,
        };
        Ok((tokens, line.language))
    })?;
    if prompts.is_empty() || args.samples == 0 {
        bail!("{}: no prompts, or --samples 0: nothing to measure", args.prompts.display());
    }
    let params = Arc::new(SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        max_new_tokens: args.max_new_tokens,
        stop_tokens: codec.stop_tokens().to_vec(),
        ..SamplingParams::default()
    });
    let decoder = Arc::new(model.decoder(qwen3::Precision::F32)?);
    let run = |gate: Option<Arc<Gate>>| -> Result<Measured> {
        let mut engine = Engine::new(decoder.clone(), EngineOptions::default())?;
        if let Some(gate) = gate {
            engine = engine.with_gate(gate)?;
        }
        let requests = prompts.iter().enumerate().map(|(id, (prompt, _))| Request {
            id: id as u64,
            prompt: prompt.clone(),
            items: VisualItems::default(),
            samples: (0..args.samples).map(|k| [id as u64, k]).collect(),
            seed: args.seed,
            params: params.clone(),
        });
        let mut measured = Measured::default();
        for g in engine.generate(requests.collect())? {
            let language = &prompts[g.request as usize].1;
            let expected = expected_families(&taxonomy, language)?;
            let text = strip_code(&codec.decode(&g.tokens));
            let mut one = ScriptConfusion::default();
            one.add(&taxonomy, expected, &text);
            measured.confused.push(one.confused.count > 0);
            measured.by_language.entry(language.clone()).or_default().add(&taxonomy, expected, &text);
            measured.tokens += g.tokens.len();
            g.gate.iter().for_each(|trace| measured.gate.merge(&trace.metrics));
        }
        Ok(measured)
    };
    let both = [run(None)?, run(Some(gate.gate(&model)?))?];
    print(&taxonomy, &both)
}

fn print(taxonomy: &Taxonomy, both: &[Measured; 2]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Responses with letters of a script that the language has not, and such letters:")?;
    writeln!(out, "{:<10} {:<9} {:<26} {:<26} of", "language", "", "responses", "letters")?;
    for language in both[0].by_language.keys() {
        let expected = expected_families(taxonomy, language)?;
        for (name, measured) in ["no gate", "gate"].iter().zip(both) {
            let Some(of) = measured.by_language.get(language) else { continue };
            let (responses, letters) = (of.confused, of.letters.foreign(expected));
            let foreign = of.letters.families().without(expected);
            writeln!(
                out,
                "{language:<10} {name:<9} {responses:<26} {letters:<26} {}",
                names(taxonomy, foreign)
            )?;
        }
    }
    for (name, measured) in ["no gate", "gate"].iter().zip(both) {
        let mut rate = Rate::default();
        measured.confused.iter().for_each(|c| rate.add(*c));
        let mean = measured.tokens as f64 / measured.confused.len() as f64;
        writeln!(out, "{:<10} {name:<9} {:<26} {mean:.1} tokens a response", "all", rate)?;
    }
    let pairs = both[0].confused.iter().copied().zip(both[1].confused.iter().copied());
    writeln!(out, "McNemar's test of the pairs: p = {:.2e}", mcnemar(pairs))?;
    for (name, value) in both[1].gate.entries().into_iter().flatten() {
        writeln!(out, "{name:<24} {value:.5}")?;
    }
    Ok(())
}

fn names(taxonomy: &Taxonomy, families: FamilySet) -> String {
    families.iter().map(|f| taxonomy.name(f)).collect::<Vec<_>>().join(" ")
}
