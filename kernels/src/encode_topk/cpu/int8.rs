//! Approximate scores from 8-bit integers, four times as many a cycle as f32 has: AVX-512 with
//! VNNI. Each row and each latent has its own scale, its largest magnitude over 127; sums of
//! products are exact in i32. The epilogue compares every score's upper bound with its row's floor
//! while it is still in registers, so no score is ever stored. The few that it does not rule out
//! are looked at again with eight more bits of the input, whose error nearly vanishes from the
//! bound, and what is then left is scored exactly, set by set, while the set's weights are in
//! cache.

use super::Encoder;
use super::bounds::LatentBounds;
use super::exact::score;
use super::row::Row;
use crate::host::{Avx512, prefetch, prefetch_far};
use crate::integers::{
    BLOCK, DEPTH, LANES, PARTS, ROWS as LATENTS, WIDEST, products, quantize, round, round_twice,
    store_panel, sums_of, vector,
};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::sync::Mutex;

/// Latents whose hits are scored together: their weights fit into the second-level cache.
pub(super) const SET: usize = 96;

const _: () = assert!(SET <= 256 && SET.is_multiple_of(LATENTS));

/// Fewest rows that pay for going over the weights once more.
const FEWEST_ROWS: usize = 64;

/// Rows from which on a set's weights are fetched before it is known which are needed.
const MANY_ROWS: usize = 256;

/// Hits between asking for a latent's weights and needing them.
const AHEAD: usize = 2;

/// The same for a row's input, which comes from farther away and only as far as the second-level
/// cache.
const FAR_AHEAD: usize = 6;

/// Whether this way is open for `n` rows of width `d`.
pub(super) fn serves(n: usize, d: usize) -> bool {
    n >= FEWEST_ROWS && (LANES..=WIDEST).contains(&d)
}

/// All latents in integers, 128 added so that they are unsigned; padded to whole tiles.
pub(super) struct Latents {
    integers: Vec<u8>, // [F, steps, DEPTH]
    scales: Vec<f32>,  // [F]
    bounds: LatentBounds,
    /// Times [`DEPTH`], the width with its padding.
    steps: usize,
    d: usize,
    /// What [`Latents::screen`] computes with.
    #[expect(dead_code, reason = "a proof, of which there is nothing to read")]
    has: Avx512,
}

/// The memory of the last [`Latents`], for the next, of whatever weights: pages that are new to the
/// process cost more to clear than to fill. One for the process, a byte a weight, so that more
/// coders keep no more memory.
static SPARE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Drop for Latents {
    fn drop(&mut self) {
        if let Ok(mut spare) = SPARE.lock() {
            *spare = std::mem::take(&mut self.integers);
        }
    }
}

