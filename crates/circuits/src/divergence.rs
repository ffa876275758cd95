//! How far a changed model's predictions are from the model's own.

use burn::tensor::{Tensor, activation};

/// What the unchanged model predicts after the last position.
pub(crate) struct Predictions {
    /// `[batch, d_vocab]`.
    log_p: Tensor<2>,
}

impl Predictions {
    /// Of logits, `[batch, pos, d_vocab]`.
    pub(crate) fn of(logits: Tensor<3>) -> Self {
        Self {
            log_p: last_log_p(logits),
        }
    }

    /// The sum over prompts of `KL(p ‖ q)`, in nats; `logits`, `[batch, pos, d_vocab]`, are those
    /// of q.
    pub(crate) fn kl(&self, logits: Tensor<3>) -> Tensor<1> {
        let log_p = match logits.is_autodiff() {
            true => self.log_p.clone().autodiff(),
            false => self.log_p.clone(),
        };
        (log_p.clone().exp() * (log_p - last_log_p(logits))).sum()
    }
}

fn last_log_p(logits: Tensor<3>) -> Tensor<2> {
    let [batch, pos, d_vocab] = logits.dims();
    let last = logits.narrow(1, pos - 1, 1).reshape([batch, d_vocab]);
    activation::log_softmax(last, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// p = (1/2, 1/2), q = (1/4, 3/4), at the last position.
    #[test]
    fn the_divergence_of_two_coins_is_the_textbook_one() {
        let logits = |p: [f32; 2]| {
            let logits = [[[9.0, -9.0], p.map(f32::ln)]];
            Tensor::<3>::from_floats(logits, &Device::flex())
        };
        let own = Predictions::of(logits([0.5, 0.5]));
        let found = own.kl(logits([0.25, 0.75])).into_scalar::<f32>();
        let expected = 0.5 * 2.0_f32.ln() + 0.5 * (2.0_f32 / 3.0).ln();
        assert!((found - expected).abs() < 1e-6, "{found}, {expected}");
    }
}
