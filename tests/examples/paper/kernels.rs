//! The kernels of this project against the bytes that their inputs and outputs have.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use serde::Deserialize;

use crate::costs;
use crate::gpu::GPUS;

/// What is read of `kernels.toml`.
#[derive(Deserialize)]
struct Table {
    kernel: Vec<Kernel>,
}

#[derive(Deserialize)]
struct Kernel {
    name: String,
    #[serde(rename = "crate")]
    crate_name: String,
    unit: String,
    resources: BTreeMap<String, Resources>,
}

#[derive(Deserialize)]
struct Resources {
    registers: u32,
    shared_bytes: u32,
    occupancy: f64,
}

/// Where a kernel moves more than its inputs once and its outputs once: the bytes of those, and why.
fn floor(kernel: &str, bytes: f64) -> (f64, &'static str) {
    match kernel {
        // 4 bytes of an id, three arrays of 4 bytes; the count reads the ids too.
        "dispatch_scatter" => (bytes, "with `dispatch_count`: 20 bytes a pair, of which 16 are the floor"),
        // W1 once for all 256 rows of the shape, not for each 8 of them.
        "lcg_gate_f32" => (
            4.0 * 4096.0 * (1.0 + 128.0 / 256.0),
            "reads W1 for each 8 rows: from the L2 cache, which holds its 2 MB",
        ),
        k if k.starts_with("lcg_nucleus") => {
            (bytes / 4.0, "reads a row again for each of three digits of the last token, and for the draw")
        }
        k if k.starts_with("row_grad") || k.starts_with("masked_logprob_grad") => {
            (bytes, "with the pass before it: three passes over a row; two where a cluster holds the row")
        }
        "norm_rotate_weights" => {
            (0.0, "partial sums, so that no float is added atomically and the bits stay")
        }
        _ => (bytes, ""),
    }
}

pub(crate) fn table(file: &Path) -> Result<String, Box<dyn Error>> {
    let table: Table = toml::from_str(&std::fs::read_to_string(file)?)?;
    let mut text = "\n## Kernels of this project\n\nBytes moved by the kernel beside the floor: inputs read once, outputs written once. \
                    Registers, shared memory and occupancy are of sm_90 by `ptxas`; all of [kernels.md](kernels.md).\n\n\
                    | kernel | bytes, floor, operations | of a | registers, shared bytes, occupancy | bound on H100 by | µs at the limit on A100, H100, B200 | for | above the floor |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for kernel in &table.kernel {
        let name = kernel.name.as_str();
        let cost = costs::of(name).ok_or_else(|| format!("{name} has no line in costs.rs"))?;
        let on = kernel.resources.get("sm_90").ok_or_else(|| format!("{name}: kernels.toml has no sm_90"))?;
        let (least, why) = floor(name, cost.bytes);
        let time =
            |gpu: &crate::gpu::Gpu| 1e6 * cost.units * (cost.bytes / gpu.bandwidth).max(cost.flops / gpu.f32);
        let bound =
            if cost.bytes / GPUS[1].bandwidth >= cost.flops / GPUS[1].f32 { "memory" } else { "arithmetic" };
        text += &format!(
            "| `{name}` ({}) | {}, {}, {} | {} | {}, {}, {:.0} % | {bound} | {} | {} | {why} |\n",
            kernel.crate_name,
            cost.bytes,
            least,
            cost.flops,
            kernel.unit,
            on.registers,
            on.shared_bytes,
            100.0 * on.occupancy,
            GPUS.iter().map(|g| format!("{:.1}", time(g))).collect::<Vec<_>>().join(", "),
            cost.shape,
        );
    }
    Ok(text)
}
