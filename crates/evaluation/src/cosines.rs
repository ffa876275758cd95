//! How alike the directions of a dictionary are: cosines between its rows, coherence, and the Babel
//! function (Tropp 2004, "Greed is good") on all of it and on the rows that a token uses together
//! (Costa et al. 2025, "From Flat to Hierarchical").

use burn::tensor::{Int, Tensor};
use lapidary_coder::host;
use lapidary_io::nan_if_null;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::EvaluationError;
use crate::metric::{Number, metrics};

/// Longest Babel function that is reported.
pub const BABEL: usize = 64;

/// Most cosines held at once.
const MOST_COSINES: usize = 1 << 23;

/// Most multiplications for the tokens' own rows: some seconds.
const MOST_WORK: usize = 20_000_000_000;

metrics! {
    /// Directions of decoder rows among each other. Rows of length 0 have cosine 0 with everything.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct DecoderCosines by Number::number => Option<f64> {
        in "Directions of the decoder" {
            /// Largest |cosine| of two rows.
            #[serde(deserialize_with = "nan_if_null")]
            coherence: f64 {
                label: "largest |cosine| of two rows",
                unit: "cosine",
                source: "Tropp 2004",
            }
            /// A lower bound of the coherence: no decoder with this number of rows and dimensions
            /// has a smaller coherence. The bound is 0 if the rows can be orthogonal.
            welch_bound: f64 {
                label: "least coherence possible for as many rows",
                unit: "cosine",
                source: "Welch 1974",
            }
            /// Mean |cosine| over pairs of rows.
            #[serde(deserialize_with = "nan_if_null")]
            mean_abs_cosine: f64 { label: "mean |cosine| over all pairs of rows", unit: "cosine" }
            /// Median over latents of the largest cosine of the latent's row with another row.
            #[serde(deserialize_with = "nan_if_null")]
            max_cosine_median: f64 {
                label: "cosine with the most similar row: median",
                unit: "cosine",
            }
            /// 90th percentile over latents of the largest cosine of the latent's row with another
            /// row.
            #[serde(deserialize_with = "nan_if_null")]
            max_cosine_90: f64 { unit: "cosine", printed: false }
            /// 99th percentile over latents of the largest cosine of the latent's row with another
            /// row.
            #[serde(deserialize_with = "nan_if_null")]
            max_cosine_99: f64 { label: "cosine with the most similar row: 99th percentile", unit: "cosine" }
        }
        also {
            /// The Babel function μ₁(r) of the whole dictionary, r = 1, 2, …: the largest sum of
            /// |cosine| of one row with r others.
            babel: Vec<f64>,
            /// The same of the rows that tokens use together.
            co_selected: CoSelected,
        }
    }
}

/// The Babel function of the rows that one token uses, over tokens. Place r - 1 is over the tokens
/// with more than r active latents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoSelected {
    /// Tokens looked at, evenly spaced in the text.
    pub tokens: u64,
    /// Mean over tokens.
    pub babel_mean: Vec<f64>,
    /// Largest of a token.
    pub babel_max: Vec<f64>,
}

/// What one pass over all pairs of rows gives.
pub(crate) struct Pairs {
    /// Of each row the largest cosine with another, the sign kept; NaN if there is no other.
    pub(crate) max_cosine: Vec<f32>,
    sum_abs: f64,
    babel: Vec<f64>,
}

/// Rows `[n, d]` scaled to norm 1; rows of zeros stay.
pub(crate) fn unit(rows: Tensor<2>) -> Tensor<2> {
    let norm = rows.clone().square().sum_dim(1).sqrt();
    rows / norm.clamp_min(f32::MIN_POSITIVE)
}

/// All pairs of `unit` rows, `[n, d]`, a tile at a time; Babel's function for up to `most` others.
pub(crate) fn pairs(unit: &Tensor<2>, most: usize) -> Result<Pairs, EvaluationError> {
    let n = unit.dims()[0];
    let most = most.min(n.saturating_sub(1));
    let tile = (MOST_COSINES / n.max(1)).max(1);
    let mut result = Pairs {
        max_cosine: Vec::with_capacity(n),
        sum_abs: 0.0,
        babel: vec![0.0; most],
    };
    for start in (0..n).step_by(tile) {
        let rows =
            Tensor::<1, Int>::arange(start as i64..n.min(start + tile) as i64, &unit.device());
        let cosines = host(
            &unit
                .clone()
                .select(0, rows)
                .matmul(unit.clone().transpose()),
        )?; // [tile, n]
        let of_rows: Vec<(f32, f64, Vec<f64>)> = cosines
            .par_chunks_exact(n)
            .enumerate()
            .map(|(i, row)| {
                let others = || {
                    let others = row.iter().enumerate().filter(|(j, _)| *j != start + i);
                    others.map(|(_, c)| *c)
                };
                let largest = others().reduce(f32::max).unwrap_or(f32::NAN);
                let mut sizes: Vec<f32> = others().map(f32::abs).collect();
                let sum = sizes.iter().map(|c| f64::from(*c)).sum();
                (largest, sum, largest_sums(&mut sizes, most))
            })
            .collect();
        for (largest, sum, babel) in of_rows {
            result.max_cosine.push(largest);
            result.sum_abs += sum;
            raise(&mut result.babel, &babel);
        }
    }
    Ok(result)
}

