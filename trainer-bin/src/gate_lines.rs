//! Data files of gates, line by line: what is broken is named by its line, or counted and left out.

use std::path::Path;

use anyhow::{Context, Result};

/// What `parse` makes of the lines of a file that are not blank. With `skip_bad`, lines that are not UTF-8 or that `parse`
/// refuses are left out, and a warning says how many; otherwise the first is the error.
pub(crate) fn read_lines<T>(
    file: &Path,
    skip_bad: bool,
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Vec<T>> {
    let all = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let (mut read, mut skipped) = (Vec::new(), 0);
    for (number, line) in all.split(|b| *b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let text = std::str::from_utf8(line).context("not UTF-8");
        match text.and_then(|text| parse(text.trim_end_matches('\r'))) {
            Ok(one) => read.push(one),
            Err(_) if skip_bad => skipped += 1,
            Err(e) => return Err(e.context(format!("{}, line {}", file.display(), number + 1))),
        }
    }
    if skipped > 0 {
        eprintln!("warning: {}: {skipped} broken lines are left out", file.display());
    }
    Ok(read)
}
