//! The trainable model: forward passes whose every parameter receives a gradient.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor, Var};
use moe_routing::{Coverage, Dispatch, RouteMode, RoutePlan, RouteTrace};

use crate::config::Config;
use crate::decode::Pool;
use crate::error::{Error, Result};
use crate::kernel::MatmulPrecision;
use crate::kernel::attention::HeadShape;
use crate::kernel::rope::RopeTable;
use crate::layer::{Chosen, Layer, Mlp, Pass};
use crate::ops::{GatherRows, Linear, QkNormRope, RmsNorm, Segments};
use crate::sink;
use crate::vision::VisualRows;
use crate::weights::{self, NamedTensor, ParameterGroup, SaveType};

/// A trainable tensor under its stable name.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Such as `model.layers.0.self_attn.qkv_proj.weight`; projections that run together are stored together.
    pub name: String,
    /// What kind of parameter it is; optimisers choose by it.
    pub group: ParameterGroup,
    /// The value.
    pub var: Var,
}

/// A copy of the value.
pub(crate) fn copy(p: &Parameter) -> Result<NamedTensor> {
    let data = p.var.flatten_all()?.to_vec1()?;
    Ok(NamedTensor { name: p.name.clone(), shape: p.var.dims().to_vec(), data })
}

/// Copies of the values.
pub(crate) fn copies(parameters: &[Parameter]) -> Result<Vec<NamedTensor>> {
    parameters.iter().map(copy).collect()
}

/// Packed token sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// All sequences, one after the other: `[rows]`.
    pub tokens: Vec<u32>,
    /// Where each segment starts, and the end: `[segments + 1]`, starting at 0.
    pub cu_seqlens: Vec<u32>,
    /// The earlier segment that each one continues, if any: `[segments]`. A segment that others continue is their
    /// shared prefix, computed once; it continues none itself and stands right before them.
    pub prefixes: Vec<Option<u32>>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// No sequence yet.
    pub fn new() -> Self {
        Self { tokens: Vec::new(), cu_seqlens: vec![0], prefixes: Vec::new() }
    }

    /// Packs sequences without padding.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self::new();
        for sequence in sequences {
            batch.push(sequence, None);
        }
        batch
    }

    /// Appends a segment, which continues the segment `prefix` when there is one; returns its index.
    pub fn push(&mut self, tokens: &[u32], prefix: Option<u32>) -> u32 {
        self.tokens.extend_from_slice(tokens);
        self.cu_seqlens.push(self.tokens.len() as u32);
        self.prefixes.push(prefix);
        self.prefixes.len() as u32 - 1
    }

    /// Each row's place in its own sequence.
    ///
    /// # Panics
    /// When `prefixes` names a segment that is not there, or is longer than `cu_seqlens` says; a forward pass refuses such
    /// a batch.
    pub fn positions(&self) -> Vec<u32> {
        let ends = self.cu_seqlens.windows(2).zip(&self.prefixes);
        let positions = ends.flat_map(|(ends, prefix)| {
            let before = prefix.map_or(0, |p| self.len_of(p as usize));
            before..before + ends[1] - ends[0]
        });
        positions.collect()
    }

    /// The rows of each sequence in its order: those of its prefix, then its own. A shared prefix is not a
    /// sequence.
    ///
    /// # Panics
    /// As [`Batch::positions`].
    pub fn sequences(&self) -> Vec<Vec<u32>> {
        let rows = |segment: usize| self.cu_seqlens[segment]..self.cu_seqlens[segment + 1];
        let is_prefix = |segment: usize| self.prefixes.get(segment + 1) == Some(&Some(segment as u32));
        let whole = |segment: usize| match self.prefixes[segment] {
            Some(prefix) => rows(prefix as usize).chain(rows(segment)).collect(),
            None => rows(segment).collect(),
        };
        (0..self.prefixes.len()).filter(|segment| !is_prefix(*segment)).map(whole).collect()
    }

    fn len_of(&self, segment: usize) -> u32 {
        self.cu_seqlens[segment + 1] - self.cu_seqlens[segment]
    }

    pub(crate) fn check(&self, config: &Config) -> Result<()> {
        let bad = |why: String| Err(Error::Batch(why));
        if self.cu_seqlens.first() != Some(&0)
            || self.cu_seqlens.last().copied() != Some(self.tokens.len() as u32)
            || self.cu_seqlens.windows(2).any(|w| w[0] > w[1])
        {
            return bad(format!(
                "cu_seqlens must rise from 0 to the number of tokens ({}), got {:?}",
                self.tokens.len(),
                self.cu_seqlens
            ));
        }
        if self.tokens.is_empty() {
            return bad("a batch needs at least one token".into());
        }
        if self.prefixes.len() + 1 != self.cu_seqlens.len() {
            return bad(format!(
                "prefixes must name one segment or none for each of {}, got {}",
                self.cu_seqlens.len() - 1,
                self.prefixes.len()
            ));
        }
        for (segment, prefix) in self.prefixes.iter().enumerate() {
            let Some(prefix) = prefix else { continue };
            let stands_before = (*prefix as usize) < segment && self.prefixes[*prefix as usize].is_none();
            if !stands_before
                || self.prefixes[*prefix as usize + 1..segment].iter().any(|p| p != &Some(*prefix))
            {
                return bad(format!(
                    "segment {segment} cannot continue segment {prefix}: a prefix continues none and stands right before the segments that continue it"
                ));
            }
        }
        let longest = self.positions().into_iter().max().map_or(0, |p| p as usize + 1);
        if longest > config.max_position_embeddings {
            return Err(Error::TooLong { tokens: longest, limit: config.max_position_embeddings });
        }
        match self.tokens.iter().position(|t| *t as usize >= config.vocab_size) {
            Some(row) => bad(format!(
                "row {row}: token id {} is outside the vocabulary of {}",
                self.tokens[row], config.vocab_size
            )),
            None => Ok(()),
        }
    }
}

