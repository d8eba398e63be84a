//! `run` and `resume`: the loop's outside — console, signals, clock, report.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use train_core::checkpoint::CheckpointError;
use train_core::config::{Config, Layers, batch_sentence};
use train_core::metrics::Row;
use train_core::report::{self, ConfigChange, ReportOptions};
use train_core::rundir::{RunDir, unix_time};
use train_core::trainer::{TrainError, Trainer};
use train_core::verdict;

use crate::cli::RunArgs;
use crate::configs;
use crate::console::{Console, time};
use crate::doctor;

/// The exit code of a run that was interrupted and saved.
const INTERRUPTED: u8 = 130;

pub(crate) fn start(args: &RunArgs) -> Result<ExitCode> {
    let layers = configs::layers(args)?;
    let mut config = layers.resolve()?;
    if config.run.name.is_empty() {
        config.run.name = layers.preset_name().unwrap_or("run").to_owned();
    }
    use_threads(config.run.threads)?;
    // Everything that can be wrong with model, data and rewards is found before a directory is made.
    let (codec, architecture) = train_core::setup::codec_and_model(&config)?;
    train_core::setup::prompt_source(&config, &codec, &architecture)?;
    train_core::reward::WeightedSum::new(&config.reward, config.rollout.max_new_tokens)
        .map_err(train_core::trainer::TrainError::from)?;
    train_core::gate::GateSetup::new(&config.gate, &codec, &architecture)?;
    let dir = RunDir::create(Path::new(&config.run.dir), &config.run.name)?;
    let console = Console::new(&config, 0);
    introduce(&console, &config, &dir, layers.preset_name());
    begin(config, dir, console)
}

fn begin(config: Config, dir: RunDir, console: Console) -> Result<ExitCode> {
    let supervised = config.warm_start.steps;
    if supervised > 0 {
        console.say(&format!("{supervised} supervised steps first."));
    }
    let trainer =
        Trainer::create_telling(config, dir, &mut |done, loss| console.supervised(done, supervised, loss))?;
    write_facts(&trainer)?;
    drive(trainer, console)
}

pub(crate) fn resume(run: &Path, allow_changes: bool) -> Result<ExitCode> {
    let file = run.join("config.toml");
    let text = std::fs::read_to_string(&file)
        .map_err(train_core::rundir::StorageError::at(&file))
        .with_context(|| format!("{} is not a run directory", run.display()))?;
    let config = Config::from_toml(&text, &file.display().to_string())?;
    use_threads(config.run.threads)?;
    let (trainer, skipped) = match Trainer::resume(run, allow_changes) {
        // It was stopped before its first checkpoint, in its supervised steps: nothing else is there to lose.
        Err(TrainError::Checkpoint(CheckpointError::None { skipped, .. }))
            if skipped.is_empty() && !run.join("metrics.jsonl").exists() =>
        {
            let console = Console::new(&config, 0);
            console.say("There is no checkpoint yet: the run begins again.");
            return begin(config, RunDir::open(run)?, console);
        }
        resumed => resumed?,
    };
    let console = Console::new(&trainer.config, trainer.steps_done());
    for reason in skipped {
        console.say(&format!("passed over a checkpoint: {reason}"));
    }
    console.say(&format!("Going on after step {} of {}.", trainer.steps_done(), trainer.config.run.steps));
    drive(trainer, console)
}

/// Starts the pool that all arithmetic runs in. The calling thread is one of its threads: it works on what it
/// asks for, rather than sleeping until others have.
pub(crate) fn use_threads(threads: usize) -> Result<()> {
    // candle has a second pool, for its elementwise operations; its spinning threads would take the cores from ours.
    // SAFETY: called before anything reads or writes the environment from another thread.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread();
    pool.build_global().context("starting threads")
}

fn introduce(console: &Console, config: &Config, dir: &RunDir, preset: Option<&str>) {
    let task = if config.data.path.is_empty() { &config.data.task } else { &config.data.path };
    let what = preset.map_or(String::new(), |p| format!("preset {p}: "));
    console.say(&format!(
        "{what}training on `{task}` with {} for {}{} steps. {}.",
        config.loss.objective,
        if config.eval.stop_at > 0.0 { "at most " } else { "" },
        config.run.steps,
        batch_sentence(config)
    ));
    console.say(&format!("Everything goes to {}. Ctrl-C finishes the step and saves.", dir.path().display()));
}

fn write_facts(trainer: &Trainer) -> Result<()> {
    let parameters: usize = trainer.learner.model.parameters().iter().map(|p| p.var.elem_count()).sum();
    let mut facts = json!({
        "name": trainer.config.run.name,
        "started": unix_time(),
        "command": std::env::args().collect::<Vec<_>>(),
        "version": env!("CARGO_PKG_VERSION"),
        "seed": trainer.config.run.seed,
        "parameters": parameters,
        "threads": rayon::current_num_threads(),
    });
    for (key, value) in doctor::facts() {
        facts[key] = value.into();
    }
    trainer.dir.write("run.json", &format!("{facts:#}\n"))?;
    Ok(())
}

