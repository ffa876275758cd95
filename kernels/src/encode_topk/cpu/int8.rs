//! Approximate scores from 8-bit integers, four times as many a cycle as f32 has: AVX-512 with VNNI. Each row and each latent
//! has its own scale, its largest magnitude over 127; sums of products are exact in i32. The epilogue compares every score's
//! upper bound with its row's floor while it is still in registers, so no score is ever stored. What it does not rule out is
//! scored exactly group by group, while the group's weights are in cache.

use super::Encoder;
use super::bounds::{LARGEST, LatentBounds, Norms, SMALLEST};
use super::exact::score;
use super::float::largest;
use super::row::Row;
use crate::host::{prefetch, prefetch_far, widest_vectors};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::sync::Mutex;

/// Latents of a vector, vectors of a tile, rows of a tile: 24 sums, 3 weights and an input in 32 registers.
const LANES: usize = 16;
const PANELS: usize = 3;
const ROWS: usize = 8;

/// Latents whose weights lie together.
const GROUP: usize = LANES * PANELS;

/// Products that one instruction adds up in a lane.
const DEPTH: usize = 4;

/// Widest input whose sums of products surely fit in an i32.
const WIDEST: usize = 1 << 16;

/// Fewest rows that pay for going over the weights once more.
const FEWEST_ROWS: usize = 64;

/// Whether this way is open for `n` rows of width `d`.
pub(super) fn serves(n: usize, d: usize) -> bool {
    n >= FEWEST_ROWS && (LANES..=WIDEST).contains(&d)
}

/// One row or latent in integers, `v ≈ scale · integers`.
struct Quantized {
    scale: f32,
    norms: Norms,
}

/// Writes integers from -127 to 127; None if there are numbers beyond any bound, and the integers are then 0.
fn quantize(v: &[f32], integers: &mut [i8]) -> Option<Quantized> {
    let largest = largest(v);
    integers.fill(0);
    if largest.is_nan() || largest > LARGEST {
        return None;
    }
    if largest < SMALLEST {
        let all = largest * (v.len() as f32).sqrt() * 1.01;
        let norms = Norms {
            approximate: 0.0,
            error: all,
        };
        return Some(Quantized { scale: 0.0, norms });
    }
    let scale = largest / 127.0;
    let mut squares = [0.0; 2];
    round(v, 127.0 / largest, integers, &mut squares);
    // v / scale is itself rounded, by less than 127 · 2⁻²² a number.
    let [approximate, error] = squares;
    let inexact = v.len() as f32 * (127.0 * 2.0 * f32::EPSILON).powi(2);
    let mut norms = Norms::from_squares(scale, approximate, error);
    norms.error += scale * inexact.sqrt() * 1.01;
    Some(Quantized { scale, norms })
}

widest_vectors! {
    /// Rounds to the nearest integer; sums of squares of the integers and of what rounding took away.
    fn round(v: &[f32], factor: f32, integers: &mut [i8], squares: &mut [f32; 2]) {
        // Adding this leaves the nearest integer in the last bits.
        const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
        const WIDTH: usize = 16;
        let mut sums = [[0.0f32; WIDTH]; 2];
        let mut one = |v: f32, integer: &mut i8, lane: usize| {
            let scaled = v * factor;
            let shifted = scaled + SHIFT;
            *integer = shifted.to_bits() as i8;
            let near = shifted - SHIFT;
            sums[0][lane] += near * near;
            sums[1][lane] += (scaled - near) * (scaled - near);
        };
        let (blocks, rest) = v.as_chunks::<WIDTH>();
        let (out, out_rest) = integers[..v.len()].as_chunks_mut::<WIDTH>();
        for (v, integers) in blocks.iter().zip(out) {
            for lane in 0..WIDTH {
                one(v[lane], &mut integers[lane], lane);
            }
        }
        for (v, integer) in rest.iter().zip(out_rest) {
            one(*v, integer, 0);
        }
        *squares = sums.map(|lanes| lanes.iter().sum());
    }
}

/// All latents in integers, groups of [`GROUP`]; within a group panel after panel, each `[steps, LANES, DEPTH]`, 128 added so
/// that they are unsigned.
pub(super) struct Latents {
    integers: Vec<u8>,
    scales: Vec<f32>, // [F], padded
    bounds: LatentBounds,
    /// Times [`DEPTH`], the width with its padding.
    steps: usize,
    d: usize,
}

