//! A study is run cell by cell, goes on where it was, and gives the same numbers again.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use train_core::experiment::{Extent, Outcome, Plan, Study, pictures, tables};

fn plan(dir: &std::path::Path, limit: Option<Duration>) -> Plan {
    let set = [
        "model.hidden_size=8",
        "model.num_hidden_layers=1",
        "model.num_attention_heads=1",
        "model.num_key_value_heads=1",
        "model.head_dim=8",
        "model.num_experts=4",
        "model.num_experts_per_tok=2",
        "model.moe_intermediate_size=8",
        "data.levels=[2]",
        "warm_start.steps=2",
        "rollout.group=4",
        "rollout.max_new_tokens=4",
        "eval.prompts=8",
    ];
    Plan {
        study: Study::Stability,
        extent: Extent::Quick,
        dir: dir.to_path_buf(),
        seeds: 1,
        updates: Some(4),
        limit,
        set: set.map(String::from).to_vec(),
    }
}

fn run(plan: &Plan) -> (Vec<Outcome>, usize) {
    let progress = plan.run(&mut |_| {}).unwrap();
    (progress.outcomes, progress.cells)
}

#[test]
fn a_study_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(&plan(dir.path(), Some(Duration::ZERO))), (Vec::new(), 8));
    let (first, cells) = run(&plan(dir.path(), None));
    assert_eq!((first.len(), cells), (8, 8));
    for outcome in &first {
        // Four updates, whatever the batch: an evaluation at the start and one at the end.
        assert_eq!(outcome.exact.iter().map(|p| p.0).max(), Some(4), "{outcome}");
        assert_eq!(outcome.exact.first().unwrap().0, 0);
        assert!(outcome.diagnostics.mismatch.unwrap() > 0.0, "{outcome}");
        assert!(outcome.diagnostics.flips.is_some() && outcome.failure.is_none(), "{outcome}");
    }
    // Finished cells are not run again, not even their seconds change.
    assert_eq!(run(&plan(dir.path(), None)).0, first);
    // Nor are they taken for cells of another study.
    let mut other = plan(dir.path(), None);
    other.set.push("update.lr=3e-4".into());
    let refused = other.run(&mut |_| {}).unwrap_err().to_string();
    assert!(refused.contains("-seed0.json: this cell was run with other settings"), "{refused}");
    // A cell that is run anew comes out the same.
    let lost = &first[3];
    let name = format!("cells/{}-seed0.json", lost.setting);
    std::fs::remove_file(dir.path().join(&name)).unwrap();
    let (again, _) = run(&plan(dir.path(), None));
    assert_eq!(Outcome { seconds: lost.seconds, ..again[3].clone() }, *lost);
    std::fs::write(dir.path().join(name), "{").unwrap();
    let broken = plan(dir.path(), None).run(&mut |_| {}).unwrap_err().to_string();
    assert!(broken.contains("-seed0.json: "), "{broken}");

    let text = tables(&first);
    assert!(text.contains("### N = 4: held-out exact") && text.contains("| MiniRL |"), "{text}");
    let names: Vec<String> = pictures(&first).into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"n-4-minirl.svg".to_owned()), "{names:?}");
}
