//! Two models, by their published configurations.

/// Sizes of a decoder.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) hidden: f64,
    pub(crate) layers: f64,
    pub(crate) query_heads: f64,
    pub(crate) kv_heads: f64,
    pub(crate) head_dim: f64,
    /// Inner width of the MLP, or of an expert.
    pub(crate) inner: f64,
    pub(crate) vocabulary: f64,
    /// Whether the head is the embedding.
    pub(crate) tied: bool,
    pub(crate) experts: Option<Experts>,
    /// GPUs that share the optimiser's state.
    pub(crate) shards: f64,
}

#[derive(Clone, Copy)]
pub(crate) struct Experts {
    pub(crate) count: f64,
    pub(crate) chosen: f64,
}

pub(crate) const QWEN3_06B: Model = Model {
    name: "Qwen3-0.6B",
    hidden: 1024.0,
    layers: 28.0,
    query_heads: 16.0,
    kv_heads: 8.0,
    head_dim: 128.0,
    inner: 3072.0,
    vocabulary: 151_936.0,
    tied: true,
    experts: None,
    shards: 1.0,
};

pub(crate) const QWEN3_30B: Model = Model {
    name: "Qwen3-30B-A3B",
    hidden: 2048.0,
    layers: 48.0,
    query_heads: 32.0,
    kv_heads: 4.0,
    head_dim: 128.0,
    inner: 768.0,
    vocabulary: 151_936.0,
    tied: false,
    experts: Some(Experts { count: 128.0, chosen: 8.0 }),
    shards: 8.0,
};

impl Model {
    /// Columns of the packed projection of queries, keys and values.
    pub(crate) fn qkv(&self) -> f64 {
        (self.query_heads + 2.0 * self.kv_heads) * self.head_dim
    }

    pub(crate) fn attention_out(&self) -> f64 {
        self.query_heads * self.head_dim
    }

    /// Weights of a layer's projections and, where there are experts, of its router.
    fn dense_of_layer(&self) -> f64 {
        let attention = self.hidden * (self.qkv() + self.attention_out());
        attention + self.experts.map_or(0.0, |e| self.hidden * e.count)
    }

    fn mlp(&self) -> f64 {
        3.0 * self.hidden * self.inner
    }

    fn embeddings(&self) -> f64 {
        self.hidden * self.vocabulary * if self.tied { 1.0 } else { 2.0 }
    }

    /// Norms, some thousands, are left out.
    pub(crate) fn parameters(&self) -> f64 {
        let mlps = self.experts.map_or(1.0, |e| e.count);
        self.layers * (self.dense_of_layer() + mlps * self.mlp()) + self.embeddings()
    }

    pub(crate) fn describe(&self) -> String {
        let parameters = self.parameters() / 1e9;
        let state = 16.0 * self.parameters() / 1e9;
        let sharded = match self.shards {
            1.0 => String::new(),
            n => format!(
                " That is more than one board has: the optimiser's line is that of one of {n} GPUs which share it, the other \
                 lines those of one data-parallel GPU, and traffic between GPUs is not counted."
            ),
        };
        format!(
            "{parameters:.2} G parameters; weights, gradients and AdamW's moments in f32 take {state:.0} GB, weights in bf16 {:.1} GB.{sharded}",
            2.0 * parameters
        )
    }
}
