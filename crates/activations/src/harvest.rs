//! Token blocks through the model to activations.

use crate::{ActivationsError, TokenBlock};
use burn::tensor::Tensor;
use lapidary_model::{HookPoint, HookedRun, LanguageModel};

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
    Ok(values.collect())
}
