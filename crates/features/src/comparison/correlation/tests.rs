//! The accumulator against the textbook formula on dense activations.

use super::super::random::Random;
use super::super::similarity::Similarity;
use super::*;

/// Activations `[tokens, d]` and the same as sparse codes.
struct Codes {
    d: usize,
    k: usize,
    dense: Vec<f32>,   // [tokens, d]
    values: Vec<f32>,  // [tokens, k]
    indices: Vec<i32>, // [tokens, k]
}

impl Codes {
    /// Latent 0 fires on every token, latent 1 is the constant 0.1, the last one is dead.
    fn random(tokens: usize, d: usize, k: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (mut dense, mut values, mut indices) = (vec![0.0; tokens * d], vec![], vec![]);
        for token in 0..tokens {
            let mut row: Vec<(i32, f32)> = vec![(0, 5.0 + random.uniform() as f32), (1, 0.1)];
            while row.len() < k {
                // Low latents fire often, high ones rarely: some pairs never fire together.
                let latent = 2 + (random.uniform().powi(3) * (d - 3) as f64) as i32;
                if row.iter().all(|&(other, _)| other != latent) {
                    row.push((latent, random.uniform() as f32 - 0.2));
                }
            }
            for (latent, value) in row {
                if value > 0.0 {
                    dense[token * d + latent as usize] = value;
                }
                values.push(value);
                indices.push(if value <= 0.0 && random.below(2) == 0 {
                    -1
                } else {
                    latent
                });
            }
        }
        Codes {
            d,
            k,
            dense,
            values,
            indices,
        }
    }

    fn rows(&self, tokens: std::ops::Range<usize>) -> SparseRows<'_> {
        let range = tokens.start * self.k..tokens.end * self.k;
        let (values, indices) = (&self.values[range.clone()], &self.indices[range]);
        SparseRows::new(values, indices, self.k, self.d).unwrap()
    }

    fn column(&self, latent: usize) -> Vec<f64> {
        let column = self.dense.iter().skip(latent).step_by(self.d);
        column.map(|&value| f64::from(value)).collect()
    }
}

/// Correlations of activations `[tokens, d]`, given as codes with an entry for every unit.
pub(crate) fn correlate_dense(a: &[f32], d_a: usize, b: &[f32], d_b: usize) -> Correlations {
    let tokens = a.len() / d_a;
    let indices = |d: usize| -> Vec<i32> { (0..tokens * d).map(|e| (e % d) as i32).collect() };
    let (indices_a, indices_b) = (indices(d_a), indices(d_b));
    let mut correlation = CodeCorrelation::new(d_a, d_b);
    let rows_a = SparseRows::new(a, &indices_a, d_a, d_a).unwrap();
    let rows_b = SparseRows::new(b, &indices_b, d_b, d_b).unwrap();
    correlation.observe(&rows_a, &rows_b).unwrap();
    correlation.finish()
}

const TOKENS: usize = 700;

fn codes() -> (Codes, Codes) {
    (
        Codes::random(TOKENS, 30, 6, 1),
        Codes::random(TOKENS, 24, 5, 2),
    )
}

fn correlate(a: &Codes, b: &Codes, limit: usize, flush_at: usize, block: usize) -> Correlations {
    let mut correlation = CodeCorrelation::new(a.d, b.d).with_dense_limit(limit);
    correlation.flush_at = flush_at;
    for start in (0..TOKENS).step_by(block) {
        let range = start..(start + block).min(TOKENS);
        correlation
            .observe(&a.rows(range.clone()), &b.rows(range))
            .unwrap();
    }
    assert_eq!(correlation.tokens(), TOKENS as u64);
    correlation.finish()
}

/// Two passes: means first, then Σ (x - mean x)(y - mean y) over sqrt(Σ (x - mean x)² ...).
fn textbook(x: &[f64], y: &[f64]) -> f64 {
    let centre = |v: &[f64]| {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        v.iter().map(|value| value - mean).collect::<Vec<f64>>()
    };
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
    let (x, y) = (centre(x), centre(y));
    dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt()
}

fn bits(correlations: &Correlations) -> Vec<u64> {
    let matrix = correlations.to_matrix();
    matrix
        .values()
        .iter()
        .map(|value| value.to_bits())
        .collect()
}

