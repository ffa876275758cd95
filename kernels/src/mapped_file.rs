//! A file's bytes without reading them first: the kernel brings pages in as they are looked at, and
//! may drop them again.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file mapped into memory, read-only.
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a file as long as it is now. Files that are mapped must not be changed in place
    /// meanwhile: replace a model by renaming a new file over it, as every download does. (A file
    /// that another process shortens ends this one, as it does with every program that maps
    /// weights.)
    ///
    /// # Errors
    /// When the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and private to this value, which hands out shared slices
        // of bytes; any byte pattern is valid for them. That the file is not changed in place is
        // the contract stated above.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_the_files() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert_eq!(
            &*MappedFile::open(&file).unwrap(),
            std::fs::read(&file).unwrap()
        );
        assert!(MappedFile::open(Path::new("no such file")).is_err());
    }
}
