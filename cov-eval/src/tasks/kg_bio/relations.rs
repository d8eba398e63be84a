//! The relations of the graph: the words that show each in prose, and sentences that state it.

use std::sync::OnceLock;

/// Relations whose cues are the same belong to one group.
pub(super) struct Relation {
    pub(super) name: &'static str,
    /// Starts of words, in lower case; those of several words are looked for as they are.
    pub(super) cues: &'static [&'static str],
    /// With `{s}` for the subject, `{o}` for the object and `{c}` for what a qualifier is about.
    pub(super) forms: &'static [&'static str],
    /// Whether there is only one right value.
    pub(super) functional: bool,
}

const BIRTH: &[&str] = &["born", "birth", "native"];
const DEATH: &[&str] = &["died", "death", "passed away"];
const LIVING: &[&str] = &["lived", "resid", "moved", "settled", "home"];
const STUDY: &[&str] = &["stud", "graduat", "degree", "enrol", "attended", "earned"];
const WORK: &[&str] = &["worked", "joined", "served", "employ", "position", "role"];
const FOUNDING: &[&str] = &["found", "establish", "launch", "set up"];
const MONEY: &[&str] = &["invest", "stake", "fund", "back"];
const WRITING: &[&str] = &["wrote", "written", "author", "penned", "publish"];
const MAKING: &[&str] = &["creat", "made", "design", "compos", "built"];
const TAKING_PART: &[&str] = &["took part", "participat", "attend", "joined"];
const MEMBER: &[&str] = &["member", "belong", "joined"];
const MARRIAGE: &[&str] = &["married", "marri", "spouse", "wife", "husband", "wed"];
const FAMILY: &[&str] = &["child", "son", "daughter", "parent", "father", "mother"];
const GUIDING: &[&str] = &["mentor", "advis", "guid", "influenc", "inspir"];
const KNOWING: &[&str] = &["knew", "friend", "acquaint", "met"];
const AWARD: &[&str] = &["award", "receiv", "won", "honor"];
const PARTNER: &[&str] = &["partner", "collaborat", "joint"];
const RIVAL: &[&str] = &["compet", "rival"];

macro_rules! relations {
    ($($id:ident = $name:literal, $cues:expr, $functional:literal, [$($form:literal),*];)*) => {
        /// The place of each in [`RELATIONS`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Rel { $($id),* }
        pub(super) const RELATIONS: &[Relation] = &[
            $(Relation { name: $name, cues: $cues, forms: &[$($form),*], functional: $functional }),*
        ];
    };
}

