//! What an architecture makes of a batch, between its own file and the step: codes, how they are
//! differentiated, and what they cost.

use burn::tensor::{Int, Tensor};
use lapidary_coder::SparseCoder;
use lapidary_kernels::{Pursued, SparseCodes};

/// Activations of latents, in the form in which an architecture has them.
// one exists at a time, and both are handles to a device's memory
#[allow(clippy::large_enum_variant)]
pub(crate) enum Codes {
    /// `[n, k]` values and indices.
    Sparse(SparseCodes),
    /// `[n, d_sae]`
    Dense(Tensor<2>),
}

/// How codes are differentiated.
#[allow(clippy::large_enum_variant)] // as with codes
pub(crate) enum Backward {
    /// A value is its pre-activation where it is positive.
    PreActivations,
    /// By automatic differentiation.
    Tracked {
        /// The layer, its weights leaves of the gradient graph.
        coder: SparseCoder,
        /// The values of the codes in that graph.
        values: Tensor<2>,
    },
    /// Through the steps of a pursuit.
    Pursuit {
        /// The steps.
        pursued: Pursued,
        /// Whether all values were fitted anew after each step.
        refit: bool,
    },
}

/// A term of the loss with its weight.
pub(crate) struct Weighted {
    /// `[1]`, tracked.
    pub(crate) term: Tensor<1>,
    pub(crate) weight: f64,
}

/// A further reconstruction, from a subset of the codes, that the loss compares with the batch.
pub(crate) struct SubsetLoss {
    /// 1 for the codes that take part, `[n, k]`; `None`: all do.
    pub(crate) active: Option<Tensor<2>>,
    /// What its fraction of variance unexplained is multiplied with.
    pub(crate) weight: f64,
}

/// What an architecture makes of what a layer reads.
pub(crate) struct Encoded {
    /// The codes; nothing in them tracks gradients.
    pub(crate) codes: Codes,
    pub(crate) backward: Backward,
    /// The sparsity penalty.
    pub(crate) penalty: Option<Weighted>,
    /// An auxiliary loss of the architecture's own.
    pub(crate) own_aux: Option<Weighted>,
    /// 1 for the codes that are the coder's own, `[n, k]`; `None`: all are. Others only take part
    /// in `subsets`.
    pub(crate) own: Option<Tensor<2>>,
    /// Further reconstructions; of coders with one layer only.
    pub(crate) subsets: Vec<SubsetLoss>,
    /// The smallest value kept in this batch, 0 if none, where that is averaged.
    pub(crate) threshold: Option<f32>,
}

impl Encoded {
    pub(crate) const fn new(codes: Codes, backward: Backward) -> Self {
        Self {
            codes,
            backward,
            penalty: None,
            own_aux: None,
            own: None,
            subsets: vec![],
            threshold: None,
        }
    }

    /// Codes that are pre-activations where positive, without a penalty.
    pub(crate) const fn pre_activations(codes: SparseCodes) -> Self {
        Self::new(Codes::Sparse(codes), Backward::PreActivations)
    }

    /// The codes that are the coder's own.
    pub(crate) fn own_codes(&self) -> Codes {
        match &self.codes {
            Codes::Sparse(codes) => Codes::Sparse(masked(codes, self.own.as_ref())),
            Codes::Dense(latents) => Codes::Dense(latents.clone()),
        }
    }
}

pub(crate) fn masked(codes: &SparseCodes, mask: Option<&Tensor<2>>) -> SparseCodes {
    match mask {
        None => codes.clone(),
        Some(mask) => SparseCodes {
            values: codes.values.clone() * mask.clone(),
            indices: codes.indices.clone(),
        },
    }
}

/// One layer of a coder and what it sees of a batch.
pub(crate) struct LayerInput<'a> {
    /// The layer; nothing in it tracks gradients.
    pub(crate) coder: &'a SparseCoder,
    /// What it reads, `[n, d_in]`, before `b_dec` is subtracted.
    pub(crate) x: &'a Tensor<2>,
    /// What the coder is to reconstruct, `[n, d_out]`.
    pub(crate) y: &'a Tensor<2>,
    /// The widths of the hook points in the decoder's rows, by each of which a penalty takes their
    /// norm. A layer of a cross-layer transcoder has none: its rows have one norm.
    pub(crate) widths: &'a [usize],
    /// The dead latents of the layer, ascending, if there are any.
    pub(crate) dead: Option<Tensor<1, Int>>,
}
