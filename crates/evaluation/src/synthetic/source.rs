//! Synthetic activations as a trainer draws them: every batch new, none twice.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::{ActivationsError, BatchSource, Normalization};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Synthetic;

/// Batches without end.
pub struct SyntheticSource {
    synthetic: Synthetic,
    batch: usize,
    rng: ChaCha8Rng,
    normalization: Normalization,
    device: Device,
}

impl SyntheticSource {
    /// Batches of `batch` rows on `device`, which follow from `seed`.
    #[must_use]
    pub fn new(synthetic: Synthetic, batch: usize, seed: u64, device: &Device) -> Self {
        Self {
            normalization: Normalization::identity(synthetic.d_in()),
            rng: ChaCha8Rng::seed_from_u64(seed),
            device: device.clone(),
            synthetic,
            batch,
        }
    }
}

impl BatchSource for SyntheticSource {
    fn normalizations(&self) -> &[Normalization] {
        std::slice::from_ref(&self.normalization)
    }

    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
        let sample = self.synthetic.sample(self.batch, &mut self.rng);
        let shape = [self.batch, self.synthetic.d_in()];
        Ok(vec![Tensor::from_data(
            TensorData::new(sample.x, shape),
            &self.device,
        )])
    }

    fn save(&self, _: &Path) -> Result<(), ActivationsError> {
        Err(no_checkpoints())
    }

    fn restore(&mut self, _: &Path) -> Result<(), ActivationsError> {
        Err(no_checkpoints())
    }
}

/// Runs on synthetic data are short: they begin anew.
fn no_checkpoints() -> ActivationsError {
    ActivationsError::Corpus {
        path: "synthetic".into(),
        problem: "has no checkpoints: set training.checkpoint_every_steps = 0".to_owned(),
    }
}
