//! Files with the state of a source of batches.

use crate::ActivationsError;
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ActivationsError> {
    let text = serde_json::to_string(value).expect("plain data");
    Ok(lapidary_io::write_atomically(path, text.as_bytes())?)
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, ActivationsError> {
    let text = std::fs::read_to_string(path).map_err(|source| ActivationsError::Read {
        path: path.into(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| ActivationsError::Checkpoint {
        path: path.into(),
        problem: format!("not a stream's state: {e}"),
    })
}
