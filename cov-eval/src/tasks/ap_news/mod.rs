//! `ap_news`: an article that takes up given statements, each rewritten to a style sheet.
//!
//! `H(R, A) · γ · λ · δ`: statements that are there, rules that are kept in them, violations elsewhere, length, absence of
//! repetition. The sheet is printed in the prompt and is all that counts: right is what it says, not what any other manual
//! says.

mod fault;
mod nouns;
mod pattern;
mod plant;
mod sheet;
mod statement;
mod verify;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::aggregate;
use crate::error::GenError;
use crate::intake::Intake;
use crate::judge::{Claim, JudgeQuestion};
use crate::key::{DetRng, InstanceKey, TaskId};
use crate::length::{interpolated, target_words};
use crate::model::{
    Constraints, Instance, MaterialKind, Parts, PlantKind, Planted, Task, TaskConfig, Verification,
};
use crate::names::NameKind;
use crate::tasks::{self, Targets};
use nouns::NOUNS;
use sheet::{CATEGORIES, RULES};
use statement::{Statement, Style};

/// The task.
pub(super) struct ApNews;

const VERSION: u32 = 2;

/// Statements with what their right form needs, and the active categories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewsTargets {
    categories: Vec<usize>,
    statements: Vec<Statement>,
}

impl NewsTargets {
    /// What a judge is asked of a statement, or of one of its rules, which are numbered over all statements.
    pub(crate) fn claim(&self, kind: &str, i: usize) -> Option<Claim> {
        let mut styles = self.statements.iter().flat_map(|s| s.styles.iter().map(move |style| (s, style)));
        match kind {
            "include" => {
                let claim = self.statements.get(i)?.wrong.clone();
                Some((JudgeQuestion::StatementIncluded, claim, None))
            }
            "style" => {
                let (statement, style) = styles.nth(i)?;
                let claim = format!("{} ({})", statement.wrong, RULES.get(style.rule)?.2);
                Some((JudgeQuestion::StatementFollowsRule, claim, Some(statement.right.clone())))
            }
            _ => None,
        }
    }
}

fn targets(instance: &Instance) -> Option<&NewsTargets> {
    match &instance.targets {
        Targets::ApNews(targets) => Some(targets),
        _ => None,
    }
}

fn printed(rules: impl Iterator<Item = usize>) -> String {
    rules.map(|r| format!("- {}: {}", RULES[r].0, RULES[r].2)).collect::<Vec<_>>().join("\n")
}

/// The sheet and the statements, as the difficulty shows them.
fn material(targets: &NewsTargets, difficulty: u8, rng: &mut DetRng) -> String {
    let NewsTargets { categories, statements } = targets;
    let of = |category: usize| (0..RULES.len()).filter(move |&r| RULES[r].1 == category);
    let mut text = String::new();
    if difficulty >= 2 {
        text.push_str(&format!("house style sheet:\n{}\n\nstatements:\n", printed(0..RULES.len())));
        let mut order: Vec<usize> = (0..statements.len()).collect();
        rng.shuffle(&mut order);
        for (n, &i) in order.iter().enumerate() {
            text.push_str(&format!("S{}: {}\n", n + 1, statements[i].wrong));
        }
        return text;
    }
    let mut n = 0;
    for &category in categories {
        text.push_str(&format!("house style sheet, {}:\n", CATEGORIES[category]));
        if difficulty == 1 {
            text.push_str(&format!("{}\n", printed(of(category))));
        }
        for statement in statements.iter().filter(|s| s.category == category) {
            n += 1;
            text.push_str(&format!("S{n}: {}\n", statement.wrong));
            if difficulty == 0 {
                text.push_str(&format!("{}\n", printed(statement.styles.iter().map(|s| s.rule))));
            }
        }
        text.push('\n');
    }
    text
}

