//! The published scoring, for comparison with published numbers only.
//!
//! Formulas of the public reference implementation of LongWeave, written anew. They are easy to fool, which the tests
//! show: never use them as a reward.

use crate::intake::Intake;
use crate::model::Instance;
use crate::tasks::{CodeTargets, FsmTargets, KvDictTargets, ParaOrderTargets, Targets};

/// The published score of an answer, 0 to 1.
pub fn score(instance: &Instance, answer: &Intake) -> f64 {
    match &instance.targets {
        Targets::Fsm(targets) => fsm(targets, &answer.visible),
        Targets::KvDict(targets) => kv_dict(targets, &answer.visible),
        Targets::ParaOrder(targets) => para_order(targets, &answer.visible),
        Targets::CodeFix(targets) => code_fix(targets, &answer.visible),
        Targets::ApNews(_) => judged(instance, answer, "include", "style"),
        Targets::KgBio(_) => rate(instance, answer, "fact"),
        Targets::SalesReport(_) => judged(instance, answer, "answered", "correct"),
    }
}

/// What the published code shows its judge of a biography or an article: the first `limit` words, joined by spaces. A word is a
/// run of letters, digits and underscores, so that quotes, periods, dollar and percent signs are gone before style is judged.
pub fn judged_text(visible: &str, limit: usize) -> String {
    let words = visible.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.take(limit).collect::<Vec<_>>().join(" ")
}

/// Leading lines whose fourth field is the expected output, of all steps. Fields are cut at `|`, `:` and `,`, so the
/// fourth of our five-field rows is the next state: the last field is read instead.
fn fsm(targets: &FsmTargets, visible: &str) -> f64 {
    let outputs = targets.outputs();
    let header = |line: &str| line.to_lowercase().contains("step") || line.chars().all(|c| "-| ".contains(c));
    let lines = visible.lines().map(str::trim).filter(|line| !line.is_empty() && !header(line));
    let right = |(line, expected): &(&str, &String)| {
        let fields: Vec<&str> = line.split(['|', ':', ',']).map(str::trim).collect();
        fields.len() >= 4 && fields.last() == Some(&expected.as_str())
    };
    let prefix = lines.zip(&outputs).take_while(right).count();
    prefix as f64 / outputs.len().max(1) as f64
}

/// Harmonic mean of place, count and mean length, of what is left when quotes are exchanged and duplicates collapse.
fn kv_dict(targets: &KvDictTargets, visible: &str) -> f64 {
    let Some((start, end)) = visible.find('{').zip(visible.rfind('}')).filter(|(start, end)| start < end)
    else {
        return 0.0;
    };
    let json = visible[start..=end].replace('\'', "\"");
    let Ok(map) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&json) else {
        return 0.0;
    };
    let Some((key, value, index)) = targets.first_pin() else { return 0.0 };
    let Some(at) = map.keys().position(|k| k == key) else { return 0.0 };
    if !map.values().any(|v| v.as_str() == Some(value)) {
        return 0.0;
    }
    let entries = targets.entry_count() as f64;
    let bell = |difference: f64, scale: f64| 1.0 / (1.0 + (difference / scale).powi(2));
    let mean = |total: usize| total as f64 / map.len() as f64;
    let lengths = [
        mean(map.keys().map(String::len).sum()),
        mean(map.values().map(|v| v.as_str().map_or(0, str::len)).sum()),
    ];
    let parts = [
        bell(at as f64 - index as f64, entries / 4.0),
        bell(map.len() as f64 - entries, (entries / 4.0).max(1.0)),
        lengths.iter().map(|length| bell(length - 32.0, 8.0)).sum::<f64>() / 2.0,
    ];
    crate::aggregate::harmonic(&parts.map(|part| (part, 1.0)))
}

/// `(1 + τ)/2` where every segment occurs exactly once, else 0. Texts are taken by their tags; the published code aligns
/// them by TF-IDF, which gives the same for texts that are copied.
fn para_order(targets: &ParaOrderTargets, visible: &str) -> f64 {
    let order = targets.order_of(visible);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    let all = sorted.iter().copied().eq(0..targets.count());
    if all { (1.0 + crate::tasks::tau(&order)) / 2.0 } else { 0.0 }
}

/// Harmonic mean of whether it parses, `1/(1+v/50)` for violations, and the difference in occurrences of `def `. The
/// published code writes the block without its last line end, which is a violation (W292) of every answer.
fn code_fix(targets: &CodeTargets, visible: &str) -> f64 {
    let source = crate::tasks::extracted(visible);
    let Some(found) = crate::tasks::lint(&source).map(|found| found.len()) else { return 0.0 };
    let expected = targets.published_count() as f64;
    let off = (source.matches("def ").count() as f64 - expected) / (expected / 4.0).max(1.0);
    let style = 1.0 / (1.0 + (found + 1) as f64 / 50.0);
    crate::aggregate::harmonic(&[(1.0, 1.0), (style, 1.0), (1.0 / (1.0 + off * off), 1.0)])
}

