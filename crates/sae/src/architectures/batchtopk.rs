//! Training of BatchTopK coders (Bussmann et al. 2024, arXiv 2412.06410).

use super::{Method, StepContext};
use crate::encoded::{Encoded, LayerInput};
use crate::keys::Facts;

pub(crate) struct BatchTopK;

impl Method for BatchTopK {
    fn facts(&self) -> Facts {
        Facts {
            trains_end_to_end: true,
            ..Facts::TOPK_LIKE
        }
    }

    fn encode(&self, layer: &LayerInput<'_>, _context: &StepContext<'_>) -> Encoded {
        let coder = layer.coder;
        let k = coder.k().unwrap_or(0);
        let found = coder.encode_batch(coder.centre(layer.x.clone()), k);
        Encoded {
            threshold: Some(found.threshold),
            ..Encoded::pre_activations(found.codes)
        }
    }
}

/// Running average of the batches' thresholds, corrected for its start at 0 as Adam's moments are.
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
