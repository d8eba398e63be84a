//! The objectives: `kernels/objective.cu`.

use cuda_twin::{Arg, Error, Gpu, Launch, Module, Result, args};

use crate::objective::{Objective, TruncationTarget};
use crate::sources::{HEADERS, OBJECTIVE};

/// The compiled kernel on one device.
pub struct ObjectiveKernels(Module);

/// What the losses of a ragged batch are computed from, as in [`TokenBatch`](crate::TokenBatch): `f32` `[tokens]` but
/// where said.
#[derive(Clone)]
pub struct TokenArgs<'a> {
    /// `log π_θ`.
    pub logp: Arg<'a>,
    /// `log π_old`; [`Self::logp`] on policy.
    pub logp_old: Arg<'a>,
    /// `log μ`, which MiniRL reads, and VESPO where a correction is on; [`Self::logp_old`] otherwise.
    pub logp_mu: Arg<'a>,
    /// Advantages.
    pub advantages: Arg<'a>,
    /// `u8`; a token with 0 (masked or rejected) is not read.
    pub mask: Arg<'a>,
    /// What the loss of each token is multiplied by: its weight in the aggregation, times that of a correction.
    pub scale: Arg<'a>,
    /// Where sequences start, and the end: `i32` `[sequences + 1]`.
    pub offsets: Arg<'a>,
}

/// As `enum Kind` of the source.
#[derive(Clone, Copy)]
enum Kind {
    Reinforce = 0,
    PpoClip = 1,
    SequenceClip = 2,
    Gmpo = 3,
    Cispo = 4,
    MiniRlFull = 5,
    MiniRlMismatch = 6,
    MiniRlRatio = 7,
    Sapo = 8,
    DppoTv = 9,
    DppoKl = 10,
    Vespo = 11,
}

/// The bounds of a trust region in logarithms; nothing is below a lower bound of 1 or more.
fn region(clip_low: f64, clip_high: f64) -> [f64; 2] {
    [if clip_low < 1.0 { (-clip_low).ln_1p() } else { f64::NEG_INFINITY }, clip_high.ln_1p()]
}

/// Kind and coefficients of an objective, made of the numbers that the definition reads.
fn table(objective: &Objective) -> (Kind, [f32; 6]) {
    const ALL: f64 = f64::INFINITY;
    let (kind, values): (Kind, &[f64]) = match *objective {
        Objective::Reinforce {} => (Kind::Reinforce, &[]),
        Objective::PpoClip { clip_low, clip_high, dual_clip } => {
            let [low, high] = region(clip_low, clip_high);
            let dual = dual_clip.map_or([ALL, 0.0], |c| [c.ln(), c]);
            (Kind::PpoClip, &[low, high, 1.0 - clip_low, 1.0 + clip_high, dual[0], dual[1]])
        }
        Objective::Gspo { clip_low, clip_high }
        | Objective::GspoToken { clip_low, clip_high }
        | Objective::Luspo { clip_low, clip_high } => {
            let [low, high] = region(clip_low, clip_high);
            (Kind::SequenceClip, &[low, high, 1.0 - clip_low, 1.0 + clip_high])
        }
        Objective::Gmpo { clip_low, clip_high } => (Kind::Gmpo, &[-clip_low, clip_high]),
        Objective::Cispo { ratio_min, ratio_max } => (Kind::Cispo, &[ratio_min, ratio_max]),
        Objective::MiniRl { clip_low, clip_high, cap, truncation_target, no_clip, no_train_infer_is } => {
            let [low, high] = if no_clip { [-ALL, ALL] } else { region(clip_low, clip_high) };
            let kind = match truncation_target {
                _ if no_train_infer_is => Kind::MiniRlRatio,
                TruncationTarget::Full => Kind::MiniRlFull,
                TruncationTarget::Mismatch => Kind::MiniRlMismatch,
            };
            (kind, &[low, high, cap])
        }
        Objective::Sapo { tau_pos, tau_neg } => (Kind::Sapo, &[tau_pos, tau_neg]),
        Objective::DppoTv { delta_low, delta_high, cap } => (Kind::DppoTv, &[delta_low, delta_high, cap]),
        Objective::DppoKl { delta_low, delta_high, cap } => (Kind::DppoKl, &[delta_low, delta_high, cap]),
        Objective::Vespo { k_pos, lambda_pos, k_neg, lambda_neg } => {
            (Kind::Vespo, &[k_pos, lambda_pos, k_neg, lambda_neg])
        }
    };
    let mut coefficients = [0.0; 6];
    coefficients.iter_mut().zip(values).for_each(|(c, v)| *c = *v as f32);
    (kind, coefficients)
}

impl ObjectiveKernels {
    /// Compiles it, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        gpu.compile_with("objective.cu", OBJECTIVE, HEADERS).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// The policy term of each sequence, `losses` `[sequences]`, whose sum is the loss, and `d_logp` `[tokens]`, `+0.0`
    /// where the mask is 0; both in `f32`. `log_ratio_clamp` is that of [`LossConfig`](crate::LossConfig).
    ///
    /// # Safety
    /// The buffers hold what is said here and of [`TokenArgs`], offsets rise from 0 to the number of tokens, and device
    /// addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`Error::Launch`] for more sequences than fit 31 bits.
    pub unsafe fn evaluate(
        &self,
        objective: &Objective,
        log_ratio_clamp: Option<f64>,
        sequences: usize,
        tokens: TokenArgs<'_>,
        losses: Arg<'_>,
        d_logp: Arg<'_>,
    ) -> Result<()> {
        const NAME: &str = "objective_f32";
        let Ok(blocks) = i32::try_from(sequences) else {
            return Err(Error::Launch {
                kernel: NAME.to_string(),
                what: "sequences",
                found: sequences.to_string(),
                expected: "at most 2147483647".to_string(),
            });
        };
        if blocks == 0 {
            return Ok(());
        }
        let (kind, [c0, c1, c2, c3, c4, c5]) = table(objective);
        let bound = log_ratio_clamp.map_or(f32::INFINITY, |bound| bound as f32);
        let TokenArgs { logp, logp_old, logp_mu, advantages, mask, scale, offsets } = tokens;
        let inputs = args![logp, logp_old, logp_mu, advantages, mask, scale, offsets];
        let values = args![losses, d_logp, kind as i32, bound, c0, c1, c2, c3, c4, c5];
        let launch = Launch::linear(blocks.cast_unsigned(), 256);
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(NAME, launch, &[&inputs[..], &values[..]].concat()) }
    }
}
