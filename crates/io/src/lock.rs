//! A lock on a folder, so that two processes never write the same one.

use crate::IoError;
use std::fs::{File, TryLockError};
use std::path::Path;

/// Held while a folder is written; released when dropped, or when the process ends however it ends.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Locks `folder`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`IoError::InUse`] when another process (or another lock of this one) holds it; the folder
    /// cannot be made.
    pub fn take(folder: &Path) -> Result<Self, IoError> {
        std::fs::create_dir_all(folder).map_err(IoError::write(folder))?;
        let file = Self::open(folder).map_err(IoError::write(folder))?;
        Self::of(file, folder)
    }

    /// Locks an open file for the writer of `folder`. A file system that has no locks is written
    /// without.
    pub(crate) fn of(file: File, folder: &Path) -> Result<Self, IoError> {
        match file.try_lock() {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => Err(IoError::InUse {
                path: folder.into(),
            }),
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {
                Ok(Self { file })
            }
            Err(TryLockError::Error(e)) => Err(IoError::write(folder)(e)),
        }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    #[cfg(unix)]
    fn open(folder: &Path) -> std::io::Result<File> {
        File::open(folder)
    }

    /// Elsewhere a folder cannot be opened, so a file in it is locked.
    #[cfg(not(unix))]
    fn open(folder: &Path) -> std::io::Result<File> {
        File::create(folder.join(".lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let lock = FolderLock::take(&folder).unwrap();
        let error = FolderLock::take(&folder).unwrap_err();
        assert!(matches!(error, IoError::InUse { .. }), "{error}");
        drop(lock);
        FolderLock::take(&folder).unwrap();
    }
}
