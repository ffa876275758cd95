//! The Gram matrix of atoms in integers, made in parts of [`SET`] atoms by as many.

use rayon::prelude::*;
use std::arch::x86_64::*;

use super::approximate::{Gram, MOST};
use super::integers::{Integers, SET};
use crate::integers::{Job, Tile};

/// A part of the Gram matrix.
type Part = [[i16; SET]; SET];

impl<T: Tile> Integers<T> {
    pub fn new_gram(&self) -> Gram {
        let padded = self.scales.len();
        let unit = self.bounds.most.approximate.powi(2).max(f32::MIN_POSITIVE) / MOST;
        let mut numbers =
            std::mem::take(&mut *self.room.lock().expect("never held while panicking"));
        match numbers.capacity() >= padded * padded {
            true => numbers.resize(padded * padded, 0),
            false => numbers = vec![0; padded * padded],
        }
        let places = Places(numbers.as_mut_ptr());
        let sets = padded / SET;
        (0..sets).into_par_iter().for_each(|first| {
            let places = &places;
            let (mut part, mut turned) = ([[0i16; SET]; SET], [[0i16; SET]; SET]);
            let ready = self.tile.ready();
            for second in first..sets {
                self.tile.run(OfSets {
                    integers: self,
                    ready: &ready,
                    sets: [first, second],
                    per_unit: 1.0 / unit,
                    part: &mut part,
                });
                turn(&part, &mut turned);
                // SAFETY: the numbers are `[padded, padded]`, and both sets lie within; a pair of
                // sets, and so both places of it, belongs to one task only.
                unsafe {
                    places.write(self.tile, &part, [first, second], padded);
                    if first != second {
                        places.write(self.tile, &turned, [second, first], padded);
                    }
                }
            }
            // SAFETY: every x86-64 has it. What went past the caches is there before this task has
            // ended.
            unsafe { _mm_sfence() };
        });
        Gram {
            numbers,
            padded,
            unit,
            error: 0.51 * unit,
        }
    }
}

/// Correlations of the set of atoms `sets[0]` with the set `sets[1]`, in units of `1 / per_unit`.
struct OfSets<'a, T: Tile> {
    integers: &'a Integers<T>,
    ready: &'a T::Ready,
    sets: [usize; 2],
    per_unit: f32,
    part: &'a mut Part,
}

impl<T: Tile> Job<T> for OfSets<'_, T> {
    #[inline(always)]
    fn run(self, tile: T) {
        match T::PANELS {
            2 => self.with_panels::<2>(tile),
            _ => self.with_panels::<3>(tile),
        }
    }
}

impl<T: Tile> OfSets<'_, T> {
    #[inline(always)]
    fn with_panels<const P: usize>(self, tile: T) {
        let [first, second] = self.sets.map(|set| set * SET);
        for block in (0..SET).step_by(P * T::LANES) {
            let scales = self.integers.scales::<P>(tile, second + block);
            for some in (0..SET).step_by(T::ROWS) {
                let rows = self.integers.rows_from(first + some);
                let sums = self
                    .integers
                    .sums::<P>(tile, self.ready, rows, second + block);
                for (at, sums) in sums.as_ref().iter().enumerate() {
                    let row_scale = self.integers.scales[first + some + at] * self.per_unit;
                    for p in 0..P {
                        let scale = tile.multiply(scales[p], tile.all_floats(row_scale));
                        let number = tile.multiply(tile.floats(sums[p]), scale);
                        let out = &mut self.part[some + at][block + p * T::LANES..];
                        tile.store_rounded(number, out);
                    }
                }
            }
        }
    }
}

/// Where parts of the Gram matrix are written.
struct Places(*mut i16);

// SAFETY: it is only written to, each place by one task, as `write` demands.
unsafe impl Sync for Places {}

impl Places {
    /// # Safety
    ///
    /// There are `[padded, padded]` numbers, of which nobody else touches those of this pair of
    /// sets.
    unsafe fn write<T: Tile>(
        &self,
        tile: T,
        part: &Part,
        [first, second]: [usize; 2],
        padded: usize,
    ) {
        for (at, row) in part.iter().enumerate() {
            // SAFETY: as the caller says.
            let to = unsafe { self.0.add((first * SET + at) * padded + second * SET) };
            if !to.addr().is_multiple_of(LINE) {
                // SAFETY: likewise.
                unsafe { to.copy_from_nonoverlapping(row.as_ptr(), SET) };
                continue;
            }
            tile.run(Stream { row, to });
        }
    }
}

