//! Whole sequences as a batch: their tokens, activations, and what the model says of them.

use crate::{ActivationsError, TokenBlock};
use burn::tensor::{Int, Tensor};
use lapidary_model::{HookPoint, LanguageModel};
use std::sync::Arc;

/// The sequences that a batch's rows are of.
#[derive(Clone)]
pub struct Sequences {
    /// The model.
    pub model: Arc<LanguageModel>,
    /// The blocks of tokens.
    pub blocks: Vec<TokenBlock>,
    /// Of each token, block after block, whether its activations are among the rows of the batch,
    /// which come in this order.
    pub kept: Vec<bool>,
    /// Of each token whether it counts: beginnings and ends of sequences do not.
    pub counts: Vec<bool>,
    /// The activations at each hook point as the model makes them, `[blocks * context, width]`.
    pub activations: Vec<(HookPoint, Tensor<2>)>,
    /// What the model says of the tokens, `[blocks, context, d_vocab]`.
    pub logits: Tensor<3>,
}

impl Sequences {
    /// The tokens, `[blocks, context]`.
    ///
    /// # Errors
    /// When they do not fit the model.
    pub fn tokens(&self) -> Result<Tensor<2, Int>, ActivationsError> {
        let tokens: Vec<&[u32]> = self.blocks.iter().map(|b| b.tokens.as_slice()).collect();
        Ok(self.model.tokens(&tokens)?)
    }
}
