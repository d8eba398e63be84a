//! Verbs that look at runs and models: `eval`, `sample`, `report`, `rollouts`, `diff`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use qwen3::{Batch, ForwardOptions};
use serde_json::Value;
use train_core::checkpoint::Checkpoint;
use train_core::config::{Config, Layers};
use train_core::data::{TextCodec, prompt_tokens};
use train_core::gate::GateSetup;
use train_core::policy::Policy;
use train_core::report::{self, ReportOptions};
use train_core::rollout::Sampler;
use train_core::setup;
use train_core::trainer::evaluate_model;
use train_core::types::Prompt;

use crate::cli::SetArgs;
use crate::run::changes;

/// The weights, tokenizer and configuration that a path stands for.
struct Target {
    config: Config,
    model: Policy,
    codec: TextCodec,
    from: PathBuf,
}

fn is_run(path: &Path) -> bool {
    path.join("metrics.jsonl").exists() || path.join("ckpt").exists()
}

/// A run directory stands for its newest checkpoint, any other directory or a GGUF file for the model in it.
pub(crate) fn model_of(path: &Path) -> Result<PathBuf> {
    Ok(if is_run(path) { Checkpoint::newest(path)?.0.path } else { path.to_path_buf() })
}

fn open(path: &Path, args: &SetArgs) -> Result<Target> {
    let mut layers = Layers::defaults();
    if is_run(path) {
        layers.file(&path.join("config.toml"))?;
    }
    let from = model_of(path)?;
    if is_run(path) && from.join("lcg.json").exists() {
        // The checkpoint's own gate, which may have been refreshed.
        layers.set(&format!("gate.path={:?}", from.display().to_string()), "checkpoint")?;
    }
    for assignment in &args.set {
        layers.set(assignment, "--set")?;
    }
    let config = layers.resolve()?;
    let mut model = setup::read_policy(&from)?;
    model.set_matmul_precision(config.model.matmul_precision);
    let codec = setup::read_codec(&from, model.config())?;
    Ok(Target { config, model, codec, from })
}

pub(crate) fn eval(path: &Path, args: &SetArgs) -> Result<()> {
    let target = open(path, args)?;
    let source = setup::prompt_source(&target.config, &target.codec, target.model.config())?;
    let row = evaluate_model(&target.config, &target.model, &target.codec, source.held_out())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} on {} held-out prompts:", target.from.display(), source.held_out().len())?;
    if let Value::Object(values) = row.to_json() {
        for (name, value) in values.iter().filter(|(name, _)| name.starts_with("eval/")) {
            writeln!(out, "{name:<28} {:.4}", value.as_f64().unwrap_or(f64::NAN))?;
        }
    }
    Ok(())
}

pub(crate) fn sample(path: &Path, prompt: Option<&str>, top: usize, args: &SetArgs) -> Result<()> {
    let Target { config, model, codec, .. } = open(path, args)?;
    let prompt = match prompt {
        Some(text) => Prompt {
            id: 0,
            task: "prompt".into(),
            tokens: prompt_tokens(&config.data, &codec, text)?,
            text: text.to_owned(),
            answer: None,
            follow_ups: Vec::new(),
            images: Default::default(),
            columns: Default::default(),
        },
        None => match setup::prompt_source(&config, &codec, model.config())?.held_out().first() {
            Some(prompt) => prompt.clone(),
            None => bail!("there is no held-out prompt; give one with --prompt"),
        },
    };
    let gate = GateSetup::new(&config.gate, &codec, model.config())?;
    let mut sampler = Sampler::new(&config, &codec).with_gate(gate);
    sampler.publish(&model, 0)?;
    let samples = sampler.sample(vec![(prompt.clone(), 0)], 0, &codec)?;
    let sample = samples.first().context("no sample")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "prompt    {:?}", prompt.text)?;
    if let Some(answer) = &prompt.answer {
        writeln!(out, "answer    {answer:?}")?;
    }
    writeln!(out, "response  {:?} ({:?})\n", sample.text, sample.finish)?;
    let mut tokens = prompt.tokens.clone();
    tokens.extend(sample.behind_prompt().map(|(token, _)| token));
    let batch = Batch::pack([&tokens[..tokens.len() - 1]]);
    let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
    let hidden = model.forward(&batch, &prompt.images.items(), &options)?;
    let logits = model.text().logits(&hidden.states)?.to_vec2::<f32>()?;
    writeln!(out, "{:<10} {:>8} {:>8}  likeliest", "token", "p", "entropy")?;
    let drawn = sample.behind_prompt().enumerate().filter(|(_, (_, drawn))| *drawn);
    for (i, (place, (token, _))) in drawn.enumerate() {
        let row = &logits[prompt.tokens.len() - 1 + place];
        let stats = qwen3::kernel::softmax::row_stats(row, 1.0 / config.rollout.temperature);
        let p = |t: usize| stats.log_prob(row[t]).exp();
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        let best: Vec<String> =
            order.iter().take(top).map(|t| format!("{:?} {:.3}", codec.piece(*t as u32), p(*t))).collect();
        let (piece, entropy) = (codec.piece(token), sample.entropy[i]);
        writeln!(
            out,
            "{:<10} {:>8.4} {entropy:>8.4}  {}",
            format!("{piece:?}"),
            p(token as usize),
            best.join("  ")
        )?;
    }
    Ok(())
}

