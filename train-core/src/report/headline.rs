//! What a report says first: five numbers, one sentence, and what went wrong.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::load::{Event, RunData};
use super::panels::stages;
use super::scale::{Unit, duration, grouped, number};
use super::series::summary;

/// Rows of the events table.
const EVENT_ROWS: usize = 100;

/// A large number with its name and a line of context.
#[derive(Debug, Serialize)]
pub(super) struct Tile {
    label: String,
    /// Where it started, for numbers that training moves.
    from: Option<String>,
    value: String,
    context: String,
}

/// A metric's first and last value as text.
pub(super) fn from_to(run: &RunData, metric: &str, unit: Unit) -> Option<(String, String)> {
    let s = summary(&run.points(metric))?;
    Some((unit.show(s.first), unit.show(s.last)))
}

/// Steps at the end of a run that are judged.
const JUDGED: usize = 20;

/// How much of a run's instability is discrepancy and how much staleness, by its last steps; `None` where neither is
/// large, or nothing was measured.
pub(super) fn verdict(run: &RunData) -> Option<String> {
    let mean = |name: &str| {
        let points = run.points(name);
        let last = &points[points.len().saturating_sub(JUDGED)..];
        (!last.is_empty()).then(|| last.iter().map(|p| p.1).sum::<f64>() / last.len() as f64)
    };
    let setting = |key: &str, default: &str| run.config.get(key).cloned().unwrap_or_else(|| default.into());
    let (routing, precision) = (setting("update.routing", "natural"), setting("rollout.precision", "f32"));
    let verdict = crate::verdict::verdict(&mean, &routing, &precision)?;
    (verdict.cause != crate::verdict::Cause::Neither).then_some(verdict.text)
}

/// The metric of exact answers on prompts that are not trained on: the set `heldout`, else the first set.
pub(super) fn held_out(run: &RunData) -> Option<String> {
    let exact = |name: &&String| name.starts_with("eval/") && name.ends_with("/exact");
    let mut names: Vec<&String> = run.metrics.series.keys().filter(exact).collect();
    names.sort_by_key(|name| (*name != "eval/heldout/exact", *name));
    names.into_iter().find(|name| summary(&run.points(name)).is_some()).cloned()
}

/// Number of training steps; a first row may hold a measurement before them.
fn trained(run: &RunData) -> usize {
    run.points("time/total").len().max(run.points("reward/mean").len())
}

/// Seconds of all steps together.
pub(super) fn total_seconds(run: &RunData) -> Option<f64> {
    let seconds: f64 = stages(run).iter().map(super::bars::Stage::total).sum();
    (seconds > 0.0).then_some(seconds)
}

/// A fact of `run.json` as text.
pub(super) fn fact(run: &RunData, key: &str) -> Option<String> {
    run.facts.get(key).map(plain).filter(|text| !text.is_empty())
}

/// A JSON value without quotes; the words of an array joined by spaces.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The number of parameters, in full.
pub(super) fn parameters(run: &RunData) -> Option<f64> {
    run.facts.get("parameters").and_then(Value::as_f64)
}

/// `109,824` as `110k`.
pub(super) fn compact(count: f64) -> String {
    match count {
        c if c >= 999.5e6 => format!("{}B", number(c / 1e9)),
        c if c >= 999.5e3 => format!("{}M", number(c / 1e6)),
        c if c >= 9_995.0 => format!("{}k", number(c / 1e3)),
        c => grouped(c),
    }
}

