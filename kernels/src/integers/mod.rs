//! Vectors in integers, each with its own scale and with what rounding took of it, and their
//! products, exact in i32: in 8 bits with the instructions of AMX or of VNNI, 32 or four times as
//! many a cycle as f32 has, or in up to 16 bits with those of AVX2, up to twice as many.

mod aligned;
mod amx;
mod eight;
mod sixteen;
mod tiles;

use std::sync::Mutex;

use crate::norms::Norms;
pub(crate) use aligned::Aligned;
pub(crate) use eight::EightBits;
pub(crate) use sixteen::SixteenBits;
pub(crate) use tiles::{Job, Tile};

/// Widest vectors whose sums of products surely fit in an i32.
pub(crate) const WIDEST: usize = 1 << 16;

/// Second integers count parts of the first: half of one is 127 of them.
pub(crate) const PARTS: f32 = 254.0;

/// Adding this leaves the nearest integer in the last bits.
const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³

/// How vectors become integers that are multiplied: *rows* number by number with many *columns*
/// side by side.
pub(crate) trait Format: 'static {
    type Row: Copy + Default + PartialEq + Into<i32> + Send + Sync;
    type Column: Copy + Default + PartialEq + Into<i32> + Send + Sync;

    /// What a row has for 0.
    const ZERO: Self::Row;

    /// Products that one instruction adds up in a lane.
    const DEPTH: usize;

    /// Whether columns have second integers: `v ≈ scale · (integers + second / PARTS)`.
    const SECOND: bool;

    /// What may be missing of vectors that were rounded a while ago, as a part of their norm,
    /// where rounding itself takes less.
    const KEPT_ERROR: f32;

    /// Writes the integers of a row; None if there are numbers beyond any bound. Nothing is written
    /// then, nor where all numbers count as 0.
    fn row(v: &[f32], integers: &mut [Self::Row]) -> Option<Quantized>;

    /// The same for a column and its second integers, if there are any.
    fn column(
        v: &[f32],
        integers: &mut [Self::Column],
        second: &mut [Self::Column],
    ) -> Option<Quantized>;

    /// What to add to a sum of products of a row with this column, since 0 is [`Self::ZERO`].
    fn offset(column: &[Self::Column]) -> i32;

    fn number(row: Self::Row) -> f32;

    /// What a column has for the same number.
    fn as_column(row: Self::Row) -> Self::Column;

    /// The memory of the last rows of many vectors, for the next: pages that are new to the process
    /// cost more to clear than to fill. One for the process, so that more coders keep no more.
    fn memory() -> &'static Mutex<Vec<Self::Row>>;
}

/// One row or latent in integers, `v ≈ scale · integers`.
pub(crate) struct Quantized {
    pub scale: f32,
    pub norms: Norms,
    /// At least what is missing with the second integers.
    pub second_error: f32,
}

impl Quantized {
    /// All numbers count as 0; `norm` is what is missing.
    fn nothing(norm: f32) -> Self {
        Self {
            scale: 0.0,
            norms: Norms {
                approximate: 0.0,
                error: norm,
            },
            second_error: norm,
        }
    }
}

/// Writes the integers of the column `at` into panels `[columns / LANES, steps, LANES, DEPTH]`.
pub(crate) fn store_panel<T: Tile>(integers: &[Column<T>], at: usize, panels: &mut [Column<T>]) {
    let (width, depth) = (integers.len(), T::Format::DEPTH);
    let panel = &mut panels[at / T::LANES * T::LANES * width..][..T::LANES * width];
    let places = panel.chunks_exact_mut(T::LANES * depth);
    for (place, some) in places.zip(integers.chunks_exact(depth)) {
        place[at % T::LANES * depth..][..depth].copy_from_slice(some);
    }
}

pub(crate) type Row<T> = <<T as Tile>::Format as Format>::Row;
pub(crate) type Column<T> = <<T as Tile>::Format as Format>::Column;

/// `start` and the sums of products of [`Tile::ROWS`] rows `[ROWS, steps, DEPTH]` with all columns
/// of `P` panels.
#[inline(always)]
pub(crate) fn sums_of<T: Tile, const P: usize>(
    tile: T,
    ready: &T::Ready,
    rows: &[Row<T>],
    panels: &[Column<T>],
    steps: usize,
    start: [T::Sums; P],
) -> T::Rows<[T::Sums; P]> {
    let () = T::FITS;
    let width = steps * T::Format::DEPTH;
    assert!(rows.len() >= T::ROWS * width && panels.len() >= P * T::LANES * width);
    assert!(steps > 0 && steps.is_multiple_of(T::STEPS));
    // SAFETY: rows and panels are as long as that.
    unsafe { tile.sums(ready, rows.as_ptr(), panels.as_ptr(), steps, start) }
}

/// Steps of rows and columns of vectors of width `d`.
pub(crate) fn steps_of<T: Tile>(d: usize) -> usize {
    d.div_ceil(T::Format::DEPTH).next_multiple_of(T::STEPS)
}

/// The sums of products of a row with others of its width.
#[inline(always)]
pub(crate) fn products<T: Tile, const N: usize>(
    tile: T,
    row: &[Row<T>],
    columns: [&[Column<T>]; N],
) -> [i32; N] {
    let () = T::FITS;
    let together = T::LANES * T::Format::DEPTH;
    let whole = row.len() / together * together;
    assert!(columns.iter().all(|column| column.len() == row.len()));
    let mut sums = [tile.all(0); N];
    for at in (0..whole).step_by(together) {
        // SAFETY: a vector lies from there on in each.
        unsafe {
            let some = tile.load(row.as_ptr().add(at).cast());
            for (sum, column) in sums.iter_mut().zip(&columns) {
                let column = tile.load(column.as_ptr().add(at).cast());
                *sum = tile.add_products(*sum, some, column);
            }
        }
    }
    let mut totals = [0; N];
    for ((total, sum), column) in totals.iter_mut().zip(sums).zip(&columns) {
        *total = tile.total(sum);
        for (row, column) in row[whole..].iter().zip(&column[whole..]) {
            *total += (*row).into() * (*column).into();
        }
    }
    totals
}

/// The `p`th vector of numbers from `at` on.
#[inline(always)]
pub(crate) fn vector<T: Tile, N>(v: &[N], at: usize, p: usize) -> &[N] {
    &v[at + p * T::LANES..][..T::LANES]
}
