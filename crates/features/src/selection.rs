//! Selection of training documents whose codes resemble those of a few target documents (MONA,
//! 2025).
//!
//! A document's embedding is the mean of its tokens' codes: a sum would favour long documents. A
//! task's embedding is the mean of its documents' embeddings. The pool is ranked by generalized
//! Jaccard similarity to the task. Memory is one number per pool document and the non-zero entries
//! of one embedding at a time.
//!
//! ```
//! use lapidary_features::selection::{MeanCodes, PoolRanking, Similarity, TopShare, task_embedding};
//! # fn main() -> Result<(), lapidary_features::FeaturesError> {
//!
//! let embedding = |tokens: &[(&[u32], &[f32])]| {
//!     let mut mean = MeanCodes::new(8); // d_sae
//!     for (indices, values) in tokens {
//!         mean.add_token(indices, values)?;
//!     }
//!     Ok::<_, lapidary_features::FeaturesError>(mean.finish())
//! };
//! let target = embedding(&[(&[0, 3], &[1.0, 2.0])])?;
//! let task = task_embedding(&[target])?;
//! let mut ranking = PoolRanking::new(task, Similarity::Jaccard);
//! ranking.score(&embedding(&[(&[5], &[1.0])])?);
//! ranking.score(&embedding(&[(&[3, 5], &[2.0, 1.0])])?);
//! assert_eq!(ranking.select("50%".parse::<TopShare>()?)?, [1]);
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::str::FromStr;

use crate::FeaturesError;

/// The mean of the codes of one document, token by token, in memory proportional to the number of
/// different latents that fire in it.
#[derive(Debug, Clone)]
pub struct MeanCodes {
    d_sae: usize,
    tokens: u64,
    sums: HashMap<u32, f64>,
}

impl MeanCodes {
    /// A document without tokens, of codes over `d_sae` latents.
    pub fn new(d_sae: usize) -> Self {
        MeanCodes {
            d_sae,
            tokens: 0,
            sums: HashMap::new(),
        }
    }

    /// Adds one token's code, given by its latents and their activations. Zeros may be left out. A
    /// token on which no latent fires counts in the mean.
    ///
    /// # Errors
    /// When there is not one activation per latent, a latent is not below `d_sae`, or an activation
    /// is negative or not finite. A token that is refused adds nothing.
    pub fn add_token(&mut self, indices: &[u32], values: &[f32]) -> Result<(), FeaturesError> {
        if indices.len() != values.len() {
            return Err(FeaturesError::Input {
                field: "codes",
                found: format!("{} activations for {} latents", values.len(), indices.len()),
                expected: "one activation per latent".into(),
            });
        }
        if let Some(index) = indices.iter().find(|index| **index as usize >= self.d_sae) {
            return Err(FeaturesError::Input {
                field: "codes",
                found: format!("latent {index}"),
                expected: format!("less than {}", self.d_sae),
            });
        }
        if let Some(value) = values.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(FeaturesError::Input {
                field: "codes",
                found: format!("activation {value}"),
                expected: "a finite number, at least 0".into(),
            });
        }
        for (&index, &value) in indices.iter().zip(values) {
            if value > 0.0 {
                *self.sums.entry(index).or_default() += f64::from(value);
            }
        }
        self.tokens += 1;
        Ok(())
    }

    /// Adds a passage of so many tokens, given by the mean of its codes.
    ///
    /// # Errors
    /// As [`MeanCodes::add_token`].
    pub fn add_passage(&mut self, mean: &[(u32, f32)], tokens: u64) -> Result<(), FeaturesError> {
        let (indices, values): (Vec<u32>, Vec<f32>) = mean.iter().copied().unzip();
        let mut passage = MeanCodes::new(self.d_sae);
        passage.add_token(&indices, &values)?;
        for (index, value) in passage.sums {
            *self.sums.entry(index).or_default() += value * tokens as f64;
        }
        self.tokens += tokens;
        Ok(())
    }

    /// The document's embedding: all zeros for a document without tokens.
    pub fn finish(self) -> Embedding {
        let tokens = self.tokens as f64;
        Embedding::sorted(
            self.sums
                .into_iter()
                .map(|(index, sum)| (index, sum / tokens)),
        )
    }
}

/// A mean of codes, as its non-zero entries.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedding {
    entries: Vec<(u32, f64)>, // ascending by latent, all above 0
}

impl Embedding {
    /// The (latent, mean activation) pairs above 0, ascending by latent.
    pub fn entries(&self) -> &[(u32, f64)] {
        &self.entries
    }

    fn sorted(entries: impl Iterator<Item = (u32, f64)>) -> Self {
        let mut entries: Vec<_> = entries.collect();
        entries.sort_unstable_by_key(|&(index, _)| index);
        Embedding { entries }
    }
}

/// The mean of the embeddings of a task's documents, each with the same weight.
///
/// # Errors
/// When there are no documents.
pub fn task_embedding(documents: &[Embedding]) -> Result<Embedding, FeaturesError> {
    if documents.is_empty() {
        return Err(FeaturesError::Input {
            field: "target documents",
            found: "none".into(),
            expected: "at least one".into(),
        });
    }
    let mut sums = HashMap::<u32, f64>::new();
    for &(index, value) in documents.iter().flat_map(Embedding::entries) {
        *sums.entry(index).or_default() += value;
    }
    let n = documents.len() as f64;
    Ok(Embedding::sorted(
        sums.into_iter().map(|(index, sum)| (index, sum / n)),
    ))
}

