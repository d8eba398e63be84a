//! Conversations whose later questions are known beforehand.

use serde_json::Value;

use super::{Columns, DataError, TextCodec};
use crate::chat::{Chat, message};
use crate::config::Data;

/// The texts of a row's later turns, which are taken out of its columns; none without a column of that name.
pub(super) fn later_turns(columns: &mut Columns, column: &str) -> Result<Vec<String>, String> {
    let wrong = |found: &Value| format!("column `{column}` has {found}, expected a list of texts");
    match columns.remove(column) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(turns)) => {
            turns.iter().map(|turn| turn.as_str().map(str::to_owned).ok_or_else(|| wrong(turn))).collect()
        }
        Some(other) => Err(wrong(&other)),
    }
}

/// What the model reads of a later turn, behind the stop token of its own: the text itself or, with `data.chat`, what the
/// chat template puts between two turns of the assistant.
///
/// # Errors
/// When the text has no tokens, or the model has no chat template.
pub(super) fn follow_up_tokens(
    settings: &Data,
    codec: &TextCodec,
    text: impl AsRef<str>,
) -> Result<Vec<u32>, DataError> {
    if !settings.chat {
        return codec.encode(text.as_ref());
    }
    let variables = serde_json::to_value(&settings.chat_variables).unwrap_or_default();
    let chat = Chat {
        messages: vec![message("user", "1"), message("assistant", "2"), message("user", text.as_ref())],
        variables: variables.as_object().cloned().unwrap_or_default(),
        add_generation_prompt: true,
        ..Chat::default()
    };
    let tokens = codec.encode_turns(&chat)?;
    let behind = tokens.assistant.iter().rposition(|spoken| *spoken).map_or(0, |last| last + 1);
    // A template may count the end of a turn to it or not; the policy drew it in any case.
    let ended = tokens.ids.get(behind).is_some_and(|id| codec.stop_tokens().contains(id));
    Ok(tokens.ids[behind + usize::from(ended)..].to_vec())
}
