//! A coder for raw activations out of one for normalized ones.

use burn::tensor::{Tensor, TensorData};
use lapidary_activations::Normalization;

use crate::coder::{SparseCoder, Weight, Weights};
use crate::error::SaeError;
use crate::tensors::host;

/// What folding does beyond the normalization.
pub(crate) struct Fold<'a> {
    /// Whether decoder rows are scaled to norm 1, encoder rows taking over the factor.
    pub(crate) unit_rows: bool,
    /// A threshold, in normalized activations, that all latents get.
    pub(crate) threshold: Option<f64>,
    /// Vectors that are factors: without the unit of the activations.
    pub(crate) factors: &'a [&'a str],
}

impl Default for Fold<'_> {
    fn default() -> Self {
        Self {
            unit_rows: true,
            threshold: None,
            factors: &[],
        }
    }
}

/// A coder for raw `x` that does what `coder` does for `x' = (x - mean) * scale`, codes and reconstruction divided by
/// `scale`.
///
/// With r = scale, a = a' / r: pre' = (x' - b_dec) W + b_enc = r [ (x - mean - b_dec / r) W + b_enc / r ], hence
/// b_dec becomes mean + b_dec / r, b_enc becomes b_enc / r (less mean W if b_dec is not subtracted), W stays. Whatever else is
/// a number a latent is a pre-activation, and divided by r.
pub(crate) fn fold(
    coder: &SparseCoder,
    normalization: &Normalization,
    how: Fold<'_>,
) -> Result<SparseCoder, SaeError> {
    let device = coder.device();
    let (d_in, d_sae) = (coder.d_in(), coder.d_sae());
    if normalization.mean.len() != d_in {
        return Err(SaeError::Shape {
            what: "length of the normalization's mean",
            found: normalization.mean.len(),
            expected: d_in,
        });
    }
    let scale = f64::from(normalization.scale);
    let mut w_enc = host(&coder.w_enc())?;
    let mut w_dec = host(&coder.w_dec())?;
    let b_dec: Vec<f32> = host(&coder.b_dec())?
        .iter()
        .zip(&normalization.mean)
        .map(|(b, m)| (f64::from(*m) + f64::from(*b) / scale) as f32)
        .collect();
    let mut vectors: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for (name, weight) in coder.weights.iter() {
        let Weight::Vector(t) = weight else { continue };
        if name != "b_dec" {
            let divisor = if how.factors.contains(&name) {
                1.0
            } else {
                scale
            };
            let values = host(t)?;
            vectors.push((
                name,
                values.iter().map(|v| f64::from(*v) / divisor).collect(),
            ));
        }
    }
    if let Some(threshold) = how.threshold {
        vectors.push(("threshold", vec![threshold / scale; d_sae]));
    }
    if !coder.apply_b_dec_to_input {
        for (_, b_enc) in vectors.iter_mut().filter(|(name, _)| *name == "b_enc") {
            for (b, row) in b_enc.iter_mut().zip(w_enc.chunks_exact(d_in)) {
                *b -= row
                    .iter()
                    .zip(&normalization.mean)
                    .map(|(w, m)| f64::from(*w) * f64::from(*m))
                    .sum::<f64>();
            }
        }
    }
    if how.unit_rows {
        for latent in 0..d_sae {
            let row = latent * d_in..(latent + 1) * d_in;
            let norm = w_dec[row.clone()]
                .iter()
                .map(|w| f64::from(*w).powi(2))
                .sum::<f64>()
                .sqrt();
            if norm == 0.0 {
                continue;
            }
            for w in &mut w_dec[row.clone()] {
                *w = (f64::from(*w) / norm) as f32;
            }
            for w in &mut w_enc[row] {
                *w = (f64::from(*w) * norm) as f32;
            }
            for (name, values) in &mut vectors {
                if !how.factors.contains(name) {
                    values[latent] *= norm;
                }
            }
        }
    }
    let matrix = |v: Vec<f32>| Tensor::<2>::from_data(TensorData::new(v, [d_sae, d_in]), &device);
    let vector = |v: Vec<f32>| {
        let n = v.len();
        Tensor::<1>::from_data(TensorData::new(v, [n]), &device)
    };
    let mut weights = Weights::default()
        .with("w_enc", matrix(w_enc))
        .with("w_dec", matrix(w_dec))
        .with("b_dec", vector(b_dec));
    for (name, values) in vectors {
        weights = weights.with(name, vector(values.iter().map(|v| *v as f32).collect()));
    }
    Ok(SparseCoder { weights, ..*coder })
}
