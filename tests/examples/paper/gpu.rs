//! Data sheets.

/// Rates a second, of the SXM boards, dense.
pub(crate) struct Gpu {
    pub(crate) name: &'static str,
    /// Bytes of device memory.
    pub(crate) bandwidth: f64,
    /// Operations in f32, outside tensor cores.
    pub(crate) f32: f64,
    /// Operations of bf16 products with f32 sums in tensor cores.
    pub(crate) bf16: f64,
    memory_gb: u32,
}

pub(crate) const GPUS: [Gpu; 3] = [
    Gpu { name: "A100", bandwidth: 2.039e12, f32: 19.5e12, bf16: 312e12, memory_gb: 80 },
    Gpu { name: "H100", bandwidth: 3.35e12, f32: 66.9e12, bf16: 989e12, memory_gb: 80 },
    Gpu { name: "B200", bandwidth: 8.0e12, f32: 75e12, bf16: 2250e12, memory_gb: 180 },
];

pub(crate) fn table() -> String {
    let mut text = "## Limits\n\nFrom NVIDIA's data sheets: SXM boards, dense.\n\n\
                    | GPU | memory, GB | bandwidth, TB/s | f32, TFLOP/s | bf16 tensor cores, TFLOP/s | flops a byte to be bound by them |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for gpu in &GPUS {
        text += &format!(
            "| {} | {} | {:.2} | {} | {} | {:.0} |\n",
            gpu.name,
            gpu.memory_gb,
            gpu.bandwidth / 1e12,
            gpu.f32 / 1e12,
            gpu.bf16 / 1e12,
            gpu.bf16 / gpu.bandwidth
        );
    }
    text
}
