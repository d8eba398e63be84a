//! Rotations, frequencies and allocations with numbers worked out in f64.
#![allow(missing_docs, clippy::unwrap_used)]

use mrope::{Allocation, Axis, Frequencies, Llama3, Pairing, Positions, Yarn, reference};
use ndarray::{Array3, s};

const Q: [f64; 16] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6];

fn k() -> Vec<f64> {
    (0..16).map(|j| (f64::from(3 * j % 7) - 3.0) / 4.0).collect()
}

fn close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{got:?} against {want:?}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance, "{got:?} against {want:?}");
    }
}

fn at(position: [f64; 3]) -> Positions {
    Positions::from_axes(position.iter().map(|c| vec![*c]).collect()).unwrap()
}

fn turned(x: &[f64], position: [f64; 3], allocation: &Allocation, rotary_dim: usize) -> Vec<f64> {
    let frequencies = Frequencies::new(1e4, rotary_dim).unwrap();
    let (cos, sin) = reference::cos_sin(&at(position), allocation, &frequencies, 1).unwrap();
    let x = Array3::from_shape_vec((1, 1, x.len()), x.to_vec()).unwrap();
    reference::rotate(x.view(), cos.view(), sin.view(), Pairing::HalfSplit).iter().copied().collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn check(allocation: &Allocation, y: &[f64], score: f64) {
    let (t, h, w) = (5.0, 7.0, 11.0);
    let q = turned(&Q, [t, h, w], allocation, 16);
    close(&q, y, 1e-12);
    close(&[dot(&Q, &Q), dot(&q, &q)], &[14.96, 14.96], 1e-12);
    let moved = turned(&Q, [t + 100.0, h + 200.0, w + 300.0], allocation, 16);
    let scores = [
        dot(&q, &turned(&k(), [2.0, 3.0, 4.0], allocation, 16)),
        dot(&moved, &turned(&k(), [102.0, 203.0, 304.0], allocation, 16)),
        dot(&turned(&Q, [3.0, 4.0, 7.0], allocation, 16), &k()),
    ];
    close(&scores, &[score; 3], 1e-11);
}

#[test]
fn rotation_on_one_axis() {
    let y = [
        0.891398065743,
        -1.002014980571,
        -0.264093323898,
        0.206063330171,
        0.434402210146,
        0.577789980261,
        0.692491281268,
        0.797469178926,
        0.159403539451,
        0.189646984453,
        1.109168479661,
        1.248013583243,
        1.323364923149,
        1.409311441347,
        1.503481235456,
        1.601262910537,
    ];
    check(&Allocation::OneAxis, &y, -0.960463850337);
}

#[test]
fn rotation_in_chunks() {
    let y = [
        0.891398065743,
        -1.002014980571,
        -0.479186799776,
        0.126772641740,
        0.407849798588,
        0.550947781021,
        0.683457983175,
        0.794429562547,
        0.159403539451,
        0.189646984453,
        1.034591712184,
        1.258542290631,
        1.331787723998,
        1.420019909223,
        1.507609095633,
        1.602773118739,
    ];
    check(&Allocation::Chunked(vec![2, 3, 3]), &y, -1.029466778813);
}

#[test]
fn rotation_interleaved() {
    let y = [
        0.891398065743,
        -0.920309124918,
        -0.844249259640,
        0.206063330171,
        0.407849798588,
        0.550947781021,
        0.692491281268,
        0.797469178926,
        0.159403539451,
        -0.439353063712,
        0.766317941587,
        1.248013583243,
        1.331787723998,
        1.420019909223,
        1.503481235456,
        1.601262910537,
    ];
    check(&Allocation::Interleaved([4, 2, 2]), &y, -1.452953353107);
}

#[test]
fn partial_rotation_leaves_the_tail() {
    let y = turned(&Q, [5.0, 7.0, 11.0], &Allocation::Interleaved([2, 1, 1]), 8);
    let rotated = [
        0.507828355878,
        -0.233562174886,
        0.221342018801,
        0.395995016677,
        0.045938665265,
        0.587748849818,
        0.728702758821,
        0.801989991688,
    ];
    close(&y[..8], &rotated, 1e-12);
    assert_eq!(y[8..], Q[8..]);
}

#[test]
fn rotation_by_head() {
    let allocation = Allocation::PerHead { sections: vec![1, 1, 1], kv_heads: 4 };
    let frequencies = Frequencies::new(1e4, 16).unwrap();
    let (cos, sin) = reference::cos_sin(&at([5.0, 7.0, 11.0]), &allocation, &frequencies, 8).unwrap();
    let x = Array3::from_shape_fn((1, 8, 16), |(_, _, lane)| Q[lane]);
    let y = reference::rotate(x.view(), cos.view(), sin.view(), Pairing::HalfSplit);
    let on_h = [
        -0.515897713413,
        -0.920309124918,
        -0.479186799776,
        0.126772641740,
        0.407849798588,
        0.568865215747,
        0.689482935820,
        0.796456291914,
        0.744210688781,
        -0.439353063712,
        1.034591712184,
        1.258542290631,
        1.331787723998,
        1.412937495544,
        1.504863210133,
        1.601766954045,
    ];
    let head = |head: usize| y.slice(s![0, head, ..]).to_vec();
    // Two query heads to each key head: 2 and 3 follow the second, on h; 6 and 7 the last, at rest.
    for on in [2, 3] {
        close(&head(on), &on_h, 1e-12);
    }
    for at_rest in [6, 7] {
        assert_eq!(head(at_rest), Q);
    }
    close(&head(0), &turned(&Q, [5.0, 0.0, 0.0], &Allocation::OneAxis, 16), 0.0);
    close(&head(5), &turned(&Q, [11.0, 0.0, 0.0], &Allocation::OneAxis, 16), 0.0);
}

#[test]
fn frequencies_of_released_models() {
    let qwen3 = Frequencies::new(5e6, 128).unwrap();
    let want = [
        (1, 0.78582998042),
        (2, 0.617528758126),
        (20, 0.0080643965219),
        (31, 5.69097141421e-4),
        (40, 6.50344912624e-5),
        (63, 2.54507978804e-7),
    ];
    for (i, inv) in want {
        assert!((qwen3.inv()[i] / inv - 1.0).abs() < 1e-11, "pair {i}: {}", qwen3.inv()[i]);
    }
    let qwen2 = Frequencies::new(1e6, 128).unwrap();
    for (i, inv) in
        [(1, 0.805842187761), (16, 0.0316227766017), (40, 1.77827941004e-4), (63, 1.24093776075e-6)]
    {
        assert!((qwen2.inv()[i] / inv - 1.0).abs() < 1e-11, "pair {i}: {}", qwen2.inv()[i]);
    }
    assert_eq!((qwen3.inv()[0], qwen3.scaling(), qwen3.pairs()), (1.0, 1.0, 64));
}

#[test]
fn context_extension() {
    let plain = Frequencies::new(5e6, 128).unwrap();
    let linear = plain.clone().linear(4.0).unwrap();
    for (inv, base) in linear.inv().iter().zip(plain.inv()) {
        assert_eq!(*inv, base / 4.0);
    }
    // The NTK base, written out: 5e6 · 4^(128/126).
    let ntk = plain.clone().ntk(4.0).unwrap();
    let direct = Frequencies::new(5e6 * 4f64.powf(128.0 / 126.0), 128).unwrap();
    for (inv, direct) in ntk.inv().iter().zip(direct.inv()) {
        assert!((inv / direct - 1.0).abs() < 1e-13);
    }
    assert!((ntk.inv()[63] / plain.inv()[63] - 0.25).abs() < 1e-13);
    // At three times the trained length with factor 2, the dynamic factor is 2·3 - 1.
    let dynamic = plain.clone().dynamic_ntk(2.0, 4096.0, 12288.0).unwrap();
    assert_eq!(dynamic, plain.clone().ntk(5.0).unwrap());
    assert_eq!(plain.clone().dynamic_ntk(2.0, 4096.0, 4096.0).unwrap(), plain);
}

#[test]
fn yarn_of_the_published_settings() {
    type Case = (f64, f64, f64, [usize; 2], f64, [(usize, f64); 5]);
    let cases: [Case; 3] = [
        (
            5e6,
            262_144.0,
            3.0,
            [29, 45],
            1.109861228867,
            [(29, 1.0), (30, 0.958333), (37, 0.666667), (44, 0.375), (45, 0.333333)],
        ),
        (
            5e6,
            262_144.0,
            2.0,
            [29, 45],
            1.069314718056,
            [(29, 1.0), (30, 0.96875), (37, 0.75), (44, 0.53125), (45, 0.5)],
        ),
        (
            1e6,
            32_768.0,
            4.0,
            [23, 40],
            1.138629436112,
            [(23, 1.0), (24, 0.955882), (31, 0.647059), (39, 0.294118), (40, 0.25)],
        ),
    ];
    for (theta, trained_len, factor, [low, high], a, ratios) in cases {
        let plain = Frequencies::new(theta, 128).unwrap();
        let yarn = plain.clone().yarn(&Yarn::new(factor, trained_len)).unwrap();
        assert!((yarn.scaling() - a).abs() < 1e-12);
        let ratio = |i: usize| yarn.inv()[i] / plain.inv()[i];
        for (i, want) in ratios {
            assert!((ratio(i) - want).abs() < 1e-6, "pair {i}: {} against {want}", ratio(i));
        }
        assert!((0..=low).all(|i| ratio(i) == 1.0) && ratio(low + 1) < 1.0);
        assert!((high..64).all(|i| (ratio(i) - 1.0 / factor).abs() < 1e-15));
        assert!(ratio(high - 1) > 1.0 / factor + 1e-6);
    }
    // Without rounding, the ramp starts at pair 29.761806 and ends at 44.141569.
    let plain = Frequencies::new(5e6, 128).unwrap();
    let exact = Yarn { truncate: false, attention_factor: Some(1.5), ..Yarn::new(3.0, 262_144.0) };
    let yarn = plain.clone().yarn(&exact).unwrap();
    let ramp = (30.0 - 29.761806) / (44.141569 - 29.761806);
    assert!((yarn.inv()[30] / plain.inv()[30] - (1.0 - ramp * 2.0 / 3.0)).abs() < 1e-6);
    assert_eq!(yarn.scaling(), 1.5);
}

/// Wavelengths of Llama 3.1 (base 5e5, 128 lanes, 8192 tokens, factors 8, 1, 4): pairs to 28 turn more than 4 times over
/// the trained context, pairs from 35 less than once.
#[test]
fn llama3_of_the_published_setting() {
    let plain = Frequencies::new(5e5, 128).unwrap();
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, trained_len: 8192.0 };
    let scaled = plain.clone().llama3(&llama3).unwrap();
    let ratio = |i: usize| scaled.inv()[i] / plain.inv()[i];
    assert!((0..=28).all(|i| ratio(i) == 1.0) && ratio(29) < 1.0);
    assert!((35..64).all(|i| (ratio(i) - 0.125).abs() < 1e-15) && ratio(34) > 0.126);
    // Pair 32: inv = 5e5^(-1/2), 1.843848 turns, smooth (1.843848 - 1)/3.
    let turns = 8192.0 / 5e5f64.sqrt() / std::f64::consts::TAU;
    let smooth = (turns - 1.0) / 3.0;
    assert!((ratio(32) - (smooth + (1.0 - smooth) / 8.0)).abs() < 1e-15);
    assert!((turns - 1.843848).abs() < 1e-6, "{turns}");
    assert_eq!(scaled.scaling(), 1.0);
}

