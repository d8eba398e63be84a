//! `sample`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use toolrm::io::{Control, Lines, Output};
use toolrm::record::{GOLD_ORIGIN, Pair};
use toolrm::{
    Balance, Composition, Embeddings, Holdout, Item, SampleOptions, SplitBy, Val, bmds, composition,
    intensity_bin, json,
};

use crate::common::{Outcome, Usage};
use crate::device::{Device, DeviceArg};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BalanceArg {
    Groups,
    TwoLevel,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SplitArg {
    Step,
    Pair,
}

#[derive(Args, Debug)]
pub(crate) struct Sample {
    /// Pairs.
    pairs: PathBuf,
    /// A directory, for train.jsonl, val.jsonl and report.json.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Pairs to take.
    #[arg(short, default_value_t = 30_000)]
    n: usize,
    /// Pairs to hold out.
    #[arg(long, default_value_t = 500)]
    val: usize,
    /// The share of pairs to hold out, instead of a number.
    #[arg(long, conflicts_with = "val")]
    val_frac: Option<f64>,
    /// What is held out together.
    #[arg(long, value_enum, default_value = "step")]
    split_by: SplitArg,
    /// Bins of intensity.
    #[arg(long, default_value_t = 10)]
    bins: u64,
    /// What is balanced: groups of source and bin, or sources first.
    #[arg(long, value_enum, default_value = "groups")]
    balance: BalanceArg,
    /// Shuffle the sources among the pairs.
    #[arg(long)]
    no_source: bool,
    /// Shuffle the intensities among the pairs.
    #[arg(long)]
    no_intensity: bool,
    /// Shuffle the complexities among the pairs.
    #[arg(long)]
    no_complexity: bool,
    /// Unit embeddings of the pairs, in order: f32, little-endian. Groups then give pairs far from one another.
    #[arg(long, value_name = "EMBED.F32")]
    diverse: Option<PathBuf>,
    /// Where embeddings are compared.
    #[arg(long, value_enum, default_value = "cpu", requires = "diverse")]
    device: DeviceArg,
    /// Numbers of a group's embeddings from which they are compared on the device; those of smaller groups are on the CPU.
    #[arg(long, value_name = "NUMBERS", default_value_t = 20_000 * 256)]
    device_from: usize,
}

/// What is kept of a pair's line.
struct Row {
    id: String,
    step: String,
    source: String,
    bin: u32,
    complexity: u32,
    gold: bool,
}

impl Sample {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        if self.bins == 0 || self.val_frac.is_some_and(|f| !(0.0..=1.0).contains(&f)) {
            return Err(Usage("--bins must be above 0, --val-frac from 0 to 1".into()).into());
        }
        let options = SampleOptions {
            count: self.n,
            seed,
            balance: match self.balance {
                BalanceArg::Groups => Balance::Groups,
                BalanceArg::TwoLevel => Balance::TwoLevel,
            },
            by_source: !self.no_source,
            by_intensity: !self.no_intensity,
            by_complexity: !self.no_complexity,
            holdout: self.val_frac.map_or(Holdout::Count(self.val), Holdout::Share),
            split_by: match self.split_by {
                SplitArg::Step => SplitBy::Step,
                SplitArg::Pair => SplitBy::Pair,
            },
        };
        // Before anything is read.
        let mut device = Device::open(self.device, self.device_from)?;
        std::fs::create_dir_all(&self.output).with_context(|| self.output.display().to_string())?;
        let [train, val, report] =
            ["train.jsonl", "val.jsonl", "report.json"].map(|name| self.output.join(name));
        let mut outputs = [Output::create(&train, control.force)?, Output::create(&val, control.force)?];
        let mut report = Output::create(&report, control.force)?;
        let lines = Lines::read(&self.pairs)?;
        let (rows, mut summary) = lines.map(&train, control, |line| {
            let pair: Pair = line.record()?;
            Ok(Row {
                bin: intensity_bin(pair.intensity, self.bins) as u32,
                complexity: u32::try_from(pair.complexity).unwrap_or(u32::MAX),
                gold: pair.chosen.origin == GOLD_ORIGIN,
                id: pair.id,
                step: pair.step_id,
                source: pair.source,
            })
        })?;
        if self.diverse.is_some() && summary.rejected > 0 {
            anyhow::bail!(
                "{} lines of {} are bad, so its embeddings fit no lines",
                summary.rejected,
                self.pairs.display()
            );
        }
        let embeddings = self.diverse.as_deref().map(|path| embeddings(path, rows.len())).transpose()?;
        let items: Vec<Item<'_>> = rows
            .iter()
            .map(|(r, _)| Item {
                id: &r.id,
                step: &r.step,
                source: &r.source,
                bin: r.bin,
                complexity: r.complexity,
                gold: r.gold,
            })
            .collect();
        let sample = match &embeddings {
            None => bmds(&items, &options, None)?,
            Some(embeddings) => device.sample(&items, &options, embeddings)?,
        };
        for (output, part) in outputs.iter_mut().zip([&sample.train, &sample.val]) {
            for part in part.chunks(4096) {
                let text: String = part.iter().flat_map(|i| [rows[*i].1, "\n"]).collect();
                output.write(text.as_bytes())?;
            }
        }
        let before = composition(&items, 0..items.len());
        let after = composition(&items, sample.train.iter().chain(&sample.val).copied());
        let value = Val::dict([("before", composition_val(&before)), ("after", composition_val(&after))]);
        report.write(format!("{}\n", json::to_string(&value)?).as_bytes())?;
        for output in outputs {
            output.finish()?;
        }
        report.finish()?;
        summary.tally.insert("train".into(), sample.train.len() as u64);
        summary.tally.insert("val".into(), sample.val.len() as u64);
        let (counts, times) = device.report();
        summary.tally.extend(counts.into_iter().map(|(k, n)| (k.to_owned(), n)));
        let text = table(&before, &after, self.bins as u32) + &times;
        Ok(Outcome { text, more: vec![("composition", value)], ..summary.into() })
    }
}

