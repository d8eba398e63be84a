//! The head in chunks against its definition, against the path over logits, and in what it allocates.
#![allow(missing_docs, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use policy_loss::op::{linear_log_probs, masked_log_probs};
use policy_loss::reference::logit_row;

/// Counts the bytes in use, and the most there were.
struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// One test at a time, so that a count is one test's.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: it only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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

struct Case {
    hidden: Var,
    weight: Var,
    targets: Vec<u32>,
    mask: Vec<bool>,
    upstream: Tensor,
}

/// Every third row is masked, with NaN in it.
fn case(rows: usize, size: usize, vocabulary: usize, seed: u32) -> Case {
    let mask: Vec<bool> = (0..rows).map(|r| r % 3 != 1).collect();
    let mut hidden = numbers(rows * size, seed);
    for (row, _) in hidden.chunks_mut(size).zip(&mask).filter(|(_, keep)| !**keep) {
        row.fill(f32::NAN);
    }
    let tensor = |v: Vec<f32>, shape| Tensor::from_vec(v, shape, &Device::Cpu).unwrap();
    Case {
        hidden: Var::from_tensor(&tensor(hidden, (rows, size))).unwrap(),
        weight: Var::from_tensor(&tensor(numbers(vocabulary * size, seed + 1), (vocabulary, size))).unwrap(),
        targets: (0..rows).map(|r| if mask[r] { (r * 31 % vocabulary) as u32 } else { u32::MAX }).collect(),
        mask,
        upstream: tensor(numbers(2 * rows, seed + 2), (rows, 2)),
    }
}

type Values = (Vec<f32>, Vec<f32>, Vec<f32>);

impl Case {
    fn run(&self, scores: Tensor) -> Values {
        let loss = (&scores * &self.upstream).unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (flat(&scores), flat(store.get(&self.hidden).unwrap()), flat(store.get(&self.weight).unwrap()))
    }

    fn chunked(&self, temperature: f64, chunk: usize) -> Values {
        let mask = Some(&self.mask[..]);
        self.run(
            linear_log_probs(&self.hidden, &self.weight, &self.targets, mask, temperature, chunk).unwrap(),
        )
    }

    /// In f64: scores, and gradients by the chain rule through `logit_row`.
    fn definition(&self, temperature: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
        let (x, w, upstream) = (wide(&self.hidden), wide(&self.weight), wide(&self.upstream));
        let size = w[0].len();
        let (mut scores, mut dx, mut dw) =
            (vec![0.0; 2 * x.len()], vec![0.0; x.len() * size], vec![0.0; w.len() * size]);
        for r in (0..x.len()).filter(|r| self.mask[*r]) {
            let logits: Vec<f64> = w.iter().map(|w| w.iter().zip(&x[r]).map(|(w, x)| w * x).sum()).collect();
            let row =
                logit_row(&logits, self.targets[r] as usize, temperature, upstream[r][0], upstream[r][1]);
            (scores[2 * r], scores[2 * r + 1]) = (row.logp, row.entropy);
            for (v, d) in row.grad.iter().enumerate() {
                for k in 0..size {
                    dx[r * size + k] += d * w[v][k];
                    dw[v * size + k] += d * x[r][k];
                }
            }
        }
        (scores, dx, dw)
    }
}

fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= tolerance * (1.0 + e.abs()), "{what} {i}: {f}, expected {e}");
    }
}

