//! `import`, `export`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use toolrm::io::{Control, LineError, Lines, Output, map_lines, scan};
use toolrm::json::{self, Dialect};
use toolrm::record::{self, Layout, Pair, Step};
use toolrm::{SchemaError, Val};

use crate::common::{Outcome, choice, not_stdin};
use crate::pairs::ScoreArgs;

choice!(pub(crate) LayoutArg => Layout { Toolpref => Layout::ToolPref, Trbench => Layout::TrBench });

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The columns: those of ToolPref-Pairwise-30K, or of TRBench.
    #[arg(value_enum)]
    layout: LayoutArg,
    /// The rows as JSON lines.
    input: PathBuf,
    /// A directory, for pairs.jsonl and steps.jsonl.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Fail where scoring a response again does not give its stored reward, to 0.005.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    score: ScoreArgs,
}

impl Import {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let (layout, options) = (Layout::from(self.layout), self.score.options());
        std::fs::create_dir_all(&self.output).with_context(|| self.output.display().to_string())?;
        let path = self.output.join("pairs.jsonl");
        let mut pairs = Output::create(&path, control.force)?;
        let mut steps = Output::create(&self.output.join("steps.jsonl"), control.force)?;
        let lines = Lines::read(&self.input)?;
        let (rows, summary) = lines.map(&path, control, |line| {
            let row = json::parse(line.text, Dialect::Strict)
                .map_err(|e| SchemaError::of(e.kind(), "", format!("{e}, expected a row")))?;
            let id = match row.get("uuid") {
                Some(Val::Str(id)) => Some(id.to_string()),
                Some(Val::Int(id)) => Some(id.to_string()),
                _ => None,
            };
            let named = |error: SchemaError| LineError { id: id.clone(), error };
            let row = layout.import(row, &options).map_err(named)?;
            let none = |e: json::NotJson| named(SchemaError::of("json.none", "", e.to_string()));
            let text = (record::line(&row.pair).map_err(none)?, record::line(&row.step).map_err(none)?);
            Ok((row.pair.id, row.step.id, text, row.differs))
        })?;
        let mut outcome = Outcome::from(summary);
        let (mut seen, mut ids) = (HashSet::new(), HashSet::new());
        let mut differs: BTreeMap<&str, u64> = BTreeMap::new();
        let mut wrong = 0u64;
        for ((id, step, (pair_line, step_line), differing), _) in &rows {
            if !ids.insert(id) {
                anyhow::bail!("id.duplicate: two rows have the uuid {id:?}");
            }
            pairs.write(format!("{pair_line}\n").as_bytes())?;
            if seen.insert(step) {
                steps.write(format!("{step_line}\n").as_bytes())?;
            }
            wrong += u64::from(!differing.is_empty());
            differing.iter().for_each(|(column, ..)| *differs.entry(column).or_default() += 1);
        }
        pairs.finish()?;
        steps.finish()?;
        outcome.summary.tally.insert("pairs".into(), rows.len() as u64);
        outcome.summary.tally.insert("steps".into(), seen.len() as u64);
        let rate = wrong as f64 / rows.len().max(1) as f64;
        outcome.more.push(("mismatch_rate", Val::Float(rate)));
        _ = writeln!(
            outcome.text,
            "{wrong} of {} rows differ from their own scores, {:.2} %",
            rows.len(),
            100.0 * rate
        );
        for (column, n) in differs {
            _ = writeln!(outcome.text, "  {column} {n}");
        }
        outcome.failed = self.verify && wrong > 0;
        Ok(outcome)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The columns: those of ToolPref-Pairwise-30K, or of TRBench.
    #[arg(value_enum)]
    layout: LayoutArg,
    /// The pairs.
    pairs: PathBuf,
    /// Their steps.
    #[arg(long)]
    steps: PathBuf,
    /// Where the rows go.
    #[arg(short, long, value_name = "ROWS")]
    output: PathBuf,
}

impl Export {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        not_stdin(&self.steps, "steps")?;
        let layout = Layout::from(self.layout);
        let steps: HashMap<String, Step> = scan(&self.steps, |line| line.record::<Step>().ok())?
            .into_iter()
            .map(|step| (step.id.clone(), step))
            .collect();
        let summary = map_lines(
            std::slice::from_ref(&self.pairs),
            &self.output,
            control,
            || (),
            |(), line, sink| {
                let pair: Pair = line.record()?;
                let named = |error: SchemaError| LineError { id: Some(pair.id.clone()), error };
                let unknown =
                    || SchemaError::of("id.unknown", "step_id", format!("no step {:?}", pair.step_id));
                let step = steps.get(&pair.step_id).ok_or_else(unknown).map_err(named)?;
                let row = layout.export(&pair, step, seed).map_err(named)?;
                let text = json::to_string(&Val::Dict(row));
                sink.line(&text.map_err(|e| named(SchemaError::of("json.none", "", e.to_string())))?);
                Ok(())
            },
        )?;
        Ok(summary.into())
    }
}
