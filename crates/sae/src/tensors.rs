//! Named tensors in a safetensors file, read as if an enemy had written it: every shape is checked against what the
//! caller expects before anything is allocated, and an error names file, tensor, what was found and what was expected.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::SaeError;
use crate::files::write_synced;

/// Tensors to be written, as bytes.
#[derive(Default)]
pub(crate) struct TensorWriter {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl TensorWriter {
    /// Adds numbers with a shape.
    pub(crate) fn f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors
            .push((name.to_owned(), Dtype::F32, shape.to_vec(), bytes));
    }

    /// Adds f64 numbers.
    pub(crate) fn f64(&mut self, name: &str, values: &[f64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors
            .push((name.to_owned(), Dtype::F64, vec![values.len()], bytes));
    }

    /// Adds whole numbers.
    pub(crate) fn u64(&mut self, name: &str, values: &[u64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors
            .push((name.to_owned(), Dtype::U64, vec![values.len()], bytes));
    }

    /// Adds a tensor, read from its device.
    pub(crate) fn tensor<const D: usize>(
        &mut self,
        name: &str,
        tensor: &Tensor<D>,
    ) -> Result<(), SaeError> {
        let shape = tensor.dims();
        self.f32(name, &shape, &host(tensor)?);
        Ok(())
    }

    /// Writes the file.
    pub(crate) fn write(
        &self,
        path: &Path,
        metadata: Option<HashMap<String, String>>,
    ) -> Result<(), SaeError> {
        let views: Vec<(String, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                let view = TensorView::new(*dtype, shape.clone(), bytes)
                    .expect("shape and bytes were made together");
                (name.clone(), view)
            })
            .collect();
        let bytes = safetensors::serialize(views, metadata)
            .map_err(|e| SaeError::write(path, std::io::Error::other(e.to_string())))?;
        write_synced(path, &bytes).map_err(|e| SaeError::write(path, e))
    }
}

/// Values of a tensor on the host.
///
/// # Errors
/// The device cannot give them back.
pub fn host<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>, SaeError> {
    tensor
        .clone()
        .try_into_vec_as::<f32>()
        .map_err(|e| SaeError::Device {
            what: "a tensor",
            message: format!("{e:?}"),
        })
}

/// Values of an integer tensor on the host.
///
/// # Errors
/// The device cannot give them back.
pub fn host_int<const D: usize>(tensor: &Tensor<D, Int>) -> Result<Vec<i32>, SaeError> {
    tensor
        .clone()
        .try_into_vec_as::<i32>()
        .map_err(|e| SaeError::Device {
            what: "a tensor of integers",
            message: format!("{e:?}"),
        })
}

/// A safetensors file in memory.
pub(crate) struct TensorReader {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// The tensors of a [`TensorReader`].
pub(crate) struct Tensors<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl TensorReader {
    /// Reads the whole file.
    pub(crate) fn open(path: &Path) -> Result<Self, SaeError> {
        let bytes = std::fs::read(path).map_err(|e| SaeError::read(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            bytes,
        })
    }

    /// Its tensors; the header is checked against the file's length.
    pub(crate) fn tensors(&self) -> Result<Tensors<'_>, SaeError> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|e| {
            SaeError::format(
                &self.path,
                "header",
                e.to_string(),
                "a safetensors file whose header matches its length",
            )
        })?;
        Ok(Tensors {
            path: &self.path,
            tensors,
        })
    }
}

impl Tensors<'_> {
    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, SaeError> {
        let view = self.tensors.tensor(name).map_err(|_| {
            let mut names = self.tensors.names();
            names.sort_unstable();
            names.truncate(12);
            SaeError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("only [{}]", names.join(", ")),
                format!("{name} {shape:?}"),
            )
        })?;
        if view.shape() != shape {
            return Err(SaeError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("shape {:?}", view.shape()),
                format!("shape {shape:?}"),
            ));
        }
        Ok(view)
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// The shape of a tensor, if it is there.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.tensor(name).ok().map(|v| v.shape().to_vec())
    }

    /// Finite numbers of a tensor of exactly this shape; stored as F32, F16, BF16 or F64.
    pub(crate) fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, SaeError> {
        let values = self.numbers(name, shape)?;
        self.refuse(name, &values, "finite numbers", |v| v.is_finite())?;
        Ok(values)
    }

    /// As [`Tensors::f32`], but infinity is a value too.
    pub(crate) fn f32_or_infinite(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>, SaeError> {
        let values = self.numbers(name, shape)?;
        self.refuse(name, &values, "numbers", |v| !v.is_nan())?;
        Ok(values)
    }

    fn refuse(
        &self,
        name: &str,
        values: &[f32],
        expected: &str,
        good: impl Fn(f32) -> bool,
    ) -> Result<(), SaeError> {
        match values.iter().position(|v| !good(*v)) {
            None => Ok(()),
            Some(at) => Err(SaeError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("{} at element {at}", values[at]),
                expected,
            )),
        }
    }

    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, SaeError> {
        let view = self.view(name, shape)?;
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => chunks(data).map(f32::from_le_bytes).collect(),
            Dtype::F16 => chunks(data)
                .map(|b| f16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::BF16 => chunks(data)
                .map(|b| bf16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::F64 => chunks(data).map(|b| f64::from_le_bytes(b) as f32).collect(),
            other => {
                return Err(SaeError::format(
                    self.path,
                    format!("tensor `{name}`"),
                    format!("type {other:?}"),
                    "F32, F16, BF16 or F64",
                ));
            }
        };
        Ok(values)
    }

    /// f64 numbers, exactly as stored.
    pub(crate) fn f64(&self, name: &str, count: usize) -> Result<Vec<f64>, SaeError> {
        let view = self.typed(name, count, Dtype::F64)?;
        Ok(chunks(view.data()).map(f64::from_le_bytes).collect())
    }

    /// Whole numbers; `count` of them if given.
    pub(crate) fn u64(&self, name: &str, count: usize) -> Result<Vec<u64>, SaeError> {
        let view = self.typed(name, count, Dtype::U64)?;
        Ok(chunks(view.data()).map(u64::from_le_bytes).collect())
    }

    fn typed(&self, name: &str, count: usize, dtype: Dtype) -> Result<TensorView<'_>, SaeError> {
        let view = self.view(name, &[count])?;
        if view.dtype() != dtype {
            return Err(SaeError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("type {:?}", view.dtype()),
                format!("{dtype:?}"),
            ));
        }
        Ok(view)
    }

    /// A tensor of exactly this shape on `device`.
    pub(crate) fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        device: &Device,
    ) -> Result<Tensor<D>, SaeError> {
        let values = self.f32(name, &shape)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }
}

/// Little-endian elements of `N` bytes.
fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}
