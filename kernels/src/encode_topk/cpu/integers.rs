//! Approximate scores from integers, with the instructions of a [`Tile`]. Each row and each latent
//! has its own scale; sums of products are exact in i32. The epilogue compares every score's upper
//! bound with its row's floor while it is still in registers, so no score is ever stored. With 8
//! bits, the few latents that are left get a second, tighter bound: eight more bits of the input
//! take most of its rounding error away. What is then left is scored exactly, set by set, while the
//! set's weights are in cache.

use super::Encoder;
use super::balance::Balance;
use super::bounds::LatentBounds;
use super::exact::score;
use super::row::Row;
use crate::host::{prefetch, prefetch_far};
use crate::integers::{
    Aligned, Column, Format, Job, PARTS, Row as Integer, Tile, WIDEST, products, steps_of,
    store_panel, sums_of, vector,
};
use rayon::prelude::*;

/// Latents whose hits are scored together: their weights fit into the second-level cache.
pub(super) const SET: usize = 96;

/// A multiple of the rows of every tile.
const _: () = assert!(SET <= 256 && SET.is_multiple_of(32) && SET.is_multiple_of(6));

/// Fewest rows that pay for going over the weights once more.
const FEWEST_ROWS: usize = 64;

/// Rows from which on a set's weights are fetched before it is known which are needed.
const MANY_ROWS: usize = 256;

/// Narrowest vectors that pay for it.
const NARROWEST: usize = 16;

/// Hits between asking for a latent's weights and needing them.
const AHEAD: usize = 2;

/// The same for a row's input, which comes from farther away and only as far as the second-level
/// cache.
const FAR_AHEAD: usize = 6;

/// Whether this way is open for `n` rows of width `d`.
pub(super) fn serves(n: usize, d: usize) -> bool {
    n >= FEWEST_ROWS && (NARROWEST..=WIDEST).contains(&d)
}

/// All latents in integers, padded to whole tiles.
pub(super) struct Latents<T: Tile> {
    integers: Aligned<Integer<T>>, // [F, steps, DEPTH]
    scales: Vec<f32>,              // [F]
    bounds: LatentBounds,
    balance: Option<Balance>,
    /// Times [`Format::DEPTH`], the width with its padding.
    steps: usize,
    d: usize,
    tile: T,
}

impl<T: Tile> Drop for Latents<T> {
    fn drop(&mut self) {
        if let Ok(mut spare) = T::Format::memory().lock() {
            let none = Aligned::new(0, T::Format::ZERO);
            *spare = std::mem::replace(&mut self.integers, none).into_memory();
        }
    }
}

impl<T: Tile> Latents<T> {
    /// Those of `encoder`, for inputs such as `x` `[n, d]`.
    pub fn new(tile: T, encoder: Encoder<'_>, x: &[f32]) -> Self {
        let Encoder {
            w_enc,
            latents: about,
            d,
        } = encoder;
        // With 16 bits, what rounding takes is small whatever the dimensions are.
        let balance = match T::Format::SECOND {
            true => Balance::of(x, w_enc, d),
            false => None,
        };
        let latents = about.bias.len();
        let padded = latents.next_multiple_of(T::ROWS);
        let steps = steps_of::<T>(d);
        let width = steps * T::Format::DEPTH;
        let memory = T::Format::memory().lock();
        let memory = std::mem::take(&mut *memory.expect("never held while panicking"));
        let mut integers = Aligned::reusing(memory, padded * width, T::Format::ZERO);
        let parts: Vec<(Vec<f32>, LatentBounds)> = integers
            .par_chunks_mut(SET * width)
            .enumerate()
            .map(|(set, integers)| {
                let mut scales = Vec::with_capacity(SET);
                let mut bounds = LatentBounds::default();
                let mut balanced = vec![0.0; balance.as_ref().map_or(0, |_| d)];
                for (latent, integers) in (set * SET..).zip(integers.chunks_exact_mut(width)) {
                    if latent >= latents {
                        scales.push(0.0);
                        bounds.push_padding();
                        continue;
                    }
                    let (bias, threshold) = about.of(latent);
                    let mut w = &w_enc[latent * d..][..d];
                    if let Some(balance) = &balance {
                        balance.weights(w, &mut balanced);
                        w = &balanced;
                    }
                    // Whatever stands where nothing is written counts as 0: by the scale, and by
                    // the inputs' padding.
                    let quantized = T::Format::row(w, integers);
                    scales.push(quantized.as_ref().map_or(0.0, |q| q.scale));
                    bounds.push(quantized.map(|q| q.norms), bias, threshold, d);
                }
                (scales, bounds)
            })
            .collect();
        let mut all = Self {
            integers,
            scales: Vec::with_capacity(padded),
            bounds: LatentBounds::default(),
            balance,
            steps,
            d,
            tile,
        };
        for (scales, bounds) in parts {
            all.scales.extend(scales);
            all.bounds.append(bounds);
        }
        all
    }

