//! TopK on the CPU: approximate scores with a proven bound rule nearly all latents out, and the few that could be among a row's
//! best are scored exactly. The result is the choice that exact scores of all latents would give, and since the exact
//! score has one definition, it is the same bits on every processor, with any number of threads.
//!
//! Approximations come from 8-bit integers where the processor has AVX-512 with VNNI ([`int8`]), otherwise from a dense
//! f32 product ([`float`]).

pub(crate) mod above;
mod bounds;
mod candidates;
mod exact;
mod float;
#[cfg(target_arch = "x86_64")]
mod int8;
mod scored;

use burn::backend::Flex;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::EncodeTopK;
use crate::host::{Level, contiguous, dims2, float_tensor, floats, int_tensor, prefetch};
use bounds::{LatentBounds, Norms};
use candidates::{Candidate, Candidates};
use exact::score;
pub(crate) use scored::Scored;
use scored::keep_best;

impl EncodeTopK for Flex {
    fn topk(
        x: FlexTensor,
        w_enc: FlexTensor,
        b_enc: FlexTensor,
        k: usize,
    ) -> (FlexTensor, FlexTensor) {
        let ([n, _], [_, d]) = (dims2(&x), dims2(&w_enc));
        let (x, w_enc, b_enc) = (contiguous(x), contiguous(w_enc), contiguous(b_enc));
        let ranked = topk_of_rows(floats(&x), floats(&w_enc), floats(&b_enc), d, k);
        let values = ranked.par_iter().map(|scored| scored.value()).collect();
        let indices = ranked.par_iter().map(|scored| scored.latent()).collect();
        (float_tensor(values, [n, k]), int_tensor(indices, [n, k]))
    }
}

/// The encoder's weights as every part of this module takes them.
#[derive(Clone, Copy)]
struct Encoder<'a> {
    w_enc: &'a [f32], // [F, d]
    b_enc: &'a [f32], // [F]
    d: usize,
    k: usize,
}

/// What is known of the latents beside their weights.
pub(super) struct LatentsOf<'a> {
    bias: &'a [f32], // [F]
    /// What a latent's score must exceed; none where scores compete with each other.
    threshold: Option<&'a [f32]>, // [F]
}

impl<'a> LatentsOf<'a> {
    fn bias(bias: &'a [f32]) -> Self {
        Self {
            bias,
            threshold: None,
        }
    }

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
) -> Vec<Scored> {
    topk_at(Level::here(), x, Encoder { w_enc, b_enc, d, k })
}

fn topk_at(level: Level, x: &[f32], encoder: Encoder<'_>) -> Vec<Scored> {
    let Encoder {
        w_enc, b_enc, d, k, ..
    } = encoder;
    let n = x.len().checked_div(d).unwrap_or(0);
    if n == 0 {
        return Vec::new();
    }
    let mut best = vec![Scored::NONE; n * k];
    let rows = rows_a_task(n, MOST_ROWS);
    let tasks = best.par_chunks_mut(rows * k).zip(x.par_chunks(rows * d));
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && int8::serves(n, d) {
        let integers = int8::Latents::new(w_enc, &LatentsOf::bias(b_enc), d);
        tasks.for_each(|(best, x)| guessing(&integers, x, encoder, best));
        return best;
    }
    let mut lists = empty_lists(n, || Candidates::new(k, b_enc.len()));
    screen(level, x, w_enc, &LatentsOf::bias(b_enc), d, &mut lists);
    tasks
        .zip(lists.par_chunks_mut(rows))
        .for_each(|((best, x), lists)| rescore(x, encoder, lists, best));
    best
}

/// Most rows that one task rescores: latents' weights are fetched once for all of them.
const MOST_ROWS: usize = 1024;

/// Rows whose results say what to expect of the rest.
#[cfg(target_arch = "x86_64")]
const SAMPLE: usize = 32;

