//! Pairs of scored responses, and samples of pairs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use toolrm::record::{self, Scored};
use toolrm::{
    Balance, Difficulty, Embeddings, Holdout, Item, PairOptions, Rational, SampleOptions, SplitBy, bmds,
    composition, difficulty, distinct, farthest_first, fill, intensity_bin, pairs, rank,
};

fn scored(origin: &str, text: &str, num: u64, den: u64) -> Scored {
    let line = format!(
        r#"{{"step_id":"s","origin":"{origin}","text":"{text}","source":"a","content":"{text}","calls":[],"score":{:?},"num":{num},"den":{den}}}"#,
        num as f64 / den as f64
    );
    record::read(&line).unwrap()
}

fn gold() -> Scored {
    scored("ground_truth", "gold", 1, 1)
}

#[test]
fn bins_are_closed_on_the_right() {
    for (num, den, bin) in
        [(1, 20, 0), (1, 10, 0), (1, 4, 2), (3, 10, 2), (1, 2, 4), (9, 10, 8), (19, 20, 9), (1, 1, 9)]
    {
        assert_eq!(intensity_bin(Rational::new(num, den).unwrap(), 10), bin, "{num}/{den}");
    }
    assert_eq!(intensity_bin(Rational::simplest(0.1 + 0.2).unwrap(), 10), 3, "a little above 3/10");
}

#[test]
fn a_step_of_five_candidates() {
    let mut responses = vec![gold()];
    for (i, (num, den)) in [(1, 1), (2, 3), (2, 3), (0, 1), (0, 1)].into_iter().enumerate() {
        responses.push(scored("m", &format!("c{i}"), num, den));
    }
    assert_eq!(difficulty(&responses[1..]), Difficulty::Kept);
    let all = pairs(&responses, &PairOptions::default());
    let of_gold = all.iter().filter(|p| p.chosen.origin == "ground_truth").count();
    assert_eq!((of_gold, all.len()), (4, 12));
    let gold_only = PairOptions { gold_only: true, ..PairOptions::default() };
    assert_eq!(pairs(&responses, &gold_only).len(), 4);
    let bins: Vec<u64> = all.iter().map(|p| p.bin).collect();
    assert!(bins.contains(&3) && bins.contains(&6) && bins.contains(&9), "1/3, 2/3 and 1: {bins:?}");
    for max in 0..13 {
        let some = pairs(&responses, &PairOptions { max_per_step: Some(max), ..PairOptions::default() });
        assert_eq!(some.len(), max.min(12));
        if (2..=12).contains(&max) {
            let least = |p: &[toolrm::record::Pair]| p.iter().map(|p| p.intensity).min().unwrap();
            let most = |p: &[toolrm::record::Pair]| p.iter().map(|p| p.intensity).max().unwrap();
            assert_eq!((least(&some), most(&some)), (least(&all), most(&all)), "the spread is kept");
        }
    }
}

#[test]
fn steps_that_teach_nothing() {
    let is = |scores: &[(u64, u64)]| {
        let all: Vec<Scored> = scores.iter().map(|(n, d)| scored("m", "x", *n, *d)).collect();
        difficulty(&all)
    };
    assert_eq!(is(&[(1, 1), (1, 1)]), Difficulty::TooEasy);
    assert_eq!(is(&[(1, 2), (0, 1)]), Difficulty::TooHard);
    assert_eq!(is(&[]), Difficulty::NoCandidates);
    assert_eq!(is(&[(1, 1), (1, 2)]), Difficulty::Kept);
}

#[test]
fn the_same_content_takes_part_once() {
    let twice = [gold(), scored("a", "gold", 1, 1), scored("b", "x", 0, 1), scored("c", "x", 0, 1)];
    assert_eq!(distinct(&twice), [0, 2]);
    let made = pairs(&twice, &PairOptions::default());
    assert_eq!(made.len(), 1);
    assert_eq!((made[0].chosen.origin.as_str(), made[0].rejected.origin.as_str()), ("ground_truth", "b"));
}

#[test]
fn complex_steps_give_none() {
    let mut gold = gold();
    let text = format!("[f({})]", (0..50).map(|i| format!("a{i}=1")).collect::<Vec<_>>().join(", "));
    gold.calls = Some(toolrm::parse(&text, toolrm::Format::Pythonic, toolrm::Mode::Strict).unwrap().calls);
    let responses = [gold, scored("m", "x", 0, 1)];
    assert_eq!(pairs(&responses, &PairOptions::default()).len(), 0, "51 beyond 50");
    let more = PairOptions { max_complexity: 51, ..PairOptions::default() };
    assert_eq!(pairs(&responses, &more)[0].complexity, 51);
}

#[test]
fn levels_of_groups() {
    assert_eq!(fill(&[1, 4, 10, 3], 12), [1, 4, 4, 3]);
    for count in 18..30 {
        assert_eq!(fill(&[1, 4, 10, 3], count), [1, 4, 10, 3]);
    }
}