/// The memory of the last [`Latents`], for the next: pages that are new to the process cost more to clear than to fill. It
/// is kept until the process ends, a byte a weight.
static SPARE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Drop for Latents {
    fn drop(&mut self) {
        if let Ok(mut spare) = SPARE.lock() {
            *spare = std::mem::take(&mut self.integers);
        }
    }
}

impl Latents {
    pub fn new(encoder: Encoder<'_>) -> Self {
        let Encoder {
            w_enc,
            latents: about,
            d,
        } = encoder;
        let latents = about.bias.len();
        let groups = latents.div_ceil(GROUP);
        let steps = d.div_ceil(DEPTH);
        let size = GROUP * steps * DEPTH;
        let mut integers = std::mem::take(&mut *SPARE.lock().expect("never held while panicking"));
        match integers.capacity() >= groups * size {
            true => integers.resize(groups * size, 0),
            false => integers = vec![0; groups * size],
        }
        let parts: Vec<(Vec<f32>, LatentBounds)> = integers
            .par_chunks_exact_mut(size)
            .enumerate()
            .map(|(group, integers)| {
                let mut row = vec![0i8; steps * DEPTH];
                let mut scales = Vec::with_capacity(GROUP);
                let mut bounds = LatentBounds::default();
                for place in 0..GROUP {
                    let latent = group * GROUP + place;
                    let panel = &mut integers[place / LANES * LANES * steps * DEPTH..];
                    let lane = place % LANES;
                    if latent >= latents {
                        scales.push(0.0);
                        bounds.push_padding();
                        continue;
                    }
                    let (bias, threshold) = about.of(latent);
                    let quantized = quantize(&w_enc[latent * d..][..d], &mut row);
                    scales.push(quantized.as_ref().map_or(0.0, |q| q.scale));
                    bounds.push(quantized.map(|q| q.norms), bias, threshold, d);
                    let steps = panel.as_chunks_mut::<{ LANES * DEPTH }>().0;
                    for (step, four) in steps.iter_mut().zip(row.as_chunks::<DEPTH>().0) {
                        step[lane * DEPTH..][..DEPTH]
                            .copy_from_slice(&four.map(|q| (q as u8).wrapping_add(128)));
                    }
                }
                (scales, bounds)
            })
            .collect();
        let mut all = Self {
            integers,
            scales: Vec::with_capacity(groups * GROUP),
            bounds: LatentBounds::default(),
            steps,
            d,
        };
        for (scales, bounds) in parts {
            all.scales.extend(scales);
            all.bounds.append(bounds);
        }
        all
    }

    /// Offers all latents that are worth it to the rows of `x` `[rows, d]`. `encoder` is what the integers are made of.
    pub fn screen<R: Row>(&self, x: &[f32], encoder: Encoder<'_>, rows: &mut [R]) {
        let width = self.steps * DEPTH;
        let padded = rows.len().next_multiple_of(ROWS);
        let mut integers = vec![0i8; padded * width];
        let mut known: Vec<Known> = Vec::with_capacity(padded);
        for ((x, integers), row) in x
            .chunks_exact(self.d)
            .zip(integers.chunks_exact_mut(width))
            .zip(&mut *rows)
        {
            known.push(match quantize(x, integers) {
                Some(quantized) => Known {
                    scale: quantized.scale,
                    norm: quantized.norms.whole(),
                    error: quantized.norms.error,
                    offset: 128 * integers.iter().map(|q| i32::from(*q)).sum::<i32>(),
                },
                None => {
                    row.give_up();
                    Known::default()
                }
            });
        }
        known.resize(padded, Known::default());
        let mut hits = Hits::new(rows.len());
        let set_size = TOGETHER * GROUP * width;
        for (set, weights) in self.integers.chunks(set_size).enumerate() {
            let first = set * TOGETHER * GROUP;
            for (group, weights) in weights.chunks_exact(GROUP * width).enumerate() {
                let here = first + group * GROUP..first + (group + 1) * GROUP;
                let tile = Tile {
                    weights,
                    scales: &self.scales[here.clone()],
                    bounds: [
                        &self.bounds.bias[here.clone()],
                        &self.bounds.slack[here.clone()],
                        &self.bounds.per_norm[here.clone()],
                        &self.bounds.per_error[here.clone()],
                    ],
                    steps: self.steps,
                };
                let blocks = integers
                    .chunks_exact(ROWS * width)
                    .zip(known.as_chunks::<ROWS>().0);
                // With many rows most latents will be scored for some: their weights come meanwhile, a part with each block.
                let soon = encoder.w_enc.get(here.start * self.d..).unwrap_or_default();
                let soon = &soon[..soon.len().min(GROUP * self.d)];
                let mut parts = match rows.len() >= MANY_ROWS {
                    true => soon.chunks(soon.len().div_ceil(padded / ROWS).max(1)),
                    false => [].chunks(1),
                };
                for (block, ((x, known), rows)) in blocks.zip(rows.chunks(ROWS)).enumerate() {
                    prefetch_far(parts.next().unwrap_or_default());
                    let at = [block * ROWS, group * GROUP];
                    // SAFETY: this way is taken only where the processor has these instructions (`Level::Avx512`).
                    unsafe { tile.hit(x, known, rows, at, &mut hits) };
                }
            }
            hits.score(x, first, encoder, rows);
        }
    }
}

