//! Neutral sentences that fill a text up to its length: no digits, no names, no pronouns of persons, nothing that a
//! verifier looks for.

use crate::key::DetRng;

const LEADS: &[&str] = &[
    "In quieter weeks",
    "For most of that season",
    "At the far end of town",
    "Under a low sky",
    "As a rule",
    "On slow afternoons",
    "Beyond the last houses",
    "Along the narrow path",
    "Between two long meetings",
    "With little fuss",
    "Without any hurry",
    "In plain view",
    "Close to the water",
    "Behind the old wall",
    "Through open windows",
    "In every corner",
    "Near the broad steps",
    "Over strong tea",
    "In spite of the cold",
    "Across the wet square",
    "During the long pause",
    "At a steady pace",
    "Past the empty stalls",
    "Once the rain stopped",
    "By common habit",
    "Against all custom",
];

const SUBJECTS: &[&str] = &[
    "the regular visitors",
    "a patient crowd",
    "several tired clerks",
    "the younger hands",
    "most neighbors",
    "a handful of observers",
    "the usual voices",
    "two cautious guests",
    "the night crew",
    "careful readers",
    "a few quiet households",
    "the older hands",
    "some passing travelers",
    "the small committee",
    "everyone present",
    "the local shopkeepers",
    "a row of onlookers",
    "the kitchen staff",
    "many ordinary people",
    "the waiting drivers",
    "a loose circle of helpers",
    "the front office",
    "distant relatives",
    "the evening shift",
    "a curious minority",
    "the nearest tenants",
];

const VERBS: &[&str] = &[
    "kept an eye on",
    "spoke at length about",
    "made little of",
    "took careful note of",
    "returned again to",
    "weighed up",
    "shrugged at",
    "looked closely at",
    "argued gently over",
    "waited on",
    "listened for",
    "turned away from",
    "thought twice about",
    "grew used to",
    "paid attention to",
    "compared notes on",
    "asked politely about",
    "lost interest in",
    "walked slowly past",
    "pointed out",
    "kept returning to",
    "drew comfort from",
    "saw nothing odd in",
    "left room for",
];

const OBJECTS: &[&str] = &[
    "the changing light",
    "a stack of folded chairs",
    "the smell of fresh paint",
    "the uneven floor",
    "a pile of damp coats",
    "the slow clock",
    "an unlocked side door",
    "the faded curtains",
    "a broken hinge",
    "the narrow stairs",
    "the hum of machines",
    "a chipped blue cup",
    "the crooked sign",
    "a heap of loose gravel",
    "the long shadows",
    "an open drawer",
    "the creaking gate",
    "a basket of apples",
    "the wooden benches",
    "the muddy tracks",
    "a cracked window pane",
    "the distant bells",
    "a coil of wet rope",
    "the dusty shelves",
    "an unfinished game of cards",
    "the bare walls",
    "a loose thread",
    "the shared umbrella",
];

const TAILS: &[&str] = &[
    "without coming to any conclusion",
    "while the kettle boiled",
    "until the lamps were lit",
    "and then went on with the day",
    "as though nothing else mattered",
    "with a certain stubborn patience",
    "in no particular order",
    "and said so openly",
    "for reasons that stayed unclear",
    "long after the doors had shut",
    "with more warmth than usual",
    "and nobody seemed to mind",
    "just as the wind picked up",
    "over a shared loaf of bread",
    "to the mild surprise of outsiders",
    "and the talk moved elsewhere",
    "with sleeves rolled up",
    "under the patched awning",
    "though the hour was late",
    "in a mood of easy agreement",
    "and a short silence came",
    "before the first cold night",
    "with half an ear to the street",
    "as the shutters came down",
    "and the mood stayed calm",
    "between mouthfuls of soup",
    "by the light of one bulb",
    "with polite reserve",
];

/// A sentence of 9 to 20 words.
pub(crate) fn sentence(rng: &mut DetRng) -> String {
    let [lead, subject, verb, object, tail] =
        [LEADS, SUBJECTS, VERBS, OBJECTS, TAILS].map(|list| *rng.pick(list));
    let second = *rng.pick(OBJECTS);
    match rng.below(5) {
        0 => format!("{lead}, {subject} {verb} {object} {tail}."),
        1 => format!("{} {verb} {object} and {second} {tail}.", capital(subject)),
        2 => format!("{}, {subject} {verb} {object}.", capital(tail)),
        3 => format!("{lead}, {object} and {second} gave {subject} something to talk about {tail}."),
        _ => format!("{} {verb} {object}; {} hardly counted {tail}.", capital(subject), second),
    }
}

/// The text with its first letter in upper case.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
