//! What every coder can do, whatever its architecture and however many layers it has.

mod cross_layer;
mod sparse;

use burn::tensor::{Device, Tensor};
use lapidary_kernels::{EncoderState, SparseCodes};

use crate::architectures::{Architecture, ArchitectureKind};
use crate::error::CoderError;
use crate::weights::{SKIP, Weight, WeightKey, Weights};

pub use cross_layer::{CrossLayerTranscoder, MOST_LAYERS, add_last, join_codes};
pub use sparse::SparseCoder;

/// A coder: activations `[n, d_in]` to a few latents per token, and from these to `[n, d_out]`.
pub trait Coder {
    /// How it chooses its latents.
    fn architecture(&self) -> Architecture;

    /// The width of the activations that it reads.
    fn d_in(&self) -> usize;

    /// The width of the activations that it reconstructs.
    fn d_out(&self) -> usize;

    /// The number of latents, in all layers together.
    fn d_sae(&self) -> usize;

    /// Its layers. Every coder but a cross-layer transcoder is its one layer.
    fn layers(&self) -> &[SparseCoder];

    /// The encoder, `[d_sae, d]`, one row per latent. A row of a cross-layer transcoder is as wide
    /// as the hook point of its layer.
    fn w_enc(&self) -> Tensor<2>;

    /// The decoder, `[d_sae, d_out]`, one row per latent. A cross-layer transcoder's has zeros
    /// where a latent writes nothing.
    fn w_dec(&self) -> Tensor<2>;

    /// The decoder's bias, `[d_out]`.
    fn b_dec(&self) -> Tensor<1>;

    /// The vector of this name over all latents, `[d_sae]`, if the architecture has one.
    fn latent_vector(&self, name: &str) -> Option<Tensor<1>>;

    /// The active latents of each row of `x` `[n, d_in]`, descending by value within each layer.
    /// Places that are not needed have value 0 and a valid index. The width is `k` for TopK, and
    /// what the densest row needs otherwise.
    fn encode(&self, x: Tensor<2>) -> SparseCodes;

    /// The activations that `codes` stand for: `Σ_j values_j · w_dec[indices_j] + b_dec`,
    /// `[n, d_out]`.
    fn decode(&self, codes: SparseCodes) -> Tensor<2>;

    /// The reconstruction from `x` `[n, d_in]` and its `codes`, `[n, d_out]`: the decoded codes,
    /// and what a skip connection makes of `x`.
    fn reconstruct(&self, codes: SparseCodes, x: Tensor<2>) -> Tensor<2>;

    /// The device that holds the weights.
    fn device(&self) -> Device {
        self.b_dec().device()
    }
}

/// A coder of either kind.
#[expect(
    clippy::large_enum_variant,
    reason = "a run has a few of these, each of them handles to weights that are far larger"
)]
#[derive(Clone, Debug)]
pub enum AnyCoder {
    /// Of one layer.
    Sparse(SparseCoder),
    /// Of several layers.
    CrossLayer(CrossLayerTranscoder),
}

impl From<SparseCoder> for AnyCoder {
    fn from(coder: SparseCoder) -> Self {
        Self::Sparse(coder)
    }
}

impl From<CrossLayerTranscoder> for AnyCoder {
    fn from(coder: CrossLayerTranscoder) -> Self {
        Self::CrossLayer(coder)
    }
}

impl AnyCoder {
    fn get(&self) -> &dyn Coder {
        match self {
            Self::Sparse(coder) => coder,
            Self::CrossLayer(coder) => coder,
        }
    }

    /// The coder, if it has one layer.
    #[must_use]
    pub const fn as_sparse(&self) -> Option<&SparseCoder> {
        match self {
            Self::Sparse(coder) => Some(coder),
            Self::CrossLayer(_) => None,
        }
    }

    /// The coder, if it is a cross-layer transcoder.
    #[must_use]
    pub const fn as_cross_layer(&self) -> Option<&CrossLayerTranscoder> {
        match self {
            Self::Sparse(_) => None,
            Self::CrossLayer(coder) => Some(coder),
        }
    }

    /// Which weights a coder has, with their shapes. `layers` is the number of layers of a
    /// cross-layer transcoder, `skips` whether there is a skip connection, and `sizes` are `d_in`,
    /// `d_out` and `d_sae`, over all layers.
    #[must_use]
    pub fn shapes(
        kind: ArchitectureKind,
        layers: Option<usize>,
        [d_in, d_out, d_sae]: [usize; 3],
        skips: bool,
    ) -> Vec<(WeightKey, Vec<usize>)> {
        let Some(layers) = layers else {
            let own = kind.shapes(d_in, d_out, d_sae).into_iter();
            let skip = skips.then(|| (SKIP, vec![d_out, d_in]));
            let all = own.chain(skip);
            return all.map(|(name, shape)| (name.into(), shape)).collect();
        };
        let each = [d_in / layers, d_out / layers, d_sae / layers];
        let of_layers = CrossLayerTranscoder::shapes(kind, layers, each);
        let numbered = of_layers.into_iter().enumerate();
        let mut all: Vec<(WeightKey, Vec<usize>)> = numbered
            .flat_map(|(layer, shapes)| {
                let layer = Some(layer);
                let key = move |(name, shape)| (WeightKey { layer, name }, shape);
                shapes.into_iter().map(key)
            })
            .collect();
        all.push(("b_dec".into(), vec![d_out]));
        all
    }

