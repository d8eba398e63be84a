//! `what-if`: logged batches under every objective.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use train_core::config::Config;
use train_core::rundir::StorageError;
use train_core::what_if::{batches, what_if as judge};

pub(crate) fn what_if(run: &Path, step: Option<u64>) -> Result<()> {
    let file = run.join("config.toml");
    let text = std::fs::read_to_string(&file)
        .map_err(StorageError::at(&file))
        .with_context(|| format!("{} is not a run directory", run.display()))?;
    let config = Config::from_toml(&text, &file.display().to_string())?;
    let batches = batches(run, step)?;
    let judged = judge(&config, &batches)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} logged batches; shares of the tokens that have an advantage", batches.len())?;
    writeln!(
        out,
        "{:<14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "objective", "stopped", "lowered", "raised", "weight", "cosine", "norm"
    )?;
    for j in judged {
        writeln!(
            out,
            "{:<14} {:>6.2} % {:>6.2} % {:>6.2} % {:>8.3} {:>8.4} {:>8.3}",
            j.objective,
            100.0 * j.stopped,
            100.0 * j.lowered,
            100.0 * j.raised,
            j.weight,
            j.cosine,
            j.norm
        )?;
    }
    writeln!(
        out,
        "stopped: no gradient; lowered, raised: under 0.9, over 1.1 of REINFORCE's; cosine, norm: of the gradient to\n\
         the log-probabilities, against the run's own objective"
    )?;
    Ok(())
}
