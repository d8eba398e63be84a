//! Compiles every kernel of the workspace for the GPUs of today and writes what it found to `kernels.toml`.
//!
//! `CUDA_HOME=… cargo run -p tests --example kernels` writes the table; with `-- --check` it compares instead, and fails
//! where a kernel spills registers, where fewer blocks of it fit on a multiprocessor than the table says, or where the table
//! has other kernels. `scripts/cuda-wheels.sh` installs the compiler. Nothing is run: times are floors on paper.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports")]

mod costs;
mod ptxas;
mod table;

use std::error::Error;
use std::path::{Path, PathBuf};

use table::{Kernel, Table};

/// A crate's kernels: name, sources, headers, threads of a block by entry point.
struct Crate {
    name: &'static str,
    sources: &'static [(&'static str, &'static str)],
    headers: &'static [(&'static str, &'static str)],
    blocks: &'static [(&'static str, u32)],
}

macro_rules! crates {
    ($($name:literal: $crate_name:ident),* $(,)?) => {
        [$(Crate {
            name: $name,
            sources: $crate_name::sources::SOURCES,
            headers: $crate_name::sources::HEADERS,
            blocks: $crate_name::sources::BLOCKS,
        }),*]
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => return Err(format!("unknown arguments {other:?}; usage: kernels [--check]").into()),
    };
    let home = PathBuf::from(
        std::env::var_os("CUDA_HOME").ok_or("CUDA_HOME is not set; scripts/cuda-wheels.sh makes one")?,
    );
    let found = compile(&home)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (file, page) = (root.join("kernels.toml"), root.join("docs/kernels.md"));
    let kernels = found.kernels.len();
    if !check {
        std::fs::write(&file, found.to_text()?)?;
        let text = std::fs::read_to_string(&page)?;
        let (before, after) = around_table(&text)?;
        std::fs::write(&page, format!("{before}{}{after}", found.to_markdown()))?;
        let architectures = ptxas::ARCHITECTURES.join(", ");
        println!("{kernels} kernels for {architectures} written to kernels.toml and docs/kernels.md");
        return Ok(());
    }
    let expected = Table::read(&file)?;
    let mut faults = found.faults(&expected);
    let text = std::fs::read_to_string(&page)?;
    let (before, after) = around_table(&text)?;
    if text != format!("{before}{}{after}", expected.to_markdown()) {
        faults.push("docs/kernels.md has another table than kernels.toml".into());
    }
    faults.iter().for_each(|fault| eprintln!("{fault}"));
    if !faults.is_empty() {
        let why = "kernels.toml disagrees; where that is meant, write it anew (without --check)";
        return Err(format!("{} faults: {why}", faults.len()).into());
    }
    println!("{kernels} kernels for {}: as in kernels.toml", ptxas::ARCHITECTURES.join(", "));
    Ok(())
}

/// What stands before and after the table of `docs/kernels.md`.
fn around_table(page: &str) -> Result<(&str, &str), Box<dyn Error>> {
    const START: &str = "<!-- kernels.toml -->\n";
    const END: &str = "<!-- end -->";
    let missing = "docs/kernels.md has no place for the table";
    let start = page.find(START).ok_or(missing)? + START.len();
    let end = start + page[start..].find(END).ok_or(missing)?;
    Ok((&page[..start], &page[end..]))
}

fn compile(home: &Path) -> Result<Table, Box<dyn Error>> {
    let mut table = Table { toolkit: ptxas::version(home)?, kernels: Vec::new() };
    for part in crates!["policy-loss": policy_loss, "moe-routing": moe_routing, "mrope": mrope, "lcg": lcg, "toolrm": toolrm]
    {
        let first = table.kernels.len();
        let mut missing: Vec<&str> = part.blocks.iter().map(|(name, _)| *name).collect();
        for (source, text) in part.sources {
            for (architecture, entries) in ptxas::compile(home, source, text, part.headers)? {
                for (name, mut usage) in entries {
                    usage.shared_bytes += costs::dynamic_shared_bytes(&name);
                    let Some((_, threads)) = part.blocks.iter().find(|(known, _)| *known == name) else {
                        return Err(format!("{}: {name} is not in sources::BLOCKS", part.name).into());
                    };
                    missing.retain(|known| *known != name);
                    let cost = costs::of(&name).ok_or_else(|| format!("{name} has no line in costs.rs"))?;
                    let kernel = match table.kernels.iter_mut().position(|k| k.name == name) {
                        Some(at) => &mut table.kernels[at],
                        None => {
                            table.kernels.push(Kernel::new(part.name, source, &name, *threads, cost));
                            let last = table.kernels.len() - 1;
                            &mut table.kernels[last]
                        }
                    };
                    kernel.add(architecture, *threads, usage);
                }
            }
        }
        let place = |k: &Kernel| part.blocks.iter().position(|(name, _)| *name == k.name);
        table.kernels[first..].sort_by_key(place);
        if !missing.is_empty() {
            return Err(
                format!("{}: sources::BLOCKS names {missing:?}, which no source has", part.name).into()
            );
        }
    }
    Ok(table)
}
