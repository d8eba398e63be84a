//! What Routing Replay adds to an update: the same batch with recorded experts replayed and with the router's own choice,
//! in turn, in one process. Prints the median of the ratios of pairs.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use train_core::config::Layers;
use train_core::learner::Learner;
use train_core::rollout::Sampler;
use train_core::sample::Sample;
use train_core::setup;

const PAIRS: usize = 40;

fn main() {
    let layers = |routing: &str| {
        let mut layers = Layers::preset("study").unwrap();
        for set in ["update.minibatches=4", "rollout.prompts=32", "update.lr=0.0", "rollout.precision=f32"] {
            layers.set(set, "bench").unwrap();
        }
        layers.set(&format!("update.routing={routing}"), "bench").unwrap();
        layers.resolve().unwrap()
    };
    let config = layers("r3");
    let (codec, architecture) = setup::codec_and_model(&config).unwrap();
    let mut source = setup::prompt_source(&config, &codec, &architecture).unwrap();
    let model = || setup::initial_model(&config, &architecture).unwrap();
    let mut sampler = Sampler::new(&config, &codec);
    sampler.publish(&model()).unwrap();
    let mut samples = sampler.sample(source.next(32).unwrap(), 0, &codec).unwrap();
    for (i, sample) in samples.iter_mut().enumerate() {
        sample.advantage = if i % 2 == 0 { 1.0 } else { -1.0 };
    }
    let learner = |routing: &str| {
        let config = layers(routing);
        Learner::new(model(), config.loss_choice().unwrap().loss, &config)
    };
    let (mut replayed, mut natural) = (learner("r3"), learner("natural"));
    // The sampler records nothing for natural routing, so there is nothing to compare with either.
    let unrecorded: Vec<Sample> = samples.iter().map(|s| Sample { routes: None, ..s.clone() }).collect();
    let time = |learner: &mut Learner, samples: &[Sample]| {
        let mut samples = samples.to_vec();
        let start = Instant::now();
        learner.update(&mut samples, 1).unwrap();
        start.elapsed().as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..PAIRS + 2)
        .map(|i| match i % 2 {
            0 => {
                let with = time(&mut replayed, &samples);
                with / time(&mut natural, &unrecorded)
            }
            _ => {
                let without = time(&mut natural, &unrecorded);
                time(&mut replayed, &samples) / without
            }
        })
        .skip(2)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |q: f64| 100.0 * (ratios[(q * (ratios.len() - 1) as f64).round() as usize] - 1.0);
    println!("replay adds {:+.2} % to an update (quartiles {:+.2} %, {:+.2} %)", at(0.5), at(0.25), at(0.75));
}
