//! `prompts`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tokenizers::Tokenizer;
use toolrm::critique::{Variant, best_of_task, orientation, pair_task, point_task};
use toolrm::io::{Control, LineError, Lines, Output, groups, map_lines, scan};
use toolrm::record::{self, Orientation, Pair, Response, Step, Task};
use toolrm::{NoForm, SchemaError, canon_calls, canon_hash};

use crate::common::{Outcome, choice, not_stdin};

choice!(pub(crate) VariantArg => Variant {
    Think => Variant::Think, NoThink => Variant::NoThink, Bare => Variant::Bare,
});

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KindArg {
    /// Both responses of a pair.
    Pairwise,
    /// One response.
    Pointwise,
    /// All responses to a step that its pairs have.
    Bon,
}

/// The most responses of a task.
const MOST: usize = 64;

/// Pairs to critique tasks.
#[derive(Args, Debug)]
pub(crate) struct Prompts {
    /// The pairs.
    pairs: PathBuf,
    /// Their steps.
    #[arg(long)]
    steps: PathBuf,
    /// Where the tasks go.
    #[arg(short, long, value_name = "TASKS")]
    output: PathBuf,
    /// What a task is about.
    #[arg(long, value_enum, default_value = "pairwise")]
    kind: KindArg,
    /// How the judge is to answer.
    #[arg(long, value_enum, default_value = "no-think")]
    variant: VariantArg,
    /// Show each pair in both orders, as an evaluation needs it, not in one that the seed draws.
    #[arg(long)]
    both: bool,
    /// Drop and count tasks whose prompts have more tokens, those of a chat template not among them; 16,384 and, to evaluate, 32,768 in
    /// the paper.
    #[arg(long, value_name = "TOKENS", requires = "tokenizer")]
    max_prompt_tokens: Option<usize>,
    /// The judge's `tokenizer.json`, which counts them.
    #[arg(long, value_name = "FILE", requires = "max_prompt_tokens")]
    tokenizer: Option<PathBuf>,
}

/// What keeps prompts short.
struct Guard(Option<(Tokenizer, usize)>);

impl Guard {
    fn open(tokenizer: Option<&Path>, most: Option<usize>) -> Result<Self> {
        let (Some(path), Some(most)) = (tokenizer, most) else { return Ok(Guard(None)) };
        let read =
            Tokenizer::from_file(path).map_err(|e| anyhow!(e)).with_context(|| path.display().to_string())?;
        Ok(Guard(Some((read, most))))
    }

    fn fits(&self, task: &Task) -> Result<bool, LineError> {
        let Some((tokenizer, most)) = &self.0 else { return Ok(true) };
        let fault = |e: tokenizers::Error| SchemaError::of("prompt.tokens", "prompt", e.to_string());
        Ok(tokenizer.encode_fast(task.prompt.as_str(), false).map_err(fault)?.len() <= *most)
    }
}

fn fault(pair: &Pair, kind: &'static str, path: &str, what: String) -> LineError {
    LineError { id: Some(pair.id.clone()), error: SchemaError::of(kind, path, what) }
}

fn step_of<'s>(steps: &'s HashMap<String, Step>, pair: &Pair) -> Result<&'s Step, LineError> {
    let unknown = || fault(pair, "id.unknown", "step_id", format!("no step {:?}", pair.step_id));
    steps.get(&pair.step_id).ok_or_else(unknown)
}

impl Prompts {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        not_stdin(&self.steps, "steps")?;
        let guard = Guard::open(self.tokenizer.as_deref(), self.max_prompt_tokens)?;
        let steps: HashMap<String, Step> = scan(&self.steps, |line| line.record::<Step>().ok())?
            .into_iter()
            .map(|step| (step.id.clone(), step))
            .collect();
        if self.kind == KindArg::Bon {
            return self.best_of(&steps, &guard, control, seed);
        }
        let summary = map_lines(
            std::slice::from_ref(&self.pairs),
            &self.output,
            control,
            || (),
            |(), line, out| {
                let pair: Pair = line.record()?;
                let step = step_of(&steps, &pair)?;
                for task in
                    self.tasks(step, &pair, seed).map_err(|e| fault(&pair, "json.type", "", e.to_string()))?
                {
                    if !guard.fits(&task)? {
                        out.count("dropped.too_long");
                        continue;
                    }
                    if task.meta.contains_key("broken_tags") {
                        out.count("prompt.tag_in_content");
                    }
                    out.record(&task)?;
                }
                Ok(())
            },
        )?;
        Ok(summary.into())
    }

    /// The tasks of one pair.
    fn tasks(&self, step: &Step, pair: &Pair, seed: u64) -> Result<Vec<Task>, NoForm> {
        let variant: Variant = self.variant.into();
        if self.kind == KindArg::Pointwise {
            let sides = [("chosen", &pair.chosen), ("rejected", &pair.rejected)];
            let one = |(side, response): (&str, &Response)| {
                point_task(step, &format!("{}-{side}", pair.id), response, variant)
            };
            return sides.map(one).into_iter().collect();
        }
        let orders = match self.both {
            true => vec![Orientation::Original, Orientation::Swapped],
            false => vec![orientation(seed, &pair.id)],
        };
        orders.into_iter().map(|order| pair_task(step, pair, order, variant)).collect()
    }

    /// A task for each step, about all responses of its pairs in an order that the seed draws.
    fn best_of(
        &self,
        steps: &HashMap<String, Step>,
        guard: &Guard,
        control: &Control,
        seed: u64,
    ) -> Result<Outcome> {
        let lines = Lines::read(&self.pairs)?;
        let mut output = Output::create(&self.output, control.force)?;
        let (all, mut summary) = lines.map(&self.output, control, |line| {
            let pair: Pair = line.record()?;
            step_of(steps, &pair).map(drop)?;
            Ok(pair)
        })?;
        let mut count = |what: &str| *summary.tally.entry(what.to_owned()).or_default() += 1;
        for group in groups(all.iter().map(|(p, _)| p.step_id.as_str())) {
            let mut seen = BTreeSet::new();
            let mut responses: Vec<(u128, &Response)> = Vec::new();
            for side in group.iter().flat_map(|i| [&all[*i].0.chosen, &all[*i].0.rejected]) {
                let calls = side.calls.as_deref().map(canon_calls);
                if seen.insert((calls.clone(), side.text.trim())) {
                    let key = format!("{seed}/{}/{calls:?}/{}", all[group[0]].0.step_id, side.text.trim());
                    responses.push((canon_hash(&key.into()), side));
                }
            }
            if responses.len() > MOST {
                count("dropped.too_many_responses");
                continue;
            }
            responses.sort_by_key(|(key, _)| *key);
            let shown: Vec<Response> = responses.into_iter().map(|(_, side)| side.clone()).collect();
            let Some(step) = steps.get(&all[group[0]].0.step_id) else { continue };
            let task = best_of_task(step, &format!("{}-bon", step.id), &shown, self.variant.into())?;
            if !guard.fits(&task)? {
                count("dropped.too_long");
                continue;
            }
            if task.meta.contains_key("broken_tags") {
                count("prompt.tag_in_content");
            }
            count("tasks");
            output.write(format!("{}\n", record::line(&task)?).as_bytes())?;
        }
        output.finish()?;
        Ok(summary.into())
    }
}
