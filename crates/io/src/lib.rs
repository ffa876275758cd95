//! What every other crate uses to read and write files: files and folders that are whole or absent,
//! locks on folders, checksums, JSON as Python writes it, named tensors, and the strict reader of
//! settings.

mod checksum;
mod error;
mod fields;
mod file;
mod folder;
mod header;
mod json;
mod lock;
mod nan;
mod panic;
mod replace;
mod seal;
pub mod settings;
pub mod tensors;

pub use checksum::Checksum;
pub use error::IoError;
pub use fields::Fields;
pub use file::{check_target, remove_scratch, write_atomically, write_file, write_synced};
pub use folder::{StagedFolder, existing, files_below, previous, restore};
pub use header::{Located, safetensors_header};
pub use json::{MAX_TEXT_BYTES, python_json, read_json, read_text};
pub use lock::FolderLock;
pub use nan::nan_if_null;
pub use panic::without_panic;
pub use replace::{FileError, fill_folder, replace_folder};
pub use seal::{sealed_json, unseal};
