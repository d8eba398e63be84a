//! Masked log-probabilities and gradients: definition (f64), CPU (f32) and kernels agree.

use cuda_twin::{Gpu, Result, args};
use half::bf16;

use super::{Element, after, close, everywhere, no_barrier_can_be_removed, noise, same_bits, set, table};
use crate::kernels::{DeviceTable, KeptTokens, LogprobKernels, RowMasks, compile};
use crate::sources::LOGPROB;
use crate::utf8::Pending;
use crate::{FamilySet, FamilyTable, RowMask, reference};

struct Case<T> {
    table: FamilyTable,
    temperature: f32,
    logits: Vec<T>,
    masks: Vec<(Pending, FamilySet)>,
    /// What truncation kept.
    kept: Vec<Option<Vec<u32>>>,
    targets: Vec<i32>,
    upstream: Vec<f32>,
}

/// Rows without a mask, with masks, behind a pending byte, with banned tokens, padding with NaN in it, and an upstream of 0; of each
/// some that were truncated to a few tokens or to many, with NaN among the others.
fn case<T: Element>(rows: usize, vocabulary: usize, temperature: f32, seed: u64) -> Case<T> {
    let table = table(vocabulary);
    let mut logits: Vec<f32> = noise(rows * vocabulary, seed).iter().map(|z| 6.0 * z).collect();
    let mut upstream = noise(rows, seed + 1);
    let masks: Vec<(Pending, FamilySet)> = (0..rows)
        .map(|r| {
            let pending = if r % 3 == 2 { after(&table, 0xE3) } else { Pending::default() };
            let denied = match r % 4 {
                0 => FamilySet::EMPTY,
                1 => set(&table, &["han", "kana"]),
                2 => set(&table, &["cyrillic", "hangul"]),
                _ => set(&table, &["latin", "han"]),
            };
            (pending, denied)
        })
        .collect();
    let (mut targets, mut kept) = (vec![0; rows], vec![None; rows]);
    let chance = noise(rows * vocabulary, seed + 2);
    for (r, row) in logits.chunks_mut(vocabulary).enumerate() {
        let (view, denied) = (table.view(masks[r].0), masks[r].1);
        let allowed = |v: &usize| !view.denies(denied, *v);
        let start = r * 31 % vocabulary;
        let target = (start..vocabulary).chain(0..start).find(allowed);
        targets[r] = target.map_or(-1, |v| v as i32);
        match r % 5 {
            2 => (0..vocabulary)
                .filter(|v| v % 2 == 0 && Some(*v) != target)
                .for_each(|v| row[v] = f32::NEG_INFINITY),
            3 => {
                row.fill(f32::NAN);
                targets[r] = -1;
            }
            4 => upstream[r] = 0.0,
            _ => {}
        }
        if let (Some(target), 1.., false) = (target, r % 7, r % 5 == 3) {
            let least = [0.9, -0.2][r % 2];
            let held = |v: &usize| *v == target || chance[r * vocabulary + v] > least;
            kept[r] = Some((0..vocabulary).filter(held).map(|v| v as u32).collect());
            (0..vocabulary).filter(|v| !held(v)).step_by(2).for_each(|v| row[v] = f32::NAN);
        }
    }
    Case {
        table,
        temperature,
        logits: logits.iter().map(|z| T::round(*z)).collect(),
        masks,
        kept,
        targets,
        upstream,
    }
}

impl<T: Element> Case<T> {
    fn kernels(&self, gpu: &Gpu, kernels: &LogprobKernels) -> Result<(Vec<f32>, Vec<T>)> {
        let device = DeviceTable::new(gpu, &self.table)?;
        let views: Vec<_> = self.masks.iter().map(|(p, d)| (self.table.view(*p), *d)).collect();
        let masks = RowMasks::new(gpu, &views)?;
        let kept = KeptTokens::new(gpu, self.table.len(), self.kept.iter().map(Option::as_deref))?;
        let (logits, targets) = (gpu.upload(&self.logits)?, gpu.upload(&self.targets)?);
        let (scores, upstream) = (gpu.uninit::<f32>(4 * self.targets.len())?, gpu.upload(&self.upstream)?);
        let [l, t, s, u] = args![&logits, &targets, &scores, &upstream];
        let (dtype, temperature) = (T::DTYPE, self.temperature);
        // SAFETY: buffers of the shape; targets lie in the vocabulary.
        unsafe {
            kernels.forward(dtype, &device, &masks, &kept, temperature, l.clone(), [t.clone(), s.clone()])
        }?;
        // SAFETY: as before.
        unsafe { kernels.backward(dtype, &device, &masks, &kept, temperature, l, [t, s, u]) }?;
        Ok((scores.read()?, logits.read()?))
    }

