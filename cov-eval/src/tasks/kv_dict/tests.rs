use super::verify::Shares;
use super::*;
use crate::flags::FlagSet;
use crate::key::Split;
use crate::model::{Gate, Reason};

type Pairs = Vec<(String, String)>;

/// An instance with `entries` entries of 32 characters, pinned at `indices`.
fn instance(entries: usize, indices: &[usize]) -> Instance {
    let key = InstanceKey {
        task: TaskId::KvDict,
        version: VERSION,
        split: Split::Test,
        length: 1024,
        difficulty: [1, 1, 2][indices.len()],
        base_seed: 0,
        index: 0,
    };
    let mut instance = KvDict.generate(&key, &TaskConfig::default()).unwrap();
    if let Targets::KvDict(targets) = &mut instance.targets {
        targets.entries = entries;
        targets.pinned.truncate(indices.len());
        targets.pinned.iter_mut().zip(indices).for_each(|(p, &index)| p.index = index);
    }
    let pins = indices.len() as u32;
    instance.constraints.retain(|c| !matches!(&*c.kind, "present" | "position") || c.target < pins);
    instance
}

fn oracle(instance: &Instance) -> Pairs {
    targets(instance).unwrap().entries(&mut instance.key.rng("material"))
}

fn score(instance: &Instance, pairs: &[(String, String)]) -> f64 {
    KvDict.verify(instance, &Intake::from(render(pairs, '"').as_str())).score
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

#[test]
fn twenty_entries() {
    let instance = instance(20, &[5]);
    let exact = oracle(&instance);
    assert_eq!(score(&instance, &exact), 1.0);
    let changed = |change: &dyn Fn(&mut Pairs)| {
        let mut pairs = exact.clone();
        change(&mut pairs);
        score(&instance, &pairs)
    };
    near(changed(&|p| p.swap(5, 6)), 0.909_091);
    near(changed(&|p| p.swap(5, 2)), 0.526_316);
    near(changed(&|p| drop(p.pop())), 0.95);
    near(
        changed(&|p| {
            p.push(("QZKVTXWB_LMNRAFUCYDEHGPJIOSQKXZV".into(), "qzkvtxwb0lmnrafucydehgpjiosqkxzv".into()));
        }),
        0.952_381,
    );
    near(changed(&|p| p[9].0.replace_range(3..4, "a")), 0.980_926);
    near(changed(&|p| p[9].0 = p[8].0.clone()), 0.978_465);
    near(changed(&|p| p[5].0 = "QZKVTXWB_LMNRAFUCYDEHGPJIOSQKXZV".into()), 0.0);
    near(KvDict.verify(&instance, &Intake::from(render(&exact, '\'').as_str())).score, 0.95);
}

#[test]
fn many_entries() {
    let large = instance(160, &[50]);
    let exact = oracle(&large);
    assert_eq!(score(&large, &exact), 1.0);
    let mut moved = exact.clone();
    moved.swap(50, 66);
    near(score(&large, &moved), 0.384_615);
    near(score(&large, &exact[..120]), 0.75);
    near(score(&large, &exact[..80]), 0.5);
    let shares =
        Shares { positions: vec![1.0], valid: 1.0, unique: 1.0, random: 0.05, count: 1.0, form: 1.0 };
    near(shares.base(), 0.259_740);

    let two = instance(40, &[10, 30]);
    let mut moved = oracle(&two);
    moved.swap(30, 32);
    near(score(&two, &moved), 0.882_353);
}

/// What the public scorer takes: constants with digits as keys, and a pinned value under another key, scored 1.
#[test]
fn constants_and_split_pairs_are_refused() {
    let instance = instance(20, &[5]);
    let Pinned { key, value, .. } = targets(&instance).unwrap().pinned[0].clone();
    let mut pairs: Pairs = (0..20).map(|i| (format!("{i:032}"), "v".repeat(32))).collect();
    pairs[5] = (key, value.clone());
    assert!(score(&instance, &pairs) < 1e-9);
    let mut split = oracle(&instance);
    split[5].1 = split[6].1.clone();
    split[6].1 = value;
    assert_eq!(score(&instance, &split), 0.0);
}

#[test]
fn form() {
    let instance = instance(20, &[5]);
    let text = render(&oracle(&instance), '"');
    let verify = |text: &str| KvDict.verify(&instance, &Intake::from(text));
    assert_eq!(verify(&format!("```json\n{text}\n```")).score, 1.0);
    assert_eq!(verify(&text.replace(['\n', ' '], "")).score, 1.0);
    near(verify(&format!("Sure:\n{text}")).score, 0.95);
    near(verify(&format!("Sure:\n{}", text.replace('"', "'"))).score, 0.9025);
    let cut = verify(&text[..text.len() / 2]);
    assert_eq!(cut.flags.names(), ["truncated_object"]);
    assert!(cut.score > 0.3 && cut.score < 0.6, "{}", cut.score);
    assert_eq!(verify("no dictionary {").gate, Gate::NoObject);
    assert!(verify(&format!("{text}\n{text}")).flags.intersects(FlagSet::MULTI_ANSWER));
}

#[test]
fn forbidden_keys() {
    let key = instance(20, &[5]).key;
    let cfg = TaskConfig { in_tokens: Some(4000), ..TaskConfig::default() };
    let padded = KvDict.generate(&key, &cfg).unwrap();
    let mut pairs = oracle(&padded);
    assert_eq!(score(&padded, &pairs), 1.0);
    let targets = targets(&padded).unwrap();
    let at = usize::from(targets.pinned[0].index == 0);
    pairs[at].0 = targets.forbidden[7].clone();
    let verdict = KvDict.verify(&padded, &Intake::from(render(&pairs, '"').as_str()));
    assert_eq!(verdict.verdicts.last().unwrap().reason, Reason::Extra);
    near(verdict.score, 0.980_926);
}

#[test]
fn places_follow_from_credits() {
    for entries in [6, 20, 160, 640] {
        let targets = KvDictTargets { entries, ..targets(&instance(20, &[5])).unwrap().clone() };
        for off in (0..300).chain([5_000, 170_000]) {
            assert_eq!(
                targets.places_off(verify::placement(off, 0, entries)),
                Some(off as u32),
                "of {entries}"
            );
        }
        assert_eq!(targets.places_off(0.0), None);
    }
}

/// Both readings of an answer; the quick one may know nothing, and else says the same.
fn both_readings(instance: &Instance, answer: &str) -> bool {
    let targets = targets(instance).unwrap();
    let quick = quick::read(targets, answer);
    let known = quick.is_some();
    if known {
        assert_eq!(quick, verify::thorough(targets, answer), "{}: {answer}", instance.id);
    }
    known
}

/// Instances of every difficulty and of short and long answers, one in two with forbidden keys.
fn any_instance(index: u64) -> Instance {
    let key = InstanceKey {
        task: TaskId::KvDict,
        version: VERSION,
        split: Split::Test,
        length: [256, 1024, 8192][index as usize / 4 % 3],
        difficulty: (index % 4) as u8,
        base_seed: 17,
        index,
    };
    let in_tokens = (index % 2 == 1).then_some(3000);
    KvDict.generate(&key, &TaskConfig { in_tokens, ..TaskConfig::default() }).unwrap()
}

#[test]
fn quick_reading_knows_what_is_right() {
    let mut missed = 0;
    for index in 0..600 {
        let instance = any_instance(index);
        let mut pairs = oracle(&instance);
        missed += usize::from(!both_readings(&instance, &render(&pairs, '"')));
        // Also where given entries are in other places, or absent, and in any layout.
        let (first, n) = (targets(&instance).unwrap().pinned[0].index, pairs.len());
        pairs.swap(first, (first + 2) % n);
        let text = render(&pairs, '"');
        for text in [
            text.replace(",\n", ","),
            text.replace(": ", " :\t"),
            format!("```json\n{text}\n```"),
            format!("Here it is:\n{text}\nDone {{}}."),
        ] {
            missed += usize::from(!both_readings(&instance, &text));
        }
        pairs.remove((first + 2) % n);
        missed += usize::from(!both_readings(&instance, &render(&pairs, '"')));
    }
    // Hashes may be the same by accident.
    assert!(missed < 40, "{missed} of 3600");
}

#[test]
fn quick_reading_never_says_otherwise() {
    let junk =
        ["", "\"", "{", "}", ",", ":", " ", "\\", "A", "a", "\u{b}", "é", "\\u0041", "'", "null", "[]"];
    let mut known = 0;
    for index in 0..3000 {
        let instance = any_instance(index % 48);
        let mut rng = crate::key::DetRng::from_seed(
            [(index % 251) as u8, (index / 251) as u8].repeat(16).try_into().unwrap(),
        );
        let mut pairs = oracle(&instance);
        let (n, forbidden) = (pairs.len(), &targets(&instance).unwrap().forbidden);
        let (i, j) = (rng.index(n), rng.index(n));
        let pin = targets(&instance).unwrap().pinned[0].clone();
        match rng.index(14) {
            0 => pairs[i].0 = pairs[j].0.clone(),
            1 => pairs[i].1 = pairs[j].1.clone(),
            2 => pairs[i] = pairs[j].clone(),
            3 => pairs[i].0 = pin.key,
            4 => pairs[i].1 = pin.value,
            5 => pairs.push((pin.key, pin.value)),
            6 if !forbidden.is_empty() => pairs[i].0 = rng.pick(forbidden).clone(),
            7 => pairs[i].0.make_ascii_lowercase(),
            8 => pairs[i].1.truncate(5),
            9 => pairs[i].0 = "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF"[..pairs[j].0.len()].to_owned(),
            10 => {
                // The same beginning, or end.
                let half = pairs[i].1.len() / 2;
                let other = pairs[j].1.clone();
                let range = if rng.coin(1, 2) { 0..half } else { half..other.len() };
                pairs[i].1.replace_range(range.clone(), &other[range]);
            }
            11 => pairs[i].1 = "7".repeat(pairs[i].1.len()),
            12 => pairs.truncate(i),
            _ => {}
        }
        let mut text = render(&pairs, '"');
        for _ in 0..rng.index(4) {
            let at = text.floor_char_boundary(rng.index(text.len() + 1));
            match rng.index(3) {
                0 => text.insert_str(at, rng.pick::<&str>(&junk)),
                1 => text.truncate(at),
                _ if at < text.len() => drop(text.remove(at)),
                _ => {}
            }
        }
        known += usize::from(both_readings(&instance, &text));
    }
    // Most changes leave something wrong, which that reading does not know.
    assert!(known > 100, "{known} of 3000");
}
