//! Every fused operation against the same function composed of plain candle operations in f64: values and
//! gradients within 1e-5 of the largest, and gradients against finite differences. Shapes are odd on purpose.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use moe_routing::reference::Layer;
use moe_routing::{Dispatch, Router};
use ndarray::{Array2, Array3};
use qwen3::MatmulPrecision;
use qwen3::kernel::attention::HeadShape;
use qwen3::kernel::rope::RopeTable;
use qwen3::ops::{
    Attention, ExpertsDown, ExpertsUp, GatherRows, HeadLogProbs, LayerNorm, Linear, QkNormRope, RmsNorm,
    Segments, SwiGlu,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers that are the same in f32 and f64.
fn numbers(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| f64::from(rng.random_range(-1.0f32..1.0))).collect()
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-5 * scale, "{what}[{i}]: {f}, expected {e} (largest {scale})");
    }
}

/// `Σ c · y` and the gradients of all inputs.
fn evaluate(
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[(Vec<f64>, Vec<usize>)],
    dtype: DType,
    coefficients: &[f64],
) -> Result<(Vec<f64>, f64, Vec<Vec<f64>>)> {
    let var = |(values, shape): &(Vec<f64>, Vec<usize>)| {
        Var::from_tensor(&Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?)
    };
    let vars: Vec<Var> = inputs.iter().map(var).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    let c = Tensor::from_vec(coefficients[..y.elem_count()].to_vec(), y.shape(), &Device::Cpu)?
        .to_dtype(dtype)?;
    let loss = (&y * c)?.sum_all()?;
    let store = loss.backward()?;
    let gradients = vars.iter().map(|v| flat(store.get(v.as_tensor()).unwrap())).collect();
    Ok((flat(&y), flat(&loss)[0], gradients))
}

#[track_caller]
fn check(
    what: &str,
    inputs: &[(Vec<f64>, Vec<usize>)],
    fused: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    composed: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    let coefficients = numbers(&mut rng, 8192);
    let (y, _, gradients) = evaluate(fused, inputs, DType::F32, &coefficients).unwrap();
    let (expected, _, expected_gradients) = evaluate(composed, inputs, DType::F64, &coefficients).unwrap();
    close(what, &y, &expected);
    for (input, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        close(&format!("{what}, gradient of input {input}"), found, expected);
        let scale = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        for _ in 0..4 {
            let entry = rng.random_range(0..found.len());
            let at = |step: f64| {
                let mut moved = inputs.to_vec();
                moved[input].0[entry] += step;
                evaluate(composed, &moved, DType::F64, &coefficients).unwrap().1
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (found[entry] - slope).abs() <= 1e-5 * scale,
                "{what}, input {input}: {} and {slope}",
                found[entry]
            );
        }
    }
}

fn input(rng: &mut ChaCha8Rng, shape: &[usize]) -> (Vec<f64>, Vec<usize>) {
    (numbers(rng, shape.iter().product()), shape.to_vec())
}

fn rms(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let rstd = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&rstd)?.broadcast_mul(w)
}

#[test]
fn linear() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (m, k, n) in [(1, 1, 1), (3, 7, 5), (65, 17, 9), (130, 33, 12)] {
        let inputs = [input(&mut rng, &[m, k]), input(&mut rng, &[n, k])];
        check(&format!("linear {m}x{k}x{n}"), &inputs, &|t| t[0].apply_op2(&t[1], Linear::default()), &|t| {
            t[0].matmul(&t[1].t()?)
        });
    }
}

#[test]
fn rms_norm() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (rows, n) in [(1, 1), (3, 7), (65, 8), (67, 19)] {
        let inputs = [input(&mut rng, &[rows, n]), input(&mut rng, &[n])];
        check(
            &format!("rms-norm {rows}x{n}"),
            &inputs,
            &|t| t[0].apply_op2(&t[1], RmsNorm { eps: 1e-3 }),
            &|t| rms(&t[0], &t[1], f64::from(1e-3f32)),
        );
    }
}

#[test]
fn swiglu() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (rows, n) in [(1, 1), (3, 7), (65, 9)] {
        let inputs = [input(&mut rng, &[rows, 2 * n])];
        check(&format!("swiglu {rows}x{n}"), &inputs, &|t| t[0].apply_op1(SwiGlu), &|t| {
            t[0].narrow(1, 0, n)?.silu()? * t[0].narrow(1, n, n)?
        });
    }
}

