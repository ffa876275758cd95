//! BatchTopK: of a batch of n tokens the n·k largest positive pre-activations, so that hard tokens get more latents
//! (Bussmann et al. 2024, arXiv 2412.06410). A batch is no part of inference: the finished coder is a JumpReLU whose
//! one threshold is the moving average of the smallest value that a training batch kept.

use burn::tensor::Tensor;
use lapidary_kernels::{BatchTopK as Chosen, SparseCodes, encode_batch_topk};

use crate::coder::{Architecture, SparseCoder};
use crate::coders::{Learned, Method, Now};
use crate::ends::{Batch, Scaling};
use crate::error::SaeError;
use crate::fold::{Fold, fold};
use crate::sparse_step::{Part, sparse_step};

pub(crate) struct BatchTopK;

impl Method for BatchTopK {
    fn name(&self) -> &'static str {
        "batchtopk"
    }

    fn counts_latents(&self) -> bool {
        true
    }

    fn learns_end_to_end(&self) -> bool {
        true
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        encode_batch(coder, x).codes
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        let centred = coder.centre(batch.x.clone());
        let found = encode_batch(coder, centred.clone());
        let mut learned = sparse_step(coder, batch, centred, found.codes, &[Part::WHOLE], now);
        learned.terms.threshold = Some(found.threshold);
        learned
    }

    fn finish(
        &self,
        coder: &SparseCoder,
        threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, SaeError> {
        let how = Fold {
            threshold: Some(threshold),
            ..Fold::default()
        };
        Ok(SparseCoder {
            architecture: Architecture::JumpRelu,
            ..fold(coder, scaling, how)?
        })
    }

    fn not_stored(&self) -> Option<&'static str> {
        Some("a BatchTopK coder is stored as the JumpReLU that it becomes when training finishes")
    }
}

/// The batch `x` `[n, d_in]`, centred: codes and the smallest value kept.
pub(crate) fn encode_batch(coder: &SparseCoder, x: Tensor<2>) -> Chosen {
    let k = coder.k.min(coder.d_sae());
    encode_batch_topk(x, coder.w_enc(), coder.b_enc(), k)
}

/// Moving average of the batches' thresholds, corrected for its start at 0 as Adam's moments are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ThresholdAverage {
    /// Decayed sum of thresholds.
    pub(crate) sum: f64,
    /// Decayed sum of ones.
    pub(crate) weight: f64,
}

impl ThresholdAverage {
    /// Takes in one batch's threshold. A batch that kept nothing says nothing.
    pub(crate) fn observe(&mut self, threshold: f32, decay: f64) {
        if threshold > 0.0 && threshold.is_finite() {
            self.sum = decay * self.sum + (1.0 - decay) * f64::from(threshold);
            self.weight = decay * self.weight + (1.0 - decay);
        }
    }

    /// The average, 0 before the first batch.
    pub(crate) fn value(&self) -> f64 {
        if self.weight > 0.0 {
            self.sum / self.weight
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_average_has_no_bias_towards_its_start() {
        let mut t = ThresholdAverage::default();
        assert_eq!(t.value(), 0.0);
        t.observe(3.0, 0.99);
        assert!((t.value() - 3.0).abs() < 1e-12);
        t.observe(0.0, 0.99);
        t.observe(f32::NAN, 0.99);
        assert!((t.value() - 3.0).abs() < 1e-12);
        for _ in 0..2000 {
            t.observe(5.0, 0.99);
        }
        assert!((t.value() - 5.0).abs() < 1e-6);
    }
}
