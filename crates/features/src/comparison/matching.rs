//! Which latent of B is the counterpart of a latent of A: many-to-one and one-to-one matching
//! (Li et al. 2015, "Convergent Learning").

use lapidary_evaluation::best_matching;

use serde::Serialize;

use crate::FeaturesError;

use super::auction::auction;
use super::similarity::{Similarity, Transposed, strongest};

/// The similarities at which [`MatchingSummary`] counts matches.
pub const THRESHOLDS: [f64; 3] = [0.5, 0.7, 0.9];

const LEAST_EPSILON: f64 = 1e-12;

/// A latent of A and its match in B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The latent of A.
    pub a: u32,
    /// The latent of B.
    pub b: u32,
    /// Their similarity.
    pub similarity: f64,
}

/// The best latent of B for each latent of A, with replacement; ties: the lower latent. There are
/// no pairs if B has no latents.
pub fn semi_match<S: Similarity + ?Sized>(similarity: &S) -> Vec<Pair> {
    let best = similarity.top(1);
    let pairs = best.iter().enumerate().filter_map(|(a, best)| {
        best.first().map(|best| Pair {
            a: a as u32,
            b: best.latent,
            similarity: best.similarity,
        })
    });
    pairs.collect()
}

/// How to find the one-to-one matching.
#[derive(Debug, Clone, PartialEq)]
pub struct BipartiteConfig {
    /// With at most so many latents in A and in B, the matching is exact. Memory is
    /// `16 * d_a * d_b` bytes and time grows with the third power.
    pub exact_limit: usize,
    /// Candidates of each latent above that limit.
    pub candidates: usize,
    /// What the auction may lose per latent above that limit.
    pub epsilon: f64,
}

impl Default for BipartiteConfig {
    /// Exact up to 1024 latents; above, 64 candidates and a loss of 1e-6 per latent.
    fn default() -> Self {
        BipartiteConfig {
            exact_limit: 1024,
            candidates: 64,
            epsilon: 1e-6,
        }
    }
}

/// A one-to-one matching of as many latents as the smaller dictionary has.
#[derive(Debug, Clone, PartialEq)]
pub struct Bipartite {
    /// The pairs, ascending by latent of A.
    pub pairs: Vec<Pair>,
    /// The most that the sum of similarities can be below the optimum over all pairs; 0 if the
    /// matching is exact. It is a proven bound for this input, not an estimate.
    pub shortfall: f64,
}

/// The one-to-one matching with the greatest sum of similarities.
///
/// Up to [`BipartiteConfig::exact_limit`] this is the Hungarian algorithm (Kuhn 1955). Above, it is
/// an auction over the most similar latents of each latent of the smaller dictionary. Latents whose
/// candidates all went to others then get what is left: with the Hungarian algorithm if few are
/// left, otherwise greedily in the order of the latents.
///
/// # Errors
/// If above the limit `candidates` is 0, or `epsilon` is not in 1e-12..=2.
pub fn bipartite_match<S: Similarity + ?Sized>(
    similarity: &S,
    config: &BipartiteConfig,
) -> Result<Bipartite, FeaturesError> {
    if similarity.d_a() <= similarity.d_b() {
        return match_all_rows(similarity, config);
    }
    let mut matching = match_all_rows(&Transposed(similarity), config)?;
    for pair in &mut matching.pairs {
        (pair.a, pair.b) = (pair.b, pair.a);
    }
    matching.pairs.sort_unstable_by_key(|pair| pair.a);
    Ok(matching)
}

