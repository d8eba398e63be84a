//! Definition (f64), CPU path (f32) and kernel agree on every objective, and nothing masked is read.

use cuda_twin::{Error, Gpu, Options, Result, args, devices, mutants};
use ndarray::{Array1, Array2};

use super::noise;
use crate::kernels::{ObjectiveKernels, TokenArgs};
use crate::reference::{Inputs, evaluate};
use crate::sources::{HEADERS, OBJECTIVE};
use crate::{
    Advantages, Base, Control, Correction, Level, LossConfig, Mode, Normalizer, Objective, TokenBatch,
    TruncationTarget,
};

/// Every objective, with bounds that some tokens of [`batch`] are outside of.
fn objectives() -> Vec<Objective> {
    let mini_rl = |truncation_target, no_clip, no_train_infer_is| Objective::MiniRl {
        clip_low: 0.1,
        clip_high: 0.15,
        cap: 1.1,
        truncation_target,
        no_clip,
        no_train_infer_is,
    };
    let (full, mismatch) = (TruncationTarget::Full, TruncationTarget::Mismatch);
    vec![
        Objective::Reinforce {},
        Objective::PpoClip { clip_low: 0.1, clip_high: 0.15, dual_clip: None },
        Objective::PpoClip { clip_low: 1.0, clip_high: 0.15, dual_clip: Some(1.2) },
        Objective::Gspo { clip_low: 0.001, clip_high: 0.0012 },
        Objective::GspoToken { clip_low: 0.001, clip_high: 0.0012 },
        Objective::Luspo { clip_low: 0.001, clip_high: 0.0012 },
        Objective::Gmpo { clip_low: 0.1, clip_high: 0.15 },
        Objective::Cispo { ratio_min: 0.9, ratio_max: 1.1 },
        mini_rl(full, false, false),
        mini_rl(mismatch, false, false),
        mini_rl(full, true, false),
        mini_rl(mismatch, false, true),
        Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 },
        Objective::DppoTv { delta_low: 0.05, delta_high: 0.03, cap: 1.1 },
        Objective::DppoKl { delta_low: 0.002, delta_high: 0.003, cap: 1.1 },
        Objective::Vespo { k_pos: 2.0, lambda_pos: 3.0, k_neg: 3.0, lambda_neg: 2.0 },
    ]
}

/// Whether tokens outside of its bounds do not train.
fn clips(objective: &Objective) -> bool {
    match objective {
        Objective::Reinforce {}
        | Objective::Cispo { .. }
        | Objective::Sapo { .. }
        | Objective::Vespo { .. } => false,
        Objective::MiniRl { no_clip, .. } => !no_clip,
        _ => true,
    }
}

struct Batch {
    offsets: Vec<usize>,
    logp: Vec<f32>,
    old: Vec<f32>,
    mu: Vec<f32>,
    advantages: Vec<f32>,
    mask: Vec<bool>,
    scale: Vec<f32>,
}

/// Sequences of these lengths. Every seventh token is masked, with `NaN` in all inputs; every eleventh has not changed; the
/// advantage of every fifth sequence is 0.
fn batch(lengths: &[usize], drift: f64, seed: u64) -> Batch {
    let mut offsets = vec![0];
    lengths.iter().for_each(|n| offsets.push(offsets[offsets.len() - 1] + n));
    let tokens = offsets[lengths.len()];
    let (change, gap, level) = (noise(tokens, seed), noise(tokens, seed + 1), noise(tokens, seed + 2));
    let advantage = noise(lengths.len(), seed + 3);
    let mask: Vec<bool> = (0..tokens).map(|t| t % 7 != 3).collect();
    let of = |t: usize, value: f64| if mask[t] { value.min(0.0) as f32 } else { f32::NAN };
    let logp = |t: usize| -1.6 * (1.0 + level[t]);
    let moved = |t: usize| if t.is_multiple_of(11) { 0.0 } else { drift * change[t] };
    let spread = offsets.windows(2).enumerate().flat_map(|(i, w)| vec![i; w[1] - w[0]]);
    Batch {
        logp: (0..tokens).map(|t| of(t, logp(t))).collect(),
        old: (0..tokens).map(|t| of(t, logp(t) - moved(t))).collect(),
        mu: (0..tokens).map(|t| of(t, logp(t) - moved(t) - 0.2 * gap[t])).collect(),
        advantages: spread
            .enumerate()
            .map(|(t, i)| match (mask[t], i % 5) {
                (false, _) => f32::NAN,
                (_, 3) => 0.0,
                _ => 1.5 * advantage[i] as f32,
            })
            .collect(),
        scale: mask.iter().map(|m| if *m { 1.0 / 64.0 } else { f32::NAN }).collect(),
        mask,
        offsets,
    }
}

