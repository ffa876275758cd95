//! Correlations from integers, with the instructions of a [`Tile`].

use rayon::prelude::*;
use std::any::Any;
use std::sync::{Mutex, OnceLock};

use super::approximate::{Approximate, Asked, Bounds, Gram, Reach, Sharp};
use super::kept::{FULL, Kept};
use crate::host::{prefetch, widest_vectors};
use crate::integers::{
    Aligned, Column, Format, Job, PARTS, Quantized, Row, Tile, WIDEST, products, steps_of,
    store_panel, sums_of, vector,
};
use crate::norms::{Norms, SUMS};

/// Fewest rows that pay for going over the atoms once more.
const FEWEST_ROWS: usize = 32;

/// Narrowest vectors that pay for it.
const NARROWEST: usize = 16;

/// Atoms on each side of a part of the Gram matrix that is made at a time: whole tiles of every
/// level.
pub(super) const SET: usize = 96;
const _: () = assert!(SET.is_multiple_of(48) && SET.is_multiple_of(32) && SET.is_multiple_of(6));

/// Whether this way is open for `n` rows of width `d`.
pub(super) fn serves(n: usize, d: usize) -> bool {
    n >= FEWEST_ROWS && (NARROWEST..=WIDEST).contains(&d)
}

/// All atoms in integers, padded to whole sets.
pub(super) struct Integers<T: Tile> {
    pub rows: Aligned<Row<T>>,  // [padded, steps, DEPTH]
    panels: Aligned<Column<T>>, // [padded / LANES, steps, LANES, DEPTH]
    pub scales: Vec<f32>,       // [padded]
    /// See [`Format::offset`].
    offsets: Vec<i32>, // [padded]
    pub bounds: Bounds,
    /// The mean and the largest of what they missed when they were new.
    missed: [f32; 2],
    gram: OnceLock<Gram>,
    /// Memory for it.
    pub room: Mutex<Vec<i16>>,
    steps: usize,
    d: usize,
    pub tile: T,
}

/// How much more integers may miss of atoms than new ones would, in the mean, before they are made
/// anew.
const WORN: f32 = 2.5;

/// The integers of a pursuit that is under way.
pub(super) struct InUse<T: Tile> {
    integers: Box<Integers<T>>,
    /// Where they belong afterwards.
    kept: Kept,
}

impl<T: Tile> InUse<T> {
    /// Those of an earlier pursuit, if they will do, or new ones; None if there are atoms beyond
    /// any bound.
    pub fn of(tile: T, atoms: &[f32], d: usize, kept: &Kept) -> Option<Self> {
        Some(Self {
            integers: Integers::of(tile, atoms, d, FULL.take(kept))?,
            kept: kept.clone(),
        })
    }
}

impl<T: Tile> Integers<T> {
    /// See [`InUse::of`]; `kept` are of an earlier pursuit, of whatever atoms and tile.
    fn of(
        tile: T,
        atoms: &[f32],
        d: usize,
        kept: Option<Box<dyn Any + Send>>,
    ) -> Option<Box<Self>> {
        let kept = kept.and_then(|kept| kept.downcast::<Self>().ok());
        let Some(mut kept) = kept else {
            return Self::new(tile, atoms, d, Vec::new()).map(Box::new);
        };
        if kept.serve(atoms, d) {
            return Some(kept);
        }
        // Pages that are new to the process cost more to clear than to fill.
        let room = kept.gram.take().unwrap_or_default().numbers;
        drop(kept);
        Self::new(tile, atoms, d, room).map(Box::new)
    }

