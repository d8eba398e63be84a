//! `judge`, `bon` and `correct`: a model of this machine as a judge of tool calls.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use completion::{Complete, Completion, Recorded, Request, Sampling};
use toolrm::critique::{Variant, point_prompt};
use toolrm::infer::{
    BestOf, Judge, Strategy, Usage, best_by_score, chosen_responses, correct_responses, pair_report,
    scored_groups, task_requests,
};
use toolrm::record::{self, Record, Scored, Step, Task};
use train_core::local::{LocalModel, LocalOptions};
use train_core::rundir::write_whole;

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

/// Scored responses to the steps of conversations, and where what comes of them goes.
#[derive(Args, Clone)]
pub(crate) struct ScoredArgs {
    #[command(flatten)]
    model: JudgeArgs,
    /// Steps, as JSON lines.
    steps: PathBuf,
    /// Scored responses to the steps.
    scored: PathBuf,
    /// The prompts' variant: `think`, `no_think` or `bare`.
    #[arg(long, default_value = "no_think", value_parser = variant)]
    variant: Variant,
    /// Where responses go, scored; models' answers stand beside it (OUTPUT.judge.jsonl, OUTPUT.policy.jsonl), and the same command goes on
    /// with them. Without it nothing is kept.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

fn variant(name: &str) -> Result<Variant, String> {
    Variant::from_name(name).ok_or_else(|| "expected think, no_think or bare".to_owned())
}

impl ScoredArgs {
    fn judge(&self, model: &LocalModel) -> Result<Judge<Box<dyn Complete>>> {
        let model = self.kept(model.clone(), ".judge.jsonl")?;
        Ok(Judge::new(model, self.variant, self.model.max_tokens))
    }

    /// The model, whose answers are kept when there is an output to keep them beside.
    fn kept(&self, model: LocalModel, ending: &str) -> Result<Box<dyn Complete>> {
        let Some(output) = &self.output else { return Ok(Box::new(model)) };
        let kept = Recorded::beside(model, output, ending, "task_id")?;
        let (output, ending) = (output.display().to_string(), ending.to_owned());
        Ok(Box::new(kept.on_progress(move |done, all| eprintln!("{output}{ending}: {done} of {all}"))))
    }

    fn write(&self, rows: &[Scored]) -> Result<()> {
        let Some(output) = &self.output else { return Ok(()) };
        let mut text = String::new();
        for row in rows {
            text += &record::line(row)?;
            text.push('\n');
        }
        Ok(write_whole(output, text.as_bytes())?)
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
    /// The response whose verdict is `correct` rather than `revise` with the highest odds, each read alone, once and without an answer.
    Scalar,
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
pub(crate) fn best_of(args: &ScoredArgs, strategy: StrategyName, seed: u64) -> Result<()> {
    let strategy = match strategy {
        StrategyName::Listwise => Some(Strategy::Listwise { limit: 16 }),
        StrategyName::Knockout => Some(Strategy::Knockout { seed }),
        StrategyName::RoundRobin => Some(Strategy::RoundRobin),
        StrategyName::Scalar => None,
    };
    let (steps, scored): (Vec<Step>, Vec<Scored>) = (read(&args.steps)?, read(&args.scored)?);
    let (groups, places): (Vec<BestOf<'_>>, Vec<Vec<usize>>) =
        scored_groups(&steps, &scored).into_iter().unzip();
    let model = args.model.open()?;
    let (selected, usage) = match strategy {
        Some(strategy) => {
            let mut judge = args.judge(&model)?;
            (judge.best_of(&groups, strategy)?, judge.usage())
        }
        None => {
            let scores = verdict_odds(&model, args.variant, &groups)?;
            (best_by_score(&groups, &scores)?, Usage::default())
        }
    };
    let (rows, report) = chosen_responses(&scored, &groups, &places, &selected);
    args.write(&rows)?;
    write!(std::io::stdout().lock(), "{}", report.to_text(&usage))?;
    Ok(())
}

/// Of each response the logarithm of the odds of `correct` against `revise` as the judge's whole answer.
fn verdict_odds(model: &LocalModel, variant: Variant, groups: &[BestOf<'_>]) -> Result<Vec<Vec<f64>>> {
    let answers = match variant {
        Variant::Bare => ["correct", "revise"].map(str::to_owned),
        Variant::NoThink => ["correct", "revise"].map(|v| format!("<verdict>\n{v}\n</verdict>")),
        Variant::Think => {
            bail!("a judge that thinks first gives no number: the variant is to be no_think or bare")
        }
    };
    let mut requests = Vec::new();
    for BestOf { context, contenders } in groups {
        for (i, response) in contenders.iter().enumerate() {
            let prompt = point_prompt(context.tools, context.history, response.shown(), variant)?;
            // The answers are given: none is drawn.
            requests.push(Request::user(format!("{}/{i}", context.id), prompt.text, Sampling::greedy(0)));
        }
    }
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let mut odds = Vec::with_capacity(requests.len());
    for scored in model.log_probs(&requests, &answers) {
        let scored = scored?;
        odds.push(scored[0] - scored[1]);
    }
    let mut odds = odds.into_iter();
    Ok(groups.iter().map(|g| odds.by_ref().take(g.contenders.len()).collect()).collect())
}

/// Lets a policy answer again where the judge finds its responses wrong, and says what that did.
pub(crate) fn correct(args: &ScoredArgs, policy: Option<&Path>, rounds: usize) -> Result<()> {
    let (steps, scored): (Vec<Step>, Vec<Scored>) = (read(&args.steps)?, read(&args.scored)?);
    let model = args.model.open()?;
    let policy = match policy {
        Some(path) => JudgeArgs { model: path.to_path_buf(), ..args.model.clone() }.open()?,
        None => model.clone(),
    };
    let (mut judge, mut policy) = (args.judge(&model)?, args.kept(policy, ".policy.jsonl")?);
    let sampling = Sampling::greedy(args.model.max_tokens);
    let done = correct_responses(&mut judge, &mut policy, &sampling, &steps, &scored, rounds)?;
    args.write(&done.rows)?;
    if done.without_step > 0 {
        eprintln!("{} responses are of steps that {} has not", done.without_step, args.steps.display());
    }
    write!(std::io::stdout().lock(), "{}", done.report.to_text())?;
    Ok(())
}