relations! {
    BirthYear = "birth_year", BIRTH, true, ["{s} was born in {o}.", "The birth of {s} fell in {o}.", "It was {o} when {s} was born."];
    BornIn = "born_in", BIRTH, true, ["{s} was born in {o}.", "{s} was a native of {o}.", "The birth of {s} took place in {o}."];
    DeathYear = "death_year", DEATH, true, ["{s} died in {o}.", "The death of {s} came in {o}.", "In {o} {s} passed away."];
    DiedIn = "died_in", DEATH, true, ["{s} died in {o}.", "{s} passed away in {o}.", "The death of {s} came in {o}."];
    GrewUpIn = "grew_up_in", &["grew up", "raised", "childhood", "upbringing"], false,
        ["{s} grew up in {o}.", "{s} was raised in {o}.", "The childhood of {s} was spent in {o}."];
    LivedIn = "lived_in", LIVING, false, ["{s} lived in {o}.", "{s} settled in {o} for a time.", "A home of {s} stood in {o}."];
    LivedStart = "lived_in: start", LIVING, false, ["{s} moved to {c} in {o}.", "In {o} {s} settled in {c}."];
    LivedReason = "lived_in: reason", LIVING, false, ["{s} moved to {c} for {o}.", "The home in {c} was taken by {s} for {o}."];
    EducatedAt = "educated_at", STUDY, false, ["{s} studied at {o}.", "{s} attended {o}.", "{s} enrolled at {o}."];
    Degree = "educated_at: degree", STUDY, false, ["{s} earned {o} at {c}.", "At {c} {s} graduated with {o}."];
    Major = "educated_at: major", STUDY, false, ["At {c} {s} studied {o}.", "{s} graduated from {c} in {o}."];
    Graduation = "educated_at: graduation year", STUDY, false, ["{s} graduated from {c} in {o}.", "The degree from {c} reached {s} in {o}."];
    WorkedAt = "worked_at", WORK, false, ["{s} worked at {o}.", "{s} was employed by {o}.", "{s} served at {o}."];
    Role = "worked_at: role", WORK, false, ["{s} worked at {c} as {o}.", "The role of {s} at {c} was that of {o}."];
    WorkStart = "worked_at: start", WORK, false, ["{s} joined {c} in {o}.", "In {o} {s} took a position at {c}."];
    WorkEnd = "worked_at: end", WORK, false, ["{s} worked at {c} until {o}.", "{s} served at {c} up to {o}."];
    Founded = "founded", FOUNDING, false, ["{s} founded {o}.", "{s} established {o}.", "{s} set up {o}."];
    FoundedIn = "founded: year", FOUNDING, false, ["{s} launched {c} in {o}.", "In {o} {s} founded {c}."];
    InvestedIn = "invested_in", MONEY, false, ["{s} invested in {o}.", "{s} held a stake in {o}.", "{s} backed {o}."];
    Amount = "invested_in: amount", MONEY, false, ["{s} invested {o} in {c}.", "The stake of {s} in {c} was {o}."];
    Authored = "authored", WRITING, false, ["{s} wrote {o}.", "{s} was the author of {o}.", "{s} published {o}."];
    AuthoredIn = "authored: year", WRITING, false, ["{s} published {c} in {o}.", "In {o} {s} wrote {c}."];
    Created = "created", MAKING, false, ["{s} created {o}.", "{s} designed {o}.", "{s} made {o}."];
    Medium = "created: medium", MAKING, false, ["{s} made {c} as {o}.", "{s} designed {c} as {o}."];
    ParticipatedIn = "participated_in", TAKING_PART, false, ["{s} took part in {o}.", "{s} participated in {o}."];
    PartRole = "participated_in: role", TAKING_PART, false, ["{s} took part in {c} as {o}.", "{s} participated in {c} as {o}."];
    MemberOf = "member_of", MEMBER, false, ["{s} was a member of {o}.", "{s} belonged to {o}."];
    MemberSince = "member_of: start", MEMBER, false, ["{s} joined {c} in {o}.", "{s} was a member of {c} from {o} on."];
    SpouseOf = "spouse_of", MARRIAGE, true, ["{s} married {o}.", "The spouse of {s} was {o}."];
    ChildOf = "child_of", FAMILY, false, ["{s} was a child of {o}.", "A parent of {s} was {o}."];
    ParentOf = "parent_of", FAMILY, false, ["{s} was a parent of {o}.", "A child of {s} was {o}."];
    Mentored = "mentored", GUIDING, false, ["{s} mentored {o}.", "{s} guided {o}."];
    InfluencedBy = "influenced_by", GUIDING, false, ["{s} was influenced by {o}.", "{s} was inspired by {o}."];
    Knows = "knows", KNOWING, false, ["{s} was a friend of {o}.", "{s} knew {o} well."];
    KnowsContext = "knows: context", KNOWING, false, ["{s} met {c} through {o}.", "{s} knew {c} through {o}."];
    Award = "award", AWARD, false, ["{s} received {o}.", "{s} won {o}.", "{s} was honored with {o}."];
    AwardYear = "award: year", AWARD, false, ["{s} won {c} in {o}.", "In {o} {s} received {c}."];
    Occupation = "occupation", &["worked as", "profession", "career"], true, ["The profession of {s} was that of {o}.", "{s} made a career as {o}."];
    Nationality = "nationality", &["national", "citizen"], true, ["The nationality of {s} was {o}.", "{s} was a citizen of the {o} state."];
    Background = "background", &["background", "family"], true, ["{s} came from a background of {o}.", "The family of {s} was one of {o}."];
    Motivation = "motivation", &["motivat", "driven", "sought"], true, ["{s} was motivated by {o}.", "{s} was driven by {o}."];
    LocatedIn = "located_in", &["locat", "based", "headquarter", "situat"], true, ["{s} was located in {o}.", "{s} was based in {o}.", "{s} had its headquarters in {o}."];
    PartneredWith = "partnered_with", PARTNER, false, ["{s} partnered with {o}.", "{s} collaborated with {o}."];
    CompetitorOf = "competitor_of", RIVAL, false, ["{s} competed with {o}.", "{s} was a rival of {o}."];
    Mission = "mission", &["mission", "focus"], false, ["The mission of {s} was {o}.", "{s} focused on {o}."];
    Industry = "industry", &["industry", "sector"], false, ["The industry of {s} was {o}.", "{s} belonged to the sector of {o}."];
    FoundedYear = "founded_year", FOUNDING, true, ["{s} was founded in {o}.", "{s} was established in {o}."];
    TookPlaceIn = "took_place_in", &["took place", "held", "host"], true, ["{s} took place in {o}.", "{s} was held in {o}."];
    LedTo = "led_to", &["caus", "led to", "result"], false, ["{s} led to {o}.", "A result of {s} was {o}."];
    BasedOn = "based_on", &["based on", "drew on", "adapt"], false, ["{s} was based on {o}.", "{s} drew on {o}."];
    RelatedTo = "related_to_event", &["about", "document", "account of"], false, ["{s} was about {o}.", "{s} documented {o}."];
}