/// Sums of the one, two, … up to `most` largest of `sizes`, whose order is lost.
fn largest_sums(sizes: &mut [f32], most: usize) -> Vec<f64> {
    let order = |a: &f32, b: &f32| b.total_cmp(a);
    let most = most.min(sizes.len());
    if 0 < most && most < sizes.len() {
        sizes.select_nth_unstable_by(most - 1, order);
    }
    let largest = &mut sizes[..most];
    largest.sort_unstable_by(order);
    let mut sum = 0.0;
    let sums = largest.iter().map(|c| {
        sum += f64::from(*c);
        sum
    });
    sums.collect()
}

fn raise(greatest: &mut [f64], values: &[f64]) {
    for (g, v) in greatest.iter_mut().zip(values) {
        *g = g.max(*v);
    }
}

/// The Babel function of `rows`, `[n, d]`, for up to `most` others.
///
/// # Errors
/// The device fails.
pub fn babel(rows: Tensor<2>, most: usize) -> Result<Vec<f64>, EvaluationError> {
    Ok(pairs(&unit(rows), most)?.babel)
}

/// The Babel function of each token's own rows: `unit` is `[d_sae, d]`, `supports` the active
/// latents of tokens.
///
/// # Errors
/// The device fails, or a latent is out of range.
pub fn co_selected(
    rows: Tensor<2>,
    supports: &[Vec<u32>],
    most: usize,
) -> Result<CoSelected, EvaluationError> {
    let [n, d] = rows.dims();
    let unit = host(&unit(rows))?;
    if let Some(latent) = supports.iter().flatten().find(|i| **i as usize >= n) {
        return Err(EvaluationError::input(
            "active latent",
            latent,
            format!("one of {n}"),
        ));
    }
    // Evenly spaced tokens, as many as the work allows.
    let work: usize = supports.iter().map(|s| s.len() * s.len() * d / 2).sum();
    let stride = work.div_ceil(MOST_WORK).max(1);
    let of_tokens: Vec<Vec<f64>> = supports
        .par_iter()
        .step_by(stride)
        .map(|support| {
            let mut support = support.clone();
            support.sort_unstable();
            support.dedup();
            let k = support.len();
            let row = |i: usize| &unit[support[i] as usize * d..][..d];
            let mut sizes = vec![0.0f32; k * k];
            for i in 0..k {
                for j in 0..i {
                    let cosine: f32 = row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum();
                    sizes[i * k + j] = cosine.abs();
                    sizes[j * k + i] = cosine.abs();
                }
            }
            let mut of_token = vec![0.0; most.min(k.saturating_sub(1))];
            // The row's own place holds a 0, which is no larger than any other.
            for sizes in sizes.chunks_exact_mut(k.max(1)) {
                raise(&mut of_token, &largest_sums(sizes, most));
            }
            of_token
        })
        .collect();
    let longest = of_tokens.iter().map(Vec::len).max().unwrap_or(0);
    let at = |r: usize| of_tokens.iter().filter_map(move |t| t.get(r));
    Ok(CoSelected {
        tokens: of_tokens.len() as u64,
        babel_mean: (0..longest)
            .map(|r| at(r).sum::<f64>() / at(r).count() as f64)
            .collect(),
        babel_max: (0..longest)
            .map(|r| at(r).copied().fold(0.0, f64::max))
            .collect(),
    })
}

