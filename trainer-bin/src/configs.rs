//! `config show|check|explain` and `presets`.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use train_core::config::{Layers, PRESETS, batch_sentence, explain as explain_key, keys};

use crate::cli::RunArgs;

/// The default preset.
const DEFAULT: &str = "reverse";

/// The layers that the command line stands for.
pub(crate) fn layers(args: &RunArgs) -> Result<Layers> {
    let mut layers = match args.config() {
        None => Layers::preset(DEFAULT)?,
        Some(name) if PRESETS.iter().any(|p| p.name == name) => Layers::preset(name)?,
        Some(path) if Path::new(path).exists() => {
            let mut layers = Layers::defaults();
            layers.file(Path::new(path))?;
            layers
        }
        // Names the presets there are.
        Some(name) if !name.contains(['/', '.']) => Layers::preset(name)?,
        Some(path) => bail!("{path}: no such file"),
    };
    layers.environment(std::env::vars())?;
    for assignment in &args.set {
        layers.set(assignment, "--set")?;
    }
    Ok(layers)
}

pub(crate) fn show(args: &RunArgs) -> Result<()> {
    let layers = layers(args)?;
    let config = layers.resolve()?;
    let mut out = std::io::stdout().lock();
    let mut section = String::new();
    for (key, value, origin) in layers.values() {
        let (head, name) = key.split_once('.').unwrap_or(("", &key));
        if head != section {
            section = head.to_owned();
            writeln!(out, "\n[{section}]")?;
        }
        let line = format!("{name} = {value}");
        writeln!(out, "{line:<44} # {origin}")?;
    }
    writeln!(out, "\n{}.", batch_sentence(&config))?;
    Ok(())
}

pub(crate) fn check(args: &RunArgs) -> Result<()> {
    let config = layers(args)?.resolve()?;
    writeln!(std::io::stdout(), "The configuration is good. {}.", batch_sentence(&config))?;
    Ok(())
}

pub(crate) fn explain(key: Option<&str>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let Some(key) = key else {
        for (key, default, meaning) in keys() {
            writeln!(out, "{key} (default {default})\n    {meaning}")?;
        }
        return Ok(());
    };
    match explain_key(key) {
        Some((default, meaning)) => writeln!(out, "{key} (default {default})\n{meaning}")?,
        None => {
            // The error of setting an unknown key names the nearest one.
            Layers::defaults().set(&format!("{key}=0"), "asked for")?;
        }
    }
    Ok(())
}

pub(crate) fn presets() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for preset in PRESETS {
        let config = Layers::preset(preset.name)?.resolve()?;
        writeln!(out, "{:<14} {}", preset.name, preset.about)?;
        writeln!(out, "{:<14} {} steps; {}", "", config.run.steps, batch_sentence(&config))?;
    }
    Ok(())
}