#[test]
fn correlations_equal_the_textbook_formula_on_random_sparse_codes() {
    let (a, b) = codes();
    for limit in [usize::MAX, 0] {
        let got = correlate(&a, &b, limit, 1 << 20, 100);
        for i in (0..a.d - 1).filter(|&i| i != 1) {
            for j in (0..b.d - 1).filter(|&j| j != 1) {
                let want = textbook(&a.column(i), &b.column(j));
                let error = (got.correlation(i, j) - want).abs();
                assert!(error < 1e-11, "{i} {j}: off by {error}");
            }
        }
    }
}

#[test]
fn constant_and_dead_latents_have_correlation_0_with_all() {
    let (a, b) = codes();
    let got = correlate(&a, &b, usize::MAX, 1 << 20, 100);
    for i in [1, a.d - 1] {
        assert!(!got.varies_a(i));
        assert!((0..b.d).all(|j| got.correlation(i, j) == 0.0));
    }
    for j in [1, b.d - 1] {
        assert!(!got.varies_b(j));
        assert!((0..a.d).all(|i| got.correlation(i, j) == 0.0));
    }
    assert!(got.varies_a(0) && got.varies_b(2));
}

#[test]
fn hashed_sums_give_the_same_bits_as_dense_ones() {
    let (a, b) = codes();
    let dense = correlate(&a, &b, 8 * a.d * b.d, 1 << 20, 100);
    let hashed = correlate(&a, &b, 8 * a.d * b.d - 1, 1 << 20, 100);
    assert!(matches!(dense.cross, Cross::Dense(_)));
    assert!(matches!(hashed.cross, Cross::Sparse(_)));
    assert_eq!(dense.pair_bytes(), 8 * a.d * b.d);
    let never_dead = (a.d - 1) * (b.d - 1);
    assert!(
        hashed.pair_bytes() < 16 * never_dead,
        "all pairs fire together"
    );
    assert_eq!(bits(&dense), bits(&hashed));
    assert_eq!(bits(&dense.transpose()), bits(&hashed.transpose()));
}

#[test]
fn blocks_and_threads_do_not_change_a_bit() {
    let (a, b) = codes();
    let want = bits(&correlate(&a, &b, usize::MAX, 1 << 20, TOKENS));
    for (threads, flush_at, block) in [(1, 64, 13), (3, 1, 1), (4, 500, 333)] {
        for limit in [usize::MAX, 0] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let got = pool.install(|| bits(&correlate(&a, &b, limit, flush_at, block)));
            assert_eq!(got, want);
        }
    }
}

#[test]
fn one_pair_and_whole_rows_and_the_transpose_agree() {
    let (a, b) = codes();
    for limit in [usize::MAX, 0] {
        let got = correlate(&a, &b, limit, 1 << 20, 100);
        let matrix = got.to_matrix();
        let swapped = got.transpose();
        assert_eq!((swapped.d_a(), swapped.d_b()), (b.d, a.d));
        for i in 0..a.d {
            for j in 0..b.d {
                assert_eq!(got.correlation(i, j), matrix.similarity(i, j));
                assert_eq!(got.correlation(i, j), swapped.correlation(j, i));
            }
        }
    }
}

#[test]
fn a_dictionary_has_correlation_1_with_itself() {
    let (a, _) = codes();
    let own = correlate(&a, &a, 0, 1 << 20, 100);
    for i in (0..a.d).filter(|&i| own.varies_a(i)) {
        assert!((own.correlation(i, i) - 1.0).abs() < 1e-12);
    }
}

#[test]
fn a_wrong_block_is_refused_and_counts_for_nothing() {
    let codes =
        |n: usize, d| SparseRows::new(&[1.0, 2.0, 0.5][..n], &[0, 1, 0][..n], 1, d).unwrap();
    let good = codes(2, 3);
    let mut correlation = CodeCorrelation::new(3, 3);
    correlation.observe(&good, &good).unwrap();
    for bad in [codes(3, 3), codes(2, 4), codes(2, 2)] {
        assert!(correlation.observe(&good, &bad).is_err(), "{bad:?}");
        assert!(correlation.observe(&bad, &good).is_err(), "{bad:?}");
    }
    correlation.observe(&good, &good).unwrap();
    let mut want = CodeCorrelation::new(3, 3);
    want.observe(&good, &good).unwrap();
    want.observe(&good, &good).unwrap();
    assert_eq!(correlation.tokens(), 4);
    assert_eq!(bits(&correlation.finish()), bits(&want.finish()));
}

#[test]
fn no_tokens_give_correlation_0() {
    let nothing = CodeCorrelation::new(2, 3).finish();
    assert_eq!(nothing.to_matrix().values(), [0.0; 6]);
    assert_eq!(CodeCorrelation::new(0, 0).finish().transpose().d_a(), 0);
}
