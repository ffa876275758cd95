//! Training and validation rows for the choice of C, as the Python package sae-probes and
//! scikit-learn make them.

use super::numpy_random::NumpyRandom;

/// Rows to fit and rows to validate on.
pub(crate) type Fold = (Vec<usize>, Vec<usize>);

/// Folds of stratified cross-validation.
const FOLDS: usize = 6;

/// The folds for this many rows, none for up to 3:
///
/// - up to 12: each pair of rows that are of different classes is left out once;
/// - below 128: stratified 6-fold;
/// - else one: a fifth of the rows, at most 100, the last ones.
///
/// Up to 127 rows, only folds that validate on both classes are kept. The single fold of more rows
/// is kept whatever it validates on, as in the package.
pub(crate) fn folds(labels: &[bool], seed: u32) -> Vec<Fold> {
    let n = labels.len();
    if n <= 3 {
        return Vec::new();
    }
    if n >= 128 {
        let validation = ((0.2 * n as f64) as usize).min(100);
        return vec![((0..n - validation).collect(), (n - validation..n).collect())];
    }
    let of_validation: Vec<Vec<usize>> = if n <= 12 {
        let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| vec![i, j]));
        pairs.collect()
    } else {
        let fold = stratified(labels, seed);
        let of = |f: usize| (0..n).filter(|i| fold[*i] == f).collect();
        (0..FOLDS).map(of).collect()
    };
    let both = |rows: &[usize]| rows.iter().any(|i| labels[*i] != labels[rows[0]]);
    let kept = of_validation.into_iter().filter(|rows| both(rows));
    kept.map(|validation| {
        let fit = (0..n).filter(|i| !validation.contains(i)).collect();
        (fit, validation)
    })
    .collect()
}

/// The fold of each row: scikit-learn's `StratifiedKFold(6, shuffle=True, random_state=seed)`.
fn stratified(labels: &[bool], seed: u32) -> Vec<usize> {
    let mut random = NumpyRandom::new(seed);
    let mut fold = vec![0; labels.len()];
    let first = labels[0]; // the class of the first row is dealt first
    let first_count = labels.iter().filter(|l| **l == first).count();
    let starts = [(first, 0..first_count), (!first, first_count..labels.len())];
    for (class, places) in starts {
        let mut dealt: Vec<usize> = places.map(|place| place % FOLDS).collect();
        dealt.sort_unstable();
        random.shuffle(&mut dealt);
        let rows = (0..labels.len()).filter(|i| labels[*i] == class);
        for (row, f) in rows.zip(dealt) {
            fold[row] = f;
        }
    }
    fold
}
