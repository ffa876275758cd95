//! The largest of a row's correlations, known block by block while all of them change.

use super::approximate::{AHEAD, Approximate, Bounds, Reach};
use crate::host::{Level, prefetch_far, widest_vectors};
#[cfg(target_arch = "x86_64")]
use crate::{host::with_tile, integers::Tile};

/// Numbers that are compared side by side.
const LANES: usize = 16;

/// Correlations of a block: of each, the largest of those that stand [`LANES`] apart is known.
const BLOCK: usize = 4 * LANES;

/// Approximate correlations of all atoms with what is left of a row.
pub(super) struct Scores<'a> {
    pub known: &'a dyn Approximate,
    pub scores: &'a [f32], // [F]
    /// See [`maxima`].
    pub highest: &'a [f32],
    /// The place of the largest.
    pub top: Option<u32>,
}

/// The largest (by magnitude, if `signed`) of those correlations of a block that stand [`LANES`]
/// apart, block by block, `[F / BLOCK, LANES]`.
pub(super) fn maxima(scores: &[f32], signed: bool) -> Vec<f32> {
    let mut highest = vec![0.0; scores.len().div_ceil(BLOCK) * LANES];
    write_maxima(scores, &mut highest, counted(signed));
    highest
}

/// The bits of a number that count for its size.
const fn counted(signed: bool) -> u32 {
    if signed { u32::MAX >> 1 } else { u32::MAX }
}

/// Raises each of `most` to what counts of a score. Without a branch, so that lanes go side by
/// side.
#[inline(always)]
fn raise(most: &mut [f32; LANES], scores: &[f32; LANES], counted: u32) {
    for (most, score) in most.iter_mut().zip(scores) {
        let size = f32::from_bits(score.to_bits() & counted);
        *most = if size > *most { size } else { *most };
    }
}

widest_vectors! {
    fn write_maxima(scores: &[f32], highest: &mut [f32], counted: u32) {
        let (highest, _) = highest.as_chunks_mut::<LANES>();
        for (scores, highest) in scores.chunks(BLOCK).zip(highest) {
            *highest = [f32::NEG_INFINITY; LANES];
            let (lanes, rest) = scores.as_chunks::<LANES>();
            for scores in lanes {
                raise(highest, scores, counted);
            }
            for (most, score) in highest.iter_mut().zip(rest) {
                *most = most.max(f32::from_bits(score.to_bits() & counted));
            }
        }
    }
}

widest_vectors! {
    /// `scores −= factor · row`.
    fn subtract_lanes(scores: &mut [f32], factor: f32, row: &[i16], highest: &mut [f32], counted: u32) {
        let (highest, _) = highest.as_chunks_mut::<LANES>();
        let blocks = scores.chunks_mut(BLOCK).zip(row.chunks(BLOCK)).zip(highest);
        for (block, ((scores, numbers), highest)) in blocks.enumerate() {
            let soon = row.get(block * BLOCK + AHEAD..).unwrap_or_default();
            prefetch_far(&soon[..soon.len().min(BLOCK)]);
            let mut most = [f32::NEG_INFINITY; LANES];
            let (lanes, rest) = scores.as_chunks_mut::<LANES>();
            let (numbers, numbers_rest) = numbers.as_chunks::<LANES>();
            for (scores, numbers) in lanes.iter_mut().zip(numbers) {
                let numbers = numbers.map(i32::from).map(|number| number as f32);
                for (score, number) in scores.iter_mut().zip(&numbers) {
                    *score -= factor * number;
                }
                raise(&mut most, scores, counted);
            }
            for ((score, number), most) in rest.iter_mut().zip(numbers_rest).zip(&mut most) {
                *score -= factor * f32::from(*number);
                *most = most.max(f32::from_bits(score.to_bits() & counted));
            }
            *highest = most;
        }
    }
}