/// Groups whose hits are scored together: a row's input is fetched once for all of them, and their weights still fit into
/// the second-level cache.
const TOGETHER: usize = 2;

const _: () = assert!(TOGETHER * GROUP <= 256);

/// Rows from which on a group's weights are fetched before it is known which are needed.
const MANY_ROWS: usize = 256;

/// Hits between asking for a latent's weights and needing them.
const AHEAD: usize = 2;

/// Latents of a set of groups, to be scored exactly for a row.
struct Hits {
    /// `row · 256 + place in the set`, in the order found; as long as all there can be and a vector.
    pairs: Vec<u32>,
    len: usize,
    /// In the order of rows.
    sorted: Vec<u32>,
    /// Where each row's next hit goes in `sorted`. [rows + 1]
    starts: Vec<u32>,
}

impl Hits {
    fn new(rows: usize) -> Self {
        Self {
            pairs: vec![0; rows * TOGETHER * GROUP + LANES],
            len: 0,
            sorted: vec![],
            starts: vec![0; rows + 1],
        }
    }

    /// Takes in the places from `first` on that `found` marks.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn push(&mut self, row: usize, first: usize, found: __mmask16) {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let pairs = _mm512_add_epi32(_mm512_set1_epi32((row << 8 | first) as i32), lanes);
        let spare: Option<&mut [u32; LANES]> = self.pairs[self.len..].first_chunk_mut();
        let spare = spare.expect("room for a whole vector after all there can be");
        // SAFETY: LANES integers fit there.
        unsafe {
            let pairs = _mm512_maskz_compress_epi32(found, pairs);
            _mm512_storeu_si512(spare.as_mut_ptr().cast(), pairs);
        }
        self.len += found.count_ones() as usize;
    }

    /// Scores all, gives them to their rows, and is empty again. `first`: the set's first latent.
    fn score<R: Row>(&mut self, x: &[f32], first: usize, encoder: Encoder<'_>, rows: &mut [R]) {
        let Encoder { w_enc, latents, d } = encoder;
        self.sort();
        let latent = |pair: u32| first + (pair & 255) as usize;
        let weights = |pair: u32| &w_enc[latent(pair) * d..][..d];
        for (at, &pair) in self.sorted.iter().enumerate() {
            if let Some(&soon) = self.sorted.get(at + AHEAD) {
                prefetch(weights(soon));
            }
            let row = (pair >> 8) as usize;
            let score = score(
                &x[row * d..][..d],
                weights(pair),
                latents.bias[latent(pair)],
            );
            rows[row].take(score, latent(pair) as u32);
        }
    }

    fn sort(&mut self) {
        let pairs = &self.pairs[..self.len];
        self.starts.fill(0);
        for pair in pairs {
            self.starts[(pair >> 8) as usize + 1] += 1;
        }
        for row in 1..self.starts.len() {
            self.starts[row] += self.starts[row - 1];
        }
        self.sorted.resize(pairs.len(), 0);
        for pair in pairs {
            let next = &mut self.starts[(pair >> 8) as usize];
            self.sorted[*next as usize] = *pair;
            *next += 1;
        }
        self.len = 0;
    }
}

