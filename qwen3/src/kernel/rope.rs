//! Rotary position embedding, half-split pairing (lane `i` with lane `i + d/2`), as Hugging Face files expect.

/// Cosines and sines for positions `0..len`: `[len, d/2]` each.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table for heads of `head_dim` lanes; angles are computed in f64.
    pub fn new(head_dim: usize, theta: f64, len: usize) -> Self {
        let half = head_dim / 2;
        let mut table = Self { half, cos: Vec::new(), sin: Vec::new() };
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

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Whether the table has no position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rotates one head in place to `position`.
    #[inline]
    pub fn rotate(&self, head: &mut [f32], position: usize) {
        self.turn(head, position, 1.0);
    }

    /// The transpose of [`RopeTable::rotate`], which is also its inverse: the backward.
    #[inline]
    pub fn rotate_back(&self, head: &mut [f32], position: usize) {
        self.turn(head, position, -1.0);
    }

    #[inline(always)]
    fn turn(&self, head: &mut [f32], position: usize, sign: f32) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        let (low, high) = head.split_at_mut(self.half);
        for i in 0..self.half {
            let (a, b, s) = (low[i], high[i], sin[i] * sign);
            low[i] = a * cos[i] - b * s;
            high[i] = b * cos[i] + a * s;
        }
    }
}
