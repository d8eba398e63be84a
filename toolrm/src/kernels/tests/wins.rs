//! The kernels rank as the CPU does, to f64's rounding.

use cuda_twin::testing::{everywhere, no_barrier_can_be_removed, noise, same_bits};
use cuda_twin::{Gpu, Options, Result};

use crate::kernels::WinKernels;
use crate::sources::WINS;
use crate::{BradleyTerry, WinMatrix};

/// Wins in halves; some pairs never met, some are even.
fn matrix(items: usize, seed: u64) -> WinMatrix {
    let draws = noise(items * items, seed);
    let mut wins = vec![0.0; items * items];
    for i in 0..items {
        for j in 0..i {
            let games = (3.0 * (draws[i * items + j] + 1.0)).floor() as f32 / 2.0;
            let won = (games * 2.0 * (draws[j * items + i] as f32 + 1.0) / 2.0).round() / 2.0;
            (wins[i * items + j], wins[j * items + i]) = (won, games - won);
        }
    }
    WinMatrix::new(wins, items).unwrap()
}

#[test]
fn rankings_are_those_of_the_cpu() -> Result<()> {
    everywhere(|gpu| {
        let kernels = WinKernels::new(gpu)?;
        for (seed, items) in [1, 2, 31, 32, 33, 70].into_iter().enumerate() {
            let matrix = matrix(items, seed as u64 + 1);
            let (found, _) = kernels.standings(gpu, &matrix)?;
            // Sums of halves are exact.
            assert_eq!(found, matrix.standings(), "{items} items");
            let options = BradleyTerry { max_steps: 4, ..BradleyTerry::default() };
            let ((found, _), expected) =
                (kernels.bradley_terry(gpu, &matrix, &options)?, matrix.bradley_terry(&options));
            assert_eq!((found.steps, found.converged), (expected.steps, expected.converged), "{items} items");
            for (a, b) in found.strengths.iter().zip(&expected.strengths) {
                assert!((a - b).abs() <= 1e-12 * b, "{items} items: {a} {b}");
            }
        }
        Ok(())
    })
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let matrix = matrix(70, 3);
    let options = BradleyTerry { max_steps: 1, ..BradleyTerry::default() };
    let run = |gpu: &Gpu, kernels: &WinKernels| {
        Ok((kernels.standings(gpu, &matrix)?.0, kernels.bradley_terry(gpu, &matrix, &options)?.0))
    };
    same_bits(|gpu| run(gpu, &WinKernels::new(gpu)?))?;
    no_barrier_can_be_removed(WINS, 2, |gpu, source| {
        run(gpu, &WinKernels::of_module(gpu.compile("wins.cu", source)?)).map(drop)
    })
}

#[test]
fn no_items_and_a_prior_of_zero() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let (kernels, none) = (WinKernels::new(&gpu)?, WinMatrix::new(Vec::new(), 0).unwrap());
    assert!(kernels.standings(&gpu, &none)?.0.is_empty());
    assert!(kernels.bradley_terry(&gpu, &none, &BradleyTerry::default())?.0.converged);
    let bad = BradleyTerry { prior: 0.0, ..BradleyTerry::default() };
    let error = kernels.bradley_terry(&gpu, &matrix(3, 1), &bad).unwrap_err().to_string();
    assert!(error.contains("above 0"), "{error}");
    Ok(())
}
