//! Rankings from wins: by hand, and against the likelihood.
#![allow(clippy::unwrap_used)]

use toolrm::{BradleyTerry, WinMatrix, WinMatrixError};

#[test]
fn points_and_margins_by_hand() {
    // a beat b twice and lost once, tied with c; b and c never met.
    let wins = vec![0.0, 2.0, 0.5, 1.0, 0.0, 0.0, 0.5, 0.0, 0.0];
    let matrix = WinMatrix::new(wins, 3).unwrap();
    let found: Vec<(u32, f64)> = matrix.standings().iter().map(|s| (s.points, s.margin)).collect();
    assert_eq!(found, [(3, 1.0), (0, -1.0), (1, 0.0)]);
}

/// With two items and next to no prior, the odds of strengths are those of wins (their scale is all that still moves); with the prior the likelihood's slope is 0.
#[test]
fn strengths_are_where_the_likelihood_is_flat() {
    let two = WinMatrix::new(vec![0.0, 3.0, 1.0, 0.0], 2).unwrap();
    let options = BradleyTerry { prior: 1e-6, max_steps: 1000, ..BradleyTerry::default() };
    let found = two.bradley_terry(&options);
    assert!((found.strengths[0] / found.strengths[1] - 3.0).abs() < 1e-4, "{found:?}");

    // An item that won everything has a finite strength.
    let wins = vec![0.0, 4.0, 2.0, 0.0, 0.0, 3.0, 0.0, 1.0, 0.0];
    let (matrix, options) = (WinMatrix::new(wins.clone(), 3).unwrap(), BradleyTerry::default());
    let p = matrix.bradley_terry(&options);
    assert!(p.converged && p.strengths.iter().all(|p| p.is_finite() && *p > 0.0));
    for i in 0..3 {
        // d/d ln p_i of Σ w_ij ln p_i/(p_i+p_j) + prior (ln p_i/(p_i+1) + ln 1/(p_i+1)).
        let pi = p.strengths[i];
        let games = (0..3).filter(|j| *j != i).map(|j| {
            let (w, l) = (f64::from(wins[3 * i + j]), f64::from(wins[3 * j + i]));
            w - (w + l) * pi / (pi + p.strengths[j])
        });
        let slope = games.sum::<f64>() + options.prior * (1.0 - 2.0 * pi / (pi + 1.0));
        assert!(slope.abs() < 1e-6, "item {i}: {slope}");
    }
    let few = matrix.bradley_terry(&BradleyTerry { max_steps: 1, ..options });
    assert_eq!((few.steps, few.converged), (1, false));
}

#[test]
fn what_is_no_matrix_is_refused() {
    let refused = |wins: Vec<f32>, items| WinMatrix::new(wins, items).unwrap_err();
    assert_eq!(refused(vec![0.0; 5], 2), WinMatrixError::Shape { numbers: 5, items: 2 });
    assert_eq!(
        refused(vec![0.0, -1.0, 0.0, 0.0], 2),
        WinMatrixError::Cell { winner: 0, loser: 1, value: -1.0 }
    );
    assert!(matches!(refused(vec![0.0, f32::NAN, 0.0, 0.0], 2), WinMatrixError::Cell { .. }));
    assert!(matches!(refused(vec![0.0, 0.0, 0.0, 1.0], 2), WinMatrixError::Cell { winner: 1, loser: 1, .. }));
}
