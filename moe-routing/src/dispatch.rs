//! The order in which (token, expert) pairs are computed: sorted by expert, tokens in order within one.

use crate::{Error, Result};

/// A stable counting sort of the slots `q = token · K + k` by expert.
///
/// Stable means that within an expert rows are in token order, so weight gradients are reproducible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dispatch {
    order: Vec<u32>,
    token_of: Vec<u32>,
    inverse: Vec<u32>,
    offsets: Vec<u32>,
    top_k: usize,
}

impl Dispatch {
    /// From expert ids `[tokens · top_k]`, each row distinct and below `experts`.
    pub fn new(ids: &[u32], tokens: usize, experts: usize, top_k: usize) -> Result<Self> {
        let mut dispatch = Self::default();
        dispatch.fill(ids, tokens, experts, top_k, &mut Vec::new())?;
        Ok(dispatch)
    }

    /// [`Dispatch::new`] in its place, with memory for counts.
    pub(crate) fn fill(
        &mut self,
        ids: &[u32],
        tokens: usize,
        experts: usize,
        top_k: usize,
        next: &mut Vec<u32>,
    ) -> Result<()> {
        if top_k == 0 || top_k > experts {
            return Err(Error::TopK { top_k, experts });
        }
        if ids.len() != tokens * top_k {
            return Err(Error::Shape { what: "ids", found: ids.len(), expected: tokens * top_k });
        }
        let Self { order, token_of, inverse, offsets, top_k: own_top_k } = self;
        offsets.clear();
        offsets.resize(experts + 1, 0);
        for (token, row) in ids.chunks_exact(top_k).enumerate() {
            for (i, id) in row.iter().enumerate() {
                if *id as usize >= experts || row[..i].contains(id) {
                    return Err(Error::Ids { token, ids: row.to_vec(), experts });
                }
                offsets[*id as usize + 1] += 1;
            }
        }
        for expert in 0..experts {
            offsets[expert + 1] += offsets[expert];
        }
        next.clone_from(offsets);
        order.resize(ids.len(), 0);
        inverse.resize(ids.len(), 0);
        for (slot, id) in ids.iter().enumerate() {
            let position = &mut next[*id as usize];
            order[*position as usize] = slot as u32;
            inverse[slot] = *position;
            *position += 1;
        }
        token_of.clear();
        token_of.extend(order.iter().map(|slot| slot / top_k as u32));
        *own_top_k = top_k;
        Ok(())
    }

    /// The slot at each position: `[pairs]`.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The token at each position: `[pairs]`.
    pub fn token_of(&self) -> &[u32] {
        &self.token_of
    }

    /// The position of each slot: `[pairs]`.
    pub fn inverse(&self) -> &[u32] {
        &self.inverse
    }

    /// Where each expert's positions start, and the end: `[experts + 1]`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// The positions of an expert.
    pub fn rows_of(&self, expert: usize) -> std::ops::Range<usize> {
        self.offsets[expert] as usize..self.offsets[expert + 1] as usize
    }

    /// Number of experts.
    pub fn num_experts(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Experts a token.
    pub fn top_k(&self) -> usize {
        self.top_k
    }
}
