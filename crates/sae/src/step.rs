//! One training step's loss and gradients, for every architecture, one layer or several.
//!
//! An architecture says which codes a batch gets, how they are differentiated, and what penalty
//! they cost ([`Encoded`]). The rest is here: reconstruction, error, the loss through the model,
//! auxiliary losses, and the gradients of all weights. TopK's and BatchTopK's gradients are written
//! out, since they are sparse by latent and automatic differentiation would make them dense; the
//! tests compare them with automatic differentiation of the same loss.

mod aux_k;
mod gradients;

use burn::tensor::Tensor;
use lapidary_coder::{AnyCoder, Coder, SparseCoder, WeightKey, add_last, join_codes};
use lapidary_kernels::{SparseCodes, decode_sparse, reconstruct};

use crate::architectures::{StepContext, facts, method};
use crate::batch::Batch;
use crate::encoded::{Backward, Codes, Encoded, LayerInput};
use crate::keys::DeadLatents;
use crate::losses;
use crate::parameters::Gradient;
use gradients::{LayerStep, Sums};

/// The loss and its parts, each `[1]`.
pub(crate) struct Terms {
    /// What is minimized.
    pub(crate) total: Tensor<1>,
    /// The squared error of a token.
    pub(crate) mse: Tensor<1>,
    /// The same over the batch's variance.
    pub(crate) fvu: Tensor<1>,
    /// The sparsity penalty before its coefficient.
    pub(crate) penalty: Option<Tensor<1>>,
    /// The auxiliary loss before its coefficient.
    pub(crate) aux: Option<Tensor<1>>,
    /// The codes of all layers.
    pub(crate) codes: Codes,
    /// See [`Encoded::threshold`].
    pub(crate) threshold: Option<f32>,
}

/// What came of a batch.
pub(crate) struct StepOutput {
    pub(crate) terms: Terms,
    pub(crate) gradients: Vec<(WeightKey, Gradient)>,
}

/// The reconstruction of a batch.
struct Forward {
    /// Reconstruction less what is to be reconstructed, `[n, d_out]`.
    error: Tensor<2>,
    /// The sum of its squares, `[1]`.
    squares: Tensor<1>,
    /// The products of the error with the decoder rows of sparse codes, `[n, k]`, where the kernel
    /// gave them with the error.
    products: Option<Tensor<2>>,
    /// What each layer writes in its gradient graph, if it has one, `[n, d]`.
    tracked: Vec<Option<Tensor<2>>>,
}

/// The gradient of the loss in the reconstruction: `slope · factor`. The factor, `[1, 1]`, is
/// applied to codes, which are narrower.
struct Slope {
    slope: Tensor<2>,
    factor: Tensor<2>,
}

impl Slope {
    fn whole(&self) -> Tensor<2> {
        self.slope.clone() * self.factor.clone()
    }
}

/// What terms of a layer's loss are measured against.
struct Scales {
    /// Mean squared error of the batch, `[1]`.
    mse: Tensor<1>,
    /// Variance of what is to be reconstructed, `[1]`.
    variance: Tensor<1>,
    /// Of one layer in all.
    share: f64,
    /// The number of layers that have ghost gradients.
    ghosts: usize,
}

/// Loss and gradients of a batch; nothing in it tracks gradients.
pub(crate) fn loss_and_gradients(
    coder: &AnyCoder,
    batch: &Batch,
    context: &StepContext<'_>,
) -> StepOutput {
    let method = method(coder.architecture().kind());
    let layers = coder.layers();
    let cross_layer = coder.as_cross_layer();
    let inputs = match cross_layer {
        None => vec![batch.x.clone()],
        Some(coder) => coder.inputs(&batch.x),
    };
    let dead = |layer: usize| context.dead.get(layer).cloned().flatten();
    let encoded = layers.iter().zip(&inputs).enumerate();
    let encoded = encoded.map(|(number, (layer, x))| {
        let input = LayerInput {
            coder: layer,
            x,
            y: &batch.y,
            widths: match cross_layer {
                None => &batch.widths,
                Some(_) => &[],
            },
            dead: dead(number),
        };
        method.encode(&input, context)
    });
    let encoded: Vec<Encoded> = encoded.collect();

    let n = batch.y.dims()[0].max(1) as f64;
    let variance = losses::batch_variance(batch.y.clone());
    let forward = forward(coder, &inputs, &encoded, &batch.y);
    let mse = forward.squares.clone() / n;
    let fvu = mse.clone() / variance.clone();
    let local = context.local_weight();
    let (mut total, factor) = match facts(coder.architecture().kind()).minimizes_fvu {
        true => (
            fvu.clone() * local,
            variance.clone().recip() * (2.0 / n * local),
        ),
        false => (
            mse.clone() * local,
            variance.ones_like() * (2.0 / n * local),
        ),
    };
    let factor = factor.unsqueeze::<2>(); // [1, 1]
    let slope = match (&batch.model_loss, cross_layer) {
        (None, None) => Slope {
            slope: forward.error.clone(),
            factor,
        },
        (model, _) => {
            let mut slope = forward.error.clone() * factor.clone();
            if let Some(model) = model {
                total = total + model.loss.clone();
                slope = slope + model.gradient.clone();
            }
            Slope {
                slope,
                factor: factor.ones_like(),
            }
        }
    };
    let products = forward
        .products
        .clone()
        .filter(|_| batch.model_loss.is_none());

    let mut sums = Sums {
        total,
        penalty: None,
        aux: None,
        b_dec: slope.slope.clone().sum_dim(0) * slope.factor.clone(),
        gradients: vec![],
    };
    let scales = Scales {
        mse,
        variance,
        share: 1.0 / layers.len() as f64,
        // Ghost gradients are averaged over the layers that have any dead.
        ghosts: match context.training.revival {
            DeadLatents::GhostGradients => context.dead.iter().flatten().count(),
            _ => 0,
        },
    };
    for (number, (layer, x)) in layers.iter().zip(inputs).enumerate() {
        let step = LayerStep {
            key: |name| WeightKey {
                layer: cross_layer.map(|_| number),
                name,
            },
            layer,
            x,
            dead: dead(number),
            encoded: &encoded[number],
            slope: Slope {
                slope: last(&slope.slope, layer.d_out()),
                factor: slope.factor.clone(),
            },
            error: last(&forward.error, layer.d_out()),
            is_whole: cross_layer.is_none(),
            context,
        };
        match &encoded[number].backward {
            Backward::PreActivations => {
                step.sparse(&batch.y, products.clone(), &scales, &mut sums);
            }
            Backward::Tracked { coder, .. } => {
                let written = forward.tracked[number].clone();
                step.tracked(coder, written, &scales, &mut sums);
            }
            Backward::Pursuit { pursued, refit } => step.pursuit(pursued, *refit, &mut sums),
        }
    }
    let b_dec = Gradient::Vector(sums.b_dec.squeeze_dim(0));
    sums.gradients.push(("b_dec".into(), b_dec));
    StepOutput {
        terms: Terms {
            total: sums.total,
            mse: scales.mse,
            fvu,
            penalty: sums.penalty,
            aux: sums.aux,
            threshold: encoded[0].threshold,
            codes: all_codes(layers, &encoded),
        },
        gradients: sums.gradients,
    }
}

