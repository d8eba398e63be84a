use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{read, slice, span};
use crate::sink::accumulate;

/// Rows of a table, as an embedding does: `[length, n]` to `[rows, n]`. The backward adds rows in order, so that a row taken twice gets both gradients.
#[derive(Clone, Debug)]
pub struct GatherRows {
    /// Row indices.
    pub rows: Arc<[u32]>,
}

impl CustomOp1 for GatherRows {
    fn name(&self) -> &'static str {
        "gather-rows"
    }

    fn cpu_fwd(&self, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocabulary, n) = wl.shape().dims2()?;
        let w = slice(w, wl, "the table")?;
        let _span = span!("embedding", bytes = 8 * self.rows.len() * n);
        let mut y = Vec::with_capacity(self.rows.len() * n);
        for &token in self.rows.iter() {
            let token = token as usize;
            if token >= vocabulary {
                bail!("token id {token} is outside the vocabulary of {vocabulary}");
            }
            y.extend_from_slice(&w[token * n..][..n]);
        }
        Ok((CpuStorage::F32(y), (self.rows.len(), n).into()))
    }

    fn bwd(&self, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let n = w.dim(1)?;
        let dy = dy.contiguous()?;
        let reader = read(&dy);
        let _span = span!("embedding", bytes = 12 * self.rows.len() * n);
        let dy = reader.slice("dy")?;
        accumulate(w, |dw| {
            for (row, &token) in dy.chunks_exact(n).zip(self.rows.iter()) {
                for (sum, d) in dw[token as usize * n..][..n].iter_mut().zip(row) {
                    *sum += d;
                }
            }
        })
    }
}
