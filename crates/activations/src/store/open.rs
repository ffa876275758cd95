//! Opening whatever store lies in a folder.

use super::reader::Store;
use super::saelens_cache;
use crate::ActivationsError;
use std::path::Path;

impl Store {
    /// Opens the store in a folder, or the activations that SAELens's `CacheActivationsRunner` left
    /// there. Sizes and headers are checked against the manifest; values are not read. Each shard's
    /// bytes are read against its checksum when rows of it are first asked for, once as long as the
    /// store is open; SAELens's caches have no checksums.
    ///
    /// # Errors
    /// When there is no store, or a shard is not what the manifest says.
    pub fn open(folder: &Path) -> Result<Self, ActivationsError> {
        if !Self::exists(folder) && saelens_cache::exists(folder) {
            return saelens_cache::open(folder);
        }
        Self::open_ours(folder)
    }

    /// Whether a folder holds a dataset on disk, as SAELens's caches are.
    pub fn is_saelens_cache(folder: &Path) -> bool {
        saelens_cache::exists(folder)
    }
}
