//! Files with named tensors: safetensors, PyTorch's zip archives and NumPy's, read without running
//! any code of theirs.

mod npz;
mod torch;

use std::path::{Path, PathBuf};

use lapidary_coder::CoderError;
use lapidary_io::tensors::Tensors;
use lapidary_kernels::MappedFile;

pub(crate) use torch::{Stored, write as write_torch};

/// A file with named tensors.
pub struct Container(Kind);

enum Kind {
    Safetensors(PathBuf, MappedFile),
    Torch(torch::TorchFile),
    Npz(npz::NpzFile),
}

impl Container {
    /// Opens `.safetensors`, `.pt` (or `.pth`, `.bin`) or `.npz`. Elements are not read.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what its ending says.
    pub fn open(path: &Path) -> Result<Self, CoderError> {
        let kind = match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => {
                let bytes = MappedFile::open(path).map_err(|e| CoderError::read(path, e))?;
                Kind::Safetensors(path.to_path_buf(), bytes)
            }
            Some("pt" | "pth" | "bin") => Kind::Torch(torch::TorchFile::open(path)?),
            Some("npz") => Kind::Npz(npz::NpzFile::open(path)?),
            _ => {
                return Err(CoderError::format(
                    path,
                    "name",
                    "another ending",
                    ".safetensors, .pt, .pth, .bin or .npz",
                ));
            }
        };
        Ok(Self(kind))
    }

    /// Its tensors.
    ///
    /// # Errors
    /// When what it lists is damaged.
    pub fn tensors(&self) -> Result<Tensors<'_>, CoderError> {
        match &self.0 {
            Kind::Safetensors(path, bytes) => Ok(Tensors::parse(path, bytes)?),
            Kind::Torch(file) => Ok(file.tensors()),
            Kind::Npz(file) => Ok(file.tensors()),
        }
    }

    /// What else than tensors a PyTorch file holds at its top, by name.
    pub(crate) fn others(&self) -> Vec<(&str, &torch::Value)> {
        match &self.0 {
            Kind::Torch(file) => file.others(),
            _ => vec![],
        }
    }
}

/// The error of an archive.
fn damaged(path: &Path, found: impl ToString, expected: &str) -> CoderError {
    CoderError::format(path, "archive", found.to_string(), expected)
}
