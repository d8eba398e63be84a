//! Faults in a report.

use super::answer::Part;
use super::verify::right;
use super::{LEXICONS, SalesTargets};
use crate::evidence::Evidence;
use crate::key::DetRng;
use crate::model::{Instance, PlantKind, Planted};

/// The parts with the fault, where there is a place for it.
fn spoil(targets: &SalesTargets, parts: &[Part], kind: PlantKind) -> Option<Vec<Part>> {
    let mut parts = parts.to_vec();
    for part in &mut parts {
        match (kind, part) {
            ("wrong_entity", Part::Entity(dim, i)) => *i = (*i + 1) % targets.count(*dim),
            ("wrong_amount", Part::Money(cents)) if *cents > 10_000 => *cents += *cents / 50,
            ("wrong_percent", Part::Percent(points)) => *points += 300,
            ("swapped_list", Part::List(_, ids)) => ids.swap(0, 1),
            ("opposite_label", Part::Label(lexicon, class)) => {
                *class = (*class + 1) % LEXICONS[*lexicon].len();
            }
            _ => continue,
        }
        return Some(parts);
    }
    None
}

pub(super) fn plant(
    instance: &Instance,
    targets: &SalesTargets,
    answer: &str,
    kind: PlantKind,
    rng: &mut DetRng,
) -> Option<Planted> {
    let evidence = Evidence::read(instance, answer);
    let mut places = right(targets, &evidence);
    rng.shuffle(&mut places);
    let of = |kinds: &[&str], i: usize| instance.ids(|kind, target| kinds.contains(&kind) && target == i);
    let whole = |kind: &str| instance.ids(|k, _| k == kind);
    let length = whole("length");
    for (number, sentence, tag) in places {
        let i = number - 1;
        let parts = &targets.questions.get(i)?.parts;
        let bytes = |range: std::ops::Range<usize>| {
            let span = evidence.span(&range);
            span.start as usize..span.end as usize
        };
        let mut text = answer.to_owned();
        let must_fail = match kind {
            "missing_tag" => {
                text.replace_range(bytes(tag), "");
                [of(&["answered", "correct"], i), whole("tags")].concat()
            }
            "duplicate_tag" => {
                let end = bytes(tag).end;
                text.insert_str(end, &format!(" and for that reason nothing else matters here [Q{number}]"));
                [of(&["answered", "correct"], i), whole("tags")].concat()
            }
            "all_entities" => {
                let Some(Part::Entity(dim, _)) = parts.iter().find(|p| matches!(p, Part::Entity(..))) else {
                    continue;
                };
                let names: Vec<String> =
                    (0..targets.count(*dim).min(12)).map(|j| targets.name(*dim, j)).collect();
                text.insert_str(bytes(tag).start, &format!("as opposed to {} ", names.join(", ")));
                of(&["correct"], i)
            }
            _ => {
                let Some(parts) = spoil(targets, parts, kind) else { continue };
                let sentence = bytes(sentence.start..tag.end);
                let spoiled = targets.sentence(i, &parts);
                text.replace_range(sentence, spoiled.trim_end_matches('.'));
                of(&["correct"], i)
            }
        };
        return Some(Planted { text, must_fail, may_fail: length });
    }
    None
}