#[test]
fn pairs_that_yarn_keeps_blends_and_divides() {
    let plain = Frequencies::new(5e6, 128).unwrap();
    let yarn = plain.clone().yarn(&Yarn::new(3.0, 262_144.0)).unwrap();
    let count = |allocation: Allocation| -> [[usize; 3]; 3] {
        let axes = allocation.axes(64).unwrap();
        [Axis::T, Axis::H, Axis::W].map(|axis| {
            let mut kinds = [0; 3];
            for i in (0..64).filter(|i| axes[*i] == Some(axis)) {
                kinds[match yarn.inv()[i] / plain.inv()[i] {
                    1.0 => 0,
                    ratio if ratio > 1.0 / 3.0 + 1e-9 => 1,
                    _ => 2,
                }] += 1;
            }
            kinds
        })
    };
    assert_eq!(count(Allocation::Chunked(vec![16, 24, 24])), [[16, 0, 0], [14, 10, 0], [0, 5, 19]]);
    assert_eq!(count(Allocation::Interleaved([24, 20, 20])), [[10, 5, 9], [10, 5, 5], [10, 5, 5]]);
}

fn axes(allocation: &Allocation, pairs: usize) -> Vec<usize> {
    allocation.axes(pairs).unwrap().into_iter().map(|axis| axis.unwrap().0).collect()
}

