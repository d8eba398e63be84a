//! `code_fix`: a Python file repaired, with its behaviour kept.
//!
//! `H(fix:0.45, behaviour:0.45, count:0.10)`: violations that are gone, hidden calls whose results are right, and the number
//! of functions. The clean program comes first and the violations are put into it, so that there is a behaviour to keep.

mod archetypes;
mod dirty;
mod plant;
mod program;
mod tree;
mod verify;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::aggregate;
use crate::error::GenError;
use crate::intake::Intake;
use crate::judge::{Claim, JudgeQuestion};
use crate::key::{DetRng, InstanceKey, TaskId};
use crate::length::proportional;
use crate::model::{
    Constraints, Instance, MaterialKind, Memo, Parts, PlantKind, Planted as PlantedAnswer, Task, TaskConfig,
    Verification,
};
use crate::python::RULES;
use crate::tasks::{self, Targets};

/// The task.
pub(super) struct CodeFix;

const VERSION: u32 = 2;

/// Functions for each 1024 tokens.
const FUNCTIONS: u32 = 7;

/// A hidden call: arguments and result as Python writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    args: String,
    expected: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    vectors: Vec<Vector>,
}

/// A violation of the file that is shown: rule, and canonical name of the function around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Planted {
    code: String,
    function: String,
}

/// The clean file, its violations, and what its functions must do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeTargets {
    clean: String,
    planted: Vec<Planted>,
    /// Faults of syntax.
    faults: usize,
    functions: Vec<Function>,
    #[serde(skip)]
    count: Memo<usize>,
    /// What the parameters of the clean file's functions are called, once an answer is compared with them.
    #[serde(skip)]
    signatures: Memo<Signatures>,
    /// The hidden calls of each function, once an answer is tried.
    #[serde(skip)]
    calls: Memo<Vec<Vec<program::Call>>>,
}

/// Canonical names of parameters by that of their function.
type Signatures = HashMap<String, Vec<String>>;

impl CodeTargets {
    /// `V0`: violations, and three for each fault of syntax.
    fn weight(&self) -> usize {
        self.planted.len() + 3 * self.faults
    }

    /// What a judge is asked of the whole file.
    pub(crate) fn claim(&self, kind: &str) -> Option<Claim> {
        let names: Vec<&str> = self.functions.iter().map(|f| f.name.as_str()).collect();
        let claim = format!("a repaired Python file with the functions {} and main", names.join(", "));
        (kind == "function_count").then_some((JudgeQuestion::CodeIsRelevantAndComplete, claim, None))
    }

    /// Occurrences of `def ` in the clean file, as the published scorer counts functions.
    pub(crate) fn published_count(&self) -> usize {
        self.clean.matches("def ").count()
    }
}

fn targets(instance: &Instance) -> Option<&CodeTargets> {
    match &instance.targets {
        Targets::CodeFix(targets) => Some(targets),
        _ => None,
    }
}

/// The program in an answer.
pub(crate) fn extracted(visible: &str) -> String {
    verify::extract(visible).0
}

/// What `code_fix` finds wrong with a Python file: lines, from 1, with the rule of flake8 or a plug-in that each breaks; `None` where
/// the file does not parse, or is too long or deep to be read. Comments such as `# noqa` are not heeded.
pub fn lint(source: &str) -> Option<Vec<(usize, &'static str)>> {
    let found = crate::python::on_large_stack(|| dirty::lint(source)).flatten()?;
    let mut places: Vec<_> = found.into_iter().map(|f| (f.line, f.code)).collect();
    places.sort_unstable();
    Some(places)
}