impl DecoderCosines {
    /// Summarizes the pairs of a dictionary of `n` rows in `d` dimensions.
    pub(crate) fn new(pairs: Pairs, (n, d): (usize, usize), co_selected: CoSelected) -> Self {
        let mut sorted: Vec<f64> = pairs.max_cosine.iter().map(|c| f64::from(*c)).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let quantile = |q: f64| {
            let place = q * (n.saturating_sub(1)) as f64;
            let (low, part) = (place as usize, place.fract());
            let value = |i: usize| sorted.get(i.min(n.saturating_sub(1))).copied();
            let (low, high) = (value(low), value(low + 1));
            low.zip(high).map_or(f64::NAN, |(a, b)| a + part * (b - a))
        };
        let (count, width) = (n as f64, d as f64);
        Self {
            coherence: pairs.babel.first().copied().unwrap_or(f64::NAN),
            welch_bound: if n > d {
                ((count - width) / (width * (count - 1.0))).sqrt()
            } else {
                0.0
            },
            mean_abs_cosine: pairs.sum_abs / (count * (count - 1.0)),
            max_cosine_median: quantile(0.5),
            max_cosine_90: quantile(0.9),
            max_cosine_99: quantile(0.99),
            babel: pairs.babel,
            co_selected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::numbers;
    use burn::tensor::{Device, TensorData};

    fn rows(values: Vec<f32>, d: usize) -> Tensor<2> {
        let n = values.len() / d;
        Tensor::from_data(TensorData::new(values, [n, d]), &Device::flex())
    }

    /// Three axes and the diagonal of the first two, at other lengths: cosines 0 but for two of
    /// 1/√2.
    #[test]
    fn babel_of_four_atoms_is_that_of_the_hand() {
        let atoms = rows(
            vec![
                2.0, 0.0, 0.0, //
                0.0, 3.0, 0.0, //
                0.0, 0.0, 0.5, //
                1.0, -1.0, 0.0,
            ],
            3,
        );
        let half = 0.5f64.sqrt();
        let found = babel(atoms.clone(), 64).unwrap();
        for (found, expected) in found.iter().zip([half, 2.0 * half, 2.0 * half]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert_eq!(found.len(), 3);
        // Tokens that use what is orthogonal see none of it.
        let apart = co_selected(atoms.clone(), &[vec![0, 1, 2], vec![2, 3], vec![1]], 64).unwrap();
        assert_eq!(apart.tokens, 3);
        assert!(apart.babel_max.iter().all(|v| v.abs() < 1e-6));
        assert_eq!(apart.babel_mean.len(), 2);
        let together = co_selected(atoms, &[vec![0, 3, 3], vec![0, 1, 3]], 64).unwrap();
        assert!((together.babel_mean[0] - half).abs() < 1e-6);
        assert!((together.babel_max[1] - 2.0 * half).abs() < 1e-6);
    }

    #[test]
    fn orthonormal_rows_have_none() {
        let eye = Tensor::<2>::eye(6, &Device::flex());
        assert_eq!(babel(eye, 64).unwrap(), vec![0.0; 5]);
    }

    /// Every subset looked at.
    #[test]
    fn babel_equals_the_maximum_over_all_subsets() {
        let (n, d) = (7, 3);
        let values = numbers(n * d, 5);
        let unit = |i: usize| -> Vec<f64> {
            let row: Vec<f64> = values[i * d..][..d].iter().map(|v| f64::from(*v)).collect();
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            row.iter().map(|v| v / norm).collect()
        };
        let cosine =
            |i: usize, j: usize| -> f64 { unit(i).iter().zip(unit(j)).map(|(a, b)| a * b).sum() };
        let found = babel(rows(values.clone(), d), 64).unwrap();
        for r in 1..n {
            let mut greatest = 0.0f64;
            for j in 0..n {
                for subset in
                    (0..1u32 << n).filter(|s| s.count_ones() as usize == r && s >> j & 1 == 0)
                {
                    let of = (0..n).filter(|i| subset >> i & 1 == 1);
                    greatest = greatest.max(of.map(|i| cosine(i, j).abs()).sum());
                }
            }
            assert!(
                (found[r - 1] - greatest).abs() < 1e-5,
                "{r}: {} {greatest}",
                found[r - 1]
            );
        }
        let all = pairs(&super::unit(rows(values.clone(), d)), 64).unwrap();
        for i in 0..n {
            let largest = (0..n)
                .filter(|j| *j != i)
                .map(|j| cosine(i, j))
                .fold(f64::MIN, f64::max);
            assert!((f64::from(all.max_cosine[i]) - largest).abs() < 1e-5);
        }
        let mean = (0..n * n)
            .filter(|p| p / n != p % n)
            .map(|p| cosine(p / n, p % n).abs())
            .sum::<f64>()
            / 42.0;
        let figures = DecoderCosines::new(all, (n, d), CoSelected::default());
        assert!((figures.mean_abs_cosine - mean).abs() < 1e-5);
        assert!((figures.welch_bound - (4.0f64 / 18.0).sqrt()).abs() < 1e-12);
        assert!(figures.coherence >= figures.welch_bound);
    }
}