/// [`subtract_lanes`], a vector of lanes at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn subtract_wide(scores: &mut [f32], factor: f32, row: &[i16], highest: &mut [f32], counted: u32) {
    use std::arch::x86_64::*;
    let whole = scores.len() / BLOCK;
    let (factor_of_all, kept) = (_mm512_set1_ps(factor), _mm512_set1_epi32(counted as i32));
    let (blocks, rest) = scores.as_chunks_mut::<BLOCK>();
    let (numbers, _) = row.as_chunks::<BLOCK>();
    let (lanes, _) = highest.as_chunks_mut::<LANES>();
    for (block, ((scores, numbers), highest)) in
        blocks.iter_mut().zip(numbers).zip(&mut *lanes).enumerate()
    {
        let soon = row.get(block * BLOCK + AHEAD..).unwrap_or_default();
        prefetch_far(&soon[..soon.len().min(BLOCK)]);
        let mut most = _mm512_set1_ps(f32::NEG_INFINITY);
        for at in (0..BLOCK).step_by(LANES) {
            // SAFETY: LANES scores and numbers lie from there on.
            unsafe {
                let number = _mm256_loadu_si256(numbers.as_ptr().add(at).cast());
                let number = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(number));
                let score = scores.as_mut_ptr().add(at);
                let left =
                    _mm512_sub_ps(_mm512_loadu_ps(score), _mm512_mul_ps(factor_of_all, number));
                _mm512_storeu_ps(score, left);
                let size = _mm512_and_si512(_mm512_castps_si512(left), kept);
                most = _mm512_max_ps(_mm512_castsi512_ps(size), most);
            }
        }
        // SAFETY: LANES floats fit there.
        unsafe { _mm512_storeu_ps(highest.as_mut_ptr(), most) };
    }
    subtract_lanes(
        rest,
        factor,
        &row[whole * BLOCK..],
        &mut highest[whole * LANES..],
        counted,
    );
}

/// `scores −= factor · row`, with [`maxima`].
pub(super) fn subtract(
    level: Level,
    scores: &mut [f32],
    factor: f32,
    row: &[i16],
    highest: &mut [f32],
    signed: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if let Level::Avx512(_) | Level::Amx(_) = level {
        // SAFETY: the processor has these instructions, as the level proves.
        unsafe { subtract_wide(scores, factor, row, highest, counted(signed)) };
        return;
    }
    subtract_lanes(scores, factor, row, highest, counted(signed));
}

/// A place of the largest correlation; None where nothing is above `f32::NEG_INFINITY`.
pub(super) fn top(level: Level, scores: &[f32], highest: &[f32], signed: bool) -> Option<u32> {
    let (place, most) = largest_at(level, highest);
    let (block, lane) = (place / LANES * BLOCK, place % LANES);
    let counted = counted(signed);
    let mut places = (block + lane..scores.len().min(block + BLOCK)).step_by(LANES);
    let place = places.find(|at| f32::from_bits(scores[*at].to_bits() & counted) == most);
    place.map(|place| place as u32)
}

/// [`largest`], with the instructions of a level.
fn largest_at(level: Level, numbers: &[f32]) -> (usize, f32) {
    #[cfg(target_arch = "x86_64")]
    with_tile!(level, |tile| return wide::largest(tile, numbers));
    let _ = level;
    largest(numbers)
}

/// The largest number and its place.
fn largest(numbers: &[f32]) -> (usize, f32) {
    let mut most = (0, f32::NEG_INFINITY);
    for (place, number) in numbers.iter().enumerate() {
        if *number > most.1 {
            most = (place, *number);
        }
    }
    most
}

/// Puts those atoms into `found` whose correlations, approximately so, may reach `limit`, by
/// magnitude if `signed`.
pub(super) fn reaching(
    level: Level,
    now: &Scores<'_>,
    signed: bool,
    reach: Reach,
    limit: f32,
    found: &mut Vec<u32>,
) {
    let (scores, highest, bounds) = (now.scores, now.highest, now.known.bounds());
    let any = limit - reach.of(bounds.most);
    let counted = counted(signed);
    found.clear();
    #[cfg(target_arch = "x86_64")]
    with_tile!(level, |tile| return tile.run(wide::Reaching {
        scores,
        highest,
        counted,
        bounds,
        reach,
        limits: [any, limit],
        found,
    }));
    let _ = level;
    for (block, (scores, highest)) in scores
        .chunks(BLOCK)
        .zip(highest.as_chunks::<LANES>().0)
        .enumerate()
    {
        if highest.iter().any(|number| *number >= any) {
            reaching_of(
                block * BLOCK,
                scores,
                counted,
                (bounds, reach),
                limit,
                found,
            );
        }
    }
}

