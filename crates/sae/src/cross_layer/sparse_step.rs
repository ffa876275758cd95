//! Loss and gradients of TopK cross-layer transcoders, written out: sparse by latent in every layer, as those of other TopK coders are.

use burn::tensor::Tensor;
use lapidary_kernels::{SparseCodes, SparseGradient, decode_sparse, latent_sums, reconstruct};

use super::{add_last, counted_through, inputs, last, name};
use crate::coder::SparseCoder;
use crate::coders::{Codes, Gradient, Learned, Now, Terms};
use crate::ends::Batch;
use crate::losses;
use crate::sparse_step::{auxiliary, both};

/// The fraction of variance that all layers together leave unexplained, plus AuxK's, the mean over layers of what each layer's dead
/// latents make of the residuals that the layer writes at. Nothing tracks gradients.
pub(crate) fn sparse_layers_step(
    coder: &SparseCoder,
    layers: &[SparseCoder],
    batch: &Batch,
    now: &Now<'_>,
) -> Learned {
    let y = batch.y.clone();
    let [n, d_out] = y.dims();
    let variance = losses::batch_variance(y.clone());
    let xs = inputs(layers, &batch.x);
    let codes = layers
        .iter()
        .zip(&xs)
        .map(|(layer, x)| layer.encode(x.clone()));
    let codes: Vec<SparseCodes> = codes.collect();
    let decoded = layers.iter().zip(&codes);
    let decoded = decoded.map(|(layer, codes)| decode_sparse(codes.clone(), layer.w_dec()));
    let decoded: Vec<Tensor<2>> = decoded.collect();
    let mut error = coder.b_dec().unsqueeze::<2>().expand([n, d_out]) - y; // [n, d_out]
    for written in &decoded {
        error = add_last(error, written.clone());
    }
    let n = n.max(1) as f64;
    let mse = error.clone().square().sum() / n;
    let fvu = mse.clone() / variance.clone();
    // The gradient of fvu in the reconstruction is `error · factor`; a loss through the model has its own.
    let local = now.local_weight();
    let factor = (variance.recip() * (2.0 / n * local)).unsqueeze::<2>(); // [1, 1]
    let mut slope = error.clone() * factor; // [n, d_out]
    let mut total = fvu.clone() * local;
    if let Some(pull) = &batch.pull {
        slope = slope + pull.gradient.clone();
        total = total + pull.loss.clone();
    }
    let b_dec = slope.clone().sum_dim(0).squeeze_dim(0); // [d_out]

    let mut gradients = vec![("b_dec", Gradient::Vector(b_dec))];
    let mut aux: Option<Tensor<1>> = None;
    for (number, (layer, x)) in layers.iter().zip(xs).enumerate() {
        let codes = &codes[number];
        let slope = last(&slope, layer.d_out());
        // Against this target the layer's own error is the slope.
        let target = decoded[number].clone() - slope.clone();
        let along = reconstruct(codes, layer.w_dec(), layer.b_dec(), target).along;
        let of_codes = |values: Tensor<2>| SparseCodes {
            values,
            indices: codes.indices.clone(),
        };
        let on = codes.values.clone().greater_elem(0.0).float();
        let mut w_dec = SparseGradient {
            codes: of_codes(codes.values.clone()),
            rows: slope,
        };
        let mut w_enc = SparseGradient {
            codes: of_codes(along * on),
            rows: x.clone(),
        };
        let share = 1.0 / layers.len() as f64;
        let left = last(&error, layer.d_out()).neg();
        if let Some(found) = auxiliary(layer, x, left, number, share, now) {
            let coefficient = now.config.training.aux_k_coefficient;
            total = total + found.term.clone() * coefficient;
            aux = Some(match aux {
                Some(sum) => sum + found.term,
                None => found.term,
            });
            w_dec = both(&w_dec, found.w_dec);
            w_enc = both(&w_enc, found.w_enc);
        }
        let b_enc = latent_sums(&w_enc.codes, layer.d_sae());
        let own = [
            ("w_enc", Gradient::Rows(w_enc)),
            ("b_enc", Gradient::Vector(b_enc)),
            ("w_dec", Gradient::Rows(w_dec)),
        ];
        for (weight, gradient) in own {
            let name = name(weight, number).expect("a layer's weight");
            gradients.push((name, gradient));
        }
    }
    Learned {
        terms: Terms {
            total,
            mse,
            fvu,
            penalty: None,
            aux,
            codes: Codes::Sparse(counted_through(layers, codes)),
            threshold: None,
        },
        gradients,
    }
}
