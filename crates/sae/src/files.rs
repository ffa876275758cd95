//! Writing so that a final name never holds half of something: temporary name beside it, fsync, rename.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::SaeError;

/// Removes a folder when dropped, unless told that it was renamed away.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // Already failing: a left-over temporary folder is the lesser trouble.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Writes `bytes` to the new file `path` and forces them to the disk.
///
/// # Errors
/// When it cannot be written.
pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Where [`replace_folder`] keeps the previous content until the new one stands, and where a reader finds it if the
/// program died between the two.
pub(crate) fn previous(folder: &Path) -> PathBuf {
    beside(folder, "previous")
}

/// The folder to read: `folder`, or its predecessor if the program died while replacing it. `marker` is a file that every
/// whole folder of the kind has.
#[must_use]
pub fn standing(folder: &Path, marker: &str) -> PathBuf {
    let old = previous(folder);
    if !folder.join(marker).exists() && old.join(marker).exists() {
        old
    } else {
        folder.to_path_buf()
    }
}

/// Removes a folder that was written all at once, such as a dictionary or a checkpoint, and its predecessor if one was left
/// over.
///
/// # Errors
/// When one of them cannot be removed.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    for path in [previous(folder), folder.to_path_buf()] {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

fn beside(folder: &Path, what: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".");
    name.push(what);
    folder.with_file_name(name)
}

/// Makes `folder` with what `fill` writes into the (temporary) folder it is given, in place of what stood there.
///
/// # Errors
/// When something cannot be written, or `fill` fails; what stood there stands there still.
pub fn replace_folder(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), SaeError>,
) -> Result<(), SaeError> {
    let named = |e: io::Error| SaeError::write(folder, e);
    let folder = &if folder.file_name().is_some() {
        folder.to_path_buf()
    } else {
        // "." and ".." have no name to put a temporary one beside.
        folder.canonicalize().map_err(named)?
    };
    let parent = match folder.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(named)?;
    let mut scratch = Scratch {
        path: beside(folder, &format!("writing-{}", std::process::id())),
        keep: false,
    };
    if scratch.path.exists() {
        fs::remove_dir_all(&scratch.path).map_err(named)?;
    }
    fs::create_dir(&scratch.path).map_err(named)?;
    // An error inside names the temporary place; the user knows only the final one.
    fill(&scratch.path).map_err(|e| match e {
        SaeError::Write { source, .. } => SaeError::write(folder, source),
        other => other,
    })?;
    sync_folder(&scratch.path).map_err(named)?;
    let previous = previous(folder);
    if folder.exists() {
        if previous.exists() {
            fs::remove_dir_all(&previous).map_err(named)?;
        }
        fs::rename(folder, &previous).map_err(named)?;
    }
    if let Err(e) = fs::rename(&scratch.path, folder) {
        // Put back what stood there; if even that fails, the reader still looks at `previous`.
        let _ = fs::rename(&previous, folder);
        return Err(named(e));
    }
    scratch.keep = true;
    sync_folder(&parent).map_err(named)?;
    if previous.exists() {
        fs::remove_dir_all(&previous).map_err(named)?;
    }
    Ok(())
}

/// Forces the names inside `folder` to the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut v: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        v.sort();
        v
    }

    #[test]
    fn a_failed_write_leaves_the_old_folder_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("dictionary");
        let write = |text: &'static str| {
            move |d: &Path| {
                write_synced(&d.join("a"), text.as_bytes()).map_err(|e| SaeError::write(d, e))
            }
        };
        replace_folder(&out, write("one")).unwrap();
        let error = replace_folder(&out, |d| {
            write("half")(d)?;
            Err(SaeError::write(
                &d.join("b"),
                io::Error::from(io::ErrorKind::StorageFull),
            ))
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("dictionary") && error.contains("nothing was changed"),
            "{error}"
        );
        assert!(error.contains("no storage space"), "{error}");
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "one");
        assert_eq!(names(dir.path()), ["dictionary"]);
        replace_folder(&out, write("two")).unwrap();
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "two");
        assert_eq!(names(dir.path()), ["dictionary"]);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_one_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = replace_folder(&file.join("out"), |_| Ok(()))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("cannot write "), "{error}");
    }
}
