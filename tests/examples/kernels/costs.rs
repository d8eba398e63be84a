//! What each kernel has to move and compute, from its own description.

/// For one unit of a kernel's work, and how many units a stated shape has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// What is counted.
    pub(crate) unit: &'static str,
    /// Bytes of device memory that must be read or written.
    pub(crate) bytes: f64,
    /// Arithmetic operations; an exponential, sine or division counts as one.
    pub(crate) flops: f64,
    /// A shape.
    pub(crate) shape: &'static str,
    /// Its units.
    pub(crate) units: f64,
}

/// Tokens of the stated shapes.
const TOKENS: f64 = 8192.0;

/// Dynamic shared memory of a block for the stated shape, as `src/kernels/` asks for it.
pub(crate) fn dynamic_shared_bytes(kernel: &str) -> u32 {
    let starts = |names: &[&str]| names.iter().any(|name| kernel.starts_with(name));
    match () {
        // A warp for each token, 4 a block: 128 scores each; gates of 8 experts twice.
        () if starts(&["top_k_"]) => 4 * 4 * 128,
        () if starts(&["gates_"]) => 4 * 4 * 2 * 8,
        () if starts(&["dispatch_count", "dispatch_scatter"]) => 4 * 128,
        // Positions and weights of 8 experts.
        () if starts(&["unpermute_f", "unpermute_bf", "permute_backward_"]) => 2 * 4 * 8,
        // 128 hidden units: a tile of 33 columns, 8 rows of inputs, units and outputs.
        () if starts(&["lcg_gate"]) => 4 * (128 * 33 + 8 * 32 + 8 * 128 + 8 * 32),
        () => 0,
    }
}