/// What the epilogue must know of a row.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    scale: f32,
    norm: f32,
    error: f32,
    /// What adding 128 to the weights adds to a sum of products.
    offset: i32,
}

struct Tile<'a> {
    weights: &'a [u8], // [PANELS, steps, LANES, DEPTH]
    scales: &'a [f32],
    /// Bias, slack, per_norm, per_error, [GROUP] each.
    bounds: [&'a [f32]; 4],
    steps: usize,
}

impl Tile<'_> {
    /// Adds to `hits` what the bounds do not rule out of a block of rows. The first row and the first latent have the numbers
    /// `first`. `x` `[ROWS, steps, DEPTH]`; the last block may have fewer rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn hit<R: Row>(
        &self,
        x: &[i8],
        known: &[Known; ROWS],
        rows: &[R],
        first: [usize; 2],
        hits: &mut Hits,
    ) {
        let width = self.steps * DEPTH;
        assert!(x.len() == ROWS * width && self.weights.len() == GROUP * width);
        let mut sums = known.map(|known| [_mm512_set1_epi32(-known.offset); PANELS]);
        for step in 0..self.steps {
            // SAFETY: by the assertion, panel p's step lies within the weights, and row r's within x.
            unsafe {
                let at = self.weights.as_ptr().add(step * LANES * DEPTH);
                let weights: [__m512i; PANELS] =
                    std::array::from_fn(|p| _mm512_loadu_si512(at.add(p * LANES * width).cast()));
                let x = x.as_ptr().add(step * DEPTH);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let four = _mm512_set1_epi32(x.add(r * width).cast::<i32>().read_unaligned());
                    for (sum, weights) in sums.iter_mut().zip(&weights) {
                        *sum = _mm512_dpbusd_epi32(*sum, *weights, four);
                    }
                }
            }
        }
        // First the bound that holds for every row of the block: it is one number a latent, and rules nearly all out.
        let largest = |of: fn(&Known) -> f32| known.iter().map(of).fold(0.0, f32::max);
        let block = Known {
            norm: largest(|known| known.norm),
            error: largest(|known| known.error),
            ..Known::default()
        };
        let scales: [__m512; PANELS] = std::array::from_fn(|p| load(self.scales, p));
        let middles: [__m512; PANELS] = std::array::from_fn(|p| self.most(&block, p));
        for (r, ((sums, known), row)) in sums.iter().zip(known).zip(rows).enumerate() {
            if row.wants_nothing() {
                continue;
            }
            let scale = _mm512_set1_ps(known.scale);
            let floor = _mm512_set1_ps(row.floor());
            let reach = |p: usize, most: __m512| {
                let scale = _mm512_mul_ps(scales[p], scale);
                let upper = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[p]), scale, most);
                _mm512_cmp_ps_mask::<_CMP_GE_OQ>(upper, floor)
            };
            let found: [__mmask16; PANELS] = std::array::from_fn(|p| reach(p, middles[p]));
            // One branch for all panels: most rows have no hit here.
            if found.iter().fold(0, |all, found| all | found) == 0 {
                continue;
            }
            for (p, found) in found.into_iter().enumerate() {
                if found != 0 {
                    let found = found & reach(p, self.most(known, p));
                    hits.push(first[0] + r, first[1] + p * LANES, found);
                }
            }
        }
    }

    /// What a row's scores for a panel exceed the products of their approximations by, at most.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn most(&self, row: &Known, p: usize) -> __m512 {
        let [bias, slack, per_norm, per_error] = self.bounds;
        let always = _mm512_add_ps(load(bias, p), load(slack, p));
        let most = _mm512_fmadd_ps(_mm512_set1_ps(row.norm), load(per_norm, p), always);
        _mm512_fmadd_ps(_mm512_set1_ps(row.error), load(per_error, p), most)
    }
}

/// Panel `p` of what is known of a group of latents.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(v: &[f32], p: usize) -> __m512 {
    let v: &[f32; LANES] = v[p * LANES..][..LANES].try_into().expect("whole panel");
    // SAFETY: LANES floats lie there.
    unsafe { _mm512_loadu_ps(v.as_ptr()) }
}
