//! The kernels draw what the CPU draws.

use cuda_twin::{Gpu, Options, Result, args};
use half::bf16;

use super::{Element, after, close, everywhere, no_barrier_can_be_removed, noise, same_bits, set, table};
use crate::kernels::{DeviceTable, RowMasks, SampleKernels, SampleShape, Workspace, compile};
use crate::reference::{decide, softmax, support};
use crate::sources::SAMPLE;
use crate::utf8::Pending;
use crate::{
    Decision, FamilySet, FamilyTable, GateState, Noise, PassReason, Plan, Rules, Sampling, Step, Widen,
    sample,
};

struct Case<T> {
    table: FamilyTable,
    logits: Vec<T>,
    plans: Vec<(Pending, Plan)>,
    noises: Vec<Noise>,
}

/// Rows of every kind: plain, with bans, equals, large logits, one finite logit; gates of every kind.
fn case<T: Element>(rows: usize, vocabulary: usize, seed: u64) -> Case<T> {
    let table = table(vocabulary);
    let mut logits: Vec<f32> = noise(rows * vocabulary, seed).iter().map(|z| 6.0 * z).collect();
    for (r, row) in logits.chunks_mut(vocabulary).enumerate() {
        match r % 6 {
            1 => row.iter_mut().skip(1).step_by(3).for_each(|z| *z = f32::NEG_INFINITY),
            2 => row.iter_mut().for_each(|z| *z = z.round() / 2.0),
            3 => row.iter_mut().for_each(|z| *z *= 500.0),
            4 => (1..vocabulary).for_each(|v| row[v] = f32::NEG_INFINITY),
            _ => {}
        }
    }
    let rules = Rules { require_letter: false, ..Rules::default() };
    let plans = (0..rows)
        .map(|r| {
            let pending = if r % 3 == 1 { after(&table, 0xE3) } else { Pending::default() };
            let state = GateState { pending, generated: 1, ..GateState::default() };
            let predicted = match r % 5 {
                0 => set(&table, &["cyrillic"]),
                1 => set(&table, &["latin", "symbols"]),
                2 => FamilySet::FULL,
                3 => set(&table, &["thai"]),
                _ => set(&table, &["han", "kana"]),
            };
            (pending, rules.plan(table.taxonomy(), FamilySet::EMPTY, &state, Some(predicted)))
        })
        .collect();
    let noises = (0..rows as u32)
        .map(|r| Noise { seed: seed << 33 | 7, sequence: (1 << 40) + u64::from(r), position: 3 * r })
        .collect();
    Case { table, logits: logits.iter().map(|z| T::round(*z)).collect(), plans, noises }
}

type Draws = (Vec<i32>, Vec<f32>);

impl<T: Element> Case<T> {
    fn kernels(&self, gpu: &Gpu, kernels: &SampleKernels, shape: &SampleShape) -> Result<Draws> {
        self.kernels_of(256, gpu, kernels, shape)
    }

    /// With a number of threads for truncations.
    fn kernels_of(
        &self,
        threads: u32,
        gpu: &Gpu,
        kernels: &SampleKernels,
        shape: &SampleShape,
    ) -> Result<Draws> {
        let (rows, device) = (self.plans.len(), DeviceTable::new(gpu, &self.table)?);
        let views: Vec<_> = self.plans.iter().map(|(p, plan)| (self.table.view(*p), plan.denied)).collect();
        let (masks, workspace) = (RowMasks::new(gpu, &views)?, Workspace::new(gpu, rows, shape.splits)?);
        let predicted: Vec<u32> = self.plans.iter().map(|(_, plan)| plan.predicted.0).collect();
        let words = |n: &Noise| {
            [n.seed as u32, (n.seed >> 32) as u32, n.sequence as u32, (n.sequence >> 32) as u32, n.position]
        };
        let keys: Vec<u32> = self.noises.iter().flat_map(words).collect();
        let (logits, predicted, keys) =
            (gpu.upload(&self.logits)?, gpu.upload(&predicted)?, gpu.upload(&keys)?);
        let (ints, floats) = (gpu.uninit::<i32>(4 * rows)?, gpu.uninit::<f32>(2 * rows)?);
        let [l, p, k, i, f] = args![&logits, &predicted, &keys, &ints, &floats];
        // SAFETY: buffers of the rows' sizes.
        unsafe {
            kernels.sample_with(threads, T::DTYPE, shape, &device, &masks, &workspace, l, [p, k], [i, f])
        }?;
        Ok((ints.read()?, floats.read()?))
    }

    fn cpu(&self, shape: &SampleShape) -> Vec<Step> {
        let width = self.table.len();
        let row = |r: usize| {
            let logits: Vec<f32> = self.logits[r * width..][..width].iter().map(|z| z.wide()).collect();
            let (pending, plan) = &self.plans[r];
            let view = self.table.view(*pending);
            sample(r, &logits, &shape.sampling, shape.widen, plan, &view, &self.noises[r]).unwrap()
        };
        (0..self.plans.len()).map(row).collect()
    }
}

