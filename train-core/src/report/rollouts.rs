//! Choosing the samples a report shows: a few steps, a few samples of each, in full.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::load::number;

/// Steps whose samples are shown, the first and the last among them.
const STEPS: usize = 12;
/// Samples shown of each kind: best, worst, random.
const PER_KIND: usize = 2;

/// Why a sample is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Among the highest rewards of its step.
    Best,
    /// Among the lowest rewards of its step.
    Worst,
    /// Drawn by a fixed hash of its key, so that a report made twice is the same.
    Random,
}

/// One step's samples.
#[derive(Clone, Debug)]
pub struct RolloutStep {
    /// The training step.
    pub step: u64,
    /// Number of samples in the file.
    pub count: usize,
    /// Those shown.
    pub samples: Vec<(Pick, Sample)>,
}

/// One sample of `rollouts/step-*.jsonl`.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// `prompt/epoch/index` of the key, as text.
    pub key: String,
    /// The task's name.
    pub task: String,
    /// What the policy read.
    pub prompt: String,
    /// The right answer, where there is one.
    pub answer: Option<String>,
    /// What the policy wrote.
    pub response: String,
    /// The response token by token; empty when the file has none.
    pub pieces: Vec<String>,
    /// Log-probabilities of the engine that sampled, in nats, one a token.
    pub logp_mu: Vec<f64>,
    /// Log-probabilities of the policy at the update, in nats, one a token.
    pub logp: Vec<f64>,
    /// Entropies of the next-token distribution, in nats, one a token.
    pub entropy: Vec<f64>,
    /// The total reward; NaN when it was not scored.
    pub reward: f64,
    /// The reward's parts before weights.
    pub parts: Vec<(String, f64)>,
    /// Whether the response is exactly the answer.
    pub exact: Option<bool>,
    /// The sample's advantage.
    pub advantage: Option<f64>,
    /// Why the response ended.
    pub finish: String,
}

/// Reads the chosen steps of a `rollouts` directory; a missing directory is an empty answer.
pub(super) fn load(dir: &Path, notes: &mut Vec<String>) -> Vec<RolloutStep> {
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    let mut compressed = 0_usize;
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("step-") else { continue };
        compressed += usize::from(rest.ends_with(".jsonl.zst"));
        if let Some(step) = rest.strip_suffix(".jsonl").and_then(|digits| digits.parse().ok()) {
            files.push((step, path));
        }
    }
    if compressed > 0 {
        notes.push(format!(
            "rollouts: {compressed} compressed files are not shown; decompress them with zstd -d"
        ));
    }
    files.sort();
    let mut steps = Vec::new();
    for index in spread(files.len(), STEPS) {
        let (step, path) = &files[index];
        match read_samples(path) {
            Ok(samples) if samples.is_empty() => {}
            Ok(samples) => {
                steps.push(RolloutStep { step: *step, count: samples.len(), samples: choose(samples) });
            }
            Err(error) => notes.push(format!("rollouts: {} cannot be read: {error}", path.display())),
        }
    }
    steps
}

/// At most `want` positions of `0..len`, evenly spread, with both ends.
pub(super) fn spread(len: usize, want: usize) -> Vec<usize> {
    if len <= want {
        return (0..len).collect();
    }
    if want < 2 {
        return (len - want..len).collect();
    }
    (0..want).map(|i| i * (len - 1) / (want - 1)).collect()
}

/// Line by line: a file of long responses is large, and the rest of the report needs the memory.
fn read_samples(path: &Path) -> std::io::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        if let Ok(value) = serde_json::from_slice::<Value>(&line?) {
            samples.push(sample(&value));
        }
    }
    Ok(samples)
}

