//! Losses through the model: the reconstruction is put in the place of what it reconstructs, and
//! what the model then says of the text is compared with what it says by itself, or with the text
//! (Braun, Taylor, Goldowsky-Dill, Sharkey 2024, "Identifying functionally important features with
//! end-to-end sparse dictionary learning", arXiv 2405.12241).
//!
//! The gradient of that loss in the reconstruction comes from the model; a coder takes it from
//! there as if its loss were the product of reconstruction and gradient.

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};
use lapidary_activations::{Sequences, TokenBlock, predicts};
use lapidary_coder::{Affine, AnyCoder, Coder, Scaling};
use lapidary_model::{HookPoint, HookedRun, Intervention};

use crate::batch::{Batch, ModelLoss};
use crate::error::SaeError;
use crate::recipe::Loss;

/// What the model makes of the reconstruction of `batch`, the rows of `sequences` that are kept;
/// `written` says where what is reconstructed stands among its hook points. Tokens that are left
/// out keep their activations.
pub(crate) fn model_loss(
    loss: Loss,
    coder: &AnyCoder,
    batch: &Batch,
    sequences: &Sequences,
    written: &[usize],
    scaling: &Scaling,
) -> Result<ModelLoss, SaeError> {
    let y_hat = coder.reconstruct(coder.encode(batch.x.clone()), batch.x.clone()); // [n, d_out]
    let places: Vec<(HookPoint, &Tensor<2>)> = written
        .iter()
        .map(|at| (sequences.activations[*at].0, &sequences.activations[*at].1))
        .collect();
    let ends = places.iter().zip(&scaling.written);
    let mut start = 0;
    let spliced: Vec<Intervention<'_>> = ends
        .map(|((hook, original), how)| {
            let width = how.mean.len();
            start += width;
            let part = y_hat.clone().narrow(1, start - width, width);
            Intervention::set(*hook, splice(part, (*original).clone(), how, sequences))
        })
        .collect();
    let hooks: Vec<HookPoint> = places.iter().map(|(hook, _)| *hook).collect();
    let model = &sequences.model;
    let tokens = sequences.tokens()?;
    let run = HookedRun {
        interventions: &spliced,
        segments: TokenBlock::attention(&sequences.blocks, model.device()),
        ..Default::default()
    };
    let found = match loss {
        Loss::Ce => {
            let terms = NextTokens::of(sequences, &tokens);
            model.gradients(tokens.clone(), &run, &hooks, &|logits| {
                terms.cross_entropy(logits)
            })?
        }
        Loss::Kl | Loss::Local => {
            let terms = Predictions::of(sequences);
            model.gradients(tokens.clone(), &run, &hooks, &|logits| {
                terms.divergence(logits)
            })?
        }
    };
    let device = model.device();
    let kept = rows(sequences, |i| i as i32);
    let kept = Tensor::<1, Int>::from_data(TensorData::new(kept.clone(), [kept.len()]), device);
    let parts = hooks.iter().zip(&scaling.written).map(|(hook, how)| {
        let gradient = found.at[hook].clone();
        let [blocks, context, width] = gradient.dims();
        let all = gradient.reshape([blocks * context, width]);
        all.select(0, kept.clone()) / f64::from(how.scale)
    });
    Ok(ModelLoss {
        loss: Tensor::from_floats([found.value], device),
        gradient: Tensor::cat(parts.collect(), 1),
    })
}

/// A number for each token that is kept, from its place among all.
fn rows(sequences: &Sequences, number: impl Fn(usize) -> i32) -> Vec<i32> {
    let all = sequences.kept.iter().enumerate();
    all.filter(|(_, kept)| **kept)
        .map(|(i, _)| number(i))
        .collect()
}

/// The reconstruction `part` `[n, width]`, as the model makes such activations, in the place of the
/// kept ones of `original` `[blocks * context, width]`; `[blocks, context, width]`.
fn splice(part: Tensor<2>, original: Tensor<2>, how: &Affine, sequences: &Sequences) -> Tensor<3> {
    let device = original.device();
    let [n, width] = part.dims();
    let mean = Tensor::<1>::from_data(TensorData::new(how.mean.clone(), [width]), &device);
    let raw = part / f64::from(how.scale) + mean.unsqueeze();
    let mut next = 0;
    let from = sequences.kept.iter().enumerate().map(|(i, kept)| {
        next += i32::from(*kept);
        match kept {
            true => next - 1,
            false => (n + i) as i32,
        }
    });
    let from: Vec<i32> = from.collect();
    let from = Tensor::<1, Int>::from_data(TensorData::new(from.clone(), [from.len()]), &device);
    let all = Tensor::cat(vec![raw, original], 0).select(0, from);
    let blocks = sequences.blocks.len();
    let context = all.dims()[0] / blocks.max(1);
    all.reshape([blocks, context, width])
}

/// A weight for each token, the same for all that count and 1 in all, `[blocks, context, 1]`.
fn weights(counts: &[bool], like: &Tensor<3>) -> Tensor<3> {
    let [blocks, context, _] = like.dims();
    let count = counts.iter().filter(|c| **c).count().max(1) as f32;
    let each = counts.iter().map(|c| f32::from(u8::from(*c)) / count);
    let each: Vec<f32> = each.collect();
    Tensor::from_data(TensorData::new(each, [blocks, context, 1]), &like.device())
}

/// The cross-entropy of what comes next.
struct NextTokens {
    /// `[blocks, context - 1, 1]`
    next: Tensor<3, Int>,
    weights: Tensor<3>,
}

impl NextTokens {
    fn of(sequences: &Sequences, tokens: &Tensor<2, Int>) -> Self {
        let [blocks, context] = tokens.dims();
        let special = sequences.model.special_tokens();
        let mut predicts = predicts(&sequences.blocks, &sequences.counts, &special);
        // The last of a block has no next.
        predicts
            .iter_mut()
            .skip(context - 1)
            .step_by(context)
            .for_each(|p| *p = false);
        let next = tokens.clone().narrow(1, 1, context - 1);
        Self {
            next: next.reshape([blocks, context - 1, 1]),
            weights: weights(&predicts, &sequences.logits).narrow(1, 0, context - 1),
        }
    }

    fn cross_entropy(&self, logits: Tensor<3>) -> Tensor<1> {
        let context = logits.dims()[1];
        let log_p = log_softmax(logits, 2).narrow(1, 0, context - 1);
        let picked = log_p.gather(2, self.next.clone().autodiff()); // [blocks, context - 1, 1]
        (picked * self.weights.clone().autodiff()).sum().neg()
    }
}

/// What the model predicts by itself.
struct Predictions {
    /// Probabilities times weights, `[blocks, context, d_vocab]`.
    weighted: Tensor<3>,
    /// Σ weight · p log p, `[1]`.
    own: Tensor<1>,
}

impl Predictions {
    fn of(sequences: &Sequences) -> Self {
        let log_p = log_softmax(sequences.logits.clone(), 2);
        let weighted = log_p.clone().exp() * weights(&sequences.counts, &log_p);
        Self {
            own: (weighted.clone() * log_p).sum(),
            weighted,
        }
    }

    /// Σ weight · KL(p ‖ q).
    fn divergence(&self, logits: Tensor<3>) -> Tensor<1> {
        let log_q = log_softmax(logits, 2);
        self.own.clone().autodiff() - (self.weighted.clone().autodiff() * log_q).sum()
    }
}