impl Latents {
    pub fn new(has: Avx512, encoder: Encoder<'_>) -> Self {
        let Encoder {
            w_enc,
            latents: about,
            d,
        } = encoder;
        let latents = about.bias.len();
        let padded = latents.next_multiple_of(LATENTS);
        let steps = d.div_ceil(DEPTH);
        let width = steps * DEPTH;
        let mut integers = std::mem::take(&mut *SPARE.lock().expect("never held while panicking"));
        match integers.capacity() >= padded * width {
            true => integers.resize(padded * width, 0),
            false => integers = vec![0; padded * width],
        }
        let parts: Vec<(Vec<f32>, LatentBounds)> = integers
            .par_chunks_mut(SET * width)
            .enumerate()
            .map(|(set, integers)| {
                let mut scales = Vec::with_capacity(SET);
                let mut bounds = LatentBounds::default();
                for (latent, integers) in (set * SET..).zip(integers.chunks_exact_mut(width)) {
                    if latent >= latents {
                        scales.push(0.0);
                        bounds.push_padding();
                        continue;
                    }
                    let (bias, threshold) = about.of(latent);
                    let w = &w_enc[latent * d..][..d];
                    // Whatever stands where nothing is written counts as 0: by the scale, and by
                    // the inputs' padding.
                    let quantized = quantize(w, |factor| round(w, factor, integers));
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
            steps,
            d,
            has,
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
        let mut inputs = Inputs::new(x, self.d, self.steps, rows);
        let mut hits = Hits::default();
        let mut left = Vec::new();
        let blocks = rows.len().div_ceil(BLOCK);
        assert!(latents.start.is_multiple_of(SET));
        for first in latents.clone().step_by(SET) {
            let tiles = (latents.end - first).min(SET).next_multiple_of(LATENTS);
            // With many rows most latents will be scored for some: their weights come meanwhile, a
            // part with each block.
            let soon = encoder.w_enc.get(first * self.d..).unwrap_or_default();
            let soon = &soon[..soon.len().min(SET * self.d)];
            let mut parts = match rows.len() >= MANY_ROWS {
                true => soon.chunks(soon.len().div_ceil(blocks).max(1)),
                false => [].chunks(1),
            };
            for row in (0..rows.len()).step_by(BLOCK) {
                prefetch_far(parts.next().unwrap_or_default());
                // SAFETY: the processor has these instructions, as `self.has` proves.
                unsafe {
                    for tile in (0..tiles).step_by(LATENTS) {
                        match (rows.len() - row).div_ceil(LANES) {
                            1 => self.hit::<1>(&inputs, row, [first, tile], &mut hits),
                            2 => self.hit::<2>(&inputs, row, [first, tile], &mut hits),
                            _ => self.hit::<3>(&inputs, row, [first, tile], &mut hits),
                        }
                    }
                    self.look_again(&inputs, first, &mut hits, &mut left);
                }
            }
            left.sort_unstable();
            score_all(&left, x, first, encoder, rows, &mut inputs.floor);
            left.clear();
        }
    }
}

/// Rows of inputs in integers, padded to whole vectors.
struct Inputs {
    panels: Vec<i8>, // [rows / LANES, steps, LANES, DEPTH]
    second: Vec<i8>, // [rows, steps, DEPTH]
    scale: Vec<f32>,
    norm: Vec<f32>,
    error: Vec<f32>,
    second_error: Vec<f32>,
    /// Largest norm and error of each block of rows.
    largest: Vec<[f32; 2]>,
    /// What adding 128 to the weights adds to a sum of products.
    offset: Vec<i32>,
    second_offset: Vec<i32>,
    /// What a latent must reach, NaN where none is wanted.
    floor: Vec<f32>,
}

impl Inputs {
    /// Those of `x` `[rows, d]`; rows that cannot be had in integers give up.
    fn new<R: Row>(x: &[f32], d: usize, steps: usize, rows: &mut [R]) -> Self {
        let padded = rows.len().next_multiple_of(LANES);
        let width = steps * DEPTH;
        let zeros = vec![0.0f32; padded];
        let mut all = Self {
            panels: vec![0; padded * width],
            second: vec![0; padded * width],
            scale: zeros.clone(),
            norm: zeros.clone(),
            error: zeros.clone(),
            second_error: zeros,
            largest: vec![[0.0; 2]; padded.div_ceil(BLOCK)],
            offset: vec![0; padded],
            second_offset: vec![0; padded],
            floor: vec![f32::NAN; padded],
        };
        let mut integers = vec![0i8; width];
        let sum = |integers: &[i8]| 128 * integers.iter().map(|q| i32::from(*q)).sum::<i32>();
        for (at, (x, row)) in x.chunks_exact(d).zip(rows).enumerate() {
            integers.fill(0);
            let second = &mut all.second[at * width..][..width];
            let Some(known) = quantize(x, |factor| round_twice(x, factor, &mut integers, second))
            else {
                row.give_up();
                continue;
            };
            all.scale[at] = known.scale;
            all.norm[at] = known.norms.whole();
            all.error[at] = known.norms.error;
            all.second_error[at] = known.second_error;
            let [norm, error] = &mut all.largest[at / BLOCK];
            *norm = norm.max(all.norm[at]);
            *error = error.max(all.error[at]);
            all.offset[at] = sum(&integers);
            all.second_offset[at] = sum(second);
            all.floor[at] = floor(row);
            store_panel(&integers, at, &mut all.panels);
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
    pairs: Vec<u32>,
    sums: Vec<i32>,
    len: usize,
}

impl Default for Hits {
    fn default() -> Self {
        Self {
            pairs: vec![0; BLOCK * SET + LANES],
            sums: vec![0; BLOCK * SET + LANES],
            len: 0,
        }
    }
}

impl Hits {
    /// Takes in the rows from `row` on that `found` marks.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn push(&mut self, row: usize, place: usize, found: __mmask16, sums: __m512i) {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let rows = _mm512_add_epi32(_mm512_set1_epi32(row as i32), lanes);
        let pairs = _mm512_or_epi32(
            _mm512_slli_epi32::<8>(rows),
            _mm512_set1_epi32(place as i32),
        );
        let spare: Option<&mut [u32; LANES]> = self.pairs[self.len..].first_chunk_mut();
        let pairs_spare = spare.expect("room for a whole vector after all there can be");
        let spare: Option<&mut [i32; LANES]> = self.sums[self.len..].first_chunk_mut();
        let sums_spare = spare.expect("as long as the pairs");
        // SAFETY: LANES integers fit into each.
        unsafe {
            let pairs = _mm512_maskz_compress_epi32(found, pairs);
            _mm512_storeu_si512(pairs_spare.as_mut_ptr().cast(), pairs);
            let sums = _mm512_maskz_compress_epi32(found, sums);
            _mm512_storeu_si512(sums_spare.as_mut_ptr().cast(), sums);
        }
        self.len += found.count_ones() as usize;
    }
}

impl Latents {
    /// Adds to `hits` what the bounds do not rule out of the [`LATENTS`] latents that stand at
    /// `[first of the set, place in it]`, for the `P` vectors of rows from `row` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn hit<const P: usize>(
        &self,
        inputs: &Inputs,
        row: usize,
        [first, place]: [usize; 2],
        hits: &mut Hits,
    ) {
        let width = self.steps * DEPTH;
        let weights = &self.integers[(first + place) * width..][..LATENTS * width];
        let x = &inputs.panels[row * width..][..P * LANES * width];
        let offsets: [__m512i; P] = std::array::from_fn(|p| {
            let offset: &[i32; LANES] = vector(&inputs.offset, row, p);
            // SAFETY: LANES integers lie there.
            let offset = unsafe { _mm512_loadu_si512(offset.as_ptr().cast()) };
            _mm512_sub_epi32(_mm512_setzero_si512(), offset)
        });
        let sums = sums_of(weights, x, self.steps, offsets);
        let of_rows = |v: &[f32], p: usize| -> __m512 {
            let v: &[f32; LANES] = vector(v, row, p);
            // SAFETY: LANES floats lie there.
            unsafe { _mm512_loadu_ps(v.as_ptr()) }
        };
        // First the bound that holds for every row of the block: it is one number a latent, and
        // rules nearly all out.
        let scale: [__m512; P] = std::array::from_fn(|p| of_rows(&inputs.scale, p));
        let floor: [__m512; P] = std::array::from_fn(|p| of_rows(&inputs.floor, p));
        let [norm, error] = inputs.largest[row / BLOCK];
        let bounds = &self.bounds;
        for (l, sums) in sums.iter().enumerate() {
            let latent = first + place + l;
            let always = bounds.bias[latent] + bounds.slack[latent];
            let (per_norm, per_error) = (bounds.per_norm[latent], bounds.per_error[latent]);
            let most = _mm512_set1_ps(always + norm * per_norm + error * per_error);
            let latent_scale = _mm512_set1_ps(self.scales[latent]);
            let reach = |p: usize, most: __m512| {
                let scale = _mm512_mul_ps(scale[p], latent_scale);
                let upper = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[p]), scale, most);
                _mm512_cmp_ps_mask::<_CMP_GE_OQ>(upper, floor[p])
            };
            let found: [__mmask16; P] = std::array::from_fn(|p| reach(p, most));
            // One branch for all vectors: most latents have no hit here.
            if found.iter().fold(0, |all, found| all | found) == 0 {
                continue;
            }
            for (p, found) in found.into_iter().enumerate() {
                if found != 0 {
                    let (norm, error) = (of_rows(&inputs.norm, p), of_rows(&inputs.error, p));
                    let most = _mm512_set1_ps(always);
                    let most = _mm512_fmadd_ps(norm, _mm512_set1_ps(per_norm), most);
                    let most = _mm512_fmadd_ps(error, _mm512_set1_ps(per_error), most);
                    let found = found & reach(p, most);
                    hits.push(row + p * LANES, place + l, found, sums[p]);
                }
            }
        }
    }

    /// Empties `hits`, and adds to `left` those that are not ruled out with the second integers of
    /// the inputs either.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn look_again(&self, inputs: &Inputs, first: usize, hits: &mut Hits, left: &mut Vec<u32>) {
        let width = self.steps * DEPTH;
        let found = hits.pairs[..hits.len].iter().zip(&hits.sums);
        let mut len = left.len();
        left.resize(len + hits.len, 0);
        for (&pair, &sum) in found {
            let (row, latent) = ((pair >> 8) as usize, first + (pair & 255) as usize);
            let second = products(
                &self.integers[latent * width..][..width],
                &inputs.second[row * width..][..width],
            );
            let second = second - inputs.second_offset[row];
            let scale = inputs.scale[row] * self.scales[latent];
            let bounds = &self.bounds;
            let upper = (sum as f32 + second as f32 / PARTS) * scale
                + bounds.bias[latent]
                + bounds.slack[latent]
                + inputs.norm[row] * bounds.per_norm[latent]
                + inputs.second_error[row] * bounds.per_error[latent];
            // Without a branch, which would be taken as often as not.
            left[len] = pair;
            len += usize::from(upper >= inputs.floor[row]);
        }
        left.truncate(len);
        hits.len = 0;
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