    /// The coder of these weights, all that [`AnyCoder::shapes`] lists. It is a cross-layer
    /// transcoder if weights have a layer.
    ///
    /// # Panics
    /// Weights are missing.
    #[must_use]
    pub fn of_weights(
        architecture: Architecture,
        apply_b_dec_to_input: bool,
        weights: impl IntoIterator<Item = (WeightKey, Weight)>,
    ) -> Self {
        let (mut shared, mut layers): (Weights, Vec<Weights>) = Default::default();
        for (WeightKey { layer, name }, weight) in weights {
            match layer {
                None => shared = shared.with(name, weight),
                Some(layer) => {
                    layers.resize_with(layers.len().max(layer + 1), Weights::default);
                    layers[layer] = std::mem::take(&mut layers[layer]).with(name, weight);
                }
            }
        }
        let coder = |weights| SparseCoder {
            architecture,
            apply_b_dec_to_input,
            weights,
        };
        if layers.is_empty() {
            return coder(shared).into();
        }
        let b_dec = shared.vector("b_dec").expect("a coder has its weights");
        let layers = layers.into_iter().map(coder).collect();
        CrossLayerTranscoder::new(layers, b_dec.clone()).into()
    }

    /// The weights, in the order of [`AnyCoder::shapes`].
    #[must_use]
    pub fn weights(&self) -> Vec<(WeightKey, Weight)> {
        let coder = match self {
            Self::Sparse(coder) => {
                let all = coder.weights.iter();
                return all.map(|(name, w)| (name.into(), w.clone())).collect();
            }
            Self::CrossLayer(coder) => coder,
        };
        let numbered = coder.layers().iter().enumerate();
        let mut all: Vec<(WeightKey, Weight)> = numbered
            .flat_map(|(layer, coder)| {
                let own = coder.weights.iter().filter(|(name, _)| *name != "b_dec");
                let layer = Some(layer);
                own.map(move |(name, weight)| (WeightKey { layer, name }, weight.clone()))
            })
            .collect();
        all.push(("b_dec".into(), coder.b_dec().into()));
        all
    }

    /// The same coder, whose layers' encoders go on with these states, one per layer: for a coder
    /// made of weights that a training step has changed.
    ///
    /// # Panics
    /// There are not as many states as layers.
    #[must_use]
    pub fn with_encoder_states(self, states: &[EncoderState]) -> Self {
        assert_eq!(states.len(), self.layers().len(), "one state per layer");
        match self {
            Self::Sparse(coder) => coder.with_encoder_state(&states[0]).into(),
            Self::CrossLayer(coder) => coder.with_encoder_states(states).into(),
        }
    }

    /// The same coder on another device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Sparse(coder) => coder.to_device(device).into(),
            Self::CrossLayer(coder) => coder.to_device(device).into(),
        }
    }

    /// The same coder with another `k`: TopK's active latents, or matching pursuit's steps.
    ///
    /// # Errors
    /// Its architecture has no `k`, or not so large a one.
    pub fn with_k(self, k: usize) -> Result<Self, CoderError> {
        Ok(match self {
            Self::Sparse(coder) => coder.with_k(k)?.into(),
            Self::CrossLayer(coder) => coder.with_k(k)?.into(),
        })
    }
}

impl Coder for AnyCoder {
    fn architecture(&self) -> Architecture {
        self.get().architecture()
    }

    fn d_in(&self) -> usize {
        self.get().d_in()
    }

    fn d_out(&self) -> usize {
        self.get().d_out()
    }

    fn d_sae(&self) -> usize {
        self.get().d_sae()
    }

    fn layers(&self) -> &[SparseCoder] {
        self.get().layers()
    }

    fn w_enc(&self) -> Tensor<2> {
        self.get().w_enc()
    }

    fn w_dec(&self) -> Tensor<2> {
        self.get().w_dec()
    }

    fn b_dec(&self) -> Tensor<1> {
        self.get().b_dec()
    }

    fn latent_vector(&self, name: &str) -> Option<Tensor<1>> {
        self.get().latent_vector(name)
    }

    fn encode(&self, x: Tensor<2>) -> SparseCodes {
        self.get().encode(x)
    }

    fn decode(&self, codes: SparseCodes) -> Tensor<2> {
        self.get().decode(codes)
    }

    fn reconstruct(&self, codes: SparseCodes, x: Tensor<2>) -> Tensor<2> {
        self.get().reconstruct(codes, x)
    }
}