/// What the codes reconstruct, against `y`.
fn forward(coder: &AnyCoder, inputs: &[Tensor<2>], encoded: &[Encoded], y: &Tensor<2>) -> Forward {
    let layers = coder.layers();
    if let ([layer], [encoded], [x]) = (layers, encoded, inputs)
        && coder.as_sparse().is_some()
    {
        match (&encoded.backward, encoded.own_codes()) {
            (Backward::PreActivations, Codes::Sparse(codes)) => {
                let found = reconstruct(&codes, layer.w_dec(), layer.b_dec(), to_code(layer, x, y));
                return Forward {
                    error: found.error,
                    squares: found.squares.sum(),
                    products: Some(found.along),
                    tracked: vec![None],
                };
            }
            (Backward::Pursuit { pursued, .. }, _) => {
                let error = pursued.residual.clone().neg();
                return Forward {
                    squares: error.clone().square().sum(),
                    error,
                    products: None,
                    tracked: vec![None],
                };
            }
            _ => {}
        }
    }
    let [n, d_out] = y.dims();
    let mut tracked = vec![];
    let mut error = coder.b_dec().unsqueeze::<2>().expand([n, d_out]);
    // In the order in which each kind of coder has always added up, so that bits stay what they
    // were.
    let in_graph = matches!(encoded[0].backward, Backward::Tracked { .. });
    if !in_graph {
        error = error - y.clone();
    }
    for (layer, encoded) in layers.iter().zip(encoded) {
        let written = match (&encoded.backward, &encoded.codes) {
            (Backward::Tracked { coder, values }, Codes::Sparse(codes)) => {
                let codes = SparseCodes {
                    values: values.clone(),
                    indices: codes.indices.clone().autodiff(),
                };
                decode_sparse(codes, coder.w_dec())
            }
            (Backward::Tracked { coder, values }, Codes::Dense(_)) => {
                values.clone().matmul(coder.w_dec())
            }
            (_, Codes::Sparse(codes)) => decode_sparse(codes.clone(), layer.w_dec()),
            (_, Codes::Dense(latents)) => latents.clone().matmul(layer.w_dec()),
        };
        error = add_last(error, written.clone().inner());
        let is_tracked = matches!(encoded.backward, Backward::Tracked { .. });
        tracked.push(is_tracked.then_some(written));
    }
    if let ([layer], [x]) = (layers, inputs) {
        error = layer.with_skip(error, layer.centre(x.clone()));
    }
    if in_graph {
        error = error - y.clone();
    }
    Forward {
        squares: error.clone().square().sum(),
        error,
        products: None,
        tracked,
    }
}

/// What the codes of a layer are to reconstruct: `y` without what a skip connection makes of `x`.
fn to_code(layer: &SparseCoder, x: &Tensor<2>, y: &Tensor<2>) -> Tensor<2> {
    match layer.w_skip() {
        Some(w_skip) => y.clone() - layer.centre(x.clone()).matmul(w_skip.transpose()),
        None => y.clone(),
    }
}

/// The last `width` columns: what a layer is about.
fn last(all: &Tensor<2>, width: usize) -> Tensor<2> {
    match all.dims()[1] - width {
        0 => all.clone(),
        start => all.clone().narrow(1, start, width),
    }
}

/// The codes of all layers out of those of each.
fn all_codes(layers: &[SparseCoder], encoded: &[Encoded]) -> Codes {
    let (mut sparse, mut dense) = (vec![], vec![]);
    for encoded in encoded {
        match encoded.own_codes() {
            Codes::Sparse(codes) => sparse.push(codes),
            Codes::Dense(latents) => dense.push(latents),
        }
    }
    match (dense.is_empty(), sparse.len()) {
        (true, 1) => Codes::Sparse(sparse.remove(0)),
        (true, _) => Codes::Sparse(join_codes(layers, sparse)),
        (false, _) => Codes::Dense(Tensor::cat(dense, 1)),
    }
}

#[cfg(test)]
mod tests;
