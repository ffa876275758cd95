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
    let width = model.width(hook)?;
    let pass = |blocks: &[TokenBlock]| {
        let tokens: Vec<&[u32]> = blocks.iter().map(|block| block.tokens.as_slice()).collect();
        let run = HookedRun {
            capture: &[hook],
            ..Default::default()
        };
        let mut output = model.run(model.tokens(&tokens)?, &run)?;
        let value = output.captured.remove(&hook).expect("it was asked for");
        let [batch, pos, _] = value.dims();
        Ok::<_, ModelError>(value.reshape([batch * pos, width]))
    };
    if *model.device() != Device::flex() || blocks.len() <= 1 {
        return Ok(pass(blocks)?);
    }
    let parts: Vec<Tensor<2>> = blocks
        .par_chunks(BLOCKS_AT_ONCE)
        .map(pass)
        .collect::<Result<_, _>>()?;
    Ok(Tensor::cat(parts, 0))
}