fn code(decision: Decision) -> i32 {
    match decision {
        Decision::Pass(PassReason::NoEffect) => 1,
        Decision::Pass(PassReason::Contradicted) => 2,
        Decision::Pass(_) => 0,
        Decision::Intervene { widened: false, .. } => 3,
        Decision::Intervene { widened: true, .. } => 4,
    }
}

fn samplings() -> Vec<Sampling> {
    let all = Sampling::default();
    vec![
        all,
        Sampling { temperature: 0.7, ..all },
        Sampling { top_k: 1, ..all },
        Sampling { top_k: 20, top_p: 0.8, temperature: 0.8 },
        Sampling { top_k: 32, top_p: 1.0, temperature: 1.5 },
        Sampling { temperature: 0.0, ..all },
        Sampling { top_p: 0.9, ..all },
        Sampling { top_k: 50, top_p: 0.95, temperature: 0.8 },
        Sampling { top_k: 200, top_p: 1.0, temperature: 1.5 },
        Sampling { top_p: 0.02, temperature: 3.0, ..all },
    ]
}

fn agrees<T: Element>(gpu: &Gpu, rows: usize, vocabulary: usize, seed: u64, splits: usize) -> Result<()> {
    let case = case::<T>(rows, vocabulary, seed);
    let kernels = SampleKernels::new(gpu)?;
    for (i, sampling) in samplings().into_iter().enumerate() {
        let widen = if (i as u64 + seed).is_multiple_of(2) { Widen::Always } else { Widen::IfEmpty };
        let shape = SampleShape { sampling, widen, splits };
        let (ints, floats) = case.kernels(gpu, &kernels, &shape)?;
        for (r, step) in case.cpu(&shape).iter().enumerate() {
            let what = format!("row {r}, {vocabulary} tokens, {shape:?}");
            let found = &ints[4 * r..][..4];
            // Sums in other orders may put a rank on the other side of a nucleus' edge.
            let flipped = i32::from(step.record.flipped);
            assert_eq!(found, [step.token as i32, code(step.decision), flipped, -1], "{what}");
            close(&what, floats[2 * r], step.record.logprob.into(), 2e-5, 2e-5);
            close(&what, floats[2 * r + 1], step.record.denied_mass.into(), 2e-5, 2e-6);
        }
    }
    Ok(())
}

#[test]
fn draws_agree() -> Result<()> {
    everywhere(|gpu| {
        // Around a warp's tile, a block's tiles, and several splits.
        for (seed, (rows, vocabulary, splits)) in
            [(6, 1, 1), (7, 31, 1), (6, 127, 2), (12, 130, 1), (4, 1025, 3), (2, 2100, 16)]
                .into_iter()
                .enumerate()
        {
            agrees::<f32>(gpu, rows, vocabulary, seed as u64, splits)?;
        }
        agrees::<bf16>(gpu, 6, 260, 9, 2)
    })
}

#[test]
fn a_large_vocabulary_unchecked() -> Result<()> {
    agrees::<f32>(&Gpu::emulated(Options::unchecked()), 4, 20_011, 3, 5)
}

/// Property 30, and 9: a draw depends on neither splits, nor the rows beside it, nor its place.
#[test]
fn draws_depend_on_nothing_else() -> Result<()> {
    let gpu = Gpu::emulated(Options::unchecked());
    let (kernels, case) = (SampleKernels::new(&gpu)?, case::<f32>(12, 700, 4));
    let shape = SampleShape { sampling: Sampling::default(), widen: Widen::Always, splits: 1 };
    let (ints, floats) = case.kernels(&gpu, &kernels, &shape)?;
    for splits in [2, 3, 16] {
        assert_eq!(case.kernels(&gpu, &kernels, &SampleShape { splits, ..shape })?.0, ints, "{splits}");
    }
    for r in 0..12 {
        let alone = Case {
            table: table(700),
            logits: case.logits[700 * r..][..700].to_vec(),
            plans: vec![case.plans[r]],
            noises: vec![case.noises[r]],
        };
        let found = alone.kernels(&gpu, &kernels, &shape)?;
        assert_eq!((&found.0[..], &found.1[..]), (&ints[4 * r..][..4], &floats[2 * r..][..2]));
    }
    Ok(())
}

