//! Activation recomputation (arXiv 1604.06174): a part of the graph of which only the input is kept.
//!
//! An operation of candle has one output and three inputs, a layer more of both. So the layer is an operation on its input
//! and on a *ticket*, a scalar that depends on all of its parameters. Its backward runs the layer again from its input
//! as a graph of its own, differentiates that, and leaves the gradients of the parameters where those of the
//! ticket, which run later, pick them up. A second output is an operation on the first one, whose backward, which runs
//! earlier, leaves the gradient that arrives. Nothing changes for the caller: `loss.backward()` is all there is.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor, Var, bail};

use crate::error::Result;

type Forward = dyn Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync;

/// A part of a graph that is run again in the backward.
struct Part {
    forward: Box<Forward>,
    parameters: Vec<Tensor>,
    /// Gradients that have arrived at the outputs behind the first.
    arrived: Mutex<Vec<Option<Tensor>>>,
    /// Gradients of the parameters that have not been picked up.
    left: Mutex<Vec<Option<Tensor>>>,
}

/// `outputs`, which `forward` gave of `x` without a graph, as functions of `x` and `parameters`. Their backward calls
/// `forward` again, on a variable of the value of `x`; it must compute the same. All outputs have one row for each of
/// the first.
pub(crate) fn recompute(
    x: &Tensor,
    parameters: &[Tensor],
    outputs: Vec<Tensor>,
    forward: impl Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static,
) -> Result<Vec<Tensor>> {
    let part = Arc::new(Part {
        forward: Box::new(forward),
        parameters: parameters.to_vec(),
        arrived: Mutex::new(vec![None; outputs.len().saturating_sub(1)]),
        left: Mutex::new(vec![None; parameters.len()]),
    });
    let mut ticket = Tensor::zeros((), x.dtype(), x.device())?;
    for (index, parameter) in parameters.iter().enumerate() {
        ticket = ticket.apply_op2(parameter, Ticket { part: part.clone(), index })?;
    }
    let mut linked: Vec<Tensor> = Vec::with_capacity(outputs.len());
    for value in outputs {
        let value = Value::new(value)?;
        linked.push(match linked.first() {
            None => x.apply_op2(&ticket, First { part: part.clone(), value })?,
            Some(first) => {
                let index = linked.len() - 1;
                first.apply_op1(Further { part: part.clone(), index, value })?
            }
        });
    }
    Ok(linked)
}

/// The result of an operation, computed before; it is handed out once.
struct Value {
    data: Mutex<Vec<f32>>,
    shape: Shape,
}

impl Value {
    fn new(value: Tensor) -> Result<Self> {
        Ok(Self { data: Mutex::new(value.flatten_all()?.to_vec1()?), shape: value.shape().clone() })
    }

    fn take(&self) -> (CpuStorage, Shape) {
        (CpuStorage::F32(std::mem::take(&mut *lock(&self.data))), self.shape.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct First {
    part: Arc<Part>,
    value: Value,
}

impl CustomOp2 for First {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(self.value.take())
    }

    fn bwd(
        &self,
        x: &Tensor,
        ticket: &Tensor,
        _: &Tensor,
        d_first: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let part = &self.part;
        let x = Var::from_tensor(&x.detach())?;
        let outputs = (part.forward)(x.as_tensor()).map_err(candle_core::Error::wrap)?;
        let arrived = std::mem::take(&mut *lock(&part.arrived));
        *lock(&part.arrived) = vec![None; arrived.len()];
        let mut sum: Option<Tensor> = None;
        for (output, gradient) in outputs.iter().zip([Some(d_first.clone())].into_iter().chain(arrived)) {
            let Some(gradient) = gradient else { continue };
            let term = (output * gradient)?.sum_all()?;
            sum = Some(match sum {
                None => term,
                Some(sum) => (sum + term)?,
            });
        }
        let Some(sum) = sum else { bail!("recompute: the part has no output") };
        let mut gradients = sum.backward()?;
        *lock(&part.left) = part.parameters.iter().map(|p| gradients.remove(p)).collect();
        Ok((gradients.remove(&x), Some(ticket.zeros_like()?)))
    }
}

struct Further {
    part: Arc<Part>,
    index: usize,
    value: Value,
}

impl CustomOp1 for Further {
    fn name(&self) -> &'static str {
        "recompute-further-output"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(self.value.take())
    }

    fn bwd(&self, first: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        lock(&self.part.arrived)[self.index] = Some(gradient.clone());
        Ok(Some(first.zeros_like()?))
    }
}

struct Ticket {
    part: Arc<Part>,
    index: usize,
}

impl CustomOp2 for Ticket {
    fn name(&self) -> &'static str {
        "recompute-ticket"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(
        &self,
        ticket: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(ticket.zeros_like()?), lock(&self.part.left)[self.index].take()))
    }
}
