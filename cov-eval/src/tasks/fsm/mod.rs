//! `fsm`: the trace of a Mealy machine on a long input.
//!
//! The machine is drawn for each instance, so nothing about it can be learned once. A row counts only where all of its
//! five fields are right and it stands in its place; what is right from the start counts most:
//! `(7k + 3c) / (10 · max(n, m))` with `k` leading right rows, `c` right rows, `m` rows and `n` steps.

mod machine;
mod plant;
mod verify;

use serde::{Deserialize, Serialize};

use crate::aggregate;
use crate::error::GenError;
use crate::intake::Intake;
use crate::key::{DetRng, InstanceKey, TaskId};
use crate::length::proportional;
use crate::model::{
    Constraints, Instance, MaterialKind, Memo, Parts, PlantKind, Planted, Task, TaskConfig, Verification,
};
use crate::tasks::{self, Targets};
use machine::Machine;

/// The task.
pub(super) struct Fsm;

const VERSION: u32 = 1;

/// Lines that are no rows and yet cost nothing: a remark, a title.
const FREE_LINES: usize = 3;

/// A machine, where it starts, and what it reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsmTargets {
    machine: Machine,
    start: u16,
    input: Vec<u16>,
    /// The trace as it is written, once an answer is compared with it.
    #[serde(skip)]
    written: Memo<Written>,
}

/// State, input, next state and output of a step.
type Fields = [usize; 4];

/// A trace as text: a line for each step, with its place.
#[derive(Debug, Clone, Default)]
struct Written {
    text: String,
    rows: Vec<(Fields, std::ops::Range<usize>)>,
}

/// The five fields of a row, as text.
type Row = [String; 5];

impl FsmTargets {
    /// State, input, next state and output of each step. A machine from elsewhere may point outside itself: its trace
    /// ends there.
    fn steps(&self) -> impl Iterator<Item = Fields> {
        let mut state = usize::from(self.start);
        self.input.iter().map_while(move |&input| {
            let input = usize::from(input);
            let inside = state < self.machine.states && input < self.machine.inputs;
            if !inside || state * self.machine.inputs + input >= self.machine.cells.len() {
                return None;
            }
            let (next, output) = self.machine.step(state, input);
            let before = std::mem::replace(&mut state, next);
            Some([before, input, next, output])
        })
    }

    fn written(&self) -> &Written {
        self.written.get(|| {
            let mut written = Written::default();
            for (i, fields) in self.steps().enumerate() {
                written.text.push_str(if i > 0 { "\n" } else { "" });
                let start = written.text.len();
                self.write_row(i + 1, fields, &mut written.text);
                written.rows.push((fields, start..written.text.len()));
            }
            written
        })
    }

    /// The rows of the trace.
    fn rows(&self) -> Vec<Row> {
        let steps = self.steps().enumerate();
        steps.map(|(i, [state, input, next, output])| self.row(i + 1, state, input, next, output)).collect()
    }

    /// Whether the fields are those of a row of the trace, without making that row.
    fn is_row(&self, fields: &[&str; 5], step: usize, [state, input, next, output]: Fields) -> bool {
        let [a, b, c, d, e] = fields;
        let is_state = |text: &str, state| text.strip_prefix('S').is_some_and(|n| is_number(n, state));
        is_number(a, step)
            && is_state(b, state)
            && is_symbol(c, usize::from(b'a') + input)
            && is_state(d, next)
            && is_symbol(e, self.first_output().wrapping_add(output))
    }

    /// Outputs are the last letters of the alphabet.
    fn first_output(&self) -> usize {
        (usize::from(b'z') + 1).wrapping_sub(self.machine.outputs)
    }

    /// Appends a row of the trace as [`line`] writes it.
    fn write_row(&self, step: usize, [state, input, next, output]: Fields, text: &mut String) {
        let symbol = |first: usize, i: usize| char::from(first.wrapping_add(i) as u8);
        push_number(text, step);
        text.push_str(" | S");
        push_number(text, state);
        text.push_str(" | ");
        text.push(symbol(usize::from(b'a'), input));
        text.push_str(" | S");
        push_number(text, next);
        text.push_str(" | ");
        text.push(symbol(self.first_output(), output));
    }