/// The definition in f64: what is drawn is of the support, with its logarithm of probability there.
#[test]
fn truncated_draws_are_of_the_defined_support() -> Result<()> {
    let gpu = Gpu::emulated(Options::unchecked());
    let (kernels, case) = (SampleKernels::new(&gpu)?, case::<f32>(24, 900, 11));
    let mut sizes = Vec::new();
    for (top_k, top_p, temperature) in [(0, 0.9, 1.0), (0, 0.6, 2.0), (100, 1.0, 1.5), (40, 0.97, 0.9)] {
        let sampling = Sampling { top_k, top_p, temperature };
        let shape = SampleShape { sampling, widen: Widen::Always, splits: 2 };
        let (ints, floats) = case.kernels(&gpu, &kernels, &shape)?;
        for (r, (pending, plan)) in case.plans.iter().enumerate() {
            let row = &case.logits[900 * r..][..900];
            let x: Vec<f64> = row.iter().map(|z| f64::from(*z) / f64::from(temperature)).collect();
            let (user, view) = (support(&x, top_k, top_p), case.table.view(*pending));
            let left = decide(&x, &user, &view, plan.predicted, plan.denied, shape.widen).unwrap_or(user);
            let kept: Vec<f64> = (0..900).map(|v| if left[v] { x[v] } else { f64::NEG_INFINITY }).collect();
            let token = ints[4 * r] as usize;
            assert!(left[token], "row {r} of {sampling:?}");
            close("log-probability", floats[2 * r], softmax(&kept)[token].ln(), 2e-5, 2e-5);
            sizes.push(left.iter().filter(|kept| **kept).count());
        }
    }
    // On both sides of the list of 32.
    assert!(sizes.iter().any(|n| *n < 20) && sizes.iter().any(|n| *n > 200), "{sizes:?}");
    Ok(())
}

/// Masses are integers: neither threads nor splits change a bit, where equals are cut by their ids too.
#[test]
fn truncated_draws_have_the_same_bits_in_every_shape() -> Result<()> {
    let gpu = Gpu::emulated(Options::unchecked());
    let (kernels, case) = (SampleKernels::new(&gpu)?, case::<bf16>(12, 1500, 5));
    for (top_k, top_p) in [(0, 0.9), (333, 1.0), (90, 0.95)] {
        let sampling = Sampling { top_k, top_p, temperature: 1.3 };
        let shape = SampleShape { sampling, widen: Widen::IfEmpty, splits: 1 };
        let expected = case.kernels_of(1024, &gpu, &kernels, &shape)?;
        for (threads, splits) in [(32, 1), (96, 16), (512, 3), (1024, 2)] {
            let found = case.kernels_of(threads, &gpu, &kernels, &SampleShape { splits, ..shape })?;
            assert_eq!(found, expected, "{threads} threads, {splits} parts, {sampling:?}");
        }
    }
    Ok(())
}

#[test]
fn bad_rows_say_so_and_harm_no_other() -> Result<()> {
    everywhere(|gpu| {
        for top_p in [1.0, 0.8] {
            let (kernels, mut case) = (SampleKernels::new(gpu)?, case::<f32>(5, 150, 1));
            let sampling = Sampling { top_p, ..Sampling::default() };
            let shape = SampleShape { sampling, widen: Widen::Always, splits: 2 };
            let (good, _) = case.kernels(gpu, &kernels, &shape)?;
            case.logits[150 + 7] = f32::NAN;
            case.logits[150 + 9] = f32::INFINITY;
            case.logits[2 * 150 + 149] = f32::INFINITY;
            case.logits[3 * 150..4 * 150].fill(f32::NEG_INFINITY);
            let (ints, _) = case.kernels(gpu, &kernels, &shape)?;
            assert_eq!([ints[7], ints[11], ints[15]], [7, 149, -2]);
            assert_eq!((&ints[..4], &ints[16..]), (&good[..4], &good[16..]));
        }
        Ok(())
    })
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let case = case::<f32>(3, 1150, 2);
    let sampling = Sampling { top_p: 0.9, ..Sampling::default() };
    let shape = SampleShape { sampling, widen: Widen::Always, splits: 2 };
    same_bits(|gpu| case.kernels(gpu, &SampleKernels::new(gpu)?, &shape))?;
    no_barrier_can_be_removed(SAMPLE, 6, |gpu, source| {
        let kernels = SampleKernels::of_module(compile(gpu, "sample.cu", source)?);
        case.kernels(gpu, &kernels, &shape).map(drop)
    })
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let (kernels, case) = (SampleKernels::new(&gpu)?, case::<f32>(2, 40, 1));
    let shape = SampleShape { sampling: Sampling::default(), widen: Widen::Always, splits: 1 };
    let of =
        |sampling| case.kernels(&gpu, &kernels, &SampleShape { sampling, ..shape }).unwrap_err().to_string();
    assert!(of(Sampling { top_p: 1.5, ..Sampling::default() }).contains("top_p"));
    assert!(of(Sampling { temperature: f32::NAN, ..Sampling::default() }).contains("temperature"));
    let splits = SampleShape { splits: 70_000, ..shape };
    assert!(case.kernels(&gpu, &kernels, &splits).unwrap_err().to_string().contains("70000"));
    assert_eq!(SampleShape::splits_for(64), 1);
    assert_eq!(SampleShape::splits_for(8), 16);
    assert_eq!(SampleShape::splits_for(32), 9);
    Ok(())
}