impl Task for CodeFix {
    fn version(&self) -> u32 {
        VERSION
    }

    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError> {
        tasks::check(TaskId::CodeFix, VERSION, key, cfg)?;
        let count = proportional(FUNCTIONS, key.length, 1);
        let (mut rng, mut dirt) = (key.rng("target"), key.rng("material"));
        let drawn =
            crate::python::on_large_stack(|| program::draw(count, key.difficulty, &mut rng, &mut dirt));
        let (dirty, targets) = drawn.unwrap_or_default();

        let mut constraints = Constraints::default();
        constraints.whole("syntax");
        let share = |i: usize, n: usize| Some(i as f64 / n.max(1) as f64);
        for i in 0..targets.planted.len() {
            constraints.push("lint", i, None);
        }
        constraints.whole("no_new_findings");
        for i in 0..count {
            constraints.push("behaviour", i, share(i, count));
        }
        constraints.whole("function_count");
        constraints.whole("single_block");
        let rules: Vec<String> = RULES.iter().map(|(code, text)| format!("- {code}: {text}")).collect();
        let query = format!(
            "Repair the Python file below: it breaks rules of style, and may have errors of syntax. What it does must stay \
             as it is meant to be.\n\n\
             1. syntax: the file parses as Python 3. A file that does not scores nothing.\n\
             2. lint: none of the violations is left. The rules are those of flake8 with its plug-ins bugbear, naming, \
             simplify and comprehensions, of which these are checked; comments such as noqa are not heeded:\n{rules}\n\
             3. no_new_findings: no violations that were not there.\n\
             4. behaviour: every function does what it did, which is tried with hidden calls. It has the same parameters; names \
             are changed only where E741 or a rule of naming (N8..) asks for it.\n\
             5. function_count: {functions} functions and methods, as now.\n\
             6. single_block: one block of code with the whole file.",
            rules = rules.join("\n"),
            functions = targets.count(),
        );
        Ok(Instance::assemble(
            key,
            cfg,
            Parts {
                query,
                material: (MaterialKind::Code, dirty),
                contract: "Write only the repaired file, in one fenced block.".to_owned(),
                constraints,
                targets: Targets::CodeFix(targets),
                prose: false,
            },
        ))
    }

    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification {
        aggregate::verify(instance, answer, |visible| verify::analyse(instance, visible))
    }

    fn oracle(&self, instance: &Instance) -> String {
        targets(instance).map(|t| t.clean.clone()).unwrap_or_default()
    }

    fn plants(&self) -> &'static [PlantKind] {
        &[
            "leave_finding",
            "noqa",
            "add_finding",
            "rename_function",
            "drop_function",
            "change_constant",
            "swap_comparison",
            "stub_body",
            "add_function",
            "break_syntax",
            "hide_in_string",
        ]
    }

    fn plant(
        &self,
        instance: &Instance,
        answer: &str,
        kind: PlantKind,
        rng: &mut DetRng,
    ) -> Option<PlantedAnswer> {
        let targets = targets(instance)?;
        crate::python::on_large_stack(|| plant::plant(instance, targets, answer, kind, rng))?
    }

    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)> {
        let mut nulls = tasks::common_nulls(instance);
        let Some(targets) = targets(instance) else { return nulls };
        let stub = |body: &str| {
            let functions = targets.functions.iter().map(|f| {
                let head = targets.clean.lines().find(|l| l.starts_with(&format!("def {}(", f.name)));
                format!("{}\n    {body}\n", head.unwrap_or("def f():"))
            });
            let class =
                targets.clean.split("\n\n\n").find(|part| part.starts_with("class ")).unwrap_or_default();
            let all: Vec<String> =
                functions.chain([format!("{class}\n"), "def main():\n    pass\n".to_owned()]).collect();
            all.join("\n\n")
        };
        // The right bodies under each other's names.
        let mut mixed = targets.clean.clone();
        for (i, f) in targets.functions.iter().enumerate() {
            let next = &targets.functions[(i + 1) % targets.functions.len()].name;
            mixed = mixed.replace(&format!("def {}(", f.name), &format!("def  {next}("));
        }
        let mixed = mixed.replace("def  ", "def ");
        let comments: Vec<String> =
            targets.functions.iter().map(|f| format!("# def {}():", f.name)).collect();
        nulls.extend([
            ("constant", "print('Hello')\n".to_owned()),
            ("random", mixed),
            ("cheat", stub("return None")),
            ("dump", stub("return []")),
            ("lines", comments.join("\n")),
        ]);
        nulls
    }
}

#[cfg(test)]
mod tests;
