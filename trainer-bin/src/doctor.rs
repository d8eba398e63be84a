//! `doctor`: what this machine offers.

use std::io::Write;

use anyhow::Result;

/// Facts about the host, for `run.json` and the report.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let mut facts =
        vec![("os", std::env::consts::OS.to_owned()), ("arch", std::env::consts::ARCH.to_owned())];
    if let Some(model) = proc_field("/proc/cpuinfo", "model name") {
        facts.push(("cpu_model", model));
    }
    facts.push(("isa", isa().join(" ")));
    if let Some(memory) = proc_field("/proc/meminfo", "MemTotal") {
        facts.push(("memory", memory));
    }
    facts
}

fn proc_field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn isa() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("baseline", true)];
    found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

pub(crate) fn doctor() -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut line = |name: &str, value: String, advice: &str| {
        let advice = if advice.is_empty() { String::new() } else { format!("   ({advice})") };
        writeln!(out, "{name:<12} {value}{advice}")
    };
    for (name, value) in facts() {
        line(name, value, "")?;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    line("threads", threads.to_string(), "run.threads = 0 uses all of them; results do not depend on it")?;
    let fast = isa().contains(&"avx2") && isa().contains(&"fma");
    let advice = if fast || cfg!(not(target_arch = "x86_64")) {
        ""
    } else {
        "without AVX2 matrix products are several times slower"
    };
    line("matmul", if fast { "AVX2 + FMA or better".into() } else { "baseline".into() }, advice)?;
    line("allocator", "mimalloc".into(), "")?;
    line("gpu", "not used".into(), "this version trains on the CPU")?;
    let here = std::env::current_dir()?;
    let probe = here.join(".trainer-doctor");
    let writable = std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe));
    match writable {
        Ok(()) => line("disk", format!("{} is writable", here.display()), "")?,
        Err(e) => line("disk", format!("{}: {e}", here.display()), "choose another place: --set run.dir=…")?,
    }
    Ok(())
}
