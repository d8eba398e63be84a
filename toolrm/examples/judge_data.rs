//! Data for a small judge and a small policy, from the leaderboard's entries: right calls, damaged ones, and tasks about them.
//!
//! ```text
//! cargo run --release -p toolrm --example judge_data -- target/bfcl target/judge
//! ```
//! Entries whose prompts are short are cut into training and held-out ones by their ids. Each gives its canonical gold calls
//! and up to seven damaged forms, of which those count as wrong that the leaderboard's own checker refuses. Written are
//! `train.jsonl` and `heldout.jsonl` (each pair in both orientations, one after the other; pairs in the order of hashes),
//! `steps.jsonl` and `scored.jsonl` (the held-out entries with all their responses, for best-of-N), `calls.jsonl` and
//! `calls_heldout.jsonl` (for a policy).

use std::error::Error;
use std::path::PathBuf;

use toolrm::critique::{Shown, Variant, pair_prompt, pair_task};
use toolrm::record::{self, Orientation, Scored, Step};
use toolrm::{
    Format, Mode, PairOptions, ScoreOptions, Val, bfcl, corrupt, pairs, render, score_candidate, score_gold,
};

/// Categories with short prompts and values in Python's types.
const CATEGORIES: [&str; 3] = ["simple_python", "multiple", "live_simple"];
/// The longest prompt with all its sections, in bytes; its bare form has at most 450.
const LONGEST: usize = 1819;
/// Damaged forms of an entry, the right one among them.
const CANDIDATES: usize = 8;
const SEED: u64 = 20_26;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(package), Some(out)) = (args.next(), args.next()) else {
        return Err("usage: judge_data BFCL_DIRECTORY OUTPUT_DIRECTORY".into());
    };
    let data = package.join("bfcl_eval/data");
    std::fs::create_dir_all(&out)?;
    let mut files: [(&str, String); 6] =
        ["train", "heldout", "steps", "scored", "calls", "calls_heldout"].map(|name| (name, String::new()));
    let mut tasks: [Vec<(u128, String)>; 2] = Default::default();
    let (mut entries, mut refused) = (0, 0);
    for category in CATEGORIES {
        let name = format!("BFCL_v4_{category}.json");
        let questions = std::fs::read_to_string(data.join(&name))?;
        let answers = std::fs::read_to_string(data.join("possible_answer").join(&name))?;
        let mut reader = bfcl::EntryReader::new();
        for (question, answer) in questions.lines().zip(answers.lines()) {
            let entry = reader.entry(question, Some(answer))?;
            let Some(step) = bfcl::step(&entry, category)? else { continue };
            let responses = responses(&entry, &step)?;
            refused += CANDIDATES.saturating_sub(responses.len());
            if responses.len() < 4 || longest(&step, &responses)? > LONGEST {
                continue;
            }
            entries += 1;
            let held_out = toolrm::canon_hash(&Val::from(step.id.as_str())).is_multiple_of(4);
            let mut put = |file: usize, line: String| {
                files[file].1.push_str(&line);
                files[file].1.push('\n');
            };
            put(if held_out { 5 } else { 4 }, calls_line(&entry, &step)?);
            if held_out {
                put(2, record::line(&step)?);
                for response in &responses {
                    put(3, record::line(response)?);
                }
            }
            let options = PairOptions { gold_only: true, ..PairOptions::default() };
            for pair in pairs(&responses, &options) {
                let mut both = String::new();
                for orientation in [Orientation::Original, Orientation::Swapped] {
                    let mut task = pair_task(&step, &pair, orientation, Variant::Bare)?;
                    task.split = pair.rejected.origin.clone();
                    both.push_str(&record::line(&task)?);
                    both.push('\n');
                }
                let hash = toolrm::canon_hash(&Val::from(pair.id.as_str()));
                tasks[usize::from(held_out)].push((hash, both));
            }
        }
    }
    for (file, mut tasks) in tasks.into_iter().enumerate() {
        tasks.sort();
        files[file].1 = tasks.into_iter().map(|(_, both)| both).collect();
    }
    for (name, text) in &files {
        let path = out.join(format!("{name}.jsonl"));
        std::fs::write(&path, text)?;
        eprintln!("{}: {} lines", path.display(), text.lines().count());
    }
    eprintln!("{entries} entries; {refused} damaged forms were the same as another, or right to the checker");
    Ok(())
}

/// The gold response, and the damaged forms that the leaderboard's checker refuses.
fn responses(entry: &bfcl::Entry, step: &Step) -> Result<Vec<Scored>, Box<dyn Error>> {
    let mut out = vec![score_gold(step)];
    for candidate in corrupt(step, CANDIDATES, SEED)? {
        let scored =
            score_candidate(candidate, &step.source, &step.calls, &ScoreOptions::default(), Mode::Strict);
        let calls = scored.calls.as_deref().unwrap_or_default();
        let verdict = bfcl::check(&entry.tools, calls, &entry.gold, &step.source, bfcl::Options::default());
        if !verdict.is_valid() {
            out.push(scored);
        }
    }
    Ok(out)
}

/// Bytes of the longest prompt about an entry.
fn longest(step: &Step, responses: &[Scored]) -> Result<usize, Box<dyn Error>> {
    let shown = |r: &Scored| -> Result<usize, Box<dyn Error>> {
        let shown = Shown { text: &r.content, calls: r.calls.as_deref().unwrap_or_default() };
        let gold = Shown { text: &step.content, calls: &step.calls };
        Ok(pair_prompt(&step.tools, &step.history, [gold, shown], Variant::Think)?.text.len())
    };
    responses.iter().map(shown).try_fold(0, |most, length| Ok(most.max(length?)))
}

/// A line for a policy: the prompt, and what its calls are scored against.
fn calls_line(entry: &bfcl::Entry, step: &Step) -> Result<String, Box<dyn Error>> {
    let mut prompt = String::from("Tools:");
    for tool in &step.tools {
        let tool = tool.to_openai();
        prompt.push('\n');
        prompt.push_str(&toolrm::json::to_string(tool.get("function").unwrap_or(&tool))?);
    }
    for message in &step.history {
        prompt.push_str(&format!("\n{}: {}", message.role.name(), message.content));
    }
    prompt.push_str("\nAnswer with calls only, in this form: [name(argument=value)]");
    let bfcl = Val::dict([
        ("function", (*entry.tools).clone()),
        ("ground_truth", (*entry.gold).clone()),
        ("category", step.source.as_str().into()),
    ]);
    let answer = Val::dict([
        ("gold", Val::List(step.calls.iter().map(toolrm::Call::to_val).collect())),
        ("tools", Val::List(step.tools.iter().map(toolrm::ToolDef::to_val).collect())),
        ("format", Format::Pythonic.name().into()),
        ("bfcl", bfcl),
    ]);
    let line = Val::dict([
        ("id", Val::from(step.id.as_str())),
        ("prompt", prompt.into()),
        ("answer", toolrm::json::to_string(&answer)?.into()),
        ("demonstration", render(&step.calls, Format::Pythonic)?.into()),
    ]);
    Ok(toolrm::json::to_string(&line)?)
}