/// Bytes of a cache line: a whole number of vectors.
const LINE: usize = 64;
const _: () = assert!((SET * size_of::<i16>()).is_multiple_of(LINE));

/// Writes a row of a part past the caches: nobody reads it soon, and so nobody reads before it is
/// written what lay there.
struct Stream<'a> {
    row: &'a [i16; SET],
    /// There is room for the row, which nobody else touches, and it begins with a cache line.
    to: *mut i16,
}

impl<T: Tile> Job<T> for Stream<'_> {
    #[inline(always)]
    fn run(self, tile: T) {
        let vector = T::LANES * size_of::<i32>() / size_of::<i16>();
        for at in (0..SET).step_by(vector) {
            // SAFETY: as `to` says; rows are whole vectors long.
            unsafe { tile.stream(self.row[at..].as_ptr(), self.to.add(at)) };
        }
    }
}

/// Rows for columns, eight by eight.
fn turn(part: &Part, turned: &mut Part) {
    for row in (0..SET).step_by(8) {
        for column in (0..SET).step_by(8) {
            // SAFETY: every x86-64 has SSE2; eight numbers lie from `column` on in each row, and
            // fit from `row` on.
            unsafe {
                let r: [__m128i; 8] = std::array::from_fn(|i| {
                    _mm_loadu_si128(part[row + i][column..column + 8].as_ptr().cast())
                });
                let pairs: [__m128i; 8] = std::array::from_fn(|i| match i % 2 {
                    0 => _mm_unpacklo_epi16(r[i], r[i + 1]),
                    _ => _mm_unpackhi_epi16(r[i - 1], r[i]),
                });
                let fours: [__m128i; 8] = std::array::from_fn(|i| {
                    let (a, b) = (pairs[i / 4 * 4 + i % 2], pairs[i / 4 * 4 + i % 2 + 2]);
                    match i % 4 / 2 {
                        0 => _mm_unpacklo_epi32(a, b),
                        _ => _mm_unpackhi_epi32(a, b),
                    }
                });
                // fours[0]: columns 0 and 1 of rows 0 to 3, [2]: 2 and 3, [1]: 4 and 5, [3]: 6 and
                // 7; from 4 on of rows 4 to 7.
                for (at, pair) in [0, 2, 1, 3].into_iter().enumerate() {
                    let (a, b) = (fours[pair], fours[pair + 4]);
                    let to = [_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b)];
                    for (half, column_numbers) in to.into_iter().enumerate() {
                        let out = &mut turned[column + 2 * at + half][row..row + 8];
                        _mm_storeu_si128(out.as_mut_ptr().cast(), column_numbers);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Level, with_tile};

    #[test]
    fn parts_are_written_where_they_belong_past_the_caches_or_not() {
        for level in Level::available() {
            with_tile!(level, |tile| parts_are_written(tile));
        }
    }

    fn parts_are_written<T: Tile>(tile: T) {
        let padded = 2 * SET;
        let mut part = [[0i16; SET]; SET];
        for (at, number) in part.iter_mut().flatten().enumerate() {
            *number = (at % 30_011) as i16;
        }
        let mut turned = [[0i16; SET]; SET];
        turn(&part, &mut turned);
        let mut numbers = vec![-1i16; padded * padded + LINE];
        let aligned = numbers.as_ptr().align_offset(LINE);
        for shift in [aligned, aligned + 1] {
            numbers.fill(-1);
            let places = Places(numbers[shift..].as_mut_ptr());
            // SAFETY: there is room for all, which nobody else holds.
            unsafe {
                places.write(tile, &part, [0, 1], padded);
                places.write(tile, &turned, [1, 0], padded);
                _mm_sfence();
            }
            for row in 0..padded {
                for column in 0..padded {
                    let expected = match (row / SET, column / SET) {
                        (0, 1) => part[row][column - SET],
                        (1, 0) => part[column][row - SET],
                        _ => -1,
                    };
                    assert_eq!(numbers[shift + row * padded + column], expected);
                }
            }
        }
    }
}
