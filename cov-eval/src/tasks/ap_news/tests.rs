use super::*;
use crate::evidence::Evidence;
use crate::key::Split;

fn instance(length: u32, difficulty: u8, index: u64) -> Instance {
    let key = InstanceKey {
        task: TaskId::ApNews,
        version: VERSION,
        split: Split::Test,
        length,
        difficulty,
        base_seed: 0,
        index,
    };
    ApNews.generate(&key, &TaskConfig::default()).unwrap()
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

#[test]
fn worked_example() {
    let instance = instance(1024, 1, 0);
    let t = targets(&instance).unwrap();
    assert_eq!(t.statements.len(), 20);
    let article = |form: &dyn Fn(usize, &Statement) -> String| {
        let sentences: Vec<String> = t.statements.iter().enumerate().map(|(i, s)| form(i, s)).collect();
        let text = tasks::fill(&instance, &sentences);
        ApNews.verify(&instance, &Intake::from(text.as_str())).score
    };
    near(article(&|_, s| s.right.clone()), 1.0);
    near(article(&|i, s| if i == 3 { s.wrong.clone() } else { s.right.clone() }), 0.974_359);
    near(article(&|_, s| s.wrong.clone()), 0.0);
}

/// Each form does what it is for: the wrong one breaks its rules, the right one none, and neither breaks another rule that
/// can be seen anywhere.
#[test]
fn forms_break_their_own_rules_only() {
    let mut rng = DetRng::from_seed([5; 32]);
    let mut seen = BTreeSet::new();
    for round in 0..60 {
        for category in 0..CATEGORIES.len() {
            for place in 0..8 {
                let surname = NameKind::Surname.name(rng.index(440));
                let noun = *rng.pick(NOUNS);
                let s = statement::draw(category, place, round % 2 == 1, (&surname, noun), &mut rng);
                let strays = |text: &str, but: Option<usize>| {
                    let found =
                        sheet::global().iter().filter(|(c, regex)| Some(*c) != but && regex.is_match(text));
                    found.map(|g| g.1.as_str().to_owned()).collect::<Vec<_>>()
                };
                assert_eq!(strays(&s.right, None), Vec::<String>::new(), "{}", s.right);
                assert_eq!(strays(&s.wrong, Some(category)), Vec::<String>::new(), "{}", s.wrong);
                for style in &s.styles {
                    seen.insert(style.rule);
                    assert!(
                        style.must.matches(&s.right) && !style.must_not.matches(&s.right),
                        "{} {style:?}",
                        s.right
                    );
                    assert!(
                        !style.must.matches(&s.wrong) || style.must_not.matches(&s.wrong),
                        "{} {style:?}",
                        s.wrong
                    );
                    assert!(style.must_not.matches(&s.wrong), "{} {style:?}", s.wrong);
                    assert!(s.wrong.contains(&style.wrong) && s.right.contains(&style.right), "{s:?}");
                }
                let names = |text: &str| text.contains(&surname) && text.contains(noun);
                assert!(names(&s.wrong) && names(&s.right), "{s:?}");
                assert!(
                    crate::words(&s.right).len() <= if s.styles.len() > 1 { 30 } else { 18 },
                    "{}",
                    s.right
                );
            }
        }
    }
    assert_eq!(seen.len(), RULES.len());
}

#[test]
fn statements_over_two_sentences() {
    let mut rng = DetRng::from_seed([5; 32]);
    let mut instance = instance(1024, 1, 0);
    let s = statement::draw(1, 2, false, ("Brovquist", "marina"), &mut rng);
    assert_eq!(RULES[s.styles[0].rule].0, "P3");
    instance.targets = Targets::ApNews(NewsTargets { categories: vec![1], statements: vec![s.clone()] });
    let t = targets(&instance).unwrap();
    let read = |text: &str| {
        let (window, kept) = verify::found(t, &Evidence::read(&instance, text)).remove(0);
        (window.is_some(), kept[0])
    };
    assert_eq!(read(&s.right), (true, true));
    assert_eq!(read(&s.wrong), (true, false));
    assert_eq!(read("Brovquist left. It rained. The marina was full."), (false, false));
    assert_eq!(read("The marinas of brovquist were full."), (false, false));
    assert_eq!(read("Nobody saw Brovquist. Marinas were full."), (true, false));
}

#[test]
fn sheets_by_difficulty() {
    let lines = |difficulty: u8| {
        let material = instance(1024, difficulty, 1).material().to_owned();
        (material.matches("- ").count(), material.matches("\nS").count())
    };
    assert_eq!(lines(0).1, 20);
    assert!(lines(1).0 < 20 && lines(2).0 >= RULES.len());
    assert!(targets(&instance(1024, 3, 1)).unwrap().statements.iter().any(|s| s.styles.len() == 2));
}

/// Nine and ten of two times ten statements, eight and seven in style, two stray violations a thousand words, a third too long.
#[test]
fn worked_example_of_misses() {
    let mut rng = DetRng::from_seed([9; 32]);
    let (mut instance, article) = (0..40)
        .find_map(|index| {
            let instance = instance(1024, 1, index);
            let t = targets(&instance)?;
            let (first, second) = (t.categories[0], t.categories[1]);
            let mut seen = [0; 2];
            let forms: Vec<String> = t
                .statements
                .iter()
                .map(|s| {
                    let of = usize::from(s.category == second);
                    assert!(of == 1 || s.category == first);
                    seen[of] += 1;
                    match (of, seen[of]) {
                        (0, 1) => String::new(),
                        (0, 2) | (1, 1..=3) => s.wrong.clone(),
                        _ => s.right.clone(),
                    }
                })
                .collect();
            let text = crate::filler::fill(&forms, 480, &mut rng);
            let planted = ApNews.plant(&instance, &text, "global_violation", &mut rng)?;
            Some((instance, planted.text))
        })
        .unwrap();
    instance.budget.target_words = Some(400);
    let count = crate::words(&article).len();
    let text = article + &" quiet".repeat(520 - count);
    let result = ApNews.verify(&instance, &Intake::from(text.as_str()));
    let value = |name: &str| {
        let all = result.components.iter().chain(&result.multipliers);
        all.into_iter().find(|c| c.0 == name).unwrap().1
    };
    near(value("included"), 0.95);
    near(value("styled"), 0.75);
    near(value("clean"), 0.833_333);
    near(value("length"), 0.969_697);
    near(result.score, 0.677_362);
}

/// Including one more statement in its right form never lowers what is included or styled, whatever the others are like.
#[test]
fn one_more_statement_is_no_loss() {
    for index in 0..32 {
        for (length, difficulty) in [256, 1024].into_iter().flat_map(|l| (0..=3).map(move |d| (l, d))) {
            let instance = instance(length, difficulty, index);
            let t = targets(&instance).unwrap();
            let mut rng = instance.key.rng("plant");
            let mut order: Vec<&Statement> = t.statements.iter().collect();
            rng.shuffle(&mut order);
            let (mut text, mut last) = (String::new(), (0.0, 0.0));
            for (i, statement) in order.into_iter().enumerate() {
                // A third of what was there before is in the wrong form.
                let wrong = i % 3 == 0;
                text.push_str(if wrong { &statement.wrong } else { &statement.right });
                text.push(' ');
                // Without the gate for copies: what is in the wrong form is one.
                let result = verify::analyse(&instance, &text);
                let now = (result.components[0].1, result.components[1].1);
                let less = now.0 < last.0 - 1e-12 || now.1 < last.1 - 1e-12;
                assert!(wrong || !less, "{}: {last:?} to {now:?} by {}", instance.id, statement.right);
                last = now;
            }
        }
    }
}

/// What the sheet wants, exchanged between two statements that want different things, is seen; so are their names, but between
/// neighbours, of which two sentences together are a place for both.
#[test]
fn exchanged_values_are_seen() {
    let mut tried = 0;
    for index in 0..24 {
        for difficulty in 0..=3 {
            let instance = instance(1024, difficulty, index);
            let t = targets(&instance).unwrap();
            let mut rng = instance.key.rng("plant");
            for _ in 0..8 {
                let (i, j) = (rng.index(t.statements.len()), rng.index(t.statements.len()));
                let (a, b) = (&t.statements[i], &t.statements[j]);
                let (x, y) = (rng.pick(&a.styles).right.clone(), rng.pick(&b.styles).right.clone());
                let mut others = vec![(a.surname.clone(), b.surname.clone())];
                // Where another statement's words are all that is wanted, nothing is lost.
                let wanted = |s: &Statement, text: &str| s.styles.iter().all(|k| k.must.matches(text));
                let changed = |s: &Statement, from: &str, to: &str| s.right.replacen(from, to, 1);
                if !(wanted(a, &changed(a, &x, &y)) && wanted(b, &changed(b, &y, &x))) {
                    others.push((x, y));
                }
                for (x, y) in others.into_iter().filter(|_| i.abs_diff(j) > 2) {
                    let form = |(k, s): (usize, &Statement)| match k {
                        k if k == i => changed(s, &x, &y),
                        k if k == j => changed(s, &y, &x),
                        _ => s.right.clone(),
                    };
                    let sentences: Vec<String> = t.statements.iter().enumerate().map(form).collect();
                    let text = tasks::fill(&instance, &sentences);
                    let found = ApNews.verify(&instance, &Intake::from(text.as_str())).score;
                    assert!(found < 1.0, "{}: {x} for {y}: {text}", instance.id);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 512, "{tried}");
}
