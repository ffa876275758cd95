//! Files and folders that are whole or absent, locks on folders, checksums, and JSON as Python writes it.

mod error;
mod json;

pub use error::IoError;
pub use json::{MAX_TEXT_BYTES, python_json, read_json, read_text};
