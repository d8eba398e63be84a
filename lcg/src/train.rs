//! Fitting a gate on candle: binary cross-entropy over hidden states and labels that stream by.

use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::family::FamilySet;
use crate::gate::MlpGate;
use crate::labels::Labeller;

/// Positions to learn from: the hidden state that predicts a token, and the families that may be next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Positions {
    /// `[positions, hidden_size]`, after the final norm.
    pub hidden: Vec<f32>,
    /// `[positions]`
    pub labels: Vec<FamilySet>,
}

impl Positions {
    /// Labels hidden states whose target is to be learnt (`mask` `[positions]`; padding and prompts are `false`). Logits
    /// `hidden·embeddingᵀ` exist for at most 128 rows at a time; hidden states that are masked are dropped.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::VocabMismatch`], [`Error::NonFiniteLogits`], [`Error::Candle`].
    pub fn label(hidden: &Tensor, mask: &[bool], embedding: &Tensor, labeller: &Labeller) -> Result<Self> {
        const CHUNK: usize = 128;
        let (rows, _) = hidden.dims2()?;
        if mask.len() != rows {
            return Err(Error::Shape { what: "mask", found: mask.len(), expected: rows });
        }
        let kept: Vec<u32> = (0..rows as u32).filter(|r| mask[*r as usize]).collect();
        let mut positions = Self::default();
        if kept.is_empty() {
            return Ok(positions);
        }
        let hidden = hidden.detach().index_select(&Tensor::new(kept, hidden.device())?, 0)?;
        let transposed = embedding.detach().t()?;
        for start in (0..hidden.dim(0)?).step_by(CHUNK) {
            let part = hidden.narrow(0, start, CHUNK.min(hidden.dim(0)? - start))?;
            let logits =
                part.matmul(&transposed)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
            for (row, logits) in logits.iter().enumerate() {
                positions.labels.push(labeller.label(start + row, logits)?);
            }
        }
        positions.hidden = hidden.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        Ok(positions)
    }

    /// The number of positions.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// How a gate is fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Peak learning rate of AdamW.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Steps of linear warm-up, before a cosine to 0.
    pub warmup: usize,
    /// Steps at most.
    pub steps: usize,
    /// Norm to which gradients are clipped.
    pub clip: f64,
    /// Steps without a better held-out loss after which training ends.
    pub patience: usize,
    /// Steps between measurements of the held-out loss.
    pub eval_every: usize,
    /// `w_f`, one for each family, or none for ones.
    pub family_weights: Vec<f32>,
}

impl Default for TrainConfig {
    /// For a narrow gate and some 4,096 positions a step.
    fn default() -> Self {
        Self {
            lr: 1e-3,
            weight_decay: 0.01,
            warmup: 50,
            steps: 1000,
            clip: 1.0,
            patience: 200,
            eval_every: 20,
            family_weights: Vec::new(),
        }
    }
}

/// Mean losses, and how predictions compare with labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Steps taken.
    pub steps: usize,
    /// Batches without a position, which were skipped.
    pub empty_batches: usize,
    /// Best held-out loss, nats.
    pub held_out_loss: f64,
    /// Share of held-out labels, by family, that the gate's predictions equal.
    pub agreement: f64,
}