fn embeddings(path: &Path, rows: usize) -> Result<Embeddings> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(name)?;
    anyhow::ensure!(bytes.len().is_multiple_of(4), "{}: {} bytes are no list of f32", name(), bytes.len());
    let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Embeddings::new(numbers, rows).with_context(name)
}

fn composition_val(c: &Composition) -> Val {
    let counts = c.counts.iter().map(|((source, bin), n)| {
        Val::dict([
            ("source", Val::from(source.as_str())),
            ("bin", Val::Int((*bin).into())),
            ("pairs", Val::int((*n).into())),
        ])
    });
    Val::dict([
        ("counts", Val::List(counts.collect())),
        ("mean_complexity", Val::Float(c.mean_complexity)),
        ("gold_share", Val::Float(c.gold_share)),
    ])
}

/// Counts by source and bin: before, and taken.
fn table(before: &Composition, after: &Composition, bins: u32) -> String {
    let mut sources: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (i, c) in [before, after].into_iter().enumerate() {
        for ((source, _), n) in &c.counts {
            sources.entry(source).or_default()[i] += n;
        }
    }
    let mut out = String::from("| source |");
    (0..bins).for_each(|b| _ = write!(out, " {b} |"));
    out.push_str(" all |\n|---|");
    (0..=bins).for_each(|_| out.push_str("---|"));
    out.push('\n');
    for (source, all) in sources {
        _ = write!(out, "| {source} |");
        for bin in 0..bins {
            let n = |c: &Composition| c.counts.get(&(source.to_owned(), bin)).copied().unwrap_or(0);
            _ = write!(out, " {}/{} |", n(after), n(before));
        }
        _ = writeln!(out, " {}/{} |", all[1], all[0]);
    }
    _ = writeln!(
        out,
        "mean complexity {:.2} of {:.2}, gold chosen {:.3} of {:.3}",
        after.mean_complexity, before.mean_complexity, after.gold_share, before.gold_share
    );
    out
}
