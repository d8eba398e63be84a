//! Any bytes: what reads answers, and what reads files of answers, ends with a verdict or an error.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use cov_eval::run::{Plan, score};
use cov_eval::{
    Completion, Finish, Instance, InstanceKey, Intake, IntakeConfig, Split, TaskConfig, TaskId, sentences,
    task, words,
};
use proptest::prelude::*;

/// What the readers of the tasks look for: pieces of Python, dictionaries, traces, tags, prose, fences and reasoning.
#[rustfmt::skip]
const PIECES: [&str; 72] = [
    "def ", "f", "(", ")", ":", "\n", "    ", "\t", "return ", "lambda x", "[", "]", "for ", " in ", "range(9)", "if ", "else", "while True",
    "x", "y", " = ", "==", " is ", "not ", "'", "\"", "'''", "\"\"\"", "f'{", "}", "{", "\\", "#", "# noqa", ";", ",", ".", "**", "9", "1e9",
    "0x", "try", "except", "yield ", "class ", "import ", "*", "@", "->", ":=", "async ", "|", " | ", "S0", "1", "a", "---", "```", "~~~",
    "[[Segment 1]]", "[Q1]", "$1,000", "5%", "Mr. ", "p.m.", "born", "<think>", "</think>", "\u{200b}", "\u{301}", "é", "\u{feff}",
];

static INSTANCES: LazyLock<Vec<Instance>> = LazyLock::new(|| {
    let one = |&id: &TaskId| {
        let version = task(id).version();
        let key = InstanceKey {
            task: id,
            version,
            split: Split::Val,
            length: 256,
            difficulty: 1,
            base_seed: 3,
            index: 0,
        };
        task(id).generate(&key, &TaskConfig::default()).unwrap()
    };
    TaskId::ALL.iter().map(one).collect()
});

/// Bytes: any at all, pieces, or pieces in a right answer.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let soup = proptest::collection::vec(0..PIECES.len(), 0..120);
    let soup = soup.prop_map(|all| all.into_iter().map(|i| PIECES[i]).collect::<String>());
    let within =
        (0..TaskId::ALL.len(), any::<proptest::sample::Index>(), soup.clone()).prop_map(|(i, at, soup)| {
            let instance = &INSTANCES[i];
            let mut text = task(instance.key.task).oracle(instance);
            let at = text.floor_char_boundary(at.index(text.len() + 1));
            text.insert_str(at, &soup);
            text.into_bytes()
        });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), soup.prop_map(String::into_bytes), within,]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_answer_has_a_verdict(text in bytes(), cut in any::<bool>(), limit in 1usize..2000) {
        let finish = if cut { Finish::Length } else { Finish::Stop };
        let completion = Completion { text, reasoning: None, finish };
        let config = IntakeConfig { max_visible_bytes: limit, ..IntakeConfig::default() };
        for config in [IntakeConfig::default(), config] {
            let intake = Intake::new(&completion, &config);
            prop_assert!(intake.visible.len() <= config.max_visible_bytes && !intake.visible.contains('\r'));
            for instance in INSTANCES.iter() {
                let found = task(instance.key.task).verify(instance, &intake);
                prop_assert!((0.0..=1.0).contains(&found.score) && (0.0..=1.0).contains(&found.dense));
                prop_assert_eq!(found.verdicts.len(), instance.constraints.len());
                prop_assert!(!found.flags.names().contains(&"internal_error"));
                let inside = |span: &std::ops::Range<u32>| {
                    intake.visible.get(span.start as usize..span.end as usize).is_some()
                };
                prop_assert!(found.verdicts.iter().all(|v| v.spans.iter().all(inside)), "{:?}", found.verdicts);
            }
        }
    }

    /// Pieces of a text are within it, one behind the other.
    #[test]
    fn any_text_has_words_and_sentences(text in bytes()) {
        let text = String::from_utf8_lossy(&text);
        for pieces in [words(&text), sentences(&text)] {
            prop_assert!(pieces.iter().all(|piece| text.get(piece.clone()).is_some_and(|piece| !piece.is_empty())));
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A file of answers is read whole, or refused by its line.
    #[test]
    fn any_file_of_answers_is_read_or_refused(
        lines in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                Just(br#"{"instance_id": "fsm/v1/test/256/d1/0/0", "text": "1 | S0 | a | S1 | x"}"#.to_vec()),
                Just(br#"{"instance_id": "fsm/v1/test/256/d1/0/0#7", "text": "", "finish": "length"}"#.to_vec()),
                Just(br#"{"instance_id": 5, "text": []}"#.to_vec()),
                Just(b"  ".to_vec()),
            ],
            0..6,
        ),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("answers.jsonl");
        let bytes = lines.join(&b'\n');
        std::fs::write(&path, &bytes).unwrap();
        let plan: Plan = toml::from_str("[[cells]]\ntask = \"fsm\"\nlength = 256\nn = 1\n").unwrap();
        let whole = std::str::from_utf8(&bytes).is_ok_and(|text| {
            let answer = |line: &str| serde_json::from_str::<cov_eval::run::Answer>(line).is_ok();
            text.lines().filter(|line| !line.trim().is_empty()).all(answer)
        });
        let found = score(&plan, &path, &scratch.path().join("run"));
        prop_assert_eq!(found.is_ok(), whole, "{:?}", found);
        if let Err(error) = found {
            prop_assert!(error.to_string().contains("answers.jsonl"), "{}", error);
        }
    }
}
