//! What the CubeCL kernels (WGPU and CUDA) share: allocation, launch sizes, and reading numbers back.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::CubeCount;
use cubecl::client::Client;

/// Units of a cube: within every adapter's limit, and a power of two, which the reductions rely on.
pub(crate) const UNITS: u32 = 256;

/// Cubes that a launch uses at most. WGPU allows 65,535 a dimension; kernels loop over what is left.
const MOST_CUBES: usize = 32_768;

/// One cube a row, or as many as fit with each taking several rows.
pub(crate) fn cubes(rows: usize) -> CubeCount {
    CubeCount::Static(rows.clamp(1, MOST_CUBES) as u32, 1, 1)
}

/// Enough cubes for one unit an element, or as many as fit with each unit taking several.
pub(crate) fn cubes_for_elements(elements: usize) -> CubeCount {
    cubes(elements.div_ceil(UNITS as usize))
}

/// A new row-major tensor with whatever was in its memory.
pub(crate) fn empty<const D: usize>(
    like: &CubeTensor,
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor {
    // A buffer of no bytes cannot be bound.
    let elements = shape.iter().product::<usize>().max(1);
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        Shape::from(shape),
        like.client.empty(elements * dtype.size()),
        dtype,
    )
}

/// Floats as f32, row-major. Those stored in 16 bits become wider, which changes none.
pub(crate) fn floats(tensor: CubeTensor) -> CubeTensor {
    let tensor = match tensor.dtype {
        DType::BF16 | DType::F16 => CubeBackend::float_cast(tensor, FloatDType::F32),
        _ => tensor,
    };
    assert!(
        tensor.dtype == DType::F32,
        "kernels compute in f32, but were given {:?}",
        tensor.dtype
    );
    into_contiguous(tensor)
}

/// Indices as i32, row-major.
pub(crate) fn indices(tensor: CubeTensor) -> CubeTensor {
    let tensor = match tensor.dtype {
        DType::I32 => tensor,
        _ => CubeBackend::int_cast(tensor, IntDType::I32),
    };
    into_contiguous(tensor)
}

/// Rows and columns of a matrix.
pub(crate) fn dims2(tensor: &CubeTensor) -> [usize; 2] {
    let shape = tensor.meta.shape();
    [shape[0], shape[1]]
}

/// A tensor of these bytes.
pub(crate) fn upload<const D: usize>(
    client: &Client,
    device: &CubeDevice,
    bytes: &[u8],
    shape: [usize; D],
    dtype: DType,
) -> CubeTensor {
    let handle = client.create_from_slice(bytes);
    CubeTensor::new_contiguous(
        client.clone(),
        device.clone(),
        Shape::from(shape),
        handle,
        dtype,
    )
}