/// How alike two embeddings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Similarity {
    /// Generalized Jaccard: Σ min(a, b) / Σ max(a, b).
    Jaccard,
    /// Cosine: Σ a b / (|a| |b|), for comparison. A few strong latents dominate it.
    Cosine,
}

impl Similarity {
    /// The similarity of two embeddings, 0 to 1; 0 if both are zero, or, for the cosine, one.
    pub fn of(self, a: &Embedding, b: &Embedding) -> f64 {
        match self {
            Similarity::Jaccard => jaccard(a, b),
            Similarity::Cosine => cosine(a, b),
        }
    }
}

fn jaccard(a: &Embedding, b: &Embedding) -> f64 {
    let (mut min, mut max) = (0.0, 0.0);
    merge(a, b, |x, y| {
        min += f64::min(x, y);
        max += f64::max(x, y);
    });
    if max > 0.0 { min / max } else { 0.0 }
}

fn cosine(a: &Embedding, b: &Embedding) -> f64 {
    let (mut dot, mut a_squared, mut b_squared) = (0.0, 0.0, 0.0);
    merge(a, b, |x, y| {
        dot += x * y;
        a_squared += x * x;
        b_squared += y * y;
    });
    // One root of each: their product could leave the range of f64.
    let norms = f64::sqrt(a_squared) * f64::sqrt(b_squared);
    if norms > 0.0 {
        f64::min(dot / norms, 1.0)
    } else {
        0.0
    }
}

/// Visits, in ascending order of latent, the two values of each latent that is in either.
fn merge(a: &Embedding, b: &Embedding, mut visit: impl FnMut(f64, f64)) {
    let (mut a, mut b) = (a.entries.iter().peekable(), b.entries.iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some((i, x)), Some((j, y))) => {
                visit(if i <= j { *x } else { 0.0 }, if j <= i { *y } else { 0.0 });
                let (advance_a, advance_b) = (i <= j, j <= i);
                if advance_a {
                    a.next();
                }
                if advance_b {
                    b.next();
                }
            }
            (Some((_, x)), None) => {
                visit(*x, 0.0);
                a.next();
            }
            (None, Some((_, y))) => {
                visit(0.0, *y);
                b.next();
            }
            (None, None) => return,
        }
    }
}

/// The scores of a pool's documents as they stream past; embeddings are not kept.
#[derive(Debug, Clone)]
pub struct PoolRanking {
    task: Embedding,
    similarity: Similarity,
    scores: Vec<f64>, // [documents]
}

impl PoolRanking {
    /// An empty pool for this task.
    pub fn new(task: Embedding, similarity: Similarity) -> Self {
        PoolRanking {
            task,
            similarity,
            scores: Vec::new(),
        }
    }

    /// Scores the next document of the pool and keeps the score.
    pub fn score(&mut self, document: &Embedding) -> f64 {
        let score = self.similarity.of(document, &self.task);
        self.scores.push(score);
        score
    }

    /// The score of each document, in their order of arrival.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// All documents, the most similar first; ties: the earlier document first.
    pub fn ranked(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_by(|&a, &b| self.scores[b].total_cmp(&self.scores[a]));
        order
    }

    /// The most similar documents, the most similar first.
    ///
    /// # Errors
    /// When the share does not fit the pool ([`TopShare::count`]).
    pub fn select(&self, share: TopShare) -> Result<Vec<usize>, FeaturesError> {
        let count = share.count(self.scores.len())?;
        let mut order = self.ranked();
        order.truncate(count);
        Ok(order)
    }
}

/// How much of a pool to select. Read from text such as `5%` or `1000`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TopShare {
    /// This many percent of the documents.
    Percent(f64),
    /// This many documents.
    Count(usize),
}

impl TopShare {
    /// The number of documents in a pool of `pool`. A percentage is rounded to the nearest number,
    /// but selects at least one document of a pool that is not empty.
    ///
    /// # Errors
    /// When a percentage is not above 0 and at most 100, or a count not at least 1 and at most
    /// `pool`.
    pub fn count(self, pool: usize) -> Result<usize, FeaturesError> {
        match self {
            TopShare::Percent(percent) if percent > 0.0 && percent <= 100.0 => {
                let exact = percent * pool as f64 / 100.0;
                Ok((exact.round() as usize).clamp(pool.min(1), pool))
            }
            TopShare::Count(count) if count >= 1 && count <= pool => Ok(count),
            TopShare::Percent(percent) => Err(not_a_share(format!("{percent}%"), pool)),
            TopShare::Count(count) => Err(not_a_share(count.to_string(), pool)),
        }
    }
}

fn not_a_share(found: String, pool: usize) -> FeaturesError {
    FeaturesError::Input {
        field: "share",
        found,
        expected: format!("above 0% and at most 100%, or 1 to {pool} documents"),
    }
}

impl FromStr for TopShare {
    type Err = FeaturesError;

    fn from_str(text: &str) -> Result<Self, FeaturesError> {
        let parsed = match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse().ok().map(TopShare::Percent),
            None => text.trim().parse().ok().map(TopShare::Count),
        };
        let valid = |share: &TopShare| match *share {
            TopShare::Percent(percent) => percent > 0.0 && percent <= 100.0,
            TopShare::Count(count) => count >= 1,
        };
        parsed.filter(valid).ok_or_else(|| FeaturesError::Input {
            field: "share",
            found: format!("\"{text}\""),
            expected: "a percentage such as 5%, or a number of documents".into(),
        })
    }
}

#[cfg(test)]
mod tests;
