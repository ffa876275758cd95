//! Text to tokens to activations to shuffled batches.
//!
//! [`Corpus`] reads documents, [`BlockStream`] cuts them into token blocks, [`harvest`] runs the
//! model over blocks, and [`ActivationStream`] turns all of it into the batches that a trainer asks
//! for. [`harvest_store`] keeps activations on disk instead, and [`StoreBatches`] draws from there.

mod batch_source;
mod blocks;
mod buffer;
mod corpus;
mod error;
mod exclusion;
mod first_batch;
mod harvest;
mod normalization;
mod other_model;
mod sequence_stream;
mod sequences;
mod source;
mod state_files;
mod store;
mod token_pieces;

pub use batch_source::BatchSource;
pub use blocks::{BlockConfig, BlockStream, Segment, TokenBlock, predicts};
pub use corpus::{
    Corpus, Document, Documents, SkippedRows, TEXT_FIELD, TextRows, check_parquet_pages,
};
pub use error::ActivationsError;
pub use exclusion::{DEFAULT_NORM_MULTIPLE, Excluded, Exclusion};
pub use first_batch::{Dimension, FirstBatch, Outlier};
pub use harvest::{harvest, harvest_all};
pub use lapidary_io::Checksum;
pub use normalization::{Normalization, NormalizationKind};
pub use other_model::OtherModel;
pub use sequence_stream::SequenceStream;
pub use sequences::Sequences;
pub use source::{ActivationMatrix, ActivationStream, StreamConfig};
pub use store::{
    HarvestConfig, HarvestProgress, Place, RowPlace, Shard, Store, StoreBatches, StoreDtype,
    StoreManifest, StoreSettings, StoreWriter, StoredHook, harvest_store,
};
pub use token_pieces::TokenPieces;
