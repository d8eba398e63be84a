//! A whole mixture-of-experts layer by its definition: gradients, and what they must not depend on.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{ids, routers, slope};
use moe_routing::reference::Layer;
use moe_routing::{Router, margins};
use ndarray::{Array2, Array3, Axis};
use proptest::prelude::*;

const D: usize = 3;
const I: usize = 2;

#[derive(Debug, Clone)]
struct Case {
    layer: Layer,
    x: Array2<f64>,
    dy: Array2<f64>,
    ids: Vec<u32>,
    k: usize,
    router: Router,
}

fn layers() -> impl Strategy<Value = Case> {
    let sizes = (1usize..5, 1usize..5).prop_flat_map(|(e, t)| (Just(e), 1..=e, Just(t)));
    sizes.prop_flat_map(|(experts, k, tokens)| {
        let numbers = |n: usize| prop::collection::vec(-1.0f64..1.0, n);
        let weights = (numbers(experts * D), numbers(experts * 2 * I * D), numbers(experts * D * I));
        let rows = (numbers(tokens * D), numbers(tokens * D));
        (weights, rows, ids(experts, k, tokens), routers()).prop_map(move |(w, (x, dy), ids, router)| Case {
            layer: Layer {
                router: Array2::from_shape_vec((experts, D), w.0).unwrap(),
                gate_up: Array3::from_shape_vec((experts, 2 * I, D), w.1).unwrap(),
                down: Array3::from_shape_vec((experts, D, I), w.2).unwrap(),
            },
            x: Array2::from_shape_vec((tokens, D), x).unwrap(),
            dy: Array2::from_shape_vec((tokens, D), dy).unwrap(),
            ids,
            k,
            router,
        })
    })
}

impl Case {
    /// `⟨dy, y⟩` when one of the four inputs is replaced.
    fn objective(&self, which: usize, values: &[f64], ids: Option<&[u32]>) -> f64 {
        let mut moved = self.clone();
        let to: Box<dyn Iterator<Item = &mut f64>> = match which {
            0 => Box::new(moved.layer.router.iter_mut()),
            1 => Box::new(moved.layer.gate_up.iter_mut()),
            2 => Box::new(moved.layer.down.iter_mut()),
            _ => Box::new(moved.x.iter_mut()),
        };
        to.zip(values).for_each(|(to, from)| *to = *from);
        let y = moved.layer.forward(&moved.x, self.k, &self.router, ids).unwrap().y;
        (y * &self.dy).sum()
    }

    fn check_gradients(&self, ids: Option<&[u32]>) {
        let out = self.layer.forward(&self.x, self.k, &self.router, ids).unwrap();
        let g = self.layer.backward(&self.x, self.k, &self.router, &out, &self.dy).unwrap();
        let pairs = [
            (self.layer.router.as_slice(), g.router.as_slice()),
            (self.layer.gate_up.as_slice(), g.gate_up.as_slice()),
            (self.layer.down.as_slice(), g.down.as_slice()),
            (self.x.as_slice(), g.x.as_slice()),
        ];
        for (which, (values, gradient)) in pairs.into_iter().enumerate() {
            let (values, gradient) = (values.unwrap(), gradient.unwrap());
            for i in 0..values.len() {
                let expected = slope(values, i, 1e-5, |v| self.objective(which, v, ids));
                assert!((gradient[i] - expected).abs() < 1e-7, "input {which}, entry {i}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replayed_gradients_match_finite_differences(case in layers()) {
        case.check_gradients(Some(&case.ids));
    }

    #[test]
    fn natural_gradients_match_finite_differences_away_from_ties(case in layers()) {
        let logits = case.layer.forward(&case.x, case.k, &case.router, None).unwrap().logits;
        let margins = margins(logits.as_slice().unwrap(), logits.ncols(), case.k, &case.router).unwrap();
        prop_assume!(margins.iter().all(|m| *m > 1e-3));
        case.check_gradients(None);
    }

    #[test]
    fn experts_without_a_token_get_exactly_zero(case in layers()) {
        let out = case.layer.forward(&case.x, case.k, &case.router, Some(&case.ids)).unwrap();
        let g = case.layer.backward(&case.x, case.k, &case.router, &out, &case.dy).unwrap();
        for expert in (0..case.layer.router.nrows()).filter(|e| !case.ids.contains(&(*e as u32))) {
            prop_assert!(g.gate_up.index_axis(Axis(0), expert).iter().all(|d| *d == 0.0));
            prop_assert!(g.down.index_axis(Axis(0), expert).iter().all(|d| *d == 0.0));
        }
    }

    #[test]
    fn tokens_are_independent(case in layers(), turn in 0usize..5) {
        let (tokens, k) = (case.x.nrows(), case.k);
        let order: Vec<usize> = (0..tokens).map(|t| (t + turn) % tokens).collect();
        let mut moved = case.clone();
        moved.x = case.x.select(Axis(0), &order);
        moved.dy = case.dy.select(Axis(0), &order);
        moved.ids = order.iter().flat_map(|t| case.ids[t * k..][..k].to_vec()).collect();
        let run = |c: &Case| {
            let out = c.layer.forward(&c.x, k, &c.router, Some(&c.ids)).unwrap();
            let g = c.layer.backward(&c.x, k, &c.router, &out, &c.dy).unwrap();
            (out.y, g.x, g.router)
        };
        let ((y, dx, dw), (moved_y, moved_dx, moved_dw)) = (run(&case), run(&moved));
        prop_assert_eq!(y.select(Axis(0), &order), moved_y);
        prop_assert_eq!(dx.select(Axis(0), &order), moved_dx);
        // A sum over tokens, in another order.
        prop_assert!((dw - moved_dw).iter().all(|d| d.abs() < 1e-12));
    }
}
