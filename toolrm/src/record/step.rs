//! Conversations and their steps.

use super::Record;
use super::fields::{Fields, calls_val, tools_val, write_meta};
use crate::msg::{Call, Message, messages};
use crate::schema::{SchemaError, ToolDef};
use crate::value::{Map, Val};

/// A whole conversation: `{id, source, tools, messages}`.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its id.
    pub id: String,
    /// The data set that it comes from.
    pub source: String,
    /// The tools.
    pub tools: Vec<ToolDef>,
    /// The messages in order.
    pub messages: Vec<Message>,
    /// Other fields.
    pub meta: Map,
}

/// One response of an assistant with everything before it: `{id, conv_id, turn, source, tools, history, gold}`.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// The conversation's id.
    pub conv_id: String,
    /// The place of the response among the conversation's messages.
    pub turn: u64,
    /// The data set that it comes from.
    pub source: String,
    /// The tools.
    pub tools: Vec<ToolDef>,
    /// All messages before the response.
    pub history: Vec<Message>,
    /// What the gold response says beside its calls.
    pub content: String,
    /// The calls of the gold response; none where the response is a message alone.
    pub calls: Vec<Call>,
    /// Other fields.
    pub meta: Map,
}

fn messages_val(messages: &[Message]) -> Val {
    Val::List(messages.iter().map(Message::to_val).collect())
}

impl Record for Conversation {
    const NAME: &'static str = "conversation";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        Ok(Conversation {
            id: f.string("id")?,
            source: f.maybe_string("source")?.unwrap_or_default(),
            tools: f.tools("tools")?,
            messages: messages(f.take("messages").as_ref()).map_err(|e| e.under("messages"))?,
            meta: f.rest(),
        })
    }

    fn to_map(&self) -> Map {
        let mut out = Map::default();
        out.insert("id".into(), self.id.clone().into());
        out.insert("source".into(), self.source.clone().into());
        out.insert("tools".into(), tools_val(&self.tools));
        out.insert("messages".into(), messages_val(&self.messages));
        write_meta(&mut out, &self.meta);
        out
    }
}

impl Record for Step {
    const NAME: &'static str = "step";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        let mut gold = Fields::nested(f.take("gold"), "gold")?;
        let under = |e: SchemaError| e.under("gold");
        Ok(Step {
            id: f.string("id")?,
            conv_id: f.maybe_string("conv_id")?.unwrap_or_default(),
            turn: f.maybe_count("turn")?.unwrap_or_default(),
            source: f.maybe_string("source")?.unwrap_or_default(),
            tools: f.tools("tools")?,
            history: messages(f.take("history").as_ref()).map_err(|e| e.under("history"))?,
            content: gold.maybe_string("content").map_err(under)?.unwrap_or_default(),
            calls: gold.maybe_calls("calls").map_err(under)?.unwrap_or_default(),
            meta: f.rest(),
        })
    }

    fn to_map(&self) -> Map {
        let mut out = Map::default();
        out.insert("id".into(), self.id.clone().into());
        out.insert("conv_id".into(), self.conv_id.clone().into());
        out.insert("turn".into(), Val::int(self.turn.into()));
        out.insert("source".into(), self.source.clone().into());
        out.insert("tools".into(), tools_val(&self.tools));
        out.insert("history".into(), messages_val(&self.history));
        let gold = [("content", Val::from(self.content.as_str())), ("calls", calls_val(&self.calls))];
        out.insert("gold".into(), Val::dict(gold));
        write_meta(&mut out, &self.meta);
        out
    }
}
