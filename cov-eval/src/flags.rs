//! What is noticed in an answer besides its score.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of flags, stored as a list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlagSet(u32);

macro_rules! flags {
    ($($(#[$meta:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl FlagSet {
            $($(#[$meta])* pub const $name: FlagSet = FlagSet(1 << $bit);)*
            const NAMES: &[(FlagSet, &str)] = &[$((FlagSet::$name, $text)),*];
        }
    };
}

flags! {
    /// Bytes that are not UTF-8 were replaced.
    INVALID_UTF8 = 0, "invalid_utf8";
    /// The text was cut at its limit.
    OVERSIZE = 1, "oversize";
    /// Reasoning was opened and never closed.
    UNTERMINATED_REASONING = 2, "unterminated_reasoning";
    /// Zero-width and direction controls: more than 8, and more than 0.1 % of the characters.
    INVISIBLE_CHARS = 3, "invisible_chars";
    /// The same above 1 %. Hard.
    HIDDEN_TEXT = 4, "hidden_text";
    /// More than 60 % of the 8-grams of the answer are in the prompt. Hard.
    ECHO = 5, "echo";
    /// The answer repeats itself.
    REPETITION = 6, "repetition";
    /// Phrases of refusal at the start.
    REFUSAL = 7, "refusal";
    /// `fsm`: more rows than steps.
    EXTRA_ROWS = 8, "extra_rows";
    /// `kv_dict`: the dictionary does not end.
    TRUNCATED_OBJECT = 9, "truncated_object";
    /// `kv_dict`: most fillers do not look random.
    LOW_ENTROPY = 10, "low_entropy";
    /// `para_order`: more blocks than segments.
    DUPLICATE_BLOCKS = 11, "duplicate_blocks";
    /// Several things that could be the answer; a fixed rule chose one.
    MULTI_ANSWER = 12, "multi_answer";
    /// Nothing visible, but an answer in the reasoning.
    ANSWER_IN_REASONING = 13, "answer_in_reasoning";
    /// The task cannot be padded: `in_tokens` was ignored.
    INPUT_SIZE_IGNORED = 14, "input_size_ignored";
    /// `sales_report`: more tags than questions, or more than two in a sentence.
    TAG_STUFFING = 15, "tag_stuffing";
    /// `code_fix`: what could run text as a program. Hard.
    DYNAMIC_CODE = 16, "dynamic_code";
    /// `code_fix`: a function that does nothing.
    STUB_CODE = 17, "stub_code";
    /// `code_fix`: the block of code does not end.
    TRUNCATED_BLOCK = 18, "truncated_block";
    /// A defect of a verifier: a number that is none.
    INTERNAL_ERROR = 31, "internal_error";
}

impl FlagSet {
    /// The flags that close the gate.
    pub const HARD: FlagSet = FlagSet(Self::ECHO.0 | Self::HIDDEN_TEXT.0 | Self::DYNAMIC_CODE.0);

    /// Adds `flag` where `condition` holds.
    pub fn set(&mut self, flag: FlagSet, condition: bool) {
        if condition {
            self.0 |= flag.0;
        }
    }

    /// Both.
    #[must_use]
    pub fn union(self, other: FlagSet) -> FlagSet {
        FlagSet(self.0 | other.0)
    }

    /// Whether they have a flag in common.
    pub fn intersects(self, other: FlagSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the flags, in the order of their bits.
    pub fn names(self) -> Vec<&'static str> {
        Self::NAMES.iter().filter(|(flag, _)| self.intersects(*flag)).map(|&(_, name)| name).collect()
    }
}

impl Serialize for FlagSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.names().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FlagSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut set = FlagSet::default();
        for name in Vec::<String>::deserialize(deserializer)? {
            let known = Self::NAMES.iter().find(|(_, text)| *text == name);
            let (flag, _) =
                known.ok_or_else(|| serde::de::Error::custom(format!("unknown flag {name:?}")))?;
            set.set(*flag, true);
        }
        Ok(set)
    }
}
