//! Faults in a biography.

use std::ops::Range;

use super::graph::{Object, Type};
use super::verify::{cue_at, stated};
use super::{KgTargets, show};
use crate::evidence::Evidence;
use crate::key::DetRng;
use crate::model::{Instance, PlantKind, Planted};
use crate::names::NameKind;
use crate::words::words;

/// A fact with the sentence that states it, in full.
struct Place {
    fact: usize,
    sentence: Range<usize>,
}

/// A name that the instance does not know.
fn stranger(targets: &KgTargets, kind: NameKind, rng: &mut DetRng) -> String {
    let names = kind.draw(kind.len(), rng);
    let known = |name: &String| targets.entities.iter().any(|e| e.word == *name);
    names.into_iter().find(|name| !known(name)).unwrap_or_default()
}

pub(super) fn plant(
    instance: &Instance,
    targets: &KgTargets,
    answer: &str,
    kind: PlantKind,
    rng: &mut DetRng,
) -> Option<Planted> {
    let evidence = Evidence::read(instance, answer);
    let before = stated(targets, &evidence);
    let bytes = |range: &Range<usize>| {
        let span = evidence.span(range);
        span.start as usize..span.end as usize
    };
    let full = before.iter().enumerate().filter(|(_, (credit, _))| *credit == 1.0);
    let mut places: Vec<Place> = full
        .filter_map(|(fact, (_, sentence))| Some(Place { fact, sentence: bytes(sentence.as_ref()?) }))
        .collect();
    rng.shuffle(&mut places);
    let id_of = |fact: usize| instance.ids(|kind, target| kind == "fact" && target == fact);
    let whole = |kind: &str| instance.ids(|k, _| k == kind);
    let (length, unsupported) = (whole("length"), whole("no_unsupported"));
    let object = |place: &Place| &targets.facts[place.fact].object;
    let shown = |place: &Place| show(&targets.entities, object(place));
    let mut text = answer.to_owned();
    // Replaces the object of a place within its sentence.
    let replaced = |place: &Place, with: &str| {
        let sentence = &answer[place.sentence.clone()];
        let at = place.sentence.start + sentence.rfind(&shown(place))?;
        let mut text = answer.to_owned();
        text.replace_range(at..at + shown(place).len(), with);
        Some(text)
    };
    let lost = |text: &str| -> Vec<u16> {
        let after = stated(targets, &Evidence::read(instance, text));
        let lower = |i: &usize| after[*i].0 < before[*i].0;
        (0..before.len()).filter(lower).flat_map(id_of).collect()
    };
    let all_facts: Vec<u16> = instance.ids(|kind, _| kind == "fact");
    match kind {
        "drop_fact" | "wrong_year" | "wrong_place" | "negate" => {
            // Qualifiers tell of what they are about as well, so that not every sentence is the only one.
            for place in places.iter().take(24) {
                let sentence = place.sentence.clone();
                let text = match (kind, object(place)) {
                    ("drop_fact", _) => {
                        let end = sentence.end + usize::from(answer[sentence.end..].starts_with(' '));
                        format!("{}{}", &answer[..sentence.start], &answer[end..])
                    }
                    // Before the oldest organization of any graph.
                    ("wrong_year", Object::Year(_)) => {
                        replaced(place, &(1700 + rng.range(0, 19)).to_string())?
                    }
                    ("wrong_place", Object::Entity(i)) if targets.entities[*i].kind == Type::Place => {
                        replaced(place, &stranger(targets, NameKind::Place, rng))?
                    }
                    ("negate", _) => {
                        let at = cue_at(&answer[sentence.clone()], targets.facts[place.fact].relation)?;
                        let at = sentence.start + at;
                        format!("{}never {}", &answer[..at], &answer[at..])
                    }
                    _ => continue,
                };
                let gone = lost(&text);
                let fact = id_of(place.fact);
                if fact.iter().all(|id| gone.contains(id)) {
                    let wrong = kind.starts_with("wrong");
                    let must_fail = if wrong { [fact, unsupported].concat() } else { fact };
                    return Some(Planted { text, must_fail, may_fail: [gone, length].concat() });
                }
            }
            None
        }
        "swap_objects" => {
            let entity = |p: &&Place| matches!(object(p), Object::Entity(_));
            let candidates: Vec<&Place> = places.iter().filter(entity).take(12).collect();
            let pairs = candidates
                .iter()
                .enumerate()
                .flat_map(|(i, a)| candidates[i + 1..].iter().map(move |b| (a, b)));
            for (a, b) in pairs {
                let (first, second) = if a.sentence.start < b.sentence.start { (a, b) } else { (b, a) };
                if first.sentence.end > second.sentence.start {
                    continue;
                }
                let mut text = replaced(second, &shown(first))?;
                let at = first.sentence.start + answer[first.sentence.clone()].rfind(&shown(first))?;
                text.replace_range(at..at + shown(first).len(), &shown(second));
                let both = [id_of(a.fact), id_of(b.fact)].concat();
                let gone = lost(&text);
                if both.iter().all(|id| gone.contains(id)) {
                    // Sentences that continue from these, and values that are now wrong ones, may be hit as well.
                    return Some(Planted {
                        text,
                        must_fail: both,
                        may_fail: [all_facts, unsupported].concat(),
                    });
                }
            }
            None
        }
        "distractor_fact" => {
            let fresh: Vec<&String> =
                targets.misleading.iter().filter(|s| !answer.contains(s.as_str())).collect();
            let sentence = *fresh.get(rng.index(fresh.len().max(1)))?;
            text = format!("{sentence} {text}");
            Some(Planted { text, must_fail: unsupported, may_fail: length })
        }
        "invent_name" => {
            let name = stranger(targets, NameKind::Surname, rng);
            text = format!("A certain {name} saw it all. {text}");
            Some(Planted { text, must_fail: unsupported, may_fail: length })
        }
        "list_paragraphs" => {
            let prose = |p: &&str| !p.starts_with("- ");
            let paragraphs: Vec<&str> = text.split("\n\n").collect();
            let count = paragraphs.len();
            let open = paragraphs.iter().filter(|p| prose(p)).count();
            let mut left = (open.min(1)).max(count / 4);
            let listed = paragraphs.into_iter().map(|p| {
                if left > 0 && prose(&p) {
                    left -= 1;
                    format!("- {}", p.replace('\n', " "))
                } else {
                    p.to_owned()
                }
            });
            let text = listed.collect::<Vec<_>>().join("\n\n");
            (open > 0).then(|| Planted { text, must_fail: whole("prose"), may_fail: length })
        }
        "cut_length" => {
            let found = words(answer);
            let end = found.get(found.len() * 3 / 5)?.start;
            text.truncate(end);
            let gone = lost(&text);
            Some(Planted {
                text,
                must_fail: [length, gone].concat(),
                may_fail: [all_facts, unsupported].concat(),
            })
        }
        "repeat_half" => {
            let found = words(answer);
            let middle = found.get(found.len() / 2)?.start;
            let middle = answer[..middle].rfind(". ").map_or(middle, |at| at + 2);
            text = format!("{half}{half}", half = &answer[..middle]);
            let gone = lost(&text);
            Some(Planted { text, must_fail: gone, may_fail: [all_facts, unsupported, length].concat() })
                .filter(|p| !p.must_fail.is_empty())
        }
        _ => None,
    }
}
