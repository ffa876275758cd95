//! The folder that a command writes a dictionary to: what may be replaced there.

use std::path::{Path, PathBuf};

use crate::error::{Result, bail};

/// Refuses an output folder that contains one of the dictionaries that are read (`from`), that
/// holds a dictionary already, unless that may be replaced, or that holds anything else.
///
/// # Errors
/// When it does.
pub fn check_replacement(to: &Path, from: &[PathBuf], overwrite: bool) -> Result<()> {
    if let Ok(whole) = to.canonicalize() {
        let read = from.iter().filter_map(|from| {
            let folder = lapidary_formats::folder_of(from).unwrap_or_else(|_| from.clone());
            folder.canonicalize().ok()
        });
        for from in read {
            if from.starts_with(&whole) {
                bail!(
                    "{}: this folder contains the dictionary to read, which would be lost; choose another folder to write",
                    to.display()
                );
            }
        }
    }
    if !overwrite && lapidary_formats::exists(to) {
        bail!(
            "{} holds a dictionary already: give --overwrite to replace it, or another folder",
            to.display()
        );
    }
    Ok(lapidary_formats::only_ours(to)?)
}
