//! A quantized matrix: integers, and the scales of its rows or of groups along them.

use rayon::prelude::*;

use crate::affine::Affine;
use crate::calibration::calibrate;
use crate::error::QuantizeError;
use crate::pack::{pack_int4, unpack_int4};
use crate::row::largest_magnitude;
use crate::scheme::{Bits, Scheme, Symmetry};

/// A matrix `[rows, columns]` in integers of 8 or 4 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix {
    scheme: Scheme,
    shape: [usize; 2],
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<i8>,
}

impl QuantizedMatrix {
    /// Quantizes `values`, `[rows, columns]` row by row. Where a row's length is not a multiple of
    /// the scheme's group, its last group is shorter.
    ///
    /// # Errors
    /// A value is not finite or too large for a finite result, or there are not rows times columns
    /// of them.
    pub fn quantize(
        values: &[f32],
        shape: [usize; 2],
        scheme: Scheme,
    ) -> Result<Self, QuantizeError> {
        let [rows, columns] = shape;
        expect("values", values.len(), rows.checked_mul(columns))?;
        let groups = scheme.granularity.groups(columns);
        let width = scheme.bits.row_bytes(columns);
        let mut quantized = Self {
            scheme,
            shape,
            codes: vec![0; rows * width],
            scales: vec![0.0; rows * groups],
            zeros: vec![0; rows * groups],
        };
        if columns == 0 {
            return Ok(quantized);
        }
        let length = scheme.granularity.length(columns);
        let of_row = quantized.codes.par_chunks_mut(width);
        let of_row = of_row.zip(quantized.scales.par_chunks_mut(groups));
        let of_row = of_row.zip(quantized.zeros.par_chunks_mut(groups));
        let each = of_row.zip(values.par_chunks(columns)).enumerate();
        each.try_for_each(|(row, (((bytes, scales), zeros), values))| {
            let largest = largest_magnitude(values, row)?;
            let mut codes = vec![0_i8; columns];
            let found = scales.iter_mut().zip(zeros);
            let parts = codes.chunks_mut(length).zip(values.chunks(length));
            for ((scale, zero), (codes, group)) in found.zip(parts) {
                let affine = calibrate(group, scheme);
                if !affine.is_finite() {
                    let column = values.iter().position(|x| x.abs() == largest);
                    return Err(QuantizeError::TooLarge {
                        value: largest,
                        row,
                        column: column.unwrap_or_default(),
                    });
                }
                (*scale, *zero) = (affine.scale, affine.zero as i8);
                for (code, x) in codes.iter_mut().zip(group) {
                    *code = affine.code(*x);
                }
            }
            match scheme.bits {
                Bits::Eight => {
                    for (byte, code) in bytes.iter_mut().zip(codes) {
                        *byte = code as u8;
                    }
                }
                Bits::Four => pack_int4(&codes, bytes),
            }
            Ok(())
        })?;
        Ok(quantized)
    }

    /// A matrix of parts that were stored: what [`QuantizedMatrix::codes`], `scales` and `zeros`
    /// give. A symmetric scheme has no `zeros`.
    ///
    /// # Errors
    /// A part has another length than the shape needs, or a number that the scheme does not have.
    pub fn from_parts(
        scheme: Scheme,
        shape: [usize; 2],
        codes: Vec<u8>,
        scales: Vec<f32>,
        zeros: Vec<i8>,
    ) -> Result<Self, QuantizeError> {
        let [rows, columns] = shape;
        let groups = scheme.granularity.groups(columns);
        let width = scheme.bits.row_bytes(columns);
        expect("bytes of integers", codes.len(), rows.checked_mul(width))?;
        expect("scales", scales.len(), rows.checked_mul(groups))?;
        let zeros = match scheme.symmetry {
            Symmetry::Symmetric => {
                expect("zero points", zeros.len(), Some(0))?;
                vec![0; scales.len()]
            }
            Symmetry::Asymmetric => {
                expect("zero points", zeros.len(), Some(scales.len()))?;
                zeros
            }
        };
        let (low, high) = scheme.limits();
        for (at, (scale, zero)) in scales.iter().zip(&zeros).enumerate() {
            let (row, group) = (at / groups, at % groups);
            let affine = Affine::new(*scale, *zero, scheme);
            if !(*scale >= 0.0 && affine.is_finite()) {
                let found = *scale;
                return Err(QuantizeError::Scale { found, row, group });
            }
            if !(low..=high).contains(zero) {
                return Err(QuantizeError::ZeroPoint {
                    found: *zero,
                    row,
                    group,
                    low,
                    high,
                });
            }
        }
        let matrix = Self {
            scheme,
            shape,
            codes,
            scales,
            zeros,
        };
        matrix.check_codes(low, high)?;
        Ok(matrix)
    }

