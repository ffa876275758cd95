//! Tensors between a device and the host.

use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_io::tensors::{TensorWriter, Tensors};

use crate::error::CoderError;

/// The values of a tensor on the host.
///
/// # Errors
/// The device cannot return them.
pub fn host<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>, CoderError> {
    let read = tensor.clone().try_into_vec_as::<f32>();
    read.map_err(|e| CoderError::Device {
        what: "a tensor",
        message: format!("{e:?}"),
    })
}

/// The values of an integer tensor on the host.
///
/// # Errors
/// The device cannot return them.
pub fn host_int<const D: usize>(tensor: &Tensor<D, Int>) -> Result<Vec<i32>, CoderError> {
    let read = tensor.clone().try_into_vec_as::<i32>();
    read.map_err(|e| CoderError::Device {
        what: "a tensor of integers",
        message: format!("{e:?}"),
    })
}

/// A matrix with these values, row by row, on a device.
///
/// # Panics
/// There are not as many values.
#[must_use]
pub fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A vector with these values on a device.
#[must_use]
pub fn vector(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Adds a tensor of a device to a file.
///
/// # Errors
/// The device cannot return it.
pub fn write_tensor<const D: usize>(
    file: &mut TensorWriter<'_>,
    name: &str,
    tensor: &Tensor<D>,
) -> Result<(), CoderError> {
    let shape = tensor.dims();
    file.f32(name, &shape, &host(tensor)?);
    Ok(())
}

/// Reads a tensor of exactly this shape from a file to a device.
///
/// # Errors
/// The file has none of this name and shape, or not all its values are finite.
pub fn read_tensor<const D: usize>(
    file: &Tensors<'_>,
    name: &str,
    shape: [usize; D],
    device: &Device,
) -> Result<Tensor<D>, CoderError> {
    let values = file.f32(name, &shape)?;
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}
