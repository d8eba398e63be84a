//! The loss of hidden states in one pass against its definition: the loss of the log-probabilities of all logits.
#![allow(missing_docs, clippy::unwrap_used)]

use std::cell::Cell;

use policy_loss::reference::logit_row;
use policy_loss::{
    Advantages, EntropyAggregation, EntropyBonus, Error, LinearHead, LinearOutput, LogitMask, LossConfig,
    Normalizer, PRESETS, PolicyLoss, Products, TokenBatch,
};

/// Plain loops, which count what they are asked for.
#[derive(Default)]
struct Loops {
    most_rows: Cell<usize>,
    flops: Cell<usize>,
}

impl Loops {
    fn count(&self, [m, n, k]: [usize; 3]) {
        self.most_rows.set(self.most_rows.get().max(m));
        self.flops.set(self.flops.get() + 2 * m * n * k);
    }
}

fn put(at: &mut f32, value: f64, accumulate: bool) {
    *at = (value + if accumulate { f64::from(*at) } else { 0.0 }) as f32;
}

impl Products for Loops {
    fn nt(&self, x: &[f32], w: &[f32], y: &mut [f32], shape @ [m, n, k]: [usize; 3], accumulate: bool) {
        self.count(shape);
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let sum = (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(w[j * k + l])).sum();
            put(&mut y[i * n + j], sum, accumulate);
        }
    }
    fn nn(&self, dy: &[f32], w: &[f32], dx: &mut [f32], shape @ [m, n, k]: [usize; 3], accumulate: bool) {
        self.count(shape);
        for (i, l) in (0..m).flat_map(|i| (0..k).map(move |l| (i, l))) {
            let sum = (0..n).map(|j| f64::from(dy[i * n + j]) * f64::from(w[j * k + l])).sum();
            put(&mut dx[i * k + l], sum, accumulate);
        }
    }
    fn tn(&self, dy: &[f32], x: &[f32], dw: &mut [f32], shape @ [m, n, k]: [usize; 3], accumulate: bool) {
        self.count(shape);
        for (j, l) in (0..n).flat_map(|j| (0..k).map(move |l| (j, l))) {
            let sum = (0..m).map(|i| f64::from(dy[i * n + j]) * f64::from(x[i * k + l])).sum();
            put(&mut dw[j * k + l], sum, accumulate);
        }
    }
}

const OFFSETS: [usize; 6] = [0, 3, 5, 12, 12, 16];
const SIZE: usize = 5;
const VOCABULARY: usize = 29;

struct Case {
    hidden: Vec<f32>,
    weight: Vec<f32>,
    targets: Vec<u32>,
    mask: Vec<bool>,
    old: Vec<f32>,
    mu: Vec<f32>,
    reference: Vec<f32>,
    advantages: Vec<f32>,
}

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / 2f32.powi(31) - 1.0
    };
    (0..n).map(|_| next()).collect()
}

impl Case {
    /// With NaN, and a target outside the vocabulary, in every masked row.
    fn new(seed: u32) -> Self {
        let tokens = OFFSETS[5];
        let mask: Vec<bool> = (0..tokens).map(|t| t % 5 != 4).collect();
        let mut hidden = numbers(tokens * SIZE, seed);
        for (row, _) in hidden.chunks_mut(SIZE).zip(&mask).filter(|(_, keep)| !**keep) {
            row.fill(f32::NAN);
        }
        let near = |seed| numbers(tokens, seed).iter().map(|v| -3.3 + 0.4 * v).collect::<Vec<f32>>();
        Self {
            hidden,
            weight: numbers(VOCABULARY * SIZE, seed + 1),
            targets: (0..tokens)
                .map(|t| if mask[t] { (t * 31 % VOCABULARY) as u32 } else { u32::MAX })
                .collect(),
            mask,
            old: near(seed + 2),
            mu: near(seed + 3),
            reference: near(seed + 4),
            advantages: vec![0.7, -0.4, 1.2, 0.3, -0.9],
        }
    }