    fn check_codes(&self, low: i8, high: i8) -> Result<(), QuantizeError> {
        let [_, columns] = self.shape;
        let width = self.scheme.bits.row_bytes(columns);
        if width == 0 {
            return Ok(());
        }
        let rows = self.codes.par_chunks(width).enumerate();
        rows.try_for_each(|(row, bytes)| {
            let codes = self.unpacked(bytes);
            if let Some(column) = codes.iter().position(|code| !(low..=high).contains(code)) {
                return Err(QuantizeError::Code {
                    found: codes[column],
                    row,
                    column,
                    low,
                    high,
                });
            }
            let found = bytes.last().map_or(0, |byte| byte >> 4);
            match self.scheme.bits == Bits::Four && columns % 2 == 1 && found != 0 {
                true => Err(QuantizeError::Padding { row, found }),
                false => Ok(()),
            }
        })
    }

    /// The integers of a row.
    fn unpacked(&self, bytes: &[u8]) -> Vec<i8> {
        match self.scheme.bits {
            Bits::Eight => bytes.iter().map(|byte| *byte as i8).collect(),
            Bits::Four => {
                let mut codes = vec![0; self.shape[1]];
                unpack_int4(bytes, &mut codes);
                codes
            }
        }
    }

    /// The numbers that the integers stand for, `[rows, columns]` row by row.
    #[must_use]
    pub fn dequantize(&self) -> Vec<f32> {
        let [rows, columns] = self.shape;
        let mut values = vec![0.0; rows * columns];
        if columns == 0 {
            return values;
        }
        let groups = self.scheme.granularity.groups(columns);
        let length = self.scheme.granularity.length(columns);
        let width = self.scheme.bits.row_bytes(columns);
        let of_row = self.scales.par_chunks(groups);
        let of_row = of_row.zip(self.zeros.par_chunks(groups));
        let of_row = of_row.zip(self.codes.par_chunks(width));
        let each = values.par_chunks_mut(columns).zip(of_row);
        each.for_each(|(values, ((scales, zeros), bytes))| {
            let codes = self.unpacked(bytes);
            let parts = values.chunks_mut(length).zip(codes.chunks(length));
            for ((scale, zero), (values, codes)) in scales.iter().zip(zeros).zip(parts) {
                let affine = Affine::new(*scale, *zero, self.scheme);
                for (x, code) in values.iter_mut().zip(codes) {
                    *x = affine.value(*code);
                }
            }
        });
        values
    }

    /// How it was quantized.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Rows and columns.
    #[must_use]
    pub const fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The integers, `[rows, Bits::row_bytes(columns)]`: a byte each in two's complement, or two
    /// per byte.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scales, `[rows, groups]`.
    #[must_use]
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The zero points, `[rows, groups]`; none in a symmetric scheme, where each is 0.
    #[must_use]
    pub fn zeros(&self) -> &[i8] {
        match self.scheme.symmetry {
            Symmetry::Symmetric => &[],
            Symmetry::Asymmetric => &self.zeros,
        }
    }
}

fn expect(what: &'static str, found: usize, expected: Option<usize>) -> Result<(), QuantizeError> {
    match expected {
        Some(expected) if found == expected => Ok(()),
        expected => Err(QuantizeError::Length {
            what,
            found,
            expected: expected.unwrap_or(usize::MAX),
        }),
    }
}
