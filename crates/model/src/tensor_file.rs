//! The named tensors of a model, in one safetensors file, in shards
//! (`model.safetensors.index.json`), or in a file that another reader has understood; and the
//! writing of a safetensors file. `lapidary-io` reads the headers.

use crate::encoding::Encoding;
use crate::{ModelError, found};
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_io::safetensors_header;
use lapidary_kernels::MappedFile;
use rayon::prelude::*;
use safetensors::SafeTensorError;
use safetensors::tensor::Dtype;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, Range};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The tensors of one or several files, mapped into memory and decoded one at a time, when they are
/// asked for.
pub struct TensorFile {
    files: Vec<File>,
    tensors: BTreeMap<String, Entry>,
    /// What has been read.
    read: Mutex<BTreeSet<String>>,
    /// Where a missing tensor is reported.
    path: PathBuf,
}

struct File {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Static(&'static [u8]),
    Mapped(MappedFile),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Mapped(file) => file,
        }
    }
}

/// Where a tensor is and how it is stored.
pub(crate) struct Entry {
    pub file: usize,
    /// Or the dtype, which is not one of floats.
    pub encoding: Result<Encoding, Dtype>,
    pub shape: Vec<usize>,
    pub bytes: Range<usize>,
    pub stored: Stored,
}

/// How a file's numbers differ from what is handed out, which is as a Hugging Face folder has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Not at all.
    AsIs,
    /// Rows belong to this many heads, in each of which the two rotary halves alternate; they are
    /// handed out one after the other.
    RotaryPairs(usize),
    /// Rows are this many heads' queries, then their keys, then their values; they are handed out
    /// head by head.
    HeadsApart(usize),
    /// Columns are rows.
    Turned,
    /// One is handed out less than is stored.
    OneMore,
}

/// Numbers decoded at once by a thread.
const DECODED_AT_ONCE: usize = 1 << 16;

