//! Positions of several sequences in one table.

use crate::builder::PositionBuilder;
use crate::design::PositionDesign;
use crate::error::{Error, Result};
use crate::positions::{Positions, Sequence};
use crate::run::Run;

impl PositionDesign {
    /// The positions of one sequence.
    pub fn positions(&self, runs: &[Run]) -> Result<Positions> {
        let mut builder = PositionBuilder::new(self.clone())?;
        for run in runs {
            builder.push(*run)?;
        }
        Ok(builder.finish())
    }

    /// Sequences one after the other, as `cu_seqlens` has them: every one starts at 0. Slots from the last token to
    /// `slots` (padding to a multiple) are at 0.
    pub fn packed<R: AsRef<[Run]>>(&self, sequences: &[R], slots: Option<usize>) -> Result<Positions> {
        let mut axes = vec![Vec::new(); self.axes()];
        let mut ends = Vec::with_capacity(sequences.len());
        for runs in sequences {
            let (one, end) = self.positions(runs.as_ref())?.into_parts();
            axes.iter_mut().zip(one).for_each(|(all, mut one)| all.append(&mut one));
            ends.push(end);
        }
        let tokens = axes[0].len();
        if let Some(slots) = slots {
            if slots < tokens {
                return Err(Error::Length { what: "the packed batch", found: tokens, expected: slots });
            }
            axes.iter_mut().for_each(|axis| axis.resize(slots, 0.0));
        }
        Positions::new(axes, ends)
    }

    /// Rows of equal length, `[batch · seq]` slots: `mask` (of the same length) tells real tokens, in any place of the
    /// row, from padding, which gets `pad_value` (0, or [`Compat::pad_value`](crate::Compat::pad_value)).
    ///
    /// The runs of a row are those of its real tokens; the coordinates are those that it has without padding. A hole of
    /// the mask inside a visual item is an error.
    pub fn padded<R: AsRef<[Run]>>(&self, rows: &[R], mask: &[bool], pad_value: f64) -> Result<Positions> {
        let seq = mask.len().checked_div(rows.len()).unwrap_or(0);
        if seq * rows.len() != mask.len() {
            let expected = seq * rows.len();
            return Err(Error::Length { what: "the mask", found: mask.len(), expected });
        }
        let mut axes = vec![vec![pad_value; mask.len()]; self.axes()];
        let mut ends: Vec<Sequence> = Vec::with_capacity(rows.len());
        for (row, runs) in rows.iter().enumerate() {
            let kept: Vec<usize> = (row * seq..(row + 1) * seq).filter(|slot| mask[*slot]).collect();
            let (one, end) = self.positions(runs.as_ref())?.into_parts();
            if one[0].len() != kept.len() {
                return Err(Error::Length {
                    what: "a row of the mask",
                    found: kept.len(),
                    expected: one[0].len(),
                });
            }
            self.refuse_holes(runs.as_ref(), row, row * seq, &kept)?;
            for (all, one) in axes.iter_mut().zip(one) {
                kept.iter().zip(one).for_each(|(slot, coordinate)| all[*slot] = coordinate);
            }
            ends.push(end);
        }
        Positions::new(axes, ends)
    }

    fn refuse_holes(&self, runs: &[Run], row: usize, first: usize, kept: &[usize]) -> Result<()> {
        let mut start = 0;
        for run in runs {
            let len = run.tokens(self.merge)?;
            let slots = &kept[start..start + len];
            if let (true, Some(pair)) =
                (run.is_visual(), slots.windows(2).find(|pair| pair[1] != pair[0] + 1))
            {
                return Err(Error::MaskHole { row, slot: pair[0] + 1 - first });
            }
            start += len;
        }
        Ok(())
    }
}
