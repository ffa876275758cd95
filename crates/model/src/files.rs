//! Files that are whole or absent.

use crate::ModelError;
use std::io::Write;
use std::path::Path;

/// Writes a file under a temporary name, syncs it, and gives it its name.
///
/// # Errors
/// When the folder cannot be written to; nothing then stands under the final name.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; this one becomes an ordinary file, under the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder
        .tempfile_in(folder)
        .map_err(ModelError::write(path))?;
    file.write_all(bytes).map_err(ModelError::write(path))?;
    file.as_file().sync_all().map_err(ModelError::write(path))?;
    file.persist(path).map_err(|e| ModelError::Write {
        path: path.into(),
        source: e.error,
    })?;
    Ok(())
}
