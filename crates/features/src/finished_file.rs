//! A file appears under its name only when it is whole: temporary file beside it, fsync, rename.

use std::fs::File;
use std::io;
use std::path::Path;

/// Calls `write` on a temporary file in the folder of `path` and renames it to `path` once all of it is on the disk.
pub(crate) fn write_finished<E>(
    path: &Path,
    io_error: impl Fn(io::Error) -> E,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".unfinished-");
    #[cfg(unix)]
    {
        // As any new file (the umask applies), not as a private one.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(&io_error)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(&io_error)?;
    file.persist(path).map_err(|error| io_error(error.error))?;
    // The rename itself; some file systems cannot sync a folder, and then there is nothing more to be done.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