#[test]
fn allocations_pair_by_pair() {
    let chunked = [vec![0; 16], vec![1; 24], vec![2; 24]].concat();
    assert_eq!(axes(&Allocation::Chunked(vec![16, 24, 24]), 64), chunked);
    // A list of six, as transformers doubles it over the whole head, returns to t after w.
    assert_eq!(axes(&Allocation::Chunked(vec![1, 1, 1, 2, 1, 1]), 7), [0, 1, 2, 0, 0, 1, 2]);
    let interleaved = axes(&Allocation::Interleaved([24, 20, 20]), 64);
    for (i, axis) in interleaved.iter().enumerate() {
        assert_eq!(*axis, if i < 60 { i % 3 } else { 0 }, "pair {i}");
    }
    let qwen3_5 = axes(&Allocation::Interleaved([11, 11, 10]), 32);
    assert_eq!(qwen3_5, (0..32).map(|i| i % 3).collect::<Vec<_>>());
    assert_eq!(
        axes(&Allocation::RoundRobin(vec![8, 12, 12]), 32),
        [[0, 1, 2].repeat(8), vec![1, 1, 2, 1, 1, 2, 2, 2]].concat()
    );
    let spatial_high = Allocation::SpatialHigh { sections: [16, 24, 24], rotate_time: true };
    assert_eq!(axes(&spatial_high, 64), [[1, 2].repeat(24), vec![0; 16]].concat());
    let hope = Allocation::SpatialHigh { sections: [16, 24, 24], rotate_time: false };
    assert_eq!(hope.axes(64).unwrap()[48..], [None; 16]);
    assert_eq!(axes(&Allocation::Meta8, 16), [0, 0, 1, 2, 1, 2, 1, 2].repeat(2));
    assert_eq!(axes(&Allocation::Cyclic(4), 6), [0, 1, 2, 3, 0, 1]);
    let per_head = Allocation::PerHead { sections: vec![2, 3, 2], kv_heads: 8 };
    let want = [0, 0, 1, 1, 1, 2, 2].map(|axis| Some(Axis(axis)));
    assert_eq!(per_head.axes(64).unwrap(), [&want[..], &[None]].concat());
}

