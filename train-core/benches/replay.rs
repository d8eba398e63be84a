//! What Routing Replay adds to a step: rollout and update of the same prompts with experts recorded and replayed, and with
//! the router's own choice, in turn, in one process and one thread. Of each pair of steps the relative difference is taken,
//! in wall time and in processor time (Linux); printed are medians with intervals of 95 % by ranks.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use train_core::config::Layers;
use train_core::data::TextCodec;
use train_core::learner::Learner;
use train_core::rollout::Sampler;
use train_core::sample::Sample;
use train_core::setup;
use train_core::types::Prompt;

const LIMIT: Duration = Duration::from_secs(60);

/// Seconds of wall and of processor.
#[derive(Clone, Copy, Debug, Default)]
struct Cost([f64; 2]);

/// Seconds that the threads of this process ran; 0 where the system does not say.
fn processor() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ran = |task: std::fs::DirEntry| -> Option<f64> {
        std::fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    tasks.filter_map(ran).sum::<f64>() / 1e9
}

fn timed<T>(work: impl FnOnce() -> T) -> (Cost, T) {
    let (wall, ran) = (Instant::now(), processor());
    let out = work();
    (Cost([wall.elapsed().as_secs_f64(), processor() - ran]), out)
}

/// One way to run the step.
struct Side {
    sampler: Sampler,
    learner: Learner,
    prompts: Vec<(Prompt, u32)>,
    codec: TextCodec,
}

impl Side {
    fn new(routing: &str) -> Self {
        let mut layers = Layers::preset("study").unwrap();
        // A learning rate of 0 makes every step the same.
        for set in ["rollout.prompts=8", "update.lr=0.0", "rollout.precision=f32"] {
            layers.set(set, "bench").unwrap();
        }
        layers.set(&format!("update.routing={routing}"), "bench").unwrap();
        let config = layers.resolve().unwrap();
        let (codec, architecture) = setup::codec_and_model(&config).unwrap();
        let prompts = setup::prompt_source(&config, &codec, &architecture).unwrap().next(8).unwrap();
        let model = setup::initial_model(&config, &architecture).unwrap();
        let mut sampler = Sampler::new(&config, &codec);
        sampler.publish(&model, 1).unwrap();
        let model = setup::initial_model(&config, &architecture).unwrap();
        let learner = Learner::new(model, config.loss_choice().unwrap().loss, &config);
        Self { sampler, learner, prompts, codec }
    }

    /// Rollout and update, and what was drawn.
    fn step(&mut self) -> ([Cost; 2], Vec<Sample>) {
        let prompts = self.prompts.clone();
        let (rollout, mut samples) = timed(|| self.sampler.sample(prompts, 0, &self.codec).unwrap());
        for (i, sample) in samples.iter_mut().enumerate() {
            sample.advantage = if i % 2 == 0 { 1.0 } else { -1.0 };
        }
        let (update, _) = timed(|| self.learner.update(&mut samples, 1).unwrap());
        ([rollout, update], samples)
    }
}

/// Median and its interval of 95 %: the ranks that a binomial with p = 1/2 leaves 2.5 % outside of on each side.
fn median(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (n, half) = (values.len() as f64, 0.98 * (values.len() as f64).sqrt());
    let at = |rank: f64| values[(rank.max(0.0) as usize).min(values.len() - 1)];
    [at(n / 2.0), at(n / 2.0 - half), at(n / 2.0 + half)]
}

fn main() {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let (mut replayed, mut natural) = (Side::new("r3"), Side::new("natural"));
    // The first steps touch memory for the first time; and both sides do draw the same.
    let (with, without) = (replayed.step().1, natural.step().1);
    assert!(
        with.iter().zip(&without).all(|(a, b)| a.response == b.response && a.logp_trained == b.logp_trained)
    );
    assert!(with.iter().all(|s| s.routes.is_some()) && without.iter().all(|s| s.routes.is_none()));
    let (start, mut pairs) = (Instant::now(), Vec::new());
    while start.elapsed() < LIMIT {
        let (with, without) = match pairs.len() % 2 {
            0 => {
                let with = replayed.step().0;
                (with, natural.step().0)
            }
            _ => {
                let without = natural.step().0;
                (replayed.step().0, without)
            }
        };
        pairs.push((with, without));
    }
    println!("replay (R3) adds, in {} pairs of steps of {} samples:", pairs.len(), with.len());
    let parts: [(&str, &[usize]); 3] = [("rollout", &[0]), ("update", &[1]), ("step", &[0, 1])];
    for (clock, clock_name) in ["wall time", "processor time"].iter().enumerate() {
        for (name, of) in parts {
            let seconds = |costs: &[Cost; 2]| of.iter().map(|part| costs[*part].0[clock]).sum::<f64>();
            let usual = median(pairs.iter().map(|(_, without)| seconds(without)).collect())[0];
            if usual <= 0.0 {
                continue;
            }
            let added =
                pairs.iter().map(|(with, without)| 100.0 * (seconds(with) - seconds(without)) / usual);
            let [middle, low, high] = median(added.collect());
            println!(
                "{clock_name:<15} {name:<8} {middle:+.2} % ({low:+.2} % to {high:+.2} %) of {:.1} ms",
                1e3 * usual
            );
        }
    }
}
