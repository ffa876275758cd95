//! Batches of tokens as tensors.

use crate::CodebookError;
use burn::tensor::{Int, Tensor};
use lapidary_model::LanguageModel;
use lapidary_model::training::TokenBatch;

/// The inputs of a batch as a tensor, `[batch, pos]`.
pub(crate) fn tokens(
    model: &LanguageModel,
    batch: &TokenBatch,
) -> Result<Tensor<2, Int>, CodebookError> {
    let ids: Vec<u32> = batch.inputs.iter().map(|t| *t as u32).collect();
    let rows: Vec<&[u32]> = ids.chunks(batch.length).collect();
    Ok(model.tokens(&rows)?)
}
