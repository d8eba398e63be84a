//! AdamW in one pass over each parameter, its moments by name, and the learning-rate schedule.

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp1, Layout, bail};
use qwen3::ParameterGroup;
use rayon::prelude::*;

use crate::config::{Schedule, Update};
use crate::policy::Policy;

/// Elements in one unit of work and of summation, so that results do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// Gradients of all parameters, in the model's order.
#[derive(Clone, Debug)]
pub struct Gradients(Vec<Vec<f32>>);

impl Gradients {
    /// A sum of none yet.
    #[must_use]
    pub fn new(model: &Policy) -> Self {
        Self(vec![Vec::new(); model.parameters().len()])
    }

    /// Adds the gradients of a backward pass, as [`Policy::gradients`] gives them; each is freed as soon as it is added.
    pub fn add(&mut self, gradients: Vec<Vec<f32>>) {
        // The first pass's are taken as they are.
        let numbers: usize = self.0.iter().map(Vec::len).sum();
        let _span = tracing::trace_span!("gradient sums", bytes = 12 * numbers as u64).entered();
        for (sum, gradient) in self.0.iter_mut().zip(gradients) {
            if sum.is_empty() {
                *sum = gradient;
                continue;
            }
            sum.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(sum, gradient)| {
                for (s, g) in sum.iter_mut().zip(gradient) {
                    *s += g;
                }
            });
        }
    }

    /// The global norm, in f64.
    #[must_use]
    pub fn norm(&self) -> f64 {
        let square = |g: &Vec<f32>| -> f64 {
            let parts: Vec<f64> = g.par_chunks(CHUNK).map(sum_of_squares).collect();
            parts.iter().sum()
        };
        self.0.iter().map(square).sum::<f64>().sqrt()
    }
}

/// AdamW (decoupled weight decay, bias correction) with moments in f32.
#[derive(Clone, Debug)]
pub struct AdamW {
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    steps: u64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

impl AdamW {
    /// An optimiser at step 0.
    #[must_use]
    pub fn new(model: &Policy, settings: &Update) -> Self {
        let zeros = || model.parameters().iter().map(|p| vec![0.0; p.var.elem_count()]).collect();
        Self {
            first: zeros(),
            second: zeros(),
            steps: 0,
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            weight_decay: settings.weight_decay,
        }
    }

    /// Optimiser steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Changes every parameter along `gradients · scale`. Norms and embeddings do not decay. One without a gradient, such as
    /// those of a vision tower after text alone, stays as it is, with its moments.
    ///
    /// # Errors
    /// When candle refuses.
    pub fn step(
        &mut self,
        model: &Policy,
        gradients: &Gradients,
        lr: f64,
        scale: f64,
    ) -> candle_core::Result<()> {
        let parameters: usize = gradients.0.iter().map(Vec::len).sum();
        let _span = tracing::trace_span!("optimizer", bytes = 28 * parameters as u64).entered();
        self.steps += 1;
        let t = self.steps as f64;
        let (correct1, correct2) = (1.0 - self.beta1.powf(t), 1.0 - self.beta2.powf(t));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((parameter, gradient), (first, second)) in
            model.parameters().iter().zip(&gradients.0).zip(moments)
        {
            if gradient.is_empty() {
                continue;
            }
            let decays = !matches!(parameter.group, ParameterGroup::Norm | ParameterGroup::Embedding);
            let decay = if decays { self.weight_decay } else { 0.0 };
            let op = Step {
                moments: Mutex::new((first, second)),
                gradient,
                scale: scale as f32,
                beta1: self.beta1 as f32,
                beta2: self.beta2 as f32,
                lr: (lr / correct1) as f32,
                keep: (1.0 - lr * decay) as f32,
                root: (1.0 / correct2.sqrt()) as f32,
                eps: self.eps as f32,
            };
            parameter.var.as_tensor().inplace_op1(&op)?;
        }
        Ok(())
    }

    /// Moments by parameter name, to be saved.
    pub fn state<'a>(&'a self, model: &'a Policy) -> impl Iterator<Item = (String, &'a [f32])> {
        let moments = self.first.iter().zip(&self.second);
        model.parameters().iter().zip(moments).flat_map(|(p, (first, second))| {
            [
                (format!("first.{}", p.name), first.as_slice()),
                (format!("second.{}", p.name), second.as_slice()),
            ]
        })
    }

    /// Takes back saved moments. `of` gives one by its name.
    ///
    /// # Errors
    /// The name of a moment that is absent or has another length.
    pub fn restore(
        &mut self,
        model: &Policy,
        steps: u64,
        mut of: impl FnMut(&str) -> Option<Vec<f32>>,
    ) -> Result<(), String> {
        for (i, parameter) in model.parameters().iter().enumerate() {
            for (prefix, slot) in [("first", &mut self.first[i]), ("second", &mut self.second[i])] {
                let name = format!("{prefix}.{}", parameter.name);
                match of(&name) {
                    Some(values) if values.len() == slot.len() => *slot = values,
                    _ => return Err(name),
                }
            }
        }
        self.steps = steps;
        Ok(())
    }
}

struct Step<'a> {
    moments: Mutex<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
    gradient: &'a [f32],
    scale: f32,
    beta1: f32,
    beta2: f32,
    lr: f32,
    keep: f32,
    root: f32,
    eps: f32,
}

impl InplaceOp1 for Step<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("parameters must be contiguous f32");
        };
        let mut moments = self.moments.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (first, second) = &mut *moments;
        values[start..end]
            .par_chunks_mut(CHUNK)
            .zip(self.gradient.par_chunks(CHUNK))
            .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)))
            .for_each(|((w, g), (m, v))| {
                for ((w, g), (m, v)) in w.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                    let g = g * self.scale;
                    *m = self.beta1 * *m + (1.0 - self.beta1) * g;
                    *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
                    *w = *w * self.keep - self.lr * *m / (v.sqrt() * self.root + self.eps);
                }
            });
        Ok(())
    }
}

/// In eight lanes, so that the compiler may use vectors.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|v| f64::from(*v).powi(2)).sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*v).powi(2);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// The learning rate of step `step` (from 0) of `total`: a function of the step alone.
#[must_use]
pub fn learning_rate(settings: &Update, step: u64, total: u64) -> f64 {
    let warm = settings.warmup_steps;
    if step < warm {
        return settings.lr * (step + 1) as f64 / warm as f64;
    }
    let left = total.saturating_sub(warm).max(1) as f64;
    let done = ((step - warm) as f64 / left).min(1.0);
    match settings.schedule {
        Schedule::Constant => settings.lr,
        Schedule::Linear => settings.lr * (1.0 - done),
        Schedule::Cosine => settings.lr * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    }
}