    /// Whether these integers will do for `atoms`; their bounds are those of `atoms` then.
    fn serve(&mut self, atoms: &[f32], d: usize) -> bool {
        let (latents, width) = (atoms.len() / d, self.width());
        if self.d != d || self.bounds.len() != latents {
            return false;
        }
        let errors: Vec<f32> = atoms
            .par_chunks_exact(d)
            .zip(self.rows.par_chunks_exact(width))
            .zip(&self.scales)
            .zip(&self.bounds.approximate)
            .map(|(((atom, row), scale), approximate)| {
                // `exact − q · scale` is rounded too, by parts of the number.
                square_missing::<T::Format>(atom, row, *scale).sqrt() * SUMS
                    + 2.0 * f32::EPSILON * approximate
            })
            .collect();
        let mean = errors.iter().sum::<f32>() / latents as f32;
        let largest = errors.iter().copied().fold(0.0, f32::max);
        // An atom that has become another would make all others uncertain.
        let least = T::Format::KEPT_ERROR * self.bounds.most.approximate;
        let [mean_limit, limit] = self.missed.map(|missed| (WORN * missed).max(least));
        let known = errors.iter().all(|error| error.is_finite())
            && mean <= mean_limit
            && largest <= 2.0 * limit;
        if known {
            // Below that squares may have vanished.
            self.bounds
                .set_errors(errors.into_iter().map(|error| error.max(1e-9)).collect());
        }
        known
    }

    /// `room` becomes the memory of the Gram matrix.
    fn new(tile: T, atoms: &[f32], d: usize, room: Vec<i16>) -> Option<Self> {
        let latents = atoms.len() / d;
        let padded = latents.next_multiple_of(SET);
        let steps = steps_of::<T>(d);
        let width = steps * T::Format::DEPTH;
        let zero = Column::<T>::default();
        let mut all = Self {
            rows: Aligned::new(padded * width, T::Format::ZERO),
            panels: Aligned::new(padded * width, zero),
            scales: vec![0.0; padded],
            offsets: vec![0; padded],
            bounds: Bounds::default(),
            missed: [0.0; 2],
            gram: OnceLock::new(),
            room: Mutex::new(room),
            steps,
            d,
            tile,
        };
        let sets = all
            .rows
            .par_chunks_mut(SET * width)
            .zip(all.panels.par_chunks_mut(SET * width))
            .zip(
                all.scales
                    .par_chunks_mut(SET)
                    .zip(all.offsets.par_chunks_mut(SET)),
            )
            .zip(atoms.par_chunks(SET * d))
            .map(|(((rows, panels), (scales, offsets)), atoms)| {
                let mut integers = vec![zero; width];
                let each = rows.chunks_exact_mut(width).zip(scales).zip(offsets);
                let each = each.zip(atoms.chunks_exact(d)).enumerate();
                each.map(|(at, (((row, scale), offset), atom))| {
                    let known = T::Format::row(atom, row)?;
                    for (integer, q) in integers.iter_mut().zip(row) {
                        *integer = T::Format::as_column(*q);
                    }
                    store_panel::<T>(&integers, at, panels);
                    *offset = T::Format::offset(&integers);
                    *scale = known.scale;
                    Some(known.norms)
                })
                .collect::<Option<Vec<Norms>>>()
            });
        for norms in sets.collect::<Vec<_>>() {
            norms?.into_iter().for_each(|norms| all.bounds.push(norms));
        }
        all.missed = [all.bounds.mean_error(), all.bounds.most.error];
        Some(all)
    }

    fn width(&self) -> usize {
        self.steps * T::Format::DEPTH
    }

    fn row(&self, atom: u32) -> &[Row<T>] {
        &self.rows[atom as usize * self.width()..][..self.width()]
    }

    /// The [`Tile::ROWS`] rows of atoms from `first` on.
    pub fn rows_from(&self, first: usize) -> &[Row<T>] {
        &self.rows[first * self.width()..][..T::ROWS * self.width()]
    }

    /// Sums of products of [`Tile::ROWS`] rows with the `LANES · P` atoms from `first` on, which
    /// are a multiple of them.
    #[inline(always)]
    pub fn sums<const P: usize>(
        &self,
        tile: T,
        ready: &T::Ready,
        rows: &[Row<T>],
        first: usize,
    ) -> T::Rows<[T::Sums; P]> {
        let mut start = [tile.all(0); P];
        for (p, start) in start.iter_mut().enumerate() {
            // SAFETY: a vector lies there.
            *start = unsafe { tile.load(vector::<T, _>(&self.offsets, first, p).as_ptr()) };
        }
        let panels = &self.panels[first * self.width()..][..P * T::LANES * self.width()];
        sums_of(tile, ready, rows, panels, self.steps, start)
    }

