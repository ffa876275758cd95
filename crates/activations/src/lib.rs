//! Text to tokens to activations to shuffled batches.
//!
//! [`Corpus`] reads documents, [`BlockStream`] cuts them into token blocks, [`harvest`] runs the model over blocks, and
//! [`ActivationStream`] turns all of it into the batches that a trainer asks for.

mod blocks;
mod buffer;
mod corpus;
mod error;
mod harvest;
mod normalization;
mod source;

pub use blocks::{BlockConfig, BlockStream, Segment, TokenBlock};
pub use corpus::{Corpus, Documents};
pub use error::ActivationsError;
pub use harvest::harvest;
pub use normalization::{Normalization, NormalizationKind};
pub use source::{ActivationMatrix, ActivationStream, BatchSource, StreamConfig};