#[test]
fn gather_rows() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let rows: Vec<u32> = vec![4, 0, 4, 2, 4, 1];
    let inputs = [input(&mut rng, &[5, 3])];
    let index = Tensor::new(rows.as_slice(), &Device::Cpu).unwrap();
    check("gather-rows", &inputs, &|t| t[0].apply_op1(GatherRows { rows: rows.clone().into() }), &|t| {
        t[0].index_select(&index, 0)
    });
}

/// Rotation of `[rows, heads, d]`, half-split pairing.
fn rotate(x: &Tensor, positions: &[u32], theta: f64) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let angles: Vec<f64> = positions
        .iter()
        .flat_map(|p| (0..half).map(move |i| f64::from(*p) * theta.powf(-(i as f64) / half as f64)))
        .collect();
    let angles = Tensor::from_vec(angles, (positions.len(), 1, half), &Device::Cpu)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
    let second = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)
}

#[test]
fn qk_norm_rope() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (heads, kv, half, rows) in [(1, 1, 1, 1), (6, 2, 3, 5), (3, 3, 4, 66)] {
        let (d, eps) = (2 * half, 1e-4f32);
        let shape = HeadShape { query_heads: heads, kv_heads: kv, head_dim: d };
        let positions: Vec<u32> = (0..rows as u32).map(|r| (r * 7) % 31).collect();
        let op = QkNormRope {
            shape,
            eps,
            table: Arc::new(RopeTable::new(d, 100.0, 31)),
            positions: positions.clone().into(),
        };
        let composed = |t: &[Tensor]| -> Result<Tensor> {
            let part = |from: usize, count: usize, norm: Option<&Tensor>| -> Result<Tensor> {
                let x = t[0].narrow(1, from * d, count * d)?.reshape((rows, count, d))?;
                let x = norm.map_or(Ok(x.clone()), |w| rms(&x, w, f64::from(eps)))?;
                rotate(&x, &positions, 100.0)?.reshape((rows, count * d))
            };
            let values = t[0].narrow(1, (heads + kv) * d, kv * d)?;
            Tensor::cat(&[part(0, heads, t.get(1))?, part(heads, kv, t.get(2))?, values], 1)
        };
        let x = input(&mut rng, &[rows, (heads + 2 * kv) * d]);
        let inputs = [x.clone(), input(&mut rng, &[d]), input(&mut rng, &[d])];
        check("qk-norm-rope", &inputs, &|t| t[0].apply_op3(&t[1], &t[2], op.clone()), &composed);
        check("qk-rope", &[x], &|t| t[0].apply_op1(op.clone()), &composed);
    }
}

