//! How numbers are quantized: bits, symmetry, how many share a scale, and how it is found.

/// Bits per number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// One byte per number.
    Eight,
    /// Two numbers per byte, the first in the low half.
    Four,
}

impl Bits {
    /// The number of bits, if it is one that there is: 8 or 4.
    #[must_use]
    pub const fn new(bits: usize) -> Option<Self> {
        match bits {
            8 => Some(Self::Eight),
            4 => Some(Self::Four),
            _ => None,
        }
    }

    /// The number of bits.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Eight => 8,
            Self::Four => 4,
        }
    }

    /// Bytes of a row of `columns` numbers. In 4 bits, a row of odd length ends with half a byte of
    /// zeros.
    #[must_use]
    pub const fn row_bytes(self, columns: usize) -> usize {
        match self {
            Self::Eight => columns,
            Self::Four => columns.div_ceil(2),
        }
    }
}

/// Whether 0 is the middle of the integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symmetry {
    /// Integers from −127 to 127 (in 4 bits from −7 to 7) and the zero point 0.
    Symmetric,
    /// Integers from −128 to 127 (in 4 bits from −8 to 7) and a zero point. The range of numbers
    /// always contains 0, so the zero point is one of these integers and 0 comes back as 0.
    Asymmetric,
}

/// How many numbers share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// All numbers of a row.
    Row,
    /// 32 successive numbers of a row. Here and below, the last group of a row is shorter if the
    /// row's length is not a multiple.
    Group32,
    /// 64 successive numbers of a row.
    Group64,
    /// 128 successive numbers of a row.
    Group128,
}

impl Granularity {
    /// Groups of this many numbers, if there are such: 32, 64 or 128; a whole row without a number.
    #[must_use]
    pub const fn new(group: Option<usize>) -> Option<Self> {
        match group {
            None => Some(Self::Row),
            Some(32) => Some(Self::Group32),
            Some(64) => Some(Self::Group64),
            Some(128) => Some(Self::Group128),
            Some(_) => None,
        }
    }

    /// Numbers in a group; none for whole rows.
    #[must_use]
    pub const fn group(self) -> Option<usize> {
        match self {
            Self::Row => None,
            Self::Group32 => Some(32),
            Self::Group64 => Some(64),
            Self::Group128 => Some(128),
        }
    }

    /// Groups in a row of `columns` numbers.
    #[must_use]
    pub fn groups(self, columns: usize) -> usize {
        columns.div_ceil(self.length(columns))
    }

    /// Numbers in each group but the last of a row of `columns` numbers, 1 or more.
    pub(crate) fn length(self, columns: usize) -> usize {
        self.group().unwrap_or(columns).max(1)
    }
}

/// How the range of a group is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calibration {
    /// The range of the numbers: none is clipped.
    MinMax,
    /// The share of that range, among 1, 0.99, … 0.5, with the least squared error of the group,
    /// the larger share among equals.
    Mse,
}

impl Calibration {
    /// Its name: `min-max` or `mse`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MinMax => "min-max",
            Self::Mse => "mse",
        }
    }

    /// The calibration of this name, if there is one.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::MinMax, Self::Mse]
            .into_iter()
            .find(|calibration| calibration.name() == name)
    }
}

/// How numbers are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Bits per number.
    pub bits: Bits,
    /// Whether 0 is the middle of the integers.
    pub symmetry: Symmetry,
    /// How many numbers share a scale.
    pub granularity: Granularity,
    /// How the range of a group is found.
    pub calibration: Calibration,
}

impl Scheme {
    /// Symmetric integers with one scale per row, from the row's largest magnitude.
    #[must_use]
    pub const fn per_row(bits: Bits) -> Self {
        Self {
            bits,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::Row,
            calibration: Calibration::MinMax,
        }
    }

    /// The least and the largest integer.
    #[must_use]
    pub const fn limits(self) -> (i8, i8) {
        match (self.bits, self.symmetry) {
            (Bits::Eight, Symmetry::Symmetric) => (-127, 127),
            (Bits::Eight, Symmetry::Asymmetric) => (-128, 127),
            (Bits::Four, Symmetry::Symmetric) => (-7, 7),
            (Bits::Four, Symmetry::Asymmetric) => (-8, 7),
        }
    }
}
