//! Rules of pycodestyle 2.13 on indentation and blank lines.

use super::Lint;
use super::logical::{Logical, starts_definition, starts_function};

const TAB: usize = 8;

/// Columns of white space, with tabs to multiples of eight.
fn columns(text: &str) -> usize {
    text.chars().fold(0, |at, c| if c == '\t' { (at / TAB + 1) * TAB } else { at + 1 })
}

/// Columns of white space at the start of a row.
fn row_indent(row: &str) -> usize {
    if row.contains('\t') {
        columns(&row[..row.len() - row.trim_start_matches([' ', '\t']).len()])
    } else {
        row.chars().take_while(|c| c.is_whitespace()).count()
    }
}

/// A row that has a definition, and whether the row after it belongs to no body of it.
#[derive(Clone, Copy)]
struct Definition {
    /// The row from which it was looked for.
    from: usize,
    /// Where it is, or the end of the source.
    row: usize,
    /// The indent of what follows it.
    next: Option<usize>,
}

/// What is known of the lines above.
#[derive(Default)]
pub(super) struct Layout {
    blank_before: usize,
    /// Whether there is a line of code, and how it starts and ends.
    code: bool,
    decorator: bool,
    docstring: bool,
    opens: bool,
    indent: usize,
    /// The columns of the blocks that are open, without that of the module.
    blocks: Vec<usize>,
    /// Whether the last line without indent is the head of a function or class.
    definition_above: bool,
    /// The indents within which the next row lies, each larger than the one before, and whether they are of functions.
    ancestors: Vec<(usize, bool)>,
    /// How many rows are in `ancestors`.
    rows: usize,
    one_liner: Option<Definition>,
    /// Whether the first row with indent starts with a tab.
    tabs: Option<bool>,
}

impl Layout {
    /// Ends the blocks that a line ends, and starts that which it starts.
    fn enter(&mut self, line: &mut Logical, column: usize) {
        line.dedents = 0;
        while self.blocks.last().is_some_and(|&block| block > column) {
            self.blocks.pop();
            line.dedents += 1;
        }
        line.indented = self.blocks.last().copied().unwrap_or(0) < column;
        if line.indented {
            self.blocks.push(column);
        }
    }
}

/// A logical line in its place.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: usize,
    /// Blank lines right before it.
    pub(super) blank: usize,
    /// The last of its rows.
    pub(super) last: usize,
}

impl Lint<'_> {
    /// Looks at the layout of a logical line, which has no text where it is a comment.
    pub(super) fn layout(&mut self, above: &mut Layout, line: &mut Logical, place: Place) {
        let space = &self.source[self.line_starts[self.line(place.start)]..place.start];
        line.indent = columns(space);
        above.blank_before = above.blank_before.max(place.blank);
        self.indentation(above, line, place);
        self.blank_lines(above, line, place);
        if line.text.is_empty() {
            return;
        }
        above.enter(line, columns(space.rsplit('\x0c').next().unwrap_or(space)));
        let text = line.text.as_str();
        let unmarked = text.strip_prefix('u').unwrap_or(text);
        let quoted = unmarked.strip_prefix('r').unwrap_or(unmarked);
        above.code = true;
        above.decorator = text.starts_with('@');
        above.docstring = quoted.starts_with('"');
        above.opens = text.ends_with(':');
        above.indent = line.indent;
        if line.indent == 0 {
            above.definition_above = text.starts_with("def ") || text.starts_with("class ");
        }
        above.blank_before = 0;
    }

    fn indentation(&mut self, above: &mut Layout, line: &Logical, place: Place) {
        let indent = line.indent;
        self.report_if(!line.text.is_empty() && !indent.is_multiple_of(4), "E111", place.start);
        if above.opens && indent > above.indent + 4 {
            let tabs = *above.tabs.get_or_insert_with(|| self.is_indented_by_tabs());
            self.report_if(!tabs || indent > above.indent + TAB, "E117", place.start);
        }
    }

    fn is_indented_by_tabs(&self) -> bool {
        let mut firsts = self.line_starts.iter().filter_map(|&start| self.source.as_bytes().get(start));
        firsts.find(|b| matches!(b, b' ' | b'\t')) == Some(&b'\t')
    }

    fn blank_lines(&mut self, above: &mut Layout, line: &Logical, place: Place) {
        let (text, indent) = (line.text.as_str(), line.indent);
        if !above.code && above.blank_before < 2 {
            return;
        }
        if above.decorator {
            return;
        }
        if place.blank > 2 || (indent > 0 && place.blank == 2) {
            self.report("E303", place.start);
        } else if starts_definition(text) {
            let wanted = if indent > 0 { 1 } else { 2 };
            if above.blank_before == wanted
                || (above.blank_before == 0 && self.is_one_liner(above, place.last, indent))
            {
                return;
            }
            if indent == 0 {
                self.report("E302", place.start);
            } else if above.indent >= indent && !above.docstring {
                let nested = self.is_in_function(above, place.last, indent);
                self.report(if nested { "E306" } else { "E301" }, place.start);
            }
        } else if !text.is_empty() && indent == 0 && above.blank_before != 2 && above.definition_above {
            self.report("E305", place.start);
        }
    }

    /// Whether a definition belongs to a group of such as have their body on the same row. As pycodestyle looks for it:
    /// from the last row of the head on, for a row that starts with a definition.
    fn is_one_liner(&self, above: &mut Layout, last: usize, indent: usize) -> bool {
        let before = last.checked_sub(1).map_or(0, |row| row_indent(self.row(row)));
        if before > indent {
            return false;
        }
        let known = above.one_liner.filter(|known| (known.from..=known.row).contains(&last));
        let found = known.unwrap_or_else(|| self.definition_from(last));
        above.one_liner = Some(found);
        found.row < self.rows() && found.next.is_none_or(|next| next <= indent)
    }

    fn definition_from(&self, from: usize) -> Definition {
        let heads = |row: &usize| {
            let text = self.row(*row).trim();
            !text.starts_with('@') && starts_definition(text)
        };
        let row = (from..self.rows()).find(heads).unwrap_or(self.rows());
        let next = (row + 1..self.rows()).map(|r| self.row(r)).find(|r| !r.trim().is_empty());
        Definition { from, row, next: next.map(row_indent) }
    }

    /// Whether the definition that encloses what has this indent, above the last row of its head, is a function.
    fn is_in_function(&self, above: &mut Layout, last: usize, indent: usize) -> bool {
        for row in above.rows..last {
            let text = self.row(row);
            if text.trim().is_empty() {
                continue;
            }
            let indent = row_indent(text);
            while above.ancestors.last().is_some_and(|a| a.0 >= indent) {
                above.ancestors.pop();
            }
            above.ancestors.push((indent, starts_function(text.trim_start())));
        }
        above.rows = above.rows.max(last);
        let mut outer = above.ancestors.iter().rev().filter(|a| a.0 < indent);
        outer.find(|(indent, function)| *function || *indent == 0).is_some_and(|a| a.1)
    }
}
