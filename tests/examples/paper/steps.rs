//! Bytes and operations of a training step and of a decoding step, part by part.

use crate::costs;
use crate::gpu::Gpu;
use crate::models::{Experts, Model};

pub(crate) const HEAD: &str = "
## Steps that the limits predict

Activations, weights of products and gradients between layers in bf16; sums, norms' statistics, master weights and moments in f32. \
A product reads its operands and writes its result once; attention is counted as a tiled kernel that keeps no scores, causal, its \
backward with 2.5 times the forward's products. \"ours\" are kernels of the table above, at the bytes they move; the others have no \
CUDA source here: products and grouped products would be cuBLAS or CUTLASS, attention a library's, norms, SwiGLU and AdamW kernels \
to be written. No recomputation of layers. Times add up: nothing overlaps, and launches are free.
";

/// What a good library reaches of a limit, for the second row of each step: assumed, not measured.
pub(crate) const SHARE: f64 = 0.75;

/// Bytes of an activation or of a weight in a product.
const E: f64 = 2.0;

pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) shape: String,
    pub(crate) tokens: f64,
    pub(crate) work: Vec<Work>,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Tensor,
    Vector,
}

/// Some kernels of a kind.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) whose: &'static str,
    pub(crate) bytes: f64,
    pub(crate) flops: f64,
    unit: Unit,
}

impl Work {
    fn products(name: &'static str, [bytes, flops]: [f64; 2]) -> Self {
        Self { name, whose: "a library", bytes, flops, unit: Unit::Tensor }
    }

    fn missing(name: &'static str, bytes: f64, flops: f64) -> Self {
        Self { name, whose: "to be written", bytes, flops, unit: Unit::Vector }
    }

    /// Kernels of this project with how many units of each.
    fn ours(name: &'static str, kernels: &[(&str, f64)]) -> Self {
        let (mut bytes, mut flops) = (0.0, 0.0);
        for (kernel, units) in kernels {
            let cost = costs::of(kernel).unwrap_or_else(|| panic!("{kernel} has no line in costs.rs"));
            bytes += units * cost.bytes;
            flops += units * cost.flops;
        }
        Self { name, whose: "ours", bytes, flops, unit: Unit::Vector }
    }

    fn rate(&self, gpu: &Gpu) -> f64 {
        if self.unit == Unit::Tensor { gpu.bf16 } else { gpu.f32 }
    }

    /// At a share of the limit.
    pub(crate) fn seconds(&self, gpu: &Gpu, share: f64) -> f64 {
        (self.bytes / gpu.bandwidth).max(self.flops / self.rate(gpu)) / share
    }

    pub(crate) fn bound(&self, gpu: &Gpu) -> &'static str {
        match self.bytes / gpu.bandwidth >= self.flops / self.rate(gpu) {
            true => "memory",
            false => "arithmetic",
        }
    }
}

/// Bytes and flops of `x[m, k] · wᵀ[k, n]`.
fn product(m: f64, n: f64, k: f64) -> [f64; 2] {
    [E * (m * k + n * k + m * n), 2.0 * m * n * k]
}

fn sum<const N: usize>(parts: [[f64; 2]; N], times: f64) -> [f64; 2] {
    [0, 1].map(|i| times * parts.iter().map(|p| p[i]).sum::<f64>())
}

/// Products of experts: `rows` rows in all, and the weights of `touched` experts.
fn grouped(rows: f64, n: f64, k: f64, touched: f64) -> [f64; 2] {
    [E * (rows * (n + k) + touched * n * k), 2.0 * rows * n * k]
}

