//! Regular expressions that match as Python's do.

use std::sync::OnceLock;

use regex::Regex;

/// A pattern compiled once. Python's classes are spelled out: `\s` also has the separators U+001C to U+001F, `\w` has
/// letters and numbers of all kinds but no marks.
pub(crate) struct Pattern {
    cell: OnceLock<Regex>,
    text: &'static str,
}

impl Pattern {
    pub(crate) const fn new(text: &'static str) -> Self {
        Pattern { cell: OnceLock::new(), text }
    }

    pub(crate) fn get(&self) -> &Regex {
        self.cell.get_or_init(|| {
            let text = self.text.replace(r"\s", r"[\s\x1c-\x1f]").replace(r"\w", r"[\p{L}\p{N}_]");
            match Regex::new(&text) {
                Ok(regex) => regex,
                Err(error) => unreachable!("a constant pattern: {error}"),
            }
        })
    }
}
