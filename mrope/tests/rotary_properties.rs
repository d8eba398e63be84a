//! The algebra of the rotation, of allocations and of frequencies.
#![allow(missing_docs, clippy::unwrap_used)]

use mrope::{
    Allocation, Axis, Frequencies, Llama3, Pairing, PositionDesign, Positions, Run, TextSpatial, Yarn,
    reference,
};
use ndarray::{Array3, s};
use proptest::prelude::*;

/// An allocation that fits, and its number of pairs.
fn allocation() -> impl Strategy<Value = (Allocation, usize)> {
    let sections =
        || prop::collection::vec(0usize..9, 3).prop_filter("no pairs", |s| s.iter().sum::<usize>() > 0);
    prop_oneof![
        (1usize..20).prop_map(|pairs| (Allocation::OneAxis, pairs)),
        sections().prop_map(|s| (Allocation::Chunked(s.clone()), s.iter().sum())),
        (1usize..20, 0usize..9, 0usize..9).prop_map(|(pairs, h, w)| {
            let [t, h, w] = Allocation::clipped_interleaved([0, h, w], pairs);
            (Allocation::Interleaved([t, h, w]), pairs)
        }),
        sections().prop_map(|s| (Allocation::RoundRobin(s.clone()), s.iter().sum())),
        (sections(), any::<bool>()).prop_map(|(s, rotate_time)| {
            (Allocation::SpatialHigh { sections: [s[0], s[1], s[2]], rotate_time }, s.iter().sum())
        }),
        (1usize..20).prop_map(|pairs| (Allocation::Meta8, pairs)),
        (1usize..4, 1usize..20).prop_map(|(axes, pairs)| (Allocation::Cyclic(axes), pairs)),
        (prop::collection::vec(0usize..3, 3), 0usize..3, 1usize..20).prop_map(|(sections, left, pairs)| {
            let kv_heads = (sections.iter().sum::<usize>() + left).max(1);
            (Allocation::PerHead { sections, kv_heads }, pairs)
        }),
    ]
}

fn pairing() -> impl Strategy<Value = Pairing> {
    prop::sample::select(vec![Pairing::HalfSplit, Pairing::Adjacent])
}

/// The heads of one token that the allocation can serve.
fn heads(allocation: &Allocation) -> usize {
    match allocation {
        Allocation::PerHead { kv_heads, .. } => 2 * kv_heads,
        _ => 2,
    }
}

fn values(len: usize, seed: u32) -> Vec<f64> {
    (0..len).map(|i| f64::sin(f64::from(seed) + 1.7 * i as f64) * 1.3).collect()
}

fn at(position: [f64; 3]) -> Positions {
    Positions::from_axes(position.iter().map(|c| vec![*c]).collect()).unwrap()
}

/// One token, rotated to a position.
fn turned(x: &Array3<f64>, p: [f64; 3], a: &Allocation, f: &Frequencies, pairing: Pairing) -> Array3<f64> {
    let (cos, sin) = reference::cos_sin(&at(p), a, f, x.dim().1).unwrap();
    reference::rotate(x.view(), cos.view(), sin.view(), pairing)
}

fn close(a: &Array3<f64>, b: &Array3<f64>, tolerance: f64) -> bool {
    a.dim() == b.dim() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}

fn place() -> impl Strategy<Value = [f64; 3]> {
    [-400i32..400, -400i32..400, -400i32..400].prop_map(|p| p.map(f64::from))
}

fn plus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

