use super::verify::read_tag;
use super::*;
use crate::key::Split;

type Blocks = Vec<(usize, String)>;

fn instance(length: u32, difficulty: u8, index: u64) -> Instance {
    let key = InstanceKey {
        task: TaskId::ParaOrder,
        version: VERSION,
        split: Split::Test,
        length,
        difficulty,
        base_seed: 0,
        index,
    };
    ParaOrder.generate(&key, &TaskConfig::default()).unwrap()
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

#[test]
fn worked_example() {
    let instance = instance(1024, 1, 0);
    let t = targets(&instance).unwrap();
    let exact: Blocks = t.numbers.iter().copied().zip(t.segments.iter().cloned()).collect();
    assert_eq!(exact.len(), 8);
    let verify =
        |blocks: &[(usize, String)]| ParaOrder.verify(&instance, &Intake::from(render(blocks).as_str()));
    let changed = |change: &dyn Fn(&mut Blocks)| {
        let mut blocks = exact.clone();
        change(&mut blocks);
        verify(&blocks).score
    };
    assert_eq!(verify(&exact).score, 1.0);
    near(changed(&|b| b.swap(2, 3)), 0.785_714);
    near(changed(&|b| drop(b.pop())), 0.825);
    near(changed(&|b| b.truncate(4)), 0.385_714);
    near(changed(&|b| b.truncate(2)), 0.164_286);
    near(changed(&|b| b.reverse()), 0.0);
    near(changed(&|b| b.rotate_right(1)), 0.642_857);
    near(changed(&|b| b.push(b[3].clone())), 0.888_889);
    // A tag over another text is no segment: its neighbours do not meet.
    near(changed(&|b| b[3].1 = "nothing of it".into()), 0.775);
    // A block of 100 characters at similarity 0.93.
    let mut short = instance.clone();
    let text = "x".repeat(100);
    if let Targets::ParaOrder(targets) = &mut short.targets {
        targets.segments[4] = text.clone();
    }
    let mut blocks = exact.clone();
    blocks[4].1 = "y".repeat(7) + &text[7..];
    near(ParaOrder.verify(&short, &Intake::from(render(&blocks).as_str())).score, 0.956_250);
}

/// What the public scorer does: a missing segment is worth 0, doubled neighbours 0.98, a random order 0.5.
#[test]
fn public_artefacts() {
    let instance = instance(1024, 1, 1);
    let t = targets(&instance).unwrap();
    let exact: Blocks = t.numbers.iter().copied().zip(t.segments.iter().cloned()).collect();
    let score = |blocks: &[(usize, String)]| {
        ParaOrder.verify(&instance, &Intake::from(render(blocks).as_str())).score
    };
    assert!(score(&exact[..7]) > 0.8);
    let doubled: Vec<_> = exact.iter().flat_map(|b| [b.clone(), b.clone()]).collect();
    near(score(&doubled), 0.5);
}

#[test]
fn random_orders_get_next_to_nothing() {
    for (length, expected) in [(1024, 0.120), (2048, 0.085), (4096, 0.058), (8192, 0.042)] {
        let n = interpolated([8, 12, 20, 32], length, 4);
        let mut rng = DetRng::from_seed([7; 32]);
        let mut sum = 0.0;
        for _ in 0..20_000 {
            let order = rng.sample(n, n);
            let kept = order.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
            sum += 0.6 * tau(&order).max(0.0) + 0.4 * kept as f64 / (n - 1) as f64;
        }
        assert!((sum / 20_000.0 - expected).abs() < 0.003, "{length}: {}", sum / 20_000.0);
    }
}

#[test]
fn construction_tells_nothing() {
    for n in 4..200 {
        let order = constructed(n);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        assert!(tells_nothing(&order), "{n}: τ {}", tau(&order));
    }
}

/// Every paragraph shares at least two terms with the next, and no term with any other.
#[test]
fn order_is_unique() {
    for index in 0..40 {
        for (length, difficulty) in [(256, 0), (1024, 1), (2048, 2), (8192, 3)] {
            let instance = instance(length, difficulty, index);
            let t = targets(&instance).unwrap();
            let n = t.segments.len();
            let story::Cues(cues) = story::cues(&instance.key, n);
            for (i, terms) in cues.iter().enumerate().take(n - 1) {
                let holds =
                    |segment: usize| terms.iter().filter(|term| t.segments[segment].contains(*term)).count();
                assert_eq!(holds(i), 3);
                assert!(holds(i + 1) >= 2, "{} {i}", instance.id);
                assert!((0..n).all(|other| other == i || other == i + 1 || holds(other) == 0));
            }
        }
    }
}

#[test]
fn tags() {
    for (text, number) in [
        ("[[Segment 12]] x", Some(12)),
        ("[[ segment  3 ]]", Some(3)),
        ("[[SEGMENT\t0004]]", Some(4)),
        ("[[Segment 12345]]", None),
        ("[[Segment12]]", None),
        ("[[Segment 1]", None),
        ("[[Segment x]]", None),
        ("[[Ségment 1]]", None),
    ] {
        assert_eq!(read_tag(text).map(|t| t.0), number, "{text}");
    }
}

#[test]
fn dates_by_difficulty() {
    for (difficulty, dated) in [(0, 8), (1, 2), (2, 2), (3, 0)] {
        let material = instance(1024, difficulty, 3).material().to_owned();
        assert_eq!(material.matches("The page is headed").count(), dated, "{difficulty}");
    }
}
