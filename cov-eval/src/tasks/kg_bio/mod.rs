//! `kg_bio`: a biography that carries every triple of a fictional graph.
//!
//! `H(ρ:0.7, π:0.3) · prose · λ · δ`: facts that are stated, absence of claims without support, running prose, length,
//! absence of repetition. A fact is stated where a sentence names its object, is about its subject, and shows the relation
//! by one of its words.

mod graph;
mod plant;
mod relations;
mod verify;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::aggregate;
use crate::error::GenError;
use crate::intake::Intake;
use crate::judge::{Claim, JudgeQuestion};
use crate::key::{DetRng, InstanceKey, TaskId};
use crate::length::target_words;
use crate::model::{
    Constraints, Instance, MaterialKind, Memo, Parts, PlantKind, Planted, Task, TaskConfig, Verification,
};
use crate::tasks::{self, Targets};
use graph::{Entity, Fact, Graph, Names, Object};
use relations::{RELATIONS, Rel};
use verify::Known;

/// The task.
pub(super) struct KgBio;

const VERSION: u32 = 2;

/// Bytes of a triple, about.
const TRIPLE_BYTES: usize = 52;

/// The facts of a life, and those of other people, which are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KgTargets {
    entities: Vec<Entity>,
    facts: Vec<Fact>,
    /// Sentences from the triples that must not be used.
    misleading: Vec<String>,
    /// The same in the form that answers are compared with, once one is.
    #[serde(skip)]
    known: Memo<Known>,
}

impl KgTargets {
    fn known(&self) -> &Known {
        self.known.get(|| Known::new(self))
    }

    /// What a judge is asked of a fact.
    pub(crate) fn claim(&self, kind: &str, i: usize) -> Option<Claim> {
        let fact = self.facts.get(i).filter(|_| kind == "fact")?;
        Some((JudgeQuestion::FactCovered, triple(&self.entities, fact), None))
    }
}

fn targets(instance: &Instance) -> Option<&KgTargets> {
    match &instance.targets {
        Targets::KgBio(targets) => Some(targets),
        _ => None,
    }
}

/// `$23,000`.
fn amount(dollars: u64) -> String {
    if dollars >= 1000 { format!("${},{:03}", dollars / 1000, dollars % 1000) } else { format!("${dollars}") }
}

fn show(entities: &[Entity], object: &Object) -> String {
    match object {
        Object::Entity(i) => entities.get(*i).map(|e| e.name.clone()).unwrap_or_default(),
        Object::Year(year) => year.to_string(),
        Object::Amount(dollars) => amount(*dollars),
        Object::Phrase(text) => text.clone(),
    }
}

/// The fact as a line of the material.
fn triple(entities: &[Entity], fact: &Fact) -> String {
    let name = |i: usize| entities.get(i).map_or("", |e| e.name.as_str());
    let relation = RELATIONS.get(fact.relation).map_or("", |r| r.name);
    let predicate = match (fact.context, relation.split_once(": ")) {
        (Some(context), Some((relation, qualifier))) => format!("{relation} {}: {qualifier}", name(context)),
        _ => relation.to_owned(),
    };
    format!("{} | {predicate} | {}", name(fact.subject), show(entities, &fact.object))
}

/// A sentence that states the fact, with another object where one is given.
fn state(entities: &[Entity], fact: &Fact, rng: &mut DetRng) -> String {
    let name = |i: usize| entities.get(i).map_or("", |e| e.name.as_str());
    let Some(relation) = RELATIONS.get(fact.relation) else { return String::new() };
    let text = rng.pick(relation.forms).replace("{s}", name(fact.subject));
    text.replace("{o}", &show(entities, &fact.object)).replace("{c}", fact.context.map_or("", name))
}

