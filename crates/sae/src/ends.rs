//! The two ends of a coder: where it reads, and what it reconstructs. For an autoencoder they are one; a transcoder
//! reconstructs activations at another hook point from those that it reads. Whatever chooses latents knows nothing of this.

use burn::tensor::Tensor;
use lapidary_activations::Normalization;

/// A batch as a coder sees it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it reads, `[n, d_in]`.
    pub x: Tensor<2>,
    /// What it is to reconstruct, `[n, d_out]`, token by token of `x`.
    pub y: Tensor<2>,
}

impl Batch {
    /// For an autoencoder.
    #[must_use]
    pub fn of(x: Tensor<2>) -> Self {
        let y = x.clone();
        Self { x, y }
    }
}

/// Which of a source's hook points a coder reads and reconstructs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ends {
    pub(crate) read: usize,
    pub(crate) written: usize,
}

impl Ends {
    pub(crate) fn batch(&self, parts: &[Tensor<2>]) -> Batch {
        Batch {
            x: parts[self.read].clone(),
            y: parts[self.written].clone(),
        }
    }

    pub(crate) fn scaling(&self, normalizations: &[Normalization]) -> Scaling {
        Scaling {
            read: normalizations[self.read].clone(),
            written: normalizations[self.written].clone(),
        }
    }
}

/// How the activations at both ends were normalized.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Where a coder reads.
    pub read: Normalization,
    /// What it reconstructs.
    pub written: Normalization,
}
