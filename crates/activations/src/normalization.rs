//! Activation normalization: x' = (x − mean) · scale. It is estimated once, before training, and
//! folded into the saved weights, so that a dictionary always reads raw activations.

use crate::ActivationsError;
use lapidary_io::settings::Named;
use serde::{Deserialize, Serialize};

/// What a coder is shown of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormalizationKind {
    /// The activation itself.
    None,
    /// Scaled so that the mean squared norm is 1 (dictionary_learning's `normalize_activations`).
    #[default]
    UnitNorm,
    /// Less the mean activation, then scaled so that the mean squared norm is 1.
    MeanCentred,
}

impl Named for NormalizationKind {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::UnitNorm, "unit_norm"),
        (Self::MeanCentred, "mean_centred"),
        (Self::None, "none"),
    ];
}

/// x' = (x − mean) · scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// What it was asked to be.
    pub kind: NormalizationKind,
    /// Subtracted first, `[d]`; zeros unless mean-centred.
    pub mean: Vec<f32>,
    /// Multiplies last.
    pub scale: f32,
}

impl Normalization {
    /// x' = x, for activations of width `d`.
    pub fn identity(d: usize) -> Self {
        Self {
            kind: NormalizationKind::None,
            mean: vec![0.0; d],
            scale: 1.0,
        }
    }

    /// Estimated in f64 from `rows` of width `d`.
    ///
    /// # Errors
    /// When there are no rows, or all are the same point, so that no scale fits.
    pub fn estimate<'a>(
        kind: NormalizationKind,
        rows: impl Iterator<Item = &'a [f32]> + Clone,
        d: usize,
    ) -> Result<Self, ActivationsError> {
        if kind == NormalizationKind::None {
            return Ok(Self::identity(d));
        }
        let n = rows.clone().count() as f64;
        let mut mean = vec![0.0_f64; d];
        if kind == NormalizationKind::MeanCentred {
            for row in rows.clone() {
                for (m, x) in mean.iter_mut().zip(row) {
                    *m += f64::from(*x) / n;
                }
            }
        }
        let mut square = 0.0;
        for row in rows {
            square += row
                .iter()
                .zip(&mean)
                .map(|(x, m)| (f64::from(*x) - m).powi(2))
                .sum::<f64>()
                / n;
        }
        let scale = square.sqrt().recip() as f32;
        if !scale.is_finite() || scale == 0.0 {
            let problem =
                format!("the activations' mean squared norm is {square}, no scale makes it 1");
            return Err(ActivationsError::Corpus {
                path: "activations".into(),
                problem,
            });
        }
        Ok(Self {
            kind,
            mean: mean.iter().map(|m| *m as f32).collect(),
            scale,
        })
    }

    /// Normalizes `rows`, `[n, d]` flat, in place.
    pub fn apply(&self, rows: &mut [f32]) {
        if self.kind == NormalizationKind::None {
            return;
        }
        for row in rows.chunks_exact_mut(self.mean.len()) {
            for (x, m) in row.iter_mut().zip(&self.mean) {
                *x = (*x - m) * self.scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_does_what_it_says() {
        let rows = [3.0, 4.0, 0.0, 0.0, 3.0, 0.0];
        let mean_square = |kind| {
            let n = Normalization::estimate(kind, rows.chunks_exact(2), 2).unwrap();
            let mut out = rows.to_vec();
            n.apply(&mut out);
            let mean: f32 = out.iter().sum();
            (out.iter().map(|x| x * x).sum::<f32>() / 3.0, mean)
        };
        assert!((mean_square(NormalizationKind::UnitNorm).0 - 1.0).abs() < 1e-6);
        let (square, mean) = mean_square(NormalizationKind::MeanCentred);
        assert!((square - 1.0).abs() < 1e-6 && mean.abs() < 1e-6);
        assert_eq!(mean_square(NormalizationKind::None).0, 34.0 / 3.0);
        let zeros = [[0.0, 0.0].as_slice()];
        let estimate = Normalization::estimate(NormalizationKind::UnitNorm, zeros.into_iter(), 2);
        assert!(estimate.is_err());
    }
}
