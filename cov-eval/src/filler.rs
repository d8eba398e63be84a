//! Neutral sentences whose words are drawn one by one, so that thousands of words do not repeat themselves. No digits,
//! no names, no pronouns of persons, no figures, nothing that a verifier looks for.

use crate::key::DetRng;
use crate::prose::capital;
use crate::words::words;

const ADJECTIVES: &[&str] = &[
    "amber", "ample", "bare", "bold", "brisk", "broad", "calm", "candid", "careful", "coarse", "crisp",
    "curious", "damp", "dense", "dim", "dusty", "eager", "even", "faint", "fine", "firm", "formal", "frank",
    "gentle", "grand", "hollow", "humble", "idle", "keen", "kind", "lean", "lively", "loose", "mellow",
    "mild", "modest", "narrow", "neat", "patient", "plain", "polite", "prompt", "proper", "quiet", "rough",
    "rustic", "shallow", "sharp", "simple", "sober", "soft", "sturdy", "subtle", "tidy", "timid", "vivid",
    "warm", "weary", "wooden", "worn",
];
const NOUNS: &[&str] = &[
    "alcove",
    "apron",
    "arch",
    "awning",
    "balcony",
    "banner",
    "basin",
    "bench",
    "blanket",
    "breeze",
    "broom",
    "bucket",
    "cabin",
    "canopy",
    "carpet",
    "cellar",
    "chapel",
    "chimney",
    "cloak",
    "corner",
    "corridor",
    "courtyard",
    "cradle",
    "curtain",
    "cushion",
    "doorway",
    "drawer",
    "fence",
    "ferry",
    "fountain",
    "garden",
    "gravel",
    "hallway",
    "hammer",
    "hedge",
    "kettle",
    "kitchen",
    "ladder",
    "lobby",
    "mantel",
    "meadow",
    "mirror",
    "orchard",
    "pantry",
    "parlor",
    "pavement",
    "pebble",
    "pillow",
    "plaza",
    "porch",
    "puddle",
    "quilt",
    "railing",
    "rooftop",
    "saddle",
    "shutter",
    "stable",
    "staircase",
    "teapot",
    "terrace",
    "thicket",
    "threshold",
    "tunnel",
    "veranda",
    "wardrobe",
    "willow",
];
const GROUPS: &[&str] = &[
    "onlookers",
    "visitors",
    "neighbors",
    "listeners",
    "helpers",
    "tenants",
    "gardeners",
    "travelers",
    "clerks",
    "porters",
    "musicians",
    "carpenters",
    "bakers",
    "readers",
    "guests",
    "passengers",
    "sailors",
    "weavers",
    "painters",
    "sweepers",
];
const VERBS: &[&str] = &[
    "admired",
    "avoided",
    "brushed",
    "circled",
    "cleaned",
    "copied",
    "described",
    "draped",
    "eyed",
    "faced",
    "guarded",
    "ignored",
    "inspected",
    "lifted",
    "measured",
    "mended",
    "moved",
    "nudged",
    "passed",
    "polished",
    "praised",
    "preferred",
    "sketched",
    "sorted",
    "studied",
    "swept",
    "tapped",
    "touched",
    "trimmed",
    "watched",
];
const PREPOSITIONS: &[&str] = &[
    "above", "across", "against", "along", "around", "behind", "below", "beneath", "beside", "beyond",
    "near", "opposite", "outside", "past", "under",
];
const ADVERBS: &[&str] = &[
    "absently",
    "briefly",
    "calmly",
    "casually",
    "cheerfully",
    "dutifully",
    "fondly",
    "gladly",
    "idly",
    "intently",
    "lightly",
    "loosely",
    "merrily",
    "openly",
    "patiently",
    "quietly",
    "rarely",
    "silently",
    "slowly",
    "softly",
    "steadily",
    "warily",
];

/// A sentence of 10 to 19 words.
pub(crate) fn sentence(rng: &mut DetRng) -> String {
    let [a, b, c] = [(); 3].map(|()| format!("the {} {}", rng.pick(ADJECTIVES), rng.pick(NOUNS)));
    let [group, verb, second, near, far, adverb] =
        [GROUPS, VERBS, VERBS, PREPOSITIONS, PREPOSITIONS, ADVERBS].map(|list| *rng.pick(list));
    let mood = *rng.pick(ADJECTIVES);
    match rng.below(6) {
        0 => format!("{} {a}, {mood} {group} {adverb} {verb} {b} and {second} {c}.", capital(near)),
        1 => format!("{} {group} {verb} {a} {near} {b} and {adverb} {second} {c}.", capital(mood)),
        2 => format!("{} {group} {adverb} {verb} {a}, while {b} stood {near} {c}.", capital(mood)),
        3 => format!("{} {b}, {a} stayed {mood}, and {group} {adverb} {verb} {c}.", capital(far)),
        4 => format!("{}, {mood} {group} {verb} {a} and {second} {b} {near} {c}.", capital(adverb)),
        _ => format!("{} seemed {mood}, so {group} {adverb} {verb} {b} {far} {c}.", capital(&a)),
    }
}

/// Paragraphs of `sentences`, in order, spread evenly among fillers up to `target` words in all.
pub(crate) fn fill(sentences: &[String], target: usize, rng: &mut DetRng) -> String {
    let own: usize = sentences.iter().map(|s| words(s).len()).sum();
    let room = target.saturating_sub(own);
    let mut text = String::new();
    let (mut filled, mut in_paragraph) = (0, 0);
    let mut push = |sentence: &str| {
        text.push_str(match (text.is_empty(), in_paragraph) {
            (true, _) => "",
            (_, 6) => "\n\n",
            _ => " ",
        });
        in_paragraph = in_paragraph % 6 + 1;
        text.push_str(sentence);
    };
    for (i, sentence_of_task) in sentences.iter().enumerate() {
        push(sentence_of_task);
        let due = room * (i + 1) / sentences.len();
        while filled + 8 < due {
            let filler = sentence(rng);
            filled += words(&filler).len();
            push(&filler);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_hardly_repeat() {
        let mut rng = DetRng::from_seed([3; 32]);
        let text = fill(&["A start.".into(), "A middle.".into()], 24_000, &mut rng);
        let found = words(&text).len();
        assert!((23_980..24_020).contains(&found), "{found}");
        let distinct = crate::text::distinct_share(&text, &crate::words(&text), 4);
        assert!(distinct > 0.8, "{distinct}");
        assert!(text.chars().all(|c| c.is_ascii_alphabetic() || " ,.\n".contains(c)));
    }
}
