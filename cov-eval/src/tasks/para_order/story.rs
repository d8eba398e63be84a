//! Chains of events whose paragraphs have one order only.
//!
//! Paragraph `i` brings in a person, an object and an incident; paragraph `i + 1`, and no other, takes up at least two
//! of them. So each paragraph hangs on the one before it.

use crate::key::InstanceKey;
use crate::names::NameKind;
use crate::prose;

const OBJECTS: &[&str] = &[
    "ledger",
    "lantern",
    "crate",
    "map",
    "key ring",
    "envelope",
    "telescope",
    "photograph",
    "notebook",
    "sextant",
    "chisel",
    "pendulum",
    "trunk",
    "saddle",
    "barometer",
    "violin case",
    "typewriter",
    "compass",
    "medal",
    "goblet",
    "tapestry",
    "flask",
    "abacus",
    "harpoon",
];
const LOOKS: &[&str] = &[
    "brass", "oak", "sealed", "green", "rusted", "silver", "leather", "painted", "dented", "velvet", "ivory",
    "copper", "scorched", "engraved", "linen", "marble",
];
const INCIDENTS: &[&str] = &[
    "inspection",
    "hearing",
    "auction",
    "survey",
    "strike",
    "rehearsal",
    "inquiry",
    "trial",
    "blackout",
    "audit",
];
const JOBS: &[&str] = &[
    "harbor clerk",
    "glazier",
    "surveyor",
    "night porter",
    "printer",
    "beekeeper",
    "ferry pilot",
    "archivist",
    "stonemason",
    "tuner",
    "botanist",
    "watchmaker",
    "bailiff",
    "courier",
    "cooper",
    "engraver",
];
const MONTHS: &[&str] =
    &["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"];

/// What a paragraph brings in for the next.
struct Link {
    person: String,
    surname: String,
    job: &'static str,
    object: String,
    incident: String,
}

/// Terms of a paragraph that the next one takes up.
#[cfg(test)]
pub(super) struct Cues(pub(super) Vec<[String; 3]>);

fn links(key: &InstanceKey, n: usize) -> Vec<Link> {
    let mut rng = key.rng("target");
    let surnames = NameKind::Surname.draw(n, &mut rng);
    let given = NameKind::Given.draw(n, &mut rng);
    let incidents = NameKind::Incident.draw(n, &mut rng);
    let objects = rng.sample(OBJECTS.len() * LOOKS.len(), n);
    (0..n)
        .map(|i| Link {
            person: format!("{} {}", given[i], surnames[i]),
            surname: surnames[i].clone(),
            job: JOBS[rng.index(JOBS.len())],
            object: format!("{} {}", LOOKS[objects[i] % LOOKS.len()], OBJECTS[objects[i] / LOOKS.len()]),
            incident: format!("{} {}", incidents[i], rng.pick(INCIDENTS)),
        })
        .collect()
}

/// The terms by which paragraphs hang together, for tests.
#[cfg(test)]
pub(super) fn cues(key: &InstanceKey, n: usize) -> Cues {
    Cues(links(key, n).into_iter().map(|l| [l.surname, l.object, l.incident]).collect())
}

/// `n` paragraphs in their order, `words` in all.
pub(super) fn tell(key: &InstanceKey, n: usize, words: usize) -> Vec<String> {
    let links = links(key, n);
    let mut rng = key.rng("phrase");
    let mut distractor = key.rng("distractor");
    let dated = match key.difficulty {
        0 => n,
        1 | 2 => n / 3,
        _ => 0,
    };
    let mut has_date = vec![false; n];
    rng.sample(n, dated).into_iter().for_each(|i| has_date[i] = true);
    let first_day = rng.index(40);
    let places = NameKind::Place.draw(1 + n / 3, &mut distractor);
    let mut paragraphs = Vec::with_capacity(n);
    let mut written = 0;
    for i in 0..n {
        let mut text: Vec<String> = Vec::new();
        if has_date[i] {
            let day = first_day + 4 * i;
            text.push(format!("The page is headed {} {}.", MONTHS[day / 28 % MONTHS.len()], day % 28 + 1));
        }
        if i == 0 {
            text.push(format!("It all started in {}, on a day like any other.", places[0]));
        } else {
            let before = &links[i - 1];
            let Link { surname, object, incident, .. } = before;
            let cues = [
                [
                    format!("{surname} came in first and repeated what had been agreed."),
                    format!("This time {surname} did most of the talking."),
                    format!("{surname} was asked to explain once more."),
                ],
                [
                    format!("The {object} lay on the table from the start."),
                    format!("Somebody had already wrapped the {object} in paper."),
                    format!("The {object} had to be carried in by two people."),
                ],
                [
                    format!("All of this followed directly from the {incident}."),
                    format!("Because of the {incident}, the doors stayed locked."),
                    format!("The {incident} was over, but its consequences were not."),
                ],
            ];
            let mut used = rng.sample(3, 2 + usize::from(i % 3 == 0));
            used.sort_unstable();
            text.extend(used.into_iter().map(|cue| rng.pick(&cues[cue]).clone()));
        }
        // The same place here and there, which joins paragraphs that are no neighbors.
        if key.difficulty >= 2 && i % 2 == 1 && distractor.coin(2, 3) {
            text.push(format!("A letter from {} was mentioned in passing.", distractor.pick(&places)));
        }
        let mut ending = Vec::new();
        if i + 1 < n {
            let Link { person, job, object, incident, .. } = &links[i];
            let article = if object.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
            ending.push(format!("Then came what was later called the {incident}."));
            ending.push(format!("It left {article} {object} behind that nobody had seen before."));
            ending.push(format!("{person}, a {job} from the next street, signed for it."));
        } else {
            ending.push("With that the matter was closed, and nothing more was ever recorded.".into());
        }
        let count = |sentences: &[String]| sentences.iter().map(|s| crate::words(s).len()).sum::<usize>();
        written += count(&text) + count(&ending);
        let due = words * (i + 1) / n;
        while written + 7 < due {
            let filler = prose::sentence(&mut rng);
            written += crate::words(&filler).len();
            text.push(filler);
        }
        text.extend(ending);
        paragraphs.push(text.join(" "));
    }
    paragraphs
}
