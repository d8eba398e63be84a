//! Faults in an article.

use super::sheet::global;
use super::verify::found;
use super::{NewsTargets, Statement};
use crate::evidence::Evidence;
use crate::filler;
use crate::key::DetRng;
use crate::model::{Instance, PlantKind, Planted};
use crate::words::words;

/// Violations that can stand anywhere.
const STRAYS: &[&str] = &[
    "About ten per cent of the town stayed home.",
    "\"Fine\", the crowd said.",
    "On March 3rd nobody came.",
    "Dinner was served at 8 PM as ever.",
    "A spokesman said nothing of note.",
    "The web site was plain.",
    "The stalls stayed shut prior to dusk.",
    "The sky was grey all along.",
];

pub(super) fn plant(
    instance: &Instance,
    targets: &NewsTargets,
    answer: &str,
    kind: PlantKind,
    rng: &mut DetRng,
) -> Option<Planted> {
    let evidence = Evidence::read(instance, answer);
    let styles_before = |i: usize| targets.statements[..i].iter().map(|s| s.styles.len()).sum::<usize>();
    let whole = |kind: &str| instance.ids(|k, _| k == kind);
    let ids = |kind: &str, target: usize| instance.ids(|k, t| k == kind && t == target);
    // Statements that are right, with where they stand.
    let mut places: Vec<(usize, std::ops::Range<usize>, &Statement)> = Vec::new();
    for (i, (window, kept)) in found(targets, &evidence).into_iter().enumerate() {
        let Some(window) = window.filter(|_| kept.iter().all(|&k| k)) else { continue };
        let span = evidence.span(&window);
        places.push((i, span.start as usize..span.end as usize, &targets.statements[i]));
    }
    rng.shuffle(&mut places);
    let mut text = answer.to_owned();
    match kind {
        "drop_statement" => {
            let (i, window, statement) = places.first()?;
            let mut end = window.end;
            end += usize::from(answer[end..].starts_with(' '));
            text.replace_range(window.start..end, "");
            let styles = (0..statement.styles.len()).flat_map(|k| ids("style", styles_before(*i) + k));
            let must_fail = ids("include", *i).into_iter().chain(styles).collect();
            Some(Planted { text, must_fail, may_fail: [whole("length"), whole("global_style")].concat() })
        }
        "wrong_form" | "both_forms" => {
            for (i, window, statement) in places {
                let k = rng.index(statement.styles.len().max(1));
                let style = statement.styles.get(k)?;
                let Some(at) = answer[window.clone()].find(&style.right) else { continue };
                let range = window.start + at..window.start + at + style.right.len();
                match kind {
                    "wrong_form" => text.replace_range(range, &style.wrong),
                    // Not for what is told by spaces and marks, which would not be the same text twice.
                    _ if style.wrong.contains(['"', '.']) || style.right.contains(['"', '.', ':']) => {
                        continue;
                    }
                    _ => text.insert_str(range.end, &format!(" ({})", style.wrong)),
                }
                let may_fail = whole("length");
                return Some(Planted { text, must_fail: ids("style", styles_before(i) + k), may_fail });
            }
            None
        }
        "global_violation" => {
            let active = |stray: &&&str| {
                global()
                    .iter()
                    .any(|(category, regex)| targets.categories.contains(category) && regex.is_match(stray))
            };
            let possible: Vec<&&str> = STRAYS.iter().filter(active).collect();
            let stray = possible.get(rng.index(possible.len().max(1)))?;
            text = format!("{stray} {text}");
            Some(Planted { text, must_fail: whole("global_style"), may_fail: whole("length") })
        }
        "pad_length" => {
            let target = instance.budget.target_words? as usize;
            let mut count = words(answer).len();
            let goal = (count + 1).max(target * 8 / 5);
            while count < goal {
                let sentence = filler::sentence(rng);
                count += words(&sentence).len();
                text.push(' ');
                text.push_str(&sentence);
            }
            Some(Planted { text, must_fail: whole("length"), may_fail: Vec::new() })
        }
        _ => None,
    }
}
