//! Which experts ran for the tokens of one sequence: what a sampler records and a trainer replays.
//!
//! Row `j` holds the routing executed when token `j` was the *input*. The token sampled last was never fed, so a
//! sequence of `n` tokens has `n − 1` rows. The unit is the sequence, not the packed batch: packing and
//! splitting move whole traces and can shift no row against its token.

use std::ops::Range;
use std::sync::Arc;

use crate::gates::check_ids;
use crate::{Error, Result};

/// What a trace and a model must agree in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteShape {
    experts: u16,
    top_k: u8,
    layers: Arc<[u16]>,
}

impl RouteShape {
    /// For `experts` experts (at most 65 535) of which `top_k` run (at most 255) in the transformer layers
    /// `layers`, counted from 0 and rising.
    pub fn new(experts: usize, top_k: usize, layers: &[usize]) -> Result<Self> {
        let limit = |what, found: usize, limit: usize| {
            if (1..=limit).contains(&found) {
                Ok(found)
            } else {
                Err(Error::TraceLimit { what, limit, found })
            }
        };
        limit("experts", experts, usize::from(u16::MAX))?;
        limit("experts a token", top_k, usize::from(u8::MAX))?;
        limit("layers", layers.len(), usize::from(u16::MAX))?;
        if top_k > experts {
            return Err(Error::TopK { top_k, experts });
        }
        if let Some(far) = layers.iter().find(|l| **l > usize::from(u16::MAX)) {
            return Err(Error::TraceLimit { what: "layers", limit: usize::from(u16::MAX), found: *far });
        }
        if !layers.is_sorted_by(|a, b| a < b) {
            return Err(Error::LayerMap(layers.to_vec()));
        }
        let layers = layers.iter().map(|l| *l as u16).collect();
        Ok(Self { experts: experts as u16, top_k: top_k as u8, layers })
    }

    /// Routed experts of a layer, `E`.
    pub fn experts(&self) -> usize {
        usize::from(self.experts)
    }

    /// Experts of a token, `K`.
    pub fn top_k(&self) -> usize {
        usize::from(self.top_k)
    }

    /// The transformer layer of each layer with experts.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = usize> {
        self.layers.iter().map(|l| usize::from(*l))
    }

    /// Ids of one row.
    pub fn row_len(&self) -> usize {
        self.layers.len() * self.top_k()
    }
}

impl std::fmt::Display for RouteShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} experts, top-{}, in layers {:?}", self.experts, self.top_k, self.layers)
    }
}

/// Ids by row, layer and slot: a byte each for up to 256 experts, two for more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    U8(Vec<u8>),
    U16(Vec<u16>),
}

/// The experts that ran for the tokens of one sequence. It grows as tokens are fed, and every row in it has been
/// checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTrace {
    pub(crate) shape: RouteShape,
    pub(crate) ids: Ids,
    /// One bit a row, lowest first. With 256 experts every byte is a legal id, so no id can mean "unknown".
    pub(crate) valid: Vec<u8>,
    pub(crate) rows: usize,
    /// First row and version of each segment.
    pub(crate) versions: Vec<(u32, u64)>,
    pub(crate) digest: u64,
}

const DIGEST_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over the little-endian bytes of token ids. It runs along as tokens are fed, so a trace that continues
/// a shared prefix needs only the prefix's digest.
pub fn token_digest(tokens: &[u32]) -> u64 {
    tokens.iter().fold(DIGEST_OF_NOTHING, |digest, token| extend_digest(digest, *token))
}

fn extend_digest(digest: u64, token: u32) -> u64 {
    fnv1a(digest, &token.to_le_bytes())
}