    /// The outputs of the trace.
    pub(crate) fn outputs(&self) -> Vec<String> {
        self.rows().into_iter().map(|[_, _, _, _, output]| output).collect()
    }

    fn row(&self, step: usize, state: usize, input: usize, next: usize, output: usize) -> Row {
        let output = output_symbol(self.machine.outputs, output);
        [step.to_string(), name(state), input_symbol(input), name(next), output]
    }

    /// Rows from a step on, from a state that may be the wrong one.
    fn continued(&self, step: usize, mut state: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        for (i, &input) in self.input.iter().enumerate().skip(step) {
            let (next, output) = self.machine.step(state, input.into());
            rows.push(self.row(i + 1, state, input.into(), next, output));
            state = next;
        }
        rows
    }
}

fn push_number(text: &mut String, number: usize) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

/// Whether a text is a number as we write it.
fn is_number(text: &str, number: usize) -> bool {
    let canonical = text.len() == 1 || !text.starts_with('0');
    let digits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    canonical && digits && text.bytes().fold(0, |n, b| 10 * n + usize::from(b - b'0')) == number
}

fn is_symbol(text: &str, symbol: usize) -> bool {
    text.len() == 1 && usize::from(text.as_bytes()[0]) == symbol
}

fn name(state: usize) -> String {
    format!("S{state}")
}

/// `a`, `b` …; inputs and outputs have at most 10 symbols each, from the two ends of the alphabet.
fn input_symbol(i: usize) -> String {
    char::from(b'a' + i as u8).to_string()
}

fn output_symbol(outputs: usize, i: usize) -> String {
    char::from(b'z' + 1 - outputs as u8 + i as u8).to_string()
}

fn line(row: &Row) -> String {
    row.join(" | ")
}