/// Fits `gate` to batches from `next`, and gives the weights of lowest loss on `held_out`. Batches are not kept: a model can
/// compute them as they are asked for. `None` ends training.
///
/// # Errors
/// [`Error::HiddenMismatch`], [`Error::Shape`], what `next` gives, and [`Error::Candle`].
pub fn train(
    gate: &MlpGate,
    config: &TrainConfig,
    held_out: &Positions,
    device: &Device,
    mut next: impl FnMut(usize) -> Result<Option<Positions>>,
) -> Result<(MlpGate, Fit)> {
    let weights = family_weights(config, gate.families())?;
    let mut model = Trainable::new(gate, device)?;
    check(held_out, gate)?;
    if held_out.is_empty() {
        return Err(Error::Shape { what: "held_out", found: 0, expected: 1 });
    }
    let (mut best, mut best_loss) =
        (gate.clone(), model.loss(held_out, &weights, device)?.to_scalar::<f32>()?);
    let (mut fit, mut best_step) =
        (Fit { steps: 0, empty_batches: 0, held_out_loss: 0.0, agreement: 0.0 }, 0);
    for step in 0..config.steps {
        let Some(batch) = next(step)? else { break };
        check(&batch, gate)?;
        fit.steps = step + 1;
        if batch.is_empty() {
            fit.empty_batches += 1;
            continue;
        }
        let loss = model.loss(&batch, &weights, device)?;
        model.update(&loss, config, step)?;
        if (step + 1) % config.eval_every.max(1) == 0 || step + 1 == config.steps {
            let loss = model.loss(held_out, &weights, device)?.to_scalar::<f32>()?;
            if loss < best_loss {
                (best, best_loss, best_step) = (model.gate(gate)?, loss, step);
            } else if step - best_step >= config.patience {
                break;
            }
        }
    }
    fit.held_out_loss = f64::from(best_loss);
    fit.agreement = agreement(&best, held_out)?;
    Ok((best, fit))
}

/// The share of labels, family by family, that a gate's predictions equal.
///
/// # Errors
/// [`Error::HiddenMismatch`], [`Error::Shape`].
pub fn agreement(gate: &MlpGate, positions: &Positions) -> Result<f64> {
    check(positions, gate)?;
    let mut equal = 0;
    for (hidden, label) in positions.hidden.chunks(gate.hidden_size()).zip(&positions.labels) {
        let predicted = gate.allowed(&gate.logits(hidden)?).unwrap_or_default();
        let wrong = (predicted.0 ^ label.0) & FamilySet::first(gate.families()).0;
        equal += gate.families() - wrong.count_ones() as usize;
    }
    Ok(equal as f64 / (positions.len() * gate.families()).max(1) as f64)
}

fn check(positions: &Positions, gate: &MlpGate) -> Result<()> {
    let (found, expected) = (positions.hidden.len(), positions.len() * gate.hidden_size());
    if found != expected {
        return Err(Error::Shape { what: "hidden", found, expected });
    }
    Ok(())
}

fn family_weights(config: &TrainConfig, families: usize) -> Result<Vec<f32>> {
    match config.family_weights.len() {
        0 => Ok(vec![1.0; families]),
        found if found != families => Err(Error::Shape { what: "family_weights", found, expected: families }),
        _ => Ok(config.family_weights.clone()),
    }
}

/// A gate's weights as variables, with the moments of AdamW.
struct Trainable {
    weights: [Var; 2],
    moments: [[Tensor; 2]; 2],
}

impl Trainable {
    fn new(gate: &MlpGate, device: &Device) -> Result<Self> {
        let (m, d, families) = (gate.width(), gate.hidden_size(), gate.families());
        let weights =
            [Var::from_slice(gate.w1(), (m, d), device)?, Var::from_slice(gate.w2(), (families, m), device)?];
        let zeros = |w: &Var| -> Result<[Tensor; 2]> { Ok([w.zeros_like()?, w.zeros_like()?]) };
        let moments = [zeros(&weights[0])?, zeros(&weights[1])?];
        Ok(Self { weights, moments })
    }

    fn loss(&self, batch: &Positions, weights: &[f32], device: &Device) -> Result<Tensor> {
        let rows = batch.len();
        let hidden = Tensor::from_slice(&batch.hidden, (rows, batch.hidden.len() / rows), device)?;
        let inner = hidden.matmul(&self.weights[0].t()?)?.relu()?;
        bce_loss(&inner.matmul(&self.weights[1].t()?)?, &batch.labels, weights)
    }