proptest! {
    /// P1, P2.
    #[test]
    fn a_rotation_keeps_lengths_and_its_adjoint_undoes_it(
        (allocation, pairs) in allocation(), pairing in pairing(), tail in 0usize..5, p in place(), factor in 1.0f64..4.0,
        seed: u32,
    ) {
        let plain = Frequencies::new(1e4, 2 * pairs).unwrap();
        let yarn = plain.clone().yarn(&Yarn { truncate: false, ..Yarn::new(factor, 1e4) });
        let n = heads(&allocation);
        let shape = (1, n, 2 * pairs + tail);
        let x = Array3::from_shape_vec(shape, values(shape.1 * shape.2, seed)).unwrap();
        let y = Array3::from_shape_vec(shape, values(shape.1 * shape.2, seed ^ 77)).unwrap();
        for frequencies in [Some(plain), yarn.ok()].into_iter().flatten() {
            let a = frequencies.scaling();
            let (cos, sin) = reference::cos_sin(&at(p), &allocation, &frequencies, n).unwrap();
            let forward = reference::rotate(x.view(), cos.view(), sin.view(), pairing);
            let backward = reference::rotate_adjoint(y.view(), cos.view(), sin.view(), pairing);
            prop_assert!(((&forward * &y).sum() - (&x * &backward).sum()).abs() < 1e-11);
            let back = reference::rotate_adjoint(forward.view(), cos.view(), sin.view(), pairing);
            for head in 0..n {
                let rotates = match &allocation {
                    Allocation::PerHead { .. } => allocation.axes(pairs).unwrap()[head / 2].is_some(),
                    _ => true,
                };
                let scale = if rotates { a } else { 1.0 };
                let norm = |x: &Array3<f64>| x.slice(s![0, head, ..2 * pairs]).mapv(|v| v * v).sum().sqrt();
                prop_assert!((norm(&forward) - scale * norm(&x)).abs() < 1e-12);
                prop_assert_eq!(
                    forward.slice(s![0, head, 2 * pairs..]), x.slice(s![0, head, 2 * pairs..])
                );
                for lane in 0..2 * pairs {
                    prop_assert!((back[[0, head, lane]] - scale * scale * x[[0, head, lane]]).abs() < 1e-12);
                }
            }
        }
    }

    /// P4, P5.
    #[test]
    fn scores_see_differences_and_rotations_add(
        (allocation, pairs) in allocation(), pairing in pairing(), p in place(), q in place(), by in place(), seed: u32,
    ) {
        let frequencies = Frequencies::new(1e4, 2 * pairs).unwrap();
        let n = heads(&allocation);
        let shape = (1, n, 2 * pairs);
        let x = Array3::from_shape_vec(shape, values(shape.1 * shape.2, seed)).unwrap();
        let k = Array3::from_shape_vec(shape, values(shape.1 * shape.2, seed ^ 5)).unwrap();
        let turn = |x: &Array3<f64>, p| turned(x, p, &allocation, &frequencies, pairing);
        let score = |p, q| (&turn(&x, p) * &turn(&k, q)).sum();
        prop_assert!((score(p, q) - score(plus(p, by), plus(q, by))).abs() < 1e-9);
        prop_assert!(close(&turn(&turn(&x, p), q), &turn(&x, plus(p, q)), 1e-9));
    }

    /// P6.
    #[test]
    fn text_is_encoded_as_in_a_text_model(
        (allocation, pairs) in allocation(), pairing in pairing(), len in 2usize..40, seed: u32,
    ) {
        let frequencies = Frequencies::new(1e4, 2 * pairs).unwrap();
        let n = heads(&allocation);
        let shape = (len, n, 2 * pairs);
        let x = Array3::from_shape_vec(shape, values(shape.0 * shape.1 * shape.2, seed)).unwrap();
        let rotate = |allocation: &Allocation, design: &PositionDesign| {
            let positions = design.positions(&[Run::Text(len)]).unwrap();
            let (cos, sin) = reference::cos_sin(&positions, allocation, &frequencies, n).unwrap();
            reference::rotate(x.view(), cos.view(), sin.view(), pairing)
        };
        let design = PositionDesign::qwen3_vl();
        let one = rotate(&Allocation::OneAxis, &PositionDesign::vanilla());
        let everything_turns = allocation.axes(pairs).unwrap().iter().all(Option::is_some);
        prop_assert_eq!(close(&rotate(&allocation, &design), &one, 1e-12), everything_turns);
        let zero = PositionDesign { text_spatial: TextSpatial::Zero, ..design };
        let all_on_t = allocation.axes(pairs).unwrap().iter().all(|axis| *axis == Some(Axis::T));
        prop_assert_eq!(close(&rotate(&allocation, &zero), &one, 1e-12), all_on_t);
    }

    /// P14.
    #[test]
    fn allocations_honour_their_counts(
        sections in prop::collection::vec(0usize..20, 3), extra in 0usize..20,
    ) {
        let pairs = sections.iter().sum();
        let three = [sections[0], sections[1], sections[2]];
        let count = |allocation: &Allocation| -> Vec<usize> {
            let axes = allocation.axes(pairs).unwrap();
            assert_eq!(axes.len(), pairs);
            (0..3).map(|axis| axes.iter().filter(|a| **a == Some(Axis(axis))).count()).collect()
        };
        prop_assert_eq!(&count(&Allocation::Chunked(sections.clone())), &sections);
        prop_assert_eq!(&count(&Allocation::RoundRobin(sections.clone())), &sections);
        prop_assert_eq!(&count(&Allocation::SpatialHigh { sections: three, rotate_time: true }), &sections);
        let at_rest = Allocation::SpatialHigh { sections: three, rotate_time: false };
        prop_assert_eq!(count(&at_rest), [0, sections[1], sections[2]]);
        // The interleaving rule honours a list, or says what it would make of it.
        let clipped = Allocation::clipped_interleaved(three, pairs);
        prop_assert_eq!(&count(&Allocation::Interleaved(clipped)), &clipped);
        prop_assert_eq!(Allocation::Interleaved(three).axes(pairs).is_ok(), clipped == three);
        let fits = |axis: usize| three[axis] == 0 || 3 * (three[axis] - 1) + axis < pairs;
        prop_assert_eq!(clipped == three, fits(1) && fits(2));
        // Equal shares: every rule that takes turns is the same.
        let even = vec![extra + 1; 3];
        let pairs = 3 * (extra + 1);
        let cyclic = Allocation::Cyclic(3).axes(pairs).unwrap();
        prop_assert_eq!(&cyclic, &Allocation::RoundRobin(even.clone()).axes(pairs).unwrap());
        prop_assert_eq!(&cyclic, &Allocation::Interleaved([extra + 1; 3]).axes(pairs).unwrap());
        prop_assert!(cyclic.iter().enumerate().all(|(i, axis)| *axis == Some(Axis(i % 3))));
    }

    /// P15: every axis sees the whole spectrum, in steps of three pairs, as far as `h` and `w` go.
    #[test]
    fn interleaving_covers_the_spectrum(share in 4usize..40, more in 0usize..5) {
        let sections = [share + more, share, share];
        let pairs = 3 * share + more;
        let axes = Allocation::Interleaved(sections).axes(pairs).unwrap();
        for axis in [Axis::T, Axis::H, Axis::W] {
            let of: Vec<usize> = (0..pairs).filter(|i| axes[*i] == Some(axis)).collect();
            prop_assert!(of.windows(2).all(|pair| pair[1] - pair[0] <= 3 || pair[0] >= 3 * share));
            prop_assert!(of[0] < 3 && of[of.len() - 1] + 3 >= 3 * share);
        }
    }

    /// P16, and the same for Llama 3.
    #[test]
    fn scaled_frequencies_lie_between_the_ends(
        theta in 1e3f64..1e7, pairs in 4usize..80, factor in 1.0f64..40.0, trained in 9u32..20, truncate: bool,
    ) {
        let plain = Frequencies::new(theta, 2 * pairs).unwrap();
        let trained_len = f64::from(1u32 << trained);
        let yarn = plain.clone().yarn(&Yarn { truncate, ..Yarn::new(factor, trained_len) }).unwrap();
        let llama3 = Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, trained_len };
        let llama3 = plain.clone().llama3(&llama3).unwrap();
        prop_assert!((yarn.scaling() - (0.1 * factor.ln() + 1.0)).abs() < 1e-15);
        for (scaled, keeps, divides) in [(&yarn, 32.0, 1.0), (&llama3, 4.0, 1.0)] {
            prop_assert!(scaled.inv().is_sorted_by(|a, b| a >= b));
            for (new, old) in scaled.inv().iter().zip(plain.inv()) {
                prop_assert!(*new <= *old * (1.0 + 1e-15) && *new >= old / factor * (1.0 - 1e-15));
                // Bounds rounded to whole pairs keep and divide a little less than the exact ones.
                let turns = trained_len * old / std::f64::consts::TAU;
                if !truncate || std::ptr::eq(scaled, &llama3) {
                    if turns > keeps * (1.0 + 1e-9) {
                        prop_assert_eq!(new, old);
                    }
                    if turns < divides * (1.0 - 1e-3) {
                        prop_assert!((new * factor / old - 1.0).abs() < 1e-12);
                    }
                }
            }
        }
        prop_assert_eq!(plain.clone().yarn(&Yarn { truncate, ..Yarn::new(1.0, trained_len) }).unwrap(), plain);
    }
}