    #[inline(always)]
    pub fn scales<const P: usize>(&self, tile: T, first: usize) -> [T::Floats; P] {
        let mut scales = [tile.all_floats(0.0); P];
        for (p, scale) in scales.iter_mut().enumerate() {
            *scale = tile.load_floats(vector::<T, _>(&self.scales, first, p));
        }
        scales
    }
}

/// Correlations of rows `[n, steps, DEPTH]`, n a multiple of [`Tile::ROWS`], with all atoms: scores
/// `[at most n, padded]`.
struct AllScores<'a, T: Tile> {
    integers: &'a Integers<T>,
    rows: &'a [Row<T>],
    row_scales: &'a [f32],
    scores: &'a mut [f32],
}

impl<T: Tile> Job<T> for AllScores<'_, T> {
    #[inline(always)]
    fn run(self, tile: T) {
        match T::PANELS {
            2 => self.with_panels::<2>(tile),
            _ => self.with_panels::<3>(tile),
        }
    }
}

impl<T: Tile> AllScores<'_, T> {
    #[inline(always)]
    fn with_panels<const P: usize>(self, tile: T) {
        let (width, padded) = (self.integers.width(), self.integers.scales.len());
        let ready = tile.ready();
        for first in (0..padded).step_by(P * T::LANES) {
            let scales = self.integers.scales::<P>(tile, first);
            let some = self
                .rows
                .chunks_exact(T::ROWS * width)
                .zip(self.row_scales.chunks_exact(T::ROWS));
            for ((rows, row_scales), scores) in some.zip(self.scores.chunks_mut(T::ROWS * padded)) {
                let sums = self.integers.sums::<P>(tile, &ready, rows, first);
                let each = sums
                    .as_ref()
                    .iter()
                    .zip(row_scales)
                    .zip(scores.chunks_exact_mut(padded));
                for ((sums, row_scale), scores) in each {
                    for p in 0..P {
                        // In this order: the product of the scales may be subnormal.
                        let sum = tile.floats(sums[p]);
                        let score = tile.multiply(sum, tile.all_floats(*row_scale));
                        let score = tile.multiply(score, scales[p]);
                        tile.store_floats(score, &mut scores[first + p * T::LANES..]);
                    }
                }
            }
        }
    }
}

widest_vectors! {
    /// `missing = exact − scale · integers`.
    fn missing_of<F: Format>(exact: &[f32], integers: &[F::Row], scale: f32, missing: &mut [f32]) {
        for ((missing, exact), q) in missing.iter_mut().zip(exact).zip(integers) {
            *missing = exact - F::number(*q) * scale;
        }
    }
}

/// Lanes of a sum of squares.
const SQUARES: usize = 32;

widest_vectors! {
    /// `missing −= change · (exact − scale · integers)`. Returns the sum of squares of what is
    /// left.
    fn miss<F: Format>(missing: &mut [f32], change: f32, exact: &[f32], integers: &[F::Row], scale: f32) -> f32 {
        let integers = &integers[..exact.len()]; // without the padding
        let mut sums = [0.0f32; SQUARES];
        let one = |missing: &mut f32, exact: f32, q: F::Row| {
            *missing -= change * (exact - F::number(q) * scale);
            *missing * *missing
        };
        let (blocks, rest) = missing.as_chunks_mut::<SQUARES>();
        let (exacts, exact_rest) = exact.as_chunks::<SQUARES>();
        let (all, integer_rest) = integers.as_chunks::<SQUARES>();
        for ((missing, exact), integers) in blocks.iter_mut().zip(exacts).zip(all) {
            for lane in 0..SQUARES {
                sums[lane] += one(&mut missing[lane], exact[lane], integers[lane]);
            }
        }
        let rest = rest.iter_mut().zip(exact_rest).zip(integer_rest);
        let rest: f32 = rest.map(|((missing, exact), q)| one(missing, *exact, *q)).sum();
        sums.iter().sum::<f32>() + rest
    }
}