pub(crate) fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl RouteTrace {
    /// A trace without rows. `policy_version` says which weights choose the experts of the rows to come; what
    /// it counts is the caller's affair.
    pub fn new(shape: RouteShape, policy_version: u64) -> Self {
        let ids = if shape.experts <= 256 { Ids::U8(Vec::new()) } else { Ids::U16(Vec::new()) };
        let versions = vec![(0, policy_version)];
        Self { shape, ids, valid: Vec::new(), rows: 0, versions, digest: DIGEST_OF_NOTHING }
    }

    /// Takes over what another engine reports: `ids` `[rows][layers][K]` for `tokens`, where `layers` counts the
    /// layers with experts or all `num_layers` (of which the dense ones are dropped) and rows are `tokens.len()`
    /// or one less. A row of −1 in every layer becomes an invalid one; further rows are an error, never cut off.
    pub fn ingest(
        shape: RouteShape,
        num_layers: usize,
        tokens: &[u32],
        rows: usize,
        ids: &[i32],
        policy_version: u64,
    ) -> Result<Self> {
        if rows != tokens.len() && rows + 1 != tokens.len() {
            return Err(Error::TraceRows { rows, tokens: tokens.len() });
        }
        let (k, moe) = (shape.top_k(), shape.layers.len());
        let width = ids.len().checked_div(rows).unwrap_or(moe * k);
        let layers = width / k;
        if layers == 0 || ids.len() != rows * layers * k || (layers != moe && layers != num_layers) {
            return Err(Error::TraceLayers { found: layers, moe, all: num_layers });
        }
        let mut trace = Self::new(shape.clone(), policy_version);
        let mut row_ids = Vec::with_capacity(moe * k);
        for (row, (token, reported)) in tokens.iter().zip(ids.chunks_exact(width)).enumerate() {
            let layer_ids = |ordinal: usize, layer: usize| {
                let at = if layers == moe { ordinal } else { layer };
                reported.get(at * k..(at + 1) * k)
            };
            row_ids.clear();
            let mut unknown = 0;
            for (ordinal, layer) in shape.layers().enumerate() {
                let Some(ids) = layer_ids(ordinal, layer) else {
                    return Err(Error::TraceLayers { found: layers, moe, all: num_layers });
                };
                unknown += ids.iter().filter(|id| **id < 0).count();
                if unknown != 0 && unknown != (ordinal + 1) * k {
                    return Err(Error::PartialRow { row, layer, ids: ids.to_vec() });
                }
                row_ids.extend(ids.iter().map(|id| *id as u32));
            }
            if unknown == 0 { trace.push(*token, &row_ids)? } else { trace.push_missing(*token) }
        }
        Ok(trace)
    }

    /// Appends the row of a token that was fed: `ids` `[layers][K]`.
    pub fn push(&mut self, token: u32, ids: &[u32]) -> Result<()> {
        if ids.len() != self.shape.row_len() {
            let expected = self.shape.row_len();
            return Err(Error::Shape { what: "ids of a row", found: ids.len(), expected });
        }
        for (layer, ids) in self.shape.layers().zip(ids.chunks_exact(self.shape.top_k())) {
            self.check(layer, ids)?;
        }
        match &mut self.ids {
            Ids::U8(all) => all.extend(ids.iter().map(|id| *id as u8)),
            Ids::U16(all) => all.extend(ids.iter().map(|id| *id as u16)),
        }
        self.advance(token, true);
        Ok(())
    }

    /// Appends the row of a token that was the `row`-th of a pass, of which `routes` are the ids by layer,
    /// `[rows · K]` each.
    pub fn push_from(&mut self, token: u32, routes: &[Vec<u32>], row: usize) -> Result<()> {
        let k = self.shape.top_k();
        let mut ids = Vec::with_capacity(self.shape.row_len());
        for layer in routes {
            let Some(of_row) = layer.get(row * k..(row + 1) * k) else {
                return Err(Error::Shape {
                    what: "ids of a layer",
                    found: layer.len(),
                    expected: (row + 1) * k,
                });
            };
            ids.extend_from_slice(of_row);
        }
        self.push(token, &ids)
    }

    /// Appends a row whose experts are not known.
    pub fn push_missing(&mut self, token: u32) {
        let len = (self.rows + 1) * self.shape.row_len();
        match &mut self.ids {
            Ids::U8(all) => all.resize(len, 0),
            Ids::U16(all) => all.resize(len, 0),
        }
        self.advance(token, false);
    }

    fn check(&self, layer: usize, ids: &[u32]) -> Result<()> {
        let experts = self.shape.experts();
        check_ids(self.rows, ids, experts).map_err(|_| Error::TraceIds {
            row: self.rows,
            layer,
            ids: ids.to_vec(),
            experts,
        })
    }

    fn advance(&mut self, token: u32, valid: bool) {
        if self.rows.is_multiple_of(8) {
            self.valid.push(0);
        }
        self.valid[self.rows / 8] |= u8::from(valid) << (self.rows % 8);
        self.rows += 1;
        self.digest = extend_digest(self.digest, token);
    }

    /// Forgets the experts of some rows, for instance of the prompt (replay of responses only).
    pub fn invalidate(&mut self, rows: Range<usize>) {
        let width = self.shape.row_len();
        for row in rows.start..rows.end.min(self.rows) {
            self.valid[row / 8] &= !(1 << (row % 8));
            match &mut self.ids {
                Ids::U8(all) => all[row * width..][..width].fill(0),
                Ids::U16(all) => all[row * width..][..width].fill(0),
            }
        }
    }

    /// From here on other weights choose the experts (partial rollouts).
    pub fn begin_version(&mut self, policy_version: u64) {
        let first = self.rows as u32;
        self.versions.retain(|(row, _)| *row < first);
        self.versions.push((first, policy_version));
    }

    /// The sizes it is of.
    pub fn shape(&self) -> &RouteShape {
        &self.shape
    }

    /// Rows: tokens that were fed.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether the experts of a row are known.
    pub fn is_valid(&self, row: usize) -> bool {
        row < self.rows && self.valid[row / 8] >> (row % 8) & 1 == 1
    }

    /// [`token_digest`] of the tokens its rows belong to.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// First row and policy version of each segment, in order.
    pub fn policy_versions(&self) -> &[(u32, u64)] {
        &self.versions
    }

    /// Bytes that the ids take: `rows · layers · K`, twice that above 256 experts.
    pub fn id_bytes(&self) -> usize {
        match &self.ids {
            Ids::U8(ids) => ids.len(),
            Ids::U16(ids) => ids.len() * 2,
        }
    }

    /// The ids `[K]` of a row in the `ordinal`-th layer with experts; `None` where they are not known.
    pub fn ids(&self, row: usize, ordinal: usize) -> Option<impl Iterator<Item = u32>> {
        if !self.is_valid(row) || ordinal >= self.shape.layers.len() {
            return None;
        }
        let (start, k) = (row * self.shape.row_len() + ordinal * self.shape.top_k(), self.shape.top_k());
        Some((start..start + k).map(move |i| match &self.ids {
            Ids::U8(ids) => u32::from(ids[i]),
            Ids::U16(ids) => u32::from(ids[i]),
        }))
    }

    /// Whether both know the same experts for some rows.
    pub fn agrees_with(&self, other: &Self, rows: Range<usize>) -> bool {
        let ids = rows.start * self.shape.row_len()..rows.end * self.shape.row_len();
        let same = match (&self.ids, &other.ids) {
            (Ids::U8(a), Ids::U8(b)) => a.get(ids.clone()).is_some_and(|a| b.get(ids) == Some(a)),
            (Ids::U16(a), Ids::U16(b)) => a.get(ids.clone()).is_some_and(|a| b.get(ids) == Some(a)),
            _ => false,
        };
        same && self.shape == other.shape
            && rows.into_iter().all(|row| self.is_valid(row) == other.is_valid(row))
    }

    /// Refuses a trace that does not belong to `tokens` or to a model of `shape`. A trace may be one row
    /// short: the token sampled last was never fed, and nothing is predicted from it.
    pub fn check_for(&self, shape: &RouteShape, tokens: &[u32]) -> Result<()> {
        if self.shape != *shape {
            return Err(Error::TraceShape { found: self.shape.clone(), expected: shape.clone() });
        }
        if self.rows != tokens.len() && self.rows + 1 != tokens.len() {
            return Err(Error::TraceRows { rows: self.rows, tokens: tokens.len() });
        }
        let expected = token_digest(&tokens[..self.rows]);
        if self.digest != expected {
            return Err(Error::TraceDigest { found: self.digest, expected });
        }
        Ok(())
    }
}
