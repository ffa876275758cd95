//! A source of batches whose activations are normalized in a way that a test chooses.

use std::path::Path;

use burn::tensor::Tensor;
use lapidary_activations::{ActivationMatrix, ActivationsError, BatchSource, Normalization};

/// Batches under a normalization of each hook point.
pub struct Normalized {
    pub inner: ActivationMatrix,
    pub normalizations: Vec<Normalization>,
}

impl BatchSource for Normalized {
    fn normalizations(&self) -> &[Normalization] {
        &self.normalizations
    }
    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
        let parts = self
            .inner
            .next_batch()?
            .into_iter()
            .zip(&self.normalizations);
        Ok(parts.map(|(x, n)| normalized(x, n)).collect())
    }
    fn save(&self, dir: &Path) -> Result<(), ActivationsError> {
        self.inner.save(dir)
    }
    fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError> {
        self.inner.restore(dir)
    }
}

pub fn normalized(x: Tensor<2>, n: &Normalization) -> Tensor<2> {
    let mean = Tensor::<1>::from_floats(n.mean.as_slice(), &x.device());
    (x - mean.unsqueeze()) * n.scale
}
