//! Replay: log-probabilities and gradients under recorded masks.
#![allow(clippy::unwrap_used)]

mod common;

use common::case::case;
use common::close;
use lcg::record::MaskRecord;
use lcg::{FamilySet, RowMask, Support, draw, reference};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Property 25: at unchanged weights the replayed log-probability has the bits of the recorded one; and 27: 8 bytes say it.
    #[test]
    fn replay_has_the_bits_of_the_rollout(case in case()) {
        let temperature = case.sampling.temperature.max(0.3);
        let view = case.table.view(case.state.pending);
        let step =
            draw(0, &case.logits, temperature, Support::All, case.rules.widen, &case.plan(), &view, &case.noise).unwrap();
        let recorded = [step.record.denied.0, case.state.pending.pack()];
        let pending = lcg::utf8::Pending::unpack(recorded[1]).unwrap();
        let mask = RowMask { view: case.table.view(pending), denied: FamilySet(recorded[0]), kept: None };
        let replayed = mask.logprob(0, &case.logits, step.token, temperature).unwrap();
        prop_assert_eq!(replayed.to_bits(), step.record.logprob.to_bits());
        prop_assert_eq!((replayed - step.record.logprob).exp(), 1.0);
        // Without the mask the ratio is the allowed mass.
        let full = RowMask { denied: FamilySet::EMPTY, ..mask.clone() };
        let unmasked = full.logprob(0, &case.logits, step.token, temperature).unwrap();
        let mass = 1.0 - f64::from(step.record.denied_mass);
        prop_assert!((f64::from(unmasked - replayed).exp() - mass).abs() < 3e-5 * mass.max(0.1) + 1e-6);
    }

    /// Property 27 under truncation: what was kept goes through the record's bytes, is what the definition keeps, and gives the
    /// recorded log-probability bit for bit.
    #[test]
    fn a_truncated_support_is_replayed_from_bytes(case in case(), version in any::<u32>()) {
        prop_assume!(case.clear() && case.sampling.temperature > 0.0);
        let plan = case.plan();
        let (_, user, left) = case.defined(&plan);
        let step = case.step(&plan);
        let kept = left.unwrap_or(user);
        let support: Vec<u32> = (0..kept.len() as u32).filter(|v| kept[*v as usize]).collect();
        let mut record = MaskRecord::default();
        record.push(&case.state, &step);
        // In any order, and what was said before is forgotten.
        let given: Vec<u32> = support.iter().rev().copied().chain([support[0], u32::MAX]).collect();
        record.push_support(&[0, 1], case.table.len());
        record.push_support(&given, case.table.len());
        let (back, found) = MaskRecord::from_bytes(&record.to_bytes(&case.table, version), &case.table).unwrap();
        prop_assert_eq!((&back, found), (&record, version));
        let mask = back.mask(&case.table, 0).unwrap();
        for v in 0..kept.len() {
            prop_assert_eq!(mask.allows(v as u32), kept[v], "token {}", v);
        }
        let replayed = mask.logprob(0, &case.logits, step.token, case.sampling.temperature).unwrap();
        prop_assert_eq!(replayed.to_bits(), step.record.logprob.to_bits());
    }

    /// Properties 26 and 28: gradients against the definition, whose own are checked by finite differences.
    #[test]
    fn gradients_agree_with_the_definition(case in case(), scale in 0.3f32..2.0) {
        let temperature = scale;
        let view = case.table.view(case.state.pending);
        let step =
            draw(0, &case.logits, temperature, Support::All, case.rules.widen, &case.plan(), &view, &case.noise).unwrap();
        let mask = RowMask { view, denied: step.record.denied, kept: None };
        let allowed: Vec<bool> = (0..case.logits.len() as u32).map(|v| mask.allows(v)).collect();
        let z: Vec<f64> = case.logits.iter().map(|z| f64::from(*z)).collect();
        let (token, t) = (step.token as usize, f64::from(temperature));
        let (logprob, slope) = reference::masked_logprob(&z, &allowed, token, t);
        let (mut d, mut leaked) = (vec![0f32; z.len()], vec![0f32; z.len()]);
        mask.add_gradient(0, &case.logits, step.token, temperature, 1.0, &mut d).unwrap();
        mask.add_leak_gradient(&case.logits, temperature, 1.0, &mut leaked).unwrap();
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        close(&wide(&d), &slope, 2e-5);
        prop_assert!(d.iter().zip(&allowed).all(|(d, a)| *a || d.to_bits() == 0));
        prop_assert!(d.iter().sum::<f32>().abs() < 1e-4);
        if !mask.denied.is_empty() {
            let (leak, leak_slope) = reference::leak(&z, &allowed, t);
            close(&wide(&leaked), &leak_slope, 2e-5);
            close(&[f64::from(mask.leak(&case.logits, temperature).unwrap())], &[leak], 3e-5 * leak.max(1.0));
            prop_assert!(leaked.iter().sum::<f32>().abs() < 1e-4);
        }
        // Finite differences of the definition, in f64, by every logit.
        let masked = |z: &[f64]| reference::masked_logprob(z, &allowed, token, t).0;
        let leak = |z: &[f64]| reference::leak(z, &allowed, t).0;
        let leak_slope = reference::leak(&z, &allowed, t).1;
        for v in (0..z.len()).filter(|v| z[*v].is_finite()) {
            let at = |h: f64, f: &dyn Fn(&[f64]) -> f64| { let mut z = z.clone(); z[v] += h; f(&z) };
            let numeric = |f: &dyn Fn(&[f64]) -> f64| (at(1e-5, f) - at(-1e-5, f)) / 2e-5;
            close(&[numeric(&masked), numeric(&leak)], &[slope[v], leak_slope[v]], 1e-6);
        }
        prop_assert!(logprob <= 1e-12);
        // What truncation kept of it, as well.
        let is_kept = |v: &u32| mask.allows(*v) && (*v == step.token || !v.is_multiple_of(3));
        let kept: Vec<u32> = (0..z.len() as u32).filter(is_kept).collect();
        let allowed: Vec<bool> = (0..z.len() as u32).map(|v| kept.contains(&v)).collect();
        let cut = RowMask { kept: Some(kept.into()), ..mask };
        let (logprob, slope) = reference::masked_logprob(&z, &allowed, token, t);
        let mut d = vec![0f32; z.len()];
        cut.add_gradient(0, &case.logits, step.token, temperature, 1.0, &mut d).unwrap();
        close(&wide(&d), &slope, 2e-5);
        close(&[f64::from(cut.logprob(0, &case.logits, step.token, temperature).unwrap())], &[logprob], 3e-5 * logprob.abs().max(1.0));
    }
}
