//! The kernel chooses what the definition in f64 chooses, but where cosines are nearer than 1e-5.

use cuda_twin::testing::{everywhere, no_barrier_can_be_removed, noise, same_bits};
use cuda_twin::{Gpu, Options, Result};

use crate::kernels::{Chooser, SimilarityKernels};
use crate::sources::SIMILARITY;
use crate::{DuplicateId, Embeddings, Holdout, Item, Sample, SampleOptions, bmds, bmds_by, farthest_first};

fn unit(rows: usize, width: usize, seed: u64) -> Embeddings {
    let mut data: Vec<f32> = noise(rows * width, seed).iter().map(|x| *x as f32).collect();
    for row in data.chunks_mut(width) {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    Embeddings::new(data, rows).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// Each choice of `found` is one that the definition could make: its largest cosine with those before is within 1e-5 of the smallest.
#[track_caller]
fn greedy(what: &str, embeddings: &Embeddings, pool: &[usize], found: &[usize]) {
    let mut nearest = vec![f64::NEG_INFINITY; pool.len()];
    assert_eq!(found[0], pool[0], "{what}");
    for (n, chosen) in found.iter().enumerate() {
        let at = pool.iter().position(|p| p == chosen).unwrap();
        let smallest = nearest.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(n == 0 || nearest[at] <= smallest + 1e-5, "{what}: choice {n}, {} {smallest}", nearest[at]);
        for (i, p) in pool.iter().enumerate() {
            nearest[i] = nearest[i].max(cosine(embeddings.row(*p), embeddings.row(*chosen)));
        }
        nearest[at] = f64::INFINITY;
    }
}

#[test]
fn choices_are_those_of_the_definition() -> Result<()> {
    everywhere(|gpu| {
        let kernels = SimilarityKernels::new(gpu)?;
        for (seed, (rows, width, count)) in
            [(1, 3, 4), (7, 1, 7), (9, 33, 5), (40, 32, 40), (70, 5, 12)].into_iter().enumerate()
        {
            let embeddings = unit(rows, width, seed as u64 + 1);
            // A pool in another order than the rows, and not all of them.
            let pool: Vec<usize> = (0..rows).rev().filter(|i| rows < 9 || i % 5 != 3).collect();
            let (found, _) = kernels.farthest_first(gpu, &embeddings, &pool, count)?;
            let what = format!("{count} of {} rows of {width}", pool.len());
            assert_eq!(found.len(), count.min(pool.len()), "{what}");
            greedy(&what, &embeddings, &pool, &found);
            greedy(&what, &embeddings, &pool, &farthest_first(&embeddings, &pool, count));
        }
        Ok(())
    })
}

/// Rows of one number are equal or opposite: all cosines are 1 or -1 exactly, so equals decide, and the first must win.
#[test]
fn of_equals_the_first_is_chosen() -> Result<()> {
    everywhere(|gpu| {
        let embeddings = Embeddings::new(vec![1.0, 1.0, -1.0, -1.0, 1.0, -1.0], 6).unwrap();
        let (found, _) =
            SimilarityKernels::new(gpu)?.farthest_first(gpu, &embeddings, &[1, 0, 5, 3, 2, 4], 6)?;
        assert_eq!(found, farthest_first(&embeddings, &[1, 0, 5, 3, 2, 4], 6));
        assert_eq!(found, [1, 5, 0, 3, 2, 4]);
        Ok(())
    })
}

/// A sample with groups of many sizes is the CPU's, whichever of them go to the device.
#[test]
fn groups_of_all_sizes_are_chosen_as_on_the_cpu() -> Result<()> {
    const PAIRS: usize = 90;
    let ids: Vec<String> = (0..PAIRS).map(|i| format!("p{i:02}")).collect();
    let item = |i: usize| {
        // Half of the pairs have one source, a quarter the next, and so on.
        let source = ["a", "b", "c", "d", "e", "f", "g"][i.trailing_ones() as usize];
        Item { id: &ids[i], step: &ids[i], source, bin: 0, complexity: (i * 7 % 11) as u32, gold: true }
    };
    let items: Vec<Item<'_>> = (0..PAIRS).map(item).collect();
    let options = SampleOptions { count: 40, holdout: Holdout::Count(6), ..SampleOptions::default() };
    let embeddings = unit(PAIRS, 24, 8);
    let expected = bmds(&items, &options, Some(&embeddings)).unwrap();
    assert_ne!(expected, bmds(&items, &options, None).unwrap());
    everywhere(|gpu| {
        for (least, device, cpu) in [(0, 7, 0), (24 * 20, 2, 5), (usize::MAX, 0, 7)] {
            let mut chooser = Chooser::new(gpu.clone(), least)?;
            let found: std::result::Result<Sample, Box<dyn std::error::Error>> =
                bmds_by(&items, &options, |pool, quota| Ok(chooser.choose(&embeddings, pool, quota)?));
            assert_eq!(found.unwrap(), expected);
            assert_eq!((chooser.on_device, chooser.on_cpu), (device, cpu), "from {least} numbers");
        }
        Ok(())
    })?;
    let twice: std::result::Result<Sample, DuplicateId> =
        bmds_by(&[items[0], items[0]], &options, |pool, _| Ok(pool.to_vec()));
    assert_eq!(twice, Err(DuplicateId("p00".into())));
    Ok(())
}

#[test]
fn no_rows_are_no_launch() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let (kernels, embeddings) = (SimilarityKernels::new(&gpu)?, unit(3, 4, 1));
    assert!(kernels.farthest_first(&gpu, &embeddings, &[], 2)?.0.is_empty());
    assert!(kernels.farthest_first(&gpu, &embeddings, &[2, 0], 0)?.0.is_empty());
    Ok(())
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let embeddings = unit(70, 40, 5);
    let pool: Vec<usize> = (0..70).collect();
    let run =
        |gpu: &Gpu, kernels: &SimilarityKernels| Ok(kernels.farthest_first(gpu, &embeddings, &pool, 9)?.0);
    same_bits(|gpu| run(gpu, &SimilarityKernels::new(gpu)?))?;
    no_barrier_can_be_removed(SIMILARITY, 2, |gpu, source| {
        run(gpu, &SimilarityKernels::of_module(gpu.compile("similarity.cu", source)?)).map(drop)
    })
}
