//! The system's C++ compiler: kernel source in, a library out.

use super::{cache, scan};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

macro_rules! headers {
    ($($name:literal),*) => { &[$(($name, include_str!(concat!("../../include/", $name)))),*] };
}

/// The headers that kernels include, by name: what `Gpu::compile` gives to every compiler by itself.
pub(crate) const HEADERS: &[(&str, &str)] = headers![
    "twin.cuh",
    "twin/atomics.cuh",
    "twin/device.cuh",
    "twin/entry.cuh",
    "twin/fp8.cuh",
    "twin/half.cuh",
    "twin/host.cuh",
    "twin/math.cuh",
    "twin/mma.cuh",
    "twin/mma_device.cuh",
    "twin/mma_host.cuh",
    "twin/runtime.cuh",
    "twin/types.cuh",
    "twin/warp.cuh"
];
const HOOKS: &str = include_str!("hooks.cc");

const COMMON: &[&str] = &[
    "-std=c++17",
    "-gdwarf-4", // GCC 12 and binutils 2.40 mistake the file of some lines of DWARF 5
    "-fPIC",
    "-w",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fno-finite-loops", // a wait for other threads has no effect of its own
    "-fno-plt",
    "-Wl,-z,now",
    "-Wl,-z,defs",
];
const UNCHECKED: &[&str] = &["-O2"];
const CHECKED: &[&str] = &[
    "-O1",
    "-DTWIN_CHECK",
    "-fsanitize=thread",
    "-fsanitize=alignment,bounds,integer-divide-by-zero",
    "-fsanitize=signed-integer-overflow,shift-exponent",
    "--param=tsan-distinguish-volatile=1",
    "-fsanitize-coverage=trace-pc",
];
const INSTALL: &str = "the emulator needs a C++17 compiler, GCC 11 or newer: install g++, or set CXX to it";

/// What a source became.
pub(crate) struct Built {
    pub(crate) library: PathBuf,
    /// Folder of the headers; lines in it are the emulator's, not the kernel's.
    pub(crate) include: PathBuf,
}

/// The compiler and what it says of its version, asked once.
fn compiler() -> Result<&'static (String, String)> {
    static COMPILER: OnceLock<Result<(String, String)>> = OnceLock::new();
    let found = COMPILER.get_or_init(|| {
        let program =
            std::env::var("CXX").ok().filter(|cxx| !cxx.trim().is_empty()).unwrap_or("c++".to_string());
        let output = Command::new(&program).arg("--version").output().map_err(|e| Error::Program {
            program: program.clone(),
            cause: e.to_string(),
            remedy: INSTALL,
        })?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        if version.contains("clang") {
            let cause = "it is clang, whose instrumentation calls other functions".to_string();
            return Err(Error::Program { program, cause, remedy: INSTALL });
        }
        Ok((program, version))
    });
    found.as_ref().map_err(Clone::clone)
}

fn run(name: &str, program: &str, folder: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program).current_dir(folder).args(args).output().map_err(|e| {
        Error::Program { program: program.to_string(), cause: e.to_string(), remedy: INSTALL }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let log = String::from_utf8_lossy(&output.stderr).replace(&format!("{}/", folder.display()), "");
    Err(Error::Compile { name: name.to_string(), compiler: program.to_string(), log })
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    std::fs::write(path, text).map_err(|e| Error::io(path, e))
}

fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut sha = Sha256::new();
    for text in texts {
        sha.update((text.len() as u64).to_le_bytes());
        sha.update(text);
    }
    sha.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect()
}

/// The headers and the library of hooks, made once for each version of them and of the compiler.
fn common() -> Result<PathBuf> {
    let (program, version) = compiler()?;
    let texts = HEADERS.iter().flat_map(|(name, text)| [*name, *text]).chain([HOOKS, program, version]);
    let name = format!("twin-{}", hash(texts.chain(COMMON.iter().copied())));
    cache::entry(&name, |draft| {
        for (header, text) in HEADERS {
            write(&draft.join("include").join(header), text)?;
        }
        write(&draft.join("hooks.cc"), HOOKS)?;
        let output = ["-O2", "-shared", "-Iinclude", "hooks.cc", "-o", "hooks.so"];
        run("hooks.cc", program, draft, &[COMMON, &output].concat()).map(drop)
    })
}

/// Compiles a source, or finds it in the cache.
pub(crate) fn build(name: &str, source: &str, headers: &[(&str, &str)], checked: bool) -> Result<Built> {
    let (program, version) = compiler()?;
    let common = common()?;
    let include = common.join("include");
    let mode = if checked { CHECKED } else { UNCHECKED };
    let folder = common.to_string_lossy();
    let texts = headers.iter().flat_map(|(name, text)| [*name, *text]);
    let key =
        hash([name, source, &folder, program, version].into_iter().chain(texts).chain(mode.iter().copied()));
    let entry = cache::entry(&format!("{name}-{key}"), |draft| {
        write(&draft.join(name), source)?;
        for (header, text) in headers {
            write(&draft.join(header), text)?;
        }
        let include = format!("-I{}", include.display());
        let common_flags = [COMMON, &["-I.", &include, "-x", "c++"]].concat();
        let text = run(name, program, draft, &[&common_flags[..], &["-E", "-DTWIN_SCAN", name]].concat())?;
        let kernels = scan::declarations(&text);
        let entries: String =
            kernels.iter().map(|k| format!("TWIN_ENTRY({}, {})\n", k.name, k.line)).collect();
        let names: String = kernels.iter().map(|k| format!("{}\\n", k.name)).collect();
        let list =
            format!("extern \"C\" const char twin_kernels[];\nconst char twin_kernels[] = \"{names}\";\n");
        let entry = format!("#include \"{name}\"\n#include \"twin/entry.cuh\"\n{entries}{list}");
        write(&draft.join("twin_entry.cc"), &entry)?;
        let hooks = common.join("hooks.so").display().to_string();
        let compile = [&common_flags[..], mode, &["-c", "twin_entry.cc", "-o", "kernel.o"]].concat();
        run(name, program, draft, &compile)?;
        // Linked by its whole path, so that no search path matters.
        run(name, program, draft, &[COMMON, &["-shared", "kernel.o", &hooks, "-o", "kernel.so"]].concat())
            .map(drop)
    })?;
    Ok(Built { library: entry.join("kernel.so"), include })
}