/// [`reaching`], of the correlations from `first` on.
fn reaching_of(
    first: usize,
    scores: &[f32],
    counted: u32,
    (bounds, reach): (&Bounds, Reach),
    limit: f32,
    found: &mut Vec<u32>,
) {
    for (atom, score) in (first as u32..).zip(scores) {
        if f32::from_bits(score.to_bits() & counted) + reach.of(bounds.of(atom)) >= limit {
            found.push(atom);
        }
    }
}

/// A vector of lanes at a time.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{BLOCK, Bounds, LANES, Reach, reaching_of};
    use crate::integers::{Job, Tile};

    const _: () = assert!(BLOCK == 64); // the bits of a u64

    pub(super) fn largest<T: Tile>(tile: T, numbers: &[f32]) -> (usize, f32) {
        let mut found = (0, f32::NEG_INFINITY);
        tile.run(Largest {
            numbers,
            found: &mut found,
        });
        found
    }

    /// The largest number and its place.
    struct Largest<'a> {
        /// A multiple of [`LANES`].
        numbers: &'a [f32],
        found: &'a mut (usize, f32),
    }

    impl<T: Tile> Job<T> for Largest<'_> {
        #[inline(always)]
        fn run(self, tile: T) {
            let vectors = self.numbers.chunks_exact(T::LANES);
            let mut most = tile.all_floats(f32::NEG_INFINITY);
            for numbers in vectors.clone() {
                most = tile.larger(tile.load_floats(numbers), most);
            }
            let mut lanes = [f32::NEG_INFINITY; LANES];
            tile.store_floats(most, &mut lanes);
            let most = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
            for (vector, numbers) in vectors.enumerate() {
                // No number is larger, so what is not less is the same.
                let same = tile.not_less(tile.load_floats(numbers), tile.all_floats(most));
                if same != 0 {
                    let place = vector * T::LANES + same.trailing_zeros() as usize;
                    *self.found = (place, most);
                    return;
                }
            }
        }
    }

    /// See [`super::reaching`].
    pub(super) struct Reaching<'a> {
        pub scores: &'a [f32],
        pub highest: &'a [f32],
        pub counted: u32,
        pub bounds: &'a Bounds,
        pub reach: Reach,
        /// What any atom must reach without its bound, and with it.
        pub limits: [f32; 2],
        pub found: &'a mut Vec<u32>,
    }

    impl<T: Tile> Job<T> for Reaching<'_> {
        #[inline(always)]
        fn run(self, tile: T) {
            let Self {
                scores,
                highest,
                counted,
                bounds,
                reach,
                limits: [any, limit],
                found,
            } = self;
            let (whole, rest) = scores.as_chunks::<BLOCK>();
            let blocks = &highest.as_chunks::<LANES>().0[..whole.len()];
            let least = tile.all_floats(any);
            // Few of the tests below come out the same way twice, so none of them is a branch.
            for (group, (whole, blocks)) in whole.chunks(64).zip(blocks.chunks(64)).enumerate() {
                let mut reached = 0u64;
                for (block, highest) in blocks.iter().enumerate() {
                    let mut any = 0;
                    for vector in highest.chunks_exact(T::LANES) {
                        any |= tile.not_less(tile.load_floats(vector), least);
                    }
                    reached |= u64::from(any != 0) << block;
                }
                let (mut hits, mut count) = ([(0u32, 0u64); 64], 0);
                while reached != 0 {
                    let block = reached.trailing_zeros();
                    let mut hit = 0u64;
                    let vectors = whole[block as usize].chunks_exact(T::LANES);
                    for (vector, scores) in vectors.enumerate() {
                        let sizes = tile.bits(tile.load_floats(scores), counted);
                        hit |= u64::from(tile.not_less(sizes, least)) << (vector * T::LANES);
                    }
                    hits[count % 64] = (64 * group as u32 + block, hit);
                    count += 1;
                    reached &= reached - 1;
                }
                for &(block, mut hit) in &hits[..count] {
                    while hit != 0 {
                        found.push(block * BLOCK as u32 + hit.trailing_zeros());
                        hit &= hit - 1;
                    }
                }
            }
            let mut len = 0;
            for at in 0..found.len() {
                let atom = found[at];
                let size = f32::from_bits(scores[atom as usize].to_bits() & counted);
                found[len] = atom;
                len += usize::from(size + reach.of(bounds.of(atom)) >= limit);
            }
            found.truncate(len);
            let first = whole.len() * BLOCK;
            reaching_of(first, rest, counted, (bounds, reach), limit, found);
        }
    }
}
