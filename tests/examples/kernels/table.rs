//! `kernels.toml`: what is written, read back and compared.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::costs::Cost;
use crate::ptxas::{ARCHITECTURES, Usage};

/// All kernels.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    /// Release of nvcc.
    pub(crate) toolkit: String,
    /// In the order of crates and sources.
    #[serde(rename = "kernel")]
    pub(crate) kernels: Vec<Kernel>,
}

/// One entry point.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    /// Entry point.
    pub(crate) name: String,
    #[serde(rename = "crate")]
    crate_name: String,
    source: String,
    /// Of a block.
    threads: u32,
    /// What `bytes` and `flops` are for one of.
    unit: String,
    bytes: f64,
    flops: f64,
    shape: String,
    /// Microseconds for `shape` below which no kernel can be, by GPU: bytes over bandwidth, or operations over rate.
    floor_us: BTreeMap<String, f64>,
    resources: BTreeMap<String, Resources>,
}

/// On one architecture.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    registers: u32,
    shared_bytes: u32,
    spill_bytes: u32,
    /// Blocks that fit on a multiprocessor.
    blocks: u32,
    /// Share of its warps that they fill.
    occupancy: f64,
}

/// Bytes and f32 operations a second, from NVIDIA's data sheets (SXM boards, dense, not tensor cores).
const GPUS: [(&str, f64, f64); 3] =
    [("A100", 2.039e12, 19.5e12), ("H100", 3.35e12, 66.9e12), ("B200", 8.0e12, 75.0e12)];

impl Kernel {
    pub(crate) fn new(crate_name: &str, source: &str, name: &str, threads: u32, cost: Cost) -> Self {
        let floor = |bandwidth: f64, rate: f64| {
            let us = 1e6 * cost.units * (cost.bytes / bandwidth).max(cost.flops / rate);
            (us * 100.0).round() / 100.0
        };
        Self {
            name: name.into(),
            crate_name: crate_name.into(),
            source: source.into(),
            threads,
            unit: cost.unit.into(),
            bytes: cost.bytes,
            flops: cost.flops,
            shape: cost.shape.into(),
            floor_us: GPUS
                .iter()
                .map(|(gpu, bandwidth, rate)| (gpu.to_string(), floor(*bandwidth, *rate)))
                .collect(),
            resources: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, architecture: &str, threads: u32, usage: Usage) {
        let (blocks, occupancy) = occupancy(architecture, threads, usage);
        let Usage { registers, shared_bytes, spill_bytes } = usage;
        let resources = Resources { registers, shared_bytes, spill_bytes, blocks, occupancy };
        self.resources.insert(architecture.into(), resources);
    }
}

/// Blocks that fit on a multiprocessor, and the share of its 64 warps that they fill.
fn occupancy(architecture: &str, threads: u32, usage: Usage) -> (u32, f64) {
    const WARPS: u32 = 64;
    let shared = if architecture == "sm_80" { 164 } else { 228 } * 1024;
    let warps = threads.div_ceil(32);
    let by_registers = 65_536 / (warps * (usage.registers * 32).next_multiple_of(256)).max(1);
    let by_shared = shared / (usage.shared_bytes + 1024);
    let blocks = (WARPS / warps).min(by_registers).min(by_shared).min(32);
    (blocks, f64::from(blocks * warps) / f64::from(WARPS))
}

impl Table {
    pub(crate) fn read(file: &Path) -> Result<Self, Box<dyn Error>> {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        toml::from_str(&text).map_err(|e| format!("{}: {e}", file.display()).into())
    }

    pub(crate) fn to_text(&self) -> Result<String, Box<dyn Error>> {
        let head = "# Written by `cargo run -p tests --example kernels`, checked with `-- --check`. Compiled, not run.\n\
                    # Floors: A100 2.04 TB/s, 19.5 TFLOP/s; H100 3.35 TB/s, 66.9 TFLOP/s; B200 8.0 TB/s, 75 TFLOP/s (f32).\n";
        Ok(format!("{head}{}", toml::to_string(self)?))
    }

    /// For `docs/kernels.md`: registers and occupancy by architecture, and the floors.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = "| kernel | emulated | registers / occupancy on sm_80, sm_90, sm_100 | bytes, operations a unit | floor on A100, H100, B200 | run on a GPU |\n|---|---|---|---|---|---|\n".to_owned();
        for k in &self.kernels {
            let on = |r: &Resources| format!("{} / {:.0} %", r.registers, 100.0 * r.occupancy);
            let resources: Vec<String> =
                ARCHITECTURES.iter().filter_map(|a| k.resources.get(*a)).map(on).collect();
            let floors: Vec<String> = GPUS
                .iter()
                .filter_map(|(gpu, ..)| k.floor_us.get(*gpu))
                .map(|us| format!("{us:.1}"))
                .collect();
            text += &format!(
                "| `{}` ({}) | yes | {} | {}, {} a {} | {} µs for {} | never |\n",
                k.name,
                k.crate_name,
                resources.join(", "),
                k.bytes,
                k.flops,
                k.unit,
                floors.join(", "),
                k.shape
            );
        }
        text
    }

    /// What is worse than in `expected`, or not comparable with it.
    pub(crate) fn faults(&self, expected: &Self) -> Vec<String> {
        let mut faults = Vec::new();
        for known in &expected.kernels {
            if !self.kernels.iter().any(|k| k.name == known.name) {
                faults.push(format!("{}: in kernels.toml, but in no source", known.name));
            }
        }
        for kernel in &self.kernels {
            for (architecture, found) in &kernel.resources {
                if found.spill_bytes > 0 {
                    let bytes = found.spill_bytes;
                    faults.push(format!("{} on {architecture}: spills {bytes} bytes", kernel.name));
                }
                let known = expected.kernels.iter().find(|k| k.name == kernel.name);
                match known.and_then(|k| k.resources.get(architecture)) {
                    None => faults.push(format!("{} on {architecture}: not in kernels.toml", kernel.name)),
                    Some(known) if found.blocks < known.blocks => faults.push(format!(
                        "{} on {architecture}: {} blocks fit a multiprocessor, kernels.toml has {} ({} registers, were {}; {} bytes of shared memory, were {})",
                        kernel.name,
                        found.blocks,
                        known.blocks,
                        found.registers,
                        known.registers,
                        found.shared_bytes,
                        known.shared_bytes
                    )),
                    Some(_) => {}
                }
            }
        }
        faults
    }
}
