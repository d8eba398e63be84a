//! Diversity inside a group: farthest-first over unit embeddings.

/// Rows of unit length, `[rows, width]`.
#[derive(Clone, Debug)]
pub struct Embeddings {
    width: usize,
    data: Vec<f32>,
}

/// Embeddings that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EmbeddingsError {
    /// The numbers do not make that many rows.
    #[error("{numbers} numbers do not make {rows} rows of the same width")]
    Shape {
        /// Numbers found.
        numbers: usize,
        /// Rows expected.
        rows: usize,
    },
    /// A row is not of unit length.
    #[error("row {row} has length {length}, not 1")]
    Length {
        /// The row.
        row: usize,
        /// Its length.
        length: f64,
    },
}

impl Embeddings {
    /// `rows` embeddings, one after another.
    ///
    /// # Errors
    /// [`EmbeddingsError`] when the numbers do not divide into rows, or a row's length differs from 1 by more than 1e-3.
    pub fn new(data: Vec<f32>, rows: usize) -> Result<Self, EmbeddingsError> {
        if rows == 0 || data.is_empty() || !data.len().is_multiple_of(rows) {
            return Err(EmbeddingsError::Shape { numbers: data.len(), rows });
        }
        let width = data.len() / rows;
        for (row, x) in data.chunks_exact(width).enumerate() {
            let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if length.is_nan() || (length - 1.0).abs() > 1e-3 {
                return Err(EmbeddingsError::Length { row, length });
            }
        }
        Ok(Embeddings { width, data })
    }

    /// One embedding.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..][..self.width]
    }

    /// The number of components.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// The product of two rows: eight running sums, added at the end in order, so that it is the same on every machine.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail = left.remainder().iter().zip(right.remainder());
    let rest: f32 = tail.map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for k in 0..8 {
            sums[k] += x[k] * y[k];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// `count` of the rows in `pool`: the first of them, then each time the one whose largest cosine with those chosen is
/// smallest; of equals the one that stands first. All of `pool` when it has fewer.
pub fn farthest_first(embeddings: &Embeddings, pool: &[usize], count: usize) -> Vec<usize> {
    let mut nearest = vec![f32::NEG_INFINITY; pool.len()];
    let mut chosen = Vec::with_capacity(count.min(pool.len()));
    let mut next = (count > 0 && !pool.is_empty()).then_some(0);
    while let Some(at) = next {
        chosen.push(pool[at]);
        nearest[at] = f32::INFINITY;
        if chosen.len() == count.min(pool.len()) {
            break;
        }
        let pivot = embeddings.row(pool[at]);
        let mut best: Option<usize> = None;
        for i in 0..pool.len() {
            if nearest[i] < f32::INFINITY {
                nearest[i] = nearest[i].max(dot(pivot, embeddings.row(pool[i])));
                if best.is_none_or(|b| nearest[i] < nearest[b]) {
                    best = Some(i);
                }
            }
        }
        next = best;
    }
    chosen
}
