//! Loss and gradients of coders with a sparsity penalty, by automatic differentiation: squared error plus the weighted penalty, of one layer
//! or of several that write on top of one another.

use burn::tensor::{Int, Tensor};

use crate::coder::SparseCoder;
use crate::coders::{Codes, Learned, Now, Terms, differentiate};
use crate::cross_layer::{add_last, all_codes, inputs, last};
use crate::ends::Batch;
use crate::losses;
use crate::revival::Revival;

/// What a layer makes of what it reads, with gradients.
pub(crate) struct Active {
    /// What its latents write, without `b_dec`, `[n, d_out]`.
    pub(crate) decoded: Tensor<2>,
    /// What is active.
    pub(crate) codes: Codes,
    /// Sparsity penalty before its weight, mean over tokens, `[1]`.
    pub(crate) penalty: Tensor<1>,
    /// The loss of dead latents before its weight, `[1]`.
    pub(crate) aux: Option<Tensor<1>>,
}

/// A coder that minimizes squared error plus a penalty.
pub(crate) trait Penalized {
    /// What `coder`, of one layer and tracked, makes of `x`, centred; `parts` as in [`losses::decoder_norms`], `dead` its dead latents.
    fn active(
        &self,
        coder: &SparseCoder,
        x: Tensor<2>,
        parts: &[usize],
        dead: Option<Tensor<1, Int>>,
        now: &Now<'_>,
    ) -> Active;

    /// Weights of the penalty and of the loss of dead latents.
    fn weights(&self, now: &Now<'_>) -> (f64, f64);
}

/// Loss and gradients of a batch; nothing in it tracks gradients. The penalties of several layers add up.
pub(crate) fn penalized_step(
    method: &dyn Penalized,
    coder: &SparseCoder,
    batch: &Batch,
    now: &Now<'_>,
) -> Learned {
    let coder = coder.tracked();
    let (x, y) = (batch.x.clone().autodiff(), batch.y.clone().autodiff());
    let centred = coder.centre(x);
    let (reconstruction, penalty, mut aux, codes) = match coder.each_layer() {
        None => {
            let dead = now.dead_of_layer(0);
            let found = method.active(&coder, centred.clone(), &batch.parts, dead, now);
            let decoded = found.decoded + coder.b_dec().unsqueeze();
            let whole = coder.with_skip(decoded, centred.clone());
            (whole, found.penalty, found.aux, found.codes)
        }
        Some(layers) => {
            let [n, d_out] = y.dims();
            let mut whole = coder.b_dec().unsqueeze::<2>().expand([n, d_out]);
            let (mut penalties, mut auxiliary, mut codes) = (vec![], vec![], vec![]);
            for (number, (layer, x)) in layers.iter().zip(inputs(&layers, &centred)).enumerate() {
                // The norm of all that a latent writes, so its parts are one.
                let found = method.active(layer, x, &[], now.dead_of_layer(number), now);
                whole = add_last(whole, found.decoded);
                penalties.push(found.penalty);
                auxiliary.extend(found.aux);
                codes.push(found.codes);
            }
            let sum = |terms: Vec<Tensor<1>>| terms.into_iter().reduce(|a, b| a + b);
            let penalty = sum(penalties).expect("a coder has layers");
            (whole, penalty, sum(auxiliary), all_codes(&layers, codes))
        }
    };
    let mse = losses::mse(y.clone(), reconstruction.clone());
    let fvu = mse.clone() / losses::batch_variance(y.clone());
    let (weight, aux_weight) = method.weights(now);
    let local = now.local_weight();
    let mut total = match local == 1.0 {
        true => mse.clone(),
        false => mse.clone() * local,
    };
    if let Some(pull) = &batch.pull {
        // The loss through the model, with its gradient.
        let product = (reconstruction.clone() * pull.gradient.clone().autodiff()).sum();
        let value = pull.loss.clone().autodiff();
        total = total + value + product.clone() - product.detach();
    }
    total = total + penalty.clone() * weight;
    if let Some(aux) = &aux {
        total = total + aux.clone() * aux_weight;
    }
    if Revival::of(now.config) == Revival::GhostGradients
        && let Some(ghosts) = ghosts(&coder, &centred, (y - reconstruction).detach(), &mse, now)
    {
        total = total + ghosts.clone();
        aux = Some(match aux {
            Some(aux) => aux + ghosts,
            None => ghosts,
        });
    }
    Learned {
        gradients: differentiate(&coder, &total),
        terms: Terms {
            total,
            mse,
            fvu,
            penalty: Some(penalty),
            aux,
            codes,
            threshold: None,
        },
    }
}

/// The guesses that dead latents make of the `residual` of what their layer writes at, each with the weight that makes it as large as `mse`, mean over the
/// layers that have any dead.
fn ghosts(
    coder: &SparseCoder,
    x: &Tensor<2>,
    residual: Tensor<2>,
    mse: &Tensor<1>,
    now: &Now<'_>,
) -> Option<Tensor<1>> {
    let layers = coder.each_layer().unwrap_or_else(|| vec![coder.clone()]);
    let inputs = inputs(&layers, x);
    let found = layers.iter().zip(inputs).enumerate();
    let found = found.filter_map(|(number, (layer, x))| {
        let dead = now.dead_of_layer(number)?;
        let left = last(&residual, layer.d_out());
        let miss = losses::ghost(layer, x, left, dead);
        let weight = mse.clone().detach() / (miss.clone().detach() + 1e-6);
        Some(miss * weight)
    });
    let each: Vec<Tensor<1>> = found.collect();
    let count = each.len() as f64;
    each.into_iter().reduce(|a, b| a + b).map(|sum| sum / count)
}
