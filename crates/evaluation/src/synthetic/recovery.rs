//! What a coder makes of features that are known: how near its rows come to their directions, and
//! how well its latents tell when they fire. Names and definitions are those of SAELens's
//! `synthetic/evals.py` where it has the figure.

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{Coder, host, host_int};
use lapidary_io::nan_if_null;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Sample, Synthetic};
use crate::cosines::unit;
use crate::error::EvaluationError;
use crate::matching::best_matching;
use crate::metric::{Number, metrics};
use crate::reconstruction::ReconstructionSums;

/// Rows encoded at once.
const ROWS: usize = 4096;

metrics! {
    /// How well a coder recovers known features.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct Recovery by Number::number => Option<f64> {
        in "" {
            /// Number of rows (activations) that the metrics are computed on.
            rows: u64 { unit: "rows", printed: false }
            /// Number of features.
            n_features: u64 { unit: "features", printed: false }
            /// Number of latents.
            d_sae: u64 { unit: "latents", printed: false }
            /// Features and decoder rows are matched one-to-one, so that the mean |cosine| of the
            /// pairs is as large as possible. `mcc` is this mean. The matching is exact (Hungarian
            /// method) and has as many pairs as possible.
            mcc: f64 {
                label: "mean |cosine| of matched features and rows",
                unit: "cosine",
                source: "SAELens, same name",
            }
            /// As `mcc`, but with the cosine instead of |cosine|, both in the matching and in the
            /// mean.
            matched_cosine: f64 { label: "mean cosine of matched features and rows", unit: "cosine" }
            /// Mean over features of the largest |cosine| with any decoder row.
            mean_max_cosine: f64 { label: "mean |cosine| of a feature and its nearest row", unit: "cosine" }
            /// Number of features that are the nearest feature of at least one decoder row, divided
            /// by the number of decoder rows. The nearest feature of a decoder row is the feature
            /// with the largest |cosine| with this row.
            uniqueness: f64 {
                label: "features nearest to some row, over rows",
                source: "SAELens, same name",
            }
            /// Mean over latents of P(nearest feature fires | latent fires). The nearest feature of
            /// a latent is the nearest feature of its decoder row (see `uniqueness`).
            precision: f64 {
                label: "of latents as detectors of their nearest features",
                source: "SAELens, same name",
            }
            /// Mean over latents of P(latent fires | nearest feature fires).
            recall: f64 { source: "SAELens, same name" }
            /// Mean over latents of the harmonic mean of the latent's precision and recall.
            f1_score: f64 { source: "SAELens, same name" }
            /// Mean over latents of the share of rows in which the latent and its nearest feature
            /// both fire or both do not.
            accuracy: f64 { source: "SAELens, same name" }
            /// Mean over features of the F1 of the matched latent, in the matching of `mcc`. A
            /// feature without a matched latent has the F1 0.
            matched_f1: f64 { label: "F1 of features by their matched latents" }
            /// F1 of predicting which features fire, over all rows together. A latent that fires
            /// predicts its matched feature, in the matching of `mcc`. If the latent has no matched
            /// feature, the prediction counts as wrong.
            support_f1: f64 { label: "F1 of the sets of firing features" }
            /// Mean over rows of the number of features that fire.
            true_l0: f64 {
                label: "features that fire per row",
                unit: "features per row",
                source: "SAELens, same name",
            }
            /// Mean over rows of the number of latents that fire.
            l0: f64 {
                label: "latents that fire per row",
                unit: "latents per row",
                source: "SAELens, same name",
            }
            /// Number of latents that never fire.
            dead_latents: u64 {
                label: "never fired",
                unit: "latents",
                source: "SAELens, same name",
            }
            /// Mean ‖x̂‖ / ‖x‖ over rows that are not 0.
            #[serde(deserialize_with = "nan_if_null")]
            shrinkage: f64 {
                label: "norm of reconstruction over that of the row",
                source: "SAELens, same name",
            }
            /// Fraction of variance unexplained: Σ‖x − x̂‖² / Σ‖x − E x‖².
            #[serde(deserialize_with = "nan_if_null")]
            fvu: f64 { label: "fraction of variance unexplained" }
            /// Only for the kinds `hierarchical` and `synth_sae_bench`, which have parent and child
            /// features. The matching of `matched_cosine` gives each feature a decoder row. The
            /// value is the cosine between the decoder rows of a child and of its parent, mean over
            /// all children. The directions of a child and its parent have a cosine of about 0.
            /// The key is present only if every parent and every child is matched. So it is missing
            /// if there are fewer latents than features.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            parent_child_cosine: Option<f64> {
                label: "of the rows of parents and children; 0 in truth",
                unit: "cosine",
            }
        }
        also {}
    }
}