widest_vectors! {
    /// The sum of squares of `exact − scale · integers`.
    fn square_missing<F: Format>(exact: &[f32], integers: &[F::Row], scale: f32) -> f32 {
        let integers = &integers[..exact.len()]; // without the padding
        let mut sums = [0.0f32; SQUARES];
        let one = |exact: f32, q: F::Row| {
            let missing = exact - F::number(q) * scale;
            missing * missing
        };
        let (exacts, exact_rest) = exact.as_chunks::<SQUARES>();
        let (all, integer_rest) = integers.as_chunks::<SQUARES>();
        for (exact, integers) in exacts.iter().zip(all) {
            for lane in 0..SQUARES {
                sums[lane] += one(exact[lane], integers[lane]);
            }
        }
        let rest: f32 = exact_rest.iter().zip(integer_rest).map(|(exact, q)| one(*exact, *q)).sum();
        sums.iter().sum::<f32>() + rest
    }
}

impl<T: Tile> Approximate for InUse<T> {
    fn tile(&self) -> usize {
        64
    }

    fn padded(&self) -> usize {
        self.integers.scales.len()
    }

    fn bounds(&self) -> &Bounds {
        &self.integers.bounds
    }

    fn scores(&self, x: &[f32], scores: &mut [f32], tell: &mut dyn FnMut(usize, Option<&[f32]>)) {
        let (d, width) = (self.integers.d, self.integers.width());
        let n = x.len() / d;
        let padded = n.next_multiple_of(T::ROWS);
        let mut rows = Aligned::new(padded * width, T::Format::ZERO);
        let mut scales = vec![0.0f32; padded];
        let mut missing = vec![0.0f32; d];
        for (at, (x, row)) in x
            .chunks_exact(d)
            .zip(rows.chunks_exact_mut(width))
            .enumerate()
        {
            let known = T::Format::row(x, row);
            scales[at] = known.as_ref().map_or(0.0, |known| known.scale);
            missing_of::<T::Format>(x, row, scales[at], &mut missing);
            tell(at, known.map(|_| &missing[..]));
        }
        self.integers.tile.run(AllScores {
            integers: &self.integers,
            rows: &rows,
            row_scales: &scales,
            scores,
        });
    }

    fn fetch(&self, atom: u32) {
        if T::Format::SECOND {
            prefetch(self.integers.row(atom)); // for the second look, which there is not else
        }
    }

    fn miss(&self, atom: u32, change: f32, exact: &[f32], missing: &mut [f32]) -> f32 {
        miss::<T::Format>(
            missing,
            change,
            exact,
            self.integers.row(atom),
            self.integers.scales[atom as usize],
        )
    }

    fn gram(&self) -> &Gram {
        let integers = &self.integers;
        integers.gram.get_or_init(|| integers.new_gram())
    }

    fn keep(self: Box<Self>) {
        FULL.put(&self.kept, self.integers);
    }

    fn sharpen(&self, asked: &Asked<'_>, found: &mut Vec<u32>, scratch: &mut Sharp) {
        if !T::Format::SECOND {
            return;
        }
        let width = self.integers.width();
        let [first, second] = scratch.columns::<Column<T>>(width);
        let x = asked.residual;
        let known = T::Format::column(x, first, second);
        if let Some(known) = known.filter(|known| known.scale > 0.0) {
            self.integers.tile.run(Sharpen {
                integers: &self.integers,
                asked,
                known: &known,
                columns: [first, second],
                found,
            });
        }
    }
}

/// See [`Approximate::sharpen`], of a residual in integers.
struct Sharpen<'a, T: Tile> {
    integers: &'a Integers<T>,
    asked: &'a Asked<'a>,
    known: &'a Quantized,
    columns: [&'a [Column<T>]; 2],
    found: &'a mut Vec<u32>,
}