/// In bf16 an operation gives what its `f32` form gives for operands that are rounded already, its gradients included.
#[test]
fn products_in_bf16() {
    let rounded = |t: &Tensor| t.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let close = |what: &str, found: &Tensor, wanted: &Tensor, size: f32| {
        for (i, (f, w)) in values(found).into_iter().zip(values(wanted)).enumerate() {
            assert!((f - w).abs() <= size * (1.0 + w.abs()), "{what}[{i}]: {f}, expected {w}");
        }
    };
    for (m, k, n) in [(1, 3, 2), (30, 65, 50), (13, 1030, 33)] {
        let mut random = |dims: &[usize]| {
            let (values, shape) = input(&mut rng, dims);
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let (x, w, up) = (random(&[m, k]), random(&[n, k]), random(&[m, n]));
        let run = |x: &Tensor, w: &Tensor, up: &Tensor, precision: MatmulPrecision| {
            let (x, w) = (Var::from_tensor(x).unwrap(), Var::from_tensor(w).unwrap());
            let y = x.apply_op2(&w, Linear { precision }).unwrap();
            let store = (&y * up).unwrap().sum_all().unwrap().backward().unwrap();
            (y, store.get(&x).unwrap().clone(), store.get(&w).unwrap().clone())
        };
        let found = run(&x, &w, &up, MatmulPrecision::Bf16);
        let wanted = run(&rounded(&x), &rounded(&w), &rounded(&up), MatmulPrecision::F32);
        close("y", &found.0, &wanted.0, 1e-5);
        close("dx", &found.1, &wanted.1, 1e-5);
        close("dw", &found.2, &wanted.2, 1e-5);

        let targets: Arc<[u32]> = (0..m as u32).map(|r| r * 7 % n as u32).collect();
        let head = |y: &Tensor, w: &Tensor, precision: MatmulPrecision| {
            let (y, w) = (Var::from_tensor(y).unwrap(), Var::from_tensor(w).unwrap());
            let op = HeadLogProbs::new(targets.clone(), 0.7, 11, precision);
            let out = y.apply_op2(&w, op).unwrap();
            let store = out.sum_all().unwrap().backward().unwrap();
            (out, store.get(&y).unwrap().clone(), store.get(&w).unwrap().clone())
        };
        let found = head(&x, &w, MatmulPrecision::Bf16);
        let wanted = head(&rounded(&x), &rounded(&w), MatmulPrecision::F32);
        close("log-probs", &found.0, &wanted.0, 1e-4);
        // The gradient of the logits is rounded too.
        let size = |t: &Tensor| values(t).into_iter().fold(0f32, |m, v| m.max(v.abs()));
        close("dy", &found.1, &wanted.1, 1e-2 * size(&wanted.1));
        close("dw of the head", &found.2, &wanted.2, 1e-2 * size(&wanted.2));
    }
}

/// Where heads follow axes, a query head turns as the key/value head that serves it does.
#[test]
fn rotation_by_head() {
    use mrope::{Allocation, Frequencies, Positions};
    let shape = HeadShape { query_heads: 4, kv_heads: 2, head_dim: 6 };
    let positions = Positions::from_axes(vec![vec![3.0], vec![5.0], vec![9.0]]).unwrap();
    let by_head = Allocation::PerHead { sections: vec![1, 1], kv_heads: 2 };
    let frequencies = Frequencies::new(100.0, 6).unwrap();
    let table = RopeTable::of_tokens(&positions, &by_head, &frequencies).unwrap();
    let values: Vec<f32> = (0..48).map(|i| (i as f32).cos()).collect();
    let x = Tensor::from_vec(values, (1, 48), &Device::Cpu).unwrap();
    let turned = |table: RopeTable, position: u32| -> Vec<Vec<f32>> {
        let op = QkNormRope { shape, eps: 0.0, table: Arc::new(table), positions: [position].into() };
        let y = x.apply_op1(op).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        y.chunks(6).map(<[f32]>::to_vec).collect()
    };
    let (found, plain) = (turned(table, 0), |p| turned(RopeTable::new(6, 100.0, 10), p));
    // Query heads 0 and 1 and key head 0 (the fifth) follow time, the others rows; values do not turn.
    let (time, rows) = (plain(3), plain(5));
    for head in 0..8 {
        let expected = if [0, 1, 4].contains(&head) { &time } else { &rows };
        assert_eq!(found[head], expected[head], "head {head}");
    }
}

#[test]
fn causal_attention() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let alone = |n: usize| vec![None; n];
    for (heads, kv, d, lengths, prefixes) in [
        (1, 1, 1, vec![1], alone(1)),
        (4, 2, 3, vec![3, 0, 5], alone(3)),
        (3, 1, 8, vec![1, 70, 2], alone(3)),
        (2, 1, 4, vec![3, 2, 0, 4], vec![None, Some(0), Some(0), Some(0)]),
        (4, 2, 3, vec![60, 9, 3, 40, 30, 5], vec![None, Some(0), Some(0), None, Some(3), None]),
        // Longer than the tiles of the backward, prefix and rows.
        (2, 1, 4, vec![270, 70, 10, 130], vec![None, Some(0), Some(0), None]),
    ] {
        let shape = HeadShape { query_heads: heads, kv_heads: kv, head_dim: d };
        let mut ends = vec![0u32];
        lengths.iter().for_each(|n| ends.push(ends[ends.len() - 1] + *n));
        let rows = ends[ends.len() - 1] as usize;
        let segment = |row: u32| ends.iter().filter(|e| **e <= row).count() - 1;
        let sees = |i: u32, j: u32| {
            j <= i && (segment(i) == segment(j) || prefixes[segment(i)] == Some(segment(j) as u32))
        };
        let mask: Vec<f64> = (0..rows as u32)
            .flat_map(|i| (0..rows as u32).map(move |j| (i, j)))
            .map(|(i, j)| if sees(i, j) { 0.0 } else { -1e30 })
            .collect();
        let mask = Tensor::from_vec(mask, (rows, rows), &Device::Cpu).unwrap();
        let composed = |t: &[Tensor]| -> Result<Tensor> {
            let head = |at: usize| t[0].narrow(1, at * d, d)?.contiguous();
            let outs: Vec<Tensor> = (0..heads)
                .map(|h| {
                    let shared = h / (heads / kv);
                    let (q, k, v) = (head(h)?, head(heads + shared)?, head(heads + kv + shared)?);
                    let scores = ((q.matmul(&k.t()?)? * (1.0 / (d as f64).sqrt()))? + &mask)?;
                    let e = scores.broadcast_sub(&scores.max_keepdim(1)?.detach())?.exp()?;
                    e.broadcast_div(&e.sum_keepdim(1)?)?.matmul(&v)
                })
                .collect::<Result<_>>()?;
            Tensor::cat(&outs, 1)
        };
        let inputs = [input(&mut rng, &[rows, (heads + 2 * kv) * d])];
        let fused = |t: &[Tensor]| t[0].apply_op1(Attention::causal(shape, Segments::new(&ends, &prefixes)));
        check(&format!("attention {heads}/{kv} d{d} {lengths:?} {prefixes:?}"), &inputs, &fused, &composed);
    }
    // Prefixes that are not there, are not neighbours, or continue others; ends that fall.
    let shape = HeadShape { query_heads: 1, kv_heads: 1, head_dim: 2 };
    let qkv = Tensor::zeros((6, 6), DType::F32, &Device::Cpu).unwrap();
    for (ends, prefixes) in [
        (&[0u32, 3, 6][..], vec![None, Some(7)]),
        (&[0, 3, 6], vec![Some(1), None]),
        (&[0, 2, 4, 6], vec![None, None, Some(0)]),
        (&[0, 2, 4, 6], vec![None, Some(0), Some(1)]),
        (&[0, 4, 3, 6], vec![None; 3]),
        (&[0, 3, 5], vec![None; 2]),
    ] {
        let op = Attention::causal(shape, Segments::new(ends, &prefixes));
        let error = qkv.apply_op1(op).unwrap_err().to_string();
        assert!(error.contains("or are not in order"), "{ends:?} {prefixes:?}: {error}");
    }
}

