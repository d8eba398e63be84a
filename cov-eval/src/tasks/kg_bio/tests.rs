use super::*;
use crate::key::Split;
use graph::Type;

fn instance(length: u32, difficulty: u8, index: u64) -> Instance {
    let key = InstanceKey {
        task: TaskId::KgBio,
        version: VERSION,
        split: Split::Test,
        length,
        difficulty,
        base_seed: 0,
        index,
    };
    KgBio.generate(&key, &TaskConfig::default()).unwrap()
}

fn score(instance: &Instance, answer: &str) -> f64 {
    KgBio.verify(instance, &Intake::from(answer)).score
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

/// An answer with one sentence for each fact, changed.
fn told(instance: &Instance, change: impl Fn(usize, String) -> String) -> String {
    let t = targets(instance).unwrap();
    let mut rng = instance.key.rng("phrase");
    let sentences: Vec<String> =
        t.facts.iter().enumerate().map(|(i, f)| change(i, state(&t.entities, f, &mut rng))).collect();
    tasks::fill(instance, &sentences)
}

#[test]
fn worked_example() {
    let instance = instance(1024, 1, 0);
    assert_eq!(targets(&instance).unwrap().facts.len(), 38);
    near(score(&instance, &told(&instance, |_, s| s)), 1.0);
    let absent = |i, s: String| if i == 12 { "Nothing is known of that.".into() } else { s };
    near(score(&instance, &told(&instance, absent)), 0.981_432);
    let invented = |i, s: String| if i == 12 { format!("{s} A certain Zeluzquist saw it.") } else { s };
    near(score(&instance, &told(&instance, invented)), 0.906_250);
    let lines = KgBio.nulls(&instance).into_iter().find(|n| n.0 == "lines").unwrap().1;
    assert_eq!(score(&instance, &lines), 0.0);
}

/// A small graph: entity 0 worked at 1, which is in 2, and married 3 in no known year.
fn small() -> Instance {
    let mut instance = instance(1024, 1, 0);
    let entity = |kind, name: &str, word: &str| Entity { kind, name: name.into(), word: word.into() };
    let entities = vec![
        entity(Type::Person, "Brovia Calquist", "Calquist"),
        entity(Type::Organization, "Doradyne Trust", "Doradyne"),
        entity(Type::Place, "Fenekburg", "Fenekburg"),
        entity(Type::Person, "Grimo Halvane", "Halvane"),
    ];
    let fact =
        |relation: Rel, subject, object| Fact { relation: relation as usize, subject, object, context: None };
    let facts = vec![
        fact(Rel::WorkedAt, 0, Object::Entity(1)),
        fact(Rel::LocatedIn, 1, Object::Entity(2)),
        fact(Rel::SpouseOf, 0, Object::Entity(3)),
        fact(Rel::BirthYear, 0, Object::Year(1850)),
        fact(Rel::Role, 0, Object::Phrase("chief surveyor".into())),
        fact(Rel::Amount, 0, Object::Amount(23_000)),
    ];
    instance.targets = Targets::KgBio(KgTargets { entities, facts, ..KgTargets::default() });
    instance
}

#[test]
fn facts_in_prose() {
    let instance = small();
    let Targets::KgBio(t) = &instance.targets else { unreachable!() };
    let credits = |text: &str| -> Vec<f64> {
        let evidence = crate::evidence::Evidence::read(&instance, text);
        verify::stated(t, &evidence).into_iter().map(|c| c.0).collect()
    };
    for (text, fact, expected) in [
        ("Calquist worked at the Doradyne Trust.", 0, 1.0),
        ("She worked at Doradyne.", 0, 1.0),
        ("Calquist liked Doradyne.", 0, 0.5),
        ("Calquist never worked at Doradyne.", 0, 0.0),
        ("Calquist didn't work long; she was not employed by Doradyne.", 0, 0.0),
        ("Halvane worked at Doradyne.", 0, 0.0),
        ("Calquist was young. The next years were spent employed at Doradyne.", 0, 1.0),
        ("Halvane was young. The next years were spent employed at Doradyne.", 0, 0.0),
        ("Doradyne grew. The company was based in Fenekburg.", 1, 1.0),
        ("Doradyne grew. The town was based in Fenekburg.", 1, 0.0),
        ("Calquist married Grimo Halvane.", 2, 1.0),
        ("She was born in 1850.", 3, 1.0),
        ("She was born in 1851.", 3, 0.0),
        ("Her role was that of chief surveyor.", 4, 1.0),
        ("Her role was to be a surveyor, and chief.", 4, 1.0),
        ("Her role was that of chief clerk.", 4, 0.0),
        ("She invested $23,000 there.", 5, 1.0),
        ("She invested 23 thousand dollars there.", 5, 1.0),
        ("She invested $24,000 there.", 5, 0.0),
    ] {
        assert_eq!(credits(text)[fact], expected, "{text}");
    }
}

#[test]
fn claims_without_support() {
    let instance = small();
    let claims = |text: &str| {
        let result = KgBio.verify(&instance, &Intake::from(text));
        let supported = result.components.iter().find(|c| c.0 == "supported").unwrap().1;
        ((1.0 / supported - 1.0) * (0.05 * 6.0 + 1.0)).round() as usize
    };
    for (text, expected) in [
        ("Calquist worked at Doradyne and was born in 1850.", 0),
        ("Calquist met Zeluzquist in Zeluzburg.", 2),
        ("Calquist met Zeluzquist. Zeluzquist left.", 1),
        ("In 1900 there were 300 and 12 of them.", 2),
        ("Calquist was born in 1850, not in 1851.", 1),
        // The year is no value of the material, and the birth is a wrong one.
        ("Calquist was born in 1851.", 3),
        ("Calquist married Grimo Halvane.", 0),
    ] {
        assert_eq!(claims(text), expected, "{text}");
    }
}

/// What a sentence says of another place contradicts nothing where a fact joins that place to what it is said of.
#[test]
fn other_facts_are_no_contradictions() {
    for (joined, expected) in [(true, 1.0), (false, 1.0 / (1.0 + 2.0 / 1.35))] {
        let mut instance = small();
        let Targets::KgBio(t) = &mut instance.targets else { unreachable!() };
        let entity = |kind, name: &str, word: &str| Entity { kind, name: name.into(), word: word.into() };
        t.entities.push(entity(Type::Organization, "Sorimax Guild", "Sorimax"));
        t.entities.push(entity(Type::Place, "Tamimburg", "Tamimburg"));
        let relation = if joined { Rel::LocatedIn } else { Rel::WorkedAt } as usize;
        t.facts.push(Fact { relation, subject: 4, object: Object::Entity(5), context: None });
        let text = "Doradyne grew beside Sorimax, which was based in Tamimburg.";
        let result = KgBio.verify(&instance, &Intake::from(text));
        near(result.components.iter().find(|c| c.0 == "supported").unwrap().1, expected);
    }
}

/// Within a graph no two facts are stated by the same words, years follow each other, and names are those of one thing.
#[test]
fn graphs_are_consistent() {
    for index in 0..40 {
        for (length, difficulty) in [(256, 0), (1024, 1), (8192, 2), (8192, 3)] {
            let instance = instance(length, difficulty, index);
            let t = targets(&instance).unwrap();
            assert_eq!(t.facts.len(), ((target_words(length) as usize + 10) / 20).max(8));
            let mut words: Vec<&String> = t.entities.iter().map(|e| &e.word).collect();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), t.entities.len());
            let year =
                |relation: Rel| t.facts.iter().find(|f| f.relation == relation as usize).map(|f| &f.object);
            let (Some(Object::Year(birth)), Some(Object::Year(death))) =
                (year(Rel::BirthYear), year(Rel::DeathYear))
            else {
                panic!("{}", instance.id)
            };
            let of_life = t.facts.iter().filter(|f| f.subject == 0 && f.relation != Rel::BirthYear as usize);
            for fact in of_life {
                if let Object::Year(year) = fact.object {
                    assert!((birth + 18..=*death).contains(&year));
                }
            }
            let second = instance.material().contains("other people");
            assert_eq!(second, difficulty > 0);
        }
    }
}

