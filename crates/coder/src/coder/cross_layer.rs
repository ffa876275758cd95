//! Cross-layer transcoders: the latents of a layer read the activations at its hook point and write
//! at the hook points of it and all later layers; what several layers write at one of them adds up
//! (Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models"):
//! a^l = f(W_enc^l x^l + b_enc^l), ŷ^l = Σ_{l' ≤ l} W_dec^{l'→l} a^{l'} + b_dec^l.
//!
//! A layer by itself is a transcoder from its hook point to those from its own on, side by side:
//! `w_enc` `[F, d]`, `b_enc` `[F]`, `w_dec` `[F, (L − l) d]` and, for JumpReLU, `threshold` `[F]`;
//! only `b_dec` `[L d]` belongs to all layers. There are no weights from a layer to an earlier one.
//! Latent i of layer l has number l F + i.

use burn::tensor::{Device, Tensor};
use lapidary_kernels::{EncoderState, SparseCodes, decode_sparse};

use super::{Coder, SparseCoder};
use crate::architectures::{Architecture, ArchitectureKind};
use crate::error::CoderError;
use crate::host::{host, vector};
use crate::scaling::Scaling;

/// The largest number of layers; no model comes near.
pub const MOST_LAYERS: usize = 256;

/// A cross-layer transcoder.
#[derive(Clone, Debug)]
pub struct CrossLayerTranscoder {
    /// The layers, at least one. Layer l is a transcoder from its hook point to those from its own
    /// on, whose own `b_dec` is 0.
    layers: Vec<SparseCoder>,
    /// The decoder's bias of all layers, `[d_out]`.
    b_dec: Tensor<1>,
}

impl CrossLayerTranscoder {
    /// The transcoder of these layers, at least one. Their own `b_dec` is replaced by 0: `b_dec`
    /// `[d_out]` is that of all.
    ///
    /// # Panics
    /// There is no layer.
    #[must_use]
    pub fn new(layers: Vec<SparseCoder>, b_dec: Tensor<1>) -> Self {
        assert!(!layers.is_empty(), "a transcoder has layers");
        let layers = layers.into_iter().map(|mut layer| {
            let width = layer.d_out();
            let zeros = b_dec.clone().narrow(0, 0, width).zeros_like();
            layer.weights = layer.weights.with("b_dec", zeros);
            layer
        });
        Self {
            layers: layers.collect(),
            b_dec,
        }
    }

    /// The same coder, whose layers' encoders go on with these states.
    pub(super) fn with_encoder_states(self, states: &[EncoderState]) -> Self {
        let layers = self.layers.into_iter().zip(states);
        Self {
            layers: layers
                .map(|(layer, state)| layer.with_encoder_state(state))
                .collect(),
            b_dec: self.b_dec,
        }
    }

    /// The same weights as leaves of a gradient graph.
    #[must_use]
    pub fn tracked(&self) -> Self {
        Self {
            layers: self.layers.iter().map(SparseCoder::tracked).collect(),
            b_dec: self.b_dec.clone().autodiff().require_grad(),
        }
    }

    /// The same coder on another device.
    #[must_use]
    pub fn to_device(self, device: &Device) -> Self {
        let layers = self.layers.into_iter();
        Self {
            layers: layers.map(|layer| layer.to_device(device)).collect(),
            b_dec: self.b_dec.to_device(device),
        }
    }

    /// The same coder with another number of active latents per token in each layer.
    ///
    /// # Errors
    /// Its architecture has no `k`, or not so large a one.
    pub fn with_k(self, k: usize) -> Result<Self, CoderError> {
        let layers = self.layers.into_iter().map(|layer| layer.with_k(k));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            b_dec: self.b_dec,
        })
    }

    /// The coder for raw activations that does what this one does for activations normalized as
    /// `scaling` says: each layer by itself, whose codes are divided by the factor of the hook
    /// point that it writes at first.
    ///
    /// # Errors
    /// The device fails, or `scaling` has another width.
    pub fn finish(&self, threshold: f64, scaling: &Scaling) -> Result<Self, CoderError> {
        let finished = self.layers.iter().enumerate().map(|(number, layer)| {
            let own = Scaling {
                read: vec![scaling.read[number].clone()],
                written: scaling.written[number..].to_vec(),
            };
            layer.finish(threshold, &own)
        });
        let finished: Vec<SparseCoder> = finished.collect::<Result<_, _>>()?;
        // What is written adds up, so means and `b_dec` are of no layer alone.
        let (means, scales) = (scaling.mean_written(), scaling.scale_written());
        let b_dec = host(&self.b_dec)?;
        if means.len() != b_dec.len() {
            return Err(CoderError::Shape {
                what: "length of the normalization's mean",
                found: means.len(),
                expected: b_dec.len(),
            });
        }
        let biases = b_dec.iter().zip(means.iter().zip(&scales));
        let biases = biases.map(|(b, (m, s))| (f64::from(*m) + f64::from(*b) / s) as f32);
        let b_dec = vector(biases.collect(), &self.b_dec.device());
        Ok(Self::new(finished, b_dec))
    }

    /// Names and shapes of the weights of each layer but `b_dec`, for `layers` layers of `d_sae`
    /// latents that read `d_in` dimensions and write `d_out` at each hook point.
    #[must_use]
    pub fn shapes(
        kind: ArchitectureKind,
        layers: usize,
        [d_in, d_out, d_sae]: [usize; 3],
    ) -> Vec<Vec<(&'static str, Vec<usize>)>> {
        let of_layer = |layer| {
            let mut own = kind.shapes(d_in, d_out * (layers - layer), d_sae);
            own.retain(|(name, _)| *name != "b_dec");
            own
        };
        (0..layers).map(of_layer).collect()
    }

    /// What each layer reads of `x` `[n, d_in]`, in which their hook points stand side by side.
    #[must_use]
    pub fn inputs(&self, x: &Tensor<2>) -> Vec<Tensor<2>> {
        let mut start = 0;
        let of = self.layers.iter().map(|layer| {
            let width = layer.d_in();
            start += width;
            x.clone().narrow(1, start - width, width)
        });
        of.collect()
    }

    fn joined(&self, of: impl Fn(&SparseCoder) -> Option<Tensor<1>>) -> Option<Tensor<1>> {
        let each: Option<Vec<_>> = self.layers.iter().map(of).collect();
        each.map(|each| Tensor::cat(each, 0))
    }
}