impl Task for ApNews {
    fn version(&self) -> u32 {
        VERSION
    }

    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError> {
        tasks::check(TaskId::ApNews, VERSION, key, cfg)?;
        let words = target_words(key.length);
        let active = interpolated([2, 5, 8, 10], key.length, 2).min(CATEGORIES.len());
        let each = (words as usize / (16 * active)).clamp(2, 10);
        let mut rng = key.rng("target");
        let mut targets =
            NewsTargets { categories: rng.sample(CATEGORIES.len(), active), statements: Vec::new() };
        let surnames = NameKind::Surname.draw(active * each, &mut rng);
        let nouns = rng.sample(NOUNS.len(), active * each);
        for (c, &category) in targets.categories.iter().enumerate() {
            let first = rng.index(RULES.len());
            for i in 0..each {
                let k = c * each + i;
                let names = (surnames[k].as_str(), NOUNS[nouns[k]]);
                // Statements of two rules are longer, for which short articles have no room.
                let double = key.difficulty == 3 && key.length >= 1024;
                targets.statements.push(statement::draw(category, first + i, double, names, &mut rng));
            }
        }
        let mut material = material(&targets, key.difficulty, &mut key.rng("material"));
        let mut distractor = key.rng("distractor");
        let bytes = tasks::room(cfg, &material)? * 4;
        if bytes > 0 {
            material.push_str("\nbackground notes, which need not be used:\n");
            let end = material.len() + bytes;
            while material.len() < end {
                material.push_str(&crate::filler::sentence(&mut distractor));
                material.push('\n');
            }
        }

        let mut constraints = Constraints::default();
        let mut styles = 0;
        for (i, statement) in targets.statements.iter().enumerate() {
            let locus = Some(i as f64 / targets.statements.len() as f64);
            constraints.push("include", i, locus);
            for _ in &statement.styles {
                constraints.push("style", styles, locus);
                styles += 1;
            }
        }
        ["global_style", "length"].into_iter().for_each(|kind| constraints.whole(kind));
        let place = NameKind::Place.name(key.rng("phrase").index(NameKind::Place.len()));
        let query = format!(
            "Write a news article on a week in {place}. It takes up all {count} statements below, each of which breaks the \
             house style sheet and has to be put right.\n\n\
             1. include: each statement, in a sentence with its surname and its building or place, both spelled as they \
             are (or in two sentences next to each other, as where the statement has two). Keep its other words where the \
             sheet does not change them.\n\
             2. style: each statement as the sheet wants it, with nothing left of the wrong form.\n\
             3. global_style: no violations of the sheet in the rest of the article.\n\
             4. length: {length}. Runs of four words that occur again lower the score once they are two in five.",
            count = targets.statements.len(),
            length = tasks::length_line(words),
        );
        Ok(Instance::assemble(
            key,
            cfg,
            Parts {
                query,
                material: (MaterialKind::Statements, material.trim_end().to_owned()),
                contract: "Write only the article.".to_owned(),
                constraints,
                targets: Targets::ApNews(targets),
                prose: true,
            },
        ))
    }

    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification {
        aggregate::verify(instance, answer, |visible| verify::analyse(instance, visible))
    }

    fn oracle(&self, instance: &Instance) -> String {
        let right = |t: &NewsTargets| t.statements.iter().map(|s| s.right.clone()).collect::<Vec<_>>();
        targets(instance).map(|t| tasks::fill(instance, &right(t))).unwrap_or_default()
    }

    fn plants(&self) -> &'static [PlantKind] {
        &["drop_statement", "wrong_form", "both_forms", "global_violation", "pad_length"]
    }

    fn plant(&self, instance: &Instance, answer: &str, kind: PlantKind, rng: &mut DetRng) -> Option<Planted> {
        plant::plant(instance, targets(instance)?, answer, kind, rng)
    }

    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)> {
        let mut nulls = tasks::common_nulls(instance);
        let Some(targets) = targets(instance) else { return nulls };
        let mut rng = instance.key.rng("plant");
        let each = |text: &dyn Fn(&Statement) -> String| {
            let sentences: Vec<String> = targets.statements.iter().map(text).collect();
            tasks::fill(instance, &sentences)
        };
        let categories: BTreeSet<usize> = targets.categories.iter().copied().collect();
        // Right statements about other people and places.
        let other = |i: usize| {
            let (surname, noun) =
                (NameKind::Surname.name(i % NameKind::Surname.len()), NOUNS[i % NOUNS.len()]);
            let category = *categories.iter().nth(i % categories.len())?;
            Some(statement::draw(category, i, false, (&surname, noun), &mut rng).right)
        };
        let random: Vec<String> = (0..targets.statements.len()).filter_map(other).collect();
        nulls.extend([
            ("constant", tasks::fill(instance, &["It was a week like any other in town.".to_owned()])),
            ("random", tasks::fill(instance, &random)),
            ("cheat", each(&|s| s.wrong.clone())),
            ("dump", each(&|s| format!("{} saw the {}.", s.surname, s.noun))),
            ("both", each(&|s| format!("{} {}", s.wrong, s.right))),
        ]);
        nulls
    }
}

#[cfg(test)]
mod tests;