    fn check(&self, gpu: &Gpu, kernels: &LogprobKernels) -> Result<()> {
        let (scores, gradient) = self.kernels(gpu, kernels)?;
        let width = self.table.len();
        for r in 0..self.targets.len() {
            let what = format!("row {r} of {width}");
            let d: Vec<f32> = gradient[r * width..][..width].iter().map(|d| d.wide()).collect();
            let Ok(token) = u32::try_from(self.targets[r]) else {
                assert_eq!(scores[4 * r..][..4], [0.0; 4], "{what}");
                assert!(d.iter().all(|d| d.to_bits() == 0), "{what}");
                continue;
            };
            let row: Vec<f32> = self.logits[r * width..][..width].iter().map(|z| z.wide()).collect();
            let (pending, denied) = self.masks[r];
            let kept = self.kept[r].as_deref().map(Into::into);
            let mask = RowMask { view: self.table.view(pending), denied, kept };
            let allowed: Vec<bool> = (0..width as u32).map(|v| mask.allows(v)).collect();
            let z: Vec<f64> = row.iter().map(|z| f64::from(*z)).collect();
            let (logprob, slope) =
                reference::masked_logprob(&z, &allowed, token as usize, self.temperature.into());
            let fast = mask.logprob(r, &row, token, self.temperature).unwrap();
            close(&what, scores[4 * r], logprob, 2e-5, 2e-5);
            close(&what, fast, logprob, 2e-5, 2e-5);
            assert_eq!(scores[4 * r + 3], 0.0);
            let mut fast = vec![0.0; width];
            mask.add_gradient(r, &row, token, self.temperature, self.upstream[r], &mut fast).unwrap();
            let rounding = if size_of::<T>() == 2 { 5e-3 } else { 3e-5 };
            for v in 0..width {
                let expected = slope[v] * f64::from(self.upstream[r]);
                close(&what, d[v], expected, rounding, 1e-6);
                close(&what, fast[v], expected, 3e-5, 1e-6);
                assert!(allowed[v] || d[v].to_bits() == 0, "{what}: token {v} outside the support");
            }
        }
        Ok(())
    }
}

#[test]
fn log_probabilities_and_gradients_agree() -> Result<()> {
    everywhere(|gpu| {
        let kernels = LogprobKernels::new(gpu)?;
        for (seed, (rows, vocabulary, temperature)) in
            [(1, 1, 1.0), (9, 31, 0.7), (10, 33, 1.0), (6, 130, 2.0), (5, 1030, 1.0)].into_iter().enumerate()
        {
            case::<f32>(rows, vocabulary, temperature, seed as u64).check(gpu, &kernels)?;
            case::<bf16>(rows, vocabulary, temperature, seed as u64).check(gpu, &kernels)?;
        }
        for (seed, size) in noise(6, 77).iter().enumerate() {
            let size = size.to_bits() as usize;
            let (rows, vocabulary) = (1 + size % 9, 1 + size / 16 % 300);
            case::<f32>(rows, vocabulary, 1.3, 100 + seed as u64).check(gpu, &kernels)?;
        }
        Ok(())
    })
}

/// A corrupt record is told, and gives no gradient.
#[test]
fn a_record_that_denies_its_own_token_is_told() -> Result<()> {
    everywhere(|gpu| {
        let mut case = case::<f32>(2, 40, 1.0, 3);
        let denied = (0..40).find(|v| case.table.view(case.masks[1].0).denies(case.masks[1].1, *v)).unwrap();
        case.targets[1] = denied as i32;
        let (scores, gradient) = case.kernels(gpu, &LogprobKernels::new(gpu)?)?;
        assert!(scores[4].is_nan() && scores[7] == 1.0 && scores[3] == 0.0);
        assert!(gradient[40..].iter().all(|d| d.to_bits() == 0));
        Ok(())
    })
}

/// So is one whose token truncation left out.
#[test]
fn a_record_without_its_own_token_is_told() -> Result<()> {
    everywhere(|gpu| {
        let mut case = case::<f32>(2, 40, 1.0, 3);
        let target = case.targets[1].cast_unsigned();
        case.kept[1] = Some((0..40).filter(|v| *v != target).collect());
        case.logits.iter_mut().for_each(|z| *z = z.max(-9.0));
        let kernels = LogprobKernels::new(gpu)?;
        let (scores, gradient) = case.kernels(gpu, &kernels)?;
        assert!(scores[4].is_nan() && scores[7] == 1.0 && scores[3] == 0.0);
        assert!(gradient[40..].iter().all(|d| d.to_bits() == 0));
        for (kept, found) in [(vec![None], "1 rows of 40 tokens"), (vec![None, Some(vec![40])], "40")] {
            case.kept = kept;
            let refused = case.kernels(gpu, &kernels).unwrap_err().to_string();
            assert!(refused.contains("kept token") && refused.contains(found), "{refused}");
        }
        Ok(())
    })
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let case = case::<f32>(3, 200, 1.0, 2);
    same_bits(|gpu| {
        case.kernels(gpu, &LogprobKernels::new(gpu)?)
            .map(|(scores, d)| (scores.iter().map(|s| s.to_bits()).collect::<Vec<_>>(), d))
    })?;
    no_barrier_can_be_removed(LOGPROB, 3, |gpu, source| {
        let kernels = LogprobKernels::of_module(compile(gpu, "logprob.cu", source)?);
        case.kernels(gpu, &kernels).map(drop)
    })
}
