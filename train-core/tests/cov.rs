//! `data.task = "cov"` and the reward of the same name.
#![allow(missing_docs, clippy::unwrap_used)]

use train_core::config::{Config, Layers};
use train_core::data::{CovSource, PromptSource, TextCodec};
use train_core::reward::{Rewarder, WeightedSum};
use train_core::types::{Finish, Prompt, RewardOutcome, SampleKey, Scored};

fn config(changes: &[&str]) -> Config {
    let mut layers = Layers::defaults();
    let fixed = ["data.task=cov", "cov.tasks={ fsm = 1, kv_dict = 1 }", "reward.parts=[{ kind = \"cov\" }]"];
    fixed.iter().chain(changes).for_each(|change| layers.set(change, "test").unwrap());
    layers.resolve().unwrap()
}

fn prompts(config: &Config, count: usize) -> Vec<Prompt> {
    let codec = TextCodec::bytes().unwrap();
    let mut source = CovSource::new(&config.data, &config.cov, &codec, 1, 4, 500, 4000).unwrap();
    source.next(count).unwrap().into_iter().map(|(prompt, _)| prompt).collect()
}

/// Outcomes of one response to each prompt.
fn score(
    config: &Config,
    prompts: &[Prompt],
    finish: Finish,
    response: impl Fn(&Prompt) -> String,
) -> Vec<RewardOutcome> {
    let responses: Vec<String> = prompts.iter().map(response).collect();
    let scored: Vec<Scored> = prompts
        .iter()
        .zip(&responses)
        .map(|(prompt, response)| Scored {
            key: SampleKey { prompt: prompt.id, epoch: 0, index: 0 },
            prompt,
            response,
            response_tokens: response.len(),
            finish,
        })
        .collect();
    WeightedSum::new(&config.reward, 500).unwrap().score(&scored).unwrap()
}

#[test]
fn right_answers_are_exact_and_worth_one() {
    let config = config(&[]);
    let prompts = prompts(&config, 24);
    let oracle = |p: &Prompt| p.answer.clone().unwrap();
    for outcome in score(&config, &prompts, Finish::Stop, oracle) {
        assert_eq!((outcome.total, outcome.exact), (1.0, Some(true)));
        assert_eq!((outcome.notes["score"], outcome.notes["flagged"]), (1.0, 0.0));
    }
    // An answer that is right and not the one of the data: other fillers, other spaces.
    let spaced = |p: &Prompt| p.answer.clone().unwrap().replace(" | ", "|").replace(": ", ":");
    assert!(score(&config, &prompts, Finish::Stop, spaced).iter().all(|o| o.exact == Some(true)));
    // What was cut did not end by itself, whatever it says.
    assert!(score(&config, &prompts, Finish::Length, oracle).iter().all(|o| o.exact == Some(false)));
}

#[test]
fn parts_of_answers_are_worth_something_and_tricks_nothing() {
    let config = config(&[]);
    let prompts = prompts(&config, 24);
    let half = |p: &Prompt| {
        let answer = p.answer.clone().unwrap();
        answer[..answer.len() / 2].to_owned()
    };
    for outcome in score(&config, &prompts, Finish::Stop, half) {
        assert!(outcome.total > 0.0 && outcome.total < 0.75 && outcome.exact == Some(false), "{outcome:?}");
    }
    for outcome in score(&config, &prompts, Finish::Stop, |p| p.text.clone() + p.answer.as_deref().unwrap()) {
        assert_eq!((outcome.total, outcome.notes["flag/echo"]), (0.0, 1.0));
        assert_eq!(outcome.notes["gate/hard_flag"], 1.0);
    }
    for outcome in score(&config, &prompts, Finish::Stop, |_| "I cannot help with that.".into()) {
        assert_eq!(outcome.total, 0.0);
    }
}

#[test]
fn the_form_is_a_choice_and_other_data_is_refused() {
    let bonus =
        config(&["reward.parts=[{ kind = \"cov\", form = \"bonus\", name = \"trace\", weight = 2.0 }]"]);
    let prompts = prompts(&bonus, 2);
    let outcome = &score(&bonus, &prompts, Finish::Stop, |p| p.answer.clone().unwrap())[0];
    assert_eq!((outcome.total, outcome.parts["trace"]), (2.0, 1.0));

    let mut other = prompts[0].clone();
    other.columns.clear();
    fn scored(prompt: &Prompt) -> Scored<'_> {
        let key = SampleKey { prompt: 0, epoch: 0, index: 0 };
        Scored { key, prompt, response: "", response_tokens: 1, finish: Finish::Stop }
    }
    let mut rewarder = WeightedSum::new(&bonus.reward, 500).unwrap();
    let message = rewarder.score(&[scored(&other)]).unwrap_err().to_string();
    assert!(message.contains("has no column `instance_id`"), "{message}");
    other.columns.insert("instance_id".into(), "fsm/v9/test/1024/d1/0/0".into());
    let message = rewarder.score(&[scored(&other)]).unwrap_err().to_string();
    assert!(message.contains("version of the key is 9"), "{message}");

    let mut layers = Layers::defaults();
    layers.set("reward.parts=[{ kind = \"exact\", form = \"score\" }]", "test").unwrap();
    let message = WeightedSum::new(&layers.resolve().unwrap().reward, 9).err().unwrap().to_string();
    assert!(message.contains("`form` belongs to cov, not to exact"), "{message}");
}
