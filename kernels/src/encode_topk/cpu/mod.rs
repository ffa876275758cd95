//! TopK on the CPU: approximate scores with a proven bound rule nearly all latents out, and the few
//! that could be among a row's best are scored exactly, at once: the floor that the next must reach
//! is exact too. The result is the choice that exact scores of all latents would give, and since
//! the exact score has one definition, it is the same bits on every processor, with any number of
//! threads.
//!
//! Approximations come from integers where the processor multiplies them fast ([`integers`]): of 8
//! bits with the instructions of AMX, AVX-512 or AVX-VNNI, of up to 16 bits with AVX2's. Otherwise
//! they come from a dense f32 product ([`float`]).

pub(crate) mod above;
#[cfg(target_arch = "x86_64")]
mod balance;
mod bounds;
mod exact;
mod float;
#[cfg(target_arch = "x86_64")]
mod guess;
#[cfg(target_arch = "x86_64")]
mod integers;
mod row;
mod scored;

use burn::backend::Flex;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::EncodeTopK;
use crate::EncoderState;
use crate::host::{Level, contiguous, dims2, float_tensor, floats, int_tensor};
#[cfg(target_arch = "x86_64")]
use crate::{host::with_tile, integers::Tile, norms::norms};
#[cfg(target_arch = "x86_64")]
pub(crate) use guess::Guesses;
use row::{Best, Row};
pub(crate) use scored::Scored;

impl EncodeTopK for Flex {
    fn topk(
        x: FlexTensor,
        w_enc: FlexTensor,
        b_enc: FlexTensor,
        k: usize,
        state: &EncoderState,
    ) -> (FlexTensor, FlexTensor) {
        let ([n, _], [_, d]) = (dims2(&x), dims2(&w_enc));
        let (x, w_enc, b_enc) = (contiguous(x), contiguous(w_enc), contiguous(b_enc));
        let ranked = topk_of_rows(floats(&x), floats(&w_enc), floats(&b_enc), d, k, state);
        let values = ranked.par_iter().map(|scored| scored.value()).collect();
        let indices = ranked.par_iter().map(|scored| scored.latent()).collect();
        (float_tensor(values, [n, k]), int_tensor(indices, [n, k]))
    }
}

/// The encoder as every part of this module takes it.
#[derive(Clone, Copy)]
struct Encoder<'a> {
    w_enc: &'a [f32], // [F, d]
    latents: LatentsOf<'a>,
    d: usize,
}

/// What is known of the latents beside their weights.
#[derive(Clone, Copy)]
struct LatentsOf<'a> {
    bias: &'a [f32], // [F]
    /// What a latent's score must exceed; none where scores compete with each other.
    threshold: Option<&'a [f32]>, // [F]
}

impl LatentsOf<'_> {
    /// Bias and threshold of a latent.
    fn of(&self, latent: usize) -> (f32, f32) {
        let threshold = self.threshold.map_or(0.0, |t| t[latent]);
        (self.bias[latent], threshold)
    }
}

/// The `k ≤ F` best latents of each row, best first, row after row.
pub(crate) fn topk_of_rows(
    x: &[f32],     // [n, d]
    w_enc: &[f32], // [F, d]
    b_enc: &[f32], // [F]
    d: usize,
    k: usize,
    state: &EncoderState,
) -> Vec<Scored> {
    let latents = LatentsOf {
        bias: b_enc,
        threshold: None,
    };
    topk_at(Level::here(), x, Encoder { w_enc, latents, d }, k, state)
}

fn topk_at(
    level: Level,
    x: &[f32],
    encoder: Encoder<'_>,
    k: usize,
    state: &EncoderState,
) -> Vec<Scored> {
    let d = encoder.d;
    let n = x.len().checked_div(d).unwrap_or(0);
    let mut best = vec![Scored::NONE; n * k];
    if best.is_empty() {
        return best;
    }
    #[cfg(target_arch = "x86_64")]
    if integers::serves(n, d) {
        let guesses = &state.guesses;
        with_tile!(level, |tile| {
            let integers = integers::Latents::new(tile, encoder, x);
            let screen =
                |x: &[f32], rows: &mut [Best]| screen_integers(&integers, x, encoder, rows);
            guessing(screen, x, encoder, guesses, &mut best, k);
            return best;
        });
    }
    let _ = state; // Approximations in f32 rule out nearly as much without a guess.
    let mut rows = Vec::new();
    rows.resize_with(n, || Best::new(k));
    screen(level, x, encoder, &mut rows);
    rows.into_par_iter()
        .zip(x.par_chunks_exact(d))
        .zip(best.par_chunks_exact_mut(k))
        .for_each(|((row, x), best)| row.finish(x, encoder, best));
    best
}

/// Most rows of a task of integers: latents' weights come from memory once for all of them.
#[cfg(target_arch = "x86_64")]
const MOST_ROWS: usize = 1024;

/// Where latents are split among threads, a part has a multiple of these.
const FEWEST_LATENTS: usize = 384;

#[cfg(target_arch = "x86_64")]
const _: () = assert!(FEWEST_LATENTS.is_multiple_of(integers::SET));

/// Rows whose results say what to expect of the rest, where nothing is expected yet.
#[cfg(target_arch = "x86_64")]
const SAMPLE: usize = 32;

/// Fewest rows whose results say what to expect next time.
#[cfg(target_arch = "x86_64")]
const TELLING: usize = 256;