/// Expert ids of one pass by MoE layer, in layer order; each `[rows · top_k]`.
pub type Routes = Vec<Vec<u32>>;

/// How to run a forward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardOptions<'a> {
    /// Where the experts come from. Gates always come from the current router logits, and their gradient
    /// reaches the router (Routing Replay, arXiv 2512.01374).
    pub routing: RouteMode<'a>,
    /// Build no graph: for scoring.
    pub no_grad: bool,
}

/// What a forward pass gives.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// After the final norm: `[rows, hidden_size]`.
    pub states: Tensor,
    /// One `[rows, experts]` for each MoE layer.
    pub router_logits: Vec<Tensor>,
    /// The experts that ran.
    pub routes: Routes,
    /// One a sequence, when the pass was to record them and the model has experts.
    pub traces: Vec<RouteTrace>,
    /// How many rows had recorded experts, when the pass replayed them.
    pub coverage: Option<Coverage>,
}

/// A Qwen3, Qwen3-MoE or Llama-shaped decoder in `f32` on the CPU.
pub struct Model {
    config: Config,
    parameters: Vec<Parameter>,
    embedding: Tensor,
    layers: Vec<Arc<Layer>>,
    norm: Tensor,
    pub(crate) head: Tensor,
    rope: Mutex<Arc<RopeTable>>,
    /// For the caches of its decoders.
    pages: Arc<Pool>,
    pub(crate) precision: MatmulPrecision,
    recompute: bool,
}

