//! Files and folders that are whole or absent, locks on folders, checksums, and JSON as Python writes it.

mod checksum;
mod error;
mod file;
mod folder;
mod json;
mod lock;
mod panic;
mod seal;

pub use checksum::Checksum;
pub use error::IoError;
pub use file::{check_target, remove_scratch, write_atomically, write_file, write_synced};
pub use folder::{StagedFolder, existing, files_below, previous, restore};
pub use json::{MAX_TEXT_BYTES, python_json, read_json, read_text};
pub use lock::FolderLock;
pub use panic::without_panic;
pub use seal::{sealed_json, unseal};
