//! Activations on disk: harvest once, train many times.
//!
//! ```text
//! STORE/manifest.json              what it holds, of what it was made, how far it is
//! STORE/shard-000000.safetensors   token_ids, documents, positions [rows]; each hook point [rows, d_in]
//! ```
//!
//! Rows stand in the order of the text. A shard counts once the manifest names it.

mod batches;
mod dtype;
mod harvest;
mod layout;
mod manifest;
mod open;
mod reader;
mod saelens_cache;
mod settings;
mod shard;
#[cfg(test)]
mod tests;
mod writer;

pub use batches::StoreBatches;
pub use dtype::StoreDtype;
pub(crate) use dtype::{Encoded, decode, encode};
pub use harvest::{HarvestConfig, HarvestProgress, harvest_store};
pub use manifest::{Place, Shard, StoreManifest};
pub use reader::Store;
pub use settings::{StoreSettings, StoredHook};
pub use writer::{RowPlace, StoreWriter};
