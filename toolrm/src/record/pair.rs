//! Responses with their scores, and pairs of them.

use super::Record;
use super::fields::{Fields, calls_val, write_meta, write_ratio};
use crate::msg::Call;
use crate::parse::Format;
use crate::rule::Rational;
use crate::schema::SchemaError;
use crate::value::{Map, Val};

/// The origin of gold responses.
pub const GOLD_ORIGIN: &str = "ground_truth";

/// A model's response to a step: `{step_id, origin, text, format?}`.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The step.
    pub step_id: String,
    /// The model, or another name of where the response comes from.
    pub origin: String,
    /// The response as it was written.
    pub text: String,
    /// The format of its calls; found out where it is not given.
    pub format: Format,
    /// Other fields.
    pub meta: Map,
}

/// A candidate with its score: also `{source, content, calls?, score, num, den, message, per_gold}`.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The candidate; its `meta` holds the unknown fields of the whole record.
    pub candidate: Candidate,
    /// The step's data set.
    pub source: String,
    /// What the response says beside calls and reasoning.
    pub content: String,
    /// Its calls; `None` where it could not be parsed.
    pub calls: Option<Vec<Call>>,
    /// The score, exact.
    pub score: Rational,
    /// `ok`, `parse_failed`, `count_mismatch` or `duplicate_call`.
    pub message: String,
    /// For each gold call, the prediction that it took and their similarity.
    pub per_gold: Vec<(Option<u64>, f64)>,
}

/// One side of a pair: `{text, calls, score, num, den, message, origin}`.
#[derive(Clone, Debug)]
pub struct Response {
    /// What it says beside calls and reasoning; the whole response where it could not be parsed.
    pub text: String,
    /// Its calls; `None` where it could not be parsed.
    pub calls: Option<Vec<Call>>,
    /// Its score, exact.
    pub score: Rational,
    /// As in [`Scored`].
    pub message: String,
    /// As in [`Candidate`].
    pub origin: String,
    /// Other fields.
    pub meta: Map,
}

/// Two responses to one step, of which one is better.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Its id; the same for the same two responses in whatever order files held them.
    pub id: String,
    /// The step.
    pub step_id: String,
    /// The step's data set.
    pub source: String,
    /// The response with the higher score.
    pub chosen: Response,
    /// The response with the lower score.
    pub rejected: Response,
    /// The difference of scores, above 0.
    pub intensity: Rational,
    /// Gold calls and their top-level arguments, counted together.
    pub complexity: u64,
    /// The bin of the intensity among ten.
    pub bin: u64,
    /// Other fields.
    pub meta: Map,
}

fn candidate(f: &mut Fields) -> Result<Candidate, SchemaError> {
    let format = match f.maybe_string("format")? {
        None => Format::Auto,
        Some(name) => Format::from_name(&name)
            .ok_or_else(|| SchemaError::new("format", format!("expected a format's name, found {name:?}")))?,
    };
    Ok(Candidate {
        step_id: f.string("step_id")?,
        origin: f.string("origin")?,
        text: f.string("text")?,
        format,
        meta: Map::default(),
    })
}

fn candidate_map(c: &Candidate) -> Map {
    let mut out = Map::default();
    out.insert("step_id".into(), c.step_id.clone().into());
    out.insert("origin".into(), c.origin.clone().into());
    out.insert("text".into(), c.text.clone().into());
    if c.format != Format::Auto {
        out.insert("format".into(), c.format.name().into());
    }
    out
}