/// Segments of one row, of many rows, and none; heads of 4, 64 and 72 lanes.
#[test]
fn full_attention() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for (heads, d, lengths) in [
        (1, 4, vec![1u32]),
        (3, 4, vec![5, 0, 1, 7]),
        (2, 64, vec![3, 4]),
        (1, 72, vec![70, 2]),
        (1, 5, vec![300]),
    ] {
        let ends: Vec<u32> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |end, n| {
                *end += n;
                Some(*end)
            }))
            .collect();
        let rows = ends[ends.len() - 1] as usize;
        let composed = |t: &[Tensor]| -> Result<Tensor> {
            let mut segments = Vec::new();
            for w in ends.windows(2).filter(|w| w[0] < w[1]) {
                let x = t[0].narrow(0, w[0] as usize, (w[1] - w[0]) as usize)?;
                let head = |at: usize| x.narrow(1, at * d, d)?.contiguous();
                let outs: Vec<Tensor> = (0..heads)
                    .map(|h| {
                        let scores = (head(h)?.matmul(&head(heads + h)?.t()?)? * (1.0 / (d as f64).sqrt()))?;
                        let e = scores.broadcast_sub(&scores.max_keepdim(1)?.detach())?.exp()?;
                        e.broadcast_div(&e.sum_keepdim(1)?)?.matmul(&head(2 * heads + h)?)
                    })
                    .collect::<Result<_>>()?;
                segments.push(Tensor::cat(&outs, 1)?);
            }
            Tensor::cat(&segments, 0)
        };
        let inputs = [input(&mut rng, &[rows, 3 * heads * d])];
        let shape = HeadShape { query_heads: heads, kv_heads: heads, head_dim: d };
        let fused = |t: &[Tensor]| t[0].apply_op1(Attention::full(shape, Segments::new(&ends, &[])));
        check(&format!("full attention {heads} d{d} {lengths:?}"), &inputs, &fused, &composed);
    }
}