/// The five numbers.
pub(super) fn tiles(run: &RunData) -> Vec<Tile> {
    let steps = trained(run);
    let moved = |label: &str, metric: Option<String>, unit: Unit| {
        let points = metric.map(|metric| run.points(&metric)).unwrap_or_default();
        let Some(s) = summary(&points) else { return missing(label) };
        let best = points.iter().find(|p| p.1 == s.max).map_or(0.0, |p| p.0);
        Tile {
            label: label.into(),
            from: (points.len() > 1).then(|| unit.show(s.first)),
            value: unit.show(s.last),
            context: format!("highest {} at step {best}", unit.show(s.max)),
        }
    };
    let exact = match held_out(run) {
        Some(metric) => moved("Exact, held out", Some(metric), Unit::Share),
        None => moved("Exact, training", Some("reward/exact_rate".into()), Unit::Share),
    };
    let time = total_seconds(run).map_or_else(
        || missing("Time"),
        |seconds| Tile {
            label: "Time".into(),
            from: None,
            value: duration(seconds),
            context: format!("{} a step on average", duration(seconds / steps.max(1) as f64)),
        },
    );
    let median = |metric: &str| summary(&run.points(metric)).map(|s| s.median);
    let speed = median("perf/rollout_tokens_per_s").map_or_else(
        || missing("Rollout tokens/s"),
        |rate| Tile {
            label: "Rollout tokens/s".into(),
            from: None,
            value: number(rate),
            context: median("perf/train_tokens_per_s").map_or_else(
                || "median step".into(),
                |train| format!("median step; training {}", number(train)),
            ),
        },
    );
    let kind = run.config.get("model.kind").cloned().unwrap_or_default();
    let size = parameters(run).map_or_else(
        || missing("Parameters"),
        |count| Tile {
            label: "Parameters".into(),
            from: None,
            value: compact(count),
            context: [kind, run.config.get("model.dtype").cloned().unwrap_or_default()]
                .join(" ")
                .trim()
                .to_owned(),
        },
    );
    vec![moved("Reward", Some("reward/mean".into()), Unit::Plain), exact, time, speed, size]
}

fn missing(label: &str) -> Tile {
    Tile { label: label.into(), from: None, value: "–".into(), context: "not recorded".into() }
}

/// What the run did, in a sentence.
pub(super) fn sentence(run: &RunData) -> String {
    let steps = trained(run);
    if steps == 0 {
        return "No step has finished yet.".into();
    }
    let moved = |metric: &str, unit: Unit| {
        let s = summary(&run.points(metric))?;
        let (first, last) = (unit.show(s.first), unit.show(s.last));
        Some(match s.last.partial_cmp(&s.first) {
            _ if steps == 1 => format!("was {last}"),
            _ if first == last => format!("stayed at {last}"),
            Some(std::cmp::Ordering::Less) => format!("fell from {first} to {last}"),
            _ => format!("rose from {first} to {last}"),
        })
    };
    let s = if steps == 1 { "" } else { "s" };
    let mut text = format!("In {} step{s}", grouped(steps as f64));
    if let Some(seconds) = total_seconds(run) {
        text += &format!(" and {}", duration(seconds));
    }
    text += &match (fact(run, "threads"), fact(run, "cpu").or_else(|| fact(run, "cpu_model"))) {
        (Some(threads), Some(cpu)) => {
            format!(" on {threads} thread{} of {cpu}", if threads == "1" { "" } else { "s" })
        }
        (None, Some(cpu)) => format!(" on {cpu}"),
        _ => String::new(),
    };
    text += &match moved("reward/mean", Unit::Plain) {
        Some(moved) => format!(", the mean reward {moved}"),
        None => ", no reward was recorded".into(),
    };
    // Where no whole response can be the answer, the reward says more.
    let exact = held_out(run).filter(|metric| summary(&run.points(metric)).is_some_and(|s| s.last > 0.0));
    let reward = "eval/heldout/reward";
    if let Some(moved) = exact.and_then(|metric| moved(&metric, Unit::Share)) {
        text += &format!(" and exact answers on held-out prompts {moved}");
    } else if let Some(moved) = moved(reward, Unit::Plain) {
        text += &format!(" and that of held-out prompts {moved}");
    }
    text + "."
}

/// The state of the run in a few words.
pub(super) fn progress(run: &RunData) -> String {
    let target = run.config.get("run.steps").and_then(|steps| steps.parse::<u64>().ok());
    match (run.metrics.steps.last(), target) {
        (None, _) => "not started".into(),
        (Some(last), Some(target)) if (trained(run) as u64) < target => {
            format!("step {} of {}", grouped(*last as f64), grouped(target as f64))
        }
        (Some(_), _) => match trained(run) {
            1 => "1 step".into(),
            steps => format!("{} steps", grouped(steps as f64)),
        },
    }
}

/// Events of one kind, name and, for those that happen seldom, message.
#[derive(Debug, Serialize)]
pub(super) struct EventRow {
    pub(super) kind: String,
    guard: bool,
    name: String,
    count: usize,
    steps: String,
    pub(super) time: String,
    message: String,
    advice: Vec<String>,
}

