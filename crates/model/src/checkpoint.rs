//! Named tensors out of safetensors files, single or sharded (`model.safetensors.index.json`), checked before use.

use crate::ModelError;
use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// The tensors of a model, held as the bytes of its files until they are asked for.
pub(crate) struct Checkpoint {
    files: Vec<File>,
    tensors: BTreeMap<String, Entry>,
    /// Where a missing tensor is reported.
    path: PathBuf,
}

struct File {
    path: PathBuf,
    bytes: Cow<'static, [u8]>,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in a folder.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() || !index.exists() {
            let mut checkpoint = Self { files: vec![], tensors: BTreeMap::new(), path: single.clone() };
            let bytes = std::fs::read(&single).map_err(ModelError::read(&single))?;
            checkpoint.add(single, bytes.into())?;
            return Ok(checkpoint);
        }
        let text = std::fs::read_to_string(&index).map_err(ModelError::read(&index))?;
        let parsed: Index =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { path: index.clone(), source })?;
        let mut checkpoint = Self { files: vec![], tensors: BTreeMap::new(), path: index.clone() };
        let shards: std::collections::BTreeSet<_> = parsed.weight_map.values().collect();
        for shard in shards {
            // A shard is a file beside its index: `..` or an absolute path would read outside the model's folder.
            let inside = Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)));
            if !inside || shard.is_empty() {
                return Err(ModelError::Field {
                    path: index,
                    field: "weight_map".into(),
                    found: format!("{shard:?}"),
                    expected: "the name of a file in the same folder".into(),
                });
            }
            let path = folder.join(shard);
            let bytes = std::fs::read(&path).map_err(ModelError::read(&path))?;
            checkpoint.add(path, bytes.into())?;
        }
        for (tensor, shard) in parsed.weight_map {
            if !checkpoint.tensors.contains_key(&tensor) {
                return Err(ModelError::MissingTensor { path: folder.join(shard), tensor });
            }
        }
        Ok(checkpoint)
    }

    /// Reads a safetensors file that is already in memory; `path` is what errors call it.
    pub fn from_bytes(path: &Path, bytes: &'static [u8]) -> Result<Self, ModelError> {
        let mut checkpoint = Self { files: vec![], tensors: BTreeMap::new(), path: path.into() };
        checkpoint.add(path.into(), bytes.into())?;
        Ok(checkpoint)
    }

    fn add(&mut self, path: PathBuf, bytes: Cow<'static, [u8]>) -> Result<(), ModelError> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| ModelError::Safetensors { path: path.clone(), problem: describe(&e, bytes.len()) })?;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let bytes = 8 + header + start..8 + header + end;
            self.tensors.insert(name, Entry { file, dtype: info.dtype, shape: info.shape.clone(), bytes });
        }
        self.files.push(File { path, bytes });
        Ok(())
    }

    pub fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    fn values(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let missing = || ModelError::MissingTensor { path: self.path.clone(), tensor: tensor.into() };
        let entry = self.tensors.get(tensor).ok_or_else(missing)?;
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
        let values: Vec<f32> = match entry.dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => {
                return Err(ModelError::Dtype {
                    path: file.path.clone(),
                    tensor: tensor.into(),
                    found: format!("{other:?}"),
                });
            }
        };
        let count = values.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(ModelError::NotFinite { path: file.path.clone(), tensor: tensor.into(), count });
        }
        Ok(values)
    }

    /// A vector of `n` values in f32.
    pub fn vector(&self, tensor: &str, n: usize, device: &Device) -> Result<Tensor<1>, ModelError> {
        Ok(Tensor::from_data(TensorData::new(self.values(tensor, &[n])?, [n]), device))
    }

    /// A matrix as the file has it, in f32.
    pub fn matrix(&self, tensor: &str, shape: [usize; 2], device: &Device) -> Result<Tensor<2>, ModelError> {
        Ok(Tensor::from_data(TensorData::new(self.values(tensor, &shape)?, shape), device))
    }

    /// A matrix that the file holds as `[out, in]`, handed out as `[in, out]`, contiguous.
    pub fn transposed(&self, tensor: &str, [rows, cols]: [usize; 2], device: &Device) -> Result<Tensor<2>, ModelError> {
        let values = self.values(tensor, &[cols, rows])?;
        let mut turned = vec![0.0; values.len()];
        for (c, row) in values.chunks_exact(rows).enumerate() {
            for (r, value) in row.iter().enumerate() {
                turned[r * cols + c] = *value;
            }
        }
        Ok(Tensor::from_data(TensorData::new(turned, [rows, cols]), device))
    }
}

fn describe(error: &safetensors::SafeTensorError, found: usize) -> String {
    match error {
        safetensors::SafeTensorError::MetadataIncompleteBuffer => {
            format!("its header describes another size than the {found} bytes found; was it truncated?")
        }
        safetensors::SafeTensorError::HeaderTooSmall | safetensors::SafeTensorError::InvalidHeaderLength => {
            format!("the {found} bytes found end before the header does")
        }
        other => format!("{other} ({found} bytes)"),
    }
}