fn sample(object: &Value) -> Sample {
    let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let numbers = |key: &str| -> Vec<f64> {
        let items = object.get(key).and_then(Value::as_array).into_iter().flatten();
        items.map(|item| number(item).unwrap_or(f64::NAN)).collect()
    };
    let key = |part: &str| object.pointer(&format!("/key/{part}")).and_then(Value::as_u64);
    let key_part = |part: &str| key(part).map_or_else(|| "–".to_owned(), |id| id.to_string());
    let pieces = object.get("pieces").and_then(Value::as_array).into_iter().flatten();
    let parts = object.pointer("/reward/parts").and_then(Value::as_object).into_iter().flatten();
    Sample {
        key: ["prompt", "epoch", "index"].map(key_part).join("/"),
        task: text("task").unwrap_or_default(),
        prompt: text("prompt").unwrap_or_default(),
        answer: text("answer"),
        response: text("response").unwrap_or_default(),
        pieces: pieces.map(|piece| piece.as_str().unwrap_or_default().to_owned()).collect(),
        logp_mu: numbers("logp_mu"),
        logp: numbers("logp"),
        entropy: numbers("entropy"),
        reward: object.pointer("/reward/total").and_then(number).unwrap_or(f64::NAN),
        parts: parts.filter_map(|(name, value)| Some((name.clone(), number(value)?))).collect(),
        exact: object.pointer("/reward/exact").and_then(Value::as_bool),
        advantage: object.get("advantage").and_then(number),
        finish: text("finish").unwrap_or_default(),
    }
}

/// Best, worst and random samples, none twice; equal rewards keep the file's order, unscored ones come last.
fn choose(samples: Vec<Sample>) -> Vec<(Pick, Sample)> {
    let rank = |reward: f64| if reward.is_nan() { f64::NEG_INFINITY } else { reward };
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by(|&a, &b| rank(samples[b].reward).total_cmp(&rank(samples[a].reward)));
    let best = PER_KIND.min(order.len());
    let worst = PER_KIND.min(order.len() - best);
    let mut picks: Vec<(Pick, usize)> = order[..best].iter().map(|&i| (Pick::Best, i)).collect();
    picks.extend(order[order.len() - worst..].iter().rev().map(|&i| (Pick::Worst, i)));
    let mut rest: Vec<usize> = order[best..order.len() - worst].to_vec();
    rest.sort_by_key(|&i| (fnv(&samples[i].key), i));
    picks.extend(rest.into_iter().take(PER_KIND).map(|i| (Pick::Random, i)));
    let mut samples: Vec<Option<Sample>> = samples.into_iter().map(Some).collect();
    picks.into_iter().filter_map(|(pick, i)| Some((pick, samples[i].take()?))).collect()
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(key: &str, reward: f64) -> Sample {
        Sample { key: key.into(), reward, ..Sample::default() }
    }

    #[test]
    fn best_and_worst_are_the_extremes_and_no_sample_appears_twice() {
        let rewards = [0.3, 0.9, f64::NAN, 0.1, 0.5, 0.7, 0.6];
        let samples = rewards.iter().enumerate().map(|(i, &r)| scored(&i.to_string(), r)).collect();
        let picks = choose(samples);
        let of = |kind| picks.iter().filter(|p| p.0 == kind).map(|p| p.1.key.as_str()).collect::<Vec<_>>();
        assert_eq!(of(Pick::Best), ["1", "5"]);
        assert_eq!(of(Pick::Worst), ["2", "3"]);
        assert_eq!(of(Pick::Random).len(), 2);
        let mut keys: Vec<_> = picks.iter().map(|p| p.1.key.clone()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn few_samples_are_all_shown() {
        for n in 0..7 {
            let samples = (0..n).map(|i| scored(&i.to_string(), i as f64)).collect();
            assert_eq!(choose(samples).len(), n);
        }
    }

    #[test]
    fn spread_keeps_both_ends() {
        assert_eq!(spread(3, 12), [0, 1, 2]);
        assert_eq!(spread(0, 12), [] as [usize; 0]);
        let s = spread(10_000, 12);
        assert_eq!((s[0], s[11], s.len()), (0, 9_999, 12));
        assert!(s.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(spread(5, 1), [4]);
    }
}