impl Task for KgBio {
    fn version(&self) -> u32 {
        VERSION
    }

    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError> {
        tasks::check(TaskId::KgBio, VERSION, key, cfg)?;
        let words = target_words(key.length);
        let count = ((words as usize + 10) / 20).max(8);
        let mut rng = key.rng("target");
        let mut names = Names::shuffled(&mut rng);
        let Graph { entities, facts, .. } = Graph::draw(count, key.difficulty, &mut names, &mut rng);
        let mut order: Vec<usize> = (0..facts.len()).collect();
        key.rng("material").shuffle(&mut order);
        let lines: Vec<String> = order.iter().map(|&i| triple(&entities, &facts[i])).collect();
        let mut material = lines.join("\n");

        let mut distractor = key.rng("distractor");
        let wanted = tasks::room(cfg, &material)? * 4 / TRIPLE_BYTES;
        let mut others = if key.difficulty == 0 { wanted } else { (count / 10).max(2).max(wanted) };
        let mut misleading = Vec::new();
        names.repeat();
        if others > 0 {
            material.push_str("\n\nother people, not to be used:\n");
        }
        while others > 0 {
            let person =
                Graph::draw(others.min(count / 20 + 20), key.difficulty, &mut names, &mut distractor);
            // What is said of them comes in any order as well.
            let mut facts = person.facts;
            distractor.shuffle(&mut facts);
            for fact in &facts {
                material.push_str(&triple(&person.entities, fact));
                material.push('\n');
                if fact.subject == 0 && misleading.len() < 8 {
                    misleading.push(state(&person.entities, fact, &mut distractor));
                }
            }
            others = others.saturating_sub(facts.len().max(1));
        }

        let mut constraints = Constraints::default();
        for i in 0..facts.len() {
            let place = order.iter().position(|&j| j == i).unwrap_or(0);
            constraints.push("fact", i, Some(place as f64 / facts.len() as f64));
        }
        ["no_unsupported", "prose", "length"].into_iter().for_each(|kind| constraints.whole(kind));
        let used: BTreeSet<usize> = facts.iter().map(|f| f.relation).collect();
        let groups: BTreeSet<(&str, &[&str])> = (used.iter())
            .map(|&r| (RELATIONS[r].name.split(':').next().unwrap_or(""), RELATIONS[r].cues))
            .collect();
        let cues: Vec<String> =
            groups.iter().map(|(name, cues)| format!("{name}: {}", cues.join(", "))).collect();
        let query = format!(
            "Write a biography of {name} from the triples below, each being subject | relation | object.\n\n\
             1. fact: every triple of the first list is stated in a sentence that gives the object as it is written there, \
             names the subject (or continues with a pronoun or \"the company\", \"the book\" and the like), and has one of \
             the words or beginnings of words listed for the relation. A triple such as \"worked_at X: role\" tells more \
             about one at X. A sentence states six facts at most, and one with the words of more than twelve relations \
             states none.\n\
             2. no_unsupported: no names, years or numbers from 100 on that are not in the first list, and no wrong \
             values; nothing of other people if there is a second list.\n\
             3. prose: paragraphs, no lists and no tables.\n\
             4. length: {length}. Runs of four words that occur again lower the score once they are two in five.\n\n\
             Words that show a relation:\n{cues}",
            name = entities[0].name,
            length = tasks::length_line(words),
            cues = cues.join("\n"),
        );
        Ok(Instance::assemble(
            key,
            cfg,
            Parts {
                query,
                material: (MaterialKind::Triples, material.trim_end().to_owned()),
                contract: "Write only the biography.".to_owned(),
                constraints,
                targets: Targets::KgBio(KgTargets { entities, facts, misleading, known: Memo::default() }),
                prose: true,
            },
        ))
    }

    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification {
        aggregate::verify(instance, answer, |visible| verify::analyse(instance, visible))
    }

    fn oracle(&self, instance: &Instance) -> String {
        let Some(targets) = targets(instance) else { return String::new() };
        let mut rng = instance.key.rng("phrase");
        let sentences: Vec<String> =
            targets.facts.iter().map(|fact| state(&targets.entities, fact, &mut rng)).collect();
        tasks::fill(instance, &sentences)
    }

    fn plants(&self) -> &'static [PlantKind] {
        &[
            "drop_fact",
            "wrong_year",
            "wrong_place",
            "negate",
            "swap_objects",
            "distractor_fact",
            "invent_name",
            "list_paragraphs",
            "cut_length",
            "repeat_half",
        ]
    }

    fn plant(&self, instance: &Instance, answer: &str, kind: PlantKind, rng: &mut DetRng) -> Option<Planted> {
        plant::plant(instance, targets(instance)?, answer, kind, rng)
    }

    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)> {
        let mut nulls = tasks::common_nulls(instance);
        let Some(targets) = targets(instance) else { return nulls };
        let KgTargets { entities, facts, .. } = targets;
        let mut rng = instance.key.rng("plant");
        let me = entities.first().map_or("", |e| e.name.as_str());
        let constant = [
            format!("{me} was born in a small town and worked for many years."),
            format!("{me} studied, wrote, married and died in the year 1900."),
        ];
        // The same relations with objects out of the air.
        let air = Graph::draw(facts.len(), 0, &mut Names::shuffled(&mut rng), &mut rng);
        let mut random: Vec<String> = Vec::new();
        for fact in &air.facts {
            random.push(state(&air.entities, fact, &mut rng).replace(&air.entities[0].name, me));
        }
        // All objects and all words of relations, six objects a sentence; and without those words.
        let cues: Vec<&str> = RELATIONS.iter().filter_map(|r| r.cues.first().copied()).collect();
        let dump = |cues: &str| -> Vec<String> {
            let chunk = |facts: &[Fact]| {
                let objects: Vec<String> = facts.iter().map(|f| show(entities, &f.object)).collect();
                format!("{me} {cues}, {}.", objects.join(", "))
            };
            facts.chunks(6).map(chunk).collect()
        };
        let lines: Vec<String> = facts.iter().map(|fact| triple(entities, fact)).collect();
        nulls.extend([
            ("constant", tasks::fill(instance, &constant)),
            ("random", tasks::fill(instance, &random)),
            ("cheat", tasks::fill(instance, &dump(&cues.join(", ")))),
            ("dump", tasks::fill(instance, &dump("in short"))),
            ("lines", lines.join("\n")),
        ]);
        nulls
    }
}

/// Whether a relation has one value only, and of which type it is.
fn functional(relation: usize) -> bool {
    RELATIONS.get(relation).is_some_and(|r| r.functional)
}

/// Relations whose object is the year of birth or death, or of the founding of an organization.
fn is_year(relation: usize) -> bool {
    [Rel::BirthYear, Rel::DeathYear, Rel::FoundedYear].iter().any(|&r| r as usize == relation)
}

#[cfg(test)]
mod tests;
