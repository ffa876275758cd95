//! Files that are whole or absent: written under a temporary name, synced, renamed.
//!
//! The temporary file of `NAME` is `.NAME.writing-XXXXXX` beside it and locked while it is written.
//! One that nobody locks is what a killed process left; the next write of `NAME` removes it.

use crate::IoError;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A temporary name is the file's name, this, and a random end.
pub(crate) const WRITING: &str = ".writing";
/// Symbolic links that are followed to where a file shall be written.
const MAX_LINKS: usize = 40;

/// Writes a file so that it appears whole or not at all, through a symbolic link where `path` is
/// one.
///
/// # Errors
/// The folder cannot be written to, or something other than a regular file has the name; what stood
/// there is unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    write_file(path, |file| {
        file.write_all(bytes).map_err(IoError::write(path))
    })
}

/// The same for a file whose content `fill` writes.
///
/// # Errors
/// As there, or when `fill` fails.
pub fn write_file<E: From<IoError>>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let target = check_target(path)?;
    let failed = || IoError::write(path);
    let folder = parent(&target);
    let name = target.file_name().unwrap_or_default();
    remove_scratch_of(folder, name);
    let mut builder = tempfile::Builder::new();
    let prefix = scratch_prefix(name);
    builder.prefix(&prefix);
    // Temporary files are private by default; this one becomes an ordinary file, under the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(failed())?;
    // Without locks on this file system the file is only never taken for abandoned.
    let _ = file.as_file().try_lock();
    fill(file.as_file_mut())?;
    file.as_file().sync_all().map_err(failed())?;
    file.persist(&target)
        .map_err(|e| IoError::write(path)(e.error))?;
    sync_folder(folder);
    Ok(())
}

/// Where a file named `path` is written: `path` itself, or what it links to.
///
/// Commands call this before long work, so that a name that cannot be written to is refused at
/// once.
///
/// # Errors
/// A device, a FIFO, a socket or a folder has the name, or the folder around it does not exist.
pub fn check_target(path: &Path) -> Result<PathBuf, IoError> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let found = match target.symlink_metadata() {
            Ok(found) => found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let folder = parent(&target);
                folder.metadata().map_err(IoError::write(path))?;
                return Ok(target);
            }
            Err(e) => return Err(IoError::write(path)(e)),
        };
        if found.is_symlink() {
            let link = target.read_link().map_err(IoError::write(path))?;
            target = parent(&target).join(link);
        } else if found.is_file() {
            return Ok(target);
        } else {
            return Err(IoError::NotAFile {
                path: path.into(),
                found: kind(&found),
            });
        }
    }
    let endless = std::io::Error::other("symbolic links without end");
    Err(IoError::write(path)(endless))
}

/// What something that is no regular file is.
fn kind(found: &Metadata) -> &'static str {
    if found.is_dir() {
        return "a folder";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let found = found.file_type();
        if found.is_fifo() {
            return "a FIFO";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    "something else"
}

/// Writes the new file `path` in a folder that is not in use yet, and forces it to the disk.
///
/// # Errors
/// It cannot be written.
pub fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes what dead processes left in `folder` of files and folders ([`crate::StagedFolder`])
/// whose name `is_ours` knows.
///
/// What a living process writes is locked, and stays.
pub fn remove_scratch(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    remove_where(folder, |name| {
        let name = name.to_string_lossy();
        let parts = name.strip_prefix('.').and_then(|n| n.rsplit_once(WRITING));
        parts.is_some_and(|(name, end)| (end.is_empty() || end.starts_with('-')) && is_ours(name))
    });
}

fn remove_scratch_of(folder: &Path, name: &std::ffi::OsStr) {
    let prefix = scratch_prefix(name);
    remove_where(folder, |found| {
        found
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes())
    });
}

fn remove_where(folder: &Path, is_scratch: impl Fn(&OsString) -> bool) {
    // Whatever cannot be listed, opened or removed is left: it is in nobody's way.
    let Ok(entries) = folder.read_dir() else {
        return;
    };
    for entry in entries.flatten().filter(|e| is_scratch(&e.file_name())) {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if !(kind.is_file() || kind.is_dir()) {
            continue;
        }
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if file.try_lock().is_err() {
            continue;
        }
        let _ = match kind.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
    }
}

fn scratch_prefix(name: &std::ffi::OsStr) -> OsString {
    let mut prefix = scratch_name(name);
    prefix.push("-");
    prefix
}

/// `.NAME.writing`, with a name short enough for every file system.
pub(crate) fn scratch_name(name: &std::ffi::OsStr) -> OsString {
    let text = name.to_string_lossy();
    let mut short: &str = &text;
    while short.len() > 200 {
        short = &short[..short.floor_char_boundary(200)];
    }
    let mut scratch = OsString::from(".");
    match short.len() == name.len() {
        true => scratch.push(name),
        false => scratch.push(short),
    }
    scratch.push(WRITING);
    scratch
}

pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Forces the names inside `folder` to the disk, where the file system can.
pub(crate) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
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

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomically(&path, b"one").unwrap();
        let error: IoError = write_file(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(IoError::write(&path)(
                std::io::ErrorKind::StorageFull.into(),
            ))
        })
        .unwrap_err();
        assert!(error.to_string().contains("no storage space"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("real");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("file"), "old").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real/file", &link).unwrap();
        let second = dir.path().join("second");
        std::os::unix::fs::symlink("link", &second).unwrap();
        write_atomically(&second, b"new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert!(second.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"new");
        // One that leads nowhere yet.
        std::fs::remove_file(folder.join("file")).unwrap();
        write_atomically(&link, b"again").unwrap();
        assert_eq!(std::fs::read(folder.join("file")).unwrap(), b"again");
        assert_eq!(names(&folder), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_refused() {
        use std::os::unix::fs::FileTypeExt;
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for (path, what) in [
            (socket.as_path(), "a socket"),
            (Path::new("/dev/null"), "a device"),
            (&link, "a device"),
            (dir.path(), "a folder"),
        ] {
            let error = write_atomically(path, b"x").unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let null = Path::new("/dev/null").metadata().unwrap();
        assert!(null.file_type().is_char_device());
        let nowhere = dir.path().join("no/file");
        assert!(check_target(&nowhere).is_err());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_being_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".a.writing-Ab12Cd");
        std::fs::write(&left, "half").unwrap();
        let in_use = dir.path().join(".a.writing-Ef34Gh");
        std::fs::write(&in_use, "half").unwrap();
        let lock = File::open(&in_use).unwrap();
        lock.try_lock().unwrap();
        let other = dir.path().join(".b.writing");
        std::fs::create_dir(&other).unwrap();
        write_atomically(&dir.path().join("a"), b"x").unwrap();
        assert_eq!(names(dir.path()), [".a.writing-Ef34Gh", ".b.writing", "a"]);
        remove_scratch(dir.path(), |name| name != "b");
        assert!(other.exists());
        remove_scratch(dir.path(), |_| true);
        assert_eq!(names(dir.path()), [".a.writing-Ef34Gh", "a"]);
    }

    #[test]
    fn a_long_name_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("é".repeat(120));
        write_atomically(&path, b"x").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }
}