/// Counts interrupts: the first asks to stop after the step, the second stops at once.
fn interrupts() -> Result<Arc<AtomicU32>> {
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    ctrlc::set_handler(move || {
        if counter.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("\nfinishing the step, then saving (Ctrl-C again stops at once)");
    })
    .context("listening for Ctrl-C")?;
    Ok(count)
}

fn drive(mut trainer: Trainer, mut console: Console) -> Result<ExitCode> {
    let interrupted = interrupts()?;
    let start = Instant::now();
    let first_step = trainer.steps_done();
    let mut measured: Vec<(u64, Row)> = Vec::new();
    let outcome = (|| -> Result<bool> {
        if let Some(row) = trainer.before_first()? {
            console.held_out(&row);
            measured.push((0, row));
        }
        while !trainer.is_done() {
            let report = trainer.step()?;
            let done = (trainer.steps_done() - first_step) as f64;
            let left = start.elapsed().as_secs_f64() / done
                * (trainer.config.run.steps - trainer.steps_done()) as f64;
            console.step(&report, Some(left));
            measured.push((report.row.step, report.row));
            let minutes = trainer.config.run.max_minutes;
            let late = minutes > 0.0 && start.elapsed().as_secs_f64() > 60.0 * minutes;
            if interrupted.load(Ordering::SeqCst) > 0 || (late && !trainer.is_done()) {
                trainer.save()?;
                return Ok(false);
            }
        }
        Ok(true)
    })();
    console.finish();
    let path = trainer.dir.path().display().to_string();
    // A report of what there is, also of a run that failed; its own failure must not hide the first.
    let report = write_report(&trainer);
    let finished = match outcome {
        Ok(finished) => finished,
        Err(error) => {
            if let Ok(report) = &report {
                eprintln!("what was finished is in {report}");
            }
            return Err(error);
        }
    };
    if !finished {
        eprintln!("saved after step {}; go on with: trainer resume {path}", trainer.steps_done());
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let report = report?;
    println!("{}", learned(&measured, start.elapsed().as_secs_f64()));
    if let Some(verdict) = judged(&trainer.config, &measured) {
        println!("Stability: {verdict}.");
    }
    println!("Report: {report}");
    println!("Next: trainer sample {path}   ·   trainer rollouts {path}   ·   trainer run sort");
    Ok(ExitCode::SUCCESS)
}

/// Steps at the end of a run that are judged.
const JUDGED: usize = 20;

/// What sampler, old and current policy were apart by at the end, where that is anything.
fn judged(config: &Config, measured: &[(u64, Row)]) -> Option<String> {
    let means = verdict::means(measured.iter().rev().take(JUDGED).map(|(_, row)| row));
    let routing = serde_json::to_value(config.update.routing).ok()?;
    let precision = serde_json::to_value(config.rollout.precision).ok()?;
    let metric = |name: &str| means.get(name).copied();
    let verdict = verdict::verdict(&metric, routing.as_str()?, precision.as_str()?)?;
    (verdict.cause != verdict::Cause::Neither).then_some(verdict.text)
}

/// One sentence on what was learned.
fn learned(measured: &[(u64, Row)], seconds: f64) -> String {
    let ends = |name: &str| {
        let mut values = measured.iter().filter_map(|(_, row)| row.get(name));
        let first = values.next()?;
        Some((first, values.next_back().unwrap_or(first)))
    };
    let took = time(seconds);
    let last = |name: &str| measured.iter().rev().find_map(|(_, row)| row.get(name));
    let gained = match (last("eval/heldout/gain"), last("eval/heldout/gain_half")) {
        (Some(gain), Some(half)) => format!(" Reward, prompt by prompt: {gain:+.3} ± {half:.3}."),
        _ => String::new(),
    };
    // Where no whole response can be the answer, the reward says more.
    if let Some((first, last)) = ends("eval/heldout/exact").filter(|(_, last)| *last > 0.0) {
        format!(
            "Learned: {:.1} % → {:.1} % of held-out prompts exactly right, in {took}.{gained}",
            100.0 * first,
            100.0 * last
        )
    } else if let Some((first, last)) = ends("eval/heldout/reward") {
        format!("Learned: reward on held-out prompts {first:.3} → {last:.3}, in {took}.{gained}")
    } else if let Some((first, last)) = ends("reward/mean") {
        format!("Learned: reward {first:.3} → {last:.3}, in {took}.")
    } else {
        format!("Done in {took}.")
    }
}

/// Writes `report.html`; returns its path.
pub(crate) fn write_report(trainer: &Trainer) -> Result<String> {
    let options = ReportOptions { config_changes: changes(&trainer.config) };
    report::write(trainer.dir.path(), &options)?;
    Ok(trainer.dir.file("report.html").display().to_string())
}

/// Settings that are not as in the preset of the run's name, or not as in the defaults.
pub(crate) fn changes(config: &Config) -> Vec<ConfigChange> {
    let preset = Layers::preset(&config.run.name).unwrap_or_else(|_| Layers::defaults());
    let mut mine = Layers::defaults();
    if mine.table(&config.to_toml(), "run").is_err() {
        return Vec::new();
    }
    let pairs = preset.values().into_iter().zip(mine.values());
    pairs
        .filter(|((key, old, _), (_, new, _))| old != new && key != "run.name")
        .map(|((key, preset, _), (_, value, _))| ConfigChange { key, preset, value })
        .collect()
}