impl<T: Tile> Job<T> for Sharpen<'_, T> {
    #[inline(always)]
    fn run(self, tile: T) {
        let Self {
            integers,
            asked,
            known,
            columns,
            found,
        } = self;
        let [first_offset, second_offset] = columns.map(T::Format::offset);
        let mut kept = 0;
        for at in 0..found.len() {
            let atom = found[at];
            let [first, second] = products(tile, integers.row(atom), columns);
            let first = (first + first_offset) as f32;
            let second = (second + second_offset) as f32;
            let score = (first + second / PARTS) * known.scale * integers.scales[atom as usize];
            let reach = Reach {
                missing: known.second_error,
                ..asked.reach
            };
            let reach = reach.of(integers.bounds.of(atom));
            let size = if asked.signed { score.abs() } else { score };
            found[kept] = atom;
            kept += usize::from(size + reach >= asked.limit);
        }
        found.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Level, with_tile};

    /// |v|
    fn norm(v: impl Iterator<Item = f64>) -> f64 {
        v.map(|v| v * v).sum::<f64>().sqrt()
    }

    #[test]
    fn integers_that_serve_again_know_what_they_miss() {
        for level in Level::available() {
            with_tile!(level, |tile| they_know_what_they_miss(tile));
        }
    }

    fn they_know_what_they_miss<T: Tile>(tile: T) {
        const D: usize = 48;
        let wave = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 300.0;
        let atoms: Vec<f32> = (0..200 * D).map(wave).collect();
        let mut integers = Integers::new(tile, &atoms, D, vec![]).unwrap();
        let new = integers.bounds.mean_error();
        let moved = |size: f32| -> Vec<f32> {
            let by = |at: usize| if at.is_multiple_of(3) { size } else { -size };
            (0..).map(by).zip(&atoms).map(|(by, a)| a + by).collect()
        };
        for (size, serves) in [(2e-4, true), (3e-2, false), (0.0, true)] {
            let atoms = moved(size);
            assert_eq!(integers.serve(&atoms, D), serves, "moved by {size}");
            if !serves {
                continue;
            }
            for (latent, atom) in (0u32..).zip(atoms.chunks_exact(D)) {
                let (row, scale) = (integers.row(latent), integers.scales[latent as usize]);
                let number = |q: &Row<T>| f64::from(T::Format::number(*q));
                let approximate = row.iter().map(|q| number(q) * f64::from(scale));
                let whole = norm(atom.iter().map(|a| f64::from(*a)));
                let missing = atom.iter().zip(approximate).map(|(a, q)| f64::from(*a) - q);
                let (missing, known) = (norm(missing), f64::from(integers.bounds.of(latent).error));
                assert!(
                    missing <= known && known <= 1.01 * missing + 1e-7 * whole,
                    "{missing} {known}"
                );
            }
        }
        assert!((integers.bounds.mean_error() / new - 1.0).abs() < 0.01);
        assert!(!integers.serve(&atoms[D..], D));
        assert!(!integers.serve(&vec![0.0; atoms.len()], D));
    }

    /// `latents` atoms of width `d`.
    fn some_atoms(latents: usize, d: usize, seed: usize) -> Vec<f32> {
        let number = |at: usize| (((at + seed) * 7919 % 211) as f32 - 105.0) / 500.0;
        (0..latents * d).map(number).collect()
    }

    #[test]
    fn integers_of_other_atoms_or_another_tile_are_made_anew() {
        let mut kept = None;
        for level in Level::available() {
            with_tile!(level, |tile| they_are_made_anew(tile, &mut kept));
        }
    }

    fn they_are_made_anew<T: Tile>(tile: T, kept: &mut Option<Box<dyn Any + Send>>) {
        let sizes = [(200, 48), (200, 48), (100, 96), (300, 48), (96, 48)];
        for (seed, (latents, d)) in sizes.into_iter().enumerate() {
            let atoms = some_atoms(latents, d, 31 * seed);
            let new = Integers::new(tile, &atoms, d, vec![]).unwrap();
            let found = Integers::of(tile, &atoms, d, kept.take()).unwrap();
            assert!(found.rows[..] == new.rows[..] && found.panels[..] == new.panels[..]);
            assert!(found.scales == new.scales && found.offsets == new.offsets);
            assert_eq!((found.d, found.steps), (d, new.steps));
            assert_eq!(found.bounds.mean_error(), new.bounds.mean_error());
            *kept = Some(found);
        }
    }
}
