//! Folders of this crate's files, whole or absent.

use std::path::Path;

use lapidary_io::{FolderLock, IoError, StagedFolder, files_below};

use crate::error::SaeError;

/// Makes `folder` with what `fill` writes into the (temporary) folder it is given, in place of what stood there.
///
/// `is_ours` says of a path relative to `folder` whether the old one may hold such a file.
///
/// # Errors
/// The old one holds another file, which would be lost; another process writes the same folder; something cannot be
/// written, or `fill` fails. What stood there stands there still.
pub fn replace_folder(
    folder: &Path,
    is_ours: impl Fn(&Path) -> bool,
    fill: impl FnOnce(&Path) -> Result<(), SaeError>,
) -> Result<(), SaeError> {
    refuse_foreign(folder, is_ours)?;
    let staged = StagedFolder::begin(folder).map_err(|e| named(folder, e.into()))?;
    fill_folder(staged, fill).map(drop)
}

/// The same for a folder that was begun before; gives the lock of the finished one.
///
/// # Errors
/// Something cannot be written, or `fill` fails. The old folder is unchanged.
pub fn fill_folder(
    staged: StagedFolder,
    fill: impl FnOnce(&Path) -> Result<(), SaeError>,
) -> Result<FolderLock, SaeError> {
    let folder = staged.target().to_path_buf();
    fill(staged.path()).map_err(|e| named(&folder, e))?;
    staged.commit().map_err(|e| named(&folder, e.into()))
}

/// An error inside names the temporary folder; the user knows only the final one.
fn named(folder: &Path, error: SaeError) -> SaeError {
    match error {
        SaeError::Write { source, .. } | SaeError::Io(IoError::Write { source, .. }) => {
            SaeError::write(folder, source)
        }
        other => other,
    }
}

/// Refuses a folder with a file that is not `is_ours`, by its name.
fn refuse_foreign(folder: &Path, is_ours: impl Fn(&Path) -> bool) -> Result<(), SaeError> {
    if !folder.is_dir() {
        return Ok(());
    }
    match files_below(folder)?.into_iter().find(|file| !is_ours(file)) {
        None => Ok(()),
        Some(file) => Err(IoError::InTheWay {
            path: folder.join(file),
            expected: "nothing but what this program wrote there, since the folder is replaced: move it away, or choose another folder",
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapidary_io::write_synced;
    use std::{fs, io};

    #[test]
    fn a_failed_write_leaves_the_old_folder_and_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("dictionary");
        let write = |text: &'static str| {
            move |d: &Path| {
                write_synced(&d.join("a"), text.as_bytes()).map_err(|e| SaeError::write(d, e))
            }
        };
        let ours = |file: &Path| file == Path::new("a");
        replace_folder(&out, ours, write("one")).unwrap();
        let error = replace_folder(&out, ours, |d| {
            write("half")(d)?;
            let full = io::Error::from(io::ErrorKind::StorageFull);
            Err(SaeError::write(&d.join("b"), full))
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("dictionary") && error.contains("nothing was changed"),
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
        let error = replace_folder(&out, |_| false, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("deep/mine.pt"), "{error}");
        assert!(out.join("deep/mine.pt").exists());
    }
}
