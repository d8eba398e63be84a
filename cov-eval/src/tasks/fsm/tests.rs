use super::*;
use crate::key::Split;
use crate::model::Gate;

/// The machine of the worked example, on `abbaba`.
fn example() -> Instance {
    let key = InstanceKey {
        task: TaskId::Fsm,
        version: VERSION,
        split: Split::Test,
        length: 256,
        difficulty: 0,
        base_seed: 0,
        index: 0,
    };
    let mut instance = Fsm.generate(&key, &TaskConfig::default()).unwrap();
    // Outputs x, y are the last two letters of three.
    let cells = vec![(1, 1), (2, 2), (2, 2), (0, 2), (0, 1), (1, 2)];
    let machine = Machine { states: 3, inputs: 2, outputs: 3, cells };
    set(
        &mut instance,
        FsmTargets { machine, start: 0, input: vec![0, 1, 1, 0, 1, 0], ..FsmTargets::default() },
    );
    instance
}

fn set(instance: &mut Instance, targets: FsmTargets) {
    let mut constraints = Vec::new();
    let kinds = (0..targets.input.len()).map(|i| ("step", i)).chain([("row_count", 0), ("no_extra_text", 0)]);
    for (id, (kind, target)) in kinds.enumerate() {
        let c = crate::Constraint { id: id as u16, kind: kind.into(), target: target as u32, locus: None };
        constraints.push(c);
    }
    instance.constraints = constraints;
    instance.targets = Targets::Fsm(targets);
}

fn score(instance: &Instance, answer: &str) -> f64 {
    Fsm.verify(instance, &Intake::from(answer)).score
}

const EXACT: &str = "1 | S0 | a | S1 | y\n2 | S1 | b | S0 | z\n3 | S0 | b | S2 | z\n4 | S2 | a | S0 | y\n\
                     5 | S0 | b | S2 | z\n6 | S2 | a | S0 | y";

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

#[test]
fn worked_example() {
    let instance = example();
    assert_eq!(Fsm.oracle(&instance), EXACT);
    assert_eq!(score(&instance, EXACT), 1.0);
    near(score(&instance, &EXACT.replace("4 | S2 | a | S0 | y", "4 | S2 | a | S0 | z")), 0.6);
    near(score(&instance, &EXACT.replace("1 | S0 | a | S1 | y", "1 | S0 | a | S1 | z")), 0.25);
    let rows: Vec<&str> = EXACT.lines().collect();
    near(score(&instance, &rows[..3].join("\n")), 0.5);
    let wrong = rows[3..].join("\n").replace(" | S", " | T");
    near(score(&instance, &format!("{}\n{wrong}", rows[..3].join("\n"))), 0.5);
    near(score(&instance, &format!("{EXACT}\n7 | S0 | a | S1 | y\n8 | S0 | a | S1 | y")), 0.75);
    near(score(&instance, &format!("{}{EXACT}", "noise\n".repeat(5))), 0.666_667);
}

#[test]
fn one_wrong_row_of_55() {
    let mut instance = example();
    let FsmTargets { machine, start, .. } = targets(&instance).unwrap().clone();
    set(&mut instance, FsmTargets { machine, start, input: vec![0; 55], ..FsmTargets::default() });
    let oracle = Fsm.oracle(&instance);
    for (row, expected) in [(1, 0.294_545), (2, 0.307_273), (28, 0.638_182), (55, 0.981_818)] {
        let mut rows: Vec<String> = oracle.lines().map(str::to_owned).collect();
        rows[row - 1].push('!');
        near(score(&instance, &rows.join("\n")), expected);
    }
}

/// What the public scorer gets wrong: a fence, a remark or a table made a right trace worth 0, and wrong states
/// with right outputs worth 1.
#[test]
fn form_is_forgiven_and_content_is_not() {
    let instance = example();
    let table = EXACT.lines().map(|l| format!("| {l} |\n")).collect::<String>();
    for right in [
        format!("```\n{EXACT}\n```"),
        format!("Here is the trace:\n\n{EXACT}\n"),
        format!("| Step | State | Input | Next | Output |\n|---|:--|--|--|--|\n{table}"),
        EXACT.replace(" | ", "|"),
        EXACT.replace('\n', "\r\n"),
        format!("<think>1 | S9 | a | S9 | x</think>{EXACT}"),
    ] {
        assert_eq!(score(&instance, &right), 1.0, "{right}");
    }
    let outputs_only = EXACT.replace("S0", "S9");
    assert!(score(&instance, &outputs_only) < 1e-9);
    assert_eq!(Fsm.verify(&instance, &Intake::from("1, S0, a, S1, y")).gate, Gate::NoRows);
}

#[test]
fn input_is_padded() {
    let key = example().key;
    for tokens in [8_000, 65_536] {
        let cfg = TaskConfig { in_tokens: Some(tokens), ..TaskConfig::default() };
        let instance = Fsm.generate(&key, &cfg).unwrap();
        let (words, _) = crate::text::count(instance.material());
        let found = crate::length::estimate_tokens(words, instance.material().len());
        assert!((found as f64 / f64::from(tokens) - 1.0).abs() < 0.15, "{found} for {tokens}");
        assert_eq!(score(&instance, &Fsm.oracle(&instance)), 1.0);
        assert_eq!(instance.targets, Fsm.generate(&key, &TaskConfig::default()).unwrap().targets);
    }
    let small = TaskConfig { in_tokens: Some(10), ..TaskConfig::default() };
    assert!(Fsm.generate(&key, &small).unwrap_err().to_string().starts_with("in_tokens is 10"));
    let large = TaskConfig { in_tokens: Some(65_537), ..TaskConfig::default() };
    assert!(Fsm.generate(&key, &large).is_err());
}
