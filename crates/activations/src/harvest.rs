//! Token blocks through the model to activations.

use crate::{ActivationsError, TokenBlock};
use burn::tensor::{Device, Tensor};
use lapidary_model::{HookPoint, HookedRun, LanguageModel, ModelError};
use rayon::prelude::*;

/// Blocks of one forward pass on the CPU: several passes run side by side, each small enough for a core's cache.
const BLOCKS_AT_ONCE: usize = 4;

/// The activations at `hook` of every token, `[blocks * context, width]`, in the order of the tokens.
///
/// # Errors
/// When the model lacks the hook point, or a block does not fit it.
pub fn harvest(
    model: &LanguageModel,
    hook: HookPoint,
    blocks: &[TokenBlock],
) -> Result<Tensor<2>, ActivationsError> {
    Ok(harvest_all(model, &[hook], blocks)?.remove(0))
}

/// The same at several different hook points by one forward pass, in the order of `hooks`.
///
/// # Errors
/// As [`harvest`].
pub fn harvest_all(
    model: &LanguageModel,
    hooks: &[HookPoint],
    blocks: &[TokenBlock],
) -> Result<Vec<Tensor<2>>, ActivationsError> {
    let pass = |blocks: &[TokenBlock]| {
        let tokens: Vec<&[u32]> = blocks.iter().map(|block| block.tokens.as_slice()).collect();
        let run = HookedRun {
            capture: hooks,
            ..Default::default()
        };
        let mut output = model.run(model.tokens(&tokens)?, &run)?;
        let values = hooks.iter().map(|hook| {
            let value = output.captured.remove(hook).expect("it was asked for");
            let [batch, pos, width] = value.dims();
            value.reshape([batch * pos, width])
        });
        Ok::<_, ModelError>(values.collect::<Vec<_>>())
    };
    if *model.device() != Device::flex() || blocks.len() <= 1 {
        return Ok(pass(blocks)?);
    }
    let mut parts: Vec<Vec<Tensor<2>>> = vec![vec![]; hooks.len()];
    for values in blocks
        .par_chunks(BLOCKS_AT_ONCE)
        .map(pass)
        .collect::<Result<Vec<_>, _>>()?
    {
        for (part, value) in parts.iter_mut().zip(values) {
            part.push(value);
        }
    }
    Ok(parts.into_iter().map(|part| Tensor::cat(part, 0)).collect())
}