    fn head(&self, chunk: usize) -> LinearHead<'_> {
        LinearHead {
            hidden: &self.hidden,
            weight: &self.weight,
            size: SIZE,
            targets: &self.targets,
            temperature: 0.8,
            chunk,
            banned: None,
        }
    }

    fn batch(&self) -> TokenBatch<'_, f32> {
        TokenBatch {
            logp_old: Some(&self.old),
            logp_mu: Some(&self.mu),
            logp_ref: Some(&self.reference),
            mask: Some(&self.mask),
            groups: Some(&[0, 0, 1, 1, 1]),
            ..TokenBatch::new(&OFFSETS, &[], Advantages::PerSequence(&self.advantages))
        }
    }

    fn logits(&self, token: usize) -> Vec<f64> {
        let x = &self.hidden[token * SIZE..][..SIZE];
        let dot = |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        self.weight.chunks(SIZE).map(dot).collect()
    }

    /// Loss, gradients to hidden states and to the weight by the chain rule in f64, and metrics.
    fn definition(&self, loss: &PolicyLoss, normalizer: &Normalizer) -> (LinearOutput, Vec<f64>, Vec<f64>) {
        let row = |t: usize, g, h| logit_row(&self.logits(t), self.targets[t] as usize, 0.8, g, h);
        let scores = |of: fn(policy_loss::reference::LogitRow) -> f64| -> Vec<f32> {
            (0..self.mask.len())
                .map(|t| if self.mask[t] { of(row(t, 0.0, 0.0)) as f32 } else { 0.0 })
                .collect()
        };
        let (logp, entropy) = (scores(|r| r.logp), scores(|r| r.entropy));
        let batch = TokenBatch { logp: &logp, entropy: Some(&entropy), ..self.batch() };
        let out = loss.evaluate(&batch, normalizer).unwrap();
        let (mut dx, mut dw) = (vec![0.0; self.hidden.len()], vec![0.0; self.weight.len()]);
        for t in (0..self.mask.len()).filter(|t| self.mask[*t]) {
            let (g, h) = (f64::from(out.grad_logp[t]), f64::from(out.grad_entropy[t]));
            for (v, d) in row(t, g, h).grad.iter().enumerate() {
                for k in 0..SIZE {
                    dx[t * SIZE + k] += d * f64::from(self.weight[v * SIZE + k]);
                    dw[v * SIZE + k] += d * f64::from(self.hidden[t * SIZE + k]);
                }
            }
        }
        (LinearOutput { loss: out, logp, entropy, grad_hidden: Vec::new() }, dx, dw)
    }
}

fn close(what: &str, found: &[f32], expected: impl IntoIterator<Item = f64>) {
    let mut count = 0;
    for (found, expected) in found.iter().zip(expected) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= 3e-6 * (1.0 + expected.abs()), "{what} {count}: {found}, expected {expected}");
        count += 1;
    }
    assert_eq!(count, found.len(), "{what}");
}

#[test]
fn every_preset_is_the_loss_of_all_logits() {
    let case = Case::new(3);
    let bonus = Some(EntropyBonus { coef: 0.01, aggregation: EntropyAggregation::TokenMean });
    for (preset, entropy) in PRESETS.iter().flat_map(|p| [(p, None), (p, bonus)]) {
        let config = LossConfig { entropy, ..LossConfig::preset(preset, 8).unwrap().0 };
        let loss = config.validate().unwrap();
        let whole = TokenBatch { logp: &case.old, entropy: Some(&case.old), ..case.batch() };
        for normalizer in [Normalizer::default(), loss.normalizer(&whole).unwrap()] {
            let (want, dx, dw) = case.definition(&loss, &normalizer);
            for chunk in [1, 4, 7, 100] {
                let products = Loops::default();
                let before = numbers(case.weight.len(), 9);
                let mut found_dw = before.clone();
                let head = case.head(chunk);
                let found = loss
                    .evaluate_linear(&head, &case.batch(), &normalizer, &products, &mut found_dw)
                    .unwrap();
                let what = |part| format!("{preset}, chunk {chunk}, {part}");
                assert!((found.loss.loss - want.loss.loss).abs() < 1e-6, "{}", what("loss"));
                close(&what("logp"), &found.logp, want.logp.iter().map(|v| f64::from(*v)));
                close(&what("entropy"), &found.entropy, want.entropy.iter().map(|v| f64::from(*v)));
                close(&what("hidden"), &found.grad_hidden, dx.iter().copied());
                close(&what("weight"), &found_dw, dw.iter().zip(&before).map(|(d, b)| d + f64::from(*b)));
                let (metrics, wanted) = (found.loss.metrics.finish(), want.loss.metrics.finish());
                assert!(metrics.keys().eq(wanted.keys()), "{}", what("metrics"));
                for (name, value) in wanted {
                    let error = (metrics[name] - value).abs();
                    assert!(
                        error <= 1e-5 * (1.0 + value.abs()),
                        "{}: {}, expected {value}",
                        what(name),
                        metrics[name]
                    );
                }
                assert!(products.most_rows.get() <= chunk);
            }
        }
    }
}

