//! Cross-layer transcoders: the latents of a layer read the activations at its hook point and write at the hook points of it and all later
//! layers; what several layers write at one of them adds up (Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in
//! Language Models"): a^l = f(W_enc^l x^l + b_enc^l), ŷ^l = Σ_{l' ≤ l} W_dec^{l'→l} a^{l'} + b_dec^l.
//!
//! So a layer by itself is a transcoder from its hook point to those from its own on, side by side: weights `w_enc.l` `[F, d]`, `b_enc.l`
//! `[F]`, `w_dec.l` `[F, (L − l) d]` and, if it has any, `threshold.l` `[F]`; only `b_dec` `[L d]` is of all. There are no weights from a layer to
//! an earlier one. Latents are counted through: latent i of layer l is number l F + i.

mod sparse_step;

#[cfg(test)]
mod gradients;

use std::sync::LazyLock;

use burn::tensor::{Tensor, TensorData};
use lapidary_kernels::{SparseCodes, decode_sparse};

use crate::coder::{SparseCoder, Weight, Weights};
use crate::coders::{Architecture, Codes, Method};
use crate::config::RunConfig;
use crate::ends::Scaling;
use crate::error::SaeError;
use crate::tensors::host;

pub(crate) use sparse_step::sparse_layers_step;

/// Most layers of a coder; no model comes near.
pub(crate) const MOST_LAYERS: usize = 256;

/// The weights that a layer has, as a coder of one layer calls them.
const WEIGHTS: [&str; 4] = ["w_enc", "b_enc", "w_dec", "threshold"];

static NAMES: LazyLock<[Vec<String>; WEIGHTS.len()]> =
    LazyLock::new(|| WEIGHTS.map(|w| (0..MOST_LAYERS).map(|l| format!("{w}.{l}")).collect()));

/// What a layer's weight is called among those of all.
fn name(weight: &str, layer: usize) -> Option<&'static str> {
    let kind = WEIGHTS.iter().position(|w| *w == weight)?;
    NAMES[kind].get(layer).map(String::as_str)
}

/// Names and shapes of the weights of `layers` layers, each of `d_sae` latents that read `d_in` dimensions and write `d_out` at each hook
/// point.
pub(crate) fn shapes(
    architecture: Architecture,
    layers: usize,
    [d_in, d_out, d_sae]: [usize; 3],
) -> Vec<(&'static str, Vec<usize>)> {
    let mut shapes = vec![];
    for layer in 0..layers {
        let own = architecture
            .method()
            .shapes(d_in, d_out * (layers - layer), d_sae);
        let named = |(weight, shape)| Some((name(weight, layer)?, shape));
        shapes.extend(own.into_iter().filter_map(named));
    }
    shapes.push(("b_dec", vec![d_out * layers]));
    shapes
}

impl SparseCoder {
    /// Layers of a cross-layer transcoder; none of any other coder.
    #[must_use]
    pub fn layers(&self) -> Option<usize> {
        if self.weights.matrix("w_dec").is_some() {
            return None;
        }
        let there = |layer: &usize| {
            let name = name("w_dec", *layer);
            name.is_some_and(|name| self.weights.matrix(name).is_some())
        };
        Some((0..MOST_LAYERS).take_while(there).count())
    }

    /// A layer of a cross-layer transcoder: the transcoder from its hook point to those from its own on, with a `b_dec` of zeros, since that is
    /// of no layer alone. Any other coder is its one layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> Self {
        if self.layers().is_none() {
            return self.clone();
        }
        let own = |weight: &&'static str| -> Option<(&'static str, Weight)> {
            let name = name(weight, layer)?;
            let matrix = self.weights.matrix(name).map(|t| t.clone().into());
            let vector = || self.weights.vector(name).map(|t| t.clone().into());
            Some((*weight, matrix.or_else(vector)?))
        };
        let weights: Weights = WEIGHTS.iter().filter_map(own).collect();
        let width = weights.matrix("w_dec").map_or(0, |t| t.dims()[1]);
        let b_dec = self.b_dec().narrow(0, 0, width).zeros_like();
        Self {
            weights: weights.with("b_dec", b_dec),
            ..*self
        }
    }

    /// The cross-layer transcoder of these layers (see [`SparseCoder::layer`]), at least one, whose own `b_dec` count for nothing.
    #[must_use]
    pub fn of_layers(layers: &[Self], b_dec: Tensor<1>) -> Self {
        let mut weights = Weights::default();
        for (number, layer) in layers.iter().enumerate() {
            for (weight, value) in layer.weights.iter() {
                if let Some(name) = name(weight, number) {
                    weights = weights.with(name, value.clone());
                }
            }
        }
        Self {
            weights: weights.with("b_dec", b_dec),
            ..layers[0].clone()
        }
    }

    /// Every layer, if there are several.
    pub(crate) fn each_layer(&self) -> Option<Vec<Self>> {
        let count = self.layers()?;
        Some((0..count).map(|layer| self.layer(layer)).collect())
    }
}

/// What each of `layers` reads of `x` `[n, d_in]`, in which their hook points stand side by side.
pub(crate) fn inputs(layers: &[SparseCoder], x: &Tensor<2>) -> Vec<Tensor<2>> {
    let mut start = 0;
    let of = layers.iter().map(|layer| {
        start += layer.d_in();
        x.clone().narrow(1, start - layer.d_in(), layer.d_in())
    });
    of.collect()
}