#[derive(Clone, Debug)]
struct Row {
    id: String,
    step: String,
    source: String,
    bin: u32,
    complexity: u32,
}

fn items(rows: &[Row]) -> Vec<Item<'_>> {
    rows.iter()
        .map(|r| Item {
            id: &r.id,
            step: &r.step,
            source: &r.source,
            bin: r.bin,
            complexity: r.complexity,
            gold: r.complexity.is_multiple_of(2),
        })
        .collect()
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((0u32..9, "[abc]", 0u32..4, 0u32..6), 0..60).prop_map(|all| {
        all.into_iter()
            .enumerate()
            .map(|(i, (step, source, bin, complexity))| Row {
                id: format!("p{}", i * 7 % 61),
                step: format!("s{step}"),
                source,
                bin,
                complexity,
            })
            .collect()
    })
}

fn ids<'a>(rows: &'a [Row], which: &[usize]) -> Vec<&'a str> {
    which.iter().map(|i| rows[*i].id.as_str()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn levels_are_what_rounds_take(sizes in prop::collection::vec(0usize..12, 0..8), count in 0usize..60) {
        let mut want = vec![0; sizes.len()];
        let mut left = count;
        while left > 0 && want != sizes {
            for (w, s) in want.iter_mut().zip(&sizes) {
                if *w < *s && left > 0 {
                    *w += 1;
                    left -= 1;
                }
            }
        }
        prop_assert_eq!(fill(&sizes, count), want);
    }

    #[test]
    fn pairs_follow_their_law(scores in prop::collection::vec((0u64..5, 0u32..12), 0..12)) {
        let mut responses = vec![gold()];
        responses.extend(scores.iter().map(|(num, text)| scored("m", &format!("t{text}"), *num, 4)));
        let mut firsts: BTreeMap<u32, u64> = BTreeMap::new();
        for (num, text) in &scores {
            firsts.entry(*text).or_insert(*num);
        }
        let mut counts = [0u64; 5];
        firsts.values().for_each(|num| counts[*num as usize] += 1);
        let of_candidates: u64 = (0..5).flat_map(|i| (i + 1..5).map(move |j| (i, j))).map(|(i, j)| counts[i] * counts[j]).sum();
        let of_gold: u64 = counts[..4].iter().sum();
        let made = pairs(&responses, &PairOptions::default());
        prop_assert_eq!(made.len() as u64, of_candidates + of_gold);
        prop_assert!(made.iter().all(|p| p.chosen.score > p.rejected.score && p.rejected.origin != "ground_truth"));
        prop_assert!(made.iter().all(|p| p.intensity == p.chosen.score.minus(p.rejected.score).unwrap()));
        // The ids do not know the order of the candidates, nor do they repeat.
        let firsts_alone: Vec<Scored> = distinct(&responses).into_iter().map(|i| responses[i].clone()).collect();
        let mut turned = firsts_alone.clone();
        turned.reverse();
        let sorted = |r: &[Scored]| {
            let mut ids: Vec<String> = pairs(r, &PairOptions::default()).into_iter().map(|p| p.id).collect();
            ids.sort();
            ids
        };
        let ids = sorted(&firsts_alone);
        prop_assert_eq!(&ids, &sorted(&turned));
        prop_assert!(ids.windows(2).all(|w| w[0] != w[1]));
        prop_assert_eq!(rank(&responses, &PairOptions::default()).len(), made.len());
    }

    #[test]
    fn samples_are_balanced(rows in rows(), count in 0usize..70, seed in any::<u64>(), turn in any::<prop::sample::Index>()) {
        let options = SampleOptions { count, seed, holdout: Holdout::Count(5), ..SampleOptions::default() };
        let all = items(&rows);
        let sample = bmds(&all, &options, None).unwrap();
        let taken: Vec<usize> = sample.train.iter().chain(&sample.val).copied().collect();
        prop_assert_eq!(taken.len(), count.min(rows.len()));
        let mut groups: BTreeMap<(&str, u32), [Vec<u32>; 2]> = BTreeMap::new();
        for (i, r) in rows.iter().enumerate() {
            let [inside, left] = groups.entry((&r.source, r.bin)).or_default();
            if taken.contains(&i) { inside.push(r.complexity) } else { left.push(r.complexity) }
        }
        for [taken, left] in groups.values() {
            prop_assert!(taken.iter().all(|t| left.iter().all(|l| t >= l)));
            for [others, _] in groups.values() {
                prop_assert!(others.len() <= taken.len() + 1 || left.is_empty());
            }
        }
        // The order of the input does not matter.
        let mut turned = rows.clone();
        if !turned.is_empty() {
            let at = turn.index(turned.len());
            turned.rotate_left(at);
        }
        let other = bmds(&items(&turned), &options, None).unwrap();
        prop_assert_eq!(ids(&turned, &other.train), ids(&rows, &sample.train));
        prop_assert_eq!(ids(&turned, &other.val), ids(&rows, &sample.val));
        // The seed does not choose which pairs are taken.
        let reseeded = bmds(&all, &SampleOptions { seed: seed ^ 1, ..options }, None).unwrap();
        let set = |s: &toolrm::Sample| {
            let mut all: Vec<usize> = s.train.iter().chain(&s.val).copied().collect();
            all.sort_unstable();
            all
        };
        prop_assert_eq!(set(&reseeded), set(&sample));
        // No step is on both sides; by pairs, the number held out is exact.
        prop_assert!(sample.val.len() <= 5.min(taken.len()));
        prop_assert!(sample.val.iter().all(|v| sample.train.iter().all(|t| rows[*v].step != rows[*t].step)));
        let by_pair = bmds(&all, &SampleOptions { split_by: SplitBy::Pair, ..options }, None).unwrap();
        prop_assert_eq!(by_pair.val.len(), 5.min(taken.len()));
        let before = composition(&all, 0..all.len());
        prop_assert_eq!(before.counts.values().sum::<u64>(), rows.len() as u64);
        // Each dimension can be switched off, and then the number is still right and the order still does not matter.
        for off in 0..3 {
            let options = SampleOptions { by_source: off != 0, by_intensity: off != 1, by_complexity: off != 2, ..options };
            let a = bmds(&all, &options, None).unwrap();
            prop_assert_eq!(a.train.len() + a.val.len(), taken.len());
            prop_assert_eq!(ids(&rows, &a.train), ids(&turned, &bmds(&items(&turned), &options, None).unwrap().train));
        }
        // Two levels: no source gives more than one above another that has some left.
        let two = bmds(&all, &SampleOptions { balance: Balance::TwoLevel, ..options }, None).unwrap();
        let two = set(&two);
        let mut sources: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (i, r) in rows.iter().enumerate() {
            let (inside, left) = sources.entry(&r.source).or_default();
            *(if two.contains(&i) { inside } else { left }) += 1;
        }
        for (inside, left) in sources.values() {
            prop_assert!(*left == 0 || sources.values().all(|(others, _)| *others <= inside + 1));
        }
    }

    #[test]
    fn the_farthest_is_taken_next(seed in prop::collection::vec(-1f32..1.0, 44), count in 0usize..14) {
        let mut data = seed;
        for row in data.chunks_exact_mut(4) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
            row.iter_mut().for_each(|x| *x /= length);
        }
        let Ok(embeddings) = Embeddings::new(data, 11) else { return Ok(()) };
        let pool: Vec<usize> = (0..11).rev().collect();
        let chosen = farthest_first(&embeddings, &pool, count);
        prop_assert_eq!(chosen.len(), count.min(11));
        let cosine = |a: usize, b: usize| -> f64 {
            embeddings.row(a).iter().zip(embeddings.row(b)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        for n in 1..chosen.len() {
            let nearest = |i: usize| chosen[..n].iter().map(|c| cosine(*c, i)).fold(f64::NEG_INFINITY, f64::max);
            let least = pool.iter().filter(|i| !chosen[..n].contains(i)).map(|i| nearest(*i)).fold(f64::INFINITY, f64::min);
            prop_assert!(nearest(chosen[n]) <= least + 1e-5);
        }
        prop_assert_eq!(chosen.first(), pool.first().filter(|_| count > 0));
    }
}

#[test]
fn a_group_gives_its_diverse_pairs() {
    let rows: Vec<Row> = (0..40)
        .map(|i| Row {
            id: format!("p{i:02}"),
            step: format!("s{i}"),
            source: "a".into(),
            bin: 0,
            complexity: 100 - i,
        })
        .collect();
    // The first twenty are alike but for two.
    let data: Vec<f32> =
        (0..40).flat_map(|i| if i == 7 || i == 30 { [0.0, 1.0] } else { [1.0, 0.0] }).collect();
    let embeddings = Embeddings::new(data, 40).unwrap();
    let options = SampleOptions { count: 2, holdout: Holdout::Count(0), ..SampleOptions::default() };
    let mut taken = bmds(&items(&rows), &options, Some(&embeddings)).unwrap().train;
    taken.sort_unstable();
    assert_eq!(taken, [0, 7], "the pool is the first eight by complexity");
}

#[test]
fn a_repeated_id_is_named() {
    let row = |id: &str| Row { id: id.into(), step: "s".into(), source: "a".into(), bin: 0, complexity: 1 };
    let error = bmds(&items(&[row("x"), row("y"), row("x")]), &SampleOptions::default(), None).unwrap_err();
    assert_eq!(error.to_string(), "id.duplicate: the pair \"x\" is there twice");
}

#[test]
fn embeddings_have_unit_length() {
    assert!(Embeddings::new(vec![1.0, 0.0, 0.6], 2).is_err());
    let error = Embeddings::new(vec![1.0, 0.0, 0.6, 0.6], 2).unwrap_err();
    assert!(error.to_string().starts_with("row 1 has length 0.84"), "{error}");
    assert!(Embeddings::new(vec![f32::NAN, 0.0], 1).is_err());
}
