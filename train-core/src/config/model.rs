//! The sections of a configuration. Meanings and defaults are in `presets/defaults.toml`, and nowhere else.
#![allow(missing_docs)]

use moe_routing::MissingPolicy;
use qwen3::{MatmulPrecision, Precision};
use serde::{Deserialize, Serialize};

use crate::reward::PartSpec;

macro_rules! section {
    ($name:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        /// A section; its keys are described in `presets/defaults.toml`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(pub $field: $ty),* }
    };
}

macro_rules! choice {
    ($name:ident { $($variant:ident),* $(,)? }) => {
        /// A choice by name; see `presets/defaults.toml`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($variant),* }
    };
}

section!(Config {
    run: Run,
    model: ModelSection,
    data: Data,
    cov: Cov,
    rollout: Rollout,
    gate: GateSection,
    reward: Reward,
    filter: Filter,
    advantage: Advantage,
    loss: Loss,
    update: Update,
    warm_start: WarmStart,
    eval: Eval,
    ckpt: Ckpt,
    guard: Guard,
    log: Log,
});

section!(Run { name: String, dir: String, seed: u64, steps: u64, max_minutes: f64, threads: usize });

section!(ModelSection {
    path: String,
    architecture: Architecture,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    max_position_embeddings: usize,
    rope_theta: f64,
    tie_word_embeddings: bool,
    initializer_range: f64,
    vision_depth: usize,
    vision_hidden_size: usize,
    vision_intermediate_size: usize,
    vision_num_heads: usize,
    vision_patch_size: usize,
    position_scheme: String,
    mrope_section: Vec<usize>,
    mrope_interleaved: bool,
    recompute: bool,
    matmul_precision: MatmulPrecision,
});

choice!(Architecture { Qwen3Moe, Qwen3, Llama, Qwen3Vl });

section!(Data {
    task: String,
    levels: Vec<u32>,
    advance_at: f64,
    advance_after: u32,
    mix_share: f64,
    turns: usize,
    path: String,
    eval_path: String,
    eval_share: f64,
    prompt_column: String,
    answer_column: String,
    image_column: String,
    video_column: String,
    turns_column: String,
    template: String,
    chat: bool,
    system: String,
    chat_variables: toml::Table,
    shuffle: bool,
    too_long: TooLong,
});

section!(Cov {
    tasks: toml::Table,
    lengths: Vec<u32>,
    difficulty: u8,
    max_difficulty: u8,
    in_tokens: u32,
});

choice!(TooLong { Error, Drop });

section!(Rollout {
    prompts: usize,
    group: usize,
    max_new_tokens: usize,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    max_rows: usize,
    precision: Precision,
    max_staleness: usize,
    draft: String,
    draft_tokens: usize,
});

section!(GateSection {
    enabled: bool,
    path: String,
    predictor: Predictor,
    taxonomy: String,
    exempt: Vec<String>,
    thresholds: Vec<f64>,
    rules: toml::Table,
    labels: toml::Table,
    replay: bool,
    ref_mask: RefMask,
    leak_coef: f64,
    refresh_every: u64,
    refresh_steps: usize,
    eval_off_every: u64,
});

choice!(Predictor { Mlp, Direct, AllowAll });
choice!(RefMask { Same, Full });

section!(Reward { on_error: OnError, max_error_share: f64, parts: Vec<PartSpec> });

choice!(OnError { Stop, Drop, Zero });

section!(Filter { zero_variance: ZeroVariance, dynamic: bool, max_extra: f64, patience: u64 });

choice!(ZeroVariance { Keep, Drop });

section!(Advantage { estimator: String });

section!(Loss {
    objective: String,
    correction: String,
    kl_coef: f64,
    entropy_coef: f64,
    overrides: toml::Table
});

section!(Update {
    minibatches: usize,
    epochs: usize,
    tokens_per_micro: usize,
    parallel_micros: usize,
    routing: Routing,
    missing_routes: MissingPolicy,
    lr: f64,
    schedule: Schedule,
    warmup_steps: u64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    clip_norm: f64,
    router_aux_coef: f64,
    skip_norm: f64,
    max_skips: u64,
});

choice!(Routing { Natural, R2, R3, Auto });
choice!(Schedule { Constant, Linear, Cosine });

section!(WarmStart { steps: u64, prompts: usize, lr: f64 });

section!(Eval { every: u64, prompts: usize, temperature: f32, stop_at: f64 });

section!(Ckpt { every: u64, keep_last: usize });

section!(Guard {
    action: GuardAction,
    entropy_min: f64,
    patience: u64,
    zero_variance_max: f64,
    truncated_max: f64,
    grad_norm_spike: f64,
    mismatch_max: f64,
    extreme_max: f64,
    mismatch_rise: f64,
    entropy_drop: f64,
    coverage_min: f64,
    solved: f64,
});

choice!(GuardAction { Warn, Stop });

section!(Log { console: Console, rollout_groups: i64 });

choice!(Console { Auto, Bar, Plain, Quiet });