impl Model {
    /// Builds a model from its parameters, in the order of [`weights::parameter_specs`].
    pub fn from_tensors(config: Config, tensors: Vec<NamedTensor>) -> Result<Self> {
        let specs = weights::parameter_specs(&config);
        if tensors.len() != specs.len() {
            return Err(Error::Batch(format!("{} tensors for {} parameters", tensors.len(), specs.len())));
        }
        let mut parameters = Vec::with_capacity(specs.len());
        for (spec, tensor) in specs.into_iter().zip(tensors) {
            if spec.name != tensor.name || spec.shape != tensor.shape {
                return Err(Error::Batch(format!(
                    "expected {} {:?}, got {} {:?}",
                    spec.name, spec.shape, tensor.name, tensor.shape
                )));
            }
            let var = Var::from_vec(tensor.data, tensor.shape, &Device::Cpu)?;
            parameters.push(Parameter { name: spec.name, group: spec.group, var });
        }
        let mut rest = parameters.iter().map(|p| p.var.as_tensor().clone());
        let mut next = || rest.next().ok_or_else(|| Error::Batch("too few parameters".into()));
        let embedding = next()?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            layers.push(Arc::new(Layer {
                input_norm: next()?,
                qkv: next()?,
                qk_norms: if config.has_qk_norm() { Some((next()?, next()?)) } else { None },
                output: next()?,
                post_norm: next()?,
                mlp: if config.is_moe_layer(layer) {
                    Mlp::Experts { router: next()?, gate_up: next()?, down: next()? }
                } else {
                    Mlp::Dense { gate_up: next()?, down: next()? }
                },
            }));
        }
        let norm = next()?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { next()? };
        drop(rest);
        let rope = Mutex::new(Arc::new(RopeTable::new(config.head_dim, config.rope_theta, 0)));
        Ok(Self {
            config,
            parameters,
            embedding,
            layers,
            norm,
            head,
            rope,
            pages: Arc::default(),
            precision: MatmulPrecision::F32,
            recompute: false,
        })
    }

    /// Reads a Hugging Face directory.
    pub fn load(dir: &Path) -> Result<Self> {
        let config = Config::from_dir(dir)?;
        let tensors = weights::load(dir, &config)?;
        Self::from_tensors(config, tensors)
    }

    /// Random weights: normal with the configuration's `initializer_range`, ones for norms. `rng` is asked for
    /// one generator a parameter, by its index.
    pub fn init<R: rand::RngCore>(config: Config, rng: impl FnMut(usize) -> R) -> Result<Self> {
        let tensors = weights::init(&config, rng).collect();
        Self::from_tensors(config, tensors)
    }

    /// Writes a Hugging Face directory that other engines load. A model loaded from BF16 and not trained is
    /// written back byte for byte with [`SaveType::Bf16`].
    pub fn save(&self, dir: &Path, save_type: SaveType) -> Result<()> {
        self.save_sharded(dir, save_type, u64::MAX)
    }

    /// [`Model::save`] in files of at most `max_shard_size` bytes of weights each, beside an index.
    pub fn save_sharded(&self, dir: &Path, save_type: SaveType, max_shard_size: u64) -> Result<()> {
        weights::save(dir, &self.config, &self.to_tensors()?, save_type, max_shard_size)
    }

    /// Copies of all parameters, in order.
    pub fn to_tensors(&self) -> Result<Vec<NamedTensor>> {
        copies(&self.parameters)
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The precision of matrix products; `f32` at first.
    pub fn matmul_precision(&self) -> MatmulPrecision {
        self.precision
    }

    /// Sets the precision of matrix products, in decoders made from now on too.
    pub fn set_matmul_precision(&mut self, precision: MatmulPrecision) {
        self.precision = precision;
    }

    /// Whether forward passes keep each layer's input alone, and the backward runs the layer again: less memory for one
    /// forward more, with the same bits.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// All parameters in a fixed order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The heads of every attention layer.
    pub fn head_shape(&self) -> HeadShape {
        HeadShape {
            query_heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }

    pub(crate) fn pages(&self) -> &Arc<Pool> {
        &self.pages
    }

    pub(crate) fn rope(&self, len: usize) -> Arc<RopeTable> {
        let mut table = self.rope.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() < len {
            let len = len.next_power_of_two().min(self.config.max_position_embeddings.max(len));
            *table = Arc::new(RopeTable::new(self.config.head_dim, self.config.rope_theta, len));
        }
        table.clone()
    }

    /// Runs the decoder over packed sequences.
    ///
    /// Errors name the row of a token outside the vocabulary, the layer whose router gave no choice, the
    /// sequence whose trace cannot be replayed. A sequence beyond `max_position_embeddings` is one, where
    /// transformers only warns: this crate has no log to warn in.
    pub fn forward(&self, batch: &Batch, options: &ForwardOptions<'_>) -> Result<Hidden> {
        batch.check(&self.config)?;
        let positions: Arc<[u32]> = batch.positions().into();
        let longest = positions.iter().max().map_or(0, |p| *p as usize + 1);
        self.forward_placed(batch, options, (self.rope(longest), positions), None)
    }

    /// [`Model::forward`] with rotations given: a table, and each row's place in it. `visual` rows take the place
    /// of embeddings.
    pub(crate) fn forward_placed(
        &self,
        batch: &Batch,
        options: &ForwardOptions<'_>,
        (table, positions): (Arc<RopeTable>, Arc<[u32]>),
        visual: Option<&VisualRows>,
    ) -> Result<Hidden> {
        batch.check(&self.config)?;
        let weight = |t: &Tensor| if options.no_grad { t.detach() } else { t.clone() };
        let linear = Linear { precision: self.precision };
        let rms = RmsNorm { eps: self.config.rms_norm_eps as f32 };
        let segments = Segments::new(&batch.cu_seqlens, &batch.prefixes);
        let prepare = QkNormRope { shape: self.head_shape(), eps: rms.eps, table, positions };

        let plan = self.route_plan(batch, options.routing)?;
        let mut router_logits = Vec::new();
        let mut routes = Routes::new();
        let mut x = weight(&self.embedding).apply_op1(GatherRows { rows: batch.tokens.clone().into() })?;
        if let Some(visual) = visual {
            x = visual.replace(&x)?;
        }
        let pass = Arc::new(Pass { rms, linear, prepare, segments, recompute: self.recompute });
        for (index, layer) in self.layers.iter().enumerate() {
            let choose = |logits: &[f32]| self.route(plan.as_ref(), logits, batch, routes.len(), index);
            let (out, routed) = layer.apply(&x, &pass, options.no_grad, choose)?;
            x = out;
            if let Some((logits, chosen)) = routed {
                router_logits.push(logits);
                routes.push(chosen.ids);
            }
            if let Some(level) = visual.and_then(|visual| visual.levels.get(index)) {
                x = (x + level)?;
            }
        }
        let states = x.apply_op2(&weight(&self.norm), rms)?;
        let traces = match options.routing {
            RouteMode::Record { policy_version } => self.traces(batch, &routes, policy_version)?,
            _ => Vec::new(),
        };
        let coverage = plan.and_then(|plan| plan.coverage());
        Ok(Hidden { states, router_logits, routes, traces, coverage })
    }

    /// `None` for a model without experts, which cannot replay any.
    fn route_plan<'a>(&self, batch: &Batch, mode: RouteMode<'a>) -> Result<Option<RoutePlan<'a>>> {
        match (self.config.route_shape()?, mode) {
            (Some(shape), mode) => {
                let router = self.config.moe()?.router();
                Ok(Some(mode.plan(shape, router, &batch.tokens, &batch.sequences())?))
            }
            (None, RouteMode::Replay { .. }) => {
                Err(Error::Batch("the model has no experts to replay".into()))
            }
            (None, _) => Ok(None),
        }
    }

    /// The experts of one layer (the `ordinal`-th that has some) and the order of computation.
    fn route(
        &self,
        plan: Option<&RoutePlan<'_>>,
        logits: &[f32],
        batch: &Batch,
        ordinal: usize,
        layer: usize,
    ) -> Result<Chosen> {
        let plan = plan.ok_or_else(|| Error::Batch("the model has no experts".into()))?;
        let (experts, k) = (plan.shape().experts(), plan.shape().top_k());
        let in_layer = |source| Error::Router { layer, source };
        let ids = plan.ids(ordinal, logits).map_err(in_layer)?;
        let dispatch = Dispatch::new(&ids, batch.tokens.len(), experts, k).map_err(in_layer)?;
        Ok(Chosen { ids, top_k: k, router: plan.router().clone(), dispatch: Arc::new(dispatch) })
    }

    /// What ran, by sequence.
    fn traces(&self, batch: &Batch, routes: &Routes, policy_version: u64) -> Result<Vec<RouteTrace>> {
        let Some(shape) = self.config.route_shape()? else { return Ok(Vec::new()) };
        let of_sequence = |rows: &Vec<u32>| {
            let mut trace = RouteTrace::new(shape.clone(), policy_version);
            for row in rows.iter().map(|row| *row as usize) {
                trace.push_from(batch.tokens[row], routes, row)?;
            }
            Ok(trace)
        };
        batch.sequences().iter().map(of_sequence).collect()
    }

    /// The gradient of every parameter, in order: what `loss.backward()` gives, with less memory and copying. Refuses a
    /// loss that does not depend on all of them: an operation on their path has detached them.
    pub fn gradients(&self, loss: &Tensor) -> Result<Vec<Vec<f32>>> {
        sink::gradients(loss, &self.parameters, |_| true)
    }
}
