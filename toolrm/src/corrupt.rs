//! Wrong responses made from right ones, for tests and for a start without other models. Errors that models make by
//! themselves train better judges.

use crate::msg::Call;
use crate::parse::{Format, NoForm, render};
use crate::random::Draws;
use crate::record::{Candidate, Step};
use crate::value::{Key, Map, Val};

/// A way to damage calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// An argument is missing.
    DropArgument,
    /// An argument has another name.
    RenameArgument,
    /// There is an argument too many.
    ExtraArgument,
    /// A value is wrong.
    WrongValue,
    /// A value has another type.
    WrongType,
    /// A string's letters have another case.
    ChangeCase,
    /// Another tool, or one that does not exist, is called.
    WrongFunction,
    /// A call is missing.
    MissingCall,
    /// There is a call too many.
    ExtraCall,
}

impl Damage {
    /// Every way.
    pub const ALL: [Damage; 9] = [
        Damage::DropArgument,
        Damage::RenameArgument,
        Damage::ExtraArgument,
        Damage::WrongValue,
        Damage::WrongType,
        Damage::ChangeCase,
        Damage::WrongFunction,
        Damage::MissingCall,
        Damage::ExtraCall,
    ];

    /// The way's name, which is part of a candidate's origin.
    pub fn name(self) -> &'static str {
        match self {
            Damage::DropArgument => "drop_argument",
            Damage::RenameArgument => "rename_argument",
            Damage::ExtraArgument => "extra_argument",
            Damage::WrongValue => "wrong_value",
            Damage::WrongType => "wrong_type",
            Damage::ChangeCase => "change_case",
            Damage::WrongFunction => "wrong_function",
            Damage::MissingCall => "missing_call",
            Damage::ExtraCall => "extra_call",
        }
    }
}

/// `count` candidates of a step: the gold response, and damaged forms of it, distinct where the step has enough ways. A
/// step without calls gives the gold response and a call that nobody needs. The same seed and step give the same candidates.
///
/// # Errors
/// [`NoForm`] when the gold calls have no form in JSON.
pub fn corrupt(step: &Step, count: usize, seed: u64) -> Result<Vec<Candidate>, NoForm> {
    let mut out: Vec<Candidate> = Vec::new();
    let mut add = |calls: &[Call], origin: String| -> Result<(), NoForm> {
        let mut text = step.content.clone();
        if !calls.is_empty() {
            let calls = render(calls, Format::Hermes)?;
            text = if text.is_empty() { calls } else { format!("{text}\n{calls}") };
        }
        if out.iter().all(|c| c.text != text) && out.len() < count {
            out.push(Candidate {
                step_id: step.id.clone(),
                origin,
                text,
                format: Format::Hermes,
                meta: Map::default(),
            });
        }
        Ok(())
    };
    add(&step.calls, "corrupt:none".into())?;
    for attempt in 0..4 * count as u64 {
        let mut draws = Draws::new(seed, &step.id, attempt);
        let damage = Damage::ALL[draws.below(Damage::ALL.len())];
        if let Some(calls) = damaged(step, damage, &mut draws) {
            add(&calls, format!("corrupt:{}", damage.name()))?;
        }
    }
    Ok(out)
}

fn damaged(step: &Step, damage: Damage, draws: &mut Draws<'_>) -> Option<Vec<Call>> {
    let mut calls = step.calls.clone();
    let tools = &step.tools;
    if damage == Damage::ExtraCall {
        let tool = tools.get(draws.below(tools.len().max(1)))?;
        calls.push(Call::new(tool.name.as_str(), Map::default()));
        return Some(calls);
    }
    if calls.is_empty() {
        return None;
    }
    let at = draws.below(calls.len());
    if damage == Damage::MissingCall {
        calls.remove(at);
        return Some(calls);
    }
    let call = &mut calls[at];
    if damage == Damage::WrongFunction {
        let others: Vec<&str> = tools.iter().map(|t| t.name.as_str()).filter(|n| *n != call.name).collect();
        call.name = match others.len() {
            0 => format!("{}_x", call.name).into(),
            n => others[draws.below(n)].into(),
        };
        return Some(calls);
    }
    if damage == Damage::ExtraArgument {
        call.args.insert(Key::from("extra"), Val::Int(draws.below(10) as i64));
        return Some(calls);
    }
    if call.args.is_empty() {
        return None;
    }
    let at = draws.below(call.args.len());
    let key = call.args.get_index(at)?.0.clone();
    match damage {
        Damage::DropArgument => _ = call.args.shift_remove_index(at),
        Damage::RenameArgument => {
            let (_, v) = call.args.shift_remove_index(at)?;
            let name = format!("{}_x", key.as_str().unwrap_or("arg"));
            call.args.shift_insert(at, name.into(), v);
        }
        _ => {
            let v = call.args.get_mut(&key)?;
            *v = match damage {
                Damage::WrongValue => wrong_value(v, draws),
                Damage::WrongType => wrong_type(v),
                _ => change_case(v)?,
            };
        }
    }
    Some(calls)
}

fn wrong_value(v: &Val, draws: &mut Draws<'_>) -> Val {
    match v {
        Val::Bool(b) => Val::Bool(!b),
        Val::Int(n) => Val::Int(n.wrapping_add(1 + draws.below(9) as i64)),
        Val::Float(f) => Val::Float(f + 1.0 + draws.below(9) as f64),
        Val::Str(s) => {
            let words: Vec<&str> = s.split(' ').collect();
            if words.len() > 1 {
                let cut = draws.below(words.len());
                let kept = words.iter().enumerate().filter(|(i, _)| *i != cut).map(|(_, w)| *w);
                kept.collect::<Vec<_>>().join(" ").into()
            } else {
                format!("{s}{}", ["x", "s", "_2", "1"][draws.below(4)]).into()
            }
        }
        Val::List(items) if !items.is_empty() => Val::List(items[1..].to_vec()),
        Val::Dict(entries) if !entries.is_empty() => {
            let mut entries = entries.clone();
            entries.shift_remove_index(draws.below(entries.len()));
            Val::Dict(entries)
        }
        _ => Val::from("unknown"),
    }
}

fn wrong_type(v: &Val) -> Val {
    match v {
        Val::Str(s) => Val::List(vec![s.clone().into()]),
        other => crate::json::to_string(other).unwrap_or_default().into(),
    }
}

fn change_case(v: &Val) -> Option<Val> {
    let s = v.as_str()?;
    let other = if s.chars().any(char::is_lowercase) { s.to_uppercase() } else { s.to_lowercase() };
    (other != s).then(|| other.into())
}