#[test]
fn inputs_are_filled_with_other_people() {
    let key = instance(1024, 1, 0).key;
    let sized =
        |in_tokens| KgBio.generate(&key, &TaskConfig { in_tokens: Some(in_tokens), ..Default::default() });
    let large = sized(65_536).unwrap();
    let tokens = large.material().len() / 4;
    assert!((58_000..70_000).contains(&tokens), "{tokens}");
    assert_eq!(score(&large, &KgBio.oracle(&large)), 1.0);
}

fn covered(instance: &Instance, text: &str) -> f64 {
    KgBio.verify(instance, &Intake::from(text)).components[0].1
}

/// Facts, one after another, without which a text covers one fact less, up to `count` of them.
fn alone(instance: &Instance, count: usize) -> Vec<usize> {
    let total = targets(instance).unwrap().facts.len() as f64;
    let mut gone: Vec<usize> = Vec::new();
    for fact in 0..total as usize {
        gone.push(fact);
        let text =
            told(instance, |i, s| if gone.contains(&i) { "Nothing is known of that.".into() } else { s });
        if (total * (1.0 - covered(instance, &text)) - gone.len() as f64).abs() > 1e-9 {
            gone.pop();
        }
        if gone.len() == count {
            break;
        }
    }
    assert_eq!(gone.len(), count, "{}", instance.id);
    gone
}

