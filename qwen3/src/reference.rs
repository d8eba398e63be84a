//! The definition: the forward pass of every text family in `f64`, one token at a time, written to be read.
//!
//! Nothing here is shared with the fast path, and nothing is fast. Notation as in the Qwen3 technical report
//! (arXiv 2505.09388): pre-norm residual blocks, grouped-query attention with normalised queries and keys,
//! rotary positions, SwiGLU.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::weights::{NamedTensor, parameter_specs};

/// Weights by their Hugging Face names; vectors have one row.
#[derive(Clone, Debug)]
pub struct Weights(BTreeMap<String, Array2<f64>>);

impl Weights {
    /// Splits parameters into the tensors of the file.
    pub fn new(config: &Config, tensors: &[NamedTensor]) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for (spec, tensor) in parameter_specs(config).into_iter().zip(tensors) {
            let mut values = tensor.data.iter().map(|v| f64::from(*v));
            for (name, shape) in spec.parts {
                let (rows, columns) = if shape.len() == 1 { (1, shape[0]) } else { (shape[0], shape[1]) };
                let part: Vec<f64> = values.by_ref().take(rows * columns).collect();
                let part = Array2::from_shape_vec((rows, columns), part)
                    .map_err(|e| Error::Batch(format!("{name}: {e}")))?;
                weights.insert(name, part);
            }
        }
        Ok(Self(weights))
    }

    /// One tensor, to look at or to change.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Array2<f64>> {
        self.0.get_mut(name)
    }

    /// The embeddings of tokens.
    pub(crate) fn embed(&self, tokens: &[u32]) -> Result<Vec<Array1<f64>>> {
        let embedding = self.get("model.embed_tokens.weight")?;
        Ok(tokens.iter().map(|t| embedding.row(*t as usize).to_owned()).collect())
    }

    fn get(&self, name: &str) -> Result<ArrayView2<'_, f64>> {
        self.0.get(name).map(|w| w.view()).ok_or_else(|| Error::Batch(format!("{name} is missing")))
    }
}

/// What [`forward`] gives for one sequence.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[tokens, vocab_size]`.
    pub logits: Array2<f64>,
    /// `[tokens, num_experts]` for each mixture-of-experts layer.
    pub router_logits: Vec<Array2<f64>>,
    /// The experts that ran, `[tokens][top_k]` for each mixture-of-experts layer.
    pub routes: Vec<Vec<Vec<usize>>>,
}

/// Logits of one sequence. `replay`, when given, takes the place of the routers' choices, as in
/// [`Output::routes`].
pub fn forward(
    config: &Config,
    weights: &Weights,
    tokens: &[u32],
    replay: Option<&[Vec<Vec<usize>>]>,
) -> Result<Output> {
    let turn = |head: &mut Array1<f64>, token: usize, _| {
        rotate(head, |i, pairs| token as f64 * config.rope_theta.powf(-(i as f64) / pairs as f64), 1.0);
    };
    decode(config, weights, weights.embed(tokens)?, &turn, &[], replay)
}

/// Rotates a query or key head of a token; the last number is its key/value head.
pub(crate) type Turn<'a> = dyn Fn(&mut Array1<f64>, usize, usize) + 'a;

/// [`forward`] from embeddings `x`, rotations, and what is added to the tokens behind the first layers.
pub(crate) fn decode(
    config: &Config,
    weights: &Weights,
    mut x: Vec<Array1<f64>>,
    turn: &Turn<'_>,
    levels: &[Vec<Option<Array1<f64>>>],
    replay: Option<&[Vec<Vec<usize>>]>,
) -> Result<Output> {
    let embedding = weights.get("model.embed_tokens.weight")?;
    let (mut router_logits, mut routes) = (Vec::new(), Vec::new());
    for layer in 0..config.num_hidden_layers {
        let w = |rest: &str| weights.get(&format!("model.layers.{layer}.{rest}.weight"));
        let norm = w("input_layernorm")?;
        let normed: Vec<_> = x.iter().map(|x| rms(x.view(), norm.row(0), config.rms_norm_eps)).collect();
        for (x, out) in x.iter_mut().zip(attention(config, &w, turn, &normed)?) {
            *x += &out;
        }
        let norm = w("post_attention_layernorm")?;
        let normed: Vec<_> = x.iter().map(|x| rms(x.view(), norm.row(0), config.rms_norm_eps)).collect();
        if config.is_moe_layer(layer) {
            let chosen = replay.and_then(|r| r.get(routes.len()));
            let (out, logits, ids) = experts(config, &w, &normed, chosen)?;
            for (x, out) in x.iter_mut().zip(out) {
                *x += &out;
            }
            router_logits.push(logits);
            routes.push(ids);
        } else {
            let (gate, up, down) = (w("mlp.gate_proj")?, w("mlp.up_proj")?, w("mlp.down_proj")?);
            for (x, u) in x.iter_mut().zip(&normed) {
                *x += &swiglu(gate, up, down, u);
            }
        }
        for (x, level) in x.iter_mut().zip(levels.get(layer).into_iter().flatten()) {
            if let Some(level) = level {
                *x += level;
            }
        }
    }
    let norm = weights.get("model.norm.weight")?;
    let head = if config.tie_word_embeddings { embedding } else { weights.get("lm_head.weight")? };
    let mut logits = Array2::zeros((x.len(), config.vocab_size));
    for (x, mut row) in x.iter().zip(logits.rows_mut()) {
        row.assign(&head.dot(&rms(x.view(), norm.row(0), config.rms_norm_eps)));
    }
    Ok(Output { logits, router_logits, routes })
}