// P19, third layer.
#[test]
fn chunks_agree_with_the_definition_and_with_logits() {
    let _alone = ALONE.lock();
    for (seed, (rows, size, vocabulary)) in
        [(1, 1, 1), (7, 3, 31), (13, 17, 101), (32, 8, 257)].into_iter().enumerate()
    {
        for temperature in [0.6, 1.3] {
            let case = case(rows, size, vocabulary, 7 + seed as u32);
            let (scores, dx, dw) = case.definition(temperature);
            for chunk in [1, 5, 32, 1000] {
                let found = case.chunked(temperature, chunk);
                close("scores", &found.0, &scores, 1e-5);
                close("hidden", &found.1, &dx, 2e-5);
                close("weight", &found.2, &dw, 2e-5);
                for (r, _) in case.mask.iter().enumerate().filter(|(_, keep)| !**keep) {
                    assert!(found.0[2 * r..][..2].iter().all(|s| s.to_bits() == 0), "row {r}");
                    assert!(found.1[r * size..][..size].iter().all(|d| d.to_bits() == 0), "row {r}");
                }
                assert_eq!(bits(&found), bits(&case.chunked(temperature, chunk)), "run to run");
            }
            let logits = case.hidden.matmul(&case.weight.t().unwrap()).unwrap();
            let direct = masked_log_probs(&logits, &case.targets, Some(&case.mask), temperature).unwrap();
            close("logits path", &direct.flatten_all().unwrap().to_vec1::<f32>().unwrap(), &scores, 1e-5);
            let d = (direct * &case.upstream).unwrap().sum_all().unwrap().backward().unwrap();
            // The product's own backward multiplies NaN by 0 in the weight; the hidden states' gradient is clean.
            let d = d.get(&case.hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            close("hidden by the logits path", &d, &dx, 2e-5);
        }
    }
}

fn bits(values: &Values) -> Vec<u32> {
    [&values.0, &values.1, &values.2].into_iter().flatten().map(|v| v.to_bits()).collect()
}

#[test]
fn masked_rows_do_not_matter() {
    let _alone = ALONE.lock();
    let case = case(10, 4, 33, 3);
    let before = bits(&case.chunked(1.0, 3));
    let mut rows = case.hidden.to_vec2::<f32>().unwrap();
    for (row, _) in rows.iter_mut().zip(&case.mask).filter(|(_, keep)| !**keep) {
        row.fill(f32::INFINITY);
    }
    case.hidden.set(&Tensor::new(rows, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(bits(&case.chunked(1.0, 3)), before);
    let none = vec![false; 10];
    let scores = linear_log_probs(&case.hidden, &case.weight, &case.targets, Some(&none), 1.0, 3).unwrap();
    let (scores, dx, dw) = case.run(scores);
    assert!([scores, dx, dw].concat().iter().all(|v| v.to_bits() == 0));
}

#[test]
fn all_logits_never_exist() {
    let _alone = ALONE.lock();
    let (rows, size, vocabulary, chunk) = (768, 8, 8000, 16);
    let case = case(rows, size, vocabulary, 5);
    let most = |run: &dyn Fn()| {
        let before = NOW.load(Relaxed);
        MOST.store(before, Relaxed);
        run();
        MOST.load(Relaxed) - before
    };
    case.chunked(1.0, chunk); // what the libraries allocate once
    let logits = 4 * vocabulary * case.mask.iter().filter(|m| **m).count();
    let found = most(&|| drop(case.chunked(1.0, chunk)));
    // A quarter of the logits of all rows, though it holds gradients of the weight besides its chunk of logits.
    assert!(found < logits / 4, "{found} bytes, all logits are {logits}");
    // The count sees the whole where there is one chunk.
    let whole = most(&|| drop(case.chunked(1.0, rows)));
    assert!(whole > logits, "{whole} bytes, all logits are {logits}");
}

#[test]
fn bf16_logits_are_rounded_once() {
    let _alone = ALONE.lock();
    let narrow: Vec<bf16> = numbers(3 * 50, 9).iter().map(|a| bf16::from_f32(4.0 * a)).collect();
    let logits = Var::from_tensor(&Tensor::from_slice(&narrow, (3, 50), &Device::Cpu).unwrap()).unwrap();
    let scores = masked_log_probs(&logits, &[3, 49, 99], Some(&[true, true, false]), 0.8).unwrap();
    let upstream = Tensor::new(&[[0.5f32, 0.1], [-1.0, 0.2], [f32::NAN, 1.0]], &Device::Cpu).unwrap();
    let values = scores.to_vec2::<f32>().unwrap();
    let store = (&scores * upstream).unwrap().sum_all().unwrap().backward().unwrap();
    let d = store.get(&logits).unwrap();
    assert_eq!(d.dtype(), DType::BF16);
    let d = d.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
    for (r, (target, [g, h])) in [(3, [0.5, 0.1]), (49, [-1.0, 0.2])].into_iter().enumerate() {
        let row: Vec<f64> = narrow[50 * r..][..50].iter().map(|a| a.to_f64()).collect();
        let exact = logit_row(&row, target, 0.8, g, f64::from(h as f32));
        close("scores", &values[r], &[exact.logp, exact.entropy], 1e-5);
        for (found, e) in d[r].iter().zip(exact.grad) {
            assert!((f64::from(*found) - e).abs() <= e.abs() / 256.0 + 1e-6, "{found}, expected {e}");
        }
    }
    assert!(d[2].iter().all(|d| d.to_bits() == 0) && values[2] == [0.0, 0.0]);
}