/// Every third token, others at every row, but no target.
struct Thirds<'a>(&'a [u32]);

impl LogitMask for Thirds<'_> {
    fn ban(&self, row: usize, first: usize, logits: &mut [f32]) {
        for (token, z) in (first..).zip(logits) {
            if (token + row).is_multiple_of(3) && token != self.0[row] as usize {
                *z = f32::NEG_INFINITY;
            }
        }
    }
}

#[test]
fn a_vocabulary_of_several_tiles_with_a_mask_is_the_loss_of_all_logits() {
    // Two tiles of 2,048 columns and a part of one.
    const VOCABULARY: usize = 4099;
    let case = Case { weight: numbers(VOCABULARY * SIZE, 4), mask: vec![true; OFFSETS[5]], ..Case::new(3) };
    let hidden = numbers(OFFSETS[5] * SIZE, 7);
    let targets: Vec<u32> = (0..OFFSETS[5]).map(|t| (t * 1033 % VOCABULARY) as u32).collect();
    let mask = Thirds(&targets);
    let case = Case { hidden, targets: targets.clone(), ..case };
    let config = LossConfig {
        entropy: Some(EntropyBonus { coef: 0.01, aggregation: EntropyAggregation::SameAsPolicy }),
        ..LossConfig::preset("minirl", 8).unwrap().0
    };
    let loss = config.validate().unwrap();
    let old = vec![-8.0; targets.len()];
    let batch = TokenBatch { logp_old: Some(&old), logp_mu: Some(&old), ..case.batch() };
    let counts = Normalizer { tokens: Some(16.0), seqs: Some(5.0), ..Normalizer::default() };
    let mut logits: Vec<f32> = (0..targets.len()).flat_map(|t| case.logits(t)).map(|z| z as f32).collect();
    for (row, z) in logits.chunks_mut(VOCABULARY).enumerate() {
        mask.ban(row, 0, z);
    }
    let want = loss.evaluate_logits(&mut logits, &targets, 0.8, &batch, &counts).unwrap();
    for banned in [Some(&mask as &dyn LogitMask), None] {
        let mut apart = 0;
        // Parts that fit, and ones whose logits are computed twice, in two tiles of rows.
        for chunk in [16, 7, 2] {
            let (head, mut dw) = (LinearHead { banned, ..case.head(chunk) }, vec![0.0; case.weight.len()]);
            let found = loss.evaluate_linear(&head, &batch, &counts, &Loops::default(), &mut dw).unwrap();
            if banned.is_none() {
                apart += usize::from(found.logp != want.logp);
                continue;
            }
            assert!((found.loss.loss - want.loss.loss).abs() < 1e-9);
            assert_eq!((&found.logp, &found.entropy), (&want.logp, &want.entropy), "chunk {chunk}");
            // The same in two passes: scores first, then the gradient of a loss of them.
            let (products, mut again) = (Loops::default(), vec![0.0; dw.len()]);
            let scores = head.scores(&products).unwrap();
            assert_eq!((&scores.logp, &scores.entropy), (&want.logp, &want.entropy), "chunk {chunk}");
            let upstream = |t: usize| [found.loss.grad_logp[t], found.loss.grad_entropy[t]];
            let grad = head.gradients(&products, &scores, upstream, &mut again).unwrap();
            close("grad_hidden", &grad, found.grad_hidden.iter().copied().map(f64::from));
            close("grad_weight", &again, dw.iter().copied().map(f64::from));
            assert_eq!(products.flops.get(), 8 * targets.len() * VOCABULARY * SIZE);
            for t in 0..targets.len() {
                for k in 0..SIZE {
                    let dy = |v: usize| f64::from(logits[t * VOCABULARY + v]);
                    let want: f64 =
                        (0..VOCABULARY).map(|v| dy(v) * f64::from(case.weight[v * SIZE + k])).sum();
                    let error = (f64::from(found.grad_hidden[t * SIZE + k]) - want).abs();
                    assert!(error < 1e-6, "chunk {chunk}, token {t}: {want}");
                }
            }
            for (at, d) in dw.iter().enumerate() {
                let (v, k) = (at / SIZE, at % SIZE);
                let of =
                    |t: usize| f64::from(logits[t * VOCABULARY + v]) * f64::from(case.hidden[t * SIZE + k]);
                let want: f64 = (0..targets.len()).map(of).sum();
                assert!((f64::from(*d) - want).abs() < 1e-6, "chunk {chunk}, weight {at}: {want}");
            }
        }
        assert!(banned.is_some() || apart == 3, "the mask does something");
    }
}

