//! The two ends of a coder: where it reads, and what it reconstructs. For an autoencoder they are one; a transcoder
//! reconstructs activations at another hook point from those that it reads; a crosscoder reads and reconstructs several hook
//! points with the same latents, their activations side by side, each normalized by itself. Whatever chooses latents knows
//! nothing of this.

use burn::tensor::Tensor;
use lapidary_activations::Normalization;

use crate::config::RunConfig;
use crate::end_to_end::Pull;

/// A batch as a coder sees it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it reads, `[n, d_in]`.
    pub x: Tensor<2>,
    /// What it is to reconstruct, `[n, d_out]`, token by token of `x`.
    pub y: Tensor<2>,
    /// Widths of the hook points that stand side by side in `y`.
    pub parts: Vec<usize>,
    /// The loss through the model, if the recipe has one.
    pub(crate) pull: Option<Pull>,
}

impl Batch {
    /// For an autoencoder.
    #[must_use]
    pub fn of(x: Tensor<2>) -> Self {
        let y = x.clone();
        let parts = vec![y.dims()[1]];
        Self {
            x,
            y,
            parts,
            pull: None,
        }
    }

    /// Nothing in it tracks gradients.
    pub(crate) fn inner(&self) -> Self {
        Self {
            x: self.x.clone().inner(),
            y: self.y.clone().inner(),
            parts: self.parts.clone(),
            pull: self.pull.clone(),
        }
    }
}

/// Which of a source's hook points a coder reads and reconstructs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ends {
    read: Vec<usize>,
    written: Vec<usize>,
}

impl Ends {
    /// Those of a recipe, among the hook points of a source.
    pub(crate) fn of(recipe: &RunConfig, hooks: &[String]) -> Self {
        let places = |wanted: Vec<String>| {
            let place = |wanted| hooks.iter().position(|hook| *hook == wanted);
            let place = |wanted| place(wanted).expect("the hook points are those of the recipes");
            wanted.into_iter().map(place).collect()
        };
        Self {
            read: places(recipe.read_hook_points()),
            written: places(recipe.written_hook_points()),
        }
    }

    pub(crate) fn batch(&self, parts: &[Tensor<2>]) -> Batch {
        let x = side_by_side(parts, &self.read);
        let y = match self.read == self.written {
            true => x.clone(),
            false => side_by_side(parts, &self.written),
        };
        let widths = self.written.iter().map(|end| parts[*end].dims()[1]);
        Batch {
            x,
            y,
            parts: widths.collect(),
            pull: None,
        }
    }

    pub(crate) fn scaling(&self, normalizations: &[Normalization]) -> Scaling {
        let of = |ends: &[usize]| {
            ends.iter()
                .map(|end| normalizations[*end].clone())
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

    /// Width of the first hook point that is read, of what is read in all, and of what is reconstructed.
    pub(crate) fn widths(&self, normalizations: &[Normalization]) -> [usize; 3] {
        let width = |end: &usize| normalizations[*end].mean.len();
        [
            width(&self.read[0]),
            self.read.iter().map(width).sum(),
            self.written.iter().map(width).sum(),
        ]
    }
}

fn side_by_side(parts: &[Tensor<2>], ends: &[usize]) -> Tensor<2> {
    match ends {
        [end] => parts[*end].clone(),
        ends => Tensor::cat(ends.iter().map(|end| parts[*end].clone()).collect(), 1),
    }
}

/// How the activations at both ends were normalized, hook point by hook point.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Where a coder reads.
    pub read: Vec<Normalization>,
    /// What it reconstructs.
    pub written: Vec<Normalization>,
}

impl Scaling {
    /// The mean that was taken away from each dimension that is read.
    pub(crate) fn mean_read(&self) -> Vec<f32> {
        means(&self.read)
    }

    /// The mean that was taken away from each dimension that is reconstructed.
    pub(crate) fn mean_written(&self) -> Vec<f32> {
        means(&self.written)
    }

    /// What each dimension that is read was multiplied with.
    pub(crate) fn scale_read(&self) -> Vec<f64> {
        scales(&self.read)
    }

    /// What each dimension that is reconstructed was multiplied with.
    pub(crate) fn scale_written(&self) -> Vec<f64> {
        scales(&self.written)
    }

    /// The factor of the first hook point that is reconstructed, which codes are measured by.
    pub(crate) fn unit(&self) -> f64 {
        f64::from(self.written[0].scale)
    }
}

fn means(normalizations: &[Normalization]) -> Vec<f32> {
    let means = normalizations.iter().flat_map(|n| &n.mean);
    means.copied().collect()
}

fn scales(normalizations: &[Normalization]) -> Vec<f64> {
    let of = |n: &Normalization| vec![f64::from(n.scale); n.mean.len()];
    normalizations.iter().flat_map(of).collect()
}
