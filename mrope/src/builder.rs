//! From runs to coordinates, one run at a time.

use crate::block::Block;
use crate::design::PositionDesign;
use crate::error::{Error, Result};
use crate::positions::{MAX_COORDINATE, Positions, Sequence, check};
use crate::run::Run;

/// Builds the positions of one sequence.
///
/// Its only state beside what it has written is `next`, the coordinate of the next text token, so a conversation goes
/// on from where it stands ([`PositionBuilder::resume`]). A run that is refused leaves the builder as it was.
#[derive(Clone, Debug)]
pub struct PositionBuilder {
    design: PositionDesign,
    sequence: Sequence,
    axes: Vec<Vec<f64>>,
}

impl PositionBuilder {
    /// A builder at coordinate 0.
    pub fn new(design: PositionDesign) -> Result<Self> {
        Self::resume(design, Sequence::default())
    }

    /// A builder that continues a sequence; [`PositionBuilder::finish`] gives the coordinates of the new tokens.
    pub fn resume(design: PositionDesign, sequence: Sequence) -> Result<Self> {
        design.validate()?;
        check(0, sequence.tokens, &[sequence.next])?;
        let axes = vec![Vec::new(); design.axes()];
        Ok(Self { design, sequence, axes })
    }

    /// Appends a run. A text run of no tokens changes nothing.
    pub fn push(&mut self, run: Run) -> Result<()> {
        let design = self.design.clone();
        self.append(run, &design)
    }

    /// Appends a run under another design than the builder's: V2PE with a step of its own for each item, HoPE with a
    /// stride drawn for each video.
    pub fn push_with(&mut self, run: Run, design: &PositionDesign) -> Result<()> {
        design.validate()?;
        if design.axes() != self.axes.len() {
            return Err(Error::MixedAxes { found: design.axes(), expected: self.axes.len() });
        }
        self.append(run, design)
    }

    fn append(&mut self, run: Run, design: &PositionDesign) -> Result<()> {
        // Before anything is allocated.
        let new = run.tokens(design.merge)?;
        let tokens = self.sequence.tokens as u128 + new as u128;
        if tokens > u128::from(MAX_COORDINATE) {
            return Err(Error::TooManyTokens { tokens });
        }
        let written = self.axes[0].len();
        let outcome = self.write(run, design, written).and_then(|next| {
            for (axis, values) in self.axes.iter().enumerate() {
                check(axis, self.sequence.tokens, &values[written..])?;
            }
            check(0, tokens as usize, &[next])?;
            Ok(next)
        });
        match outcome {
            Ok(next) => {
                let placed = self.axes.iter().flat_map(|axis| &axis[written..]).copied();
                let largest = placed.fold(self.sequence.largest, f64::max);
                self.sequence = Sequence { tokens: tokens as usize, next, largest };
                Ok(())
            }
            Err(error) => {
                self.axes.iter_mut().for_each(|axis| axis.truncate(written));
                Err(error)
            }
        }
    }

    fn write(&mut self, run: Run, design: &PositionDesign, written: usize) -> Result<f64> {
        let mut next = self.sequence.next;
        if let Run::Text(len) = run {
            for i in 0..len {
                design.push_text(next + i as f64, &mut self.axes);
            }
            return Ok(next + len as f64);
        }
        let mut start = written;
        for block in Block::of(run, design)? {
            block.place(design.layout, next, &mut self.axes);
            let placed: Vec<&[f64]> = self.axes.iter().map(|axis| &axis[start..]).collect();
            next = block.advance(design, next, &placed);
            start += block.tokens();
        }
        Ok(next)
    }

    /// The coordinate of the next text token.
    pub fn next(&self) -> f64 {
        self.sequence.next
    }

    /// The coordinates written, and where the sequence stands.
    pub fn finish(self) -> Positions {
        Positions::trusted(self.axes, self.sequence)
    }
}
