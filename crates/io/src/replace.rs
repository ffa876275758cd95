//! Replacing a folder of our own files by a new one, whole or not at all.

use std::path::Path;

use crate::folder::{StagedFolder, files_below};
use crate::{FolderLock, IoError};

/// The error of a library whose functions write files.
pub trait FileError: From<IoError> {
    /// The failed file operation, if the error is one.
    fn as_io(&mut self) -> Option<&mut IoError>;
}

impl FileError for IoError {
    fn as_io(&mut self) -> Option<&mut IoError> {
        Some(self)
    }
}

/// Makes `folder` with what `fill` writes into the (temporary) folder it is given, in place of what
/// stood there.
///
/// `is_ours` says of a path relative to `folder` whether the old one may hold such a file.
///
/// # Errors
/// The old one holds another file, which would be lost; another process writes the same folder;
/// something cannot be written, or `fill` fails. What stood there stands there still.
pub fn replace_folder<E: FileError>(
    folder: &Path,
    is_ours: impl Fn(&Path) -> bool,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    refuse_foreign(folder, is_ours)?;
    let staged = StagedFolder::begin(folder).map_err(|e| named(folder, e))?;
    fill_folder(staged, fill).map(drop)
}

/// The same for a folder that was begun before; gives the lock of the finished one.
///
/// # Errors
/// Something cannot be written, or `fill` fails. The old folder is unchanged.
pub fn fill_folder<E: FileError>(
    staged: StagedFolder,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<FolderLock, E> {
    let folder = staged.target().to_path_buf();
    fill(staged.path()).map_err(|e| named(&folder, e))?;
    staged.commit().map_err(|e| named(&folder, e.into()))
}

/// An error inside names the temporary folder; the user knows only the final one.
fn named<E: FileError>(folder: &Path, mut error: E) -> E {
    if let Some(IoError::Write { path, .. }) = error.as_io() {
        *path = folder.to_path_buf();
    }
    error
}

/// Refuses a folder with a file that is not `is_ours`, by its name.
fn refuse_foreign(folder: &Path, is_ours: impl Fn(&Path) -> bool) -> Result<(), IoError> {
    if !folder.is_dir() {
        return Ok(());
    }
    match files_below(folder)?.into_iter().find(|file| !is_ours(file)) {
        None => Ok(()),
        Some(file) => Err(IoError::InTheWay {
            path: folder.join(file),
            expected: "nothing but what this program wrote there, since the folder is replaced: move it away, or choose another folder",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_synced;
    use std::{fs, io};

    #[test]
    fn a_failed_write_leaves_the_old_folder_and_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("dictionary");
        let write = |text: &'static str| {
            move |d: &Path| write_synced(&d.join("a"), text.as_bytes()).map_err(IoError::write(d))
        };
        let ours = |file: &Path| file == Path::new("a");
        replace_folder(&out, ours, write("one")).unwrap();
        let error = replace_folder(&out, ours, |d| {
            write("half")(d)?;
            let full = io::Error::from(io::ErrorKind::StorageFull);
            Err(IoError::write(&d.join("b"))(full))
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("dictionary") && !error.contains("writing"),
            "{error}"
        );
        assert!(error.contains("no storage space"), "{error}");
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "one");
    }

    #[test]
    fn a_folder_with_another_file_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("dictionary");
        fs::create_dir_all(out.join("deep")).unwrap();
        fs::write(out.join("deep/mine.pt"), "x").unwrap();
        let error = replace_folder::<IoError>(&out, |_| false, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("deep/mine.pt"), "{error}");
        assert!(out.join("deep/mine.pt").exists());
    }
}