/// `all` `[n, d_out]` plus what a layer writes, `[n, w]`, which belongs to the last hook points.
#[must_use]
pub fn add_last(all: Tensor<2>, written: Tensor<2>) -> Tensor<2> {
    let earlier = all.dims()[1] - written.dims()[1];
    match earlier {
        0 => all + written,
        earlier => {
            let untouched = all.clone().narrow(1, 0, earlier);
            let width = written.dims()[1];
            Tensor::cat(vec![untouched, all.narrow(1, earlier, width) + written], 1)
        }
    }
}

/// The codes of all layers together: latents are numbered through.
///
/// # Panics
/// There is no layer.
#[must_use]
pub fn join_codes(layers: &[SparseCoder], codes: Vec<SparseCodes>) -> SparseCodes {
    let (mut values, mut indices, mut first) = (vec![], vec![], 0);
    for (layer, codes) in layers.iter().zip(codes) {
        values.push(codes.values);
        indices.push(codes.indices + first as i64);
        first += layer.d_sae();
    }
    SparseCodes {
        values: Tensor::cat(values, 1),
        indices: Tensor::cat(indices, 1),
    }
}

impl Coder for CrossLayerTranscoder {
    fn architecture(&self) -> Architecture {
        self.layers[0].architecture
    }

    fn d_in(&self) -> usize {
        self.layers.iter().map(Coder::d_in).sum()
    }

    fn d_out(&self) -> usize {
        self.b_dec.dims()[0]
    }

    fn d_sae(&self) -> usize {
        self.layers.iter().map(Coder::d_sae).sum()
    }

    fn layers(&self) -> &[SparseCoder] {
        &self.layers
    }

    fn w_enc(&self) -> Tensor<2> {
        Tensor::cat(self.layers.iter().map(Coder::w_enc).collect(), 0)
    }

    fn w_dec(&self) -> Tensor<2> {
        let d_out = self.d_out();
        let rows = self.layers.iter().map(|layer| {
            let [latents, width] = layer.w_dec().dims();
            match d_out - width {
                0 => layer.w_dec(),
                before => {
                    let zeros = Tensor::zeros([latents, before], &layer.device());
                    Tensor::cat(vec![zeros, layer.w_dec()], 1)
                }
            }
        });
        Tensor::cat(rows.collect(), 0)
    }

    fn b_dec(&self) -> Tensor<1> {
        self.b_dec.clone()
    }

    fn latent_vector(&self, name: &str) -> Option<Tensor<1>> {
        self.joined(|layer| layer.latent_vector(name))
    }

    fn encode(&self, x: Tensor<2>) -> SparseCodes {
        let inputs = self.inputs(&x).into_iter();
        let each = self.layers.iter().zip(inputs);
        let each = each.map(|(layer, x)| layer.encode(x));
        join_codes(&self.layers, each.collect())
    }

    /// `codes` may be those of any layers, in any order.
    fn decode(&self, codes: SparseCodes) -> Tensor<2> {
        let mut first = 0;
        let mut all: Option<Tensor<2>> = None;
        for layer in &self.layers {
            let latents = layer.d_sae();
            let own = codes.indices.clone() - first as i64;
            let too_large = own.clone().greater_equal_elem(latents as i64);
            let others = own.clone().lower_elem(0).bool_or(too_large);
            let own = SparseCodes {
                values: codes.values.clone().mask_fill(others, 0.0),
                indices: own.clamp(0, latents as i64 - 1),
            };
            let written = decode_sparse(own, layer.w_dec());
            all = Some(match all {
                Some(all) => add_last(all, written),
                None => written,
            });
            first += latents;
        }
        let b_dec = self.b_dec().unsqueeze();
        match all {
            Some(all) => all + b_dec,
            None => b_dec,
        }
    }

    fn reconstruct(&self, codes: SparseCodes, _x: Tensor<2>) -> Tensor<2> {
        self.decode(codes)
    }
}
