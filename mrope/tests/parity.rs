//! The candle operations against the definition, forward and gradient, over random shapes and layouts.
#![allow(missing_docs, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use mrope::{
    Allocation, Frequencies, Heads, Pairing, Positions, RotaryTable, Yarn, apply, apply_inplace,
    apply_packed_qk, reference,
};
use ndarray::{Array3, s};
use proptest::prelude::*;

const CPU: Device = Device::Cpu;

/// A table, what defines it, and the shape of a tensor that it rotates.
#[derive(Clone, Debug)]
struct Case {
    positions: Positions,
    allocation: Allocation,
    frequencies: Frequencies,
    pairing: Pairing,
    heads: Heads,
    head_dim: usize,
    seed: u32,
}

impl Case {
    fn table(&self) -> RotaryTable {
        RotaryTable::new(&self.positions, &self.allocation, &self.frequencies, &CPU)
            .unwrap()
            .with_pairing(self.pairing)
    }

    fn tokens(&self) -> usize {
        self.positions.len()
    }

    fn values(&self, heads: usize, seed: u32) -> Array3<f64> {
        let seed = f64::from(seed ^ self.seed);
        Array3::from_shape_fn((self.tokens(), heads, self.head_dim), |(t, h, d)| {
            // Exact in f32: the comparison is of the rotation alone.
            f64::from((f64::sin(seed + 7.3 * t as f64 + 1.9 * h as f64 + 0.7 * d as f64) * 2.0) as f32)
        })
    }

    fn defined(&self, x: &Array3<f64>) -> Array3<f64> {
        let (cos, sin) = self.angles(x.dim().1);
        reference::rotate(x.view(), cos.view(), sin.view(), self.pairing)
    }

    fn defined_adjoint(&self, dy: &Array3<f64>) -> Array3<f64> {
        let (cos, sin) = self.angles(dy.dim().1);
        reference::rotate_adjoint(dy.view(), cos.view(), sin.view(), self.pairing)
    }

    fn angles(&self, heads: usize) -> (Array3<f64>, Array3<f64>) {
        reference::cos_sin(&self.positions, &self.allocation, &self.frequencies, heads).unwrap()
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let sections =
        prop::collection::vec(0usize..8, 3).prop_filter("no pairs", |s| s.iter().sum::<usize>() > 0);
    let allocation = (sections, 0usize..5, 1usize..4).prop_map(|(sections, kind, left)| {
        let pairs: usize = sections.iter().sum();
        let three = [sections[0], sections[1], sections[2]];
        match kind {
            0 => (Allocation::OneAxis, pairs, 1),
            1 => (Allocation::Chunked(sections), pairs, 1),
            2 => (Allocation::Interleaved(Allocation::clipped_interleaved(three, pairs)), pairs, 1),
            3 => (Allocation::SpatialHigh { sections: three, rotate_time: false }, pairs, 1),
            _ => {
                let sections: Vec<usize> = sections.iter().map(|s| s % 3).collect();
                let kv_heads = sections.iter().sum::<usize>() + left;
                (Allocation::PerHead { sections, kv_heads }, pairs, kv_heads)
            }
        }
    });
    let coordinate = || prop_oneof![-900i32..900].prop_map(|c| f64::from(c) / 4.0);
    (allocation, 0usize..5, 1usize..4, 0usize..12, any::<bool>(), any::<bool>(), any::<u32>()).prop_flat_map(
        move |((allocation, pairs, kv), tail, group, tokens, adjacent, yarn, seed)| {
            let plain = Frequencies::new(1e4, 2 * pairs).unwrap();
            let stretched = plain.clone().yarn(&Yarn { truncate: false, ..Yarn::new(3.0, 4096.0) });
            let frequencies = if yarn { stretched.unwrap_or(plain) } else { plain };
            let pairing = if adjacent { Pairing::Adjacent } else { Pairing::HalfSplit };
            prop::collection::vec(prop::collection::vec(coordinate(), tokens), 3).prop_map(move |axes| Case {
                positions: Positions::from_axes(axes).unwrap(),
                allocation: allocation.clone(),
                frequencies: frequencies.clone(),
                pairing,
                heads: Heads { query: group * kv, kv },
                head_dim: 2 * pairs + tail,
                seed,
            })
        },
    )
}

fn tensor(x: &Array3<f64>, dtype: DType) -> Tensor {
    let values: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    Tensor::from_vec(values, x.dim(), &CPU).unwrap().to_dtype(dtype).unwrap()
}

fn floats(x: &Tensor) -> Vec<f32> {
    if x.elem_count() == 0 {
        return Vec::new();
    }
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Equal bit by bit.
fn same(a: &Tensor, b: &Tensor) -> bool {
    let bits = |x: &Tensor| -> Vec<u32> { floats(x).into_iter().map(f32::to_bits).collect() };
    a.dims() == b.dims() && bits(a) == bits(b)
}

fn close(got: &Tensor, want: &Array3<f64>, tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.dims3().unwrap(), want.dim());
    for (g, w) in floats(got).iter().zip(want) {
        prop_assert!((f64::from(*g) - w).abs() <= tolerance * w.abs().max(1.0), "{} against {}", g, w);
    }
    Ok(())
}

/// Queries, keys and values in one tensor.
fn joined(parts: &[&Array3<f64>]) -> Array3<f64> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    ndarray::concatenate(ndarray::Axis(1), &views).unwrap()
}

