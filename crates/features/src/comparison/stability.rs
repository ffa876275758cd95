//! Which latents of a dictionary come back in dictionaries that were trained with other seeds
//! (after Li et al. 2015, "Convergent Learning").

use serde::Serialize;

use crate::FeaturesError;

use super::matching::Bipartite;

/// How well one latent of the first dictionary comes back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatentStability {
    /// Mean similarity to its matches over all other dictionaries. No match counts as 0.
    pub mean_similarity: f64,
    /// Other dictionaries with a match of at least the threshold.
    pub found_in: usize,
}

/// How well the latents of the first dictionary come back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StabilitySummary {
    /// One entry per latent of the first dictionary.
    pub latents: Vec<LatentStability>, // [d_sae]
    /// Mean of [`LatentStability::mean_similarity`]; 0 if there are no latents.
    pub mean_similarity: f64,
    /// Number of latents that are found in exactly 0, 1, … all other dictionaries.
    pub latents_found_in: Vec<usize>, // [others + 1]
    /// Share of latents that are found in all other dictionaries; 0 if there are no latents.
    pub share_in_all: f64,
    /// Share of latents with a match of at least the threshold, per other dictionary.
    pub share_per_dictionary: Vec<f64>, // [others]
}

/// Summarizes the one-to-one matchings of the first dictionary, with `d_sae` latents, to each of
/// the others. The first dictionary is A in all of `matchings`.
///
/// # Errors
/// If there are no matchings, `threshold` is NaN, or a matching has a latent of A above `d_sae` or
/// twice.
pub fn stability(
    d_sae: usize,
    matchings: &[Bipartite],
    threshold: f64,
) -> Result<StabilitySummary, FeaturesError> {
    let wrong = |field, found: String, expected: String| {
        Err(FeaturesError::Input {
            field,
            found,
            expected,
        })
    };
    if matchings.is_empty() {
        return wrong("matchings", "none".to_owned(), "at least 1".to_owned());
    }
    if threshold.is_nan() {
        return wrong("threshold", "NaN".to_owned(), "a similarity".to_owned());
    }
    let others = matchings.len();
    let mut sums = vec![0.0; d_sae];
    let mut found_in = vec![0usize; d_sae];
    let mut share_per_dictionary = Vec::with_capacity(others);
    let mut last_seen = vec![0usize; d_sae]; // the last matching with this latent, counted from 1
    for (number, matching) in matchings.iter().enumerate() {
        let mut found = 0usize;
        for pair in &matching.pairs {
            let a = pair.a as usize;
            if a >= d_sae || last_seen[a] == number + 1 {
                let found = format!("latent {a} of A in matching {number}");
                return wrong(
                    "matchings",
                    found,
                    format!("each below {d_sae} at most once"),
                );
            }
            last_seen[a] = number + 1;
            sums[a] += pair.similarity;
            if pair.similarity >= threshold {
                found_in[a] += 1;
                found += 1;
            }
        }
        share_per_dictionary.push(found as f64 / d_sae.max(1) as f64);
    }
    let latents: Vec<LatentStability> = sums
        .iter()
        .zip(&found_in)
        .map(|(sum, &found_in)| LatentStability {
            mean_similarity: sum / others as f64,
            found_in,
        })
        .collect();
    let mut latents_found_in = vec![0usize; others + 1];
    for latent in &latents {
        latents_found_in[latent.found_in] += 1;
    }
    let n = d_sae.max(1) as f64;
    Ok(StabilitySummary {
        mean_similarity: latents
            .iter()
            .map(|latent| latent.mean_similarity)
            .sum::<f64>()
            / n,
        share_in_all: latents_found_in[others] as f64 / n,
        latents_found_in,
        share_per_dictionary,
        latents,
    })
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::{BipartiteConfig, DecoderCosines, Pair, bipartite_match};
    use super::*;

    fn matching(pairs: &[(u32, f64)]) -> Bipartite {
        let pair = |&(a, similarity): &(u32, f64)| Pair {
            a,
            b: a,
            similarity,
        };
        Bipartite {
            pairs: pairs.iter().map(pair).collect(),
            shortfall: 0.0,
        }
    }

    #[test]
    fn the_summary_equals_a_small_example_by_hand() {
        let others = [
            matching(&[(0, 0.75), (1, 0.5), (2, 0.25)]),
            matching(&[(0, 1.0), (2, 0.75)]), // latent 1 has no match
        ];
        let got = stability(3, &others, 0.75).unwrap();
        let want =
            [(0.875, 2), (0.25, 0), (0.5, 1)].map(|(mean_similarity, found_in)| LatentStability {
                mean_similarity,
                found_in,
            });
        assert_eq!(got.latents, want);
        assert!((got.mean_similarity - 1.625 / 3.0).abs() < 1e-15);
        assert_eq!(got.latents_found_in, [1, 1, 1]);
        assert_eq!(got.share_in_all, 1.0 / 3.0);
        assert_eq!(got.share_per_dictionary, [1.0 / 3.0, 2.0 / 3.0]);
    }

    #[test]
    fn shared_directions_are_found_in_every_seed_and_random_ones_in_none() {
        let (d, shared, own) = (64, 12, 8);
        let mut random = Random::new(1);
        let common: Vec<f32> = (0..shared * d).map(|_| random.normal() as f32).collect();
        // Each dictionary: the shared rows with noise of a tenth, then rows of its own.
        let dictionaries: Vec<Vec<f32>> = (0..4)
            .map(|_| {
                let mut rows: Vec<f32> = common
                    .iter()
                    .map(|x| x + 0.1 * random.normal() as f32)
                    .collect();
                rows.extend((0..own * d).map(|_| random.normal() as f32));
                rows
            })
            .collect();
        let matchings: Vec<Bipartite> = dictionaries[1..]
            .iter()
            .map(|other| {
                let cosines = DecoderCosines::new(&dictionaries[0], other, d).unwrap();
                bipartite_match(&cosines, &BipartiteConfig::default()).unwrap()
            })
            .collect();
        let got = stability(shared + own, &matchings, 0.7).unwrap();
        assert_eq!(got.latents_found_in, [own, 0, 0, shared]);
        assert!(
            got.latents[..shared]
                .iter()
                .all(|latent| latent.mean_similarity > 0.97)
        );
        assert!(
            got.latents[shared..]
                .iter()
                .all(|latent| latent.mean_similarity < 0.5)
        );
    }

    #[test]
    fn wrong_matchings_are_refused() {
        assert!(stability(3, &[], 0.7).is_err());
        assert!(stability(3, &[matching(&[(3, 0.5)])], 0.7).is_err());
        assert!(stability(3, &[matching(&[(1, 0.5), (1, 0.5)])], 0.7).is_err());
        assert!(stability(3, &[matching(&[])], f64::NAN).is_err());
        assert_eq!(
            stability(0, &[matching(&[])], 0.7).unwrap().share_in_all,
            0.0
        );
    }
}
