//! Folders that are whole or absent: filled under a temporary name, synced, renamed.
//!
//! The temporary folder of `NAME` is `.NAME.writing` beside it. It is locked from
//! [`StagedFolder::begin`] on, and so is the folder under the name, so that a folder has one writer
//! at a time. The old folder is `.NAME.previous` for the moment between two renames.

use crate::IoError;
use crate::file::{parent, scratch_name, sync_folder};
use crate::lock::FolderLock;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// How often the temporary folder is looked for anew because its last writer has just renamed or
/// removed it.
const TRIES: usize = 100;

/// A folder that is being written and does not stand under its name yet.
///
/// ```
/// # fn main() -> Result<(), lapidary_io::IoError> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let out = dir.path().join("out");
/// use lapidary_io::StagedFolder;
/// let staged = StagedFolder::begin(&out)?;
/// std::fs::write(staged.path().join("a.txt"), "whole").unwrap();
/// staged.commit()?;
/// assert!(out.join("a.txt").exists());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct StagedFolder {
    scratch: PathBuf,
    folder: PathBuf,
    /// The folders around it that were made for it, the innermost first.
    made: Vec<PathBuf>,
    /// The lock of the temporary folder; none once that is committed.
    lock: Option<FolderLock>,
    /// The lock of the folder under the name, if there is one.
    _standing: Option<FolderLock>,
}

