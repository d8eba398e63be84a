//! From a template's output to text, control tokens and turns.

use std::ops::Range;

use super::ChatError;

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text, as transformers gives it.
    pub text: String,
    /// The same in pieces: control tokens of the template, and the text between them.
    pub(crate) pieces: Vec<Piece>,
    /// Bytes of the text that the assistant produced.
    pub(crate) assistant: Vec<Range<usize>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Bytes of the text.
    pub(crate) range: Range<usize>,
    /// A control token, or text that is to be read as such.
    pub(crate) control: Option<u32>,
}

#[derive(Clone, Copy)]
pub(super) struct Marks {
    pub(super) guard: char,
    pub(super) start: char,
    pub(super) end: char,
}

/// Takes the marks out of a template's output. `control` is sorted with the longest first.
pub(super) fn split(output: &str, control: &[(String, u32)], marks: Marks) -> Rendered {
    let mut rendered = Rendered { text: String::new(), pieces: Vec::new(), assistant: Vec::new() };
    let mut starts = Vec::new();
    let mut rest = output;
    let mut plain = 0;
    while let Some(c) = rest.chars().next() {
        let at = rendered.text.len();
        let token = control.iter().find(|(token, _)| rest.starts_with(token.as_str()));
        let len = match token {
            Some((token, id)) => {
                rendered.close(plain);
                rendered.text.push_str(token);
                plain = rendered.text.len();
                rendered.pieces.push(Piece { range: at..plain, control: Some(*id) });
                token.len()
            }
            None => {
                if c == marks.start {
                    starts.push(at);
                } else if c == marks.end {
                    rendered.assistant.extend(starts.pop().map(|start| start..at));
                } else if c != marks.guard {
                    rendered.text.push(c);
                }
                c.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    rendered.close(plain);
    rendered
}

impl Rendered {
    /// Makes a piece of the text from `plain` on.
    fn close(&mut self, plain: usize) {
        if plain < self.text.len() {
            self.pieces.push(Piece { range: plain..self.text.len(), control: None });
        }
    }
}

/// The turns of the assistant: from the end of each header to the end of the first stop token behind it. `header` is
/// what a template adds for the assistant to speak; what follows its first line belongs to one mode of the model
/// (such as an empty block of thoughts), and other turns may lack it.
pub(super) fn turns(rendered: &Rendered, header: &str, stop: &[u32]) -> Result<Vec<Range<usize>>, ChatError> {
    let first_line = header.split_inclusive('\n').next().unwrap_or_default();
    let header = if header[first_line.len()..].trim().is_empty() { header } else { first_line };
    let controls = || rendered.pieces.iter().filter(|piece| piece.control.is_some());
    let is_control = |at: usize| controls().any(|piece| piece.range.start == at);
    if header.is_empty() {
        return Err(ChatError::Turns("it adds no header for the assistant".into()));
    }
    let starts: Vec<usize> =
        rendered.text.match_indices(header).map(|(at, _)| at).filter(|at| is_control(*at)).collect();
    if starts.is_empty() && rendered.text.contains(header) {
        return Err(ChatError::Turns(format!("its header {header:?} begins with no control token")));
    }
    let turns = starts.into_iter().map(|at| at + header.len()).filter(|start| *start < rendered.text.len());
    let turns = turns.map(|start| {
        let end =
            controls().find(|p| p.range.start >= start && p.control.is_some_and(|id| stop.contains(&id)));
        start..end.map_or(rendered.text.len(), |piece| piece.range.end)
    });
    Ok(turns.collect())
}