/// `d_a <= d_b`, so that every latent of A gets a match.
fn match_all_rows<S: Similarity + ?Sized>(
    similarity: &S,
    config: &BipartiteConfig,
) -> Result<Bipartite, FeaturesError> {
    let (d_a, d_b) = (similarity.d_a(), similarity.d_b());
    let pair = |(a, b): (usize, usize)| Pair {
        a: a as u32,
        b: b as u32,
        similarity: similarity.similarity(a, b),
    };
    if d_b <= config.exact_limit {
        let matrix = similarity.to_matrix();
        let columns = best_matching(d_a, d_b, |(a, b)| matrix.similarity(a, b));
        return Ok(Bipartite {
            pairs: columns.into_iter().enumerate().map(pair).collect(),
            shortfall: 0.0,
        });
    }
    if config.candidates == 0 {
        return Err(FeaturesError::Input {
            field: "candidates",
            found: "0".to_owned(),
            expected: "at least 1".to_owned(),
        });
    }
    // A smaller bid would be lost in rounding, and two latents could outbid each other forever.
    if !(LEAST_EPSILON..=2.0).contains(&config.epsilon) {
        return Err(FeaturesError::Input {
            field: "epsilon",
            found: config.epsilon.to_string(),
            expected: format!("a number in {LEAST_EPSILON}..=2"),
        });
    }
    let auction = auction(d_b, &similarity.top(config.candidates), config.epsilon);
    let columns = complete(similarity, &auction.assigned, config.exact_limit);
    let pairs: Vec<Pair> = columns.into_iter().enumerate().map(pair).collect();
    let sum: f64 = pairs.iter().map(|pair| pair.similarity).sum();
    Ok(Bipartite {
        pairs,
        shortfall: (auction.upper_bound - sum).max(0.0),
    })
}

/// Gives every latent of A without a match one of the latents of B that are left.
fn complete<S: Similarity + ?Sized>(
    similarity: &S,
    assigned: &[Option<u32>],
    exact_limit: usize,
) -> Vec<usize> {
    let mut taken = vec![false; similarity.d_b()];
    for &b in assigned.iter().flatten() {
        taken[b as usize] = true;
    }
    let free: Vec<usize> = (0..taken.len()).filter(|&b| !taken[b]).collect();
    let open: Vec<usize> = (0..assigned.len())
        .filter(|&a| assigned[a].is_none())
        .collect();
    let mut columns: Vec<usize> = assigned.iter().map(|b| b.unwrap_or(0) as usize).collect();
    if free.len() <= exact_limit {
        let pair = |(row, column): (usize, usize)| similarity.similarity(open[row], free[column]);
        for (row, column) in best_matching(open.len(), free.len(), pair)
            .into_iter()
            .enumerate()
        {
            columns[open[row]] = free[column];
        }
        return columns;
    }
    let mut row = vec![0.0; similarity.d_b()];
    for a in open {
        similarity.fill_rows(a, &mut row);
        let left = row.iter().copied().enumerate().filter(|&(b, _)| !taken[b]);
        if let Some(best) = strongest(left, 1, |value| value).first() {
            columns[a] = best.latent as usize;
            taken[columns[a]] = true;
        }
    }
    columns
}

/// What the matches of the latents of A look like together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatchingSummary {
    /// Counted latents of A.
    pub latents: usize,
    /// Counted latents of A that have a one-to-one match; fewer than `latents` only if A is larger
    /// than B.
    pub matched: usize,
    /// Mean similarity of the many-to-one matches; 0 if there are none.
    pub semi_mean: f64,
    /// Mean similarity of the one-to-one matches; 0 if there are none.
    pub bipartite_mean: f64,
    /// Mean of the many-to-one minus the one-to-one similarity over the matched latents, at least
    /// 0. It is large if several latents of A have the same best match in B.
    pub gap: f64,
    /// Share of the counted latents with a many-to-one match of at least [`THRESHOLDS`].
    pub semi_shares: [f64; 3],
    /// Share of the matched latents whose one-to-one match is at least [`THRESHOLDS`].
    pub bipartite_shares: [f64; 3],
    /// Similarities of the many-to-one matches, greatest first.
    pub semi_sorted: Vec<f64>, // [latents], empty if B is empty
    /// Similarities of the one-to-one matches, greatest first.
    pub bipartite_sorted: Vec<f64>, // [matched]
    /// [`Bipartite::shortfall`], of the sum over all latents.
    pub shortfall: f64,
}

