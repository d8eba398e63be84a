//! Numbers that peers' own code gave: losses and gradients of TRL, logits and gradients of transformers.
//!
//! Walks `GOLDEN_DIR` (default: this crate's `golden` folder). Cases that were never seen before run unchanged; an
//! unknown `kind` or field is a failure, so that no case passes by being ignored.
#![allow(missing_docs, clippy::unwrap_used)]

mod losses;
mod models;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

fn golden_dir() -> PathBuf {
    match std::env::var_os("GOLDEN_DIR") {
        Some(dir) => {
            let dir = PathBuf::from(dir);
            // Given relative to the workspace, as the default is; cargo runs tests in the crate's folder.
            let from_workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&dir);
            if dir.is_absolute() || !from_workspace.exists() { dir } else { from_workspace }
        }
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = read.map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The object's fields, all of them among `known`.
fn only<'a>(object: &'a Value, known: &[&str], what: &str) -> Result<&'a Map<String, Value>, String> {
    let fields = object.as_object().ok_or_else(|| format!("{what} is not an object"))?;
    match fields.keys().find(|k| !known.contains(&k.as_str())) {
        Some(unknown) => Err(format!("unknown field `{unknown}` in {what}")),
        None => Ok(fields),
    }
}

/// Within `tolerance`. A NaN is near nothing.
fn near(what: &str, found: f64, wanted: f64, tolerance: f64) -> Result<(), String> {
    // Not `> tolerance`, which is false of NaN.
    if (found - wanted).abs() <= tolerance {
        Ok(())
    } else {
        Err(format!("{what} {found}, expected {wanted}"))
    }
}