/// The best `k` of each row of `x`, most rows beginning with a floor guessed in proportion to their
/// norms: few latents are then scored even at first. The guess is from the exact `k`th scores of
/// the last call with these weights, which training moves little, or of the first rows. A row whose
/// `k`th score does not reach its guess is done again. `screen` offers some rows all latents that
/// are worth it.
#[cfg(target_arch = "x86_64")]
fn guessing(
    screen: impl Fn(&[f32], &mut [Best]),
    x: &[f32],
    encoder: Encoder<'_>,
    guesses: &Guesses,
    best: &mut [Scored],
    k: usize,
) {
    let d = encoder.d;
    let best_of = |x: &[f32], mut rows: Vec<Best>, best: &mut [Scored]| {
        screen(x, &mut rows);
        rows.into_par_iter()
            .zip(x.par_chunks_exact(d))
            .zip(best.par_chunks_exact_mut(k))
            .for_each(|((row, x), best)| row.finish(x, encoder, best));
    };
    let plain = |n| (0..n).map(|_| Best::new(k)).collect();
    let n = x.len() / d;
    let norms: Vec<Option<f32>> = x
        .par_chunks_exact(d)
        .map(|x| norms(x).map(|n| n.whole()))
        .collect();
    let sizes = guess::Sizes::new(encoder, k);
    let expected = guesses.of(&sizes);
    let sample = if expected.is_some() { 0 } else { SAMPLE.min(n) };
    let (first, rest) = best.split_at_mut(sample * k);
    let (first_x, rest_x) = x.split_at(sample * d);
    best_of(first_x, plain(sample), first);

    let guess = expected.unwrap_or_else(|| guess::from(first, &norms[..sample], k));
    let floors: Vec<f32> = norms[sample..]
        .iter()
        .map(|norm| norm.map_or(f32::NEG_INFINITY, |norm| guess * norm))
        .map(|guess| {
            if guess.is_finite() {
                guess
            } else {
                f32::NEG_INFINITY
            }
        })
        .collect();
    let rows = floors.iter().map(|&floor| Best::guessing(k, floor));
    best_of(rest_x, rows.collect(), rest);

    // What was left out lies below the guess, so where the kth score reaches it nothing was missed.
    let wrong: Vec<usize> = (0..n - sample)
        .filter(|&row| {
            floors[row] > f32::NEG_INFINITY && rest[(row + 1) * k - 1].value() < floors[row]
        })
        .collect();
    if !wrong.is_empty() {
        let rows = wrong.iter().flat_map(|&row| &rest_x[row * d..][..d]);
        let mut again = vec![Scored::NONE; wrong.len() * k];
        let x_again: Vec<f32> = rows.copied().collect();
        best_of(&x_again, plain(wrong.len()), &mut again);
        for (&row, again) in wrong.iter().zip(again.chunks_exact(k)) {
            rest[row * k..][..k].copy_from_slice(again);
        }
    }
    if n >= TELLING {
        guesses.expect(sizes, guess::from(best, &norms, k));
    }
}

/// [`integers::Latents::screen`] with all threads.
#[cfg(target_arch = "x86_64")]
fn screen_integers<T: Tile, R: Row>(
    integers: &integers::Latents<T>,
    x: &[f32],
    encoder: Encoder<'_>,
    rows: &mut [R],
) {
    in_parts(x, encoder, rows, MOST_ROWS, |x, latents, rows| {
        integers.screen(x, encoder, latents, rows);
    });
}

/// Rows that one task takes: `most`, or fewer so that every thread has some.
fn rows_a_task(n: usize, most: usize) -> usize {
    n.div_ceil(rayon::current_num_threads())
        .next_multiple_of(8)
        .min(most)
}

/// Offers each row the exact scores of all latents that approximate ones do not rule out.
fn screen<R: Row>(level: Level, x: &[f32], encoder: Encoder<'_>, rows: &mut [R]) {
    #[cfg(target_arch = "x86_64")]
    if integers::serves(rows.len(), encoder.d) {
        with_tile!(level, |tile| {
            let integers = integers::Latents::new(tile, encoder, x);
            return screen_integers(&integers, x, encoder, rows);
        });
    }
    let _ = level;
    let floats = float::Latents::new(encoder);
    in_parts(x, encoder, rows, float::TILE_ROWS, |x, latents, rows| {
        floats.screen(x, latents, rows);
    });
}

/// Has `screen` offer the latents of a range to some rows of `x`, in tasks of `most` rows; where
/// that leaves threads idle the latents are split too.
fn in_parts<R: Row>(
    x: &[f32],
    encoder: Encoder<'_>,
    rows: &mut [R],
    most: usize,
    screen: impl Fn(&[f32], std::ops::Range<usize>, &mut [R]) + Sync,
) {
    let (n, d, latents) = (rows.len(), encoder.d, encoder.latents.bias.len());
    if n == 0 {
        return;
    }
    let some = rows_a_task(n, most);
    let tasks = n.div_ceil(some);
    let threads = rayon::current_num_threads();
    let part = latents.div_ceil(threads.div_ceil(tasks));
    let part = part.next_multiple_of(FEWEST_LATENTS);
    rows.par_chunks_mut(some)
        .zip(x.par_chunks(some * d))
        .for_each(|(rows, x)| {
            if part >= latents {
                screen(x, 0..latents, rows);
                return;
            }
            let parts: Vec<Vec<R>> = (0..latents)
                .into_par_iter()
                .step_by(part)
                .map(|first| {
                    let mut rows: Vec<R> = rows.iter().map(R::afresh).collect();
                    screen(x, first..latents.min(first + part), &mut rows);
                    rows
                })
                .collect();
            for part in parts {
                for (row, part) in rows.iter_mut().zip(part) {
                    row.take_over(part);
                }
            }
        });
}

#[cfg(test)]
mod tests;
