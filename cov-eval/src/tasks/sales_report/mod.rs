//! `sales_report`: a report on a table of transactions that answers given questions.
//!
//! `H(a, c) · λ · δ`: the harmonic mean of the shares of questions that are answered and answered right, times length and
//! absence of repetition. The sentence that answers question 3 ends with the tag `[Q3]`: the text around it is free, and no
//! judge is needed to find the answer.

mod answer;
mod catalogue;
mod plant;
mod questions;
mod table;
mod verify;

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
use crate::tasks::{self, Targets};
use answer::{Dim, LEXICONS, Part};
use catalogue::Candidate;
use table::Table;

/// The task.
pub(super) struct SalesReport;

const VERSION: u32 = 3;

/// Rows of the largest table.
const MOST_ROWS: usize = 2000;

/// Bytes of a row, about.
const ROW_BYTES: usize = 132;

/// A question with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Its name in the catalogue.
    code: String,
    text: String,
    /// A sentence of the oracle, with `{0}`, `{1}` … for the parts.
    form: String,
    parts: Vec<Part>,
}

/// Questions with their answers, and the names of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SalesTargets {
    questions: Vec<Question>,
    reps: Vec<String>,
    products: Vec<String>,
    cities: Vec<String>,
    customers: Vec<String>,
}

impl SalesTargets {
    /// What a judge is asked of a question.
    pub(crate) fn claim(&self, kind: &str, i: usize) -> Option<Claim> {
        let question = self.questions.get(i)?;
        match kind {
            "answered" => Some((JudgeQuestion::QuestionAnswered, question.text.clone(), None)),
            "correct" => {
                let expected = self.sentence(i, &question.parts);
                Some((JudgeQuestion::AnswerMatches, question.text.clone(), Some(expected)))
            }
            _ => None,
        }
    }

    /// The sentence that gives `parts` for question `i`, with its tag.
    fn sentence(&self, i: usize, parts: &[Part]) -> String {
        let mut text = self.questions[i].form.clone();
        for (k, part) in parts.iter().enumerate().filter(|(_, part)| part.is_valid(self)) {
            text = text.replace(&format!("{{{k}}}"), &part.render(self));
        }
        format!("{text} [Q{}].", i + 1)
    }
}

fn targets(instance: &Instance) -> Option<&SalesTargets> {
    match &instance.targets {
        Targets::SalesReport(targets) => Some(targets),
        _ => None,
    }
}

/// `count` questions: by priority, then at random; the hardest instances ask where it is close.
fn choose(mut all: Vec<Candidate>, count: usize, difficulty: u8, rng: &mut DetRng) -> Vec<Question> {
    all.retain(|c| c.level <= difficulty.min(2));
    rng.shuffle(&mut all);
    all.sort_by_key(|c| (std::cmp::Reverse(c.priority), difficulty == 3 && c.margin > 60));
    all.truncate(count);
    rng.shuffle(&mut all);
    all.into_iter().map(|c| c.question).collect()
}

impl Task for SalesReport {
    fn version(&self) -> u32 {
        VERSION
    }

    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError> {
        tasks::check(TaskId::SalesReport, VERSION, key, cfg)?;
        let mut rows = interpolated([60, 120, 240, 480], key.length, 30);
        if key.difficulty == 3 {
            rows += rows / 2;
        }
        let pivots = |table: &Table, targets: &SalesTargets| match key.difficulty {
            0 => questions::pivots(table, targets),
            _ => String::new(),
        };
        let draw = |rows: usize| {
            let table = Table::draw(key, rows.min(MOST_ROWS));
            let targets = SalesTargets {
                questions: Vec::new(),
                reps: table.reps.clone(),
                products: table.product_names.clone(),
                cities: table.cities.clone(),
                customers: table.customers.clone(),
            };
            let material = table.render() + &pivots(&table, &targets);
            (table, targets, material)
        };
        let (mut table, mut targets, mut material) = draw(rows);
        let extra = tasks::room(cfg, &material)? * 4 / ROW_BYTES;
        if extra > 0 {
            (table, targets, material) = draw(rows + extra);
        }
        let count = interpolated([8, 14, 24, 40], key.length, 4);
        let all = questions::catalogue(&table, &targets);
        targets.questions = choose(all, count, key.difficulty, &mut table.asked);

        let mut constraints = Constraints::default();
        for i in 0..targets.questions.len() {
            let locus = Some(i as f64 / targets.questions.len() as f64);
            constraints.push("answered", i, locus);
            constraints.push("correct", i, locus);
        }
        constraints.whole("tags");
        constraints.whole("length");
        let list = |(i, q): (usize, &Question)| format!("Q{}: {}", i + 1, q.text);
        let asked: Vec<String> = targets.questions.iter().enumerate().map(list).collect();
        let words = target_words(key.length);
        let query = format!(
            "Write a report for the management on the transactions of one month below, in which these questions are \
             answered:\n\n{asked}\n\n\
             1. answered: for each question one sentence of 5 to 60 words answers it and ends with the tag of the \
             question, such as [Q1].\n\
             2. correct: in that sentence the name or number asked for comes before any other of its kind, and there are \
             at most two names of the same kind (only those asked for where a list is asked for), three amounts and three \
             percentages. Write money with a dollar sign, percentages with one decimal and a percent sign, numbers of \
             things in digits, names as in the table. Words that were asked for must be those of the question, without \
             the others of its choice.\n\
             3. tags: each tag exactly once, no other tags, at most two tags in a sentence.\n\
             4. length: {length}. Words that repeat themselves do not count: runs of four words that occur again lower \
             the score once they are two in five.\n\n\
             Revenue is the sum of amounts. Percentages are of the thing named in the question.",
            asked = asked.join("\n"),
            length = tasks::length_line(words),
        );
        Ok(Instance::assemble(
            key,
            cfg,
            Parts {
                query,
                material: (MaterialKind::Table, material.trim_end().to_owned()),
                contract: "Write only the report, in paragraphs.".to_owned(),
                constraints,
                targets: Targets::SalesReport(targets),
                prose: true,
            },
        ))
    }

    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification {
        aggregate::verify(instance, answer, |visible| verify::analyse(instance, visible))
    }