proptest! {
    /// P3, and the forward pass: coordinates below 1000 keep the f32 angles within 1e-4 of the exact ones.
    #[test]
    fn rotation_and_its_gradient_are_as_defined(case in cases()) {
        let table = case.table();
        for heads in [case.heads.query, case.heads.kv] {
            let (x, g) = (case.values(heads, 1), case.values(heads, 2));
            let var = Var::from_tensor(&tensor(&x, DType::F32)).unwrap();
            let y = apply(&var, &table).unwrap();
            close(&y, &case.defined(&x), 1e-4)?;
            let loss = (y * tensor(&g, DType::F32)).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            close(gradients.get(&var).unwrap(), &case.defined_adjoint(&g), 1e-4)?;
        }
    }

    /// Queries and keys at once, with and without values, which pass through.
    #[test]
    fn packed_rotation_is_the_parts(case in cases(), with_values: bool) {
        let (table, Heads { query, kv }) = (case.table(), case.heads);
        let (q, k, v) = (case.values(query, 1), case.values(kv, 2), case.values(kv, 3));
        let parts: &[&Array3<f64>] = if with_values { &[&q, &k, &v] } else { &[&q, &k] };
        let x = tensor(&joined(parts), DType::F32);
        let var = Var::from_tensor(&x).unwrap();
        let y = apply_packed_qk(&var, case.heads, &table).unwrap();
        prop_assert!(same(&y.narrow(1, 0, query).unwrap(), &apply(&tensor(&q, DType::F32), &table).unwrap()));
        prop_assert!(same(&y.narrow(1, query, kv).unwrap(), &apply(&tensor(&k, DType::F32), &table).unwrap()));
        let g = joined(&parts.iter().map(|p| p.mapv(|v| 0.5 - v)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
        let loss = (&y * tensor(&g, DType::F32)).unwrap().sum_all().unwrap();
        let gradient = loss.backward().unwrap().get(&var).unwrap().clone();
        let of = |from: usize, len: usize| g.slice(s![.., from..from + len, ..]).to_owned();
        close(&gradient.narrow(1, 0, query).unwrap(), &case.defined_adjoint(&of(0, query)), 1e-4)?;
        close(&gradient.narrow(1, query, kv).unwrap(), &case.defined_adjoint(&of(query, kv)), 1e-4)?;
        if with_values {
            let values = |x: &Tensor| x.narrow(1, query + kv, kv).unwrap();
            prop_assert!(same(&values(&y), &values(&x)));
            prop_assert!(same(&values(&gradient), &tensor(&of(query + kv, kv), DType::F32)));
        }
    }

    /// P19: one set of bits, whatever the layout, in place or not, in the element types' own rounding.
    #[test]
    fn layouts_agree_bit_by_bit(case in cases(), margin in 0usize..3, kind in 0usize..3) {
        let dtype = [DType::F32, DType::BF16, DType::F16][kind];
        let (table, heads) = (case.table(), case.heads.query + case.heads.kv);
        let (tokens, d) = (case.tokens(), case.head_dim);
        let x = tensor(&case.values(heads, 1), dtype);
        let want = apply_packed_qk(&x, case.heads, &table).unwrap();
        prop_assert_eq!(want.dtype(), dtype);
        let head_major = |x: &Tensor| x.reshape((1, tokens, heads, d)).unwrap().transpose(1, 2).unwrap();
        let back = |x: &Tensor| x.transpose(1, 2).unwrap().reshape((tokens, heads, d)).unwrap();

        let out = apply_packed_qk(&head_major(&x), case.heads, &table).unwrap();
        prop_assert!(out.is_contiguous());
        prop_assert!(same(&back(&out), &want));
        let out = apply_packed_qk(&head_major(&x).contiguous().unwrap(), case.heads, &table).unwrap();
        prop_assert!(same(&back(&out), &want));

        // A view of wider storage: more lanes, more heads.
        let margin = margin + 1;
        let lanes = Tensor::zeros((tokens, heads, margin), dtype, &CPU).unwrap();
        let lanes = Tensor::cat(&[&lanes, &x], 2).unwrap();
        let view = |x: &Tensor| x.narrow(2, margin, d).unwrap();
        prop_assert!(same(&apply_packed_qk(&view(&lanes), case.heads, &table).unwrap(), &want));

        let wide = Tensor::ones((tokens, margin, d), dtype, &CPU).unwrap();
        let wide = Tensor::cat(&[&x, &wide], 1).unwrap();
        apply_inplace(&wide.narrow(1, 0, heads).unwrap(), case.heads, &table).unwrap();
        prop_assert!(same(&wide.narrow(1, 0, heads).unwrap(), &want));
        let rest = wide.narrow(1, heads, margin).unwrap();
        prop_assert!(same(&rest, &rest.ones_like().unwrap()), "memory beside the view is not touched");

        let untracked = x.copy().unwrap();
        apply_inplace(&head_major(&untracked), case.heads, &table).unwrap();
        prop_assert!(same(&untracked, &want));
        let contiguous = head_major(&x).contiguous().unwrap();
        apply_inplace(&contiguous, case.heads, &table).unwrap();
        prop_assert!(same(&back(&contiguous), &want));
    }

    /// Sixteen-bit lanes are the f32 rotation of their values, rounded once; lanes that do not rotate keep their bits.
    #[test]
    fn sixteen_bits_are_rounded_once(case in cases(), bf16: bool) {
        let dtype = if bf16 { DType::BF16 } else { DType::F16 };
        let table = case.table();
        let x = tensor(&case.values(case.heads.query, 1), dtype);
        let want = apply(&x.to_dtype(DType::F32).unwrap(), &table).unwrap().to_dtype(dtype).unwrap();
        prop_assert!(same(&apply(&x, &table).unwrap(), &want));
    }

    /// A batch in rows: tokens in the order batch, sequence, each row at places of its own.
    #[test]
    fn a_batch_is_its_rows(case in cases(), batch in 1usize..4) {
        let (tokens, heads, d) = (case.tokens(), case.heads.query, case.head_dim);
        let row = |row: usize| -> Vec<Vec<f64>> {
            let moved = |axis: &Vec<f64>| axis.iter().map(|c| c + 3.0 * row as f64).collect();
            case.positions.axes().iter().map(moved).collect()
        };
        let of = |axes| Case { positions: Positions::from_axes(axes).unwrap(), ..case.clone() };
        let all = of((0..3).map(|axis| (0..batch).flat_map(|r| row(r)[axis].clone()).collect()).collect());
        let x = tensor(&all.values(heads, 1), DType::F32);
        let rows = x.reshape((batch, tokens, heads, d)).unwrap().transpose(1, 2).unwrap();
        let out = apply(&rows, &all.table()).unwrap();
        for r in 0..batch {
            let one = apply(&x.narrow(0, r * tokens, tokens).unwrap(), &of(row(r)).table()).unwrap();
            prop_assert!(same(&out.get(r).unwrap().transpose(0, 1).unwrap(), &one));
        }
    }

    /// A prefill in pieces, and heads spread over devices.
    #[test]
    fn pieces_of_a_table(case in cases(), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let (table, Heads { query, kv }) = (case.table(), case.heads);
        let x = tensor(&case.values(query, 1), DType::F32);
        let want = apply(&x, &table).unwrap();
        let cut = cut.index(case.tokens() + 1);
        for (start, len) in [(0, cut), (cut, case.tokens() - cut)] {
            let piece = apply(&x.narrow(0, start, len).unwrap(), &table.narrow(start, len).unwrap()).unwrap();
            prop_assert!(same(&piece, &want.narrow(0, start, len).unwrap()));
        }
        let (at, group) = (at.index(kv), query / kv);
        for (first, count) in [(0, at), (at, kv - at)].into_iter().filter(|(_, count)| *count > 0) {
            let shard = table.shard(first, count).unwrap();
            let local = x.narrow(1, first * group, count * group).unwrap();
            let want = want.narrow(1, first * group, count * group).unwrap();
            prop_assert!(same(&apply(&local, &shard).unwrap(), &want));
        }
    }

    /// The slices that a kernel borrows rotate as the operation does.
    #[test]
    fn borrowed_angles_rotate_alike(case in cases()) {
        let (table, heads, d) = (case.table(), case.heads.query, case.head_dim);
        let x = tensor(&case.values(heads, 1), DType::F32);
        let mut lanes = floats(&x);
        let mut back = floats(&x);
        table
            .with_angles(|angles| {
                for (row, head) in lanes.chunks_exact_mut(d).enumerate() {
                    angles.rotate(head, row / heads, row % heads, heads);
                }
                back.copy_from_slice(&lanes);
                for (row, head) in back.chunks_exact_mut(d).enumerate() {
                    angles.rotate_adjoint(head, row / heads, row % heads, heads);
                }
            })
            .unwrap();
        let lanes = Tensor::from_vec(lanes, x.shape(), &CPU).unwrap();
        prop_assert!(same(&lanes, &apply(&x, &table).unwrap()));
        if case.frequencies.scaling() == 1.0 {
            for (back, x) in back.iter().zip(floats(&x)) {
                prop_assert!((back - x).abs() < 1e-5);
            }
        }
    }

    /// P9: causal attention over a packed batch equals attention over each sequence.
    #[test]
    fn packed_attention_is_separate_attention(case in cases(), cut in any::<prop::sample::Index>()) {
        prop_assume!(case.tokens() > 0);
        let cut = cut.index(case.tokens());
        let x = case.values(case.heads.query, 1);
        let scores = |x: &Array3<f64>, from: usize, case: &Case| {
            let y = apply(&tensor(x, DType::F32), &case.table()).unwrap().narrow(1, 0, 1).unwrap();
            let y = y.squeeze(1).unwrap().narrow(0, from, x.dim().0 - from).unwrap();
            y.matmul(&y.t().unwrap()).unwrap()
        };
        let axes = case.positions.axes().iter().map(|axis| axis[cut..].to_vec()).collect();
        let second = Case { positions: Positions::from_axes(axes).unwrap(), ..case.clone() };
        let alone = scores(&x.slice(s![cut.., .., ..]).to_owned(), 0, &second);
        prop_assert!(same(&scores(&x, cut, &case), &alone));
    }
}

/// Large enough for the thread pool, and a gradient that arrives as a broadcast.
#[test]
fn many_tasks_and_a_broadcast_gradient() {
    let tokens = 700;
    let axes = (0..3).map(|axis| (0..tokens).map(|t| f64::from(t * (axis + 1) % 997)).collect()).collect();
    let case = Case {
        positions: Positions::from_axes(axes).unwrap(),
        allocation: Allocation::Interleaved([24, 20, 20]),
        frequencies: Frequencies::new(5e6, 128).unwrap(),
        pairing: Pairing::HalfSplit,
        heads: Heads { query: 4, kv: 2 },
        head_dim: 128,
        seed: 3,
    };
    let table = case.table();
    let x = case.values(6, 1);
    let var = Var::from_tensor(&tensor(&x, DType::F32)).unwrap();
    let y = apply_packed_qk(&var, case.heads, &table).unwrap();
    close(&y, &case.defined(&x), 3e-4).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    close(gradients.get(&var).unwrap(), &case.defined_adjoint(&x.mapv(|_| 1.0)), 3e-4).unwrap();
    let copy = tensor(&x, DType::F32);
    apply_inplace(&copy, case.heads, &table).unwrap();
    assert!(same(&copy, &y));
}

/// P3: the definition's adjoint against finite differences.
#[test]
fn finite_differences_of_the_definition() {
    let positions = Positions::from_axes(vec![vec![5.0, 60.0], vec![7.0, 2.0], vec![11.0, 9.0]]).unwrap();
    let frequencies = Frequencies::new(1e4, 8).unwrap().yarn(&Yarn::new(4.0, 64.0)).unwrap();
    let allocation = Allocation::Interleaved([2, 1, 1]);
    let (cos, sin) = reference::cos_sin(&positions, &allocation, &frequencies, 2).unwrap();
    let shape = (2, 2, 10);
    let x = Array3::from_shape_fn(shape, |(t, h, d)| f64::sin((t * 31 + h * 17 + d * 5) as f64));
    let g = Array3::from_shape_fn(shape, |(t, h, d)| f64::cos((t * 13 + h * 7 + d * 3) as f64));
    let loss = |x: &Array3<f64>| {
        (reference::rotate(x.view(), cos.view(), sin.view(), Pairing::HalfSplit) * &g).sum()
    };
    let gradient = reference::rotate_adjoint(g.view(), cos.view(), sin.view(), Pairing::HalfSplit);
    for ((index, found), step) in gradient.indexed_iter().zip(std::iter::repeat(1e-5)) {
        let (mut up, mut down) = (x.clone(), x.clone());
        up[index] += step;
        down[index] -= step;
        assert!(((loss(&up) - loss(&down)) / (2.0 * step) - found).abs() < 1e-6);
    }
}