/// The cost of a kernel; `None` for one that is not described here.
pub(crate) fn of(kernel: &str) -> Option<Cost> {
    let (base, bytes) = match kernel.strip_suffix("_wide").unwrap_or(kernel) {
        k if k.ends_with("_u8") => (k.strip_suffix("_u8")?, 1.0),
        k if k.ends_with("_u16") => (k.strip_suffix("_u16")?, 2.0),
        k if k.ends_with("_bf16") || k.ends_with("_f16") => (k.rsplit_once('_')?.0, 2.0),
        k => (k.strip_suffix("_f32").unwrap_or(k), 4.0),
    };
    let logits = |bytes, flops| Cost {
        unit: "logit",
        bytes,
        flops,
        shape: "2048 rows of 151936 logits",
        units: 2048.0 * 151_936.0,
    };
    // Qwen3-VL-8B: 32 query heads, 8 key heads of 128 lanes.
    let lanes = |heads: f64, bytes, flops, shape| Cost {
        unit: "lane",
        bytes,
        flops,
        shape,
        units: TOKENS * heads * 128.0,
    };
    // Qwen3-30B-A3B: 8 of 128 experts, rows of 2048.
    let (experts, k) = (128.0, 8.0);
    let of_experts = |unit, bytes, flops, count: f64| Cost {
        unit,
        bytes,
        flops,
        shape: "8192 tokens, 8 of 128 experts",
        units: TOKENS * count,
    };
    let wins = |flops| Cost { unit: "cell", bytes: 8.0, flops, shape: "a matrix of 10000 items", units: 1e8 };
    let elements = |bytes, flops| Cost {
        unit: "element of a pair",
        bytes,
        flops,
        shape: "8192 tokens, 8 experts each, rows of 2048",
        units: TOKENS * k * 2048.0,
    };
    Some(match base {
        "top_k" => of_experts("token", 4.0 * experts + 4.0 * k + 4.0, experts + 10.0 * k, 1.0),
        "gates" => of_experts("token", 4.0 * experts + 8.0 * k, experts + 3.0 * k, 1.0),
        "gates_backward" => of_experts("token", 8.0 * experts + 8.0 * k, 2.0 * experts + 6.0 * k, 1.0),
        "dispatch_count" => of_experts("pair", 4.0, 1.0, k),
        "dispatch_scan" => of_experts("count of a tile", 8.0, 1.0, k / 1024.0 * experts),
        "dispatch_scatter" => of_experts("pair", 16.0, 1.0, k),
        "permute" => elements(2.0 * bytes, 0.0),
        "permute_backward" => elements(bytes * (1.0 + 1.0 / k), 1.0),
        "unpermute" => elements(bytes * (1.0 + 1.0 / k), 2.0),
        "unpermute_backward" => elements(bytes * (2.0 + 1.0 / k), 3.0),
        "load_balance" => of_experts("token", 8.0 * experts, 6.0 * experts, 1.0),
        "z_loss" => of_experts("token", 8.0 * experts, 4.0 * experts, 1.0),
        "loss_sum" => of_experts("token", 4.0, 1.0, 1.0),
        "trace_pack" | "trace_gather" => of_experts("id of a layer", 4.0 + bytes, 0.0, k),
        "objective" => Cost {
            unit: "token",
            bytes: 29.0,
            flops: 36.0,
            shape: "256 sequences of 8192 tokens",
            units: 256.0 * TOKENS,
        },
        // Two exponentials, three logarithms, a quarter of Philox (10 rounds of 12 operations).
        "lcg_scan" => Cost {
            unit: "logit",
            bytes,
            flops: 40.0,
            shape: "256 rows of 151936 logits",
            units: 256.0 * 151_936.0,
        },
        // Three readings for the digits of the last token, of which the first takes an exponential of each logit, and one as
        // lcg_scan's.
        "lcg_nucleus" => Cost {
            unit: "logit",
            bytes: 4.0 * bytes,
            flops: 70.0,
            shape: "256 rows of 151936 logits",
            units: 256.0 * 151_936.0,
        },
        "lcg_draw" => {
            Cost { unit: "row", bytes: 320.0, flops: 1000.0, shape: "256 rows in one part", units: 256.0 }
        }
        // Weights once for 8 rows; hidden states of 4096, 128 units, 16 families.
        "lcg_gate" => Cost {
            unit: "row",
            bytes: 4.0 * 4096.0 * (1.0 + 128.0 / 8.0),
            flops: 2.0 * 128.0 * (4096.0 + 16.0),
            shape: "256 hidden states of 4096, 128 units",
            units: 256.0,
        },
        // Without truncation, whose bits are an eighth of a byte more of each logit.
        "masked_logprob" => logits(bytes, 4.0),
        "masked_logprob_grad" => logits(2.0 * bytes, 5.0),
        // The farthest-first choice of one row.
        "farthest_step" => Cost {
            unit: "number of an embedding",
            bytes: 4.0,
            flops: 2.0,
            shape: "20000 embeddings of 1024",
            units: 20_000.0 * 1024.0,
        },
        // Each cell is read as wins of one and as losses of the other.
        "standings" => wins(5.0),
        "bradley_terry" => wins(5.0),
        "row_stats" => logits(bytes, 6.0),
        "row_grad" => logits(2.0 * bytes, 8.0),
        "rotary_table" => Cost {
            unit: "pair of a token",
            bytes: 8.0,
            flops: 5.0,
            shape: "8192 tokens, 64 pairs",
            units: TOKENS * 64.0,
        },
        "rotate" | "rotate16" => lanes(40.0, 2.0 * bytes, 3.0, "8192 tokens, 32 + 8 heads of 128"),
        "norm_rotate" => lanes(48.0, 2.0 * bytes, 7.0, "8192 tokens, 32 + 8 + 8 heads of 128"),
        "norm_rotate_backward" => lanes(48.0, 3.0 * bytes, 15.0, "8192 tokens, 32 + 8 + 8 heads of 128"),
        "norm_rotate_weights" => Cost {
            unit: "partial sum",
            bytes: 4.0,
            flops: 1.0,
            shape: "8192 tokens in chunks of 64, 32 + 8 heads of 128",
            units: TOKENS / 64.0 * 40.0 * 128.0,
        },
        _ => return None,
    })
}