/// `D_a(r)` of arXiv 2510.23095 for base 1e6, normalised to 1 at distance 0.
#[test]
fn decay_with_distance_by_axis() {
    let frequencies = Frequencies::new(1e6, 128).unwrap();
    let decay = |allocation: &Allocation, axis: usize, distance: f64| {
        let pairs: Vec<usize> = (0..64).filter(|i| axes(allocation, 64)[*i] == axis).collect();
        let (mut re, mut im, mut sum) = (0.0, 0.0, 0.0);
        for i in &pairs {
            let (s, c) = (distance * frequencies.inv()[*i]).sin_cos();
            (re, im) = (re + c, im + s);
            sum += f64::hypot(re, im);
        }
        sum / pairs.len() as f64 / ((pairs.len() + 1) as f64 / 2.0)
    };
    let (chunked, interleaved) =
        (Allocation::Chunked(vec![16, 24, 24]), Allocation::Interleaved([24, 20, 20]));
    let rows = [
        (1.0, [0.9656, 1.0, 1.0], [0.9664, 0.9754, 0.9839], 0.9743),
        (4.0, [0.5798, 0.9994, 1.0], [0.7435, 0.7457, 0.8034], 0.7583),
        (16.0, [0.2405, 0.9906, 1.0], [0.5687, 0.7305, 0.5937], 0.6029),
        (64.0, [0.3276, 0.8618, 1.0], [0.5026, 0.6755, 0.4357], 0.4995),
        (256.0, [0.2193, 0.4608, 0.9999], [0.4418, 0.3636, 0.434_300], 0.3960),
    ];
    for (distance, in_chunks, in_turn, one) in rows {
        for axis in 0..3 {
            close(&[decay(&chunked, axis, distance)], &[in_chunks[axis]], 5e-5);
            close(&[decay(&interleaved, axis, distance)], &[in_turn[axis]], 5e-5);
        }
        close(&[decay(&Allocation::OneAxis, 0, distance)], &[one], 5e-5);
    }
}
