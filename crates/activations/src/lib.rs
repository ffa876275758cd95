//! Text to tokens to activations to shuffled batches.

mod corpus;
mod error;

pub use corpus::{Corpus, Documents};
pub use error::ActivationsError;
