//! Resampling of dead latents (Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron
//! resampling"). The other treatments are losses: AuxK ([`losses::aux_k`](crate::losses::aux_k))
//! and ghost gradients ([`losses::ghost`](crate::losses::ghost)).

use burn::tensor::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use lapidary_coder::{Coder, SparseCoder, host};

use crate::batch::Batch;
use crate::error::SaeError;
use crate::parameters::Parameters;
use crate::recipe::{DeadLatents, DecoderNorm, ResolvedRecipe};

/// Norm of a resampled encoder row, in the mean of the living.
const ENCODER_SHARE: f64 = 0.2;

/// Whether latents are resampled after `step` steps: every so many, but not in the last fifth of
/// the run, which they would need to settle.
pub(crate) fn is_due(recipe: &ResolvedRecipe, step: u64) -> bool {
    let every = recipe.training.resample_every_steps;
    recipe.training.revival == DeadLatents::Resampling
        && every > 0
        && step.is_multiple_of(every)
        && step <= recipe.steps() * 4 / 5
}

/// Gives each of the `dead` latents of `coder` the direction of an input of `batch`, each of
/// another, drawn with a probability in proportion to the square of its loss: its decoder row
/// becomes that of what is to be reconstructed there, less `b_dec`, with the norm of the living's,
/// its encoder row that of what is read, with a fifth of their norm; bias 0, thresholds as at the
/// start, Adam's moments 0. A coder without an encoder pursues what others leave, so there the
/// decoder row becomes what the coder misses of that input. The draw depends on the recipe's seed
/// and `step` alone. Returns those that got one.
pub(crate) fn resample(
    parameters: &mut Parameters,
    coder: &SparseCoder,
    batch: &Batch,
    dead: &[u32],
    recipe: &ResolvedRecipe,
    step: u64,
) -> Result<Vec<u32>, SaeError> {
    let (x, y) = (batch.x.clone().inner(), batch.y.clone().inner());
    let (d_in, d_out, d_sae) = (coder.d_in(), coder.d_out(), coder.d_sae());
    let y_hat = coder.reconstruct(coder.encode(x.clone()), x.clone());
    let missed = y.clone() - y_hat;
    let losses: Tensor<2> = missed.clone().square().sum_dim(1);
    let mut weights: Vec<f64> = host(&losses)?
        .iter()
        .map(|loss| f64::from(*loss).powi(2))
        .collect();
    let sum: f64 = weights.iter().sum();
    // Nothing is left to explain, or nothing sensible.
    if sum <= 0.0 || !sum.is_finite() {
        return Ok(vec![]);
    }
    let has_encoder = recipe.coder.architecture.has_encoder();
    let read = host(&coder.centre(x))?;
    let written = match has_encoder {
        true => host(&(y - coder.b_dec().unsqueeze()))?,
        false => host(&missed)?,
    };
    let mut alive = vec![true; d_sae];
    dead.iter()
        .for_each(|latent| alive[*latent as usize] = false);
    let mean_norm = |rows: Vec<f32>, width: usize| {
        let rows = rows.chunks_exact(width).zip(&alive);
        let norms: Vec<f64> = rows
            .filter(|(_, alive)| **alive)
            .map(|(row, _)| norm(row))
            .collect();
        match norms.len() {
            0 => 1.0,
            n => norms.iter().sum::<f64>() / n as f64,
        }
    };
    let encoder_norm = match has_encoder {
        true => ENCODER_SHARE * mean_norm(host(&coder.w_enc())?, d_in),
        false => 0.0,
    };
    let decoder_norm = match recipe.training.decoder_norm {
        DecoderNorm::Unit => 1.0,
        DecoderNorm::Free => mean_norm(host(&coder.w_dec())?, d_out),
    };
    let mut rng =
        ChaCha8Rng::seed_from_u64(recipe.seed() ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut encoders, mut decoders) = (vec![], vec![]);
    // Each input once: two latents that are alike would stay so. Those for whom none is left wait
    // for the next time.
    let mut given = 0;
    for _ in dead {
        let Some(token) = drawn(&weights, rng.random()) else {
            break;
        };
        weights[token] = 0.0;
        given += 1;
        let scaled = |rows: &[f32], width: usize, to: f64| -> Vec<f32> {
            let row = &rows[token * width..][..width];
            let factor = to / norm(row).max(1e-12);
            row.iter()
                .map(|v| (f64::from(*v) * factor) as f32)
                .collect()
        };
        encoders.extend(scaled(&read, d_in, encoder_norm));
        decoders.extend(scaled(&written, d_out, decoder_norm));
    }
    let dead = &dead[..given];
    parameters.replace_rows("w_dec", dead, &decoders)?;
    if !has_encoder {
        return Ok(dead.to_vec());
    }
    parameters.replace_rows("w_enc", dead, &encoders)?;
    parameters.replace_rows("b_enc", dead, &vec![0.0; dead.len()])?;
    if let Some(thresholds) = coder.threshold() {
        let given = recipe
            .architectures
            .jumprelu
            .threshold_at_start(recipe.coder.target_l0);
        // The encoder rows are a fifth of those of living latents, and so are the thresholds.
        let start = match given {
            Some(start) => start,
            None => ENCODER_SHARE * mean_norm(host(&thresholds)?, 1),
        };
        let start = vec![start as f32; dead.len()];
        parameters.replace_rows("threshold", dead, &start)?;
    }
    Ok(dead.to_vec())
}

/// The place that a share of the sum of all weights falls on; None if they are all 0.
fn drawn(weights: &[f64], share: f64) -> Option<usize> {
    let mut left = share * weights.iter().sum::<f64>();
    let mut last = None;
    for (at, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        last = Some(at);
        if left < *weight {
            break;
        }
        left -= weight;
    }
    last
}

fn norm(row: &[f32]) -> f64 {
    row.iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[cfg(test)]
mod tests;