/// Forward and backward of packed sequences, then AdamW.
pub(crate) fn training_step(m: &Model) -> Step {
    let (tokens, length) = (16_384.0, 2048.0);
    let (d, layers) = (m.hidden, m.layers);
    // Forward once; backward to the input and to the weight.
    let thrice = |n: f64, k: f64| product(tokens, n, k).map(|v| 3.0 * v);
    let (qkv, out) = (m.qkv(), m.attention_out());
    let mut work = vec![
        Work::products("projections of attention", sum([thrice(qkv, d), thrice(d, out)], layers)),
        Work::products("attention", {
            let flops = 4.0 * tokens * (length / 2.0) * out;
            let bytes = E * tokens * (qkv + out);
            // Backward: queries, keys, values, result and its gradient in, three gradients out.
            [layers * (bytes + E * tokens * (2.0 * qkv + 2.0 * out)), layers * 3.5 * flops]
        }),
        Work::ours(
            "norm and rotation of heads",
            &[
                ("norm_rotate_bf16", layers * tokens * qkv),
                ("norm_rotate_backward_bf16", layers * tokens * qkv),
                ("norm_rotate_weights", layers * tokens / 64.0 * (m.query_heads + m.kv_heads) * m.head_dim),
                ("rotary_table", tokens * m.head_dim / 2.0),
            ],
        ),
        // Residual and branch in, both sums out; backward as much again.
        Work::missing(
            "residuals and norms",
            layers * 2.0 * 2.0 * 4.0 * E * tokens * d,
            layers * 2.0 * 20.0 * tokens * d,
        ),
    ];
    let inner_rows = tokens * m.experts.map_or(1.0, |e| e.chosen);
    match m.experts {
        None => {
            let products = [thrice(2.0 * m.inner, d), thrice(d, m.inner)];
            work.push(Work::products("MLP", sum(products, layers)));
        }
        Some(Experts { count, chosen }) => {
            let pairs = tokens * chosen;
            let experts = |n, k| grouped(pairs, n, k, count).map(|v| 3.0 * v);
            let products = [thrice(count, d), experts(2.0 * m.inner, d), experts(d, m.inner)];
            work.push(Work::products("router and experts", sum(products, layers)));
            work.push(Work::ours(
                "routing, dispatch, permutation",
                &[
                    ("top_k_f32", layers * tokens),
                    ("gates_f32", layers * tokens),
                    ("gates_backward_f32", layers * tokens),
                    ("load_balance_f32", layers * tokens),
                    ("dispatch_count", layers * pairs),
                    ("dispatch_scatter", layers * pairs),
                    ("permute_bf16_wide", layers * pairs * d),
                    ("permute_backward_bf16_wide", layers * pairs * d),
                    ("unpermute_bf16_wide", layers * pairs * d),
                    ("unpermute_backward_bf16_wide", layers * pairs * d),
                ],
            ));
        }
    }
    let swiglu = E * inner_rows * m.inner;
    // Forward: two in, one out; backward: three in, two out.
    work.push(Work::missing("SwiGLU", layers * 8.0 * swiglu, layers * 20.0 * inner_rows * m.inner));
    work.push(Work::products("head", thrice(m.vocabulary, d)));
    work.push(Work::ours(
        "loss over the vocabulary",
        &[
            ("row_stats_bf16", tokens * m.vocabulary),
            ("row_grad_bf16", tokens * m.vocabulary),
            ("objective_f32", tokens),
        ],
    ));
    // Weight, gradient and moments in, weight and moments out, and the weight in bf16.
    work.push(Work::missing("AdamW", m.parameters() * 30.0 / m.shards, m.parameters() * 12.0 / m.shards));
    Step {
        title: "Training step",
        shape: format!("{tokens} tokens on a GPU, packed from sequences of {length}."),
        tokens,
        work,
    }
}

/// One token for each of a batch of sequences.
pub(crate) fn decode_step(m: &Model) -> Step {
    let (batch, context) = (64.0, 2048.0);
    let (d, layers) = (m.hidden, m.layers);
    let (qkv, out) = (m.qkv(), m.attention_out());
    let mut work = vec![
        Work::products(
            "projections of attention",
            sum([product(batch, qkv, d), product(batch, d, out)], layers),
        ),
        Work::products("attention", {
            let kept = 2.0 * m.kv_heads * m.head_dim * context;
            [layers * E * batch * (kept + qkv + out), layers * 4.0 * batch * context * out]
        }),
        Work::ours("norm and rotation of heads", &[("norm_rotate_bf16", layers * batch * qkv)]),
        Work::missing(
            "residuals and norms",
            layers * 2.0 * 4.0 * E * batch * d,
            layers * 2.0 * 8.0 * batch * d,
        ),
    ];
    match m.experts {
        None => {
            let products = [product(batch, 2.0 * m.inner, d), product(batch, d, m.inner)];
            work.push(Work::products("MLP", sum(products, layers)));
        }
        Some(Experts { count, chosen }) => {
            // If every choice is as likely as any other.
            let touched = count * (1.0 - (1.0 - chosen / count).powf(batch));
            let pairs = batch * chosen;
            let products = [
                product(batch, count, d),
                grouped(pairs, 2.0 * m.inner, d, touched),
                grouped(pairs, d, m.inner, touched),
            ];
            work.push(Work::products("router and experts", sum(products, layers)));
            work.push(Work::ours(
                "routing, dispatch, permutation",
                &[
                    ("top_k_f32", layers * batch),
                    ("gates_f32", layers * batch),
                    ("dispatch_count", layers * pairs),
                    ("dispatch_scatter", layers * pairs),
                    ("trace_pack_u8", layers * pairs),
                    ("permute_bf16_wide", layers * pairs * d),
                    ("unpermute_bf16_wide", layers * pairs * d),
                ],
            ));
        }
    }
    let inner_rows = batch * m.experts.map_or(1.0, |e| e.chosen);
    work.push(Work::missing(
        "SwiGLU",
        layers * 3.0 * E * inner_rows * m.inner,
        layers * 8.0 * inner_rows * m.inner,
    ));
    work.push(Work::products("head", product(batch, m.vocabulary, d)));
    work.push(Work::ours("sampling", &[("lcg_scan_bf16", batch * m.vocabulary), ("lcg_draw_bf16", batch)]));
    Step {
        title: "Decoding step",
        shape: format!(
            "{batch} sequences with {context} tokens each in the cache of keys and values, in bf16."
        ),
        tokens: batch,
        work,
    }
}
