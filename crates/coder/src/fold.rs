//! A coder for raw activations out of one for normalized ones.

use crate::error::CoderError;
use crate::host::{host, matrix, vector};
use crate::scaling::Scaling;
use crate::weights::{SKIP, Weight, Weights};

/// Weights for normalized activations, and how these were normalized.
pub(crate) struct Normalized<'a> {
    pub(crate) weights: &'a Weights,
    /// Whether `b_dec` is subtracted before encoding.
    pub(crate) apply_b_dec_to_input: bool,
    pub(crate) scaling: &'a Scaling,
}

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

/// A coder for raw activations that does what `coder` does for normalized ones, x' = (x − m) r and
/// y' = (y − n) s of what it reads and reconstructs, dimension by dimension. Its codes are those of
/// `coder` divided by u, the s of the first dimension: with one s decoder rows stay as they are.
///
/// pre' = W (x' − b_dec) + b_enc with one end (r = s), so pre' / u = W r/u (x − m − b_dec / r) +
/// b_enc / u; with two pre' / u = W r/u (x − m) + b_enc / u. Hence b_dec becomes n + b_dec / s,
/// less what the skip connection makes of m; a column of W is multiplied with r / u, one of the
/// decoder with u / s, an entry of the skip connection with r / s, b_enc becomes b_enc / u (less W
/// m if b_dec is not subtracted). Whatever else is a number a latent is a pre-activation, and
/// divided by u.
pub(crate) fn fold(normalized: &Normalized<'_>, how: Fold<'_>) -> Result<Weights, CoderError> {
    let Normalized {
        weights: before,
        apply_b_dec_to_input,
        scaling,
    } = *normalized;
    let device = before.device();
    let d_sae = before.latents();
    let (d_in, d_out) = (before.encoder().dims()[1], before.decoder().dims()[1]);
    let (mean, mean_written) = (scaling.mean_read(), scaling.mean_written());
    for (mean, width) in [(&mean, d_in), (&mean_written, d_out)] {
        if mean.len() != width {
            return Err(CoderError::Shape {
                what: "length of the normalization's mean",
                found: mean.len(),
                expected: width,
            });
        }
    }
    let (read, written, scale) = (
        scaling.scale_read(),
        scaling.scale_written(),
        scaling.unit(),
    );
    let scaled = |mut values: Vec<f32>, factors: &[f64]| -> Vec<f32> {
        for row in values.chunks_exact_mut(factors.len()) {
            for (v, factor) in row.iter_mut().zip(factors) {
                *v = (f64::from(*v) * factor) as f32;
            }
        }
        values
    };
    let product = |row: &[f32]| -> f64 {
        let terms = row.iter().zip(&mean);
        terms.map(|(w, m)| f64::from(*w) * f64::from(*m)).sum()
    };
    let by_unit: Vec<f64> = read.iter().map(|r| r / scale).collect();
    let of_unit: Vec<f64> = written.iter().map(|s| scale / s).collect();
    let mut w_enc = scaled(host(&before.encoder())?, &by_unit);
    let mut w_dec = scaled(host(&before.decoder())?, &of_unit);
    let mut w_skip = before.matrix(SKIP).map(host).transpose()?;
    for (row, s) in w_skip
        .iter_mut()
        .flat_map(|w| w.chunks_exact_mut(d_in))
        .zip(&written)
    {
        for (w, r) in row.iter_mut().zip(&read) {
            *w = (f64::from(*w) * (r / s)) as f32;
        }
    }
    let offsets = mean_written.iter().zip(&written);
    let mut b_dec: Vec<f64> = host(&before.the_vector("b_dec"))?
        .iter()
        .zip(offsets)
        .map(|(b, (m, s))| f64::from(*m) + f64::from(*b) / s)
        .collect();
    if let Some(w_skip) = &w_skip {
        for (b, row) in b_dec.iter_mut().zip(w_skip.chunks_exact(d_in)) {
            *b -= product(row);
        }
    }
    let mut vectors: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for (name, weight) in before.iter() {
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
    if !apply_b_dec_to_input {
        for (_, b_enc) in vectors.iter_mut().filter(|(name, _)| *name == "b_enc") {
            for (b, row) in b_enc.iter_mut().zip(w_enc.chunks_exact(d_in)) {
                *b -= product(row);
            }
        }
    }
    if how.unit_rows {
        let rows = w_dec
            .chunks_exact_mut(d_out)
            .zip(w_enc.chunks_exact_mut(d_in));
        for (latent, (decoder, encoder)) in rows.enumerate() {
            let square: f64 = decoder.iter().map(|w| f64::from(*w).powi(2)).sum();
            let norm = square.sqrt();
            if norm == 0.0 {
                continue;
            }
            for w in decoder {
                *w = (f64::from(*w) / norm) as f32;
            }
            for w in encoder {
                *w = (f64::from(*w) * norm) as f32;
            }
            for (name, values) in &mut vectors {
                if !how.factors.contains(name) {
                    values[latent] *= norm;
                }
            }
        }
    }
    let rounded = |v: Vec<f64>| {
        let values = v.into_iter().map(|v| v as f32);
        vector(values.collect(), &device)
    };
    let mut weights = Weights::default()
        .with("w_enc", matrix(w_enc, [d_sae, d_in], &device))
        .with("w_dec", matrix(w_dec, [d_sae, d_out], &device))
        .with("b_dec", rounded(b_dec));
    if let Some(w_skip) = w_skip {
        weights = weights.with(SKIP, matrix(w_skip, [d_out, d_in], &device));
    }
    for (name, values) in vectors {
        weights = weights.with(name, rounded(values));
    }
    Ok(weights)
}
