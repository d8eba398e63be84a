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
                    crate::text::words(&s.right).len() <= if s.styles.len() > 1 { 30 } else { 18 },
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
