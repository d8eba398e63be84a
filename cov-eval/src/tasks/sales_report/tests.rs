use super::*;
use crate::evidence::Evidence;
use crate::key::Split;
use crate::model::{Reason, Status};

fn instance(length: u32, difficulty: u8, index: u64) -> Instance {
    let key = InstanceKey {
        task: TaskId::SalesReport,
        version: VERSION,
        split: Split::Test,
        length,
        difficulty,
        base_seed: 0,
        index,
    };
    SalesReport.generate(&key, &TaskConfig::default()).unwrap()
}

fn score(instance: &Instance, answer: &str) -> f64 {
    SalesReport.verify(instance, &Intake::from(answer)).score
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

/// A report of 768 words with these sentences.
fn report(instance: &Instance, change: impl Fn(usize, String) -> String) -> String {
    let t = targets(instance).unwrap();
    let sentences: Vec<String> =
        (0..t.questions.len()).map(|i| change(i, t.sentence(i, &t.questions[i].parts))).collect();
    tasks::fill(instance, &sentences)
}

#[test]
fn worked_example() {
    let instance = instance(1024, 1, 0);
    assert_eq!(targets(&instance).unwrap().questions.len(), 8);
    assert_eq!(score(&instance, &report(&instance, |_, s| s)), 1.0);
    let wrong = |i, s: String| if i == 3 { "Nobody knows what to say here [Q4].".into() } else { s };
    near(score(&instance, &report(&instance, wrong)), 0.933_333);
    let silent = |i, s: String| if i == 3 { "Nobody knows what to say here.".into() } else { s };
    near(score(&instance, &report(&instance, silent)), 0.875);
    // All right at half of the 90 % where the length is enough.
    let mut short = instance.clone();
    short.budget.target_words = Some(10_000);
    let words = crate::words(&report(&instance, |_, s| s)).len() as f64 / 10_000.0;
    assert!(words < 0.3);
    near(score(&short, &report(&instance, |_, s| s)), 0.5);
    // All right at half length.
    short.budget.target_words = Some(2 * crate::words(&report(&instance, |_, s| s)).len() as u32);
    near(score(&short, &report(&instance, |_, s| s)), 0.8);
}

#[test]
fn parts_of_a_sentence() {
    let t = targets(&instance(1024, 1, 0)).unwrap().clone();
    let lookup = t.lookup();
    let name = |i| t.name(Dim::Rep, i);
    let gives = |text: &str, part: &Part| answer::Mentions::read(text, &lookup).gives(part);
    let rep = Part::Entity(Dim::Rep, 3);
    assert!(gives(&format!("It was {}, not {}.", name(3), name(4)), &rep));
    assert!(gives("it was r04's best month", &rep));
    assert!(!gives(&format!("It was not {} but {}.", name(4), name(3)), &rep));
    assert!(!gives(&format!("It was {}, {} or {}.", name(3), name(4), name(5)), &rep));
    let list = Part::List(Dim::Rep, vec![2, 0]);
    assert!(gives(&format!("{} and {}, first {}", name(2), name(0), name(2)), &list));
    assert!(!gives(&format!("{} and {}", name(0), name(2)), &list));
    assert!(!gives(&format!("{}, {}, {}", name(2), name(0), name(1)), &list));
    let money = Part::Money(123_456_700);
    for (text, right) in [
        ("it was $1,234,567.00", true),
        ("it was $1.23 million", true),
        ("it was 1234567 dollars", true),
        ("it was $1.2 million", true),
        ("it was $1,3 million", false),
        ("it was $1,259,258.34", false),
        ("it was 1,234,567", false),
        ("from $5 to $1,234,567", false),
        ("$1,234,567 after $1, $2 and $3", false),
    ] {
        assert_eq!(gives(text, &money), right, "{text}");
    }
    let percent = Part::Percent(12_340);
    for (text, right) in
        [("12.3%", true), ("by 12.3 percent", true), ("-12.4%", true), ("12.6%", false), ("12.3", false)]
    {
        assert_eq!(gives(text, &percent), right, "{text}");
    }
    let count = Part::Count(12);
    for (text, right) in [
        ("twelve", true),
        ("12 of them", true),
        ("in 2021 it was 12", true),
        ("R12", false),
        ("1 in 12", false),
    ] {
        assert_eq!(gives(text, &count), right, "{text}");
    }
    let label = Part::Label(0, 0);
    for (text, right) in
        [("it rose", true), ("it grew, not fell", false), ("it was flat", false), ("it did", false)]
    {
        assert_eq!(gives(text, &label), right, "{text}");
    }
}

#[test]
fn tags_are_found_where_models_put_them() {
    let instance = instance(1024, 1, 0);
    let read = |text: &str| -> Vec<(usize, String)> {
        let evidence = Evidence::read(&instance, text);
        let found = verify::tagged(&evidence);
        found.into_iter().map(|t| (t.number, evidence.text[t.sentence].to_owned())).collect()
    };
    for (text, expected) in [
        ("First. The answer is this [Q1]. More.", vec![(1, "The answer is this")]),
        ("First. The answer is this. [Q1] More.", vec![(1, "The answer is this")]),
        ("One is this [Q1] and two is that [Q2].", vec![(1, "One is this"), (2, " and two is that")]),
        ("Both are this [Q1][Q2].", vec![(1, "Both are this"), (2, "Both are this")]),
        ("Both are this. [Q1] [q2] Done [Q3x].", vec![(1, "Both are this"), (2, "Both are this")]),
        ("[Q7] first", vec![(7, "")]),
    ] {
        let expected: Vec<(usize, String)> = expected.into_iter().map(|(n, s)| (n, s.to_owned())).collect();
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn three_tags_in_a_sentence_answer_nothing() {
    let instance = instance(1024, 1, 0);
    let all = (1..=8).map(|i| format!("[Q{i}]")).collect::<String>();
    let result =
        SalesReport.verify(&instance, &Intake::from(format!("Everything is as it is here {all}.").as_str()));
    assert_eq!(result.score, 0.0);
    assert!(result.flags.names().contains(&"tag_stuffing"));
    assert_eq!((result.verdicts[0].status, result.verdicts[0].reason), (Status::Fail, Reason::Format));
}

/// Every kind of question is asked at some time, and its answer follows from the rows that are shown.
#[test]
fn answers_follow_from_the_material() {
    let mut codes = std::collections::BTreeSet::new();
    for index in 0..60 {
        for (length, difficulty) in [(8192, 0), (8192, 1), (8192, 2), (2048, 3)] {
            let instance = instance(length, difficulty, index);
            let rows: Vec<Vec<&str>> = instance
                .material()
                .lines()
                .filter(|line| line.starts_with('S'))
                .map(|line| line.split(',').collect())
                .collect();
            let cents = |text: &str| text.replace('.', "").parse::<u64>().unwrap();
            let total: u64 = rows.iter().map(|r| cents(r[15])).sum();
            let by = |column: usize, name: &str| -> u64 {
                rows.iter().filter(|r| r[column] == name).map(|r| cents(r[15])).sum()
            };
            let t = targets(&instance).unwrap();
            for question in &t.questions {
                codes.insert(question.code.clone());
                let names = |dim: Dim| (0..t.count(dim)).map(move |i| t.name(dim, i));
                match (question.code.as_str(), &question.parts[..]) {
                    ("OV1", [Part::Money(mean)]) => assert_eq!(*mean, total / rows.len() as u64),
                    ("OV4", [Part::Count(n)]) => assert_eq!(*n, rows.len() as u64),
                    ("RP1", [Part::Entity(Dim::Rep, i), Part::Money(most), Part::Percent(_)]) => {
                        assert_eq!(names(Dim::Rep).map(|n| by(5, &n)).max(), Some(*most));
                        assert_eq!(by(5, &t.name(Dim::Rep, *i)), *most);
                    }
                    ("CI3", [Part::List(Dim::City, ids)]) => {
                        let mut sums: Vec<_> = names(Dim::City).map(|n| (by(3, &n), n)).collect();
                        sums.sort_by_key(|s| std::cmp::Reverse(s.0));
                        assert_eq!(sums[1].1, t.name(Dim::City, ids[1]));
                    }
                    ("CU1", [Part::Count(n), Part::Percent(_)]) => {
                        let new = rows.iter().filter(|r| r[9] == "yes").map(|r| r[7]);
                        assert_eq!(*n, new.collect::<std::collections::HashSet<_>>().len() as u64);
                    }
                    ("TM6", [Part::Percent(points)]) => {
                        let weekend = |r: &&Vec<&str>| {
                            let date: Vec<i64> = r[1].split('-').map(|x| x.parse().unwrap()).collect();
                            table::weekday(date[0], date[1], date[2]) >= 5
                        };
                        let sum: u64 = rows.iter().filter(weekend).map(|r| cents(r[15])).sum();
                        assert!((*points as f64 / 1000.0 - 100.0 * sum as f64 / total as f64).abs() < 0.001);
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(codes.len() >= 50, "{} {codes:?}", codes.len());
}

#[test]
fn inputs_are_filled_with_rows() {
    let key = instance(1024, 1, 0).key;
    let sized = |in_tokens| {
        SalesReport.generate(&key, &TaskConfig { in_tokens: Some(in_tokens), ..Default::default() })
    };
    let large = sized(32_768).unwrap();
    let tokens = large.material().len() / 4;
    assert!((30_000..36_000).contains(&tokens), "{tokens}");
    assert_eq!(score(&large, &SalesReport.oracle(&large)), 1.0);
    assert!(matches!(sized(100), Err(GenError::Range { field: "in_tokens", .. })));
}

/// Answering one more question right never lowers what is answered or right, whatever the others are like.
#[test]
fn one_more_answer_is_no_loss() {
    for index in 0..32 {
        for (length, difficulty) in [256, 1024].into_iter().flat_map(|l| (0..=3).map(move |d| (l, d))) {
            let instance = instance(length, difficulty, index);
            let t = targets(&instance).unwrap();
            let mut rng = instance.key.rng("plant");
            let n = t.questions.len();
            let (mut text, mut last) = (String::new(), (0.0, 0.0));
            for (place, i) in rng.sample(n, n).into_iter().enumerate() {
                // A third of what was there before answers another question.
                let wrong = place % 3 == 0;
                let right = t.sentence(i, &t.questions[i].parts);
                let other = t.sentence((i + 1) % n, &t.questions[(i + 1) % n].parts);
                let (body, _) = other.rsplit_once(" [Q").unwrap();
                text.push_str(&if wrong { format!("{body} [Q{}].", i + 1) } else { right });
                text.push(' ');
                let result = SalesReport.verify(&instance, &Intake::from(text.as_str()));
                let now = (result.components[0].1, result.components[1].1);
                assert!(
                    wrong || (now.0 >= last.0 && now.1 >= last.1),
                    "{}: {last:?} to {now:?}",
                    instance.id
                );
                last = now;
            }
            assert_eq!(last.0, 1.0, "{}: {text}", instance.id);
        }
    }
}

/// Two values of one kind that differ by more than what is tolerated, exchanged between two answers, are seen.
#[test]
fn exchanged_values_are_seen() {
    let mut tried = 0;
    for index in 0..24 {
        for difficulty in 0..=3 {
            let instance = instance(1024, difficulty, index);
            let t = targets(&instance).unwrap();
            let differ = |a: &Part, b: &Part| match (a, b) {
                (Part::Entity(d, i), Part::Entity(e, j)) => d == e && i != j,
                (Part::List(d, i), Part::List(e, j)) => d == e && i != j,
                (Part::Money(i), Part::Money(j)) => i.abs_diff(*j) > i.max(j) / 50 + 500,
                (Part::Percent(i), Part::Percent(j)) => i.abs_diff(*j) > 300,
                (Part::Count(i), Part::Count(j)) => i != j,
                (Part::Label(l, i), Part::Label(m, j)) => l == m && i != j,
                _ => false,
            };
            let n = t.questions.len();
            for (i, j) in (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))) {
                let (mut a, mut b) = (t.questions[i].parts.clone(), t.questions[j].parts.clone());
                let pairs = (0..a.len()).flat_map(|x| (0..b.len()).map(move |y| (x, y)));
                let Some((x, y)) = pairs.into_iter().find(|&(x, y)| differ(&a[x], &b[y])) else { continue };
                std::mem::swap(&mut a[x], &mut b[y]);
                let text = report(&instance, |k, s| match k {
                    k if k == i => t.sentence(i, &a),
                    k if k == j => t.sentence(j, &b),
                    _ => s,
                });
                assert!(score(&instance, &text) < 1.0, "{}: {i} and {j}", instance.id);
                tried += 1;
            }
        }
    }
    assert!(tried >= 256, "{tried}");
}