/// The best of each row of `x`, most rows beginning with a floor guessed from the exact `k`th scores of rows before them, in
/// proportion to their norms: few latents are then candidates even for a while. A row whose `k`th score does not reach its guess is done again.
#[cfg(target_arch = "x86_64")]
fn guessing(integers: &int8::Latents, x: &[f32], encoder: Encoder<'_>, best: &mut [Scored]) {
    let Encoder { d, k, b_enc, .. } = encoder;
    let plain = |x: &[f32], best: &mut [Scored]| {
        let mut lists = empty_lists(x.len() / d, || Candidates::new(k, b_enc.len()));
        integers.screen(x, &mut lists);
        rescore(x, encoder, &mut lists, best);
    };
    let n = x.len() / d;
    let sample = SAMPLE.min(n);
    let (first, rest) = best.split_at_mut(sample * k);
    let (first_x, rest_x) = x.split_at(sample * d);
    plain(first_x, first);

    let norm = |x: &[f32]| float::norms(x).map(|n| n.whole());
    let reached: Vec<f32> = first
        .chunks_exact(k)
        .zip(first_x.chunks_exact(d))
        .filter_map(|(best, x)| Some(best[k - 1].value() / norm(x)?))
        .filter(|reached| reached.is_finite())
        .collect();
    let least = reached.iter().copied().fold(f32::INFINITY, f32::min);
    let mean = reached.iter().sum::<f32>() / reached.len() as f32;
    // A little below the least of the sample: of many more rows some are lower.
    let guess = least - 0.25 * (mean - least);
    let guesses: Vec<f32> = rest_x
        .chunks_exact(d)
        .map(|x| norm(x).map_or(f32::NEG_INFINITY, |norm| guess * norm))
        .map(|guess| {
            if guess.is_finite() {
                guess
            } else {
                f32::NEG_INFINITY
            }
        })
        .collect();
    let mut lists = empty_lists(n - sample, || Candidates::new(k, b_enc.len()));
    for (list, guess) in lists.iter_mut().zip(&guesses) {
        list.guess(*guess);
    }
    integers.screen(rest_x, &mut lists);
    rescore(rest_x, encoder, &mut lists, rest);

    // What was left out lies below the guess, so where the kth score reaches it nothing was missed.
    let wrong: Vec<usize> = (0..n - sample)
        .filter(|&row| {
            guesses[row] > f32::NEG_INFINITY && rest[(row + 1) * k - 1].value() < guesses[row]
        })
        .collect();
    if wrong.is_empty() {
        return;
    }
    let rows = wrong.iter().flat_map(|&row| &rest_x[row * d..][..d]);
    let mut again = vec![Scored::NONE; wrong.len() * k];
    plain(&rows.copied().collect::<Vec<f32>>(), &mut again);
    for (&row, again) in wrong.iter().zip(again.chunks_exact(k)) {
        rest[row * k..][..k].copy_from_slice(again);
    }
}

fn empty_lists(n: usize, list: impl FnMut() -> Candidates) -> Vec<Candidates> {
    let mut lists = Vec::new();
    lists.resize_with(n, list);
    lists
}

/// Rows that one task takes: `most`, or fewer so that every thread has some.
fn rows_a_task(n: usize, most: usize) -> usize {
    n.div_ceil(rayon::current_num_threads())
        .next_multiple_of(8)
        .min(most)
}

/// Leaves each row with the latents that approximate scores do not rule out.
fn screen(
    level: Level,
    x: &[f32],
    w_enc: &[f32],
    about: &LatentsOf<'_>,
    d: usize,
    lists: &mut [Candidates],
) {
    let (n, latents) = (lists.len(), about.bias.len());
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && int8::serves(n, d) {
        let integers = int8::Latents::new(w_enc, about, d);
        let rows = rows_a_task(n, MOST_ROWS);
        lists
            .par_chunks_mut(rows)
            .zip(x.par_chunks(rows * d))
            .for_each(|(lists, x)| integers.screen(x, lists));
        return;
    }
    let _ = level;
    let mut bounds = LatentBounds::default();
    let norms: Vec<Option<Norms>> = w_enc.par_chunks_exact(d).map(float::norms).collect();
    for (latent, norms) in norms.into_iter().enumerate() {
        let (bias, over) = about.of(latent);
        bounds.push(norms, bias, over, d);
    }
    // Few rows leave threads idle, so the latents are split too; the candidates of the parts are those of all.
    let rows = rows_a_task(n, float::TILE_ROWS);
    let tasks = n.div_ceil(rows);
    let threads = rayon::current_num_threads();
    let part = latents.div_ceil(threads.div_ceil(tasks)).max(256);
    lists
        .par_chunks_mut(rows)
        .zip(x.par_chunks(rows * d))
        .for_each(|(lists, x)| {
            let norms: Vec<Option<Norms>> = x.chunks_exact(d).map(float::norms).collect();
            for (list, _) in lists
                .iter_mut()
                .zip(&norms)
                .filter(|(_, norms)| norms.is_none())
            {
                list.give_up();
            }
            if part >= latents {
                float::screen(x, w_enc, d, 0..latents, &bounds, &norms, lists);
                return;
            }
            let parts: Vec<Vec<Candidates>> = (0..latents)
                .into_par_iter()
                .step_by(part)
                .map(|first| {
                    let mut lists: Vec<Candidates> = lists.iter().map(Candidates::afresh).collect();
                    let here = first..latents.min(first + part);
                    float::screen(x, w_enc, d, here, &bounds, &norms, &mut lists);
                    lists
                })
                .collect();
            for part in parts {
                for (list, part) in lists.iter_mut().zip(&part) {
                    list.take_over(part);
                }
            }
        });
}