/// The matches and the same for a null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatchingReport {
    /// The similarities as they are.
    pub observed: MatchingSummary,
    /// The similarities after the tokens of one side were shuffled.
    pub null: Option<MatchingSummary>,
    /// The many-to-one matches of all latents of A.
    #[serde(skip)]
    pub greedy: Vec<Pair>,
    /// The one-to-one matches of all latents.
    #[serde(skip)]
    pub bipartite: Bipartite,
}

/// Matches the latents of A to those of B in both ways and summarizes.
///
/// `null` holds the correlations with the tokens of one side shuffled: what matching alone makes of
/// latents that have nothing to do with each other. `counted` `[d_a]` says which latents of A the
/// summary counts, for example those that fire; `None` counts all. All of them take part in the
/// matching.
///
/// # Errors
/// If `null` or `counted` has another size, or [`bipartite_match`] refuses `config`.
pub fn match_latents(
    similarity: &dyn Similarity,
    null: Option<&dyn Similarity>,
    counted: Option<&[bool]>,
    config: &BipartiteConfig,
) -> Result<MatchingReport, FeaturesError> {
    let (d_a, d_b) = (similarity.d_a(), similarity.d_b());
    if let Some(null) = null.filter(|null| (null.d_a(), null.d_b()) != (d_a, d_b)) {
        return Err(FeaturesError::Input {
            field: "null",
            found: format!("{} x {}", null.d_a(), null.d_b()),
            expected: format!("{d_a} x {d_b}"),
        });
    }
    if let Some(counted) = counted.filter(|counted| counted.len() != d_a) {
        return Err(FeaturesError::Input {
            field: "counted",
            found: counted.len().to_string(),
            expected: format!("{d_a} latents"),
        });
    }
    let summary = |similarity: &dyn Similarity| {
        let bipartite = bipartite_match(similarity, config)?;
        let greedy = semi_match(similarity);
        let summary = summarize(d_a, &greedy, &bipartite, counted);
        Ok::<_, FeaturesError>((summary, greedy, bipartite))
    };
    let (observed, greedy, bipartite) = summary(similarity)?;
    Ok(MatchingReport {
        observed,
        null: null.map(summary).transpose()?.map(|null| null.0),
        greedy,
        bipartite,
    })
}

fn summarize(
    d_a: usize,
    best: &[Pair],
    bipartite: &Bipartite,
    counted: Option<&[bool]>,
) -> MatchingSummary {
    let counts = |a: usize| counted.is_none_or(|counted| counted[a]);
    let latents = (0..d_a).filter(|&a| counts(a)).count();
    let of = |pairs: &[Pair]| -> Vec<f64> {
        let pairs = pairs.iter().filter(|pair| counts(pair.a as usize));
        let mut sorted: Vec<f64> = pairs.map(|pair| pair.similarity).collect();
        sorted.sort_by(|x, y| y.total_cmp(x));
        sorted
    };
    let (semi_sorted, bipartite_sorted) = (of(best), of(&bipartite.pairs));
    let shares = |sorted: &[f64], latents: usize| {
        THRESHOLDS.map(|least| {
            let reached = sorted.iter().filter(|&&value| value >= least).count();
            if latents == 0 {
                0.0
            } else {
                reached as f64 / latents as f64
            }
        })
    };
    let losses: Vec<f64> = bipartite
        .pairs
        .iter()
        .filter(|pair| counts(pair.a as usize))
        .map(|pair| best[pair.a as usize].similarity - pair.similarity)
        .collect();
    MatchingSummary {
        latents,
        matched: bipartite_sorted.len(),
        semi_mean: mean(&semi_sorted),
        bipartite_mean: mean(&bipartite_sorted),
        gap: mean(&losses),
        semi_shares: shares(&semi_sorted, latents),
        bipartite_shares: shares(&bipartite_sorted, bipartite_sorted.len()),
        semi_sorted,
        bipartite_sorted,
        shortfall: bipartite.shortfall,
    }
}

/// The mean; 0 of nothing.
fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests;
