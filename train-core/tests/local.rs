//! A model of this machine as a source of numbers.
#![allow(clippy::unwrap_used)]

use completion::{Request, Sampling};
use qwen3::{Batch, ForwardOptions, Precision};
use train_core::checkpoint::Checkpoint;
use train_core::config::Layers;
use train_core::local::{LocalModel, LocalOptions};
use train_core::policy::Policy;
use train_core::rundir::RunDir;
use train_core::setup;
use train_core::trainer::Trainer;

#[test]
fn log_probabilities_of_continuations_are_those_of_the_training_forward() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = Layers::preset("reverse").unwrap();
    for set in ["model.hidden_size=16", "model.moe_intermediate_size=8", "warm_start.steps=3"] {
        layers.set(set, "test").unwrap();
    }
    let config = layers.resolve().unwrap();
    let run = RunDir::create(dir.path(), "run").unwrap();
    let path = run.path().to_path_buf();
    Trainer::create(config, run).unwrap();

    let newest = Checkpoint::newest(&path).unwrap().0.path;
    let policy = Policy::load(&newest).unwrap();
    let codec = setup::read_codec(&newest, policy.config()).unwrap();
    // Prompts of less and of more rows than run at one time.
    let prompts = ["1", "123456789012", "987"];
    let continuations = ["1", "23", "312", "99999"];
    let requests: Vec<Request> = prompts.iter().map(|p| Request::user(*p, *p, Sampling::greedy(0))).collect();
    for rows in [1, 5, 64] {
        let options =
            LocalOptions { chat: false, precision: Precision::F32, rows, ..LocalOptions::default() };
        let model = LocalModel::open(&path, options).unwrap();
        let all = model.log_probs(&requests, &continuations);
        for (prompt, got) in prompts.iter().zip(&all) {
            for (continuation, got) in continuations.iter().zip(got.as_ref().unwrap()) {
                let (first, rest) = (codec.encode(prompt).unwrap(), codec.encode(continuation).unwrap());
                let tokens = [&first[..], &rest].concat();
                let batch = Batch::pack([&tokens[..tokens.len() - 1]]);
                let hidden = policy.forward(&batch, &Default::default(), &ForwardOptions::default()).unwrap();
                let logp = policy.text().log_probs(&hidden.states, &tokens[1..], 1.0).unwrap().logp;
                let logp = logp.to_vec1::<f32>().unwrap();
                let wanted: f64 = logp[first.len() - 1..].iter().map(|x| f64::from(*x)).sum();
                assert_eq!(*got, wanted, "{prompt}{continuation}");
            }
        }
    }
    let model = LocalModel::open(&path, LocalOptions { chat: false, ..LocalOptions::default() }).unwrap();
    let message = |prompt: &str, continuation: &str| {
        let request = Request::user("q", prompt, Sampling::greedy(0));
        model.log_probs(&[request], &[continuation])[0].as_ref().unwrap_err().to_string()
    };
    assert_eq!(message("", "1"), "q: the prompt is empty");
    assert_eq!(message("1", ""), "q: a continuation is empty");
    let context = policy.config().max_position_embeddings;
    let long = message(&"1".repeat(context), "2");
    assert!(long.contains(&format!("more than the context of {context}")), "{long}");
    // One that cannot be scored costs itself alone.
    let both = ["1", ""].map(|p| Request::user("q", p, Sampling::greedy(0)));
    let scored = model.log_probs(&both, &["1"]);
    assert!(scored[0].is_ok() && scored[1].is_err());
}
