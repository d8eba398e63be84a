//! Incremental forward passes with a key/value cache, on plain slices.
//!
//! A [`Decoder`] is a frozen copy of a model's weights: training may go on while it generates. It runs the
//! kernels that the training forward runs, row by row with the same bits, so a log-probability recorded while
//! sampling equals the one that training computes with the same weights. A decoder of lower [`Precision`] stores fewer
//! bits, and its log-probabilities are its own; a row's bits still depend on that row alone.

mod cache;

use std::sync::{Arc, Mutex, PoisonError};

use moe_routing::Routing;
use rayon::prelude::*;

use crate::buffer::{Buffer, pooled};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::kernel::activation::swiglu_row;
use crate::kernel::attention::{HeadShape, PANEL, Rows, attend};
use crate::kernel::norm::rms_norm_row;
use crate::kernel::rope::RopeTable;
pub use crate::kernel::stored::Precision;
use crate::kernel::stored::{Format, Matrix, Stored};
use crate::kernel::{MatmulPrecision, experts};
use crate::model::{Model, copy};
use crate::ops::{QkNormRope, span};
use crate::vision::{FrozenVision, VisualItems, VisualPrompt, VlModel};
use crate::weights::{NamedTensor, parameter_specs};

pub(crate) use cache::Pool;
pub use cache::{Context, KvCache};

struct Layer {
    input_norm: Vec<f32>,
    qkv: Stored,
    qk_norms: Option<(Vec<f32>, Vec<f32>)>,
    output: Stored,
    post_norm: Vec<f32>,
    mlp: Mlp,
}

enum Mlp {
    Dense { gate_up: Stored, down: Stored },
    Experts { router: Stored, gate_up: Stored, down: Stored },
}

/// One token to feed: which context it extends, and its id. Rows of one context come in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index into the contexts of the call.
    pub context: usize,
    /// The token.
    pub token: u32,
}

/// What [`Decoder::step`] gives.
#[derive(Clone, Debug)]
pub struct Step {
    /// States after the final norm: `[rows, hidden_size]`.
    pub states: Buffer,
    /// The experts that ran: `[rows, MoE layers, top_k]`.
    pub routes: Buffer<u32>,
    rows: usize,
}

impl Step {
    /// The experts that ran for a row: `[MoE layers, top_k]`; nothing for a dense model.
    pub fn routes_of(&self, row: usize) -> &[u32] {
        let len = self.routes.len() / self.rows;
        &self.routes[row * len..][..len]
    }
}

/// A frozen copy of a model for generation.
pub struct Decoder {
    config: Config,
    precision: Precision,
    shape: HeadShape,
    embedding: Stored,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Option<Stored>,
    /// Norms and rotation of text.
    prepare: QkNormRope,
    max_len: usize,
    vision: Option<FrozenVision>,
    /// For the caches of its sequences.
    pages: Arc<Pool>,
    /// Of passes that are over; as many as have run at one time.
    routings: Mutex<Vec<Routing<f32>>>,
    /// Ids of experts a row.
    route_len: usize,
}

impl Decoder {
    /// Copies the weights of `model`; sequences may grow to `max_len` tokens, at most the configuration's
    /// `max_position_embeddings`.
    pub fn new(model: &Model, max_len: usize) -> Result<Self> {
        Self::with_precision(model, max_len, Precision::F32)
    }

    /// [`Decoder::new`] in other numbers than the model's.
    pub fn with_precision(model: &Model, max_len: usize, precision: Precision) -> Result<Self> {
        let tensors = model.parameters().iter().map(copy);
        // Rotations and pages are the model's own: copies made while it trains share them.
        let (config, rope) = (model.config().clone(), |len| model.rope(len));
        let decoder = Self::of_tensors(config, tensors, rope, max_len, precision, model.matmul_precision())?;
        Ok(Self { pages: model.pages().clone(), ..decoder })
    }

    /// A decoder of the parameters in the order of [`weights::parameter_specs`](crate::weights::parameter_specs), each of
    /// which is let go as soon as it is stored: no second copy of the weights exists.
    pub fn from_tensors(
        config: Config,
        tensors: impl IntoIterator<Item = Result<NamedTensor>>,
        max_len: usize,
        precision: Precision,
        products: MatmulPrecision,
    ) -> Result<Self> {
        let (lanes, theta) = (config.head_dim, config.rope_theta);
        let rope = |len| Arc::new(RopeTable::new(lanes, theta, len));
        Self::of_tensors(config, tensors, rope, max_len, precision, products)
    }

