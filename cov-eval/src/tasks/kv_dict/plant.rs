//! Faults in a dictionary.

use std::collections::HashSet;

use super::{KvDictTargets, parse, render};
use crate::key::DetRng;
use crate::model::{Instance, PlantKind, Planted};

pub(super) fn plant(
    instance: &Instance,
    targets: &KvDictTargets,
    answer: &str,
    kind: PlantKind,
    rng: &mut DetRng,
) -> Option<Planted> {
    let object = parse::find(answer)?;
    let pairs = object.pairs.into_iter().map(|p| Some((p.key.into_owned(), p.value?.into_owned())));
    let mut pairs: Vec<(String, String)> = pairs.collect::<Option<_>>()?;
    let is_pin =
        |pair: &(String, String)| targets.pinned.iter().any(|p| (&p.key, &p.value) == (&pair.0, &pair.1));
    let keys: HashSet<&String> = pairs.iter().map(|p| &p.0).collect();
    let sound =
        |pair: &(String, String)| !is_pin(pair) && targets.is_key(&pair.0) && targets.is_value(&pair.1);
    if keys.len() < pairs.len() && kind != "duplicate_key" {
        return None;
    }
    let fillers: Vec<usize> = (0..pairs.len()).filter(|&i| sound(&pairs[i])).collect();
    let at = *fillers.get(rng.index(fillers.len().max(1)))?;
    let place = |pin: usize| pairs.iter().position(|pair| pair.0 == targets.pinned[pin].key);
    let ids = |kinds: &[&str]| instance.ids(|kind, _| kinds.contains(&kind));
    let moved =
        |from: usize| instance.ids(|kind, pin| kind == "position" && place(pin).is_some_and(|at| at >= from));
    let (mut quote, mut before) = ('"', "");
    let (must, may) = match kind {
        "off_by_one" => {
            // Swapped with a filler next to it, so that nothing else moves.
            let swap = |pin: usize| {
                let from = place(pin).filter(|&from| from == targets.pinned[pin].index)?;
                let to = [from + 1, from.wrapping_sub(1)].into_iter().find(|to| fillers.contains(to))?;
                Some((pin, from, to))
            };
            let pins = rng.sample(targets.pinned.len(), targets.pinned.len());
            let (pin, from, to) = pins.into_iter().find_map(swap)?;
            pairs.swap(from, to);
            (instance.ids(|kind, target| kind == "position" && target == pin), vec![])
        }
        "pair_split" => {
            let pin = rng.index(targets.pinned.len());
            let from = place(pin).filter(|&from| is_pin(&pairs[from]))?;
            let value = pairs[from].1.clone();
            pairs[from].1 = std::mem::replace(&mut pairs[at].1, value);
            let mut must = instance.ids(|kind, target| kind != "count" && target == pin && kind == "present");
            must.extend(instance.ids(|kind, target| kind == "position" && target == pin));
            must.extend(ids(&["keys_valid"]));
            (must, vec![])
        }
        "missing_entry" => {
            let may = moved(at);
            let must = if pairs.len() <= targets.entries { ids(&["count"]) } else { vec![] };
            pairs.remove(at);
            (must, may.into_iter().chain(ids(&["keys_valid", "values_valid", "random_looking"])).collect())
        }
        "extra_entry" => {
            let mut fresh = KvDictTargets { entries: 1, pinned: Vec::new(), ..targets.clone() };
            fresh.forbidden.extend(pairs.iter().map(|p| p.0.clone()));
            pairs.extend(fresh.entries(rng));
            (ids(&["count"]), vec![])
        }
        "short_key" => {
            pairs[at].0.pop();
            // A shorter string may have fewer of one character.
            (ids(&["keys_valid"]), ids(&["random_looking"]))
        }
        "lower_case_key" => {
            if !pairs[at].0.bytes().any(|b| b.is_ascii_uppercase()) {
                return None;
            }
            pairs[at].0 = pairs[at].0.to_lowercase();
            (ids(&["keys_valid"]), vec![])
        }
        "duplicate_key" => {
            let other = *fillers.iter().find(|&&other| pairs[other].0 != pairs[at].0)?;
            pairs[at].0 = pairs[other].0.clone();
            (ids(&["unique_keys"]), vec![])
        }
        "duplicate_value" => {
            let other = *fillers.iter().find(|&&other| pairs[other].1 != pairs[at].1)?;
            pairs[at].1 = pairs[other].1.clone();
            (ids(&["unique_values"]), vec![])
        }
        "low_entropy" => {
            for &i in &fillers {
                let number = format!("{i:04}");
                let letters: String = number.bytes().map(|b| char::from(b - b'0' + b'A')).collect();
                let keep = targets.length - 4;
                pairs[i] = ("X".repeat(keep) + &letters, "x".repeat(keep) + &number);
            }
            (ids(&["random_looking"]), vec![])
        }
        "single_quotes" => {
            quote = '\'';
            (ids(&["pure_output"]), vec![])
        }
        "prose_before" => {
            before = "Here is the dictionary you asked for.\n";
            (ids(&["pure_output"]), vec![])
        }
        _ => return None,
    };
    Some(Planted { text: format!("{before}{}", render(&pairs, quote)), must_fail: must, may_fail: may })
}
