//! What hidden states and the output head give: logits, log-probabilities, and a loss with them in one pass.

use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use policy_loss::{LinearHead, LinearOutput};

use crate::error::Result;
use crate::kernel::MatmulPrecision;
use crate::model::Model;
use crate::ops::{HeadLogProbs, HeadLoss, Linear, LogitMask, read, span};

/// What [`Model::log_probs`] gives, in nats.
#[derive(Clone, Debug)]
pub struct LogProbs {
    /// The target's log-probability: `[rows]`.
    pub logp: Tensor,
    /// Entropy of the row's distribution: `[rows]`.
    pub entropy: Tensor,
}

/// Rows of a tile of logits in [`Model::log_probs`].
const HEAD_CHUNK: usize = 1024;
/// Logits that [`Model::head_loss`] holds: 64 MiB.
const HEAD_LOGITS: usize = 1 << 24;

impl Model {
    /// Logits of some rows of states: `[rows, hidden_size]` to `[rows, vocab_size]`.
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        Ok(states.apply_op2(&self.head, Linear { precision: self.precision })?)
    }

    /// The output matrix, `[vocab_size, hidden_size]`.
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// Log-probabilities of `targets` and entropies for rows of states `[rows, hidden_size]`, under
    /// `softmax(logits / temperature)`, without ever holding all logits.
    pub fn log_probs(&self, states: &Tensor, targets: &[u32], temperature: f64) -> Result<LogProbs> {
        self.masked_log_probs(states, targets, temperature, None)
    }

    /// [`Model::log_probs`] over the tokens that `mask` leaves of each row. A banned target has `-inf`.
    pub fn masked_log_probs(
        &self,
        states: &Tensor,
        targets: &[u32],
        temperature: f64,
        mask: Option<Arc<dyn LogitMask>>,
    ) -> Result<LogProbs> {
        let head = if states.track_op() { self.head.clone() } else { self.head.detach() };
        let op = HeadLogProbs::new(targets.into(), temperature as f32, HEAD_CHUNK, self.precision);
        let both = states.apply_op2(&head, op.masked(mask))?;
        Ok(LogProbs { logp: both.narrow(1, 0, 1)?.squeeze(1)?, entropy: both.narrow(1, 1, 1)?.squeeze(1)? })
    }

    /// A loss of rows of states `[rows, hidden_size]` in one pass with the head: `evaluate` gets the head without targets, the
    /// model's products, and zeros that take the gradient of the head's weight, for
    /// [`PolicyLoss::evaluate_linear`](policy_loss::PolicyLoss::evaluate_linear). Returns the loss as a scalar tensor that passes the
    /// gradients on, once, and what was found but for `grad_hidden`, which the scalar holds. Log-probabilities have the bits of
    /// [`Model::log_probs`].
    ///
    /// ```
    /// # use candle_core::Tensor;
    /// # use policy_loss::{Advantages, LinearHead, LossConfig, Normalizer, TokenBatch};
    /// # fn loss(model: &qwen3::Model, states: &Tensor, targets: &[u32]) -> Result<Tensor, Box<dyn std::error::Error>> {
    /// let (loss, offsets) = (LossConfig::cross_entropy().validate()?, [0, targets.len()]);
    /// let batch = TokenBatch::new(&offsets, &[], Advantages::PerSequence(&[1.0]));
    /// let (scalar, found) = model.head_loss(states, |head, products, grad| {
    ///     let head = LinearHead { targets, ..head };
    ///     Ok::<_, Box<dyn std::error::Error>>(
    ///         loss.evaluate_linear(&head, &batch, &Normalizer::default(), &products, grad)?,
    ///     )
    /// })?;
    /// assert_eq!(found.logp.len(), targets.len());
    /// # Ok(scalar)
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `evaluate`, and when states are not a contiguous matrix of the head's width.
    pub fn head_loss<E: From<candle_core::Error>>(
        &self,
        states: &Tensor,
        evaluate: impl FnOnce(LinearHead<'_>, MatmulPrecision, &mut [f32]) -> std::result::Result<LinearOutput, E>,
    ) -> std::result::Result<(Tensor, LinearOutput), E> {
        let ((rows, size), (vocabulary, inner)) = (states.dims2()?, self.head.dims2()?);
        if size != inner {
            let message = format!("head: states [{rows}, {size}], weight [{vocabulary}, {inner}]");
            return Err(candle_core::Error::Msg(message).into());
        }
        let (y, w) = (read(states), read(&self.head));
        let weight = w.slice("the head")?;
        let head = LinearHead {
            hidden: y.slice("hidden states")?,
            weight,
            size,
            targets: &[],
            temperature: 1.0,
            chunk: (HEAD_LOGITS / vocabulary.max(1)).max(1),
            banned: None,
        };
        let mut grad_weight = vec![0f32; weight.len()];
        let mut found = {
            let _span = span!("head", flops = 6 * rows * vocabulary * size);
            evaluate(head, self.precision, &mut grad_weight)?
        };
        drop((y, w));
        let gradients = [std::mem::take(&mut found.grad_hidden), grad_weight];
        let op = HeadLoss { value: found.loss.loss, gradients: Mutex::new(Some(gradients)) };
        Ok((states.apply_op2(&self.head, op)?, found))
    }
}
