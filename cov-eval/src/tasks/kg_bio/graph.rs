//! A life as a graph, drawn in episodes.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::relations::{self, RELATIONS, Rel};
use crate::key::DetRng;
use crate::names::NameKind;

/// What an entity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Type {
    Person,
    Place,
    Organization,
    Work,
    Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entity {
    pub(super) kind: Type,
    pub(super) name: String,
    /// The word of the name that no other entity has.
    pub(super) word: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Object {
    Entity(usize),
    Year(u64),
    /// Dollars.
    Amount(u64),
    Phrase(String),
}

/// A triple. Entity 0 is the protagonist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fact {
    pub(super) relation: usize,
    pub(super) subject: usize,
    pub(super) object: Object,
    /// What a qualifier is about.
    pub(super) context: Option<usize>,
}

/// Names that are not taken yet.
pub(super) struct Names {
    left: [Vec<String>; 5],
    given: Vec<String>,
    /// What is taken again once none is left.
    spare: Option<[Vec<String>; 5]>,
}

impl Names {
    pub(super) fn shuffled(rng: &mut DetRng) -> Self {
        use NameKind::{Given, Incident, Organization, Place, Product, Surname};
        let all = |kind: NameKind, rng: &mut DetRng| kind.draw(kind.len(), rng);
        let left = [Surname, Place, Organization, Product, Incident].map(|kind| all(kind, rng));
        Self { left, given: all(Given, rng), spare: None }
    }

    /// From here on names may come again: for people who do not matter.
    pub(super) fn repeat(&mut self) {
        self.spare = Some(self.left.clone());
    }

    fn take(&mut self, kind: Type) -> Option<String> {
        let left = &mut self.left[kind as usize];
        if let Some(spare) = self.spare.as_ref().filter(|_| left.is_empty()) {
            left.clone_from(&spare[kind as usize]);
        }
        left.pop()
    }
}

pub(super) struct Graph {
    pub(super) entities: Vec<Entity>,
    pub(super) facts: Vec<Fact>,
    /// Subject, first cue and object, of which no two facts may be the same.
    stated: HashSet<(usize, &'static str, Object)>,
    birth: u64,
    death: u64,
}

/// The kinds of episodes.
const EPISODES: usize = 11;
const MOST_TURNS: usize = 100 * EPISODES;

impl Graph {
    /// The life of a person: `count` facts.
    pub(super) fn draw(count: usize, difficulty: u8, names: &mut Names, rng: &mut DetRng) -> Self {
        let birth = rng.range(1760, 1920);
        let mut graph = Self {
            entities: Vec::new(),
            facts: Vec::new(),
            stated: HashSet::new(),
            birth,
            death: birth + rng.range(62, 95),
        };
        let Some(me) = graph.entity(Type::Person, names, rng) else { return graph };
        graph.beginnings(me, names, rng);
        let mut order: Vec<usize> = (0..EPISODES).collect();
        let mut turn = 0;
        // The inventory lasts for the longest texts.
        while graph.facts.len() < count && turn < MOST_TURNS {
            if turn % EPISODES == 0 {
                rng.shuffle(&mut order);
            }
            graph.episode(order[turn % EPISODES], me, difficulty, names, rng);
            turn += 1;
        }
        graph.facts.truncate(count);
        graph
    }

    fn entity(&mut self, kind: Type, names: &mut Names, rng: &mut DetRng) -> Option<usize> {
        let word = names.take(kind)?;
        let ending = |list: &[&str], rng: &mut DetRng| (*rng.pick(list)).to_owned();
        let name = match kind {
            Type::Person => format!("{} {word}", rng.pick(&names.given)),
            Type::Place => word.clone(),
            Type::Organization => {
                format!("{word} {}", ending(&["Institute", "Academy", "Trust", "Society", "Company"], rng))
            }
            Type::Work => {
                format!("The {word} {}", ending(&["Papers", "Sonata", "Atlas", "Letters", "Panels"], rng))
            }
            Type::Event => {
                format!("{word} {}", ending(&["Congress", "Prize", "Expedition", "Fair", "Regatta"], rng))
            }
        };
        self.entities.push(Entity { kind, name, word });
        Some(self.entities.len() - 1)
    }

    /// States a fact, unless the same words would state another one already.
    fn state(&mut self, subject: usize, relation: Rel, object: Object, context: Option<usize>) {
        let cue = RELATIONS[relation as usize].cues.first().copied().unwrap_or_default();
        // "joined" is a cue of several.
        let cue = if matches!(cue, "member" | "took part") { "worked" } else { cue };
        if self.stated.insert((subject, cue, object.clone())) {
            self.facts.push(Fact { relation: relation as usize, subject, object, context });
        }
    }

    fn phrase(
        &mut self,
        subject: usize,
        relation: Rel,
        list: &[&str],
        context: Option<usize>,
        rng: &mut DetRng,
    ) {
        self.state(subject, relation, Object::Phrase((*rng.pick(list)).to_owned()), context);
    }

    fn year(&mut self, subject: usize, relation: Rel, context: Option<usize>, rng: &mut DetRng) {
        let year = rng.range(self.birth + 18, self.death - 1);
        self.state(subject, relation, Object::Year(year), context);
    }

    /// A new entity as the object of a relation.
    fn meet(
        &mut self,
        subject: usize,
        relation: Rel,
        kind: Type,
        names: &mut Names,
        rng: &mut DetRng,
    ) -> Option<usize> {
        let other = self.entity(kind, names, rng)?;
        self.state(subject, relation, Object::Entity(other), None);
        Some(other)
    }

