//! Codes as hashes: how much the set of active latents says without the activations (He, Lei,
//! Ji and Tao 2021; overlap against input similarity: Rinkus 2014).

use std::cmp::Ordering;
use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::binary_codes::{jaccard, shared_count};
use super::{SupportCodes, check_labels, matrix_rows, spearman, unfit};
use crate::FeaturesError;

/// Share of samples whose code is also the code of another sample.
///
/// # Errors
/// If there is no sample.
pub fn redundancy_ratio(codes: &SupportCodes) -> Result<f64, FeaturesError> {
    if codes.is_empty() {
        return Err(unfit("codes", "0 samples", "at least one sample"));
    }
    let mut counts: HashMap<&[u32], usize> = HashMap::new();
    for sample in 0..codes.len() {
        *counts.entry(codes.code(sample)).or_default() += 1;
    }
    let shared: usize = counts.into_values().filter(|&count| count > 1).sum();
    Ok(shared as f64 / codes.len() as f64)
}

/// Leave-one-out accuracy of `neighbours` nearest neighbours by Jaccard similarity of the codes.
///
/// Of equally similar samples the lower index is nearer. Of labels with equally many neighbours the
/// one whose nearest neighbour is nearest wins. Two empty codes have similarity 1.
///
/// # Errors
/// If labels and samples differ in number, or `neighbours` is 0 or not below the number of samples.
pub fn knn_accuracy(
    codes: &SupportCodes,
    labels: &[u32],
    neighbours: usize,
) -> Result<f64, FeaturesError> {
    check_labels(labels, codes.len())?;
    if neighbours == 0 || neighbours >= codes.len() {
        return Err(unfit(
            "neighbours",
            neighbours,
            format!("between 1 and {}", codes.len() - 1),
        ));
    }
    let (offsets, samples) = codes.by_latent();
    let correct = (0..codes.len())
        .into_par_iter()
        .map_init(
            || vec![0u32; codes.len()],
            |shared, query| {
                shared.fill(0);
                for &latent in codes.code(query) {
                    let latent = latent as usize;
                    for &other in &samples[offsets[latent]..offsets[latent + 1]] {
                        shared[other as usize] += 1;
                    }
                }
                let nearest = nearest(codes, query, shared, neighbours);
                majority(nearest.iter().map(|near| labels[near.sample])) == Some(labels[query])
            },
        )
        .filter(|&correct| correct)
        .count();
    Ok(correct as f64 / codes.len() as f64)
}

#[derive(Clone, Copy)]
struct Near {
    sample: usize,
    shared: u64,
    union: u64,
}

impl Near {
    /// Ascending by distance. Fractions are compared exactly, so that ties are ties.
    fn order(&self, other: &Near) -> Ordering {
        let (this, that) = (self.shared * other.union, other.shared * self.union);
        that.cmp(&this).then(self.sample.cmp(&other.sample))
    }
}

/// The nearest samples but the query itself, nearest first.
fn nearest(codes: &SupportCodes, query: usize, shared: &[u32], count: usize) -> Vec<Near> {
    let size = codes.code(query).len();
    let mut nearest: Vec<Near> = Vec::with_capacity(count + 1);
    for (sample, &shared) in shared.iter().enumerate() {
        if sample == query {
            continue;
        }
        let union = size + codes.code(sample).len() - shared as usize;
        let near = Near {
            sample,
            shared: if union == 0 { 1 } else { u64::from(shared) },
            union: union.max(1) as u64,
        };
        let full = nearest.len() == count;
        if full && nearest[count - 1].order(&near).is_lt() {
            continue;
        }
        let place = nearest.partition_point(|other| other.order(&near).is_lt());
        nearest.insert(place, near);
        nearest.truncate(count);
    }
    nearest
}

/// The most frequent label; of equally frequent ones, the first to come.
fn majority(labels: impl Iterator<Item = u32>) -> Option<u32> {
    let mut votes: Vec<(u32, usize)> = Vec::new();
    for label in labels {
        match votes.iter_mut().find(|vote| vote.0 == label) {
            Some(vote) => vote.1 += 1,
            None => votes.push((label, 1)),
        }
    }
    let most = votes.iter().map(|vote| vote.1).max()?;
    votes.iter().find(|vote| vote.1 == most).map(|vote| vote.0)
}

/// Draws `pairs` pairs of different samples of `samples`, uniformly, with repetition.
///
/// # Errors
/// If there are fewer than two samples.
pub fn sample_pairs(
    samples: usize,
    pairs: usize,
    seed: u64,
) -> Result<Vec<(usize, usize)>, FeaturesError> {
    if samples < 2 {
        return Err(unfit("samples", samples, "at least two"));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // u64 draws give the same pairs on every platform.
    let mut below = |n: usize| rng.random_range(0..n as u64) as usize;
    Ok((0..pairs)
        .map(|_| {
            let (first, second) = (below(samples), below(samples - 1));
            (first, second + usize::from(second >= first))
        })
        .collect())
}

/// Cosine similarity of the rows of `inputs` `[samples, d]` in each pair; 0 with a zero row.
///
/// # Errors
/// If the shape does not fit, a value is not finite, or a pair names no row.
pub fn input_cosines(
    inputs: &[f32],
    d: usize,
    pairs: &[(usize, usize)],
) -> Result<Vec<f64>, FeaturesError> {
    let samples = matrix_rows("inputs", inputs, d)?;
    check_pairs(pairs, samples)?;
    let dot = |a: usize, b: usize| -> f64 {
        inputs[a * d..(a + 1) * d]
            .iter()
            .zip(&inputs[b * d..(b + 1) * d])
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    Ok(pairs
        .par_iter()
        .map(|&(a, b)| {
            let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
            if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
        })
        .collect())
}

/// Spearman correlation between Jaccard similarity of codes and a given input similarity, over
/// pairs of samples; None if one of the two is constant.
///
/// For codes of one size this is also the correlation with the number of shared latents.
///
/// # Errors
/// If pairs and similarities differ in number, a similarity is not finite, or a pair names no
/// sample.
pub fn overlap_spearman(
    codes: &SupportCodes,
    pairs: &[(usize, usize)],
    input_similarity: &[f64],
) -> Result<Option<f64>, FeaturesError> {
    check_pairs(pairs, codes.len())?;
    if input_similarity.len() != pairs.len() {
        return Err(unfit(
            "input_similarity",
            format!("{} values", input_similarity.len()),
            format!("one per pair, that is {}", pairs.len()),
        ));
    }
    if let Some(value) = input_similarity.iter().find(|value| !value.is_finite()) {
        return Err(unfit("input_similarity", value, "finite values"));
    }
    let overlap: Vec<f64> = pairs
        .par_iter()
        .map(|&(a, b)| {
            let (a, b) = (codes.code(a), codes.code(b));
            jaccard(shared_count(a, b), a.len(), b.len())
        })
        .collect();
    Ok(spearman(&overlap, input_similarity))
}

fn check_pairs(pairs: &[(usize, usize)], samples: usize) -> Result<(), FeaturesError> {
    match pairs.iter().find(|(a, b)| *a.max(b) >= samples) {
        Some(pair) => Err(unfit(
            "pairs",
            format!("{pair:?}"),
            format!("samples below {samples}"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