/// A cue, taken apart.
#[derive(Debug)]
pub(super) struct Cue {
    first: &'static str,
    /// The words after the first.
    pub(super) rest: Vec<&'static str>,
    /// What it shows.
    pub(super) group: u64,
}

impl Cue {
    fn new(text: &'static str, group: u64) -> Self {
        let mut words = text.split(' ');
        Self { first: words.next().unwrap_or_default(), rest: words.collect(), group }
    }

    /// Whether a word is all of it, or begins with it.
    pub(super) fn is_shown_by(&self, word: &str) -> bool {
        self.rest.is_empty() && word.starts_with(self.first)
    }

    /// Whether it goes on after that word.
    pub(super) fn is_opened_by(&self, word: &str) -> bool {
        !self.rest.is_empty() && word == self.first
    }
}

/// The group of a relation, as a bit.
pub(super) fn group(relation: usize) -> u64 {
    const { assert!(RELATIONS.len() <= 64) };
    let Some(own) = RELATIONS.get(relation) else { return 0 };
    RELATIONS.iter().position(|r| r.cues == own.cues).map_or(0, |first| 1 << first)
}

/// The cues that begin with the same letter as a word.
pub(super) fn cues(word: &str) -> &'static [Cue] {
    static ALL: OnceLock<[Vec<Cue>; 26]> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let whole = (0..RELATIONS.len()).filter(|&i| group(i) == 1 << i);
        let mut by_letter = [const { Vec::new() }; 26];
        for (cue, i) in whole.flat_map(|i| RELATIONS[i].cues.iter().map(move |&cue| (cue, i))) {
            if let Some(list) = letter(cue).and_then(|letter| by_letter.get_mut(letter)) {
                list.push(Cue::new(cue, group(i)));
            }
        }
        by_letter
    });
    letter(word).and_then(|letter| all.get(letter)).map_or(&[], Vec::as_slice)
}

/// The place of the first letter of a word in the alphabet.
fn letter(word: &str) -> Option<usize> {
    word.bytes().next()?.checked_sub(b'a').map(usize::from)
}