    /// Offers those of `latents` that are worth it to the rows of `x` `[rows, d]`. They begin with
    /// a multiple of [`SET`], and end with one or with the last; `encoder` is what the integers are
    /// made of.
    pub fn screen<R: Row>(
        &self,
        x: &[f32],
        encoder: Encoder<'_>,
        latents: std::ops::Range<usize>,
        rows: &mut [R],
    ) {
        let mut inputs = Inputs::<T>::new(x, self, rows);
        let mut hits = Hits::new::<T>();
        let mut left = Vec::new();
        let ready = self.tile.ready();
        let blocks = rows.len().div_ceil(T::BLOCK);
        assert!(latents.start.is_multiple_of(SET));
        for first in latents.clone().step_by(SET) {
            let tiles = (latents.end - first).min(SET).next_multiple_of(T::ROWS);
            // With many rows most latents will be scored for some: their weights come meanwhile, a
            // part with each block.
            let soon = encoder.w_enc.get(first * self.d..).unwrap_or_default();
            let soon = &soon[..soon.len().min(SET * self.d)];
            let mut parts = match rows.len() >= MANY_ROWS {
                true => soon.chunks(soon.len().div_ceil(blocks).max(1)),
                false => [].chunks(1),
            };
            for row in (0..rows.len()).step_by(T::BLOCK) {
                prefetch_far(parts.next().unwrap_or_default());
                self.tile.run(Block {
                    latents: self,
                    ready: &ready,
                    inputs: &inputs,
                    row,
                    panels: (rows.len() - row).div_ceil(T::LANES),
                    set: [first, tiles],
                    hits: &mut hits,
                    left: &mut left,
                });
            }
            left.sort_unstable();
            score_all(&left, x, first, encoder, rows, &mut inputs.floor);
            left.clear();
        }
    }
}

/// Rows of inputs in integers, padded to whole vectors.
struct Inputs<T: Tile> {
    panels: Aligned<Column<T>>, // [rows / LANES, steps, LANES, DEPTH]
    /// None where there are no second integers.
    second: Vec<Column<T>>, // [rows, steps, DEPTH]
    scale: Vec<f32>,
    norm: Vec<f32>,
    error: Vec<f32>,
    second_error: Vec<f32>,
    /// Largest norm and error of each block of rows.
    largest: Vec<[f32; 2]>,
    /// See [`Format::offset`].
    offset: Vec<i32>,
    second_offset: Vec<i32>,
    /// What a latent must reach, NaN where none is wanted.
    floor: Vec<f32>,
}

impl<T: Tile> Inputs<T> {
    /// Those of `x` `[rows, d]`; rows that cannot be had in integers give up.
    fn new<R: Row>(x: &[f32], latents: &Latents<T>, rows: &mut [R]) -> Self {
        let Latents {
            d, steps, balance, ..
        } = latents;
        let (d, steps) = (*d, *steps);
        let padded = rows.len().next_multiple_of(T::LANES);
        let width = steps * T::Format::DEPTH;
        let second = if T::Format::SECOND { width } else { 0 };
        let zero = Column::<T>::default();
        let zeros = vec![0.0f32; padded];
        let mut all = Self {
            panels: Aligned::new(padded * width, zero),
            second: vec![zero; padded * second],
            scale: zeros.clone(),
            norm: zeros.clone(),
            error: zeros.clone(),
            second_error: zeros,
            largest: vec![[0.0; 2]; padded.div_ceil(T::BLOCK)],
            offset: vec![0; padded],
            second_offset: vec![0; padded],
            floor: vec![f32::NAN; padded],
        };
        let mut integers = vec![zero; width];
        let mut balanced = vec![0.0; balance.as_ref().map_or(0, |_| d)];
        for (at, (mut x, row)) in x.chunks_exact(d).zip(rows).enumerate() {
            integers.fill(zero);
            let second = &mut all.second[at * second..][..second];
            let mut lost = 0.0;
            if let Some(balance) = balance {
                balance.input(x, &mut balanced);
                x = &balanced;
                lost = f32::MIN_POSITIVE; // of numbers that became subnormal
            }
            let Some(known) = T::Format::column(x, &mut integers, second) else {
                row.give_up();
                continue;
            };
            all.scale[at] = known.scale;
            all.norm[at] = known.norms.whole();
            all.error[at] = known.norms.error + lost;
            all.second_error[at] = known.second_error + lost;
            let [norm, error] = &mut all.largest[at / T::BLOCK];
            *norm = norm.max(all.norm[at]);
            *error = error.max(all.error[at]);
            all.offset[at] = T::Format::offset(&integers);
            all.second_offset[at] = T::Format::offset(second);
            all.floor[at] = floor(row);
            store_panel::<T>(&integers, at, &mut all.panels);
        }
        all
    }
}