    fn of_tensors(
        config: Config,
        tensors: impl IntoIterator<Item = Result<NamedTensor>>,
        rope: impl Fn(usize) -> Arc<RopeTable>,
        max_len: usize,
        precision: Precision,
        products: MatmulPrecision,
    ) -> Result<Self> {
        if max_len > config.max_position_embeddings {
            return Err(Error::TooLong { tokens: max_len, limit: config.max_position_embeddings });
        }
        let mut tensors = tensors.into_iter().zip(parameter_specs(&config));
        let mut next = || match tensors.next() {
            Some((Ok(t), spec)) if t.name == spec.name && t.shape == spec.shape => Ok(t),
            Some((Ok(t), spec)) => Err(Error::Batch(format!(
                "expected {} {:?}, got {} {:?}",
                spec.name, spec.shape, t.name, t.shape
            ))),
            Some((Err(error), _)) => Err(error),
            None => Err(Error::Batch("too few parameters".into())),
        };
        let format = precision.format(products);
        let matrix = |tensor: NamedTensor, format| {
            let [.., part, width] = tensor.shape[..] else { return Stored::Rows(tensor.data) };
            Stored::new(tensor.data, part, width, format)
        };
        let vector = |mut tensor: NamedTensor| {
            precision.round(&mut tensor.data);
            tensor.data
        };
        // A choice of experts hangs on small differences, and a router is small.
        let of_router = if precision == Precision::Bf16 { format } else { Format::F32 };
        let embedding = next()?;
        // The training forward rounds what goes into the head's product, not what it looks up.
        let looked_up = if precision == Precision::F32 { Format::F32 } else { format };
        let tied_head = config.tie_word_embeddings && looked_up != format;
        let tied_head = tied_head.then(|| matrix(embedding.clone(), format));
        let embedding = matrix(embedding, looked_up);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            layers.push(Layer {
                input_norm: vector(next()?),
                qkv: matrix(next()?, format),
                qk_norms: match config.has_qk_norm() {
                    true => Some((vector(next()?), vector(next()?))),
                    false => None,
                },
                output: matrix(next()?, format),
                post_norm: vector(next()?),
                mlp: if config.is_moe_layer(layer) {
                    Mlp::Experts {
                        router: matrix(next()?, of_router),
                        gate_up: matrix(next()?, format),
                        down: matrix(next()?, format),
                    }
                } else {
                    Mlp::Dense { gate_up: matrix(next()?, format), down: matrix(next()?, format) }
                },
            });
        }
        let norm = vector(next()?);
        let head = if config.tie_word_embeddings { tied_head } else { Some(matrix(next()?, format)) };
        let shape = HeadShape {
            query_heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        let route_len = config.route_shape()?.map_or(0, |shape| shape.row_len());
        let eps = config.rms_norm_eps as f32;
        let prepare = QkNormRope { shape, eps, table: rope(max_len), positions: Arc::default() };
        Ok(Self {
            shape,
            prepare,
            config,
            precision,
            embedding,
            layers,
            norm,
            head,
            max_len,
            vision: None,
            pages: Arc::default(),
            routings: Mutex::default(),
            route_len,
        })
    }

    /// [`Decoder::new`] for a vision-language model. Prompts go through [`Decoder::prompt`]; in a context without one,
    /// and behind one, every token is text, whatever its id.
    /// The tower computes in `f32` whatever the precision.
    pub fn with_vision(model: &VlModel, max_len: usize, precision: Precision) -> Result<Self> {
        let vision = Some(FrozenVision::new(model)?);
        Ok(Self { vision, ..Self::with_precision(model.text(), max_len, precision)? })
    }

    /// The numbers it computes with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether the model has a vision tower.
    pub fn has_vision(&self) -> bool {
        self.vision.is_some()
    }