pub(super) const OCCUPATIONS: &[&str] = &[
    "a marine geologist",
    "a court painter",
    "an instrument maker",
    "a textile merchant",
    "a rural doctor",
    "a defense lawyer",
    "a village teacher",
    "a radio journalist",
    "a polar explorer",
    "a bridge engineer",
    "a theater director",
    "a seed botanist",
    "a patent clerk",
    "a river pilot",
    "a chess master",
];
pub(super) const NATIONALITIES: &[&str] =
    &["northern", "southern", "eastern", "western", "insular", "alpine", "coastal"];
pub(super) const BACKGROUNDS: &[&str] = &[
    "salt miners",
    "traveling actors",
    "minor nobles",
    "lighthouse keepers",
    "cattle drovers",
    "silk traders",
    "parish clerks",
    "glass blowers",
    "canal boatmen",
    "tea planters",
];
pub(super) const MOTIVES: &[&str] = &[
    "a hatred of waste",
    "a fear of oblivion",
    "a debt of honor",
    "the wish for clean water",
    "simple vanity",
    "a love of maps",
    "the hunger for proof",
    "loyalty to a lost brother",
    "a taste for danger",
];
pub(super) const ROLES: &[&str] = &[
    "chief surveyor",
    "night editor",
    "assistant curator",
    "head of repairs",
    "field secretary",
    "junior chemist",
    "master printer",
    "traffic controller",
    "legal counsel",
    "stage manager",
    "purser",
    "interpreter",
    "bookkeeper",
    "quality inspector",
    "harbor agent",
    "archivist",
    "dispatcher",
    "training officer",
    "wine taster",
    "cartographer",
    "press speaker",
    "locksmith",
    "lecturer",
    "gardener",
    "quartermaster",
    "medical orderly",
    "tax assessor",
    "typesetter",
    "watch officer",
    "glass cutter",
];
pub(super) const DEGREES: &[&str] = &[
    "a diploma with honors",
    "a doctorate",
    "a teaching license",
    "a master's certificate",
    "a bachelor's certificate",
    "a night-school diploma",
    "a royal scholarship",
    "a pilot's license",
];
pub(super) const MAJORS: &[&str] = &[
    "hydraulics",
    "ancient grammar",
    "optics",
    "maritime law",
    "plant pathology",
    "counterpoint",
    "metallurgy",
    "anatomy",
    "land surveying",
    "bookbinding",
    "meteorology",
    "philology",
    "ceramics",
    "navigation",
];
pub(super) const REASONS: &[&str] = &[
    "the sea air",
    "an unpaid debt",
    "a sick aunt",
    "cheap rent",
    "the old library",
    "a lost bet",
    "better light",
    "the railway",
    "political safety",
    "fresh soil",
    "a violin teacher",
    "thinner air",
];
pub(super) const MEDIA: &[&str] = &[
    "a fresco",
    "a woodcut",
    "an opera",
    "a mosaic",
    "a bronze relief",
    "a puppet play",
    "a stained window",
    "a tapestry",
    "a clock mechanism",
    "a song cycle",
    "an iron gate",
    "a ballet",
];
pub(super) const CONTEXTS: &[&str] = &[
    "a chess club",
    "a shipwreck",
    "a shared landlord",
    "the fencing hall",
    "a stolen bicycle",
    "a choir",
    "a lawsuit",
    "a train delay",
    "a mushroom hunt",
    "a poker table",
];
pub(super) const MISSIONS: &[&str] = &[
    "cheap spectacles",
    "safe lifts",
    "rural electrification",
    "honest scales",
    "silent engines",
    "durable paper",
    "free vaccination",
    "better bread",
    "storm warnings",
    "adult literacy",
    "river cleaning",
    "public clocks",
];
pub(super) const INDUSTRIES: &[&str] = &[
    "ceramic insulation",
    "canning",
    "rope making",
    "telegraphy",
    "timber",
    "whale oil",
    "brewing",
    "brass fittings",
    "insurance",
    "gramophones",
    "dredging",
    "typefaces",
    "gas lighting",
    "freight",
];