#[test]
fn released_interleaving_equals_round_robin_and_covers_each_axis() {
    let interleaved = Allocation::Interleaved([24, 20, 20]).axes(64).unwrap();
    assert_eq!(interleaved, Allocation::RoundRobin(vec![24, 20, 20]).axes(64).unwrap());
    let chunked = Allocation::Chunked(vec![16, 24, 24]).axes(64).unwrap();
    let spatial = Allocation::SpatialHigh { sections: [16, 24, 24], rotate_time: true }.axes(64).unwrap();
    let span = |axes: &[Option<Axis>], axis: Axis| {
        let of: Vec<usize> = (0..64).filter(|i| axes[*i] == Some(axis)).collect();
        ((of[of.len() - 1] - of[0]) as f64 / 63.0 * 100.0).round() / 100.0
    };
    let spans = |axes: &[Option<Axis>]| [Axis::T, Axis::H, Axis::W].map(|axis| span(axes, axis));
    assert_eq!(spans(&interleaved), [1.0, 0.9, 0.9]);
    assert_eq!(spans(&chunked), [0.24, 0.37, 0.37]);
    assert_eq!(spans(&spatial), [0.24, 0.73, 0.73]);
}

/// The tower of Qwen-VL: rows and columns each get the whole spectrum.
#[test]
fn a_repeated_spectrum_starts_anew_on_each_axis() {
    let frequencies = Frequencies::new(1e4, 32).unwrap().repeat(2).unwrap();
    let first = [1.0, 0.562341325, 0.316227766, 0.177827941];
    for start in [0, 16] {
        for (inv, want) in frequencies.inv()[start..].iter().zip(first) {
            assert!((inv - want).abs() < 1e-9);
        }
    }
    let positions = Positions::from_axes(vec![vec![3.0], vec![7.0]]).unwrap();
    let (cos, _) =
        reference::cos_sin(&positions, &Allocation::Chunked(vec![16, 16]), &frequencies, 1).unwrap();
    assert_eq!((cos[[0, 0, 0]], cos[[0, 0, 16]]), (3f64.cos(), 7f64.cos()));
}
