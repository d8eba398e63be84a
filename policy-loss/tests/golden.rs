//! Numbers that TRL's own code gave.
#![allow(missing_docs, clippy::unwrap_used)]

use policy_loss::{Advantages, LossConfig, Normalizer, TokenBatch};
use serde_json::Value;

fn flat(case: &Value, name: &str) -> Option<Vec<f64>> {
    let rows = case.get(name)?.as_array()?;
    Some(rows.iter().flat_map(|r| r.as_array().unwrap()).map(|v| v.as_f64().unwrap()).collect())
}

#[test]
fn every_case_of_the_golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/policy_loss.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() >= 48);
    for case in &cases {
        let mut config = serde_json::json!({ "objective": case["objective"], "aggregation": case["aggregation"],
            "allow_positive_logp": true, "log_ratio_clamp": null });
        for term in ["kl", "correction"] {
            if let Some(value) = case.get(term) {
                config[term] = value.clone();
            }
        }
        let config: LossConfig = serde_json::from_value(config).unwrap();
        let loss = config.validate().unwrap();
        let logp = flat(case, "logp").unwrap();
        let rows = case["logp"].as_array().unwrap().len();
        let offsets: Vec<usize> = (0..=rows).map(|i| i * logp.len() / rows).collect();
        let mask: Vec<bool> = flat(case, "mask").unwrap().iter().map(|m| *m != 0.0).collect();
        let adv: Vec<f64> = case["adv"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let (old, mu, reference) = (flat(case, "logp_old"), flat(case, "logp_mu"), flat(case, "logp_ref"));
        let batch = TokenBatch {
            logp_old: old.as_deref(),
            logp_mu: mu.as_deref(),
            logp_ref: reference.as_deref(),
            mask: Some(&mask),
            ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv))
        };
        let out = loss.evaluate(&batch, &Normalizer::default()).unwrap();
        let expect = &case["expect"];
        let name = case["name"].as_str().unwrap();
        let want = expect["loss"].as_f64().unwrap();
        assert!(
            (out.loss - want).abs() <= 1e-9 * want.abs().max(1e-3),
            "{name}: {} against {want}",
            out.loss
        );
        for (i, (g, w)) in out.grad_logp.iter().zip(flat(expect, "grad_logp").unwrap()).enumerate() {
            assert!((g - w).abs() <= 1e-9, "{name}: gradient {i} is {g}, expected {w}");
        }
        for (metric, ours) in [("clip_low_frac", "clip/low_frac"), ("clip_high_frac", "clip/high_frac")] {
            if let Some(want) = expect.get(metric).and_then(Value::as_f64) {
                let found =
                    out.metrics.get(ours).or(out.metrics.get(&ours.replace("clip/", "cispo/"))).unwrap();
                assert!((found - want).abs() < 1e-6, "{name}: {metric} is {found}, expected {want}");
            }
        }
    }
}