fn lines(rows: &[Row]) -> String {
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Task for Fsm {
    fn version(&self) -> u32 {
        VERSION
    }

    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError> {
        tasks::check(TaskId::Fsm, VERSION, key, cfg)?;
        let steps = proportional(55, key.length, 8);
        let (states, inputs, outputs) =
            [(3, 3, 3), (6, 4, 4), (12, 6, 6), (20, 10, 10)][usize::from(key.difficulty)];
        let states = states.min((steps / 3).max(3));
        let mut rng = key.rng("target");
        let machine = Machine::draw(states, inputs, outputs, &mut rng);
        let start = rng.index(states);
        let input = machine.walk(start, steps, &mut rng).into_iter().map(|i| i as u16).collect();
        let targets = FsmTargets { machine, start: start as u16, input, written: Memo::default() };
        let material = material(&targets, key, cfg)?;

        let mut constraints = Constraints::default();
        for i in 0..steps {
            constraints.push("step", i, Some(i as f64 / steps as f64));
        }
        constraints.whole("row_count");
        constraints.whole("no_extra_text");
        let query = format!(
            "A machine is always in one state. It reads an input string one symbol at a time; the table says, for a \
             state and an input symbol, the next state and the symbol it writes. Trace the machine by hand on the \
             whole input, from the start state.\n\n\
             1. step: one row for each of the {steps} input symbols, in order, numbered from 1, with the state before \
             the symbol, the symbol, the state after it, and the output. A row counts only if all five fields are \
             right and it stands in its place; rows that are right from the start on without a gap count most.\n\
             2. row_count: exactly {steps} rows.\n\
             3. no_extra_text: nothing but these rows; a header is allowed, and more than {FREE_LINES} other lines \
             lower the score."
        );
        let contract = "Write one line for each step, in this form, and nothing else:\n\
                        step | state | input | next | output"
            .to_owned();
        Ok(Instance::assemble(
            key,
            cfg,
            Parts {
                query,
                material: (MaterialKind::Automaton, material),
                contract,
                constraints,
                targets: Targets::Fsm(targets),
                prose: false,
            },
        ))
    }

    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification {
        aggregate::verify(instance, answer, |visible| verify::analyse(instance, visible))
    }

    fn oracle(&self, instance: &Instance) -> String {
        targets(instance).map(|t| lines(&t.rows())).unwrap_or_default()
    }

    fn plants(&self) -> &'static [PlantKind] {
        &[
            "wrong_output",
            "wrong_next",
            "missing_row",
            "duplicated_row",
            "extra_rows",
            "shifted_steps",
            "long_preamble",
        ]
    }

    fn plant(&self, instance: &Instance, answer: &str, kind: PlantKind, rng: &mut DetRng) -> Option<Planted> {
        let targets = targets(instance)?;
        plant::plant(instance, targets, answer, kind, rng)
    }

    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)> {
        let mut nulls = tasks::common_nulls(instance);
        let Some(targets) = targets(instance) else { return nulls };
        let steps = targets.input.len();
        let start = usize::from(targets.start);
        let symbol = |i: usize| usize::from(targets.input[i]);
        // Right step numbers and inputs, with a state and an output that never change.
        let constant: Vec<Row> = (0..steps).map(|i| targets.row(i + 1, start, symbol(i), start, 0)).collect();
        let mut rng = instance.key.rng("plant");
        let random = (0..steps).map(|i| {
            let Machine { states, outputs, .. } = targets.machine;
            targets.row(i + 1, rng.index(states), symbol(i), rng.index(states), rng.index(outputs))
        });
        let random: Vec<Row> = random.collect();
        // A row for every transition at every step, in the hope that one of them counts.
        let mut all = Vec::new();
        for i in 0..steps {
            for state in 0..targets.machine.states {
                let (next, output) = targets.machine.step(state, symbol(i));
                all.push(targets.row(i + 1, state, symbol(i), next, output));
            }
        }
        nulls.extend([("constant", lines(&constant)), ("random", lines(&random)), ("cheat", lines(&all))]);
        nulls
    }
}

fn targets(instance: &Instance) -> Option<&FsmTargets> {
    match &instance.targets {
        Targets::Fsm(targets) => Some(targets),
        _ => None,
    }
}

/// The table in shuffled order, with states that cannot be reached where the input is to be longer; start and input.
fn material(targets: &FsmTargets, key: &InstanceKey, cfg: &TaskConfig) -> Result<String, GenError> {
    let machine = &targets.machine;
    let row = |state: usize, input: usize, next: usize, output: usize| {
        let output = output_symbol(machine.outputs, output);
        format!("{} | {} | {} | {output}\n", name(state), input_symbol(input), name(next))
    };
    let mut rows = Vec::new();
    for state in 0..machine.states {
        for input in 0..machine.inputs {
            let (next, output) = machine.step(state, input);
            rows.push(row(state, input, next, output));
        }
    }
    let mut tail =
        format!("\nstart state: {}\ninput ({} symbols):\n", name(targets.start.into()), targets.input.len());
    for (i, group) in targets.input.chunks(10).enumerate() {
        let symbols: String = group.iter().map(|&s| input_symbol(s.into())).collect();
        tail.push_str(&format!("{:>5}: {symbols}\n", 10 * i + 1));
    }
    let head = "state | input | next | output\n";
    let bare = format!("{head}{}{tail}", rows.concat());
    let mut distractor = key.rng("distractor");
    // A row of the table is four words, three to four tokens.
    let extra_states = tasks::room(cfg, &bare)? * 3 / 16 / machine.inputs;
    for extra in 0..extra_states {
        for input in 0..machine.inputs {
            let next = distractor.index(machine.states + extra_states);
            rows.push(row(machine.states + extra, input, next, distractor.index(machine.outputs)));
        }
    }
    key.rng("material").shuffle(&mut rows);
    Ok(format!("{head}{}{}", rows.concat(), tail.trim_end()))
}

#[cfg(test)]
mod tests;
