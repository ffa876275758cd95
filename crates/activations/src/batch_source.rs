//! Where a trainer's batches come from: the seam between harvesting and training.

use crate::{ActivationsError, Normalization, Sequences};
use burn::tensor::Tensor;
use std::path::Path;

/// A source of shuffled, normalized batches that can be stopped and resumed to the same bits. It
/// gives activations at one hook point or at several, of the same tokens.
pub trait BatchSource {
    /// What was done to the activations, one a hook point; a mean is as long as the activations
    /// there are wide.
    fn normalizations(&self) -> &[Normalization];

    /// The next batch: of each hook point `[batch_tokens, width]`, normalized, tokens in one order.
    ///
    /// # Errors
    /// When the corpus or the model fails.
    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError>;

    /// Passes over all that there is that are finished: what comes next was given so many times
    /// before. A source that never repeats itself has none.
    fn passes(&self) -> u64 {
        0
    }

    /// The sequences that the last batch's rows are of, if batches are whole sequences.
    fn sequences(&self) -> Option<&Sequences> {
        None
    }

    /// Writes everything that decides the batches to come into a folder.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    fn save(&self, dir: &Path) -> Result<(), ActivationsError>;

    /// Goes on from what [`Self::save`] wrote. After an error, the source is not to be used any
    /// more.
    ///
    /// # Errors
    /// When the folder holds another source's state, or a damaged one.
    fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError>;
}
