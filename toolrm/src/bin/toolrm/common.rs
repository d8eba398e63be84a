//! What all verbs share.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use toolrm::io::{Control, Summary, is_stdio};
use toolrm::{Val, json};

/// Options of every verb.
#[derive(Args)]
pub(crate) struct Global {
    /// Threads; all processors if not given. The output does not depend on it.
    #[arg(long, global = true)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Seed of what is drawn.
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write nothing but errors to standard error.
    #[arg(long, global = true)]
    quiet: bool,
    /// Write a summary as JSON to standard output.
    #[arg(long, global = true)]
    json: bool,
    /// End at the first bad line.
    #[arg(long, global = true)]
    strict_input: bool,
    /// Write over outputs that are there.
    #[arg(long, global = true)]
    force: bool,
}

impl Global {
    pub(crate) fn control(&self, fingerprint: String) -> Control {
        Control { strict: self.strict_input, force: self.force, quiet: self.quiet, fingerprint }
    }
}

/// A mistake in what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// What a verb did.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) summary: Summary,
    /// Whether a verification failed.
    pub(crate) failed: bool,
    /// Text for a reader, on standard error.
    pub(crate) text: String,
    /// More for the summary.
    pub(crate) more: Vec<(&'static str, Val)>,
}

impl From<Summary> for Outcome {
    fn from(summary: Summary) -> Self {
        Outcome { summary, ..Outcome::default() }
    }
}

impl Outcome {
    pub(crate) fn print(&self, global: &Global) -> Result<()> {
        let s = &self.summary;
        if !global.quiet {
            if s.lines == 0 {
                eprintln!("warning: the input has no lines");
            }
            let counts: Vec<String> = s.tally.iter().map(|(k, n)| format!(", {k} {n}")).collect();
            eprintln!("{} lines, {} rejected{}", s.lines, s.rejected, counts.concat());
            eprint!("{}", self.text);
        }
        if global.json {
            let int = |n: u64| Val::int(n.into());
            let counts = Val::dict(s.tally.iter().map(|(k, n)| (k.as_str(), int(*n))));
            let mut all = vec![("lines", int(s.lines)), ("rejected", int(s.rejected)), ("counts", counts)];
            all.extend(self.more.iter().cloned());
            let text = json::to_string(&Val::dict(all))?;
            writeln!(std::io::stdout(), "{text}")?;
        }
        Ok(())
    }
}

/// A file that is read twice cannot be standard input.
pub(crate) fn not_stdin(path: &Path, what: &str) -> Result<()> {
    if is_stdio(path) {
        return Err(Usage(format!("{what} are read twice, so they cannot come from standard input")).into());
    }
    Ok(())
}

/// The names of a list of values, for options that take one of them.
macro_rules! choice {
    ($vis:vis $name:ident => $target:ty { $($variant:ident => $value:expr),* $(,)? }) => {
        #[derive(Clone, Copy, Debug, clap::ValueEnum)]
        $vis enum $name { $($variant),* }
        impl From<$name> for $target {
            fn from(choice: $name) -> Self {
                match choice { $($name::$variant => $value),* }
            }
        }
    };
}
pub(crate) use choice;

choice!(pub(crate) ModeArg => toolrm::Mode {
    Strict => toolrm::Mode::Strict, Lenient => toolrm::Mode::Lenient, Bfcl => toolrm::Mode::Bfcl,
});

/// The parser of `--format`.
pub(crate) fn format(name: &str) -> Result<toolrm::Format, String> {
    toolrm::Format::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = toolrm::Format::ALL.iter().map(|f| f.name()).collect();
        format!("expected auto or one of {}", names.join(", "))
    })
}