#[test]
fn layer_norm() {
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    for (rows, n) in [(1, 2), (3, 7), (65, 8), (67, 19)] {
        let inputs = [input(&mut rng, &[rows, n]), input(&mut rng, &[n]), input(&mut rng, &[n])];
        let eps = 1e-3f32;
        let composed = |t: &[Tensor]| -> Result<Tensor> {
            let centred = t[0].broadcast_sub(&t[0].mean_keepdim(D::Minus1)?)?;
            let std = (centred.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
            centred.broadcast_div(&std)?.broadcast_mul(&t[1])?.broadcast_add(&t[2])
        };
        let fused = |t: &[Tensor]| t[0].apply_op3(&t[1], &t[2], LayerNorm { eps });
        check(&format!("layer-norm {rows}x{n}"), &inputs, &fused, &composed);
    }
}

#[test]
fn head_log_probs() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for (rows, n, vocabulary, temperature, chunk) in
        [(1, 1, 1, 1.0f32, 1), (7, 5, 13, 0.5, 3), (66, 9, 17, 1.25, 1024), (9, 3, 2500, 1.0, 4)]
    {
        let targets: Vec<u32> = (0..rows as u32).map(|r| (r * 5) % vocabulary as u32).collect();
        let index = Tensor::from_vec(targets.clone(), (rows, 1), &Device::Cpu).unwrap();
        let composed = |t: &[Tensor]| -> Result<Tensor> {
            let z = (t[0].matmul(&t[1].t()?)? / f64::from(temperature))?;
            let top = z.max_keepdim(1)?.detach();
            let lse = (z.broadcast_sub(&top)?.exp()?.sum_keepdim(1)?.log()? + top)?;
            let log_p = z.broadcast_sub(&lse)?;
            let entropy = (log_p.exp()? * &log_p)?.sum_keepdim(1)?.neg()?;
            Tensor::cat(&[log_p.gather(&index, 1)?, entropy], 1)
        };
        let inputs = [input(&mut rng, &[rows, n]), input(&mut rng, &[vocabulary, n])];
        check(
            "head",
            &inputs,
            &|t| {
                let op = HeadLogProbs::new(targets.clone().into(), temperature, chunk, MatmulPrecision::F32);
                t[0].apply_op2(&t[1], op)
            },
            &composed,
        );
    }
}