impl Batch {
    fn sequence(&self, i: usize) -> std::ops::Range<usize> {
        self.offsets[i]..self.offsets[i + 1]
    }

    /// A sequence alone.
    fn alone(&self, i: usize) -> Self {
        let range = self.sequence(i);
        let take = |v: &[f32]| v[range.clone()].to_vec();
        Self {
            offsets: vec![0, range.len()],
            logp: take(&self.logp),
            old: take(&self.old),
            mu: take(&self.mu),
            advantages: take(&self.advantages),
            mask: self.mask[range.clone()].to_vec(),
            scale: take(&self.scale),
        }
    }

    fn kernel(
        &self,
        gpu: &Gpu,
        kernels: &ObjectiveKernels,
        config: &LossConfig,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let with_mu = config.correction.is_some() || matches!(config.objective, Objective::MiniRl { .. });
        let sequences = self.offsets.len() - 1;
        let [logp, old, mu, advantages, scale] = [
            &self.logp,
            &self.old,
            if with_mu { &self.mu } else { &self.old },
            &self.advantages,
            &self.scale,
        ]
        .map(|v| gpu.upload(v));
        let (logp, old, mu, advantages, scale) = (logp?, old?, mu?, advantages?, scale?);
        let mask = gpu.upload(&self.mask.iter().map(|m| u8::from(*m)).collect::<Vec<_>>())?;
        let offsets = gpu.upload(&self.offsets.iter().map(|o| *o as i32).collect::<Vec<_>>())?;
        let (losses, d_logp) = (gpu.uninit::<f32>(sequences)?, gpu.uninit::<f32>(self.logp.len())?);
        let tokens = TokenArgs {
            logp: (&logp).into(),
            logp_old: (&old).into(),
            logp_mu: (&mu).into(),
            advantages: (&advantages).into(),
            mask: (&mask).into(),
            scale: (&scale).into(),
            offsets: (&offsets).into(),
        };
        let [l, d] = args![&losses, &d_logp];
        let clamp = config.log_ratio_clamp;
        // SAFETY: buffers of the batch, whose offsets rise to its tokens.
        unsafe { kernels.evaluate(&config.objective, clamp, sequences, tokens, l, d) }?;
        Ok((losses.read()?, d_logp.read()?))
    }

    /// Losses of the sequences and the gradient, by the definition.
    fn defined(&self, config: &LossConfig) -> (Vec<f64>, Vec<f64>) {
        let (mut losses, mut gradient) = (Vec::new(), Vec::new());
        for i in 0..self.offsets.len() - 1 {
            let range = self.sequence(i);
            let shape = (1, range.len());
            let row = |v: &[f32]| Array2::from_shape_fn(shape, |(_, t)| f64::from(v[range.start + t]));
            let inputs = Inputs {
                logp: row(&self.logp),
                logp_old: row(&self.old),
                logp_mu: row(&self.mu),
                logp_ref: Array2::zeros(shape),
                entropy: Array2::zeros(shape),
                mask: Array2::from_shape_fn(shape, |(_, t)| self.mask[range.start + t]),
                advantages: row(&self.advantages),
                groups: Array1::zeros(1),
            };
            let out = evaluate(config, &inputs, &Normalizer { tokens: Some(64.0), ..Normalizer::default() });
            losses.push(out.loss);
            gradient.extend(out.grad_logp);
        }
        (losses, gradient)
    }

    /// The loss and the gradient of the CPU path.
    fn cpu(&self, config: &LossConfig) -> (f64, Vec<f32>) {
        // A sequence has one advantage; masked tokens hold NaN.
        let advantage =
            |i: usize| self.sequence(i).find(|t| self.mask[*t]).map_or(0.0, |t| self.advantages[t]);
        let advantages: Vec<f32> = (0..self.offsets.len() - 1).map(advantage).collect();
        let batch = TokenBatch {
            logp_old: Some(&self.old),
            logp_mu: Some(&self.mu),
            mask: Some(&self.mask),
            ..TokenBatch::new(&self.offsets, &self.logp, Advantages::PerSequence(&advantages))
        };
        let whole = Normalizer { tokens: Some(64.0), ..Normalizer::default() };
        let out = config.clone().validate().unwrap().evaluate(&batch, &whole).unwrap();
        (out.loss, out.grad_logp)
    }
}

