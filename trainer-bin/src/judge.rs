//! `judge` and `bon`: a model of this machine as a judge of tool calls.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use completion::{Complete, Completion, Recorded, Sampling};
use toolrm::Rational;
use toolrm::critique::Variant;
use toolrm::infer::{BestOf, BestOfReport, Judge, Strategy, pair_report, scored_groups, task_requests};
use toolrm::record::{self, Record, Scored, Step, Task};
use train_core::local::{LocalModel, LocalOptions};

use crate::cli::ProductType;

/// Which model, and how it is asked.
#[derive(Args, Clone)]
pub(crate) struct JudgeArgs {
    /// A run directory, a Hugging Face directory or a GGUF file.
    model: PathBuf,
    /// Continue prompts as they are, rather than put them by the model's chat template.
    #[arg(long)]
    raw: bool,
    /// The longest answer, in tokens.
    #[arg(long, default_value_t = 1024)]
    max_tokens: usize,
    /// Of matrix products.
    #[arg(long, value_enum, default_value = "f32")]
    precision: ProductType,
}

impl JudgeArgs {
    fn open(&self) -> Result<LocalModel> {
        let matmul_precision = self.precision.of_products();
        let options = LocalOptions { chat: !self.raw, matmul_precision, ..LocalOptions::default() };
        Ok(LocalModel::open(&self.model, options)?)
    }
}

/// How the best is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// One prompt with all.
    Listwise,
    /// A bracket.
    Knockout,
    /// Everybody against everybody.
    RoundRobin,
}

/// Records of a file.
fn read<R: Record>(path: &Path) -> Result<Vec<R>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            record::read(line).with_context(|| format!("{}, line {}: {}", path.display(), i + 1, R::NAME))
        })
        .collect()
}

/// Answers critique tasks into a file, which it goes on with, and says how well pairs were told apart.
pub(crate) fn judge(args: &JudgeArgs, tasks: &Path, output: &Path) -> Result<()> {
    let tasks: Vec<Task> = read(tasks)?;
    let requests = task_requests(&tasks, &Sampling::greedy(args.max_tokens));
    let mut model = Recorded::open(args.open()?, output, "task_id")?
        .on_progress(|done, all| eprintln!("{done} of {all} tasks"));
    let mut completions: HashMap<&str, Completion> = HashMap::new();
    let mut failed = 0;
    for (task, result) in tasks.iter().zip(model.complete(&requests)) {
        match result {
            Ok(done) => drop(completions.insert(&task.id, done)),
            Err(error) => {
                failed += 1;
                eprintln!("{error}");
            }
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", pair_report(&tasks, &completions).to_markdown(true))?;
    if failed > 0 {
        bail!("{failed} of {} tasks have no answer; the same command asks for them again", tasks.len());
    }
    Ok(())
}

/// Chooses among the responses of each step, and says how often the choice is right.
pub(crate) fn best_of(
    args: &JudgeArgs,
    steps: &Path,
    scored: &Path,
    strategy: StrategyName,
    variant: &str,
    seed: u64,
) -> Result<()> {
    let Some(variant) = Variant::from_name(variant) else {
        bail!("variant is {variant:?}, expected think, no_think or bare");
    };
    let strategy = match strategy {
        StrategyName::Listwise => Strategy::Listwise { limit: 16 },
        StrategyName::Knockout => Strategy::Knockout { seed },
        StrategyName::RoundRobin => Strategy::RoundRobin,
    };
    let (steps, scored): (Vec<Step>, Vec<Scored>) = (read(steps)?, read(scored)?);
    let (groups, places): (Vec<BestOf<'_>>, Vec<Vec<usize>>) =
        scored_groups(&steps, &scored).into_iter().unzip();
    let mut judge = Judge::new(args.open()?, variant, args.max_tokens);
    let mut report = BestOfReport::default();
    for (selected, (group, places)) in
        judge.best_of(&groups, strategy)?.iter().zip(groups.iter().zip(&places))
    {
        let right: Vec<bool> = places.iter().map(|i| scored[*i].score == Rational::ONE).collect();
        report.add(&group.contenders, &right, selected.index);
    }
    write!(std::io::stdout().lock(), "{}", report.to_text(&judge.usage()))?;
    Ok(())
}