    fn oracle(&self, instance: &Instance) -> String {
        let Some(targets) = targets(instance) else { return String::new() };
        let sentences: Vec<String> =
            (0..targets.questions.len()).map(|i| targets.sentence(i, &targets.questions[i].parts)).collect();
        tasks::fill(instance, &sentences)
    }

    fn plants(&self) -> &'static [PlantKind] {
        &[
            "wrong_entity",
            "wrong_amount",
            "wrong_percent",
            "missing_tag",
            "duplicate_tag",
            "all_entities",
            "swapped_list",
            "opposite_label",
        ]
    }

    fn plant(&self, instance: &Instance, answer: &str, kind: PlantKind, rng: &mut DetRng) -> Option<Planted> {
        plant::plant(instance, targets(instance)?, answer, kind, rng)
    }

    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)> {
        let mut nulls = tasks::common_nulls(instance);
        let Some(targets) = targets(instance) else { return nulls };
        let mut rng = instance.key.rng("plant");
        let n = targets.questions.len();
        let constant =
            |i: usize| format!("In this month that was 1, $10000.00, 10.0%, Monday, rose [Q{}].", i + 1);
        let mut random = |part: &Part| match part {
            Part::Entity(dim, _) => Part::Entity(*dim, rng.index(targets.count(*dim))),
            Part::List(dim, ids) => Part::List(*dim, rng.sample(targets.count(*dim), ids.len())),
            Part::Money(_) => Part::Money(rng.range(10_000, 50_000_000)),
            Part::Percent(_) => Part::Percent(rng.range(0, 100_000)),
            Part::Count(_) => Part::Count(rng.range(1, 60)),
            Part::Label(lexicon, _) => Part::Label(*lexicon, rng.index(LEXICONS[*lexicon].len())),
        };
        let mut guess = |i: usize| {
            targets.sentence(i, &targets.questions[i].parts.iter().map(&mut random).collect::<Vec<_>>())
        };
        let guesses: Vec<String> = (0..n).map(&mut guess).collect();
        // Everything in every sentence.
        let dims = [Dim::Rep, Dim::Product, Dim::Category, Dim::City, Dim::Weekday];
        let names: Vec<String> = dims
            .iter()
            .flat_map(|&d| (0..targets.count(d).min(8)).map(move |i| targets.name(d, i)))
            .collect();
        let stuffed = |i: usize| {
            let numbers = "1, 2, 3, $1000.00, $50000.00, $100000.00, 5.0%, 10.0%, 50.0%, rose, fell, steady";
            format!("It was {numbers}, {} [Q{}].", names.join(", "), i + 1)
        };
        nulls.extend([
            ("constant", tasks::fill(instance, &(0..n).map(constant).collect::<Vec<_>>())),
            ("random", tasks::fill(instance, &guesses)),
            ("cheat", tasks::fill(instance, &(0..n).map(stuffed).collect::<Vec<_>>())),
        ]);
        nulls
    }
}

#[cfg(test)]
mod tests;