fn config(objective: Objective) -> LossConfig {
    LossConfig { allow_length_weighting: true, ..LossConfig::new(objective, Mode::TokenMean) }
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f64], absolute: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (y, e)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*y) - e).abs();
        assert!(off <= 1e-5 * e.abs() + absolute, "{what}: element {i}: {y}, expected {e}");
    }
}

/// Around a warp and a block of 256, and none.
const LENGTHS: [usize; 9] = [1, 2, 31, 0, 33, 130, 255, 257, 520];

#[test]
fn every_objective_agrees() -> Result<()> {
    let vespo = Objective::Vespo { k_pos: 2.0, lambda_pos: 3.0, k_neg: 3.0, lambda_neg: 2.0 };
    let product = Correction {
        base: Base::Mismatch,
        level: Level::SeqProduct,
        control: Control::None {},
        batch_normalize: false,
    };
    let corrected = LossConfig { correction: Some(product), ..config(vespo) };
    let configs: Vec<LossConfig> = objectives().into_iter().map(config).chain([corrected]).collect();
    let gpus: Vec<Gpu> = devices()?.into_iter().chain([Gpu::emulated(Options::unchecked())]).collect();
    for seed in [1, 2, 3] {
        let batch = batch(&LENGTHS, 0.3, 10 * seed);
        for config in &configs {
            let what = format!("{:?}, seed {seed}", config.objective);
            let (losses, gradient) = batch.defined(config);
            let (loss, on_cpu) = batch.cpu(config);
            let total: f64 = losses.iter().sum();
            assert!(
                (loss - total).abs() <= 1e-6 * (1.0 + total.abs()),
                "{what}: CPU {loss}, expected {total}"
            );
            close(&format!("CPU: {what}"), &on_cpu, &gradient, 1e-9);
            // Where there is an advantage something trains, and something is clipped by those that clip.
            let counts = |t: &usize| batch.mask[*t] && batch.advantages[*t] != 0.0;
            let silent = (0..gradient.len()).filter(counts).filter(|t| gradient[*t] == 0.0).count();
            let trained = (0..gradient.len()).filter(counts).count() - silent;
            assert!(trained > 0 && (silent > 0) == clips(&config.objective), "{what}: {trained}, {silent}");
            let mut seen = None;
            for gpu in &gpus {
                let found = batch.kernel(gpu, &ObjectiveKernels::new(gpu)?, config)?;
                close(&format!("losses: {what}"), &found.0, &losses, 2e-6);
                close(&format!("gradient: {what}"), &found.1, &gradient, 2e-8);
                let masked = batch.mask.iter().zip(&found.1).filter(|(m, _)| !**m);
                assert!(
                    masked.clone().count() > 100 && masked.clone().all(|(_, d)| d.to_bits() == 0),
                    "{what}"
                );
                // Between emulation and a GPU bits may differ.
                if gpu.emulation().is_some() {
                    let bits =
                        [&found.0, &found.1].map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                    assert_eq!(*seen.get_or_insert(bits.clone()), bits, "{what}: bits depend on the order");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn clamps_stop_the_gradient_as_on_the_cpu() -> Result<()> {
    // Log-ratios far beyond a narrow clamp, which the definition does not know.
    let batch = batch(&[40, 1, 77, 300], 6.0, 5);
    for gpu in devices()? {
        let kernels = ObjectiveKernels::new(&gpu)?;
        for objective in objectives() {
            for bound in [Some(0.25), Some(20.0), None] {
                let config = LossConfig { log_ratio_clamp: bound, ..config(objective) };
                let (loss, gradient) = batch.cpu(&config);
                let (losses, found) = batch.kernel(&gpu, &kernels, &config)?;
                let (what, expected) =
                    (format!("{objective:?} {bound:?}"), gradient.iter().map(|g| f64::from(*g)));
                close(&what, &found, &expected.collect::<Vec<_>>(), 2e-7);
                let total: f64 = losses.iter().map(|l| f64::from(*l)).sum();
                assert!(
                    (total - loss).abs() <= 1e-5 * (1.0 + loss.abs()),
                    "{what}: {total}, on the CPU {loss}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn no_advantage_is_no_loss_even_where_a_ratio_overflows() -> Result<()> {
    let mut batch = batch(&[70], 400.0, 4);
    let masked = |mask: &bool| if *mask { 0.0 } else { f32::NAN };
    batch.advantages = batch.mask.iter().map(masked).collect();
    for gpu in devices()? {
        let kernels = ObjectiveKernels::new(&gpu)?;
        for objective in objectives() {
            let config = LossConfig { log_ratio_clamp: None, ..config(objective) };
            let (losses, gradient) = batch.kernel(&gpu, &kernels, &config)?;
            let zero = losses.iter().chain(&gradient).all(|x| x.to_bits() == 0);
            assert!(zero, "{objective:?}: {losses:?} {gradient:?}");
        }
    }
    Ok(())
}

#[test]
fn sequences_do_not_matter_to_each_other_and_scales_multiply() -> Result<()> {
    let mut batch = batch(&LENGTHS, 0.3, 7);
    for gpu in devices()? {
        let kernels = ObjectiveKernels::new(&gpu)?;
        for objective in objectives() {
            let config = config(objective);
            let (losses, gradient) = batch.kernel(&gpu, &kernels, &config)?;
            for i in 0..LENGTHS.len() {
                let (loss, alone) = batch.alone(i).kernel(&gpu, &kernels, &config)?;
                assert_eq!((loss[0], &alone[..]), (losses[i], &gradient[batch.sequence(i)]), "{objective:?}");
            }
            // Powers of two change no digit.
            let power = |t: usize| f32::powi(2.0, t as i32 % 5 - 2);
            let scale = batch.scale.clone();
            batch.scale.iter_mut().enumerate().for_each(|(t, s)| *s *= power(t));
            let (_, scaled) = batch.kernel(&gpu, &kernels, &config)?;
            batch.scale = scale;
            assert!(
                scaled.iter().zip(&gradient).enumerate().all(|(t, (a, b))| *a == b * power(t)),
                "{objective:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_masked_token_is_never_read() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let kernels = ObjectiveKernels::new(&gpu)?;
    for objective in objectives() {
        // The checked emulator reports the first read of memory that nothing has written.
        for (mask, untouched) in [(0u8, true), (1, false)] {
            let values = gpu.uninit::<f32>(3)?;
            let (mask, offsets) = (gpu.upload(&[mask; 3])?, gpu.upload(&[0i32, 3])?);
            let (losses, d_logp) = (gpu.uninit::<f32>(1)?, gpu.uninit::<f32>(3)?);
            let v = || (&values).into();
            let tokens = TokenArgs {
                logp: v(),
                logp_old: v(),
                logp_mu: v(),
                advantages: v(),
                scale: v(),
                mask: (&mask).into(),
                offsets: (&offsets).into(),
            };
            // SAFETY: buffers of one sequence of 3 tokens.
            let done =
                unsafe { kernels.evaluate(&objective, None, 1, tokens, (&losses).into(), (&d_logp).into()) };
            assert_eq!(done.is_ok(), untouched, "{objective:?}: {done:?}");
        }
    }
    Ok(())
}

#[test]
fn no_sequences_are_no_launch_and_no_barrier_can_be_removed() -> Result<()> {
    let header = HEADERS[0].1;
    let (case, config) =
        (batch(&[300], 0.3, 3), config(Objective::Gspo { clip_low: 0.001, clip_high: 0.0012 }));
    let run = |gpu: &Gpu, source: &str, header: &str| -> Result<()> {
        let module = gpu.compile_with("objective.cu", source, &[("block.cuh", header)])?;
        case.kernel(gpu, &ObjectiveKernels::of_module(module), &config).map(drop)
    };
    let (own, shared): (Vec<_>, Vec<_>) = (mutants(OBJECTIVE).collect(), mutants(header).collect());
    assert_eq!((own.len(), shared.len()), (1, 1));
    for options in Options::orders() {
        let gpu = Gpu::emulated(options);
        run(&gpu, OBJECTIVE, header)?;
        for (done, line) in [
            (run(&gpu, &own[0].source, header), own[0].line),
            (run(&gpu, OBJECTIVE, &shared[0].source), shared[0].line),
        ] {
            assert!(matches!(done, Err(Error::Fault(_))), "without line {line}: {done:?}");
        }
    }
    let gpu = Gpu::emulated(Options::default());
    assert_eq!(batch(&[], 0.3, 1).kernel(&gpu, &ObjectiveKernels::new(&gpu)?, &config)?.0, Vec::<f32>::new());
    Ok(())
}
