//! Parts of a graph that differentiate themselves: many parameters and several outputs as one operation.
//!
//! An operation of candle has one output and three inputs, a decoder layer more of both. So a part is an operation on its
//! input and on a *ticket*, a scalar that depends on all of its parameters. Its backward leaves the gradients of the
//! parameters where those of the ticket, which run later, pick them up. A second output is an operation on the
//! first one, whose backward, which runs earlier, leaves the gradient that arrives. Nothing changes for the caller:
//! `loss.backward()` is all there is. What a part keeps for its backward is its own affair: it may free that on the way,
//! or keep nothing and run again (activation recomputation, arXiv 1604.06174).

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor, Var};

use crate::error::Result;

/// What one part of a graph knows of its backward.
pub(crate) trait Part: Send + Sync {
    /// The gradients of the input `x` and of the parameters, from those of the outputs; one that is absent is zero.
    fn backward(&self, x: &Tensor, d_outputs: Vec<Option<Tensor>>) -> Result<(Tensor, Vec<Option<Tensor>>)>;
}

/// An output of a part: `f32` numbers and their shape.
pub(crate) struct Output {
    pub(crate) data: Vec<f32>,
    pub(crate) shape: Shape,
}

/// What the operations of a part share.
struct Shared {
    part: Box<dyn Part>,
    /// Gradients that have arrived at the outputs behind the first.
    arrived: Mutex<Vec<Option<Tensor>>>,
    /// Gradients of the parameters that have not been picked up.
    left: Mutex<Vec<Option<Tensor>>>,
}

/// `outputs`, which `part` gave of `x`, as functions of `x` and `parameters`. All outputs have one row for each of
/// the first.
pub(crate) fn link(
    x: &Tensor,
    parameters: &[Tensor],
    outputs: Vec<Output>,
    part: impl Part + 'static,
) -> Result<Vec<Tensor>> {
    let shared = Arc::new(Shared {
        part: Box::new(part),
        arrived: Mutex::new(vec![None; outputs.len().saturating_sub(1)]),
        left: Mutex::new(vec![None; parameters.len()]),
    });
    let mut ticket = Tensor::zeros((), x.dtype(), x.device())?;
    for (index, parameter) in parameters.iter().enumerate() {
        ticket = ticket.apply_op2(parameter, Ticket { shared: shared.clone(), index })?;
    }
    let mut linked: Vec<Tensor> = Vec::with_capacity(outputs.len());
    for output in outputs {
        let value = Value { data: Mutex::new(output.data), shape: output.shape };
        linked.push(match linked.first() {
            None => x.apply_op2(&ticket, First { shared: shared.clone(), value })?,
            Some(first) => {
                let index = linked.len() - 1;
                first.apply_op1(Further { shared: shared.clone(), index, value })?
            }
        });
    }
    Ok(linked)
}

type Forward = dyn Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync;

/// A part made of candle's operations, which its backward runs again.
struct Again {
    forward: Box<Forward>,
    parameters: Vec<Tensor>,
}

/// `outputs`, which `forward` gave of `x` without a graph, as functions of `x` and `parameters`. Their backward calls
/// `forward` again, on a variable of the value of `x`; it must compute the same.
pub(crate) fn recompute(
    x: &Tensor,
    parameters: &[Tensor],
    outputs: Vec<Tensor>,
    forward: impl Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static,
) -> Result<Vec<Tensor>> {
    let value = |t: &Tensor| Ok(Output { data: t.flatten_all()?.to_vec1()?, shape: t.shape().clone() });
    let outputs = outputs.iter().map(value).collect::<Result<_>>()?;
    link(x, parameters, outputs, Again { forward: Box::new(forward), parameters: parameters.to_vec() })
}

impl Part for Again {
    fn backward(&self, x: &Tensor, d_outputs: Vec<Option<Tensor>>) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let x = Var::from_tensor(&x.detach())?;
        let outputs = (self.forward)(x.as_tensor())?;
        let mut sum: Option<Tensor> = None;
        for (output, gradient) in outputs.iter().zip(d_outputs) {
            let Some(gradient) = gradient else { continue };
            let term = (output * gradient)?.sum_all()?;
            sum = Some(match sum {
                None => term,
                Some(sum) => (sum + term)?,
            });
        }
        let Some(sum) = sum else { return Ok((x.zeros_like()?, vec![None; self.parameters.len()])) };
        let mut gradients = sum.backward()?;
        let of_parameters = self.parameters.iter().map(|p| gradients.remove(p)).collect();
        let of_x = gradients.remove(&x).map_or_else(|| x.zeros_like(), Ok)?;
        Ok((of_x, of_parameters))
    }
}

/// The result of an operation, computed before; it is handed out once.
struct Value {
    data: Mutex<Vec<f32>>,
    shape: Shape,
}

impl Value {
    fn take(&self) -> (CpuStorage, Shape) {
        (CpuStorage::F32(std::mem::take(&mut *lock(&self.data))), self.shape.clone())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct First {
    shared: Arc<Shared>,
    value: Value,
}

impl CustomOp2 for First {
    fn name(&self) -> &'static str {
        "part"
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
        let arrived = std::mem::take(&mut *lock(&self.shared.arrived));
        *lock(&self.shared.arrived) = vec![None; arrived.len()];
        let d_outputs = [Some(d_first.clone())].into_iter().chain(arrived).collect();
        let (d_x, d_parameters) =
            self.shared.part.backward(x, d_outputs).map_err(candle_core::Error::wrap)?;
        *lock(&self.shared.left) = d_parameters;
        Ok((Some(d_x), Some(ticket.zeros_like()?)))
    }
}

struct Further {
    shared: Arc<Shared>,
    index: usize,
    value: Value,
}

impl CustomOp1 for Further {
    fn name(&self) -> &'static str {
        "part-further-output"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(self.value.take())
    }

    fn bwd(&self, first: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        lock(&self.shared.arrived)[self.index] = Some(gradient.clone());
        Ok(Some(first.zeros_like()?))
    }
}

struct Ticket {
    shared: Arc<Shared>,
    index: usize,
}

impl CustomOp2 for Ticket {
    fn name(&self) -> &'static str {
        "part-ticket"
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
        Ok((Some(ticket.zeros_like()?), lock(&self.shared.left)[self.index].take()))
    }
}
