//! What a sequence has written, as far as the gate needs it.

use crate::error::{Error, Result};
use crate::family::FamilySet;
use crate::table::FamilyTable;
use crate::utf8::Pending;
use crate::vocab::Kind;

/// Spans of tokens that are not language of the user: pairs of control tokens that open and close them. They do not nest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    spans: Vec<(u32, u32)>,
}

impl Protocol {
    /// From the texts of control tokens, such as `("<tool_call>", "</tool_call>")`.
    ///
    /// # Errors
    /// [`Error::NotControl`] for a text that is no control token of the vocabulary.
    pub fn new<S: AsRef<str>>(table: &FamilyTable, spans: &[(S, S)]) -> Result<Self> {
        let vocabulary = table.vocabulary();
        let find = |text: &str| {
            (0..vocabulary.len())
                .find(|v| vocabulary.kind(*v) == Kind::Control && vocabulary.bytes(*v) == text.as_bytes())
                .map(|v| v as u32)
                .ok_or_else(|| Error::NotControl { text: text.to_owned() })
        };
        let pair = |(open, close): &(S, S)| Ok((find(open.as_ref())?, find(close.as_ref())?));
        Ok(Self { spans: spans.iter().map(pair).collect::<Result<_>>()? })
    }
}

/// What is remembered of the step that drew a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Families that become the persistence set when the token writes them: all, or those that were predicted.
    pub families: FamilySet,
    /// The prediction that a space after this step carries on; full where there was none.
    pub carried: FamilySet,
}

impl Trust {
    /// Of a step without a gate.
    pub fn ungated() -> Self {
        Self { families: FamilySet::FULL, carried: FamilySet::FULL }
    }
}

/// The state of one sequence: a copy is a hypothesis or a draft of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateState {
    /// The unfinished character.
    pub pending: Pending,
    /// Persistence: the family of the latest letter and what it implies; empty before the first.
    pub last: FamilySet,
    /// The prediction before a blank token; full where nothing is carried.
    pub carried: FamilySet,
    /// Whether the latest token was only spaces (U+0020).
    pub prev_blank: bool,
    /// Whether a protocol span is open.
    pub protocol: bool,
    /// Generated tokens.
    pub generated: u32,
}

impl Default for GateState {
    fn default() -> Self {
        Self {
            pending: Pending::default(),
            last: FamilySet::EMPTY,
            carried: FamilySet::FULL,
            prev_blank: false,
            protocol: false,
            generated: 0,
        }
    }
}

impl GateState {
    /// The state of a generation whose persistence set comes from the end of its prompt.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    pub fn after_prompt(table: &FamilyTable, protocol: &Protocol, prompt: &[u32]) -> Result<Self> {
        let mut state = Self::default();
        for token in prompt {
            state.advance(table, protocol, *token, &Trust::ungated())?;
        }
        Ok(Self { last: state.last, ..Self::default() })
    }

    /// Whether anything has been generated.
    pub fn started(&self) -> bool {
        self.generated > 0
    }

    /// Takes a drawn token in.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`]; the state is then as it was.
    pub fn advance(
        &mut self,
        table: &FamilyTable,
        protocol: &Protocol,
        token: u32,
        trust: &Trust,
    ) -> Result<()> {
        let vocabulary = table.vocabulary();
        let at = token as usize;
        if at >= vocabulary.len() {
            return Err(Error::TokenOutOfRange { token, vocab_size: vocabulary.len() });
        }
        self.generated = self.generated.saturating_add(1);
        self.carried = trust.carried;
        self.prev_blank = false;
        let bytes = vocabulary.bytes(at);
        match vocabulary.kind(at) {
            Kind::Control | Kind::Hole => {
                self.pending = Pending::default();
                self.carried = FamilySet::FULL;
                self.protocol = match self.protocol {
                    true => !protocol.spans.iter().any(|(_, close)| *close == token),
                    false => protocol.spans.iter().any(|(open, _)| *open == token),
                };
            }
            Kind::Text | Kind::InvalidByte => {
                self.write(table, bytes, trust.families);
                self.prev_blank = !bytes.is_empty() && bytes.iter().all(|b| *b == b' ');
                if bytes.iter().any(|b| matches!(b, b'\n' | b'\r')) {
                    self.carried = FamilySet::FULL;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, table: &FamilyTable, bytes: &[u8], trusted: FamilySet) {
        let taxonomy = table.taxonomy();
        for byte in bytes {
            let Some(c) = self.pending.push(*byte) else { continue };
            let letter = taxonomy.letter(c);
            if !self.protocol && letter.meets(trusted) {
                self.last = taxonomy.closure(letter);
            }
        }
    }
}