/// The share of the constraints of a kind that hold. The published share is that of a judge; here the rules decide.
fn rate(instance: &Instance, answer: &Intake, kind: &str) -> f64 {
    let found = crate::tasks::task(instance.key.task).verify(instance, answer);
    let of_kind = instance.constraints.iter().zip(&found.verdicts).filter(|(c, _)| c.kind == kind);
    let (total, credit) = of_kind.fold((0, 0.0), |(n, sum), (_, v)| (n + 1, sum + v.credit.floor()));
    credit / f64::from(total.max(1))
}

/// Harmonic mean of two such shares.
fn judged(instance: &Instance, answer: &Intake, first: &str, second: &str) -> f64 {
    let rates = [first, second].map(|kind| (rate(instance, answer, kind), 1.0));
    crate::aggregate::harmonic(&rates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InstanceKey, Split, TaskConfig, TaskId, task};

    fn instance(id: TaskId) -> Instance {
        let key = InstanceKey {
            task: id,
            version: task(id).version(),
            split: Split::Test,
            length: 1024,
            difficulty: 1,
            base_seed: 3,
            index: 0,
        };
        task(id).generate(&key, &TaskConfig::default()).unwrap()
    }

    fn both(instance: &Instance, answer: &str) -> (f64, f64) {
        let answer = Intake::from(answer);
        (score(instance, &answer), task(instance.key.task).verify(instance, &answer).score)
    }

    #[test]
    fn oracles_score_one() {
        for &id in TaskId::ALL {
            let instance = instance(id);
            let (published, strict) = both(&instance, &task(id).oracle(&instance));
            // A perfect repair has one violation there: no line end after its last line.
            let highest = if id == TaskId::CodeFix { 3.0 / (1.0 + 51.0 / 50.0 + 1.0) } else { 1.0 };
            assert!((published - highest).abs() < 1e-12 && strict == 1.0, "{id}: {published} {strict}");
        }
    }

    #[test]
    fn published_artefacts() {
        let fsm = instance(TaskId::Fsm);
        let oracle = task(TaskId::Fsm).oracle(&fsm);
        // Wrong states with right outputs are worth 1; a right trace in a fence, or after a remark, is worth 0.
        let outputs_only: String = oracle
            .lines()
            .map(|line| format!("0 | S0 | a | S0 | {}\n", line.rsplit(' ').next().unwrap()))
            .collect();
        let (published, strict) = both(&fsm, &outputs_only);
        assert!(published == 1.0 && strict < 0.01, "{published} {strict}");
        assert_eq!(both(&fsm, &format!("```\n{oracle}\n```")), (0.0, 1.0));
        assert_eq!(both(&fsm, &format!("Here it is\n{oracle}")), (0.0, 1.0));

        // Constant values with digits as keys are worth 1; so is the pinned value under another key.
        let kv = instance(TaskId::KvDict);
        let Targets::KvDict(targets) = &kv.targets else { unreachable!() };
        let (key, value, index) = targets.first_pin().unwrap();
        let other = usize::from(index == 0);
        let constant = |i: usize| {
            let name = if i == index { key.to_owned() } else { format!("{i:032}") };
            let content = if i == other { value.to_owned() } else { "v".repeat(32) };
            format!("\"{name}\": \"{content}\"")
        };
        let text = format!("{{{}}}", (0..20).map(constant).collect::<Vec<_>>().join(", "));
        let (published, strict) = both(&kv, &text);
        assert!(published == 1.0 && strict < 1e-9, "{published} {strict}");

        // Comments that mention functions are worth what a perfect repair is; the unrepaired file is worth a third.
        let code = instance(TaskId::CodeFix);
        let Targets::CodeFix(targets) = &code.targets else { unreachable!() };
        let comments: String = (0..targets.published_count()).map(|i| format!("# def f{i}():\n")).collect();
        let (published, strict) = both(&code, &comments);
        assert!((published - 0.9934).abs() < 1e-4 && strict == 0.0, "{published} {strict}");
        let (published, strict) = both(&code, code.material());
        assert!(published > 0.3 && strict == 0.0, "{published} {strict}");

        // Style is judged without the marks that it is about.
        assert_eq!(judged_text("8 p.m. on Sept. 3: $5.50 (10%)", 10), "8 p m on Sept 3 5 50 10");
        assert_eq!(judged_text("one two, three", 2), "one two");

        // A missing paragraph is worth 0.
        let para = instance(TaskId::ParaOrder);
        let oracle = task(TaskId::ParaOrder).oracle(&para);
        let (published, strict) = both(&para, &oracle[..oracle.rfind("[[").unwrap()]);
        assert!(published == 0.0 && strict > 0.8);
    }
}
