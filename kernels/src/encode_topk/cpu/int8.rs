//! Approximate scores from 8-bit integers, four times as many a cycle as f32 has: AVX-512 with VNNI. Each row and each latent
//! has its own scale, its largest magnitude over 127; sums of products are exact in i32. The epilogue compares every score's
//! upper bound with its row's floor while it is still in registers, so no score is ever stored.

use super::LatentsOf;
use super::bounds::{LARGEST, LatentBounds, Norms, SMALLEST};
use super::candidates::{Candidates, SPARE};
use super::float::largest;
use crate::host::widest_vectors;
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Latents of a vector, vectors of a tile, rows of a tile: 24 sums, 3 weights and an input in 32 registers.
const LANES: usize = 16;
const PANELS: usize = 3;
const ROWS: usize = 8;

// A vector of candidates fits into a list's spare room.
const _: () = assert!(LANES == SPARE);

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

impl Latents {
    pub fn new(w_enc: &[f32], about: &LatentsOf<'_>, d: usize) -> Self {
        let latents = about.bias.len();
        let groups = latents.div_ceil(GROUP);
        let steps = d.div_ceil(DEPTH);
        let size = GROUP * steps * DEPTH;
        let mut integers = vec![0u8; groups * size];
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

    /// Offers all latents to the candidates of each row of `x` `[rows, d]`.
    pub fn screen(&self, x: &[f32], candidates: &mut [Candidates]) {
        let width = self.steps * DEPTH;
        let padded = candidates.len().next_multiple_of(ROWS);
        let mut integers = vec![0i8; padded * width];
        let mut rows: Vec<Row> = Vec::with_capacity(padded);
        for ((x, integers), candidates) in x
            .chunks_exact(self.d)
            .zip(integers.chunks_exact_mut(width))
            .zip(&mut *candidates)
        {
            rows.push(match quantize(x, integers) {
                Some(quantized) => Row {
                    scale: quantized.scale,
                    norm: quantized.norms.whole(),
                    error: quantized.norms.error,
                    offset: 128 * integers.iter().map(|q| i32::from(*q)).sum::<i32>(),
                },
                None => {
                    candidates.give_up();
                    Row::default()
                }
            });
        }
        rows.resize(padded, Row::default());
        let group_size = GROUP * width;
        for (group, weights) in self.integers.chunks_exact(group_size).enumerate() {
            let first = group * GROUP;
            let here = first..first + GROUP;
            let tile = Tile {
                weights,
                scales: &self.scales[here.clone()],
                bounds: [
                    &self.bounds.bias[here.clone()],
                    &self.bounds.slack[here.clone()],
                    &self.bounds.per_norm[here.clone()],
                    &self.bounds.per_error[here],
                ],
                first,
                steps: self.steps,
            };
            let blocks = integers
                .chunks_exact(ROWS * width)
                .zip(rows.as_chunks::<ROWS>().0);
            for ((x, rows), candidates) in blocks.zip(candidates.chunks_mut(ROWS)) {
                // SAFETY: this way is taken only where the processor has these instructions (`Level::Avx512`).
                unsafe { tile.offer(x, rows, candidates) };
            }
        }
    }
}

/// What the epilogue must know of a row.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
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
    first: usize,
    steps: usize,
}

impl Tile<'_> {
    /// `x` `[ROWS, steps, DEPTH]`; the last block may have fewer candidates than rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn offer(&self, x: &[i8], rows: &[Row; ROWS], candidates: &mut [Candidates]) {
        let width = self.steps * DEPTH;
        assert!(x.len() == ROWS * width && self.weights.len() == GROUP * width);
        let mut sums = [[_mm512_setzero_si512(); PANELS]; ROWS];
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
        let [bias, slack, per_norm, per_error] = self.bounds;
        let mut panels = [Panel::nothing(); PANELS];
        for (p, panel) in panels.iter_mut().enumerate() {
            *panel = Panel {
                scales: load(self.scales, p),
                middle: _mm512_add_ps(load(bias, p), load(slack, p)),
                per_norm: load(per_norm, p),
                per_error: load(per_error, p),
            };
        }
        for ((sums, row), candidates) in sums.iter().zip(rows).zip(candidates) {
            if candidates.hopeless() {
                continue;
            }
            let offset = _mm512_set1_epi32(row.offset);
            let scale = _mm512_set1_ps(row.scale);
            let (norm, error) = (_mm512_set1_ps(row.norm), _mm512_set1_ps(row.error));
            let floor = _mm512_set1_ps(candidates.floor());
            let mut uppers = [_mm512_setzero_ps(); PANELS];
            let mut hits = [0; PANELS];
            for p in 0..PANELS {
                let panel = &panels[p];
                let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[p], offset));
                let upper = _mm512_fmadd_ps(sum, _mm512_mul_ps(panel.scales, scale), panel.middle);
                let upper = _mm512_fmadd_ps(norm, panel.per_norm, upper);
                uppers[p] = _mm512_fmadd_ps(error, panel.per_error, upper);
                hits[p] = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(uppers[p], floor);
            }
            // One branch for all panels: most rows have no candidate here.
            if hits.iter().fold(0, |all, hits| all | hits) == 0 {
                continue;
            }
            for (p, hits) in hits.into_iter().enumerate() {
                if hits != 0 {
                    let half = _mm512_fmadd_ps(error, panels[p].per_error, load(slack, p));
                    let half = _mm512_fmadd_ps(norm, panels[p].per_norm, half);
                    take(candidates, self.first + p * LANES, hits, uppers[p], half);
                    if candidates.hopeless() {
                        break;
                    }
                }
            }
        }
    }
}

/// What the epilogue must know of a vector of latents: the upper bound of a row's score is
/// `sum · scales · scale + middle + norm · per_norm + error · per_error`.
#[derive(Clone, Copy)]
struct Panel {
    scales: __m512,
    /// Bias and slack.
    middle: __m512,
    per_norm: __m512,
    per_error: __m512,
}

impl Panel {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn nothing() -> Self {
        let nothing = _mm512_setzero_ps();
        Self {
            scales: nothing,
            middle: nothing,
            per_norm: nothing,
            per_error: nothing,
        }
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

/// Takes in those of the vector of latents from `first` on that `hits` marks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn take(candidates: &mut Candidates, first: usize, hits: __mmask16, upper: __m512, half: __m512) {
    // Nothing is known of a latent without bounds: both are infinite, and their difference would be NaN.
    let known = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(half, _mm512_set1_ps(f32::INFINITY));
    let lower = _mm512_sub_ps(_mm512_sub_ps(upper, half), half);
    let lower = _mm512_mask_blend_ps(known, _mm512_set1_ps(f32::NEG_INFINITY), lower);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let numbers = _mm512_add_epi32(_mm512_set1_epi32(first as i32), lanes);
    let (latents, lowers, uppers) = candidates.next();
    // SAFETY: each has room for a whole vector.
    unsafe {
        let here = _mm512_maskz_compress_epi32(hits, numbers);
        _mm512_storeu_si512(latents.as_mut_ptr().cast(), here);
        _mm512_storeu_ps(lowers.as_mut_ptr(), _mm512_maskz_compress_ps(hits, lower));
        _mm512_storeu_ps(uppers.as_mut_ptr(), _mm512_maskz_compress_ps(hits, upper));
    }
    candidates.take_in(hits.count_ones() as usize);
}
