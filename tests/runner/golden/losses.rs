//! Losses and gradients of TRL, cases of JSON.

use std::path::{Path, PathBuf};

use policy_loss::{Advantages, LossConfig, Normalizer, Real, TokenBatch};
use serde_json::{Value, json};

use crate::{entries, golden_dir, near, only};

const CASE_FIELDS: [&str; 14] = [
    "kind",
    "name",
    "source",
    "objective",
    "aggregation",
    "kl",
    "correction",
    "logp",
    "logp_old",
    "logp_mu",
    "logp_ref",
    "mask",
    "adv",
    "expect",
];
const EXPECT_FIELDS: [&str; 4] = ["loss", "grad_logp", "clip_low_frac", "clip_high_frac"];

fn number(value: &Value, what: &str) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| format!("{what} is {value}, expected a number"))
}

fn array<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{what} is {value}, expected an array"))
}

fn numbers(value: &Value, what: &str) -> Result<Vec<f64>, String> {
    array(value, what)?.iter().map(|v| number(v, what)).collect()
}

/// An `[N, T]` array as its rows; `None` when the case has none of that name.
fn matrix(case: &Value, name: &str) -> Result<Option<Vec<Vec<f64>>>, String> {
    let Some(value) = case.get(name) else { return Ok(None) };
    let rows: Vec<Vec<f64>> =
        array(value, name)?.iter().map(|r| numbers(r, name)).collect::<Result<_, _>>()?;
    match rows.iter().find(|r| r.len() != rows[0].len()) {
        Some(row) => Err(format!("{name} has rows of {} and of {} numbers", rows[0].len(), row.len())),
        None => Ok(Some(rows)),
    }
}

fn case(case: &Value) -> Result<(), String> {
    match case["kind"].as_str() {
        Some("policy_loss") => policy_loss_case(case),
        _ => Err(format!("unknown kind {}", case["kind"])),
    }
}

fn policy_loss_case(case: &Value) -> Result<(), String> {
    only(case, &CASE_FIELDS, "the case")?;
    only(&case["expect"], &EXPECT_FIELDS, "expect")?;
    let mut config = json!({
        "objective": case["objective"],
        "aggregation": case["aggregation"],
        // The peers compute with whatever they are given.
        "allow_positive_logp": true,
        "log_ratio_clamp": null,
    });
    for term in ["kl", "correction"] {
        if let Some(value) = case.get(term) {
            config[term] = value.clone();
        }
    }
    if let Some(kl) = config.get_mut("kl").and_then(Value::as_object_mut) {
        kl.entry("clamp").or_insert(json!(false));
    }
    let config: LossConfig = serde_json::from_value(config).map_err(|e| e.to_string())?;
    in_type::<f64>(case, &config, 1e-9)?;
    in_type::<f32>(case, &config, 1e-5)
}

/// Loss and gradient within `tolerance` of what is expected, relative to it. A loss or gradient near zero is what
/// remains of terms near 1, so relative to no less than 0.01.
fn in_type<F: Real>(case: &Value, config: &LossConfig, tolerance: f64) -> Result<(), String> {
    let scale = |wanted: f64| tolerance * wanted.abs().max(1e-2);
    let logp = matrix(case, "logp")?.ok_or("no logp")?;
    let width = logp.first().map_or(0, Vec::len);
    let offsets: Vec<usize> = (0..=logp.len()).map(|i| i * width).collect();
    let flat = |name: &str| -> Result<Option<Vec<F>>, String> {
        let rows = matrix(case, name)?;
        Ok(rows.map(|rows| rows.concat().into_iter().map(F::of).collect()))
    };
    let mut mask = Vec::new();
    for value in matrix(case, "mask")?.ok_or("no mask")?.concat() {
        if value != 0.0 && value != 1.0 {
            return Err(format!("mask holds {value}, expected 0 or 1"));
        }
        mask.push(value == 1.0);
    }
    let per_token = array(&case["adv"], "adv")?.first().is_some_and(Value::is_array);
    let adv: Vec<F> = if per_token {
        flat("adv")?.ok_or("no adv")?
    } else {
        numbers(&case["adv"], "adv")?.into_iter().map(F::of).collect()
    };
    let advantages = if per_token { Advantages::PerToken(&adv) } else { Advantages::PerSequence(&adv) };
    let logp = logp.concat().into_iter().map(F::of).collect::<Vec<F>>();
    let (old, mu, reference) = (flat("logp_old")?, flat("logp_mu")?, flat("logp_ref")?);
    let batch = TokenBatch {
        logp_old: old.as_deref(),
        logp_mu: mu.as_deref(),
        logp_ref: reference.as_deref(),
        mask: Some(&mask),
        ..TokenBatch::new(&offsets, &logp, advantages)
    };
    let loss = config.clone().validate().map_err(|e| e.to_string())?;
    let out = loss.evaluate(&batch, &Normalizer::default()).map_err(|e| e.to_string())?;
    let expect = &case["expect"];
    let wanted = number(&expect["loss"], "the expected loss")?;
    near("loss", out.loss, wanted, scale(wanted))?;
    let gradient = matrix(expect, "grad_logp")?.ok_or("no expected gradient")?.concat();
    if out.grad_logp.len() != gradient.len() {
        return Err(format!("{} gradients, expected {}", out.grad_logp.len(), gradient.len()));
    }
    for (i, (found, wanted)) in out.grad_logp.iter().zip(&gradient).enumerate() {
        near(&format!("gradient {i}"), (*found).into(), *wanted, scale(*wanted))?;
    }
    for side in ["low", "high"] {
        let Some(wanted) = expect.get(format!("clip_{side}_frac")) else { continue };
        let wanted = number(wanted, &format!("clip_{side}_frac"))?;
        let names = [format!("clip/{side}_frac"), format!("cispo/{side}_frac")];
        let found = names.iter().find_map(|n| out.metrics.get(n)).ok_or("no clip share")?;
        near(&format!("clip_{side}_frac"), found, wanted, 1e-9)?;
    }
    Ok(())
}

