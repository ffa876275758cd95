//! Which rows of a data set a probe is trained and tested on, row for row as the Python package
//! sae-probes draws them (Kantamneni et al. 2025).

use super::numpy_random::NumpyRandom;
use crate::error::EvaluationError;

/// Rows after so many are left out.
const MOST_ROWS: usize = 5000;

/// Rows to train on at most.
const MOST_TRAIN: usize = 1024;

/// Rows kept for testing at least.
const LEAST_TEST: usize = 100;

/// How the rows to train on are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// As many rows as there are, up to 1024, half of them positive.
    Normal,
    /// Few rows, half of them positive.
    Scarcity {
        /// Rows to train on.
        num_train: usize,
    },
    /// This share of positive rows, in training and in testing.
    Imbalance {
        /// Share of positive rows, in 0..1.
        frac: f64,
    },
    /// As `Normal`, but with some labels of the training rows flipped. The package calls it
    /// `corrupt` and offers it for baselines only.
    LabelNoise {
        /// Share of training rows whose label is flipped, in 0..=0.5.
        corrupt_frac: f64,
    },
}

impl Setting {
    /// The package's name of the setting.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Scarcity { .. } => "scarcity",
            Self::Imbalance { .. } => "imbalance",
            Self::LabelNoise { .. } => "corrupt",
        }
    }
}

/// Rows to train and to test on, with their labels, in the order in which they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Their labels, some flipped in [`Setting::LabelNoise`].
    pub train_labels: Vec<bool>,
    /// Rows to test on.
    pub test: Vec<usize>,
    /// Their labels.
    pub test_labels: Vec<bool>,
}

/// The 20 numbers of training rows of the scarcity setting: 2^(1 + 9i/19), rounded.
#[must_use]
pub fn train_sizes() -> Vec<usize> {
    let size = |i: i32| 2f64.powf(1.0 + 9.0 * f64::from(i) / 19.0);
    let mut sizes: Vec<usize> = (0..20)
        .map(|i| size(i).round_ties_even() as usize)
        .collect();
    sizes.dedup();
    sizes
}

/// Those of [`train_sizes`] that leave 100 of `rows` rows to test on.
#[must_use]
pub fn usable_train_sizes(rows: usize) -> Vec<usize> {
    let sizes = train_sizes().into_iter();
    sizes.filter(|n| n + LEAST_TEST <= rows).collect()
}

/// The 19 shares of positive rows of the imbalance setting: 0.05, 0.1, …, 0.95. As in the package,
/// they carry the rounding errors of `numpy.linspace`, which decide on a row here and there.
#[must_use]
pub fn class_fractions() -> Vec<f64> {
    let step = (0.95 - 0.05) / 18.0;
    let mut fractions: Vec<f64> = (0..19).map(|i| f64::from(i) * step + 0.05).collect();
    fractions[18] = 0.95;
    fractions
}

/// The 11 shares of flipped labels of the label-noise setting: 0, 0.05, …, 0.5.
#[must_use]
pub fn flipped_fractions() -> Vec<f64> {
    (0..11).map(|i| f64::from(i) / 20.0).collect()
}

/// Draws the rows of a setting. `labels` are those of all rows of the data set.
///
/// # Errors
/// There are too few rows of a class, or a share is out of range.
pub fn split(labels: &[bool], setting: Setting, seed: u32) -> Result<Split, EvaluationError> {
    let rows = labels.len().min(MOST_ROWS);
    let normal = || labels.len().saturating_sub(LEAST_TEST).min(MOST_TRAIN);
    let rest = |train: usize| rows.saturating_sub(train + 1);
    let in_range = |share: f64, range: std::ops::RangeInclusive<f64>, what: &'static str| {
        if range.contains(&share) {
            Ok(share)
        } else {
            Err(EvaluationError::input(what, share, format!("{range:?}")))
        }
    };
    let (train, test, share) = match setting {
        Setting::Normal => (normal(), rest(normal()), 0.5),
        Setting::LabelNoise { corrupt_frac } => {
            in_range(corrupt_frac, 0.0..=0.5, "share of flipped labels")?;
            (normal(), rest(normal()), 0.5)
        }
        Setting::Scarcity { num_train } => (num_train, rest(num_train), 0.5),
        Setting::Imbalance { frac } => {
            in_range(frac, 0.0..=1.0, "share of positive rows")?;
            let (train, test) = imbalanced_sizes(labels);
            (train, test, frac)
        }
    };
    if train < 2 || test == 0 || train + test.min(LEAST_TEST) > rows {
        return Err(EvaluationError::input(
            "rows of a data set",
            rows,
            format!("at least {LEAST_TEST} more than the {train} to train on, and 2 of these"),
        ));
    }
    let mut drawn = draw(&labels[..rows], train, test, share, seed)?;
    if let Setting::LabelNoise { corrupt_frac } = setting {
        let all: Vec<usize> = (0..train).collect();
        let count = (train as f64 * corrupt_frac) as usize;
        for i in NumpyRandom::new(seed).choice(&all, count) {
            drawn.train_labels[i] = !drawn.train_labels[i];
        }
    }
    Ok(drawn)
}

/// Numbers of rows to train and to test on that leave enough of either class at every share from
/// 0.05 to 0.95.
fn imbalanced_sizes(labels: &[bool]) -> (usize, usize) {
    let positive = labels.iter().filter(|l| **l).count() as f64;
    let negative = labels.len() as f64 - positive;
    let all = (negative / (1.0 - 0.05)).min(positive / 0.95) as usize;
    let train = all.saturating_sub(LEAST_TEST).min(MOST_TRAIN);
    (train, all.saturating_sub(train + 1).max(LEAST_TEST))
}

fn draw(
    labels: &[bool],
    train: usize,
    test: usize,
    share: f64,
    seed: u32,
) -> Result<Split, EvaluationError> {
    let mut random = NumpyRandom::new(seed);
    let of_class = |class: bool| (0..labels.len()).filter(move |i| labels[*i] == class);
    let (positive, negative): (Vec<usize>, Vec<usize>) =
        (of_class(true).collect(), of_class(false).collect());
    let positives = |count: usize| (share * count as f64).ceil() as usize;
    let (train_positive, test_positive) = (positives(train), positives(test));
    for (class, have, need) in [
        ("positive rows", &positive, train_positive + test_positive),
        (
            "negative rows",
            &negative,
            train + test - train_positive - test_positive,
        ),
    ] {
        if have.len() < need {
            let found = format!("{} {class}", have.len());
            return Err(EvaluationError::input("rows of a data set", found, need));
        }
    }
    let others = |all: &[usize], taken: &[usize]| -> Vec<usize> {
        let mut is_taken = vec![false; labels.len()];
        taken.iter().for_each(|i| is_taken[*i] = true);
        all.iter().copied().filter(|i| !is_taken[*i]).collect()
    };
    // The order of the draws is the package's.
    let mut train_rows = random.choice(&positive, train_positive);
    let train_negative = random.choice(&negative, train - train_positive);
    let positive = others(&positive, &train_rows);
    let negative = others(&negative, &train_negative);
    let mut test_rows = random.choice(&positive, test_positive);
    let test_negative = random.choice(&negative, test - test_positive);
    train_rows.extend(train_negative);
    test_rows.extend(test_negative);
    let train = random.permutation(train_rows);
    let test = random.permutation(test_rows);
    let of = |rows: &[usize]| rows.iter().map(|i| labels[*i]).collect();
    Ok(Split {
        train_labels: of(&train),
        test_labels: of(&test),
        train,
        test,
    })
}
