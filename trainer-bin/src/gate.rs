//! `gate`: language confusion gates for a model.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use lcg::file::SavedGate;
use lcg::{LabelConfig, LabelRule, NormScale};
use serde_json::Value;
use train_core::data::TextCodec;
use train_core::gate::{GateTraining, family_table, gate_info, train_gate};
use train_core::setup;

use crate::gate_eval::{EvalArgs, eval};
use crate::gate_lines::read_lines;
use crate::inspect::model_of;
use crate::run::use_threads;

#[derive(Subcommand)]
pub(crate) enum GateVerb {
    /// Train a gate: the model reads texts, and the gate learns from each hidden state which scripts the model finds likely
    /// next. The model is not changed.
    Train(TrainArgs),
    /// Count how often the model writes scripts that it should not, without a gate and with it.
    Eval(EvalArgs),
}

#[derive(Args)]
pub(crate) struct TrainArgs {
    /// A run directory, a Hugging Face directory or a GGUF file.
    model: PathBuf,
    /// Files of texts in the languages that the model is to be used in: one text a line, or JSON lines with a column `text`.
    #[arg(required = true)]
    texts: Vec<PathBuf>,
    /// The folder to write the gate to.
    #[arg(long)]
    output: PathBuf,
    /// Leave out lines that are broken (not UTF-8, no JSON, no text), and say how many.
    #[arg(long)]
    skip_bad: bool,
    /// Families of scripts: `script16` or `paper4`.
    #[arg(long, default_value = "script16")]
    taxonomy: String,
    /// When a family is labelled: by its mass among the likely tokens (`mass`), or by the presence of one (`presence`, as in
    /// the paper).
    #[arg(long, value_enum, default_value = "mass")]
    labels: Labels,
    /// What logits are divided by: the norms of the output rows relative to their mean (`mean`), the norms (`none`, as in the
    /// paper), or nothing (`unadjusted`).
    #[arg(long, value_enum, default_value = "mean")]
    norms: Norms,
    /// Units of the network.
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Steps at most.
    #[arg(long, default_value_t = 1000)]
    steps: usize,
    /// Positions of a step.
    #[arg(long, default_value_t = 4096)]
    positions: usize,
    /// Longest part of a text that is read at once, tokens.
    #[arg(long, default_value_t = 512)]
    length: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Decides weights and order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads; 0: all.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Labels {
    Mass,
    Presence,
}

#[derive(Clone, Copy, ValueEnum)]
enum Norms {
    Mean,
    None,
    Unadjusted,
}

impl TrainArgs {
    fn options(&self) -> Result<GateTraining> {
        for (name, count) in [
            ("--width", self.width),
            ("--steps", self.steps),
            ("--positions", self.positions),
            ("--length", self.length),
        ] {
            if count == 0 {
                bail!("{name} is 0, expected 1 or more");
            }
        }
        let labels = LabelConfig {
            rule: match self.labels {
                Labels::Mass => LabelConfig::default().rule,
                Labels::Presence => LabelRule::Presence,
            },
            norm_scale: match self.norms {
                Norms::Mean => NormScale::Mean,
                Norms::None => NormScale::None,
                Norms::Unadjusted => NormScale::Unadjusted,
            },
            ..LabelConfig::default()
        };
        let fit = lcg::train::TrainConfig { lr: self.lr, steps: self.steps, ..Default::default() };
        Ok(GateTraining {
            width: self.width,
            labels,
            fit,
            positions: self.positions,
            length: self.length,
            seed: self.seed,
            ..GateTraining::default()
        })
    }
}

pub(crate) fn gate(verb: &GateVerb) -> Result<()> {
    let args = match verb {
        GateVerb::Train(args) => args,
        GateVerb::Eval(args) => return eval(args),
    };
    let options = args.options()?;
    use_threads(args.threads)?;
    let path = model_of(&args.model)?;
    let model = setup::read_policy(&path)?;
    let codec = setup::read_codec(&path, model.config())?;
    let table = family_table(&args.taxonomy, &codec, model.config().vocab_size)?;
    let mut texts = Vec::new();
    for file in &args.texts {
        texts.extend(read_texts(file, &codec, args.skip_bad)?);
    }
    let (gate, report) = train_gate(&model, &table, &texts, &options)?;
    let info = gate_info(&table, &options, &args.model.display().to_string());
    SavedGate { gate, info }.save(&args.output, &table)?;

    let mut out = std::io::stdout().lock();
    let (fit, taxonomy) = (&report.fit, table.taxonomy());
    writeln!(
        out,
        "{} steps; on {} held-out positions a loss of {:.4}, {:.2} % of labels predicted",
        fit.steps,
        report.held_out,
        fit.held_out_loss,
        100.0 * fit.agreement
    )?;
    writeln!(out, "{:<20} {:>10} {:>10} {:>12}", "family", "mean norm", "labelled", "unadjusted")?;
    for (family, [norm, labelled, plain]) in
        report.families.iter().enumerate().filter(|(_, f)| !f[0].is_nan())
    {
        let (name, labelled, plain) = (taxonomy.name(family), 100.0 * labelled, 100.0 * plain);
        writeln!(out, "{name:<20} {norm:>10.3} {labelled:>8.1} % {plain:>10.1} %")?;
    }
    for family in report.raised() {
        eprintln!(
            "warning: adjustment by norms labels {} more often, although its output rows are long; try --norms unadjusted",
            taxonomy.name(family)
        );
    }
    writeln!(out, "The gate: {}", args.output.display())?;
    Ok(())
}

/// The texts of a file as tokens.
fn read_texts(file: &Path, codec: &TextCodec, skip_bad: bool) -> Result<Vec<Vec<u32>>> {
    let json = file.extension().is_some_and(|e| e == "jsonl" || e == "json");
    read_lines(file, skip_bad, |line| {
        if !json {
            return Ok(codec.encode(line)?);
        }
        let row: Value = serde_json::from_str(line)?;
        Ok(codec.encode(row["text"].as_str().context("no text in `text`")?)?)
    })
}