/// Log-probability of `target` and the entropy of `softmax(logits / temperature)`, in nats.
pub fn log_prob(logits: ArrayView1<'_, f64>, target: usize, temperature: f64) -> (f64, f64) {
    let z = &logits / temperature;
    let top = z.fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let lse = top + z.mapv(|z| (z - top).exp()).sum().ln();
    let entropy = -z.mapv(|z| (z - lse).exp() * (z - lse)).sum();
    (z[target] - lse, entropy)
}

fn rms(x: ArrayView1<'_, f64>, w: ArrayView1<'_, f64>, eps: f64) -> Array1<f64> {
    let mean_square = x.dot(&x) / x.len() as f64;
    &x * &w / (mean_square + eps).sqrt()
}

/// Turns lane `i` with lane `i + pairs` by `angle(i, pairs)`, and scales both.
pub(crate) fn rotate(head: &mut Array1<f64>, angle: impl Fn(usize, usize) -> f64, scale: f64) {
    let half = head.len() / 2;
    for i in 0..half {
        let (sin, cos) = angle(i, half).sin_cos();
        let (low, high) = (head[i], head[i + half]);
        head[i] = scale * (low * cos - high * sin);
        head[i + half] = scale * (high * cos + low * sin);
    }
}

pub(crate) fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

fn swiglu(
    gate: ArrayView2<'_, f64>,
    up: ArrayView2<'_, f64>,
    down: ArrayView2<'_, f64>,
    u: &Array1<f64>,
) -> Array1<f64> {
    let silu = gate.dot(u).mapv(|a| a / (1.0 + (-a).exp()));
    down.dot(&(silu * up.dot(u)))
}

fn attention<'w>(
    config: &Config,
    w: &impl Fn(&str) -> Result<ArrayView2<'w, f64>>,
    turn: &Turn<'_>,
    u: &[Array1<f64>],
) -> Result<Vec<Array1<f64>>> {
    let d = config.head_dim;
    let heads = |name: &str, count: usize, norm: Option<&str>| -> Result<Vec<Vec<Array1<f64>>>> {
        let projection = w(name)?;
        let norm = norm.filter(|_| config.has_qk_norm()).map(w).transpose()?;
        let rotated = name != "self_attn.v_proj";
        let rows = u.iter().enumerate().map(|(position, u)| {
            let row = projection.dot(u);
            let split = (0..count).map(|h| {
                let mut head = row.slice(ndarray::s![h * d..(h + 1) * d]).to_owned();
                if let Some(norm) = &norm {
                    head = rms(head.view(), norm.row(0), config.rms_norm_eps);
                }
                if rotated {
                    turn(&mut head, position, h / (count / config.num_key_value_heads));
                }
                head
            });
            split.collect()
        });
        Ok(rows.collect())
    };
    let q = heads("self_attn.q_proj", config.num_attention_heads, Some("self_attn.q_norm"))?;
    let k = heads("self_attn.k_proj", config.num_key_value_heads, Some("self_attn.k_norm"))?;
    let v = heads("self_attn.v_proj", config.num_key_value_heads, None)?;
    let group = config.num_attention_heads / config.num_key_value_heads;
    let output = w("self_attn.o_proj")?;
    let rows = (0..u.len()).map(|i| {
        let mut joined = Array1::zeros(config.num_attention_heads * d);
        for head in 0..config.num_attention_heads {
            let shared = head / group;
            let scores: Vec<f64> =
                (0..=i).map(|j| q[i][head].dot(&k[j][shared]) / (d as f64).sqrt()).collect();
            let mut out = joined.slice_mut(ndarray::s![head * d..(head + 1) * d]);
            for (j, p) in softmax(&scores).into_iter().enumerate() {
                out.scaled_add(p, &v[j][shared]);
            }
        }
        output.dot(&joined)
    });
    Ok(rows.collect())
}

type Experts = (Vec<Array1<f64>>, Array2<f64>, Vec<Vec<usize>>);

fn experts<'w>(
    config: &Config,
    w: &impl Fn(&str) -> Result<ArrayView2<'w, f64>>,
    u: &[Array1<f64>],
    replay: Option<&Vec<Vec<usize>>>,
) -> Result<Experts> {
    let moe = config.moe()?;
    let router = w("mlp.gate")?;
    let mut logits = Array2::zeros((u.len(), moe.num_experts));
    let (mut out, mut ids) = (Vec::new(), Vec::new());
    for (t, u) in u.iter().enumerate() {
        let scores = router.dot(u);
        logits.row_mut(t).assign(&scores);
        let chosen = match replay {
            Some(replay) => replay[t].clone(),
            None => {
                let mut order: Vec<usize> = (0..moe.num_experts).collect();
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
                order.truncate(moe.num_experts_per_tok);
                order
            }
        };
        let p = softmax(&scores.to_vec());
        let total: f64 = if moe.norm_topk_prob { chosen.iter().map(|e| p[*e]).sum() } else { 1.0 };
        let mut y = Array1::zeros(config.hidden_size);
        for &e in &chosen {
            let of = |which: &str| w(&format!("mlp.experts.{e}.{which}"));
            y.scaled_add(p[e] / total, &swiglu(of("gate_proj")?, of("up_proj")?, of("down_proj")?, u));
        }
        out.push(y);
        ids.push(chosen);
    }
    Ok((out, logits, ids))
}
