//! A coder's numbers on the host, between a file and a [`SparseCoder`].

use burn::tensor::Device;
use lapidary_coder::{
    Architecture, Coder, CoderError, SparseCoder, Weight, Weights, host, matrix, vector,
};
use lapidary_io::tensors::{Tensors, transpose};

/// A coder's numbers; latents are rows.
pub(crate) struct Parts {
    pub(crate) architecture: Architecture,
    /// Whether `b_dec` is subtracted before encoding.
    pub(crate) apply_b_dec_to_input: bool,
    /// `[d_sae, d_in]`; none for matching pursuit.
    pub(crate) w_enc: Vec<f32>,
    /// `[d_sae, d_out]`
    pub(crate) w_dec: Vec<f32>,
    /// `[d_out]`
    pub(crate) b_dec: Vec<f32>,
    /// The skip connection, `[d_out, d_in]`, if there is one.
    pub(crate) w_skip: Option<Vec<f32>>,
    /// One number a latent, under our names.
    pub(crate) vectors: Vec<(&'static str, Vec<f32>)>,
}

impl Parts {
    /// Those of a coder.
    pub(crate) fn of(coder: &SparseCoder) -> Result<Self, CoderError> {
        let mut vectors = vec![];
        for (name, weight) in coder.weights.iter() {
            if let Weight::Vector(t) = weight
                && name != "b_dec"
            {
                vectors.push((name, host(t)?));
            }
        }
        let w_enc = match coder.weights.matrix("w_enc") {
            Some(t) => host(t)?,
            None => vec![],
        };
        let w_skip = match coder.w_skip() {
            Some(t) => Some(host(&t)?),
            None => None,
        };
        Ok(Self {
            architecture: coder.architecture,
            apply_b_dec_to_input: coder.apply_b_dec_to_input,
            w_enc,
            w_dec: host(&coder.w_dec())?,
            b_dec: host(&coder.b_dec())?,
            w_skip,
            vectors,
        })
    }

    pub(crate) fn d_in(&self) -> usize {
        match self.w_enc.len() {
            0 => self.d_out(),
            n => n / self.d_sae(),
        }
    }

    pub(crate) fn d_out(&self) -> usize {
        self.b_dec.len()
    }

    pub(crate) fn d_sae(&self) -> usize {
        self.w_dec.len() / self.d_out()
    }

    /// The vector of this name, which the architecture has.
    pub(crate) fn vector(&self, name: &str) -> Vec<f32> {
        let found = self.vectors.iter().find(|(n, _)| *n == name);
        found.map(|(_, v)| v.clone()).unwrap_or_default()
    }

    /// The coder on a device.
    pub(crate) fn coder(self, device: &Device) -> SparseCoder {
        let (d_in, d_out, d_sae) = (self.d_in(), self.d_out(), self.d_sae());
        let mut weights =
            Weights::default().with("w_enc", matrix(self.w_enc, [d_sae, d_in], device));
        for (name, values) in self.vectors {
            weights = weights.with(name, vector(values, device));
        }
        weights = weights
            .with("w_dec", matrix(self.w_dec, [d_sae, d_out], device))
            .with("b_dec", vector(self.b_dec, device));
        if let Some(values) = self.w_skip {
            weights = weights.with("w_skip", matrix(values, [d_out, d_in], device));
        }
        SparseCoder {
            architecture: self.architecture,
            apply_b_dec_to_input: self.apply_b_dec_to_input,
            weights,
        }
    }

    /// The same function with `b_dec` subtracted before encoding, or not: biases take over ⟨row of
    /// `w_enc`, `b_dec`⟩. Of an autoencoder.
    pub(crate) fn subtracting(mut self, subtract: bool) -> Self {
        if self.apply_b_dec_to_input == subtract {
            return self;
        }
        let sign = if subtract { 1.0 } else { -1.0 };
        let d_in = self.d_in();
        let shift: Vec<f64> = self
            .w_enc
            .chunks_exact(d_in)
            .map(|row| sign * dot(row, &self.b_dec))
            .collect();
        let steep: Vec<f64> = match self.vector("r_mag")[..] {
            [] => vec![1.0; shift.len()],
            ref r_mag => r_mag.iter().map(|r| f64::from(*r).exp()).collect(),
        };
        for (name, values) in &mut self.vectors {
            let steep = match *name {
                "b_enc" | "b_gate" => None,
                "b_mag" => Some(&steep),
                _ => continue,
            };
            for (i, value) in values.iter_mut().enumerate() {
                *value = (f64::from(*value) + shift[i] * steep.map_or(1.0, |s| s[i])) as f32;
            }
        }
        self.apply_b_dec_to_input = subtract;
        self
    }