#[test]
fn logits_become_their_gradient() {
    let case = Case::new(11);
    for preset in PRESETS {
        let mut config = LossConfig::preset(preset, 8).unwrap().0;
        config.entropy = Some(EntropyBonus { coef: 0.01, aggregation: EntropyAggregation::TokenMean });
        let loss = config.validate().unwrap();
        let normalizer = Normalizer::default();
        let (want, _, _) = case.definition(&loss, &normalizer);
        let mut logits: Vec<f32> =
            (0..case.mask.len()).flat_map(|t| case.logits(t)).map(|z| z as f32).collect();
        let found =
            loss.evaluate_logits(&mut logits, &case.targets, 0.8, &case.batch(), &normalizer).unwrap();
        assert!((found.loss.loss - want.loss.loss).abs() < 1e-6, "{preset}");
        close("logp", &found.logp, want.logp.iter().map(|v| f64::from(*v)));
        close("entropy", &found.entropy, want.entropy.iter().map(|v| f64::from(*v)));
        for (t, row) in logits.chunks(VOCABULARY).enumerate() {
            if !case.mask[t] {
                assert!(row.iter().all(|d| d.to_bits() == 0), "{preset}, row {t}");
                continue;
            }
            let (g, h) = (f64::from(want.loss.grad_logp[t]), f64::from(want.loss.grad_entropy[t]));
            close(preset, row, logit_row(&case.logits(t), case.targets[t] as usize, 0.8, g, h).grad);
        }
    }
}

#[test]
fn the_logits_are_computed_once_where_a_part_needs_no_more() {
    let case = Case::new(5);
    let loss = LossConfig::preset("grpo", 8).unwrap().0.validate().unwrap();
    let flops = |chunk, normalizer: &Normalizer| {
        let products = Loops::default();
        let mut dw = vec![0.0; case.weight.len()];
        loss.evaluate_linear(&case.head(chunk), &case.batch(), normalizer, &products, &mut dw).unwrap();
        products.flops.get()
    };
    let product = 2 * SIZE * VOCABULARY;
    let kept = case.mask.iter().filter(|m| **m).count();
    let counts = Normalizer { tokens: Some(13.0), seqs: Some(4.0), ..Normalizer::default() };
    // The longest sequence has 7 tokens.
    assert_eq!(flops(7, &counts), 3 * product * kept);
    assert_eq!(flops(100, &Normalizer::default()), 3 * product * kept);
    // Without counts the batch is one part, longer than a chunk.
    assert_eq!(flops(7, &Normalizer::default()), product * 4 * kept);
    // A sequence with 6 tokens that train and rows for 4.
    assert_eq!(flops(4, &counts), product * (3 * kept + 6));
}