/// `model.safetensors.index.json`: which file has which tensor.
#[derive(Deserialize)]
pub(crate) struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index whose every shard is a file beside it: `..` or an absolute path would lead
    /// outside the model's folder.
    pub(crate) fn read(path: &Path) -> Result<Self, ModelError> {
        let index: Self = lapidary_io::read_json(path)?;
        let beside = |shard: &str| {
            let mut parts = Path::new(shard).components();
            matches!(parts.next(), Some(Component::Normal(_)))
                && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        let outside = index.shards().into_iter().find(|shard| !beside(shard));
        match outside.map(str::to_owned) {
            Some(shard) => Err(ModelError::Field {
                path: path.into(),
                field: "weight_map".into(),
                found: format!("{shard:?}"),
                expected: "the name of a file in the same folder".into(),
            }),
            None => Ok(index),
        }
    }

    /// The files, each once.
    pub(crate) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

impl TensorFile {
    /// Opens one file.
    ///
    /// # Errors
    /// When it cannot be read or is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mut read = Self {
            files: vec![],
            tensors: BTreeMap::new(),
            read: Mutex::default(),
            path: path.into(),
        };
        read.map(path.into())?;
        Ok(read)
    }

    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` or their own
    /// names tell, in a folder.
    pub(crate) fn open_model(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() {
            return Self::open(&single);
        }
        let (path, shards, promised) = match index.exists() {
            true => {
                let parsed = Index::read(&index)?;
                let shards = parsed.shards().into_iter().map(str::to_owned).collect();
                (index, shards, parsed.weight_map)
            }
            false => (folder.into(), found::shards(folder)?, BTreeMap::new()),
        };
        let mut read = Self {
            files: vec![],
            tensors: BTreeMap::new(),
            read: Mutex::default(),
            path,
        };
        for shard in shards {
            read.map(folder.join(shard))?;
        }
        for (tensor, shard) in promised {
            if !read.tensors.contains_key(&tensor) {
                return Err(ModelError::MissingTensor {
                    path: folder.join(shard),
                    tensor,
                });
            }
        }
        Ok(read)
    }

    /// Reads a safetensors file that is already in memory; `path` is what errors call it.
    pub(crate) fn from_bytes(path: &Path, bytes: &'static [u8]) -> Result<Self, ModelError> {
        let mut read = Self {
            files: vec![],
            tensors: BTreeMap::new(),
            read: Mutex::default(),
            path: path.into(),
        };
        read.add(path.into(), Bytes::Static(bytes))?;
        Ok(read)
    }

    /// The tensors of a file that another reader has understood.
    pub(crate) fn of_entries(
        path: &Path,
        bytes: MappedFile,
        tensors: BTreeMap<String, Entry>,
    ) -> Self {
        let file = File {
            path: path.into(),
            bytes: Bytes::Mapped(bytes),
        };
        Self {
            files: vec![file],
            tensors,
            read: Mutex::default(),
            path: path.into(),
        }
    }

    fn map(&mut self, path: PathBuf) -> Result<(), ModelError> {
        let bytes = MappedFile::open(&path).map_err(ModelError::read(&path))?;
        self.add(path, Bytes::Mapped(bytes))
    }

    fn add(&mut self, path: PathBuf, bytes: Bytes) -> Result<(), ModelError> {
        let tensors = safetensors_header(&bytes).map_err(|e| ModelError::Safetensors {
            path: path.clone(),
            problem: describe(&e, bytes.len()),
        })?;
        let file = self.files.len();
        let entries = tensors.into_iter().map(|(name, located)| {
            let entry = Entry {
                file,
                encoding: match located.dtype {
                    Dtype::F64 => Ok(Encoding::F64),
                    Dtype::F32 => Ok(Encoding::F32),
                    Dtype::F16 => Ok(Encoding::F16),
                    Dtype::BF16 => Ok(Encoding::BF16),
                    other => Err(other),
                },
                shape: located.shape,
                bytes: located.bytes,
                stored: Stored::AsIs,
            };
            (name, entry)
        });
        self.tensors.extend(entries);
        self.files.push(File { path, bytes });
        Ok(())
    }

    pub(crate) fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Where a missing tensor is reported.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is there and has not been read.
    pub(crate) fn unread(&self) -> Vec<&str> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.tensors.keys().filter(|name| !read.contains(*name));
        names.map(String::as_str).collect()
    }

    /// The tensors' names, sorted, with dtype and shape.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, String, &[usize])> {
        self.tensors.iter().map(|(name, e)| {
            let dtype = match &e.encoding {
                Ok(encoding) => format!("{encoding:?}"),
                Err(dtype) => format!("{dtype:?}"),
            };
            (name.as_str(), dtype, e.shape.as_slice())
        })
    }

    /// A tensor's shape and its values in f32.
    ///
    /// # Errors
    /// When the tensor is missing, is not F64, F32, F16 or BF16, or holds values that are not
    /// finite.
    pub fn read(&self, tensor: &str) -> Result<(Vec<usize>, Vec<f32>), ModelError> {
        let entry = self.entry(tensor)?;
        Ok((entry.shape.clone(), self.values(tensor, &entry.shape)?))
    }

    fn entry(&self, tensor: &str) -> Result<&Entry, ModelError> {
        let missing = || ModelError::MissingTensor {
            path: self.path.clone(),
            tensor: tensor.into(),
        };
        self.tensors.get(tensor).ok_or_else(missing)
    }

    fn values(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let entry = self.entry(tensor)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(tensor.to_owned());
        drop(read);
        let file = &self.files[entry.file];
        if entry.shape != shape {
            return Err(ModelError::Shape {
                path: file.path.clone(),
                tensor: tensor.into(),
                found: entry.shape.clone(),
                expected: shape.into(),
            });
        }
        let bytes = &file.bytes[entry.bytes.clone()];
        let encoding = entry.encoding.map_err(|other| ModelError::Dtype {
            path: file.path.clone(),
            tensor: tensor.into(),
            found: format!("{other:?}"),
        })?;
        let (weights, size) = encoding.block();
        let mut values = vec![0.0; bytes.len() / size * weights];
        let blocks = DECODED_AT_ONCE / weights;
        values
            .par_chunks_mut(blocks * weights)
            .zip(bytes.par_chunks(blocks * size))
            .for_each(|(values, bytes)| encoding.decode(bytes, values));
        if entry.stored != Stored::AsIs {
            values = entry.stored.undo(values, shape).ok_or_else(|| {
                let parts = match entry.stored {
                    Stored::RotaryPairs(heads) => vec![heads, 2],
                    Stored::HeadsApart(heads) => vec![3, heads],
                    _ => vec![],
                };
                ModelError::Shape {
                    path: file.path.clone(),
                    tensor: tensor.into(),
                    found: entry.shape.clone(),
                    expected: parts,
                }
            })?;
        }
        let count = values.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(ModelError::NotFinite {
                path: file.path.clone(),
                tensor: tensor.into(),
                count,
            });
        }
        Ok(values)
    }

    /// A vector of `n` values in f32.
    pub(crate) fn vector(
        &self,
        tensor: &str,
        n: usize,
        device: &Device,
    ) -> Result<Tensor<1>, ModelError> {
        Ok(Tensor::from_data(
            TensorData::new(self.values(tensor, &[n])?, [n]),
            device,
        ))
    }

    /// A matrix as the file has it, in f32.
    pub(crate) fn matrix(
        &self,
        tensor: &str,
        shape: [usize; 2],
        device: &Device,
    ) -> Result<Tensor<2>, ModelError> {
        Ok(Tensor::from_data(
            TensorData::new(self.values(tensor, &shape)?, shape),
            device,
        ))
    }

    /// A matrix that the file holds as `[out, in]`, handed out as `[in, out]`, contiguous.
    pub(crate) fn transposed(
        &self,
        tensor: &str,
        [rows, cols]: [usize; 2],
        device: &Device,
    ) -> Result<Tensor<2>, ModelError> {
        let values = self.values(tensor, &[cols, rows])?;
        let mut turned = vec![0.0; values.len()];
        for (c, row) in values.chunks_exact(rows).enumerate() {
            for (r, value) in row.iter().enumerate() {
                turned[r * cols + c] = *value;
            }
        }
        Ok(Tensor::from_data(
            TensorData::new(turned, [rows, cols]),
            device,
        ))
    }
}

impl Stored {
    /// A file's values as they are handed out, in `shape`; `None` where rows do not divide so.
    fn undo(self, values: Vec<f32>, shape: &[usize]) -> Option<Vec<f32>> {
        let rows = *shape.first().filter(|rows| **rows > 0)?;
        let parts = |n: usize| (n > 0 && rows.is_multiple_of(n)).then(|| rows / n);
        match self {
            Self::AsIs => Some(values),
            Self::OneMore => Some(values.into_iter().map(|x| x - 1.0).collect()),
            Self::Turned => {
                let columns = values.len() / rows;
                let at = |i: usize| values[i % columns * rows + i / columns];
                Some((0..values.len()).map(at).collect())
            }
            Self::RotaryPairs(heads) => {
                let half = parts(heads.checked_mul(2)?)?;
                let from = |row: usize| {
                    let (head, place) = (row / (2 * half), row % (2 * half));
                    head * 2 * half + 2 * (place % half) + place / half
                };
                Some(rows_from(&values, rows, from))
            }
            Self::HeadsApart(heads) => {
                let d_head = parts(heads.checked_mul(3)?)?;
                let from = |row: usize| {
                    let (head, place) = (row / (3 * d_head), row % (3 * d_head));
                    (place / d_head * heads + head) * d_head + place % d_head
                };
                Some(rows_from(&values, rows, from))
            }
        }
    }
}

/// The rows in another order: row r is the one at `from(r)`.
fn rows_from(values: &[f32], rows: usize, from: impl Fn(usize) -> usize) -> Vec<f32> {
    let width = values.len() / rows;
    let mut ordered = Vec::with_capacity(values.len());
    for row in (0..rows).map(from) {
        ordered.extend_from_slice(&values[row * width..(row + 1) * width]);
    }
    ordered
}

fn describe(error: &SafeTensorError, found: usize) -> String {
    match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            format!(
                "its header describes another size than the {found} bytes found; was it truncated?"
            )
        }
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            format!("the {found} bytes found end before the header does")
        }
        other => format!("{other} ({found} bytes)"),
    }
}
