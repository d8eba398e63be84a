//! The expert computation of a mixture-of-experts layer, over rows sorted by expert.
//!
//! `order` position `p` of the dispatch holds one (token, expert) pair. Weights are stacked by expert:
//! `gate_up` `[experts, 2 I, H]`, `down` `[experts, H, I]`.

use moe_routing::Dispatch;
use rayon::prelude::*;

use super::activation::swiglu_row;
use super::multiversion;
use super::stored::Matrix;
use super::{ROW_CHUNK, SharedMut};
use crate::buffer::Buffer;

/// Runs `f(expert, rows)` for every expert that has rows, in parallel.
pub(crate) fn each_expert(dispatch: &Dispatch, f: impl Fn(usize, std::ops::Range<usize>) + Sync) {
    (0..dispatch.num_experts()).into_par_iter().for_each(|expert| {
        let rows = dispatch.rows_of(expert);
        if !rows.is_empty() {
            f(expert, rows);
        }
    });
}

/// Copies the rows of `x` `[tokens, n]` that `range` of the dispatch order stands for.
pub(crate) fn gather(x: &[f32], n: usize, dispatch: &Dispatch, range: std::ops::Range<usize>) -> Buffer {
    let mut rows = Buffer::of(range.len() * n);
    for (row, token) in rows.chunks_exact_mut(n).zip(&dispatch.token_of()[range]) {
        row.copy_from_slice(&x[*token as usize * n..][..n]);
    }
    rows
}

/// First half: `pre = x · gate_upᵀ` (`[pairs, 2 I]`) and `h = swiglu(pre)` (`[pairs, I]`), in dispatch order.
pub(crate) fn up(
    x: &[f32],
    gate_up: &(impl Matrix + ?Sized),
    dispatch: &Dispatch,
    hidden: usize,
    inner: usize,
    pre: &mut [f32],
    h: &mut [f32],
) {
    let pairs = dispatch.token_of().len();
    assert!(pre.len() == pairs * 2 * inner && h.len() == pairs * inner, "up: outputs of another shape");
    let (pre_out, h_out) = (SharedMut::new(pre), SharedMut::new(h));
    each_expert(dispatch, |expert, range| {
        let rows = range.len();
        let x = gather(x, hidden, dispatch, range.clone());
        // SAFETY: an expert owns its range of the dispatch order.
        let (pre, h) = unsafe {
            (
                pre_out.range(range.start * 2 * inner, rows * 2 * inner),
                h_out.range(range.start * inner, rows * inner),
            )
        };
        gate_up.times(&x, pre, rows, expert * 2 * inner..(expert + 1) * 2 * inner, hidden);
        for (h, pre) in h.chunks_exact_mut(inner).zip(pre.chunks_exact(2 * inner)) {
            swiglu_row(pre, h);
        }
    });
}

/// Second half: `o = h · downᵀ` (`[pairs, H]`), in dispatch order, not yet weighted by gates.
pub(crate) fn down(
    h: &[f32],
    down: &(impl Matrix + ?Sized),
    dispatch: &Dispatch,
    hidden: usize,
    inner: usize,
    o: &mut [f32],
) {
    assert_eq!(o.len(), dispatch.token_of().len() * hidden, "down: an output of another shape");
    let out = SharedMut::new(o);
    each_expert(dispatch, |expert, range| {
        let rows = range.len();
        // SAFETY: an expert owns its range of the dispatch order.
        let o = unsafe { out.range(range.start * hidden, rows * hidden) };
        let h = &h[range.start * inner..][..rows * inner];
        down.times(h, o, rows, expert * hidden..(expert + 1) * hidden, inner);
    });
}

/// `y_t = Σ_k gate · o`, added in ascending expert order, so that a trace which lists the same experts in
/// another order gives the same bits.
pub fn combine(o: &[f32], gates: &[f32], dispatch: &Dispatch, hidden: usize, y: &mut [f32]) {
    y.par_chunks_mut(hidden * ROW_CHUNK).enumerate().for_each(|(chunk, y)| {
        let mut slots = Buffer::of(dispatch.top_k());
        for (i, y) in y.chunks_exact_mut(hidden).enumerate() {
            y.fill(0.0);
            for slot in ascending(dispatch, chunk * ROW_CHUNK + i, &mut slots) {
                let position = dispatch.inverse()[*slot] as usize;
                axpy(gates[*slot], &o[position * hidden..][..hidden], y);
            }
        }
    });
}

/// The slots `t · K + k` of a token, by ascending expert.
pub(crate) fn ascending<'a>(dispatch: &Dispatch, token: usize, slots: &'a mut Vec<usize>) -> &'a [usize] {
    let k = dispatch.top_k();
    slots.clear();
    slots.extend(token * k..(token + 1) * k);
    slots.sort_unstable_by_key(|slot| dispatch.inverse()[*slot]);
    slots
}

multiversion! {
    /// `y += a · x`.
    pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }
}
