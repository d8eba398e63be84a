//! Rotary position embedding, half-split pairing (lane `i` with lane `i + d/2`), as Hugging Face files expect.

use mrope::{Allocation, Frequencies, Positions};

/// Cosines and sines for positions `0..len`: `[len, planes, d/2]` each. There is one plane, or one for each key/value
/// head where heads are turned differently.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    planes: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table for heads of `head_dim` lanes; angles are computed in f64.
    pub fn new(head_dim: usize, theta: f64, len: usize) -> Self {
        let half = head_dim / 2;
        let mut table = Self { half, planes: 1, cos: Vec::new(), sin: Vec::new() };
        table.cos.reserve(len * half);
        table.sin.reserve(len * half);
        for position in 0..len {
            for lane in 0..half {
                let angle = position as f64 * theta.powf(-((2 * lane) as f64) / head_dim as f64);
                table.cos.push(angle.cos() as f32);
                table.sin.push(angle.sin() as f32);
            }
        }
        table
    }

    /// A table of one row for each token of `positions`, in which the token's number is its "position": multimodal or
    /// two-dimensional rotation.
    ///
    /// Angles are computed in f64 as in [`RopeTable::new`], so a token whose coordinates are all `p` gets the bits of
    /// position `p` there.
    pub fn of_tokens(
        positions: &Positions,
        allocation: &Allocation,
        frequencies: &Frequencies,
    ) -> mrope::Result<Self> {
        let planes = match allocation {
            Allocation::PerHead { kv_heads, .. } => *kv_heads,
            _ => 1,
        };
        let (cos, sin) = mrope::reference::cos_sin(positions, allocation, frequencies, planes)?;
        let narrow = |values: ndarray::Array3<f64>| values.iter().map(|v| *v as f32).collect();
        Ok(Self { half: frequencies.pairs(), planes, cos: narrow(cos), sin: narrow(sin) })
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.cos.len().checked_div(self.half * self.planes).unwrap_or(0)
    }

    /// Whether the table has no position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rotates one head in place to `position`. A query head turns as `kv_head`, the key/value head that serves it.
    #[inline]
    pub fn rotate(&self, head: &mut [f32], position: usize, kv_head: usize) {
        self.turn(head, position, kv_head, 1.0);
    }

    /// The transpose of [`RopeTable::rotate`]: the backward.
    #[inline]
    pub fn rotate_back(&self, head: &mut [f32], position: usize, kv_head: usize) {
        self.turn(head, position, kv_head, -1.0);
    }

    #[inline(always)]
    fn turn(&self, head: &mut [f32], position: usize, kv_head: usize, sign: f32) {
        let row = position * self.planes + kv_head.min(self.planes - 1);
        let cos = &self.cos[row * self.half..][..self.half];
        let sin = &self.sin[row * self.half..][..self.half];
        let (low, high) = head.split_at_mut(self.half);
        for i in 0..self.half {
            let (a, b, s) = (low[i], high[i], sin[i] * sign);
            low[i] = a * cos[i] - b * s;
            high[i] = b * cos[i] + a * s;
        }
    }
}
