//! Everything that can go wrong in this crate, each as one sentence.

/// Error of quantizing numbers, or of reading quantized ones.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// A number is infinite or NaN.
    #[error("found {value} at row {row}, column {column}, expected finite numbers")]
    NotFinite {
        /// The number.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// Numbers so large that their scale times the largest integer is infinite.
    #[error("found {value} at row {row}, column {column}, expected smaller numbers")]
    TooLarge {
        /// The number.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// There are not as many of something as the shape needs.
    #[error("found {found} {what}, expected {expected}")]
    Length {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are needed.
        expected: usize,
    },
    /// An integer outside the range of its scheme.
    #[error("found {found} at row {row}, column {column}, expected {low} to {high}")]
    Code {
        /// The integer.
        found: i8,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The least integer of the scheme.
        low: i8,
        /// The largest integer of the scheme.
        high: i8,
    },
    /// The half byte behind the last integer of a row is not 0.
    #[error("found {found} in the unused upper half of the last byte of row {row}, expected 0")]
    Padding {
        /// The row.
        row: usize,
        /// The half byte, 1 to 15.
        found: u8,
    },
    /// A scale that cannot be one.
    #[error(
        "found {found} at row {row}, group {group}, expected 0 or more, and at most the largest f32 over the largest integer"
    )]
    Scale {
        /// The scale.
        found: f32,
        /// Its row.
        row: usize,
        /// Its group in the row.
        group: usize,
    },
    /// A zero point outside the range of its scheme.
    #[error("found zero point {found} at row {row}, group {group}, expected {low} to {high}")]
    ZeroPoint {
        /// The zero point.
        found: i8,
        /// Its row.
        row: usize,
        /// Its group in the row.
        group: usize,
        /// The least integer of the scheme.
        low: i8,
        /// The largest integer of the scheme.
        high: i8,
    },
}
