//! `experiment`: studies of many runs, cell by cell.

use std::time::Duration;

use anyhow::{Result, bail};
use train_core::experiment::{Extent, Plan, Study, tables};
use train_core::rundir::write_whole;

use crate::cli::{ExperimentArgs, StudyName};
use crate::run::use_threads;

pub(crate) fn experiment(args: &ExperimentArgs) -> Result<()> {
    let study = match args.study {
        StudyName::Stability => Study::Stability,
        StudyName::Sapo => Study::Sapo,
    };
    if args.seeds == 0 {
        bail!("--seeds is 0: a study needs a seed");
    }
    let minutes = args.minutes.or(args.quick.then_some(QUICK_MINUTES));
    if let Some(bad) = minutes.filter(|m| !(*m >= 0.0 && m.is_finite())) {
        bail!("--minutes is {bad}, expected 0 or more");
    }
    use_threads(0)?;
    let plan = Plan {
        study,
        extent: if args.quick { Extent::Quick } else { Extent::Full },
        dir: args.output.clone().unwrap_or_else(|| format!("studies/{}", study.name()).into()),
        seeds: args.seeds,
        updates: args.updates,
        limit: minutes.map(|m| Duration::from_secs_f64(60.0 * m)),
        set: args.set.clone(),
    };
    let progress = plan.run(&mut |line| eprintln!("{line}"))?;
    let file = plan.dir.join("tables.md");
    write_whole(&file, tables(&progress.outcomes).as_bytes())?;
    let pictures = train_core::experiment::pictures(&progress.outcomes);
    for (name, svg) in &pictures {
        write_whole(&plan.dir.join(name), svg.as_bytes())?;
    }
    println!(
        "{} of {} cells; tables and curves: {}",
        progress.outcomes.len(),
        progress.cells,
        file.display()
    );
    if progress.outcomes.len() < progress.cells {
        println!("The same command goes on with the rest.");
    }
    Ok(())
}

/// What a quick study may take.
const QUICK_MINUTES: f64 = 9.5;