fn per_gold(v: Option<Val>) -> Result<Vec<(Option<u64>, f64)>, SchemaError> {
    let bad = |v: Option<&Val>| SchemaError::field("per_gold", "a list of [index or null, similarity]", v);
    match v {
        None => Ok(Vec::new()),
        Some(Val::List(items)) => items
            .iter()
            .map(|item| match item.as_list() {
                Some([Val::Null, sim]) => sim.to_f64().map(|s| (None, s)),
                Some([Val::Int(i), sim]) => {
                    u64::try_from(*i).ok().zip(sim.to_f64()).map(|(i, s)| (Some(i), s))
                }
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(|| bad(Some(&Val::List(items)))),
        other => Err(bad(other.as_ref())),
    }
}

impl Record for Candidate {
    const NAME: &'static str = "candidate";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        let out = candidate(&mut f)?;
        Ok(Candidate { meta: f.rest(), ..out })
    }

    fn to_map(&self) -> Map {
        let mut out = candidate_map(self);
        write_meta(&mut out, &self.meta);
        out
    }
}

impl Record for Scored {
    const NAME: &'static str = "scored candidate";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        let candidate = candidate(&mut f)?;
        let out = Scored {
            source: f.maybe_string("source")?.unwrap_or_default(),
            content: f.maybe_string("content")?.unwrap_or_default(),
            calls: f.maybe_calls("calls")?,
            score: f.ratio("score", "num", "den")?,
            message: f.maybe_string("message")?.unwrap_or_default(),
            per_gold: per_gold(f.take("per_gold"))?,
            candidate,
        };
        Ok(Scored { candidate: Candidate { meta: f.rest(), ..out.candidate }, ..out })
    }

    fn to_map(&self) -> Map {
        let mut out = candidate_map(&self.candidate);
        out.insert("source".into(), self.source.clone().into());
        out.insert("content".into(), self.content.clone().into());
        if let Some(calls) = &self.calls {
            out.insert("calls".into(), calls_val(calls));
        }
        write_ratio(&mut out, "score", ["num", "den"], self.score);
        out.insert("message".into(), self.message.clone().into());
        let row = |(i, sim): &(Option<u64>, f64)| {
            Val::List(vec![i.map_or(Val::Null, |i| Val::int(i.into())), Val::Float(*sim)])
        };
        out.insert("per_gold".into(), Val::List(self.per_gold.iter().map(row).collect()));
        write_meta(&mut out, &self.candidate.meta);
        out
    }
}

impl Response {
    fn from_val(v: Option<Val>, path: &str) -> Result<Self, SchemaError> {
        let mut f = Fields::nested(v, path)?;
        let mut read = || {
            Ok(Response {
                text: f.string("text")?,
                calls: f.maybe_calls("calls")?,
                score: f.ratio("score", "num", "den")?,
                message: f.maybe_string("message")?.unwrap_or_default(),
                origin: f.maybe_string("origin")?.unwrap_or_default(),
                meta: Map::default(),
            })
        };
        let out = read().map_err(|e: SchemaError| e.under(path))?;
        Ok(Response { meta: f.rest(), ..out })
    }

    fn to_val(&self) -> Val {
        let mut out = Map::default();
        out.insert("text".into(), self.text.clone().into());
        if let Some(calls) = &self.calls {
            out.insert("calls".into(), calls_val(calls));
        }
        write_ratio(&mut out, "score", ["num", "den"], self.score);
        out.insert("message".into(), self.message.clone().into());
        out.insert("origin".into(), self.origin.clone().into());
        write_meta(&mut out, &self.meta);
        Val::Dict(out)
    }
}

impl Record for Pair {
    const NAME: &'static str = "pair";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        let (id, step_id) = (f.string("id")?, f.string("step_id")?);
        let source = f.maybe_string("source")?.unwrap_or_default();
        let chosen = Response::from_val(f.take("chosen"), "chosen")?;
        let rejected = Response::from_val(f.take("rejected"), "rejected")?;
        if chosen.score <= rejected.score {
            let found = format!("chosen {}, rejected {}", chosen.score.to_f64(), rejected.score.to_f64());
            return Err(SchemaError::of(
                "pair.order",
                "chosen.score",
                format!("expected the higher: {found}"),
            ));
        }
        Ok(Pair {
            id,
            step_id,
            source,
            intensity: f.ratio("intensity", "intensity_num", "intensity_den")?,
            chosen,
            rejected,
            complexity: f.count("complexity")?,
            bin: f.count("bin")?,
            meta: f.rest(),
        })
    }

    fn to_map(&self) -> Map {
        let mut out = Map::default();
        out.insert("id".into(), self.id.clone().into());
        out.insert("step_id".into(), self.step_id.clone().into());
        out.insert("source".into(), self.source.clone().into());
        out.insert("chosen".into(), self.chosen.to_val());
        out.insert("rejected".into(), self.rejected.to_val());
        write_ratio(&mut out, "intensity", ["intensity_num", "intensity_den"], self.intensity);
        out.insert("complexity".into(), Val::int(self.complexity.into()));
        out.insert("bin".into(), Val::int(self.bin.into()));
        write_meta(&mut out, &self.meta);
        out
    }
}
