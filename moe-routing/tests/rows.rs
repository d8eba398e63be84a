//! Activations to experts and back and their gradients against plain sums.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use moe_routing::{Dispatch, op};
use proptest::prelude::*;

fn tensor(values: Vec<f32>, shape: (usize, usize)) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + salt * 11) % 41) as f32 / 20.0 - 1.0).collect()
}

proptest! {
    #[test]
    fn rows_and_their_gradients(
        tokens in 1usize..9, k in 1usize..4, more in 0usize..4, width in 1usize..7, salt in 0usize..50,
    ) {
        let experts = k + more;
        let ids: Vec<u32> =
            (0..tokens * k).map(|i| ((salt + i / k * 5 + i % k) % experts) as u32).collect();
        let dispatch = Arc::new(Dispatch::new(&ids, tokens, experts, k).unwrap());
        let x = Var::from_tensor(&tensor(numbers(tokens * width, salt), (tokens, width))).unwrap();
        let gates = Var::from_tensor(&tensor(numbers(tokens * k, salt + 1), (tokens, k))).unwrap();
        let mix = tensor(numbers(tokens * width, salt + 2), (tokens, width));
        let scale = tensor(numbers(tokens * k * width, salt + 3), (tokens * k, width));

        let rows = op::permute(&x, &dispatch).unwrap();
        let y = op::unpermute(&(&rows * &scale).unwrap(), &gates, &dispatch).unwrap();
        let loss = (&y * &mix).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let gradient = |v: &Var| values(gradients.get(v.as_tensor()).unwrap());
        let (dx, d_gates) = (gradient(&x), gradient(&gates));
        let (x, gates, mix, scale) = (values(&x), values(&gates), values(&mix), values(&scale));
        let (rows, y) = (values(&rows), values(&y));
        for token in 0..tokens {
            for column in 0..width {
                let (mut sum, mut slope) = (0.0, 0.0);
                let at = token * width + column;
                for slot in token * k..(token + 1) * k {
                    let row = dispatch.inverse()[slot] as usize * width + column;
                    prop_assert_eq!(rows[row], x[at]);
                    sum += f64::from(gates[slot]) * f64::from(x[at]) * f64::from(scale[row]);
                    slope += f64::from(gates[slot]) * f64::from(scale[row]) * f64::from(mix[at]);
                }
                prop_assert!((f64::from(y[at]) - sum).abs() < 1e-5);
                prop_assert!((f64::from(dx[at]) - slope).abs() < 1e-5);
            }
            for slot in token * k..(token + 1) * k {
                let row = dispatch.inverse()[slot] as usize * width;
                let expected: f64 = (0..width)
                    .map(|c| {
                        let at = token * width + c;
                        f64::from(x[at]) * f64::from(scale[row + c]) * f64::from(mix[at])
                    })
                    .sum();
                prop_assert!((f64::from(d_gates[slot]) - expected).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let dispatch = Arc::new(Dispatch::new(&[0, 1, 1, 0], 2, 2, 2).unwrap());
    let error = op::permute(&tensor(numbers(9, 0), (3, 3)), &dispatch).unwrap_err().to_string();
    assert!(error.starts_with("3 rows of 3, the dispatch has 2"), "{error}");
    let rows = tensor(numbers(12, 0), (4, 3));
    let error = op::unpermute(&rows, &tensor(numbers(4, 0), (4, 1)), &dispatch).unwrap_err().to_string();
    assert!(error.starts_with("rows [4, 3] and gates [4, 1] do not fit"), "{error}");
}
