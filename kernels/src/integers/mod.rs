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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Level, with_tile};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn sums_of_products_are_those_of_single_numbers() {
        for level in Level::available() {
            with_tile!(level, |tile| {
                for d in [1, 16, 63, 64, 65, 200, 1000] {
                    sums_with::<_, 1>(tile, d);
                    sums_with::<_, 2>(tile, d);
                    if more_than_two(tile) {
                        sums_with::<_, 3>(tile, d);
                    }
                }
            });
        }
    }

    fn more_than_two<T: Tile>(_: T) -> bool {
        T::PANELS > 2
    }

    fn sums_with<T: Tile, const P: usize>(tile: T, d: usize) {
        let steps = steps_of::<T>(d);
        let width = steps * T::Format::DEPTH;
        let mut rng = ChaCha8Rng::seed_from_u64(d as u64);
        // Vectors of one magnitude have the largest sums.
        let mut draw = |flat: bool| -> Vec<f32> {
            let number = |_| match flat {
                true => [1.0f32, -1.0][usize::from(rng.random_bool(0.5))],
                false => rng.random_range(-1.0..1.0),
            };
            (0..d).map(number).collect()
        };
        let mut rows = Aligned::new(T::ROWS * width, T::Format::ZERO);
        for (at, row) in rows.chunks_exact_mut(width).enumerate() {
            T::Format::row(&draw(at % 3 == 0), row).unwrap();
        }
        let columns: Vec<Vec<Column<T>>> = (0..P * T::LANES)
            .map(|at| {
                let mut column = vec![Column::<T>::default(); width];
                let mut second = vec![Column::<T>::default(); width];
                T::Format::column(&draw(at % 4 == 1), &mut column, &mut second).unwrap();
                column
            })
            .collect();
        let mut panels = Aligned::new(P * T::LANES * width, Column::<T>::default());
        for (at, column) in columns.iter().enumerate() {
            store_panel::<T>(column, at, &mut panels);
        }
        let start: Vec<i32> = (0..P as i32).map(|p| 1000 * (p + 1)).collect();
        let mut first = [tile.all(0); P];
        for (first, start) in first.iter_mut().zip(&start) {
            *first = tile.all(*start);
        }
        let sums = sums_of(tile, &tile.ready(), &rows, &panels, steps, first);
        for (row, sums) in rows.chunks_exact(width).zip(sums.as_ref()) {
            for (p, sums) in sums.iter().enumerate() {
                let mut found = vec![0; 2 * T::LANES];
                tile.store_some((1u64 << T::LANES).wrapping_sub(1) as u32, *sums, &mut found);
                for (lane, found) in found[..T::LANES].iter().enumerate() {
                    let column = &columns[p * T::LANES + lane];
                    let products = row.iter().zip(column);
                    let sum: i32 = products.map(|(r, c)| (*r).into() * (*c).into()).sum();
                    assert_eq!(*found, start[p] + sum, "d {d}, panel {p}, lane {lane}");
                }
            }
        }
    }
}