    /// AdamW with β = (0.9, 0.999), ε = 1e-8.
    fn update(&mut self, loss: &Tensor, config: &TrainConfig, step: usize) -> Result<()> {
        let gradients = loss.backward()?;
        let mut found = Vec::new();
        let mut square = 0.0;
        for weight in &self.weights {
            let gradient = match gradients.get(weight) {
                Some(gradient) => gradient.clone(),
                None => weight.zeros_like()?,
            };
            square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            found.push(gradient);
        }
        let clip = (config.clip / square.sqrt().max(1e-12)).min(1.0);
        let rate = config.lr * schedule(config, step);
        let t = (step + 1) as i32;
        let (first, second) = (1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t));
        for ((weight, [m, v]), gradient) in self.weights.iter().zip(&mut self.moments).zip(found) {
            let gradient = (gradient * clip)?;
            *m = ((&*m * 0.9)? + (&gradient * 0.1)?)?;
            *v = ((&*v * 0.999)? + (gradient.sqr()? * 0.001)?)?;
            let change = ((&*m / first)? / ((&*v / second)?.sqrt()? + 1e-8)?)?;
            let decayed = (weight.as_tensor() * (1.0 - rate * config.weight_decay))?;
            weight.set(&(decayed - (change * rate)?)?)?;
        }
        Ok(())
    }

    fn gate(&self, like: &MlpGate) -> Result<MlpGate> {
        let values = |w: &Var| w.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>();
        let [w1, w2] = [values(&self.weights[0])?, values(&self.weights[1])?];
        like.with_weights(w1, w2)
    }
}

/// Warm-up to 1, then a cosine to 0.
fn schedule(config: &TrainConfig, step: usize) -> f64 {
    if step < config.warmup {
        return (step + 1) as f64 / config.warmup as f64;
    }
    let span = config.steps.saturating_sub(config.warmup).max(1) as f64;
    let done = (step - config.warmup) as f64 / span;
    0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
}

/// `Σ_t Σ_f w_f·BCE(σ(g), y) / (positions·F)` of gate logits `[positions, F]`, a scalar with a hand-written gradient:
/// `w_f·(σ(g) − y)/(positions·F)`. No positions give 0.
///
/// # Errors
/// [`Error::Shape`], [`Error::Candle`].
pub fn bce_loss(g: &Tensor, labels: &[FamilySet], weights: &[f32]) -> Result<Tensor> {
    let (rows, families) = g.dims2()?;
    if labels.len() != rows {
        return Err(Error::Shape { what: "labels", found: labels.len(), expected: rows });
    }
    if weights.len() != families {
        return Err(Error::Shape { what: "family_weights", found: weights.len(), expected: families });
    }
    let of = |f: usize, set: &FamilySet| f32::from(u8::from(set.contains(f)));
    let targets: Vec<f32> = labels.iter().flat_map(|set| (0..families).map(move |f| of(f, set))).collect();
    let targets = Tensor::from_vec(targets, (rows, families), g.device())?;
    let weights = Tensor::from_slice(weights, (1, families), g.device())?;
    let scale = 1.0 / (rows * families).max(1) as f64;
    let (fixed, none) = (g.detach(), g.detach().zeros_like()?);
    // max(g, 0) − y·g + ln(1 + e^{−|g|}), which cannot overflow.
    let log = (fixed.abs()?.neg()?.exp()? + 1.0)?.log()?;
    let terms = ((fixed.maximum(&none)? - (&targets * &fixed)?)? + log)?;
    let value = (terms.broadcast_mul(&weights)?.sum_all()? * scale)?;
    // σ(g) = (1 + tanh(g/2))/2. A linear term that is 0 carries the gradient, on any device.
    let sigmoid = (((fixed * 0.5)?.tanh()? + 1.0)? * 0.5)?;
    let slope = ((sigmoid - targets)?.broadcast_mul(&weights)? * scale)?;
    let linear = (g * slope)?.sum_all()?;
    Ok((value + (&linear - linear.detach())?)?)
}