/// `all` `[n, d_out]` with what a layer writes on top, `[n, w]`, which belongs to the last hook points.
pub(crate) fn add_last(all: Tensor<2>, written: Tensor<2>) -> Tensor<2> {
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

/// The last `width` columns: what a layer is about.
pub(crate) fn last(all: &Tensor<2>, width: usize) -> Tensor<2> {
    let start = all.dims()[1] - width;
    all.clone().narrow(1, start, width)
}

/// Codes of `x` `[n, d_in]`, layer after layer.
pub(crate) fn encode(layers: &[SparseCoder], x: &Tensor<2>) -> SparseCodes {
    let inputs = inputs(layers, x).into_iter();
    let each = layers.iter().zip(inputs).map(|(layer, x)| layer.encode(x));
    counted_through(layers, each.collect())
}

/// The codes of all layers out of those of each.
fn counted_through(layers: &[SparseCoder], codes: Vec<SparseCodes>) -> SparseCodes {
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

/// What `codes` `[n, k]`, those of any layers in any order, stand for without `b_dec`, `[n, d_out]`.
pub(crate) fn decode(layers: &[SparseCoder], codes: &SparseCodes) -> Option<Tensor<2>> {
    let mut first = 0;
    let mut all: Option<Tensor<2>> = None;
    for layer in layers {
        let latents = layer.d_sae();
        let own = codes.indices.clone() - first as i64;
        let others = own
            .clone()
            .lower_elem(0)
            .bool_or(own.clone().greater_equal_elem(latents as i64));
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
    all
}

/// The decoder as one matrix, `[L F, L d]`, zeros where a latent writes nothing.
pub(crate) fn whole_decoder(layers: &[SparseCoder]) -> Tensor<2> {
    let d_out = layers[0].d_out();
    let rows = layers.iter().map(|layer| {
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

/// The coder that does to raw activations what `coder` does to normalized ones: each layer by itself, whose codes are divided by the factor of the hook point
/// that it writes at first.
pub(crate) fn finish(
    coder: &SparseCoder,
    layers: &[SparseCoder],
    threshold: f64,
    scaling: &Scaling,
) -> Result<SparseCoder, SaeError> {
    let method = coder.architecture.method();
    let finished = layers.iter().enumerate().map(|(number, layer)| {
        let own = Scaling {
            read: vec![scaling.read[number].clone()],
            written: scaling.written[number..].to_vec(),
        };
        method.finish(layer, threshold, &own)
    });
    let finished: Vec<SparseCoder> = finished.collect::<Result<_, _>>()?;
    // What is written adds up, so means and `b_dec` are of no layer alone.
    let (means, scales) = (scaling.mean_written(), scaling.scale_written());
    let b_dec = host(&coder.b_dec())?;
    if means.len() != b_dec.len() {
        return Err(SaeError::Shape {
            what: "length of the normalization's mean",
            found: means.len(),
            expected: b_dec.len(),
        });
    }
    let biases = b_dec.iter().zip(means.iter().zip(&scales));
    let biases = biases.map(|(b, (m, s))| (f64::from(*m) + f64::from(*b) / s) as f32);
    let biases: Vec<f32> = biases.collect();
    let n = biases.len();
    let b_dec = Tensor::from_data(TensorData::new(biases, [n]), &coder.device());
    Ok(SparseCoder::of_layers(&finished, b_dec))
}

/// The codes of all layers out of those of each, as they have them.
pub(crate) fn all_codes(layers: &[SparseCoder], codes: Vec<Codes>) -> Codes {
    let (mut sparse, mut dense) = (vec![], vec![]);
    for codes in codes {
        match codes {
            Codes::Sparse(codes) => sparse.push(codes),
            Codes::Dense(latents) => dense.push(latents),
        }
    }
    match dense.is_empty() {
        true => Codes::Sparse(counted_through(layers, sparse)),
        false => Codes::Dense(Tensor::cat(dense, 1)),
    }
}

/// Why a recipe cannot be one of a cross-layer transcoder, if it cannot.
pub(crate) fn contradiction(config: &RunConfig, method: &dyn Method) -> Option<String> {
    let (read, written) = (&config.hook_points, &config.hook_points_out);
    if read.len() != written.len() || read.len() < 2 {
        return Some(format!(
            "`hook_points` and `hook_points_out` of a cross-layer transcoder are as many, two or more: found {} and {}",
            read.len(),
            written.len()
        ));
    }
    if read.len() > MOST_LAYERS {
        return Some(format!(
            "`hook_points`: found {}, expected at most {MOST_LAYERS} layers",
            read.len()
        ));
    }
    if !method.crosses_layers() {
        return Some(format!(
            "`hook_points_out` does not go with `coder.architecture` = \"{}\": cross-layer transcoders are \"topk\", \"standard\" or \"jumprelu\"",
            method.name()
        ));
    }
    if config.coder.skip_connection || config.coder.multi_topk {
        let key = match config.coder.skip_connection {
            true => "skip_connection",
            false => "multi_topk",
        };
        return Some(format!(
            "`coder.{key}` does not go with `hook_points_out`: a cross-layer transcoder has none"
        ));
    }
    for (key, hooks) in [("hook_points", read), ("hook_points_out", written)] {
        let mut before = None;
        for hook in hooks {
            let layer = match hook.parse::<lapidary_model::HookPoint>() {
                Ok(parsed) => parsed.layer(),
                Err(error) => return Some(format!("`{key}`: {error}")),
            };
            if layer.is_none() || layer <= before {
                return Some(format!(
                    "`{key}`: found {hook} where layers should ascend, expected a hook point of each layer in turn"
                ));
            }
            before = layer;
        }
    }
    let parsed = |hook: &String| hook.parse::<lapidary_model::HookPoint>().ok()?.layer();
    for (read, written) in read.iter().zip(written) {
        if parsed(read) > parsed(written) {
            return Some(format!(
                "`hook_points_out`: found {written} for what is read at {read}, expected a hook point of that layer or a later one"
            ));
        }
    }
    None
}
