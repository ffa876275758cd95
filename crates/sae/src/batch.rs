//! A batch as a coder sees it, made of the activations that a source gives.

use burn::tensor::Tensor;
use lapidary_activations::Normalization;
use lapidary_coder::{Affine, Scaling, Sites};

/// The loss of a batch through the model, and its gradient in the normalized reconstruction.
#[derive(Clone, Debug)]
pub(crate) struct ModelLoss {
    /// Mean over tokens, in nats, `[1]`.
    pub(crate) loss: Tensor<1>,
    /// `[n, d_out]`
    pub(crate) gradient: Tensor<2>,
}

/// A batch as a coder sees it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it reads, `[n, d_in]`.
    pub x: Tensor<2>,
    /// What it is to reconstruct, `[n, d_out]`, token by token of `x`.
    pub y: Tensor<2>,
    /// Widths of the hook points that stand side by side in `y`.
    pub widths: Vec<usize>,
    /// The loss through the model, if the recipe has one.
    pub(crate) model_loss: Option<ModelLoss>,
}

impl Batch {
    /// For an autoencoder.
    #[must_use]
    pub fn of(x: Tensor<2>) -> Self {
        let y = x.clone();
        let widths = vec![y.dims()[1]];
        Self {
            x,
            y,
            widths,
            model_loss: None,
        }
    }

    /// Nothing in it tracks gradients.
    pub(crate) fn inner(&self) -> Self {
        Self {
            x: self.x.clone().inner(),
            y: self.y.clone().inner(),
            widths: self.widths.clone(),
            model_loss: self.model_loss.clone(),
        }
    }
}

/// Which of a source's hook points a coder reads and reconstructs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SiteIndices {
    read: Vec<usize>,
    written: Vec<usize>,
}

impl SiteIndices {
    /// Those of a coder, among the hook points of a source.
    pub(crate) fn of(sites: &Sites, hooks: &[String]) -> Self {
        let indices = |wanted: Vec<String>| {
            let index = |wanted| hooks.iter().position(|hook| *hook == wanted);
            let index = |wanted| index(wanted).expect("the hook points are those of the recipes");
            wanted.into_iter().map(index).collect()
        };
        Self {
            read: indices(sites.read()),
            written: indices(sites.written()),
        }
    }

    pub(crate) fn batch(&self, parts: &[Tensor<2>]) -> Batch {
        let x = side_by_side(parts, &self.read);
        let y = match self.read == self.written {
            true => x.clone(),
            false => side_by_side(parts, &self.written),
        };
        let widths = self.written.iter().map(|index| parts[*index].dims()[1]);
        Batch {
            x,
            y,
            widths: widths.collect(),
            model_loss: None,
        }
    }

    pub(crate) fn scaling(&self, normalizations: &[Normalization]) -> Scaling {
        let of = |indices: &[usize]| {
            let each = indices.iter().map(|index| &normalizations[*index]);
            each.map(|n| Affine {
                mean: n.mean.clone(),
                scale: n.scale,
            })
            .collect()
        };
        Scaling {
            read: of(&self.read),
            written: of(&self.written),
        }
    }

    /// The places of what is reconstructed among the hook points of the source.
    pub(crate) fn written(&self) -> &[usize] {
        &self.written
    }

    /// The width of the first hook point that is read, of what is read in all, and of what is
    /// reconstructed.
    pub(crate) fn widths(&self, normalizations: &[Normalization]) -> [usize; 3] {
        let width = |index: &usize| normalizations[*index].mean.len();
        [
            width(&self.read[0]),
            self.read.iter().map(width).sum(),
            self.written.iter().map(width).sum(),
        ]
    }
}

fn side_by_side(parts: &[Tensor<2>], indices: &[usize]) -> Tensor<2> {
    match indices {
        [index] => parts[*index].clone(),
        several => Tensor::cat(several.iter().map(|i| parts[*i].clone()).collect(), 1),
    }
}
