//! A run learns, and ends when it has.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{metrics, only_run, succeed, trainer, weights};

#[test]
fn a_run_ends_when_its_task_is_mastered() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = trainer();
    command.args(["--set", &format!("run.dir={}", dir.path().display())]);
    for assignment in
        ["run.steps=400", "data.levels=[1]", "rollout.max_new_tokens=4", "rollout.prompts=16", "eval.every=5"]
    {
        command.args(["--set", assignment]);
    }
    succeed(&mut command);
    let run = only_run(dir.path());
    let rows = metrics(&run);
    let exact: Vec<f64> = rows.iter().filter_map(|r| r["eval/heldout/exact"].as_f64()).collect();
    assert!(exact[0] < 0.5, "before the first step: {exact:?}");
    let (last, before) = (exact[exact.len() - 1], exact[exact.len() - 2]);
    assert!(rows.len() <= 400 && last >= 0.99 && before >= 0.99, "{exact:?}");
    assert!(exact[..exact.len() - 2].windows(2).all(|w| w[0] < 0.99 || w[1] < 0.99), "{exact:?}");
    // The gain is that of the same prompts, and what it says of the last evaluation is beyond chance.
    let of = |name: &str| rows.iter().filter_map(|r| r[name].as_f64()).collect::<Vec<f64>>();
    let (reward, gain, half) =
        (of("eval/heldout/reward"), of("eval/heldout/gain"), of("eval/heldout/gain_half"));
    assert_eq!(gain.len(), reward.len() - 1);
    for (gain, reward_now) in gain.iter().zip(&reward[1..]) {
        assert!((gain - (reward_now - reward[0])).abs() < 1e-9, "{gain} for {reward_now} − {}", reward[0]);
    }
    let (gain, half) = (gain[gain.len() - 1], half[half.len() - 1]);
    assert!(half > 0.0 && half < 0.2 && gain > half, "{gain} ± {half}");
    // It is saved, and there is nothing to go on with.
    let step = rows.last().unwrap()["step"].as_u64().unwrap();
    weights(&run, step);
    succeed(trainer().arg("resume").arg(&run));
    assert_eq!(metrics(&run).len(), rows.len());
}