/// The rows of the worked example that are about length and facts that are stated in part.
#[test]
fn worked_example_of_lengths() {
    let mut instance = instance(1024, 1, 0);
    let of_length = |instance: &mut Instance, mut text: String, (num, den): (usize, usize)| {
        while !crate::words(&text).len().is_multiple_of(num) {
            text.push_str(" Quietly.");
        }
        instance.budget.target_words = Some((crate::words(&text).len() / num * den) as u32);
        score(instance, &text)
    };
    // 20 facts at half length.
    let gone = alone(&instance, 18);
    let text = told(&instance, |i, s| if gone.contains(&i) { String::new() } else { s });
    near(of_length(&mut instance.clone(), text, (1, 2)), 0.490_798);
    // 30 facts in full, 4 in half, 4 not at all, one name out of the air.
    let gone = alone(&instance, 8);
    let t = targets(&instance).unwrap().clone();
    let half = |fact: &Fact| {
        format!("{} had to do with {}.", t.entities[fact.subject].name, show(&t.entities, &fact.object))
    };
    let change = |i, s: String| match gone.iter().position(|&g| g == i) {
        Some(0..4) => half(&t.facts[i]),
        Some(4) => "A certain Zeluzquist saw it.".into(),
        Some(_) => String::new(),
        None => s,
    };
    let text = told(&instance, change);
    near(covered(&instance, &text), 32.0 / 38.0);
    near(of_length(&mut instance, text, (4, 5)), 0.784_605);
}

/// Stating one more fact never lowers what is covered, and all of them in any order are covered.
#[test]
fn one_more_fact_covers_no_less() {
    for index in 0..32 {
        for (length, difficulty) in [256, 1024].into_iter().flat_map(|l| (0..=3).map(move |d| (l, d))) {
            let instance = instance(length, difficulty, index);
            let t = targets(&instance).unwrap();
            let mut rng = instance.key.rng("plant");
            let mut order: Vec<usize> = (0..t.facts.len()).collect();
            rng.shuffle(&mut order);
            let (mut text, mut last) = (String::new(), 0.0);
            for fact in order {
                text.push_str(&state(&t.entities, &t.facts[fact], &mut rng));
                text.push(' ');
                let now = covered(&instance, &text);
                assert!(now >= last, "{}: {last} to {now} by fact {fact}: {text}", instance.id);
                last = now;
            }
            assert_eq!(last, 1.0, "{}: {text}", instance.id);
        }
    }
}

/// Two values of one type that matter, exchanged between facts with other words or subjects, are seen.
#[test]
fn exchanged_values_are_seen() {
    let mut tried = 0;
    for index in 0..24 {
        for difficulty in 0..=3 {
            let instance = instance(1024, difficulty, index);
            let t = targets(&instance).unwrap();
            let mut rng = instance.key.rng("plant");
            let matters = alone(&instance, 6);
            let kind = |object: &Object| match object {
                Object::Entity(i) => Some(t.entities[*i].kind),
                _ => None,
            };
            for _ in 0..16 {
                let (i, j) = (*rng.pick(&matters), rng.index(t.facts.len()));
                let (a, b) = (&t.facts[i], &t.facts[j]);
                let same = a.subject == b.subject
                    && RELATIONS[a.relation].cues.iter().any(|c| RELATIONS[b.relation].cues.contains(c));
                let typed = std::mem::discriminant(&a.object) == std::mem::discriminant(&b.object)
                    && kind(&a.object) == kind(&b.object);
                if same || !typed || a.object == b.object {
                    continue;
                }
                let mut changed = instance.clone();
                if let Targets::KgBio(t) = &mut changed.targets {
                    let object = t.facts[i].object.clone();
                    t.facts[i].object = std::mem::replace(&mut t.facts[j].object, object);
                }
                let text = told(&changed, |_, s| s);
                assert!(score(&instance, &text) < 1.0, "{}: facts {i} and {j}: {a:?} {b:?}", instance.id);
                tried += 1;
            }
        }
    }
    assert!(tried >= 256, "{tried}");
}