/// Compares `coder` with the features of `synthetic` on `sample`, which is of them.
///
/// # Errors
/// The coder is of another width, its decoder is not finite, or the device fails.
pub fn recovery(
    synthetic: &Synthetic,
    sample: &Sample,
    coder: &dyn Coder,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Recovery, EvaluationError> {
    let (d, n) = (synthetic.d_in(), synthetic.directions().len());
    if coder.d_in() != d {
        return Err(EvaluationError::input(
            "width of the synthetic activations (against the coder's d_in)",
            d,
            coder.d_in(),
        ));
    }
    let device = coder.device();
    let rows = matrix(synthetic.directions(), d, &device);
    let cosines = rows.matmul(unit(coder.w_dec()).transpose()); // [n_features, d_sae]
    let cosines = host(&cosines.clamp(-1.0, 1.0))?;
    if let Some(cosine) = cosines.iter().find(|c| !c.is_finite()) {
        return Err(EvaluationError::input(
            "cosine of a feature and a decoder row",
            cosine,
            "a finite number",
        ));
    }
    let geometry = Geometry::new(&cosines, n, coder.d_sae());

    let mut counts = Counts::new(n, coder.d_sae(), &geometry);
    let mut sums = ReconstructionSums::default();
    let (mut ratio, mut nonzero) = (0.0, 0u64);
    let mut done = 0;
    for (x, features) in sample.x.chunks(ROWS * d).zip(sample.features.chunks(ROWS)) {
        let shape = [features.len(), d];
        let codes = coder.encode(Tensor::<2>::from_data(
            TensorData::new(x.to_vec(), shape),
            &device,
        ));
        let x_hat = host(&coder.decode(codes.clone()))?;
        let k = codes.values.dims()[1];
        let (values, indices) = (host(&codes.values)?, host_int(&codes.indices)?);
        for (row, features) in features.iter().enumerate() {
            let of = row * k..(row + 1) * k;
            let fires = values[of.clone()]
                .iter()
                .zip(&indices[of])
                .filter(|(v, _)| **v != 0.0);
            counts.observe(fires.map(|(_, i)| *i as usize), features);
        }
        sums.observe(x, &x_hat, d, &vec![true; features.len()]);
        for (x, x_hat) in x.chunks_exact(d).zip(x_hat.chunks_exact(d)) {
            let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if norm(x) > 1e-6 {
                ratio += norm(x_hat) / norm(x);
                nonzero += 1;
            }
        }
        done += features.len();
        on_progress(done);
    }
    let detectors = counts.detectors(&geometry);
    let parent_child_cosine = parent_child(synthetic, coder, &geometry)?;
    Ok(Recovery {
        rows: counts.rows,
        n_features: n as u64,
        d_sae: coder.d_sae() as u64,
        mcc: geometry.mcc,
        matched_cosine: geometry.matched_cosine,
        mean_max_cosine: geometry.mean_max_cosine,
        uniqueness: geometry.uniqueness,
        precision: detectors[0],
        recall: detectors[1],
        f1_score: detectors[2],
        accuracy: detectors[3],
        matched_f1: counts.matched_f1(&geometry),
        support_f1: counts.support_f1(),
        true_l0: counts.features.iter().sum::<u64>() as f64 / counts.rows as f64,
        l0: counts.latents.iter().sum::<u64>() as f64 / counts.rows as f64,
        dead_latents: counts.latents.iter().filter(|c| **c == 0).count() as u64,
        shrinkage: ratio / nonzero as f64,
        fvu: sums.fvu(),
        parent_child_cosine,
    })
}

fn matrix(rows: &[Vec<f64>], d: usize, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = rows.iter().flatten().map(|v| *v as f32).collect();
    Tensor::from_data(TensorData::new(values, [rows.len(), d]), device)
}

/// What the cosines of features and rows say.
struct Geometry {
    mcc: f64,
    matched_cosine: f64,
    mean_max_cosine: f64,
    uniqueness: f64,
    /// Of each latent the feature nearest to its row.
    nearest: Vec<usize>,
    /// Of each feature its latent in the matching by |cosine|.
    latent_of: Vec<Option<usize>>,
    /// The same by cosine.
    signed_latent_of: Vec<Option<usize>>,
}

impl Geometry {
    /// From cosines `[n, m]` of n features and m rows.
    fn new(cosines: &[f32], n: usize, m: usize) -> Self {
        let absolute: Vec<f32> = cosines.iter().map(|c| c.abs()).collect();
        let ((mcc, latent_of), (matched_cosine, signed_latent_of)) =
            rayon::join(|| matched(&absolute, n, m), || matched(cosines, n, m));
        let nearest: Vec<usize> = (0..m)
            .into_par_iter()
            .map(|j| {
                let of = |i: &usize| absolute[i * m + j];
                // Of equal ones the first.
                (0..n)
                    .reduce(|a, b| if of(&b) > of(&a) { b } else { a })
                    .unwrap_or(0)
            })
            .collect();
        let mut unique = nearest.clone();
        unique.sort_unstable();
        unique.dedup();
        let max = |row: &[f32]| f64::from(row.iter().copied().fold(0.0, f32::max));
        Self {
            mcc,
            matched_cosine,
            mean_max_cosine: absolute.chunks(m).map(max).sum::<f64>() / n as f64,
            uniqueness: unique.len() as f64 / m as f64,
            nearest,
            latent_of,
            signed_latent_of,
        }
    }
}

/// The mean gain of the best matching of `n` features and `m` latents, and each feature's latent.
fn matched(gain: &[f32], n: usize, m: usize) -> (f64, Vec<Option<usize>>) {
    let value = |i: usize, j: usize| f64::from(gain[i * m + j]);
    let mut latent_of = vec![None; n];
    if n <= m {
        let best = best_matching(n, m, |(i, j)| value(i, j));
        for (i, j) in best.into_iter().enumerate() {
            latent_of[i] = Some(j);
        }
    } else {
        let best = best_matching(m, n, |(j, i)| value(i, j));
        for (j, i) in best.into_iter().enumerate() {
            latent_of[i] = Some(j);
        }
    }
    let pairs = latent_of
        .iter()
        .enumerate()
        .filter_map(|(i, j)| j.map(|j| value(i, j)));
    (pairs.sum::<f64>() / n.min(m) as f64, latent_of)
}

/// How often features and latents fired, alone and together.
struct Counts {
    rows: u64,
    features: Vec<u64>,
    latents: Vec<u64>,
    /// Of each latent with the feature nearest to it.
    with_nearest: Vec<u64>,
    /// Of each feature with its latent.
    with_latent: Vec<u64>,
    nearest: Vec<usize>,
    feature_of: Vec<Option<usize>>,
    /// Firing pairs of a feature and its latent, latents that fired, features that fired.
    supports: [u64; 3],
    active: Vec<bool>,
}

impl Counts {
    fn new(n: usize, m: usize, geometry: &Geometry) -> Self {
        let mut feature_of = vec![None; m];
        for (i, latent) in geometry.latent_of.iter().enumerate() {
            if let Some(j) = latent {
                feature_of[*j] = Some(i);
            }
        }
        Self {
            rows: 0,
            features: vec![0; n],
            latents: vec![0; m],
            with_nearest: vec![0; m],
            with_latent: vec![0; n],
            nearest: geometry.nearest.clone(),
            feature_of,
            supports: [0; 3],
            active: vec![false; n],
        }
    }

    /// One row: the latents that fire, and the features.
    fn observe(&mut self, latents: impl Iterator<Item = usize>, features: &[(u32, f32)]) {
        self.rows += 1;
        for (i, _) in features {
            self.active[*i as usize] = true;
            self.features[*i as usize] += 1;
            self.supports[2] += 1;
        }
        for j in latents {
            self.latents[j] += 1;
            self.supports[1] += 1;
            self.with_nearest[j] += u64::from(self.active[self.nearest[j]]);
            if let Some(i) = self.feature_of[j].filter(|i| self.active[*i]) {
                self.with_latent[i] += 1;
                self.supports[0] += 1;
            }
        }
        for (i, _) in features {
            self.active[*i as usize] = false;
        }
    }

    /// Means over latents of precision, recall, F1 and accuracy.
    fn detectors(&self, geometry: &Geometry) -> [f64; 4] {
        let mut sums = [0.0; 4];
        for (j, nearest) in geometry.nearest.iter().enumerate() {
            let (both, latent, feature) = (
                self.with_nearest[j],
                self.latents[j],
                self.features[*nearest],
            );
            let (precision, recall) = (ratio(both, latent), ratio(both, feature));
            let wrong = (latent - both) + (feature - both);
            let each = [
                precision,
                recall,
                f1(both, latent, feature),
                ratio(self.rows - wrong, self.rows),
            ];
            sums.iter_mut().zip(each).for_each(|(s, v)| *s += v);
        }
        sums.map(|s| s / geometry.nearest.len() as f64)
    }

    fn matched_f1(&self, geometry: &Geometry) -> f64 {
        let of = |(i, latent): (usize, &Option<usize>)| {
            latent.map_or(0.0, |j| {
                f1(self.with_latent[i], self.latents[j], self.features[i])
            })
        };
        geometry.latent_of.iter().enumerate().map(of).sum::<f64>() / self.features.len() as f64
    }

    fn support_f1(&self) -> f64 {
        let [both, latents, features] = self.supports;
        f1(both, latents, features)
    }
}

/// 0 if there is nothing to divide by.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Harmonic mean of both / found and both / wanted.
fn f1(both: u64, found: u64, wanted: u64) -> f64 {
    ratio(2 * both, found + wanted)
}

/// Mean cosine of the rows of parents and of their children.
fn parent_child(
    synthetic: &Synthetic,
    coder: &dyn Coder,
    geometry: &Geometry,
) -> Result<Option<f64>, EvaluationError> {
    let families = synthetic.families();
    let rows = host(&unit(coder.w_dec()))?;
    let row =
        |i: usize| geometry.signed_latent_of[i].map(|j| &rows[j * coder.d_in()..][..coder.d_in()]);
    let cosines: Option<Vec<f64>> = families
        .iter()
        .map(|(parent, child)| {
            let (a, b) = row(*parent).zip(row(*child))?;
            Some(a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum())
        })
        .collect();
    Ok(cosines
        .filter(|c| !c.is_empty())
        .map(|c| c.iter().sum::<f64>() / c.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticConfig;
    use lapidary_coder::{Architecture, SparseCoder, Weights};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Three features and four latents, on four rows.
    #[test]
    fn detectors_and_supports_are_counted_as_by_hand() {
        #[rustfmt::skip]
        let cosines = [
            0.9, 0.75, 0.0, 0.1,
            0.0, 0.1, -0.7, 0.0,
            0.3, 0.0, 0.2, 0.2,
        ];
        let geometry = Geometry::new(&cosines, 3, 4);
        assert_eq!(geometry.nearest, [0, 0, 1, 2]);
        // By |cosine| the pairs are 0-0, 1-2, 2-3; with signs 0-0, 1-1, 2-2 (or 2-3) gain most.
        assert_eq!(geometry.latent_of, [Some(0), Some(2), Some(3)]);
        assert!((geometry.mcc - (0.9 + 0.7 + 0.2) / 3.0).abs() < 1e-6);
        assert!((geometry.matched_cosine - (0.9 + 0.1 + 0.2) / 3.0).abs() < 1e-6);
        assert!((geometry.mean_max_cosine - (0.9 + 0.7 + 0.3) / 3.0).abs() < 1e-6);
        assert!((geometry.uniqueness - 0.75).abs() < 1e-12);

        let mut counts = Counts::new(3, 4, &geometry);
        let rows = [
            (vec![0, 2], vec![(0, 1.0), (1, 1.0)]),
            (vec![0, 1], vec![(1, 1.0)]),
            (vec![3], vec![(2, 1.0)]),
            (vec![], vec![(0, 1.0)]),
        ];
        for (latents, features) in rows {
            counts.observe(latents.into_iter(), &features);
        }
        // Latent 0 (feature 0): TP 1, FP 1, FN 1. Latent 1 (feature 0): TP 0, FP 1, FN 2. Latent 2
        // (feature 1): TP 1, FN 1. Latent 3 (feature 2): TP 1.
        let [precision, recall, f1, accuracy] = counts.detectors(&geometry);
        assert!((precision - (0.5 + 0.0 + 1.0 + 1.0) / 4.0).abs() < 1e-12);
        assert!((recall - (0.5 + 0.0 + 0.5 + 1.0) / 4.0).abs() < 1e-12);
        assert!((f1 - (0.5 + 0.0 + 2.0 / 3.0 + 1.0) / 4.0).abs() < 1e-12);
        assert!((accuracy - (0.5 + 0.25 + 0.75 + 1.0) / 4.0).abs() < 1e-12);
        assert!((counts.matched_f1(&geometry) - (0.5 + 2.0 / 3.0 + 1.0) / 3.0).abs() < 1e-12);
        // 3 of the 5 firings of latents are of a feature that fires; 5 features fire.
        assert!((counts.support_f1() - 0.6).abs() < 1e-12);
    }

    #[test]
    fn more_features_than_latents_leave_some_without() {
        let geometry = Geometry::new(&[0.2, 0.9, 0.5], 3, 1);
        assert_eq!(geometry.latent_of, [None, Some(0), None]);
        assert!((geometry.mcc - 0.9).abs() < 1e-6);
    }

    #[test]
    fn the_true_directions_in_another_order_and_with_other_signs_have_an_mcc_of_1() {
        let device = Device::flex();
        let text = "synthetic = { kind = 'synth_sae_bench', preset = '1k', orthogonal_steps = 20 }";
        let config = SyntheticConfig::parse("toy", text, &[]).unwrap();
        let synthetic = Synthetic::new(config, &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
        let sample = synthetic.sample(100, &mut ChaCha8Rng::seed_from_u64(1));
        let (n, d) = (synthetic.directions().len(), synthetic.d_in());
        let mut shuffled = Vec::with_capacity(n * d);
        for j in 0..n {
            // 7 and 1024 have no common factor: each feature comes once.
            let sign = if j % 3 == 0 { -1.0 } else { 1.0 };
            let direction = &synthetic.directions()[(7 * j + 5) % n];
            shuffled.extend(direction.iter().map(|v| (sign * v) as f32));
        }
        let matrix = Tensor::<2>::from_data(TensorData::new(shuffled, [n, d]), &device);
        let coder = SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: false,
            weights: Weights::new([
                ("w_enc", matrix.clone().into()),
                ("b_enc", Tensor::<1>::zeros([n], &device).into()),
                ("w_dec", matrix.into()),
                ("b_dec", Tensor::<1>::zeros([d], &device).into()),
            ]),
        };
        let found = recovery(&synthetic, &sample, &coder, &mut |_| ()).unwrap();
        assert!((found.mcc - 1.0).abs() < 1e-5, "{}", found.mcc);
        assert!((found.uniqueness - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_decoder_of_nan_is_refused() {
        let device = Device::flex();
        let config = SyntheticConfig::parse("toy", "", &[]).unwrap();
        let synthetic = Synthetic::new(config, &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
        let sample = synthetic.sample(1, &mut ChaCha8Rng::seed_from_u64(1));
        let d = synthetic.d_in();
        let matrix = Tensor::<2>::full([2, d], f32::NAN, &device);
        let coder = SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: false,
            weights: Weights::new([
                ("w_enc", matrix.clone().into()),
                ("b_enc", Tensor::<1>::zeros([2], &device).into()),
                ("w_dec", matrix.into()),
                ("b_dec", Tensor::<1>::zeros([d], &device).into()),
            ]),
        };
        let error = recovery(&synthetic, &sample, &coder, &mut |_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cosine of a feature and a decoder row: found NaN, expected a finite number"
        );
    }
}