/// See [`Inputs::floor`].
fn floor<R: Row>(row: &R) -> f32 {
    match row.wants_nothing() {
        true => f32::NAN,
        false => row.floor(),
    }
}

/// Latents of a set that bounds do not rule out for a row of a block, with their sums of products.
struct Hits {
    /// `row · 256 + place in the set`, as long as all there can be and a vector.
    pairs: Vec<i32>,
    sums: Vec<i32>,
    len: usize,
}

impl Hits {
    fn new<T: Tile>() -> Self {
        let most = T::BLOCK * SET + T::LANES;
        Self {
            pairs: vec![0; most],
            sums: vec![0; most],
            len: 0,
        }
    }

    /// Takes in the rows from `row` on that `found` marks.
    #[inline(always)]
    fn push<T: Tile>(&mut self, tile: T, row: usize, place: usize, found: u32, sums: T::Sums) {
        /// What each lane adds to a pair.
        const LANES: [i32; 16] = {
            let mut lanes = [0; 16];
            let mut lane = 0;
            while lane < lanes.len() {
                lanes[lane] = 256 * lane as i32;
                lane += 1;
            }
            lanes
        };
        // SAFETY: no vector has more lanes.
        let lanes = unsafe { tile.load(LANES.as_ptr()) };
        let pairs = tile.add(tile.all((row << 8 | place) as i32), lanes);
        tile.store_some(found, pairs, &mut self.pairs[self.len..]);
        tile.store_some(found, sums, &mut self.sums[self.len..]);
        self.len += found.count_ones() as usize;
    }
}

/// The latents of a set, and a block of rows.
struct Block<'a, T: Tile> {
    latents: &'a Latents<T>,
    ready: &'a T::Ready,
    inputs: &'a Inputs<T>,
    /// The first of the block.
    row: usize,
    /// Panels of rows from there on.
    panels: usize,
    /// The first of the set, and how many there are.
    set: [usize; 2],
    hits: &'a mut Hits,
    /// Gets what is to be scored.
    left: &'a mut Vec<u32>,
}

impl<T: Tile> Job<T> for Block<'_, T> {
    #[inline(always)]
    fn run(mut self, tile: T) {
        for place in (0..self.set[1]).step_by(T::ROWS) {
            match self.panels {
                1 => self.hit::<1>(tile, place),
                3.. if T::PANELS == 3 => self.hit::<3>(tile, place),
                _ => self.hit::<2>(tile, place),
            }
        }
        if T::Format::SECOND {
            self.look_again(tile);
        } else {
            let pairs = &self.hits.pairs[..self.hits.len];
            self.left.extend(pairs.iter().map(|pair| *pair as u32));
        }
        self.hits.len = 0;
    }
}