/// The events table: guards first, repeated events in one row. The second value counts the rows left out.
pub(super) fn events(run: &RunData) -> (Vec<EventRow>, usize) {
    let repeated = |kind: &str| {
        matches!(kind, "guard" | "eval" | "checkpoint" | "skip" | "publish" | "rollout" | "update")
    };
    let mut groups: BTreeMap<[&str; 3], Vec<(usize, &Event)>> = BTreeMap::new();
    for (order, event) in run.events.iter().enumerate() {
        let message = if repeated(&event.kind) { "" } else { event.message.as_str() };
        let name = if event.kind == "guard" { event.name.as_str() } else { "" };
        let key = [event.kind.as_str(), name, message];
        groups.entry(key).or_default().push((order, event));
    }
    let mut groups: Vec<Vec<(usize, &Event)>> = groups.into_values().collect();
    groups.sort_by_key(|group| (group[0].1.kind != "guard", group[0].0));
    let left_out = groups.len().saturating_sub(EVENT_ROWS);
    let start = run.facts.get("started").and_then(Value::as_f64);
    let row = |group: Vec<(usize, &Event)>| {
        let (first, last) = (group[0].1, group[group.len() - 1].1);
        let steps = match (first.step, last.step) {
            (Some(a), Some(b)) if a != b => format!("{a}–{b}"),
            (Some(a), _) => a.to_string(),
            _ => "–".into(),
        };
        let after = start.zip(first.time).map(|(start, time)| (time - start).max(0.0));
        EventRow {
            kind: if first.kind.is_empty() { "event".into() } else { first.kind.clone() },
            guard: first.kind == "guard",
            name: if group.iter().all(|(_, event)| event.name == first.name) {
                first.name.clone()
            } else {
                String::new()
            },
            count: group.len(),
            steps,
            time: after.map_or_else(|| "–".into(), duration),
            message: last.message.clone(),
            advice: last.advice.clone(),
        }
    };
    (groups.into_iter().take(EVENT_ROWS).map(row).collect(), left_out)
}

/// Names of the guards that fired, each once.
pub(super) fn guards(run: &RunData) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for event in run.events.iter().filter(|event| event.kind == "guard") {
        let name = if event.name.is_empty() { "guard" } else { &event.name }.replace('_', " ");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A fact that may be Unix seconds as a date and time in UTC.
pub(super) fn date(value: &Value) -> String {
    let Some(seconds) = value.as_f64().filter(|s| (0.0..4e11).contains(s)) else { return plain(value) };
    let (days, rest) = ((seconds / 86_400.0).floor() as i64, seconds.rem_euclid(86_400.0) as u32);
    // Civil date from days since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(name: &str, step: u64, message: &str) -> Event {
        Event {
            kind: "guard".into(),
            name: name.into(),
            step: Some(step),
            message: message.into(),
            ..Event::default()
        }
    }

    #[test]
    fn a_guard_that_fires_often_is_one_row_with_its_latest_words() {
        let mut run = RunData::default();
        let eval = Event { kind: "eval".into(), step: Some(0), ..Event::default() };
        run.events =
            vec![eval, guard("entropy", 5, "0.04"), guard("entropy", 9, "0.02"), guard("length", 7, "long")];
        let (rows, left_out) = events(&run);
        let shown: Vec<_> = rows.iter().map(|r| (r.name.as_str(), r.count, r.steps.as_str())).collect();
        assert_eq!(shown, [("entropy", 2, "5–9"), ("length", 1, "7"), ("", 1, "0")]);
        assert_eq!((rows[0].message.as_str(), left_out), ("0.02", 0));
        assert_eq!(guards(&run), ["entropy", "length"]);
    }

    #[test]
    fn unix_seconds_are_dates() {
        assert_eq!(date(&Value::from(0)), "1970-01-01 00:00 UTC");
        assert_eq!(date(&Value::from(1_709_210_096)), "2024-02-29 12:34 UTC");
        assert_eq!(date(&Value::from("2026-01-02T03:04:05Z")), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn counts_are_short() {
        assert_eq!([109_824.0, 135e6, 29.9e9, 512.0].map(compact), ["110k", "135M", "29.9B", "512"]);
    }
}
