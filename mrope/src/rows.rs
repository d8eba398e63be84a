//! Where the heads of a tensor lie in memory.

use candle_core::Layout;

use crate::error::{Error, Result};
#[cfg(feature = "candle-cuda")]
use crate::kernels::HeadStrides;

/// The heads of a token-major `[tokens, heads, d]` or head-major `[batch, heads, seq, d]` tensor.
#[derive(Clone, Debug)]
pub(crate) struct HeadRows {
    /// The three dimensions before `d`, in the order of the shape (a batch of one before token-major).
    lens: [usize; 3],
    strides: [usize; 3],
    head_dim: usize,
    start: usize,
    head_major: bool,
    /// The dimensions by falling stride.
    order: [usize; 3],
}

/// One head of one token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) token: usize,
    pub(crate) head: usize,
    /// Its first lane.
    pub(crate) offset: usize,
}

/// Memory cut into disjoint pieces, one for each index of the dimension with the largest stride.
pub(crate) struct MemoryOrder {
    pub(crate) start: usize,
    pub(crate) extent: usize,
    pub(crate) outer_stride: usize,
    /// Rows in each piece.
    pub(crate) inner: usize,
}

impl HeadRows {
    pub(crate) fn of(layout: &Layout) -> Result<Self> {
        let (lens, strides, head_dim, lane_stride) = match (layout.dims(), layout.stride()) {
            (&[t, h, d], &[st, sh, sd]) => ([1, t, h], [0, st, sh], d, sd),
            (&[b, h, s, d], &[sb, sh, ss, sd]) => ([b, h, s], [sb, sh, ss], d, sd),
            (dims, _) => {
                let expected = "[tokens, heads, d] or [batch, heads, seq, d]".to_owned();
                return Err(Error::Shape { found: dims.to_vec(), expected });
            }
        };
        if lane_stride != 1 && head_dim > 1 {
            return Err(Error::Strides { strides: layout.stride().to_vec() });
        }
        // The stride of a dimension of one says nothing.
        let strides = [0, 1, 2].map(|i| if lens[i] > 1 { strides[i] } else { 0 });
        let mut order = [0, 1, 2];
        order.sort_by_key(|i| std::cmp::Reverse(strides[*i]));
        let head_major = layout.dims().len() == 4;
        Ok(Self { lens, strides, head_dim, start: layout.start_offset(), head_major, order })
    }

    pub(crate) fn heads(&self) -> usize {
        if self.head_major { self.lens[1] } else { self.lens[2] }
    }

    pub(crate) fn tokens(&self) -> usize {
        if self.head_major { self.lens[0] * self.lens[2] } else { self.lens[1] }
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    #[cfg(feature = "candle-cuda")]
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Tokens of a batch row.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn seq(&self) -> usize {
        if self.head_major { self.lens[2] } else { self.lens[1] }
    }

    #[cfg(feature = "candle-cuda")]
    pub(crate) fn head_strides(&self) -> HeadStrides {
        let [batch, b, c] = self.strides;
        let (token, head) = if self.head_major { (c, b) } else { (b, c) };
        HeadStrides { batch, token, head }
    }

    /// Those of a contiguous tensor of the same shape.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn contiguous_strides(&self) -> HeadStrides {
        let [_, b, c] = self.lens;
        let (batch, b, c) = (b * c * self.head_dim, c * self.head_dim, self.head_dim);
        let (token, head) = if self.head_major { (c, b) } else { (b, c) };
        HeadStrides { batch, token, head }
    }

    /// Heads of all tokens.
    pub(crate) fn count(&self) -> usize {
        self.lens.iter().product()
    }

    /// The tensor's shape.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let first = if self.head_major { 0 } else { 1 };
        self.lens[first..].iter().copied().chain([self.head_dim]).collect()
    }

    /// Row `index` in the order of the shape.
    pub(crate) fn row(&self, index: usize) -> Row {
        let (rest, last) = (index / self.lens[2], index % self.lens[2]);
        self.at([rest / self.lens[1], rest % self.lens[1], last])
    }

    /// Row `inner` of piece `outer` of the [`MemoryOrder`].
    pub(crate) fn row_in_memory(&self, outer: usize, inner: usize) -> Row {
        let [a, b, c] = self.order;
        let mut index = [0; 3];
        index[a] = outer;
        index[b] = inner / self.lens[c];
        index[c] = inner % self.lens[c];
        self.at(index)
    }

    fn at(&self, index: [usize; 3]) -> Row {
        let offset = self.start + (0..3).map(|i| index[i] * self.strides[i]).sum::<usize>();
        let [batch, row, column] = index;
        if self.head_major {
            Row { token: batch * self.lens[2] + column, head: row, offset }
        } else {
            Row { token: row, head: column, offset }
        }
    }

    /// The pieces of a tensor with at least one row; an error if two rows share memory.
    pub(crate) fn memory_order(&self, layout: &Layout) -> Result<MemoryOrder> {
        let mut extent = self.head_dim;
        for &i in self.order.iter().rev() {
            if self.lens[i] > 1 {
                if self.strides[i] < extent {
                    return Err(Error::Overlap { shape: self.shape(), strides: layout.stride().to_vec() });
                }
                extent += (self.lens[i] - 1) * self.strides[i];
            }
        }
        let [outer, b, c] = self.order;
        let outer_stride = if self.lens[outer] > 1 { self.strides[outer] } else { extent };
        Ok(MemoryOrder { start: self.start, extent, outer_stride, inner: self.lens[b] * self.lens[c] })
    }
}