impl<T: Tile> Block<'_, T> {
    /// Adds to the hits what the bounds do not rule out of the [`Tile::ROWS`] latents from `place`
    /// in the set on, for the `P` vectors of rows.
    #[inline(always)]
    fn hit<const P: usize>(&mut self, tile: T, place: usize) {
        let (all, inputs, row) = (self.latents, self.inputs, self.row);
        let (width, from) = (all.steps * T::Format::DEPTH, self.set[0] + place);
        let weights = &all.integers[from * width..][..T::ROWS * width];
        let x = &inputs.panels[row * width..][..P * T::LANES * width];
        let mut offsets = [tile.all(0); P];
        let mut scale = [tile.all_floats(0.0); P];
        let mut floor = scale;
        for p in 0..P {
            // SAFETY: a vector lies there.
            offsets[p] = unsafe { tile.load(vector::<T, _>(&inputs.offset, row, p).as_ptr()) };
            scale[p] = tile.load_floats(vector::<T, _>(&inputs.scale, row, p));
            floor[p] = tile.load_floats(vector::<T, _>(&inputs.floor, row, p));
        }
        let sums = sums_of(tile, self.ready, weights, x, all.steps, offsets);
        // First the bound that holds for every row of the block: it is one number a latent, and
        // rules nearly all out.
        let [norm, error] = inputs.largest[row / T::BLOCK];
        let bounds = &all.bounds;
        for (l, sums) in sums.as_ref().iter().enumerate() {
            let latent = from + l;
            let always = bounds.bias[latent] + bounds.slack[latent];
            let (per_norm, per_error) = (bounds.per_norm[latent], bounds.per_error[latent]);
            let most = tile.all_floats(always + norm * per_norm + error * per_error);
            let latent_scale = tile.all_floats(all.scales[latent]);
            let mut found = [0u32; P];
            let mut any = 0;
            for p in 0..P {
                // In this order: the product of two scales may be subnormal, and a sum times the
                // rounding of that is more than the slack.
                let product = tile.multiply(tile.floats(sums[p]), scale[p]);
                let upper = tile.multiply_add(product, latent_scale, most);
                found[p] = tile.not_less(upper, floor[p]);
                any |= found[p];
            }
            // One branch for all vectors: most latents have no hit here.
            if any == 0 {
                continue;
            }
            for p in 0..P {
                if found[p] != 0 {
                    let norm = tile.load_floats(vector::<T, _>(&inputs.norm, row, p));
                    let error = tile.load_floats(vector::<T, _>(&inputs.error, row, p));
                    let most = tile.all_floats(always);
                    let most = tile.multiply_add(norm, tile.all_floats(per_norm), most);
                    let most = tile.multiply_add(error, tile.all_floats(per_error), most);
                    let product = tile.multiply(tile.floats(sums[p]), scale[p]);
                    let upper = tile.multiply_add(product, latent_scale, most);
                    let found = found[p] & tile.not_less(upper, floor[p]);
                    let row = row + p * T::LANES;
                    self.hits.push(tile, row, place + l, found, sums[p]);
                }
            }
        }
    }

    /// Leaves the hits that are not ruled out with the second integers of the inputs either.
    #[inline(always)]
    fn look_again(&mut self, tile: T) {
        let (all, inputs, hits) = (self.latents, self.inputs, &*self.hits);
        let width = all.steps * T::Format::DEPTH;
        let found = hits.pairs[..hits.len].iter().zip(&hits.sums);
        let mut len = self.left.len();
        self.left.resize(len + hits.len, 0);
        for (&pair, &sum) in found {
            let pair = pair as u32;
            let (row, latent) = ((pair >> 8) as usize, self.set[0] + (pair & 255) as usize);
            let [second] = products(
                tile,
                &all.integers[latent * width..][..width],
                [&inputs.second[row * width..][..width]],
            );
            let second = second + inputs.second_offset[row];
            let bounds = &all.bounds;
            let sum = sum as f32 + second as f32 / PARTS;
            let upper = sum * inputs.scale[row] * all.scales[latent]
                + bounds.bias[latent]
                + bounds.slack[latent]
                + inputs.norm[row] * bounds.per_norm[latent]
                + inputs.second_error[row] * bounds.per_error[latent];
            // Without a branch, which would be taken as often as not.
            self.left[len] = pair;
            len += usize::from(upper >= inputs.floor[row]);
        }
        self.left.truncate(len);
    }
}

/// Scores those `left` (as [`Hits`] has them) of the set that begins at the latent `first`, and
/// gives them to their rows.
fn score_all<R: Row>(
    left: &[u32],
    x: &[f32],
    first: usize,
    encoder: Encoder<'_>,
    rows: &mut [R],
    floors: &mut [f32],
) {
    let Encoder { w_enc, latents, d } = encoder;
    let latent = |pair: u32| first + (pair & 255) as usize;
    let weights = |pair: u32| &w_enc[latent(pair) * d..][..d];
    let input = |pair: u32| &x[(pair >> 8) as usize * d..][..d];
    for (at, &pair) in left.iter().enumerate() {
        if let Some(&soon) = left.get(at + AHEAD) {
            prefetch(weights(soon));
        }
        if let Some(&soon) = left.get(at + FAR_AHEAD) {
            prefetch_far(input(soon));
        }
        let score = score(input(pair), weights(pair), latents.bias[latent(pair)]);
        let row = (pair >> 8) as usize;
        rows[row].take(score, latent(pair) as u32);
        floors[row] = floor(&rows[row]);
    }
}
