//! Angular frequencies of the rotary pairs, and the methods that stretch them to longer contexts.
//!
//! All of them act on frequencies, none on positions, so they compose with every design and allocation.

use std::f64::consts::TAU;

use crate::error::{Error, Result, require};

/// The largest rotary dimension, far above any model's.
pub(crate) const MAX_ROTARY_DIM: usize = 1 << 16;

/// `inv[i] = theta^(-2i/r)` for the `r/2` rotary pairs, and the factor of cosines and sines (1 but for YaRN).
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    theta: f64,
    rotary_dim: usize,
    inv: Vec<f64>,
    scaling: f64,
}

/// YaRN (arXiv 2309.00071): slow pairs are interpolated, fast ones kept, those between blended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// By how much the context is extended.
    pub factor: f64,
    /// The context that the model was trained with, in tokens (`original_max_position_embeddings`).
    pub trained_len: f64,
    /// Pairs that turn more often than this over the trained context are kept (32).
    pub beta_fast: f64,
    /// Pairs that turn less often than this are divided by the factor (1).
    pub beta_slow: f64,
    /// Whether the bounds are rounded outwards to whole pairs.
    pub truncate: bool,
    /// Replaces the factor `0.1·ln(factor) + 1` of cosines and sines.
    pub attention_factor: Option<f64>,
}

impl Yarn {
    /// YaRN with the paper's constants.
    pub fn new(factor: f64, trained_len: f64) -> Self {
        Self { factor, trained_len, beta_fast: 32.0, beta_slow: 1.0, truncate: true, attention_factor: None }
    }
}

/// The frequency scaling of Llama 3.1: as YaRN without its factor of cosines and sines, blended linearly in frequency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
    /// By how much the context is extended.
    pub factor: f64,
    /// Pairs that turn less often than this over the trained context are divided by the factor.
    pub low_freq_factor: f64,
    /// Pairs that turn more often than this are kept.
    pub high_freq_factor: f64,
    /// The context that the model was trained with, in tokens.
    pub trained_len: f64,
}

impl Frequencies {
    /// Frequencies for `rotary_dim` lanes of a head (all of them, unless rotation is partial) on the base `theta`.
    pub fn new(theta: f64, rotary_dim: usize) -> Result<Self> {
        require("rope_theta", theta, theta > 1.0, "a number above 1")?;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > MAX_ROTARY_DIM {
            return Err(Error::RotaryDim { rotary_dim });
        }
        let inv = (0..rotary_dim / 2).map(|i| theta.powf(-((2 * i) as f64) / rotary_dim as f64)).collect();
        Ok(Self { theta, rotary_dim, inv, scaling: 1.0 })
    }

    /// Position interpolation: every frequency is divided by `factor`.
    pub fn linear(mut self, factor: f64) -> Result<Self> {
        extends(factor)?;
        self.inv.iter_mut().for_each(|inv| *inv /= factor);
        Ok(self)
    }

    /// NTK-aware: the base becomes `theta · factor^(r/(r-2))`, which keeps the fastest pair and divides the slowest by
    /// `factor`.
    pub fn ntk(mut self, factor: f64) -> Result<Self> {
        extends(factor)?;
        let r = self.rotary_dim as f64;
        // The new base to the power of -2i/r, apart from theta's; pair 0 is never divided, also where r is 2.
        for (i, inv) in self.inv.iter_mut().enumerate().skip(1) {
            *inv *= factor.powf(-((2 * i) as f64) / (r - 2.0));
        }
        Ok(self)
    }

    /// NTK-aware with a factor that grows with the current length `len`: `f·len/L0 - (f-1)` beyond the trained length
    /// `L0`, and no change up to it.
    pub fn dynamic_ntk(self, factor: f64, trained_len: f64, len: f64) -> Result<Self> {
        extends(factor)?;
        positive("original_max_position_embeddings", trained_len)?;
        require("sequence length", len, len >= 0.0, "a number of tokens")?;
        if len <= trained_len {
            return Ok(self);
        }
        self.ntk(factor * len / trained_len - (factor - 1.0))
    }

    /// YaRN.
    pub fn yarn(mut self, yarn: &Yarn) -> Result<Self> {
        extends(yarn.factor)?;
        positive("original_max_position_embeddings", yarn.trained_len)?;
        positive("beta_slow", yarn.beta_slow)?;
        require("beta_fast", yarn.beta_fast, yarn.beta_fast >= yarn.beta_slow, "at least beta_slow")?;
        let scaling = yarn.attention_factor.unwrap_or(0.1 * yarn.factor.ln() + 1.0);
        positive("attention_factor", scaling)?;
        let r = self.rotary_dim as f64;
        // The pair that turns `beta` times over the trained context.
        let pair = |beta: f64| r * (yarn.trained_len / (TAU * beta)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (pair(yarn.beta_fast), pair(yarn.beta_slow));
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(r - 1.0));
        if low > high {
            // The ramp would run backwards: every pair is beyond one of the bounds.
            return Err(Error::YarnRange { trained_len: yarn.trained_len, low, high });
        }
        if low == high {
            high += 0.001;
        }
        for (i, inv) in self.inv.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            *inv *= (1.0 - ramp) + ramp / yarn.factor;
        }
        self.scaling *= scaling;
        Ok(self)
    }

    /// The frequency scaling of Llama 3.1.
    pub fn llama3(mut self, llama3: &Llama3) -> Result<Self> {
        let Llama3 { factor, low_freq_factor, high_freq_factor, trained_len } = *llama3;
        extends(factor)?;
        positive("original_max_position_embeddings", trained_len)?;
        positive("low_freq_factor", low_freq_factor)?;
        require(
            "high_freq_factor",
            high_freq_factor,
            high_freq_factor > low_freq_factor,
            "above low_freq_factor",
        )?;
        for inv in &mut self.inv {
            let turns = trained_len * *inv / TAU;
            let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            *inv *= keep + (1.0 - keep) / factor;
        }
        Ok(self)
    }

    /// The spectrum `times` times in a row, for allocations in chunks that each start it anew: the vision tower of
    /// Qwen-VL is `Frequencies::new(1e4, d / 2)?.repeat(2)` with `Allocation::Chunked(vec![d / 4, d / 4])` over rows
    /// and columns.
    pub fn repeat(mut self, times: usize) -> Result<Self> {
        let rotary_dim = (2 * self.inv.len()).saturating_mul(times);
        if rotary_dim == 0 || rotary_dim > MAX_ROTARY_DIM {
            return Err(Error::RotaryDim { rotary_dim });
        }
        self.inv = self.inv.repeat(times);
        Ok(self)
    }

    /// Radians per unit of position, for each pair.
    pub fn inv(&self) -> &[f64] {
        &self.inv
    }

    /// The factor of cosines and sines.
    pub fn scaling(&self) -> f64 {
        self.scaling
    }

    /// Number of rotary pairs.
    pub fn pairs(&self) -> usize {
        self.inv.len()
    }
}

fn extends(factor: f64) -> Result<()> {
    require("rope scaling factor", factor, factor >= 1.0, "at least 1")
}

fn positive(name: &'static str, value: f64) -> Result<()> {
    require(name, value, value > 0.0, "a positive number")
}