/// Runs every case of a file: their number and what failed, or why the file is none.
fn file(text: &str) -> Result<(usize, Vec<String>), String> {
    let cases: Vec<Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if cases.is_empty() {
        return Err("the file holds no case".into());
    }
    let failures = cases.iter().enumerate().filter_map(|(i, value)| {
        let reason = case(value).err()?;
        Some(format!("case {i} ({}): {reason}", value["name"]))
    });
    Ok((cases.len(), failures.collect()))
}

fn is_policy_loss(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("policy_loss") && name.ends_with(".json")
}

#[test]
fn policy_losses() {
    let files: Vec<PathBuf> = entries(&golden_dir()).into_iter().filter(|p| is_policy_loss(p)).collect();
    assert!(!files.is_empty(), "no policy_loss*.json in {}", golden_dir().display());
    let mut failures = Vec::new();
    for path in files {
        match file(&std::fs::read_to_string(&path).unwrap()) {
            Ok((count, failed)) => {
                println!("{}: {count} cases", path.display());
                failures.extend(failed.into_iter().map(|f| format!("{}: {f}", path.display())));
            }
            Err(reason) => failures.push(format!("{}: {reason}", path.display())),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A case of one token, worked out by hand: `r = e^0.1`, loss `−r`, gradient `−r`.
fn good() -> Value {
    json!({
        "kind": "policy_loss", "name": "by hand", "source": "by hand",
        "objective": { "kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.2 },
        "aggregation": { "mode": "token_mean", "seq_count": "all" },
        "logp": [[-0.9]], "logp_old": [[-1.0]], "mask": [[1]], "adv": [1.0],
        "expect": { "loss": -(0.1f64.exp()), "grad_logp": [[-(0.1f64.exp())]],
            "clip_low_frac": 0.0, "clip_high_frac": 0.0 },
    })
}

#[test]
fn cases_that_are_wrong_or_not_understood_fail() {
    case(&good()).unwrap();
    let per_token = json!([[1.0]]);
    let with = |path: &[&str], value: Value| {
        let mut bad = good();
        *path.iter().fold(&mut bad, |at, name| &mut at[*name]) = value;
        case(&bad)
    };
    with(&["adv"], per_token).unwrap();
    for (path, value, reason) in [
        (&["kind"][..], json!("magic"), "unknown kind \"magic\""),
        (&["kind"], Value::Null, "unknown kind null"),
        (&["surprise"], json!(1), "unknown field `surprise` in the case"),
        (&["expect", "surprise"], json!(1), "unknown field `surprise` in expect"),
        (&["expect"], json!(1), "expect is not an object"),
        (&["objective", "surprise"], json!(1), "unknown field `surprise`"),
        (&["objective", "kind"], json!("magic"), "unknown variant `magic`"),
        (&["aggregation", "surprise"], json!(1), "unknown field `surprise`"),
        (&["kl"], json!({ "kind": "k3", "beta": 0.1, "surprise": 1 }), "unknown field `surprise`"),
        (&["kl"], json!({ "kind": "k3", "beta": 0.1 }), "needs logp_ref"),
        (&["correction"], json!({ "surprise": 1 }), "unknown field `surprise`"),
        (&["logp"], json!(1.0), "logp is 1.0, expected an array"),
        (&["logp"], json!([[null]]), "logp is null, expected a number"),
        (&["logp"], json!([[-0.9], [-0.9, -0.8]]), "rows of 1 and of 2"),
        (&["logp_old"], json!("-1.0"), "logp_old is \"-1.0\", expected an array"),
        (&["logp_ref"], Value::Null, "logp_ref is null, expected an array"),
        (&["mask"], json!([[0.5]]), "mask holds 0.5"),
        (&["adv"], json!(1.0), "adv is 1.0, expected an array"),
        (&["expect", "loss"], json!(-1.105), "loss -1.10517"),
        (&["expect", "loss"], json!("nan"), "the expected loss is \"nan\", expected a number"),
        (&["expect", "grad_logp"], json!([[-1.105]]), "gradient 0 -1.10517"),
        (&["expect", "grad_logp"], json!([[]]), "1 gradients, expected 0"),
        (&["expect", "clip_low_frac"], json!("0"), "clip_low_frac is \"0\", expected a number"),
        (&["expect", "clip_high_frac"], json!(0.5), "clip_high_frac 0, expected 0.5"),
    ] {
        let error = with(path, value).expect_err(reason);
        assert!(error.contains(reason), "{error}, expected: {reason}");
    }
    assert!(near("loss", f64::NAN, 1.0, 1e9).is_err() && near("loss", 1.0, f64::NAN, 1e9).is_err());
    assert_eq!(file("[]").unwrap_err(), "the file holds no case");
    assert!(file("{}").is_err());
    let (count, failures) = file(&json!([good(), { "kind": "magic", "name": "x" }]).to_string()).unwrap();
    assert_eq!((count, failures), (2, vec!["case 1 (\"x\"): unknown kind \"magic\"".to_owned()]));
}
