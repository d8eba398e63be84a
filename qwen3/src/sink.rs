//! Gradients of parameters, kept outside candle's store.
//!
//! candle begins every gradient with zeros and adds each contribution to it in a new tensor: of a parameter, three times its
//! memory and traffic. While [`gradients`] runs, the operations of this crate leave the gradients of parameters here instead,
//! and add to them in place. Without it, under a plain `loss.backward()`, they go the usual way.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId};

use crate::error::{Error, Result};
use crate::model::Parameter;

/// By parameter; absent before the first contribution.
type Sink = HashMap<TensorId, Option<Vec<f32>>>;

thread_local! {
    /// Of the backward that this thread is in. One that begins while another waits (threads take up each other's work)
    /// ends before that goes on.
    static CURRENT: RefCell<Option<Sink>> = const { RefCell::new(None) };
}

/// Sets the current sink, and puts back the one before even if a backward panics.
struct Scope(Option<Sink>);

impl Scope {
    fn enter(sink: Sink) -> Self {
        Self(CURRENT.replace(Some(sink)))
    }

    fn take(&self) -> Sink {
        CURRENT.take().unwrap_or_default()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The gradient of each parameter, in order; empty for one that the loss does not depend on, which is an error where it is
/// `needed`.
pub(crate) fn gradients(
    loss: &Tensor,
    parameters: &[Parameter],
    needed: impl Fn(&Parameter) -> bool,
) -> Result<Vec<Vec<f32>>> {
    let ids = parameters.iter().map(|p| (p.var.as_tensor().id(), None));
    let scope = Scope::enter(ids.collect());
    let store = loss.backward();
    let mut sink = scope.take();
    drop(scope);
    let mut store: GradStore = store?;
    let of = |p: &Parameter| {
        let deposited = sink.remove(&p.var.as_tensor().id()).flatten();
        let Some(other) = store.remove(p.var.as_tensor()) else { return Ok(deposited.unwrap_or_default()) };
        let mut sum: Vec<f32> = other.flatten_all()?.to_vec1()?;
        for (s, d) in sum.iter_mut().zip(deposited.unwrap_or_default()) {
            *s += d;
        }
        Ok(sum)
    };
    let gradients = parameters.iter().map(of).collect::<Result<Vec<_>>>()?;
    let absent = |(p, g): &(&Parameter, &Vec<f32>)| g.is_empty() && needed(p);
    let names = parameters.iter().zip(&gradients).filter(absent).map(|(p, _)| p.name.clone());
    match names.collect::<Vec<_>>() {
        names if names.is_empty() => Ok(gradients),
        names => Err(Error::NoGradient(names)),
    }
}

/// Lets `add` add a contribution to the gradient of `parameter`; returns it where candle is to sum it.
pub(crate) fn accumulate(
    parameter: &Tensor,
    add: impl FnOnce(&mut [f32]),
) -> candle_core::Result<Option<Tensor>> {
    // Out of the sink while `add` runs: it may wait for other threads, and this one begin another backward.
    let before = CURRENT.with_borrow_mut(|sink| sink.as_mut()?.get_mut(&parameter.id()).map(Option::take));
    let Some(before) = before else {
        let mut sum = vec![0f32; parameter.elem_count()];
        add(&mut sum);
        return Tensor::from_vec(sum, parameter.shape(), parameter.device()).map(Some);
    };
    let mut sum = before.unwrap_or_else(|| vec![0f32; parameter.elem_count()]);
    add(&mut sum);
    CURRENT.with_borrow_mut(|sink| sink.as_mut().map(|sink| sink.insert(parameter.id(), Some(sum))));
    Ok(None)
}

/// Adds `gradient` to that of `parameter`; returns it where candle is to sum it.
pub(crate) fn deposit(parameter: &Tensor, gradient: Vec<f32>) -> candle_core::Result<Option<Tensor>> {
    let gradient = CURRENT.with_borrow_mut(|sink| {
        let Some(slot) = sink.as_mut().and_then(|sink| sink.get_mut(&parameter.id())) else {
            return Some(gradient);
        };
        match slot {
            None => *slot = Some(gradient),
            Some(sum) => sum.iter_mut().zip(&gradient).for_each(|(s, g)| *s += g),
        }
        None
    });
    gradient.map(|g| Tensor::from_vec(g, parameter.shape(), parameter.device())).transpose()
}