impl StagedFolder {
    /// Begins to write what shall stand under the name `folder` (or where it links to), in an empty
    /// temporary folder.
    ///
    /// # Errors
    /// [`IoError::InUse`] when another process writes the same folder; something that is no folder
    /// has the name; the folder around it cannot be written to.
    pub fn begin(folder: &Path) -> Result<Self, IoError> {
        let named = || IoError::write(folder);
        let target = resolve(folder).map_err(named())?;
        if target.exists() && !target.is_dir() {
            return Err(IoError::InTheWay {
                path: folder.into(),
                expected: "a folder",
            });
        }
        let around = parent(&target);
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made = around.ancestors().take_while(is_new);
        let made: Vec<PathBuf> = made.map(Path::to_path_buf).collect();
        fs::create_dir_all(around).map_err(named())?;
        let scratch = around.join(scratch_name(target.file_name().unwrap_or_default()));
        for _ in 0..TRIES {
            match fs::create_dir(&scratch) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(named()(e));
                }
                _ => {}
            }
            let Ok(found) = scratch.symlink_metadata() else {
                continue;
            };
            if !found.is_dir() {
                return Err(IoError::InTheWay {
                    path: scratch,
                    expected: "a folder or nothing",
                });
            }
            let Ok(file) = File::open(&scratch) else {
                continue;
            };
            let lock = FolderLock::of(file, folder)?;
            // The one that is locked may be another process's that has just been renamed.
            if !is_same(lock.file(), &scratch) {
                continue;
            }
            let mut staged = Self {
                scratch,
                folder: target,
                made,
                lock: Some(lock),
                _standing: None,
            };
            // Its writer may have renamed it and not be done with it yet.
            if staged.folder.is_dir() {
                let standing = File::open(&staged.folder).map_err(named())?;
                staged._standing = Some(FolderLock::of(standing, folder)?);
            }
            empty(&staged.scratch).map_err(named())?;
            return Ok(staged);
        }
        Err(IoError::InUse {
            path: folder.into(),
        })
    }

    /// Where to write its files now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.scratch
    }

    /// The folder that it becomes.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.folder
    }

    /// Gives the folder its name, in place of the old one. The folder has no other writer until the
    /// lock is dropped.
    ///
    /// # Errors
    /// The names cannot be changed; the old folder is unchanged.
    pub fn commit(mut self) -> Result<FolderLock, IoError> {
        let named = || IoError::write(&self.folder);
        for folder in folders(&self.scratch).map_err(named())? {
            sync_folder(&folder);
        }
        let previous = previous(&self.folder);
        if self.folder.exists() {
            if previous.exists() {
                fs::remove_dir_all(&previous).map_err(named())?;
            }
            fs::rename(&self.folder, &previous).map_err(named())?;
        }
        if let Err(e) = fs::rename(&self.scratch, &self.folder) {
            // Put back what stood there; if even that fails, the reader still looks at `previous`.
            let _ = fs::rename(&previous, &self.folder);
            return Err(named()(e));
        }
        let lock = self.lock.take().expect("a folder is committed once");
        sync_folder(parent(&self.folder));
        if previous.exists() {
            fs::remove_dir_all(&previous).map_err(IoError::write(&self.folder))?;
        }
        Ok(lock)
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Already failing: a temporary folder that is left over is the lesser trouble.
            let _ = fs::remove_dir_all(&self.scratch);
            for folder in &self.made {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Where [`StagedFolder::commit`] keeps the previous content until the new one stands, and where a
/// reader finds it if the program died between the two.
#[must_use]
pub fn previous(folder: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".previous");
    folder.with_file_name(name)
}

/// The folder to read: `folder`, or its predecessor if the program died while replacing it.
///
/// `marker` is a file that every whole folder of the kind has.
#[must_use]
pub fn existing(folder: &Path, marker: &str) -> PathBuf {
    let old = previous(folder);
    if !folder.join(marker).exists() && old.join(marker).exists() {
        old
    } else {
        folder.to_path_buf()
    }
}

/// Finishes what a killed process began with `folder`: its predecessor is put back, or removed
/// where the new one stands.
///
/// # Errors
/// The names cannot be changed.
pub fn restore(folder: &Path) -> Result<(), IoError> {
    let old = previous(folder);
    if !old.exists() {
        return Ok(());
    }
    let done = match folder.exists() {
        true => fs::remove_dir_all(&old),
        false => fs::rename(&old, folder),
    };
    done.map_err(IoError::write(folder))
}

/// All files below `folder`, as paths relative to it, in order; symbolic links are files.
///
/// # Errors
/// A folder cannot be read.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>, IoError> {
    let mut found = vec![];
    for folder_below in folders(folder).map_err(IoError::read(folder))? {
        let entries = folder_below.read_dir().map_err(IoError::read(folder))?;
        for entry in entries {
            let entry = entry.map_err(IoError::read(folder))?;
            let kind = entry.file_type().map_err(IoError::read(folder))?;
            if !kind.is_dir()
                && let Ok(relative) = entry.path().strip_prefix(folder)
            {
                found.push(relative.to_path_buf());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `folder` and the folders below it; symbolic links are not followed.
fn folders(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_path_buf()];
    let mut next = 0;
    while next < found.len() {
        for entry in found[next].read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}

/// A path whose last part is a name, and no link to another folder.
fn resolve(folder: &Path) -> std::io::Result<PathBuf> {
    // "." and ".." have no name to put a temporary one beside.
    let is_link = folder.symlink_metadata().is_ok_and(|m| m.is_symlink());
    match folder.file_name().is_none() || is_link {
        true => folder.canonicalize(),
        false => Ok(folder.to_path_buf()),
    }
}

fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in folder.read_dir()? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = folder
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(folder: &Path, text: &str) {
        let staged = StagedFolder::begin(folder).unwrap();
        fs::write(staged.path().join("a"), text).unwrap();
        staged.commit().unwrap();
    }

    #[test]
    fn a_write_that_is_given_up_leaves_the_old_folder_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("dictionary");
        write(&out, "one");
        let staged = StagedFolder::begin(&out).unwrap();
        fs::write(staged.path().join("a"), "half").unwrap();
        drop(staged);
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "one");
        assert_eq!(names(dir.path()), ["dictionary"]);
        write(&out, "two");
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "two");
        assert_eq!(names(dir.path()), ["dictionary"]);
    }

    #[test]
    fn a_folder_has_one_writer_and_what_a_dead_one_left_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let scratch = dir.path().join(".out.writing");
        fs::create_dir_all(scratch.join("deep")).unwrap();
        fs::write(scratch.join("deep/half"), "x").unwrap();
        let staged = StagedFolder::begin(&out).unwrap();
        assert!(names(staged.path()).is_empty());
        let error = StagedFolder::begin(&out).unwrap_err();
        assert!(matches!(error, IoError::InUse { .. }), "{error}");
        staged.commit().unwrap();
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_folder_that_was_being_replaced_is_found_and_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write(&out, "one");
        fs::rename(&out, previous(&out)).unwrap();
        assert_eq!(existing(&out, "a"), previous(&out));
        restore(&out).unwrap();
        assert_eq!(existing(&out, "a"), out);
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "one");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_folder_has_one_writer_until_the_lock_of_a_commit_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        for _ in 0..2 {
            let staged = StagedFolder::begin(&out).unwrap();
            let error = StagedFolder::begin(&out).unwrap_err();
            assert!(matches!(error, IoError::InUse { .. }), "{error}");
            let lock = staged.commit().unwrap();
            let error = StagedFolder::begin(&out).unwrap_err();
            assert!(matches!(error, IoError::InUse { .. }), "{error}");
            assert_eq!(names(dir.path()), ["out"]);
            drop(lock);
        }
    }

    #[test]
    fn folders_made_for_a_write_that_is_given_up_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let staged = StagedFolder::begin(&dir.path().join("a/b/out")).unwrap();
        fs::write(dir.path().join("a/mine"), "x").unwrap();
        drop(staged);
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(names(&dir.path().join("a")), ["mine"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_folder_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        write(&real, "one");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        write(&link, "two");
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(real.join("a")).unwrap(), "two");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_one_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = StagedFolder::begin(&file.join("out")).unwrap_err();
        assert!(error.to_string().contains("cannot be written"), "{error}");
        let error = StagedFolder::begin(&file).unwrap_err();
        assert!(matches!(error, IoError::InTheWay { .. }), "{error}");
    }

    #[test]
    fn files_below_a_folder_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        fs::write(dir.path().join("b/c/x"), "").unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        let found = files_below(dir.path()).unwrap();
        assert_eq!(found, [PathBuf::from("a"), PathBuf::from("b/c/x")]);
    }
}
