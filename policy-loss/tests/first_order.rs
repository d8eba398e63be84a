//! E17, P16: the token surrogate is the first-order approximation of the sequence objective. All 27 sequences of 3
//! tokens over a vocabulary of 3 are enumerated, so expectations are exact.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{correction, mini_rl, ppo};
use policy_loss::{
    Advantages, Base, Control, Level, LossConfig, LossOutput, Mode, Normalizer, Objective, TokenBatch,
    TruncationTarget,
};

const V: usize = 3;
const T: usize = 3;
/// Prefixes of 0, 1 and 2 tokens: each has logits of its own.
const STATES: usize = 1 + V + V * V;

/// A tabular policy: logits by prefix.
type Policy = [[f64; V]; STATES];

/// Numbers in (−1, 1) that look random.
fn noise(seed: usize) -> f64 {
    (seed as f64 * 12.9898 + 78.233).sin() * 43758.5453 % 1.0
}

fn policy(seed: usize, size: f64) -> Policy {
    std::array::from_fn(|s| std::array::from_fn(|v| size * noise(seed + s * V + v)))
}

/// The tokens of the `y`-th sequence, and the prefix each follows.
fn sequence(y: usize) -> [(usize, usize); T] {
    let tokens = [y / 9, y / 3 % 3, y % 3];
    let prefixes = [0, 1 + tokens[0], 1 + V + tokens[0] * V + tokens[1]];
    std::array::from_fn(|t| (prefixes[t], tokens[t]))
}

fn log_p(logits: &[f64; V], token: usize) -> f64 {
    logits[token] - logits.iter().map(|z| z.exp()).sum::<f64>().ln()
}

struct Enumerated {
    value: f64,
    gradient: Policy,
}

/// The maximised objective `−L` over all sequences, each weighted by its probability under μ, and its gradient.
fn objective(config: LossConfig, theta: &Policy, mu: &Policy, rewards: &[f64; 27]) -> Enumerated {
    let column =
        |p: &Policy| (0..27).flat_map(|y| sequence(y).map(|(s, v)| log_p(&p[s], v))).collect::<Vec<f64>>();
    let (logp, behaviour) = (column(theta), column(mu));
    let offsets: Vec<usize> = (0..=27).map(|y| y * T).collect();
    let weight = |y: usize| behaviour[y * T..][..T].iter().sum::<f64>().exp();
    let adv: Vec<f64> = (0..27).map(|y| weight(y) * rewards[y]).collect();
    let view = TokenBatch {
        logp_old: Some(&behaviour),
        logp_mu: Some(&behaviour),
        ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv))
    };
    let out: LossOutput<f64> = config.validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
    let mut gradient = [[0.0; V]; STATES];
    for y in 0..27 {
        for (t, (s, token)) in sequence(y).into_iter().enumerate() {
            for v in 0..V {
                let hit = f64::from(u8::from(v == token));
                gradient[s][v] -= out.grad_logp[y * T + t] * (hit - log_p(&theta[s], v).exp());
            }
        }
    }
    Enumerated { value: -out.loss, gradient }
}

/// Gaps of value and gradient between the sequence objective and its token surrogate, `step` away from μ.
fn gaps(seed: usize, step: f64) -> (f64, f64) {
    let (mu, direction) = (policy(seed, 1.0), policy(seed + 500, 1.0));
    let theta: Policy = std::array::from_fn(|s| std::array::from_fn(|v| mu[s][v] + step * direction[s][v]));
    let rewards: [f64; 27] = std::array::from_fn(|y| noise(seed + 1000 + y));
    let probability =
        |p: &Policy, y: usize| sequence(y).iter().map(|(s, v)| log_p(&p[*s], *v)).sum::<f64>().exp();
    let expected = |p: &Policy| (0..27).map(|y| probability(p, y) * rewards[y]).sum::<f64>();

    // The sequence objective: REINFORCE with the product of the ratios; its value is the expected reward.
    let product = LossConfig {
        correction: correction(Base::Full, Level::SeqProduct, Control::None {}),
        ..LossConfig::new(Objective::Reinforce {}, Mode::TokenSum)
    };
    let exact = objective(product, &theta, &mu, &rewards);
    // The token surrogate: its value is PPO's without a clip, its gradient also MiniRL's without clip and cap.
    let token = objective(LossConfig::new(ppo(1.0, f64::INFINITY), Mode::TokenSum), &theta, &mu, &rewards);
    let Objective::MiniRl { clip_low, clip_high, .. } = mini_rl(1.0, TruncationTarget::Full) else {
        unreachable!()
    };
    let mini = Objective::MiniRl {
        clip_low,
        clip_high,
        cap: f64::INFINITY,
        truncation_target: TruncationTarget::Full,
        no_clip: true,
        no_train_infer_is: false,
    };
    let mini = objective(LossConfig::new(mini, Mode::TokenSum), &theta, &mu, &rewards);
    let distance = |a: &Policy, b: &Policy| {
        a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
    };
    assert!(distance(&mini.gradient, &token.gradient) < 1e-12);
    let constant = (T - 1) as f64 * expected(&mu);
    ((expected(&theta) - (token.value - constant)).abs(), distance(&exact.gradient, &mini.gradient))
}

#[test]
fn the_value_gap_is_second_order_and_the_gradient_gap_first() {
    for seed in [1, 2, 3, 4, 5] {
        let (value, gradient) = gaps(seed, 0.0);
        assert!(value < 1e-14 && gradient < 1e-14, "{value} {gradient}");
        for (small, large) in [(1e-3, 1e-2), (1e-2, 1e-1)] {
            let ((v0, g0), (v1, g1)) = (gaps(seed, small), gaps(seed, large));
            let (value, gradient) = ((v1 / v0).log10(), (g1 / g0).log10());
            assert!((value - 2.0).abs() < 0.15, "seed {seed}: slope {value} of the value");
            assert!((gradient - 1.0).abs() < 0.15, "seed {seed}: slope {gradient} of the gradient");
        }
    }
}

#[test]
fn the_gradient_of_the_sequence_objective_is_that_of_the_expected_reward() {
    // What the test above takes for exact, by finite differences.
    let (mu, theta) = (policy(7, 1.0), policy(8, 1.0));
    let rewards: [f64; 27] = std::array::from_fn(|y| noise(2000 + y));
    let product = LossConfig {
        correction: correction(Base::Full, Level::SeqProduct, Control::None {}),
        ..LossConfig::new(Objective::Reinforce {}, Mode::TokenSum)
    };
    let exact = objective(product, &theta, &mu, &rewards);
    let expected = |p: &Policy| {
        (0..27)
            .map(|y| rewards[y] * sequence(y).iter().map(|(s, v)| log_p(&p[*s], *v)).sum::<f64>().exp())
            .sum::<f64>()
    };
    for s in 0..STATES {
        for v in 0..V {
            let moved = |step: f64| {
                let mut p = theta;
                p[s][v] += step;
                expected(&p)
            };
            let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((exact.gradient[s][v] - difference).abs() < 1e-9, "{s} {v}");
        }
    }
}
