//! What the CubeCL kernels (WGPU and CUDA) share: allocation, launch sizes, and reading numbers
//! back.

// A kernel's loops run over indices: CubeCL compiles no slice iterators.
#![allow(clippy::needless_range_loop)]

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, FloatDType, IntDType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::client::Client;
use cubecl::ir::features::Plane;
use cubecl::prelude::*;

/// Units of a cube: within every adapter's limit, and a power of two, which the reductions rely on.
pub(crate) const UNITS: u32 = 256;

/// Halvings of a cube's units.
pub(crate) const PASSES: u32 = UNITS.ilog2();

/// Cubes that a launch uses at most. WGPU allows 65,535 a dimension; kernels loop over what is
/// left.
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

/// Hands a tensor to a kernel, which counts its numbers row after row.
pub(crate) trait Rows {
    /// # Panics
    ///
    /// If there are gaps between rows. Burn's own operations leave such gaps on CUDA, where rows
    /// begin at multiples of some hundred bytes.
    fn rows(self) -> BufferArg;
}

impl Rows for CubeTensor {
    fn rows(self) -> BufferArg {
        assert!(
            self.is_contiguous(),
            "a kernel was given a tensor {:?} with strides {:?}",
            self.meta.shape(),
            self.meta.strides()
        );
        self.into_buffer_arg()
    }
}

/// A row-major tensor with another shape of as many numbers.
pub(crate) fn shaped(tensor: CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    CubeTensor::new_contiguous(
        tensor.client,
        tensor.device,
        shape.into(),
        tensor.handle,
        tensor.dtype,
    )
}

/// A row-major tensor of the same integer.
pub(crate) fn filled<const D: usize>(
    like: &CubeTensor,
    shape: [usize; D],
    value: i32,
    dtype: IntDType,
) -> CubeTensor {
    // A vector has no rows that could lie apart.
    let flat = Shape::from([shape.iter().product::<usize>().max(1)]);
    let flat = CubeBackend::int_full(flat, value.into(), &like.device, dtype);
    shaped(flat, shape)
}

/// A row-major tensor of zeros in f32.
pub(crate) fn zeros<const D: usize>(like: &CubeTensor, shape: [usize; D]) -> CubeTensor {
    let flat = Shape::from([shape.iter().product::<usize>().max(1)]);
    let flat = CubeBackend::float_zeros(flat, &like.device, FloatDType::F32);
    shaped(flat, shape)
}

/// A row-major copy of a row-major matrix or vector.
pub(crate) fn copied(tensor: &CubeTensor) -> CubeTensor {
    let flat = shaped(tensor.clone(), [tensor.meta.num_elements()]);
    shaped(flat.copy(), tensor.meta.shape().clone())
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

/// Whether kernels may use [`sum_in_plane`]. CUDA alone: what graphics drivers make of planes whose
/// units took different ways has no test here.
pub(crate) fn has_planes(client: &Client) -> bool {
    let plane = &client.properties().features.plane;
    client.name() == "cuda" && plane.contains(Plane::Ops) && plane.contains(Plane::Sync)
}

/// The sum over the units of a plane, known to each of them.
#[cube]
pub(crate) fn sum_in_plane(value: f32) -> f32 {
    sync_plane(); // those that left a loop early are back
    plane_sum(value)
}

/// The largest over the units of a plane.
#[cube]
pub(crate) fn top_in_plane(value: u32) -> u32 {
    sync_plane();
    plane_max(value)
}

/// The sum over all [`UNITS`] units of a cube, known to each of them, in a fixed order. `partial`
/// has a place for each unit. It synchronizes the cube.
#[cube]
pub(crate) fn cube_sum(value: f32, partial: &mut [f32], #[comptime] planes: bool) -> f32 {
    let unit = UNIT_POS as usize;
    let mut total = 0.0f32;
    sync_cube(); // nobody reads an earlier sum any more
    if comptime!(planes) {
        let lanes = PLANE_DIM as usize;
        let sum = sum_in_plane(value);
        if UNIT_POS_PLANE == 0 {
            partial[unit / lanes] = sum;
        }
        sync_cube();
        for plane in 0..UNITS as usize / lanes {
            total += partial[plane];
        }
    } else {
        partial[unit] = value;
        sync_cube();
        #[unroll]
        for pass in 0..PASSES {
            let half = comptime!((UNITS >> (pass + 1)) as usize);
            if unit < half {
                partial[unit] += partial[unit + half];
            }
            sync_cube();
        }
        total = partial[0];
    }
    total
}