    /// Runs the tower over the images and videos of a prompt. An error for a model without a tower, and for placeholders
    /// and items that do not fit together.
    pub fn prompt(&self, tokens: &[u32], items: &VisualItems) -> Result<VisualPrompt> {
        match &self.vision {
            Some(vision) => vision.prompt(tokens, items),
            None => Err(Error::Batch("images and videos need a model with a vision tower".into())),
        }
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The longest sequence this decoder can hold.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Feeds `rows` and extends their contexts. Prompt rows and single new tokens may be mixed freely.
    ///
    /// Rows that come in the order of their contexts are run in blocks, several at a time. Once as many rows have run, steps on text
    /// take no memory but pages of caches, as long as their result is dropped where they ran.
    pub fn step(&self, rows: &[Row], contexts: &mut [&mut Context]) -> Result<Step> {
        let places = self.place(rows, contexts)?;
        let mut states = Buffer::of(rows.len() * self.config.hidden_size);
        let mut routes = Buffer::of(rows.len() * self.route_len);
        let (states_out, routes_out) = (&mut states[..], &mut routes[..]);
        let block = Block {
            rows,
            places: &places,
            first_context: 0,
            contexts,
            states: states_out,
            routes: routes_out,
        };
        self.run_blocks(block, rows.is_sorted_by_key(|row| row.context))?;
        Ok(Step { states, routes, rows: rows.len() })
    }

    /// Halves the rows where a context ends, until there are few. The bits of a row do not depend on the cut.
    fn run_blocks(&self, block: Block<'_, '_>, sorted: bool) -> Result<()> {
        let Block { rows, places, first_context, contexts, states, routes } = block;
        let mut cut = rows.len().div_ceil(2);
        while cut < rows.len() && rows[cut].context == rows[cut - 1].context {
            cut += 1;
        }
        if rows.len() <= BLOCK_ROWS || cut == rows.len() || !sorted {
            return self.run(Block { rows, places, first_context, contexts, states, routes });
        }
        let next_context = rows[cut - 1].context + 1;
        let (rows, later_rows) = rows.split_at(cut);
        let (places, later_places) = places.split_at(cut);
        let (contexts, later_contexts) = contexts.split_at_mut(next_context - first_context);
        let (states, later_states) = states.split_at_mut(cut * self.config.hidden_size);
        let (routes, later_routes) = routes.split_at_mut(cut * self.route_len);
        let first = Block { rows, places, first_context, contexts, states, routes };
        let later = Block {
            rows: later_rows,
            places: later_places,
            first_context: next_context,
            contexts: later_contexts,
            states: later_states,
            routes: later_routes,
        };
        let (first, later) = rayon::join(|| self.run_blocks(first, true), || self.run_blocks(later, true));
        first.and(later)
    }

    fn run(&self, block: Block<'_, '_>) -> Result<()> {
        let Block { rows, places, first_context, contexts, states, routes } = block;
        let of = |row: &Row| row.context - first_context;
        let config = &self.config;
        let (hidden, width) = (config.hidden_size, self.shape.kv_width());
        let eps = config.rms_norm_eps as f32;
        // Under a vision model the table has a line for each row.
        let of_rows = match &self.vision {
            None => None,
            Some(vision) => {
                let of_row = |(row, place): (&Row, &Place)| (contexts[of(row)].prompt(), place.position);
                let table = vision.rotation(rows.iter().zip(places).map(of_row))?;
                Some(QkNormRope { table, ..self.prepare.clone() })
            }
        };
        let prepare = of_rows.as_ref().unwrap_or(&self.prepare);
        let line = |row: usize| if of_rows.is_some() { row } else { places[row].position };
        let mut x = Buffer::of(rows.len() * hidden);
        for ((row, place), x) in rows.iter().zip(places).zip(x.chunks_exact_mut(hidden)) {
            let visual = contexts[of(row)].prompt().and_then(|p| p.embedding(place.position, hidden));
            match visual {
                Some(visual) => x.copy_from_slice(visual),
                None => {
                    let token = row.token as usize;
                    self.embedding.widen(token..token + 1, hidden, x);
                }
            }
        }
        self.precision.round(&mut x);
        let norm_to = |x: &[f32], w: &[f32], u: &mut [f32]| {
            let _span = span!("norm", bytes = 8 * x.len());
            let each = u.par_chunks_mut(hidden).zip(x.par_chunks(hidden)).with_min_len(least_rows(hidden));
            each.for_each(|(u, x)| {
                rms_norm_row(x, w, eps, u);
            });
        };
        let norm_rows = |x: &[f32], w: &[f32]| {
            let mut u = Buffer::of(x.len());
            norm_to(x, w, &mut u);
            u
        };
        let linear = |x: &[f32], w: &Stored| {
            let (k, n) = (x.len() / rows.len(), w.len() / (x.len() / rows.len()));
            let _span = span!("linear", flops = 2 * rows.len() * n * k, bytes = w.bytes());
            let mut y = Buffer::of(rows.len() * n);
            w.times(x, &mut y, rows.len(), 0..n, k);
            y
        };
        let add = |x: &mut [f32], y: &[f32]| {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
            self.precision.round(x);
        };

        let query_width = self.shape.query_width();
        let qkv_width = query_width + 2 * width;
        let (route_len, mut moe_layers) = (routes.len() / rows.len(), 0);
        for (index, layer) in self.layers.iter().enumerate() {
            let mut projected = linear(&norm_rows(&x, &layer.input_norm), &layer.qkv);
            self.precision.round(&mut projected);
            let norms = layer.qk_norms.as_ref().map(|(q, k)| (q.as_slice(), k.as_slice()));
            let prepared = span!("norm and rope", bytes = 8 * projected.len());
            let mut qkv = Buffer::of(projected.len());
            let each = qkv.par_chunks_mut(qkv_width).with_min_len(least_rows(qkv_width)).enumerate();
            each.for_each(|(row, qkv)| {
                prepare.row(&projected[row * qkv_width..][..qkv_width], norms, line(row), qkv);
            });
            self.precision.round(&mut qkv);
            drop(prepared);
            let pairs: usize = places.iter().map(|p| p.position + 1).sum();
            let attention = span!("attention", flops = 4 * pairs * query_width, bytes = 8 * pairs * width);
            for ((row, place), qkv) in rows.iter().zip(places).zip(qkv.chunks_exact(qkv_width)) {
                let (key, value) = qkv[query_width..].split_at(width);
                contexts[of(row)].own.put(index, place.own_len - 1, key, value);
            }
            let mut attended = Buffer::of(rows.len() * query_width);
            let contexts_seen: &[&mut Context] = contexts;
            let group = self.shape.group() * self.shape.head_dim;
            // Short contexts are not worth another thread.
            let each = pairs * group / rows.len();
            let together = (MIN_ATTENTION / each.max(1)).max(1);
            let (d, heads) = (self.shape.head_dim, self.shape.group());
            // Scores, with room for contexts to grow.
            let longest =
                places.iter().map(|p| p.position + 1).max().unwrap_or(0).next_power_of_two() * heads;
            attended.par_chunks_mut(group).with_min_len(together).enumerate().for_each_init(
                || (Buffer::of(2 * d * PANEL), Buffer::of(longest), Buffer::of(heads), Buffer::of(heads)),
                |(spare, scores, lse, seen), (i, out)| {
                    let (row, kv_head) = (i / self.shape.kv_heads, i % self.shape.kv_heads);
                    let context = &*contexts_seen[of(&rows[row])];
                    seen.fill(places[row].position + 1);
                    let panels = context.panels(index, [kv_head * d, d], places[row].own_len, spare);
                    let queries =
                        Rows { data: &qkv[row * qkv_width + kv_head * group..][..group], stride: d };
                    attend(queries, panels, seen, self.shape.scale(), out, lse, scores);
                },
            );
            drop(attention);
            add(&mut x, &linear(&attended, &layer.output));
            let u = norm_rows(&x, &layer.post_norm);
            let out = match &layer.mlp {
                Mlp::Dense { gate_up, down } => {
                    let (pre, inner) = (linear(&u, gate_up), config.intermediate_size);
                    let swiglu = span!("swiglu", bytes = 6 * pre.len());
                    let mut h = Buffer::of(rows.len() * inner);
                    let each = h.par_chunks_mut(inner).zip(pre.par_chunks(2 * inner));
                    each.with_min_len(least_rows(inner)).for_each(|(h, pre)| swiglu_row(pre, h));
                    drop(swiglu);
                    linear(&h, down)
                }
                Mlp::Experts { router, gate_up, down } => {
                    let moe = config.moe()?;
                    let (logits, inner) = (linear(&u, router), moe.moe_intermediate_size);
                    let free = || self.routings.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut routing = free().pop().unwrap_or_default();
                    let k = moe.num_experts_per_tok;
                    let in_layer = |source| Error::Router { layer: index, source };
                    routing.route(&logits, moe.num_experts, k, &moe.router()).map_err(in_layer)?;
                    let (dispatch, pairs) = (routing.dispatch(), rows.len() * k);
                    let ran = span!("experts", flops = 6 * pairs * hidden * inner);
                    let (mut pre, mut h) = (Buffer::of(pairs * 2 * inner), Buffer::of(pairs * inner));
                    experts::up(&u, gate_up, dispatch, hidden, inner, &mut pre, &mut h);
                    let mut o = Buffer::of(pairs * hidden);
                    experts::down(&h, down, dispatch, hidden, inner, &mut o);
                    drop(ran);
                    for (ids, row) in routing.ids().chunks_exact(k).zip(routes.chunks_exact_mut(route_len)) {
                        row[moe_layers * k..][..k].copy_from_slice(ids);
                    }
                    moe_layers += 1;
                    let mut out = Buffer::of(rows.len() * hidden);
                    experts::combine(&o, routing.gates(), dispatch, hidden, &mut out);
                    free().push(routing);
                    out
                }
            };
            add(&mut x, &out);
            for ((row, place), x) in rows.iter().zip(places).zip(x.chunks_exact_mut(hidden)) {
                let prompt = contexts[of(row)].prompt();
                if let Some(level) = prompt.and_then(|p| p.level(place.position, index, hidden)) {
                    add(x, level);
                }
            }
        }
        for row in rows {
            contexts[of(row)].own.len += 1;
        }
        norm_to(&x, &self.norm, states);
        Ok(())
    }

    /// Logits of some rows of states: `[rows, hidden_size]` to `[rows, vocab_size]`.
    pub fn logits(&self, states: &[f32]) -> Buffer {
        let (rows, vocabulary) = (states.len() / self.config.hidden_size, self.config.vocab_size);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let _span = span!("head", flops = 2 * states.len() * vocabulary, bytes = head.bytes());
        let mut z = Buffer::of(rows * vocabulary);
        head.times(states, &mut z, rows, 0..vocabulary, self.config.hidden_size);
        z
    }

    /// Where each row stands in its context, and room in the caches.
    fn place(&self, rows: &[Row], contexts: &mut [&mut Context]) -> Result<Buffer<Place>> {
        if rows.is_empty() {
            return Err(Error::Batch("a decoding step needs at least one row".into()));
        }
        let mut added = Buffer::<usize>::zeroed(contexts.len());
        let mut places = Buffer::of(rows.len());
        for ((index, row), place) in rows.iter().enumerate().zip(places.iter_mut()) {
            let Some(context) = contexts.get_mut(row.context) else {
                return Err(Error::Batch(format!("row of context {}, of {}", row.context, added.len())));
            };
            if row.token as usize >= self.config.vocab_size {
                return Err(Error::Batch(format!(
                    "row {index}: token id {} is outside the vocabulary of {}",
                    row.token, self.config.vocab_size
                )));
            }
            let position = context.len() + added[row.context];
            if position >= self.max_len() {
                return Err(Error::Batch(format!(
                    "a context is longer than the decoder's {}",
                    self.max_len()
                )));
            }
            match (context.prompt(), &self.vision) {
                (Some(prompt), Some(_)) => FrozenVision::check(prompt, position, row.token)?,
                (Some(_), None) => {
                    return Err(Error::Batch(
                        "a prompt with images needs a model with a vision tower".into(),
                    ));
                }
                (None, _) => {}
            }
            context.own.prepare(self.layers.len(), &self.pages);
            added[row.context] += 1;
            *place = Place { position, own_len: context.own.len + added[row.context] };
        }
        Ok(places)
    }
}

/// Where a row stands.
#[derive(Clone, Copy, Default)]
struct Place {
    position: usize,
    /// How many of the context's own tokens the row sees, itself included.
    own_len: usize,
}
pooled!(Place);

/// Multiply-adds of scores in the least task of attention.
const MIN_ATTENTION: usize = 1 << 16;

/// Rows of a width in the least task of what is done element by element.
fn least_rows(width: usize) -> usize {
    ((1 << 14) / width).max(1)
}

/// Rows to run together: those of one block read the weights once, and blocks run in parallel.
const BLOCK_ROWS: usize = 128;

struct Block<'a, 'b> {
    rows: &'a [Row],
    places: &'a [Place],
    /// The rows' contexts, from this one on.
    first_context: usize,
    contexts: &'a mut [&'b mut Context],
    states: &'a mut [f32],
    routes: &'a mut [u32],
}
