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

/// The cost of a kernel; `None` for one that is not described here.
pub(crate) fn of(kernel: &str) -> Option<Cost> {
    let (base, bytes) = match kernel {
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
    Some(match base {
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
