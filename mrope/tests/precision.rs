//! How exact the numbers of the fast path are.
#![allow(missing_docs, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use mrope::{Allocation, Frequencies, Pairing, Positions, RotaryTable, apply, reference};
use ndarray::Array3;

const CPU: Device = Device::Cpu;

/// How far f32 angles are from exact ones: the arithmetic of transformers, error included (base 5e6, 128 lanes).
#[test]
fn f32_angles_err_as_known() {
    let frequencies = Frequencies::new(5e6, 128).unwrap();
    let rows = [
        (1_000.0, 1.0339e-5, 2),
        (32_767.0, 1.5310e-4, 2),
        (131_071.0, 3.8620e-3, 1),
        (262_143.0, 9.8405e-3, 2),
        (1_048_575.0, 2.5696e-2, 2),
    ];
    for (position, difference, pair) in rows {
        let positions = Positions::from_axes(vec![vec![position]]).unwrap();
        let (exact, _) = reference::cos_sin(&positions, &Allocation::OneAxis, &frequencies, 1).unwrap();
        let table = RotaryTable::new(&positions, &Allocation::OneAxis, &frequencies, &CPU).unwrap();
        let worst = table
            .with_angles(|angles| {
                let (cos, _) = angles.of(0, 0, 1).unwrap();
                let off = cos.iter().zip(&exact).map(|(c, e)| (f64::from(*c) - e).abs());
                off.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
            })
            .unwrap();
        assert_eq!(worst.0, pair, "at {position}");
        assert!((worst.1 / difference - 1.0).abs() < 1e-4, "{} at {position}", worst.1);
    }
}

/// P20, the CPU's side: the last place of f32 at any coordinate.
#[test]
fn cosines_of_f32_angles_are_correctly_rounded() {
    let frequencies = Frequencies::new(5e6, 128).unwrap();
    let coordinates: Vec<f64> = (0..400).map(|i| f64::from(i * 2503)).collect();
    let positions = Positions::from_axes(vec![coordinates.clone()]).unwrap();
    let table = RotaryTable::new(&positions, &Allocation::OneAxis, &frequencies, &CPU).unwrap();
    table
        .with_angles(|angles| {
            for (token, position) in coordinates.iter().enumerate() {
                let (cos, sin) = angles.of(token, 0, 1).unwrap();
                for (i, inv) in frequencies.inv().iter().enumerate() {
                    let angle = f64::from(*position as f32 * *inv as f32);
                    assert_eq!((cos[i], sin[i]), (angle.cos() as f32, angle.sin() as f32));
                }
            }
        })
        .unwrap();
}

/// bf16 on unit-normal values: the RMS error is that of the exact result rounded once. (With cosines and sines rounded
/// to bf16, as transformers has them, it is 1.2 times as large here.)
#[test]
fn bf16_error_is_that_of_one_rounding() {
    let frequencies = Frequencies::new(5e6, 128).unwrap();
    let positions = Positions::from_axes(vec![(0..200).map(f64::from).collect()]).unwrap();
    let table = RotaryTable::new(&positions, &Allocation::OneAxis, &frequencies, &CPU).unwrap();
    // Fixed unit-normal values: Box-Muller over hashes (splitmix64).
    let uniform = |i: u64| {
        let mut z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let normal =
        |i: u64| (-2.0 * uniform(2 * i).ln()).sqrt() * (std::f64::consts::TAU * uniform(2 * i + 1)).cos();
    let values: Vec<f32> = (0..200 * 2 * 128).map(|i| normal(i) as f32).collect();
    let x = Tensor::from_vec(values, (200, 2, 128), &CPU).unwrap().to_dtype(DType::BF16).unwrap();
    let floats = |x: &Tensor| -> Vec<f64> {
        let x: Vec<f32> = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        x.into_iter().map(f64::from).collect()
    };
    let given = Array3::from_shape_vec((200, 2, 128), floats(&x)).unwrap();
    let (cos, sin) = reference::cos_sin(&positions, &Allocation::OneAxis, &frequencies, 2).unwrap();
    let exact = reference::rotate(given.view(), cos.view(), sin.view(), Pairing::HalfSplit);
    let found = floats(&apply(&x, &table).unwrap());
    let error = |of: &dyn Fn(usize, f64) -> f64| {
        let squares = exact.iter().enumerate().map(|(i, e)| (of(i, *e) - e).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let ratio = error(&|i, _| found[i]) / error(&|_, exact| half::bf16::from_f64(exact).to_f64());
    assert!((ratio - 1.0).abs() < 0.02, "{ratio}");
}