/// Banned tokens take no part: the head over the other rows of the matrix, and no gradient for theirs.
#[test]
fn masked_head_log_probs() {
    struct Odd;
    impl qwen3::ops::LogitMask for Odd {
        fn ban(&self, row: usize, first: usize, logits: &mut [f32]) {
            // The second row is free; the others lose two tokens of three.
            let banned = |v: usize| row != 1 && (first + v) % 3 != row % 3;
            logits
                .iter_mut()
                .enumerate()
                .filter(|(v, _)| banned(*v))
                .for_each(|(_, z)| *z = f32::NEG_INFINITY);
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    for (rows, n, vocabulary, chunk) in [(1, 1, 4, 1), (7, 5, 13, 3), (66, 9, 17, 1024), (9, 3, 2500, 4)] {
        let targets: Vec<u32> = (0..rows as u32).map(|r| r % 3 + 3 * (r % (vocabulary as u32 / 3))).collect();
        let index = Tensor::from_vec(targets.clone(), (rows, 1), &Device::Cpu).unwrap();
        let kept = |r: usize, v: usize| if r == 1 || v % 3 == r % 3 { 1f64 } else { 0.0 };
        let kept: Vec<f64> = (0..rows * vocabulary).map(|i| kept(i / vocabulary, i % vocabulary)).collect();
        let kept = Tensor::from_vec(kept, (rows, vocabulary), &Device::Cpu).unwrap();
        let composed = |t: &[Tensor]| -> Result<Tensor> {
            let z = (t[0].matmul(&t[1].t()?)? / 0.8)?;
            let kept = kept.to_dtype(z.dtype())?;
            let top = z.max_keepdim(1)?.detach();
            let lse = ((z.broadcast_sub(&top)?.exp()? * &kept)?.sum_keepdim(1)?.log()? + top)?;
            let log_p = z.broadcast_sub(&lse)?;
            let entropy = ((log_p.exp()? * &log_p)? * &kept)?.sum_keepdim(1)?.neg()?;
            Tensor::cat(&[log_p.gather(&index, 1)?, entropy], 1)
        };
        let op = || {
            HeadLogProbs::new(targets.clone().into(), 0.8, chunk, MatmulPrecision::F32)
                .masked(Some(Arc::new(Odd)))
        };
        let inputs = [input(&mut rng, &[rows, n]), input(&mut rng, &[vocabulary, n])];
        check("masked head", &inputs, &|t| t[0].apply_op2(&t[1], op()), &composed);
    }
}

/// Router, gates and both halves of the experts against the definition of a layer (which `moe-routing` checks
/// against finite differences).
#[test]
fn experts() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let router = Router::SoftmaxTopK { renorm: true };
    for (tokens, experts, k, hidden, inner) in [(1, 1, 1, 1, 1), (5, 4, 2, 3, 7), (70, 9, 3, 11, 5)] {
        let x = input(&mut rng, &[tokens, hidden]);
        let inputs = [
            x,
            input(&mut rng, &[experts, hidden]),
            input(&mut rng, &[experts, 2 * inner, hidden]),
            input(&mut rng, &[experts, hidden, inner]),
        ];
        // Recorded ids, of which the last expert is never one where there is a choice.
        let ids: Vec<u32> = (0..tokens)
            .flat_map(|t| (0..k).map(move |s| ((t + 2 * s) % experts.saturating_sub(1).max(1)) as u32))
            .collect();
        let dispatch = Arc::new(Dispatch::new(&ids, tokens, experts, k).unwrap());
        let fused = |t: &[Tensor]| -> Result<Tensor> {
            let logits = t[0].apply_op2(&t[1], Linear::default())?;
            let gates = moe_routing::op::gates(&logits, &ids, k, &router)?;
            let h = t[0].apply_op2(&t[2], ExpertsUp::new(dispatch.clone(), MatmulPrecision::F32))?;
            h.apply_op3(&t[3], &gates, ExpertsDown::new(dispatch.clone(), MatmulPrecision::F32))
        };
        let dy = numbers(&mut rng, tokens * hidden);
        let (y, _, gradients) = evaluate(&fused, &inputs, DType::F32, &dy).unwrap();

        let matrix = |i: usize, rows: usize| {
            Array2::from_shape_vec((rows, inputs[i].0.len() / rows), inputs[i].0.clone()).unwrap()
        };
        let layer = Layer {
            router: matrix(1, experts),
            gate_up: Array3::from_shape_vec((experts, 2 * inner, hidden), inputs[2].0.clone()).unwrap(),
            down: Array3::from_shape_vec((experts, hidden, inner), inputs[3].0.clone()).unwrap(),
        };
        let x = matrix(0, tokens);
        let dy = Array2::from_shape_vec((tokens, hidden), dy).unwrap();
        let out = layer.forward(&x, k, &router, Some(&ids)).unwrap();
        let want = layer.backward(&x, k, &router, &out, &dy).unwrap();
        close("experts", &y, out.y.as_slice().unwrap());
        let want = [
            ("x", want.x.as_slice()),
            ("router", want.router.as_slice()),
            ("gate_up", want.gate_up.as_slice()),
            ("down", want.down.as_slice()),
        ];
        for ((name, want), found) in want.into_iter().zip(&gradients) {
            close(&format!("experts, gradient of {name}"), found, want.unwrap());
        }
        if experts > 1 {
            for found in &gradients[2..] {
                let size = found.len() / experts;
                assert!(found[(experts - 1) * size..].iter().all(|d| *d == 0.0), "an expert without a token");
            }
        }
    }
}

/// With experts that are the identity and gates that add up to 1, dispatch and combine give back what went in.
#[test]
fn dispatch_and_combine_are_inverse() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let (tokens, experts, k, hidden) = (67, 7, 3, 5);
    let logits: Vec<f32> = (0..tokens * experts).map(|_| rng.random_range(-2.0..2.0)).collect();
    let router = Router::SoftmaxTopK { renorm: true };
    let ids = moe_routing::top_k(&logits, experts, k, &router).unwrap();
    let gates = moe_routing::gates(&logits, experts, &ids, k, &router).unwrap();
    let dispatch = Dispatch::new(&ids, tokens, experts, k).unwrap();
    let x: Vec<f32> = (0..tokens * hidden).map(|_| rng.random_range(-1.0..1.0)).collect();
    let permuted: Vec<f32> =
        dispatch.token_of().iter().flat_map(|t| x[*t as usize * hidden..][..hidden].to_vec()).collect();
    let mut y = vec![f32::NAN; x.len()];
    qwen3::kernel::experts::combine(&permuted, &gates, &dispatch, hidden, &mut y);
    assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-6));
}
