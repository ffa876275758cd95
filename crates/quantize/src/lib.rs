//! Scalar quantization: numbers as integers of 8 or 4 bits and a scale that several of them share.
//!
//! ```text
//! q = clip(round(x / S) + Z, qmin, qmax)        x̂ = S (q − Z)        round: half to even
//! symmetric:   S = max|x| / (2^(b−1) − 1),  Z = 0
//! asymmetric:  S = (β − α) / (2^b − 1),     Z = round(qmin − α / S)
//! ```
//!
//! [`QuantizedMatrix`] is a matrix whose rows, or groups of values along its rows, have a scale
//! each; a [`Scheme`] says how. [`quantize_row`] and [`dequantize_row`] are the same for one row in
//! 8 bits, as a store of activations keeps it.
//!
//! ```
//! use lapidary_quantize::{Bits, QuantizedMatrix, Scheme};
//!
//! let values = [0.5, -1.0, 0.25, 1.0, 2.0, -3.0];
//! let quantized = QuantizedMatrix::quantize(&values, [2, 3], Scheme::per_row(Bits::Eight))?;
//! assert_eq!(quantized.scales(), [1.0 / 127.0, 3.0 / 127.0]);
//! for (x, back) in values.iter().zip(quantized.dequantize()) {
//!     assert!((x - back).abs() < 0.012);
//! }
//! # Ok::<(), lapidary_quantize::QuantizeError>(())
//! ```

mod affine;
mod calibration;
mod error;
mod matrix;
mod pack;
mod row;
mod scheme;

pub use error::QuantizeError;
pub use matrix::QuantizedMatrix;
pub use pack::{pack_int4, unpack_int4};
pub use row::{dequantize_row, quantize_row};
pub use scheme::{Bits, Calibration, Granularity, Scheme, Symmetry};