    /// Norms of the decoder's rows.
    pub(crate) fn decoder_norms(&self) -> Vec<f64> {
        let rows = self.w_dec.chunks_exact(self.d_out());
        rows.map(|row| dot(row, row).sqrt()).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum()
}

/// How a file lays out a matrix of one row per latent.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Latents {
    /// `[d_sae, d]`
    Rows,
    /// `[d, d_sae]`
    Columns,
}

/// A matrix of `d_sae` latents and `d` dimensions, latents as rows.
pub(crate) fn latents(
    tensors: &Tensors<'_>,
    name: &str,
    [d_sae, d]: [usize; 2],
    lie: Latents,
) -> Result<Vec<f32>, CoderError> {
    match lie {
        Latents::Rows => Ok(tensors.f32(name, &[d_sae, d])?),
        Latents::Columns => Ok(transpose(&tensors.f32(name, &[d, d_sae])?, d, d_sae)),
    }
}

/// `d_sae` and `d` by the shape of a matrix that `lie`s so, for formats whose configuration does
/// not say. Which of the two sizes is which, the format says, not the numbers.
pub(crate) fn sizes(
    tensors: &Tensors<'_>,
    name: &str,
    lie: Latents,
) -> Result<[usize; 2], CoderError> {
    match tensors.shape(name).as_deref() {
        Some([rows, columns]) if rows * columns > 0 => Ok(match lie {
            Latents::Rows => [*rows, *columns],
            Latents::Columns => [*columns, *rows],
        }),
        Some(other) => Err(CoderError::format(
            tensors.path(),
            format!("tensor `{name}`"),
            format!("shape {other:?}"),
            "a matrix",
        )),
        None => {
            let names: Vec<&str> = tensors.names().take(12).collect();
            Err(CoderError::format(
                tensors.path(),
                format!("tensor `{name}`"),
                format!("only [{}]", names.join(", ")),
                format!("a matrix {name}"),
            ))
        }
    }
}

/// Thresholds of a JumpReLU: below 0 they mean 0, and infinite ones a latent that never fires.
pub(crate) fn thresholds(
    tensors: &Tensors<'_>,
    name: &str,
    d_sae: usize,
) -> Result<Vec<f32>, CoderError> {
    let read = tensors.f32_or_infinite(name, &[d_sae])?;
    Ok(read.into_iter().map(|t| t.max(0.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Tensor, TensorData};

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i * 37 + seed * 11) % 64) as f32 / 32.0 - 1.0)
            .collect()
    }

    fn parts(architecture: Architecture) -> Parts {
        let (d_in, d_sae) = (5, 9);
        let vectors = match architecture {
            Architecture::Gated => vec![
                ("b_gate", numbers(d_sae, 2)),
                ("b_mag", numbers(d_sae, 5)),
                ("r_mag", numbers(d_sae, 6)),
            ],
            _ => vec![("b_enc", numbers(d_sae, 2))],
        };
        Parts {
            architecture,
            apply_b_dec_to_input: true,
            w_enc: numbers(d_sae * d_in, 1),
            w_dec: numbers(d_sae * d_in, 3),
            b_dec: numbers(d_in, 4),
            w_skip: None,
            vectors,
        }
    }

    #[test]
    fn a_bias_takes_over_what_is_subtracted() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data(TensorData::new(numbers(35, 8), [7, 5]), &device);
        for architecture in [
            Architecture::Standard,
            Architecture::TopK { k: 3 },
            Architecture::Gated,
        ] {
            let codes = |p: Parts| {
                let codes = p.coder(&device).encode(x.clone());
                (
                    codes.values.try_into_vec_as::<f32>().unwrap(),
                    codes.indices.try_into_vec_as::<i32>().unwrap(),
                )
            };
            let before = codes(parts(architecture));
            let other = parts(architecture).subtracting(false);
            assert!(!other.apply_b_dec_to_input);
            let changed = parts(architecture).vectors != other.vectors;
            assert!(changed);
            let after = codes(other);
            assert_eq!(before.1, after.1);
            for (a, b) in before.0.iter().zip(&after.0) {
                assert!((a - b).abs() < 1e-5);
            }
            let back = parts(architecture).subtracting(false).subtracting(true);
            for ((_, a), (_, b)) in back.vectors.iter().zip(&parts(architecture).vectors) {
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        }
    }
}
