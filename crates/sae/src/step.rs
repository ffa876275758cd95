//! One training step's loss and gradients, for every architecture, one layer or several.
//!
//! An architecture says which codes a batch gets, how they are differentiated, and what penalty
//! they cost ([`Encoded`]). The rest is here: reconstruction, error, the loss through the model,
//! auxiliary losses, and the gradients of all weights. TopK's and BatchTopK's gradients are written
//! out, since they are sparse by latent and automatic differentiation would make them dense; the
//! tests compare them with automatic differentiation of the same loss.

use burn::tensor::{Int, Tensor};
use lapidary_coder::{AnyCoder, Coder, SKIP, SparseCoder, Weight, WeightKey, add_last, join_codes};
use lapidary_kernels::{
    Pursued, SparseCodes, SparseGradient, decode_sparse, encode_topk, latent_sums,
    pursuit_gradient, reconstruct, weighted_sum,
};

use crate::architectures::{StepContext, facts, method};
use crate::batch::Batch;
use crate::encoded::{Backward, Codes, Encoded, LayerInput, Weighted, masked};
use crate::keys::DeadLatents;
use crate::losses;
use crate::parameters::Gradient;

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
    let share = 1.0 / layers.len() as f64;
    // Ghost gradients are averaged over the layers that have any dead.
    let ghosts = match context.training.revival {
        DeadLatents::GhostGradients => context.dead.iter().flatten().count(),
        _ => 0,
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
                step.sparse(&batch.y, products.clone(), &variance, share, &mut sums);
            }
            Backward::Tracked { coder, .. } => {
                let written = forward.tracked[number].clone();
                step.tracked(coder, written, &mse, ghosts, &mut sums);
            }
            Backward::Pursuit { pursued, refit } => step.pursuit(pursued, *refit, &mut sums),
        }
    }
    let b_dec = Gradient::Vector(sums.b_dec.squeeze_dim(0));
    sums.gradients.push(("b_dec".into(), b_dec));
    StepOutput {
        terms: Terms {
            total: sums.total,
            mse,
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

/// What the layers add up to.
struct Sums {
    total: Tensor<1>,
    penalty: Option<Tensor<1>>,
    aux: Option<Tensor<1>>,
    /// The gradient of the shared `b_dec`, `[1, d_out]`.
    b_dec: Tensor<2>,
    gradients: Vec<(WeightKey, Gradient)>,
}

impl Sums {
    fn add_aux(&mut self, term: Tensor<1>) {
        self.aux = Some(match self.aux.take() {
            Some(sum) => sum + term,
            None => term,
        });
    }
}

/// The backward pass of one layer.
struct LayerStep<'a, K: Fn(&'static str) -> WeightKey> {
    /// What a weight of this layer is called.
    key: K,
    layer: &'a SparseCoder,
    x: Tensor<2>,
    dead: Option<Tensor<1, Int>>,
    encoded: &'a Encoded,
    /// That of what the layer writes.
    slope: Slope,
    /// The error of what it writes at, `[n, d]`.
    error: Tensor<2>,
    /// Whether the layer is the whole coder.
    is_whole: bool,
    context: &'a StepContext<'a>,
}

impl<K: Fn(&'static str) -> WeightKey> LayerStep<'_, K> {
    /// Of codes that are pre-activations: gradients sparse by latent. `products` are those of the
    /// slope with the decoder rows of the codes, if they are known.
    fn sparse(
        self,
        y: &Tensor<2>,
        products: Option<Tensor<2>>,
        variance: &Tensor<1>,
        share: f64,
        sums: &mut Sums,
    ) {
        let (layer, encoded) = (self.layer, self.encoded);
        let Codes::Sparse(all) = &encoded.codes else {
            unreachable!("pre-activations are sparse");
        };
        let codes = masked(all, encoded.own.as_ref());
        let n = y.dims()[0].max(1) as f64;
        let centred = layer.centre(self.x.clone());
        let Slope { slope, factor } = self.slope;
        let products = products.unwrap_or_else(|| {
            // Against this target the error is the slope.
            let decoded = match self.is_whole {
                true => self.error.clone() + to_code(layer, &self.x, y),
                false => decode_sparse(codes.clone(), layer.w_dec()), // its own b_dec is 0
            };
            let target = decoded - slope.clone();
            reconstruct(&codes, layer.w_dec(), layer.b_dec(), target).along
        });
        // A latent that is off passes nothing on.
        let active = |values: &Tensor<2>| values.clone().greater_elem(0.0).float();
        let on = active(&codes.values);
        let skips = layer.w_skip().is_some();
        // The gradient of the loss in the whole reconstruction, where a skip connection needs it.
        let mut in_output = skips.then(|| slope.clone() * factor.clone()); // [n, d_out]
        let mut w_dec = SparseGradient {
            codes: SparseCodes {
                values: codes.values * factor.clone(),
                indices: codes.indices.clone(),
            },
            rows: slope,
        };
        let mut w_enc = SparseGradient {
            codes: SparseCodes {
                values: products * on * factor,
                indices: codes.indices,
            },
            rows: centred.clone(),
        };

        for subset in &encoded.subsets {
            let codes = masked(all, subset.active.as_ref());
            let target = to_code(layer, &self.x, y);
            let found = reconstruct(&codes, layer.w_dec(), layer.b_dec(), target);
            let term = found.squares.sum() / n / variance.clone() * subset.weight;
            sums.total = sums.total.clone() + term;
            let factor = variance.clone().recip() * (2.0 / n * subset.weight);
            let factor = factor.unsqueeze::<2>();
            sums.b_dec = sums.b_dec.clone() + found.error.clone().sum_dim(0) * factor.clone();
            in_output = in_output.map(|all| all + found.error.clone() * factor.clone());
            let on = active(&codes.values);
            w_enc.codes.values = w_enc.codes.values + found.along * on * factor.clone();
            w_dec = both(
                &w_dec,
                SparseGradient {
                    codes: SparseCodes {
                        values: codes.values * factor,
                        indices: codes.indices,
                    },
                    rows: found.error,
                },
            );
        }
        let w_skip = in_output.map(|all| all.transpose().matmul(centred.clone())); // [d_out, d_in]

        let residual = self.error.neg();
        let found = auxiliary(layer, centred, residual, self.dead, share, self.context);
        if let Some(found) = found {
            let coefficient = self.context.training.aux_k_coefficient;
            sums.total = sums.total.clone() + found.term.clone() * coefficient;
            sums.add_aux(found.term);
            w_dec = both(&w_dec, found.w_dec);
            w_enc = both(&w_enc, found.w_enc);
        }

        let b_enc = latent_sums(&w_enc.codes, layer.d_sae());
        if layer.apply_b_dec_to_input {
            // The input is x - b_dec: each pre-activation's gradient comes back through its encoder
            // row.
            let back = weighted_sum(b_enc.clone(), layer.w_enc()).unsqueeze::<2>();
            sums.b_dec = sums.b_dec.clone() - back;
        }
        let key = self.key;
        sums.gradients.extend([
            (key("w_enc"), Gradient::Rows(w_enc)),
            (key("b_enc"), Gradient::Vector(b_enc)),
            (key("w_dec"), Gradient::Rows(w_dec)),
        ]);
        sums.gradients
            .extend(w_skip.map(|gradient| (key(SKIP), Gradient::Matrix(gradient))));
    }

    /// Of codes in a gradient graph. `coder` is the layer there, `written` what it writes; `ghosts`
    /// is the number of layers that have ghost gradients.
    fn tracked(
        self,
        coder: &SparseCoder,
        written: Option<Tensor<2>>,
        mse: &Tensor<1>,
        ghosts: usize,
        sums: &mut Sums,
    ) {
        let slope = self.slope.whole();
        let written = written.expect("codes in a graph are decoded there");
        // Its gradient is that of the loss in the reconstruction.
        let mut surrogate = (written * slope.clone().autodiff()).sum();
        let mut weighted = |term: &Weighted| {
            surrogate = surrogate.clone() + term.term.clone() * term.weight;
            let value = term.term.clone().inner();
            sums.total = sums.total.clone() + value.clone() * term.weight;
            value
        };
        if let Some(penalty) = &self.encoded.penalty {
            let value = weighted(penalty);
            sums.penalty = Some(match sums.penalty.take() {
                Some(sum) => sum + value,
                None => value,
            });
        }
        let own_aux = self.encoded.own_aux.as_ref().map(&mut weighted);
        if let Some(dead) = self.dead.filter(|_| ghosts > 0) {
            let x = coder.centre(self.x.clone().autodiff());
            let residual = self.error.neg().autodiff();
            let miss = losses::ghost(coder, x, residual, dead);
            // As large as the squared error.
            let weight = mse.clone() / (miss.clone().inner() + 1e-6);
            let ghost = miss * weight.autodiff() / ghosts as f64;
            surrogate = surrogate + ghost.clone();
            let value = ghost.inner();
            sums.total = sums.total.clone() + value.clone();
            sums.add_aux(value);
        }
        if let Some(value) = own_aux {
            sums.add_aux(value);
        }

        let mut found = surrogate.backward();
        let key = self.key;
        for (name, weight) in coder.weights.iter() {
            let gradient = match weight {
                Weight::Matrix(_) if name == SKIP => {
                    let centred = self.layer.centre(self.x.clone());
                    Gradient::Matrix(slope.clone().transpose().matmul(centred)) // [d_out, d_in]
                }
                Weight::Matrix(t) => Gradient::Matrix(
                    t.grad_remove(&mut found)
                        .unwrap_or_else(|| t.clone().inner().zeros_like()),
                ),
                Weight::Vector(t) if name == "b_dec" => {
                    // Through the input; what the output gives is there already.
                    if let Some(gradient) = t.grad_remove(&mut found)
                        && key(name).layer.is_none()
                    {
                        sums.b_dec = sums.b_dec.clone() + gradient.unsqueeze::<2>();
                    }
                    continue;
                }
                Weight::Vector(t) => Gradient::Vector(
                    t.grad_remove(&mut found)
                        .unwrap_or_else(|| t.clone().inner().zeros_like()),
                ),
            };
            sums.gradients.push((key(name), gradient));
        }
    }

    /// Of a pursuit, whose gradient goes back through its steps.
    fn pursuit(self, pursued: &Pursued, refit: bool, sums: &mut Sums) {
        let (w_dec, starts) = pursuit_gradient(pursued, self.layer.w_dec(), refit, 1.0);
        let factor = self.slope.factor / 2.0; // that of the squared error
        let w_dec = w_dec * factor.clone();
        // What is pursued is x − b_dec.
        sums.b_dec = (starts.neg() * factor.squeeze_dim::<1>(0)).unsqueeze();
        sums.gradients
            .push(((self.key)("w_dec"), Gradient::Matrix(w_dec)));
    }
}

/// AuxK of one layer.
struct Auxiliary {
    /// Before its coefficient, `[1]`.
    term: Tensor<1>,
    /// What it adds, coefficient and all, to the gradients of the layer's weights.
    w_dec: SparseGradient,
    w_enc: SparseGradient,
}

/// What the `dead` latents of a layer make of the `residual` `[n, d_out]` of what it writes at,
/// times `share`; see [`losses::aux_k`]. None if nothing is dead or the recipe does not want it.
/// `centred` is what the encoder reads.
fn auxiliary(
    coder: &SparseCoder,
    centred: Tensor<2>,
    residual: Tensor<2>,
    dead: Option<Tensor<1, Int>>,
    share: f64,
    context: &StepContext<'_>,
) -> Option<Auxiliary> {
    let training = &context.training;
    let (k_aux, coefficient) = (training.aux_k, training.aux_k_coefficient);
    let wanted = training.revival == DeadLatents::AuxK && k_aux > 0 && coefficient > 0.0;
    let dead = dead.filter(|_| wanted)?;
    let n = residual.dims()[0].max(1) as f64;
    let n_dead = dead.dims()[0];
    let k = k_aux.min(n_dead);
    let scale = (n_dead as f64 / k_aux as f64).min(1.0) * share;
    let w_dead = coder.w_dec().select(0, dead.clone()); // [n_dead, d_out]
    let codes = encode_topk(
        centred.clone(),
        coder.w_enc().select(0, dead.clone()),
        coder.b_enc().select(0, dead.clone()),
        k,
        coder.weights.encoder_state(),
    );
    let none = coder.b_dec().zeros_like();
    let miss = reconstruct(&codes, w_dead, none, residual.clone());
    let variance = losses::batch_variance(residual);
    let term = miss.squares.sum() / n / variance.clone() * scale;
    let factor = (variance.recip() * (2.0 / n * scale * coefficient)).unsqueeze::<2>();
    let [rows, k] = codes.indices.dims();
    let indices = dead.select(0, codes.indices.reshape([rows * k]));
    let of_dead = |values: Tensor<2>| SparseCodes {
        values,
        indices: indices.clone().reshape([rows, k]),
    };
    Some(Auxiliary {
        term,
        w_dec: SparseGradient {
            codes: of_dead(codes.values * factor.clone()),
            rows: miss.error,
        },
        w_enc: SparseGradient {
            codes: of_dead(miss.along * factor),
            rows: centred,
        },
    })
}

/// The sum of two gradients: rows under rows, the narrower codes filled with zeros, which add
/// nothing.
fn both(a: &SparseGradient, b: SparseGradient) -> SparseGradient {
    let wide = a.codes.values.dims()[1].max(b.codes.values.dims()[1]);
    let widened = |codes: SparseCodes| {
        let [n, k] = codes.values.dims();
        if k == wide {
            return codes;
        }
        let device = codes.values.device();
        SparseCodes {
            values: Tensor::cat(vec![codes.values, Tensor::zeros([n, wide - k], &device)], 1),
            indices: Tensor::cat(
                vec![codes.indices, Tensor::zeros([n, wide - k], &device)],
                1,
            ),
        }
    };
    let (a_codes, b_codes) = (widened(a.codes.clone()), widened(b.codes));
    SparseGradient {
        codes: SparseCodes {
            values: Tensor::cat(vec![a_codes.values, b_codes.values], 0),
            indices: Tensor::cat(vec![a_codes.indices, b_codes.indices], 0),
        },
        rows: Tensor::cat(vec![a.rows.clone(), b.rows], 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;
    use burn::tensor::{Device, Distribution};
    use lapidary_coder::{Architecture, Weights};

    const N: usize = 24;
    const D: usize = 20;
    const F: usize = 70;

    /// `Sᵀ·rows`, entry by entry.
    fn dense(gradient: &SparseGradient) -> Vec<f32> {
        let values: Vec<f32> = gradient.codes.values.to_data().iter().collect();
        let indices: Vec<i64> = gradient.codes.indices.to_data().iter().collect();
        let rows: Vec<f32> = gradient.rows.to_data().iter().collect();
        let k = gradient.codes.values.dims()[1];
        let mut out = vec![0.0; F * D];
        for (at, (value, latent)) in values.iter().zip(indices).enumerate() {
            for j in 0..D {
                out[latent as usize * D + j] += value * rows[at / k * D + j];
            }
        }
        out
    }

    fn close(what: &str, found: &[f32], expected: &[f32]) {
        let largest = expected.iter().fold(0.0f32, |m, e| m.max(e.abs()));
        assert!(largest > 1e-6, "{what}: nothing to compare");
        for (at, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!(
                (f - e).abs() <= 1e-5 * largest,
                "{what}[{at}]: {f}, automatic differentiation {e}"
            );
        }
    }

    #[test]
    fn gradients_are_those_of_automatic_differentiation() {
        let device = Device::flex();
        for (architecture, centred, with_aux) in [
            (Architecture::TopK { k: 4 }, true, false),
            (Architecture::TopK { k: 4 }, true, true),
            (Architecture::TopK { k: 4 }, false, true),
            (Architecture::BatchTopK { k: 4 }, true, true),
        ] {
            device.seed(3);
            let normal =
                |shape, s| Tensor::<2>::random(shape, Distribution::Normal(0.0, s), &device);
            let coder = SparseCoder {
                architecture,
                apply_b_dec_to_input: centred,
                weights: Weights::new([
                    ("w_enc", normal([F, D], 0.3).into()),
                    ("b_enc", normal([1, F], 0.2).squeeze_dim::<1>(0).into()),
                    ("w_dec", normal([F, D], 0.3).into()),
                    ("b_dec", normal([1, D], 0.2).squeeze_dim::<1>(0).into()),
                ]),
            };
            let x = normal([N, D], 1.0);
            let dead = Tensor::<1, Int>::from_ints([3, 9, 11, 40, 41, 42, 69], &device);
            let settings = [
                "training.aux_k=9".to_owned(),
                "training.aux_k_coefficient=0.4".to_owned(),
                format!("coder.d_sae={F}"),
            ];
            let recipe = Recipe::with_defaults(&settings).unwrap();
            let recipe = recipe.resolve(D).unwrap();
            let dead_of_layers = [with_aux.then(|| dead.clone())];
            let context = recipe.context(0, &dead_of_layers, 1.0);
            let any = AnyCoder::from(coder.clone());
            let step = loss_and_gradients(&any, &Batch::of(x.clone()), &context);

            let tracked = coder.tracked();
            let x = x.autodiff();
            let input = tracked.centre(x.clone());
            let reconstruction = tracked.decode(tracked.encode_centred(input.clone()));
            let mut total =
                losses::mse(x.clone(), reconstruction.clone()) / losses::batch_variance(x.clone());
            if with_aux {
                let residual = (x - reconstruction).detach();
                let term = losses::aux_k(&tracked, input, residual, dead.clone(), 9);
                total = total + term * 0.4;
            }
            let gradients = total.backward();
            let what = format!("{architecture}, centred {centred}, aux {with_aux}");
            let host = |t: &Tensor<1>| -> Vec<f32> { t.to_data().iter().collect() };
            close(
                &format!("{what}: loss"),
                &host(&step.terms.total),
                &host(&total.inner()),
            );
            for (name, gradient) in &step.gradients {
                let found = match gradient {
                    Gradient::Rows(rows) => dense(rows),
                    Gradient::Vector(t) => host(t),
                    Gradient::Matrix(_) => panic!("{what}: {name} is dense"),
                };
                let expected: Vec<f32> = match (
                    tracked.weights.matrix(name.name),
                    tracked.weights.vector(name.name),
                ) {
                    (Some(t), _) => t.grad(&gradients).unwrap().to_data().iter().collect(),
                    (_, Some(t)) => t.grad(&gradients).unwrap().to_data().iter().collect(),
                    _ => panic!("{name} is no weight"),
                };
                close(&format!("{what}: {name}"), &found, &expected);
            }
            assert_eq!(step.gradients.len(), 4);
        }
    }
}
