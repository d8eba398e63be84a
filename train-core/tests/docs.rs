//! The pages under `docs/` say what the code says. `UPDATE_DOCS=1 cargo test -p train-core --test docs` writes them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;

use train_core::config::{Config, Layers, PRESETS, keys};
use train_core::metrics::METRICS;

fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is out of date: UPDATE_DOCS=1 cargo test -p train-core --test docs"
    );
}

#[test]
fn configuration() {
    let mut text = include_str!("configuration-head.md").to_owned();
    for preset in PRESETS {
        writeln!(text, "- `{}`: {}", preset.name, preset.about).unwrap();
    }
    let mut section = String::new();
    for (key, default, meaning) in keys() {
        let (head, name) = key.split_once('.').unwrap();
        if head != section {
            section = head.to_owned();
            writeln!(text, "\n## [{section}]\n\n| key | default | meaning |\n|---|---|---|").unwrap();
        }
        writeln!(text, "| `{name}` | `{default}` | {} |", meaning.replace('|', "\\|")).unwrap();
    }
    text.push_str(include_str!("configuration-tail.md"));
    check("configuration.md", &text);
}

#[test]
fn metrics() {
    let mut text = include_str!("metrics-head.md").to_owned();
    for metric in METRICS {
        writeln!(text, "| `{}` | {} |", metric.name, metric.meaning.replace('|', "\\|")).unwrap();
    }
    check("metrics.md", &text);
}

#[test]
fn every_key_is_described_and_typed() {
    let text = Config::preset("reverse").unwrap().to_toml();
    let mut layers = Layers::defaults();
    layers.table(&text, "round trip").unwrap();
    assert_eq!(layers.resolve().unwrap(), Config::preset("reverse").unwrap());
    let described: Vec<String> = keys().into_iter().map(|(key, _, _)| key).collect();
    for (key, _, _) in layers.values() {
        assert!(described.contains(&key), "{key} is not described");
    }
    for (key, _, meaning) in keys() {
        assert!(meaning.len() > 10, "{key} is not explained");
    }
    for preset in PRESETS {
        Config::preset(preset.name).unwrap();
    }
}

/// The configurations of the repository, with the models they name or without.
#[test]
fn configurations_of_the_repository_are_good() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for path in files {
        let mut layers = Layers::defaults();
        layers.file(&path).unwrap();
        layers.resolve().unwrap();
    }
}

#[test]
fn layers_go_over_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.toml");
    std::fs::write(&base, "extends = \"sort\"\n[update]\nlr = 1e-4\n").unwrap();
    let top = dir.path().join("top.toml");
    std::fs::write(&top, "extends = \"base.toml\"\n[update]\nbeta2 = 0.9\n[run]\nsteps = 7\n").unwrap();
    let mut layers = Layers::defaults();
    layers.file(&top).unwrap();
    layers.environment([("TRAINER__RUN__STEPS".to_owned(), "8".to_owned())]).unwrap();
    layers.set("run.seed=3", "--set").unwrap();
    let config = layers.resolve().unwrap();
    assert_eq!((config.data.task.as_str(), config.update.lr, config.update.beta2), ("sort", 1e-4, 0.9));
    assert_eq!((config.run.steps, config.run.seed), (8, 3));
    assert_eq!(layers.origin("data.task"), "preset sort");
    assert!(layers.origin("update.lr").ends_with("base.toml"));
    assert_eq!(layers.origin("run.steps"), "environment variable TRAINER__RUN__STEPS");
    assert_eq!(layers.origin("update.eps"), "default");
    std::fs::write(&base, "extends = \"top.toml\"\n").unwrap();
    assert!(Layers::defaults().file(&top).unwrap_err().to_string().contains("extends itself"));
}

#[test]
fn overrides_reach_the_loss() {
    let mut layers = Layers::preset("reverse").unwrap();
    layers
        .set("loss.overrides={ objective = { kind = \"sapo\", tau_pos = 2.0, tau_neg = 3.0 } }", "--set")
        .unwrap();
    let choice = layers.resolve().unwrap().loss_choice().unwrap();
    assert_eq!(choice.loss.config().objective, policy_loss::Objective::Sapo { tau_pos: 2.0, tau_neg: 3.0 });
    layers.set("loss.overrides={ objectiv = 1 }", "--set").unwrap();
    assert!(layers.resolve().unwrap_err().to_string().contains("unknown field `objectiv`"));
}