#[test]
fn what_does_not_fit_is_named() {
    let case = Case::new(7);
    let loss = LossConfig::preset("sapo", 8).unwrap().0.validate().unwrap();
    let refuse = |head: &LinearHead<'_>, batch: &TokenBatch<'_, f32>, weights: usize| {
        let mut dw = vec![0.0; weights];
        let found = loss.evaluate_linear(head, batch, &Normalizer::default(), &Loops::default(), &mut dw);
        found.unwrap_err().to_string()
    };
    let (head, batch, n) = (case.head(4), case.batch(), case.weight.len());
    assert_eq!(refuse(&case.head(0), &batch, n), "head.chunk is 0, expected at least one row");
    assert!(refuse(&LinearHead { temperature: 0.0, ..head }, &batch, n).contains("temperature is 0"));
    assert!(refuse(&LinearHead { size: 3, ..head }, &batch, n).contains("head.weight has 145 elements"));
    assert!(refuse(&LinearHead { hidden: &[0.0], ..head }, &batch, n).contains("head.hidden has 1 elements"));
    assert!(refuse(&head, &batch, 4).contains("grad_weight has 4 elements, expected 145"));
    assert!(
        refuse(&head, &TokenBatch { mask: None, ..batch }, n)
            .contains("token 4: target 4294967295 is outside the vocabulary of 29")
    );
    assert!(refuse(&head, &TokenBatch { logp_old: None, ..batch }, n).contains("needs logp_old"));
    let scores = |head: LinearHead<'_>| head.scores(&Loops::default()).map_err(|e| e.to_string());
    assert!(scores(head).unwrap_err().contains("token 4: target 4294967295 is outside"));
    assert_eq!(scores(case.head(0)).unwrap_err(), "head.chunk is 0, expected at least one row");
    let whole = LinearHead { targets: &[1; 16], ..head };
    let (found, other) =
        (scores(whole).unwrap(), LinearHead { targets: &[1], hidden: &case.hidden[..SIZE], ..head });
    let refuse = |head: LinearHead<'_>, weights: usize| {
        let found = head.gradients(&Loops::default(), &found, |_| [1.0, 0.0], &mut vec![0.0; weights]);
        found.unwrap_err().to_string()
    };
    assert!(refuse(whole, 4).contains("grad_weight has 4 elements, expected 145"));
    assert_eq!(refuse(other, n), "scores has 16 elements, expected 1");
    let mut logits = vec![0.5f32; 16 * 29];
    let mut refuse = |targets: &[u32], n: usize, temperature, batch: &TokenBatch<'_, f32>| {
        let found =
            loss.evaluate_logits(&mut logits[..n], targets, temperature, batch, &Normalizer::default());
        found.unwrap_err().to_string()
    };
    let targets = &case.targets;
    assert!(refuse(targets, 16 * 29 - 1, 1.0, &batch).contains("logits has 463 elements"));
    assert!(refuse(targets, 0, 1.0, &batch).contains("logits has 0 elements, expected 16"));
    assert!(refuse(&targets[1..], 15 * 29, 1.0, &batch).contains("offsets must rise"));
    assert!(refuse(targets, 16 * 29, f64::NAN, &batch).contains("temperature is NaN"));
    assert!(refuse(targets, 16 * 7, 1.0, &batch).contains("is outside the vocabulary of 7"));
    assert!(logits.iter().all(|z| *z == 0.5), "what is refused is left as it was");
    // The sequence is named by its place in the batch, though it is in a later part.
    let mut mu = case.mu.clone();
    mu[13] = f32::NAN;
    let counts = Normalizer { tokens: Some(13.0), seqs: Some(4.0), ..Normalizer::default() };
    let batch = TokenBatch { logp_mu: Some(&mu), ..batch };
    let mut dw = vec![0.0; n];
    let error = loss.evaluate_linear(&head, &batch, &counts, &Loops::default(), &mut dw).unwrap_err();
    assert!(matches!(error, Error::NonFinite { sequence: 4, token: 1, .. }), "{error}");
}