pub(crate) fn report(runs: &[PathBuf], output: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let [run] = runs {
        let config = std::fs::read_to_string(run.join("config.toml")).ok();
        let config = config.and_then(|text| Config::from_toml(&text, "config.toml").ok());
        let config_changes = config.map(|c| changes(&c)).unwrap_or_default();
        report::write(run, &ReportOptions { config_changes })?;
        writeln!(out, "{}", run.join("report.html").display())?;
        return Ok(());
    }
    let data = runs.iter().map(report::RunData::load).collect::<Result<Vec<_>, _>>()?;
    let html = report::render(&data, &ReportOptions::default())?;
    report::save(output, &html)?;
    writeln!(out, "{}", output.display())?;
    Ok(())
}

pub(crate) fn rollouts(
    run: &Path,
    step: Option<u64>,
    sort: Option<&str>,
    grep: Option<&str>,
    number: usize,
    json: bool,
) -> Result<()> {
    let dir = run.join("rollouts");
    let file = match step {
        Some(step) => dir.join(format!("step-{step:06}.jsonl")),
        None => {
            let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
            let newest = entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
                .max();
            newest.with_context(|| format!("{}: no samples were logged", dir.display()))?
        }
    };
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut samples: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    if let Some(wanted) = grep {
        samples.retain(|s| {
            ["prompt", "response"].iter().any(|k| s[k].as_str().is_some_and(|t| t.contains(wanted)))
        });
    }
    let key: fn(&Value) -> f64 = match sort.map(|s| s.trim_start_matches('-')) {
        None => |_| 0.0,
        Some("reward") => |s| s["reward"]["total"].as_f64().unwrap_or(f64::NAN),
        Some("length") => |s| s["tokens"].as_array().map_or(0.0, |t| t.len() as f64),
        Some("advantage") => |s| s["advantage"].as_f64().unwrap_or(f64::NAN),
        Some(other) => {
            bail!("cannot sort by `{other}` (reward, length or advantage; `-reward` for the largest first)")
        }
    };
    samples.sort_by(|a, b| key(a).total_cmp(&key(b)));
    if sort.is_some_and(|s| s.starts_with('-')) {
        samples.reverse();
    }
    let mut out = std::io::stdout().lock();
    for s in samples.iter().take(number) {
        if json {
            writeln!(out, "{s}")?;
            continue;
        }
        let exact = match s["reward"]["exact"].as_bool() {
            Some(true) => "right",
            Some(false) => "wrong",
            None => "",
        };
        writeln!(
            out,
            "{:>7.3} {:>+7.3} {exact:<6} {:?} → {:?}  (answer {})",
            s["reward"]["total"].as_f64().unwrap_or(f64::NAN),
            s["advantage"].as_f64().unwrap_or(f64::NAN),
            s["prompt"].as_str().unwrap_or(""),
            s["response"].as_str().unwrap_or(""),
            s["answer"],
        )?;
    }
    Ok(())
}

/// Metrics that differ between two runs of the same seed on the same machine.
fn is_clock(name: &str) -> bool {
    name.starts_with("time/") || name.starts_with("perf/") || name.starts_with("mem/")
}

pub(crate) fn diff(first: &Path, second: &Path) -> Result<ExitCode> {
    let read = |run: &Path| -> Result<Vec<Value>> {
        let file = run.join("metrics.jsonl");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        text.lines().map(|l| serde_json::from_str(l).with_context(|| file.display().to_string())).collect()
    };
    let (a, b) = (read(first)?, read(second)?);
    let mut out = std::io::stdout().lock();
    for (x, y) in a.iter().zip(&b) {
        let (Some(x), Some(y)) = (x.as_object(), y.as_object()) else {
            bail!("a line of metrics.jsonl is not an object")
        };
        let parted = x.iter().find(|(name, value)| !is_clock(name) && y.get(*name) != Some(value));
        if let Some((name, value)) = parted {
            let other = y.get(name).unwrap_or(&Value::Null);
            writeln!(out, "the runs part at step {}: {name} is {value} and {other}", x["step"])?;
            return Ok(ExitCode::FAILURE);
        }
    }
    if a.len() == b.len() {
        writeln!(out, "the runs are the same in all {} rows (times aside)", a.len())?;
    } else {
        writeln!(out, "the runs are the same as far as both go: {} and {} rows", a.len(), b.len())?;
    }
    Ok(ExitCode::SUCCESS)
}
