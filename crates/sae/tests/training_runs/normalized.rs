//! A source of batches whose activations are normalized in a way that a test chooses, and tensors
//! from and to the host.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
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

pub fn matrix(rows: &[f32], width: usize) -> Tensor<2> {
    let n = rows.len() / width;
    Tensor::from_data(TensorData::new(rows.to_vec(), [n, width]), &Device::flex())
}

pub fn host(t: Tensor<2>) -> Vec<f32> {
    t.into_data().iter::<f32>().collect()
}