/// Scores exactly what each row's list holds, as far as it could matter, and ranks it into `best` `[rows, k]`.
fn rescore(x: &[f32], encoder: Encoder<'_>, lists: &mut [Candidates], best: &mut [Scored]) {
    let Encoder { d, k, .. } = encoder;
    // The k that seem best: the least of their exact scores is a floor for the rest.
    let mut scored: Vec<Vec<Scored>> = Vec::with_capacity(lists.len());
    let mut rests: Vec<Vec<Candidate>> = Vec::with_capacity(lists.len());
    let mut pairs = Vec::new();
    for ((row, list), x) in (0u32..).zip(&mut *lists).zip(x.chunks_exact(d)) {
        let mut first = list.finish();
        rests.push(first.split_off(k.min(first.len())));
        pairs.extend(first.iter().map(|c| Pair::new(c.latent, row)));
        scored.push(if list.hopeless() {
            best_of_all(x, encoder)
        } else {
            Vec::with_capacity(2 * k)
        });
    }
    score_pairs(x, encoder, &mut pairs, &mut scored);
    for ((row, rest), scored) in (0u32..).zip(&rests).zip(&scored) {
        let floor = scored
            .iter()
            .map(|s| s.value())
            .fold(f32::INFINITY, f32::min);
        let rest = rest.iter().filter(|c| c.upper >= floor);
        pairs.extend(rest.map(|c| Pair::new(c.latent, row)));
    }
    score_pairs(x, encoder, &mut pairs, &mut scored);
    for (scored, best) in scored.iter_mut().zip(best.chunks_exact_mut(k)) {
        keep_best(scored, k);
        scored.sort_unstable_by(|a, b| b.cmp(a));
        // Fewer than k only where a floor was guessed too high.
        best[..scored.len()].copy_from_slice(scored);
    }
}

/// A latent to score for a row, in the order of latents: their weights are far apart, the rows of a task are not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair(u64);

impl Pair {
    fn new(latent: u32, row: u32) -> Self {
        Self((u64::from(latent) << 32) | u64::from(row))
    }

    fn latent(self) -> usize {
        (self.0 >> 32) as usize
    }
}

fn score_pairs(x: &[f32], encoder: Encoder<'_>, pairs: &mut Vec<Pair>, scored: &mut [Vec<Scored>]) {
    let Encoder {
        w_enc, b_enc, d, ..
    } = encoder;
    pairs.sort_unstable();
    for (at, pair) in pairs.iter().enumerate() {
        if let [before, soon] = pairs.get(at + AHEAD - 1..=at + AHEAD).unwrap_or_default()
            && before.latent() != soon.latent()
        {
            prefetch(&w_enc[soon.latent() * d..][..d]);
        }
        let (latent, row) = (pair.latent(), pair.0 as u32 as usize);
        let score = score(&x[row * d..][..d], &w_enc[latent * d..][..d], b_enc[latent]);
        scored[row].push(Scored::new(score, latent as u32));
    }
    pairs.clear();
}

/// Pairs between asking for a latent's weights and needing them.
const AHEAD: usize = 12;

/// The `k` best of a row by the exact score of every latent, in no order.
fn best_of_all(x: &[f32], encoder: Encoder<'_>) -> Vec<Scored> {
    let Encoder { w_enc, b_enc, d, k } = encoder;
    let room = 2 * k + 1024;
    let mut best = Vec::with_capacity(room);
    for ((latent, w), bias) in (0u32..).zip(w_enc.chunks_exact(d)).zip(b_enc) {
        best.push(Scored::new(score(x, w, *bias), latent));
        if best.len() == room {
            keep_best(&mut best, k);
        }
    }
    keep_best(&mut best, k);
    best
}

#[cfg(test)]
mod tests;
