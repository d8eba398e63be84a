//! What NVIDIA's assembler says of a kernel.

use std::error::Error;
use std::path::Path;
use std::process::Command;

/// Ampere (A100), Hopper (H100), Blackwell (B200).
pub(crate) const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

/// Resources of one entry point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of a thread.
    pub(crate) registers: u32,
    /// Shared memory of a block, of which the assembler knows the static part.
    pub(crate) shared_bytes: u32,
    /// Bytes stored and loaded because registers did not do.
    pub(crate) spill_bytes: u32,
}

type Entries = Vec<(String, Usage)>;

/// The compiler's release, such as `13.0`.
pub(crate) fn version(home: &Path) -> Result<String, Box<dyn Error>> {
    let text = run(Command::new(home.join("bin/nvcc")).arg("--version"))?;
    let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    Ok(release.ok_or("nvcc does not say its release")?.to_owned())
}

/// Compiles one source for every architecture.
pub(crate) fn compile(
    home: &Path,
    name: &str,
    source: &str,
    headers: &[(&str, &str)],
) -> Result<Vec<(&'static str, Entries)>, Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("kernels-{}", std::process::id()));
    let write = |name: &str, text: &str| -> std::io::Result<()> {
        let path = dir.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, text)
    };
    let compiled = (|| {
        for (name, text) in cuda_twin::headers().iter().chain(headers).chain([&(name, source)]) {
            write(name, text)?;
        }
        let mut all = Vec::new();
        for architecture in ARCHITECTURES {
            let mut nvcc = Command::new(home.join("bin/nvcc"));
            nvcc.args(["-std=c++17", "-O3", "-cubin", "-Xptxas", "-v", "-o", "/dev/null"]);
            nvcc.arg(format!("-arch={architecture}")).arg("-I").arg(&dir).arg(dir.join(name));
            let entries = parse(&run(&mut nvcc)?).ok_or_else(|| format!("{name}: ptxas said nothing"))?;
            all.push((architecture, entries));
        }
        Ok(all)
    })();
    let _ = std::fs::remove_dir_all(&dir);
    compiled
}

/// Standard output and error of a command that succeeds.
fn run(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if !output.status.success() {
        return Err(format!("{command:?} failed:\n{}{}", text[0], text[1]).into());
    }
    Ok(text.concat())
}

/// The entry points of `ptxas -v`'s report, in its order.
fn parse(report: &str) -> Option<Entries> {
    let number_before = |line: &str, unit: &str| -> Option<u32> {
        line.split(unit).next()?.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let mut entries: Entries = Vec::new();
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            entries.push((rest.split('\'').next()?.to_owned(), Usage::default()));
        } else if let Some((_, usage)) = entries.last_mut() {
            if line.contains("spill stores") {
                usage.spill_bytes =
                    number_before(line, " bytes spill stores")? + number_before(line, " bytes spill loads")?;
            } else if line.contains("Used ") {
                usage.registers = number_before(line, " registers")?;
                usage.shared_bytes =
                    if line.contains(" bytes smem") { number_before(line, " bytes smem")? } else { 0 };
            }
        }
    }
    (!entries.is_empty() && entries.iter().all(|(_, usage)| usage.registers > 0)).then_some(entries)
}
