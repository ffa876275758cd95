//! Where a coder with a penalty starts in a run that asks for a number of active latents
//! (`coder.target_l0`): with twice as many active in the first batch. Then reconstructions have a
//! fitting size from the first step on, and the controller has little to correct. It can raise the
//! penalty until fewer are active, but nothing surely makes more active.

use burn::tensor::Tensor;
use lapidary_coder::{Coder, SparseCoder};
use lapidary_kernels::encode_topk;

use crate::recipe::ResolvedRecipe;

/// Latents active at the start, times the target.
const MORE: f64 = 2.0;
/// At most this many activations of the first batch decide.
const ROWS: usize = 1024;

/// The level that about [`MORE`] times `target` pre-activations per token of `x` `[n, d]` exceed:
/// the mean over tokens of the one that comes at that place, for each latent, `[d_sae]`. The
/// encoder's bias is named `bias`.
pub(super) fn level(coder: &SparseCoder, x: Tensor<2>, bias: &str, target: f64) -> Tensor<1> {
    let rows = x.dims()[0].min(ROWS);
    let x = coder.centre(x.narrow(0, 0, rows));
    let k = ((target * MORE).round() as usize).clamp(1, coder.d_sae());
    let state = coder.weights.encoder_state();
    let codes = encode_topk(x, coder.w_enc(), coder.vector(bias), k, state);
    codes
        .values
        .narrow(1, k - 1, 1)
        .mean()
        .expand([coder.d_sae()])
}

/// The coder with its bias, named `bias`, where about [`MORE`] × `coder.target_l0` pre-activations
/// per token of `x` are above 0; as it is without a target.
pub(super) fn lowered(
    coder: SparseCoder,
    x: Tensor<2>,
    bias: &'static str,
    recipe: &ResolvedRecipe,
) -> SparseCoder {
    let Some(target) = recipe.coder.target_l0 else {
        return coder;
    };
    let lower = coder.vector(bias) - level(&coder, x, bias, target);
    let weights = coder.weights.with(bias, lower);
    SparseCoder { weights, ..coder }
}