    fn beginnings(&mut self, me: usize, names: &mut Names, rng: &mut DetRng) {
        self.state(me, Rel::BirthYear, Object::Year(self.birth), None);
        self.meet(me, Rel::BornIn, Type::Place, names, rng);
        self.phrase(me, Rel::Occupation, relations::OCCUPATIONS, None, rng);
        self.state(me, Rel::DeathYear, Object::Year(self.death), None);
        self.phrase(me, Rel::Nationality, relations::NATIONALITIES, None, rng);
        self.phrase(me, Rel::Background, relations::BACKGROUNDS, None, rng);
        self.phrase(me, Rel::Motivation, relations::MOTIVES, None, rng);
        self.meet(me, Rel::GrewUpIn, Type::Place, names, rng);
        self.meet(me, Rel::DiedIn, Type::Place, names, rng);
        self.meet(me, Rel::SpouseOf, Type::Person, names, rng);
        self.meet(me, Rel::ChildOf, Type::Person, names, rng);
    }

    fn organization(&mut self, org: usize, founded: bool, names: &mut Names, rng: &mut DetRng) {
        self.meet(org, Rel::LocatedIn, Type::Place, names, rng);
        if !founded {
            let year = rng.range(self.birth - 40, self.birth + 16);
            self.state(org, Rel::FoundedYear, Object::Year(year), None);
        }
        match rng.below(4) {
            0 => self.phrase(org, Rel::Mission, relations::MISSIONS, None, rng),
            1 => self.phrase(org, Rel::Industry, relations::INDUSTRIES, None, rng),
            2 => drop(self.meet(org, Rel::PartneredWith, Type::Organization, names, rng)),
            _ => drop(self.meet(org, Rel::CompetitorOf, Type::Organization, names, rng)),
        }
    }

    fn episode(
        &mut self,
        kind: usize,
        me: usize,
        difficulty: u8,
        names: &mut Names,
        rng: &mut DetRng,
    ) -> Option<()> {
        use relations as r;
        match kind {
            0 => {
                let org = self.meet(me, Rel::WorkedAt, Type::Organization, names, rng)?;
                self.phrase(me, Rel::Role, r::ROLES, Some(org), rng);
                self.year(me, Rel::WorkStart, Some(org), rng);
                self.year(me, Rel::WorkEnd, Some(org), rng);
                if difficulty == 3 {
                    // A second time at the same place, as something else.
                    self.phrase(me, Rel::Role, r::ROLES, Some(org), rng);
                    self.year(me, Rel::WorkStart, Some(org), rng);
                }
                self.organization(org, false, names, rng);
            }
            1 => {
                let org = self.meet(me, Rel::EducatedAt, Type::Organization, names, rng)?;
                self.phrase(me, Rel::Major, r::MAJORS, Some(org), rng);
                self.phrase(me, Rel::Degree, r::DEGREES, Some(org), rng);
                self.year(me, Rel::Graduation, Some(org), rng);
                self.organization(org, false, names, rng);
            }
            2 => {
                let org = self.meet(me, Rel::Founded, Type::Organization, names, rng)?;
                self.year(me, Rel::FoundedIn, Some(org), rng);
                self.organization(org, true, names, rng);
            }
            3 => {
                let org = self.meet(me, Rel::InvestedIn, Type::Organization, names, rng)?;
                let amount = Object::Amount(rng.range(21, 990) * 1000);
                self.state(me, Rel::Amount, amount, Some(org));
                self.organization(org, false, names, rng);
            }
            4 => {
                let work = self.meet(me, Rel::Authored, Type::Work, names, rng)?;
                self.year(me, Rel::AuthoredIn, Some(work), rng);
                self.meet(work, Rel::BasedOn, Type::Work, names, rng);
                self.meet(work, Rel::RelatedTo, Type::Event, names, rng);
            }
            5 => {
                let work = self.meet(me, Rel::Created, Type::Work, names, rng)?;
                self.phrase(me, Rel::Medium, r::MEDIA, Some(work), rng);
            }
            6 => {
                let event = self.meet(me, Rel::ParticipatedIn, Type::Event, names, rng)?;
                self.phrase(me, Rel::PartRole, r::ROLES, Some(event), rng);
                self.meet(event, Rel::TookPlaceIn, Type::Place, names, rng);
                self.meet(event, Rel::LedTo, Type::Event, names, rng);
            }
            7 => {
                let org = self.meet(me, Rel::MemberOf, Type::Organization, names, rng)?;
                self.year(me, Rel::MemberSince, Some(org), rng);
                self.organization(org, false, names, rng);
            }
            8 => {
                let relation = *rng.pick(&[Rel::Mentored, Rel::InfluencedBy, Rel::ParentOf]);
                self.meet(me, relation, Type::Person, names, rng)?;
                let friend = self.meet(me, Rel::Knows, Type::Person, names, rng)?;
                self.phrase(me, Rel::KnowsContext, r::CONTEXTS, Some(friend), rng);
            }
            9 => {
                let event = self.meet(me, Rel::Award, Type::Event, names, rng)?;
                self.year(me, Rel::AwardYear, Some(event), rng);
                self.meet(event, Rel::TookPlaceIn, Type::Place, names, rng);
            }
            _ => {
                let place = self.meet(me, Rel::LivedIn, Type::Place, names, rng)?;
                self.year(me, Rel::LivedStart, Some(place), rng);
                self.phrase(me, Rel::LivedReason, r::REASONS, Some(place), rng);
            }
        }
        Some(())
    }
}
