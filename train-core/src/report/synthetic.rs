//! Run directories for the tests, with curves like those of a small GRPO run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// What a made-up run looks like.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) steps: u64,
    /// Steps that a rise from nothing to half the reward takes.
    pub(super) half: f64,
    pub(super) routing: bool,
    pub(super) prompt: &'static str,
    /// Metrics beyond the usual ones.
    pub(super) extra: usize,
    /// Tokens of a response.
    pub(super) tokens: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            name: "reverse",
            steps: 150,
            half: 28.0,
            routing: false,
            prompt: "31415>",
            extra: 0,
            tokens: 6,
        }
    }
}

/// A fixed sequence in `[-1, 1)`: splitmix64 (Steele, Lea and Flood, 2014) of two counters.
fn noise(stream: u64, index: u64) -> f64 {
    let mut z = (stream << 32 ^ index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

fn rise(t: f64, half: f64) -> f64 {
    1.0 / (1.0 + (-(t - half) / (0.28 * half)).exp())
}

fn metrics(plan: &Plan, step: u64) -> Value {
    let t = step as f64;
    let levels = [(0.45, 4.0), (0.78, 6.0), (9.0, 8.0)];
    let share = t / plan.steps as f64;
    let (index, level) =
        levels.iter().enumerate().find(|(_, l)| share < l.0).map_or((2, 8.0), |(i, l)| (i, l.1));
    let since = t - [0.0, 0.45, 0.78][index] * plan.steps as f64;
    let start = [0.06, 0.70, 0.80][index];
    let learned = rise(since, plan.half / (1.0 + 1.5 * index as f64));
    let mean = (start + (0.985 - start) * learned + 0.02 * noise(1, step)).clamp(0.0, 1.0);
    let spread = 0.02 + 0.5 * (1.0 - mean);
    let exact = ((mean - 0.3) / 0.69).clamp(0.0, 1.0).powi(2);
    let spike = if noise(2, step) > 0.96 { 6.0 } else { 1.0 };
    let eval = step.is_multiple_of(10) || step + 1 == plan.steps;
    let mut row = json!({
        "step": step,
        "reward/mean": mean, "reward/std": spread, "reward/min": (mean - 2.2 * spread).max(0.0), "reward/max": (mean + 2.0 * spread).min(1.0),
        "reward/p10": (mean - 1.3 * spread).max(0.0), "reward/p50": (mean + 0.2 * spread).min(1.0), "reward/p90": (mean + 1.1 * spread).min(1.0),
        "reward/exact_rate": exact, "reward/part/position": (mean * 1.02).min(1.0), "reward/part/ended": rise(t, plan.half * 0.5),
        "eval/heldout/exact": if eval { json!((exact * 0.97 + 0.01 * noise(3, step)).clamp(0.0, 1.0)) } else { Value::Null },
        "eval/heldout/reward": if eval { json!(mean) } else { Value::Null },
        "data/level": level, "group/zero_std_share": (0.02 + 0.75 * exact.powi(3) + 0.04 * noise(4, step)).clamp(0.0, 1.0),
        "policy/entropy": 2.5 * (1.0 - 0.93 * rise(t, plan.half * 1.1)) + 0.05 * noise(5, step),
        "policy/clip_low": (0.018 + 0.008 * noise(6, step)).max(0.0), "policy/clip_high": (0.034 + 0.012 * noise(7, step)).max(0.0),
        "policy/approx_kl": (4e-4 + 2e-4 * noise(8, step)).abs(), "policy/kl_ref": Value::Null,
        "mismatch/mean_abs": 2.1e-6 * (1.2 + noise(9, step)), "mismatch/k3": 4e-7 * (1.1 + noise(10, step)),
        "optim/grad_norm": if step == 61 && plan.steps > 100 { json!("nan") } else { json!(spike * (0.4 + 0.9 * (1.0 - mean) + 0.1 * noise(11, step))) },
        "optim/lr": 2e-3 * (t / 10.0).min(1.0) * (1.0 - 0.5 * share), "optim/loss": -0.02 * (1.0 - mean) + 0.01 * noise(12, step),
        "len/response_mean": level + 1.0 + 3.0 * (1.0 - learned), "len/response_p95": level + 3.0 + 4.0 * (1.0 - learned), "len/truncated_share": 0.3 * (1.0 - learned),
        "time/rollout": 0.11 + 0.004 * level + 0.01 * noise(13, step), "time/reward": 0.004, "time/update": 0.14 + 0.005 * level + 0.012 * noise(14, step),
        "time/sync": 0.002, "time/eval": if eval { 0.09 } else { 0.0 }, "time/checkpoint": if step % 50 == 49 { 0.06 } else { 0.0 },
        "perf/rollout_tokens_per_s": 14_200.0 + 900.0 * noise(15, step), "perf/train_tokens_per_s": 9_100.0 + 500.0 * noise(16, step),
        "mem/rss_mib": 84.0 + 3.0 * rise(t, 12.0), "custom/unheard_of": noise(17, step),
    });
    let Value::Object(map) = &mut row else { return row };
    let stages: f64 =
        map.iter().filter(|(key, _)| key.starts_with("time/")).filter_map(|(_, v)| v.as_f64()).sum();
    map.insert("time/total".into(), json!(stages + 0.011));
    if plan.routing {
        map.insert("route/agreement".into(), json!(0.991 + 0.004 * noise(18, step)));
        map.insert("route/replaced_share".into(), json!(0.009 - 0.004 * noise(18, step)));
        map.insert("route/load_imbalance".into(), json!(1.4 - 0.3 * learned + 0.05 * noise(19, step)));
        map.insert("route/dead_experts".into(), json!(0));
    }
    for i in 0..plan.extra {
        map.insert(format!("optim/block_{i:03}/grad_norm"), json!(0.1 + 0.05 * noise(100 + i as u64, step)));
    }
    row
}

fn sample(plan: &Plan, step: u64, index: u64) -> Value {
    let learned = rise(step as f64, plan.half);
    let answer = ["5", "1", "4", "1", "3", "<end>"];
    let (mut pieces, mut logp_mu, mut logp, mut entropy) = (vec![], vec![], vec![], vec![]);
    let mut right = 0;
    for i in 0..plan.tokens {
        let draw = noise(1000 + step, index * 131 + i as u64);
        let wanted = answer[i % answer.len()];
        let good = draw < -0.9 + 1.9 * learned;
        right += usize::from(good);
        pieces.push(if good { wanted.to_owned() } else { format!("{}", ((draw + 1.0) * 5.0) as u32) });
        let surprise = if good { 0.02 + 1.6 * (1.0 - learned) } else { 2.0 + 1.5 * draw.abs() };
        logp_mu.push(-surprise);
        logp.push(-surprise + 0.3 * noise(7, index * 17 + i as u64) * (1.0 - 0.6 * learned));
        entropy.push((2.4 * (1.0 - learned) + 0.4 * draw.abs()).max(0.0));
    }
    let total = right as f64 / plan.tokens.max(1) as f64;
    json!({
        "key": { "prompt": 7 + index / 4, "epoch": 0, "index": index % 4 }, "step": step, "version": step, "task": "reverse",
        "prompt": plan.prompt, "answer": "51413", "response": pieces.concat().replace("<end>", ""), "tokens": [], "pieces": pieces,
        "logp_mu": logp_mu, "logp": logp, "entropy": entropy,
        "reward": { "total": total, "parts": { "position": total, "ended": f64::from(u8::from(right > 0)) }, "exact": right == plan.tokens },
        "advantage": (total - learned) * 2.0, "finish": if right > 0 { "stop" } else { "length" },
    })
}

/// Writes a whole run directory.
pub(super) fn write_run(dir: &Path, plan: &Plan) {
    fs::create_dir_all(dir.join("rollouts")).unwrap();
    let mut lines = String::new();
    for step in 0..plan.steps {
        writeln!(lines, "{}", metrics(plan, step)).unwrap();
    }
    fs::write(dir.join("metrics.jsonl"), lines).unwrap();
    for i in 0..plan.steps.min(15) {
        let step = i * plan.steps.saturating_sub(1) / plan.steps.clamp(2, 15).saturating_sub(1);
        let lines: String = (0..16).map(|index| format!("{}\n", sample(plan, step, index))).collect();
        fs::write(dir.join(format!("rollouts/step-{step:06}.jsonl")), lines).unwrap();
    }
    let mut events = String::new();
    let mut event = |time: f64, step: u64, kind: &str, name: &str, message: &str, advice: &[&str]| {
        let line = json!({ "time": 1_780_000_001.5 + time, "step": step, "kind": kind, "name": name, "message": message, "advice": advice });
        writeln!(events, "{line}").unwrap();
    };
    event(0.0, 0, "start", "", "training begins from random weights", &[]);
    for step in (0..plan.steps).step_by(10) {
        event(step as f64 * 0.3, step, "eval", "heldout", "64 prompts", &[]);
    }
    event(
        20.4,
        plan.steps * 45 / 100,
        "level",
        "level 6",
        "exact > 0.90 for 10 steps: prompts of 6 digits",
        &[],
    );
    event(
        35.1,
        plan.steps * 78 / 100,
        "level",
        "level 8",
        "exact > 0.90 for 10 steps: prompts of 8 digits",
        &[],
    );
    event(18.5, 61, "skip", "", "the gradient norm is NaN: the update was skipped", &[]);
    for step in [96, 97, 103] {
        let message = "71% of groups have the same reward for every sample, above 0.70 for 5 steps";
        event(
            30.0,
            step,
            "guard",
            "zero_std_share",
            message,
            &["raise rollout.group", "set filter.dynamic = true"],
        );
    }
    event(33.0, 99, "checkpoint", "step-000099", "ckpt/step-000099, 1.3 MiB", &[]);
    fs::write(dir.join("events.jsonl"), events).unwrap();
    let config = format!(
        "[run]\nname = \"{}\"\npreset = \"reverse\"\nseed = 0\nsteps = {}\n\n[model]\nkind = \"tiny\"\ndtype = \"f32\"\n\n\
         [rollout]\nprompts = 32\ngroup = 8\nmax_new = 16\n\n[update]\nlr = {}\nclip_norm = 1.0\n\n[loss]\nkind = \"sapo\"\n",
        plan.name,
        plan.steps,
        0.056 / plan.half
    );
    fs::write(dir.join("config.toml"), config).unwrap();
    let facts: Map<String, Value> = serde_json::from_value(json!({
        "version": "0.1.0", "command": ["trainer", "run"], "seed": 0, "cpu": "Intel Xeon Platinum 8488C", "threads": 2, "isa": "avx512",
        "started": 1_780_000_000, "preset": "reverse", "parameters": 109_824,
        "batch_sentence": "32 prompts × 8 samples = 256 samples per step; 1 mini-batch of 256; 1 optimiser step per step",
    }))
    .unwrap();
    fs::write(dir.join("run.json"), Value::Object(facts).to_string()).unwrap();
}
