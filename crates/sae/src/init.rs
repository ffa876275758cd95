//! Initial weights: decoder rows in random directions, of which the encoder starts as a copy, and the decoder bias at the
//! centre of the data (Gao et al. 2024, appendix A; Bricken et al. 2023 for the geometric median). A transcoder's encoder has
//! directions of its own; its decoder may start at 0, as sparsify's does, and its skip connection always does.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::coder::{SKIP, SparseCoder};
use crate::config::RunConfig;
use crate::ends::Batch;
use crate::error::SaeError;

/// At most this many activations of the first batch decide the geometric median.
const MEDIAN_ROWS: usize = 4096;

/// A coder ready to train. `config` is resolved; `first` decides `b_dec`.
pub(crate) fn coder(
    config: &RunConfig,
    first: &Batch,
    device: &Device,
) -> Result<SparseCoder, SaeError> {
    let d_in = first.x.dims()[1];
    let d_out = first.y.dims()[1];
    let (Some(d_sae), Some(norm)) = (config.coder.d_sae, config.coder.decoder_init_norm) else {
        unreachable!("a resolved recipe has both");
    };
    config.check_memory(d_in, d_out)?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let mut directions = |width, norm: f64| -> Tensor<2> {
        let rows = random_directions(&mut rng, d_sae, width, norm);
        Tensor::from_data(TensorData::new(rows, [d_sae, width]), device) // [d_sae, width]
    };
    let method = config.architecture().method();
    let coder = |weights| SparseCoder {
        architecture: config.architecture(),
        k: config.coder.k,
        apply_b_dec_to_input: config.coder.apply_b_dec_to_input,
        weights,
    };
    if let Some(layers) = config.layers() {
        let each: Vec<SparseCoder> = (0..layers)
            .map(|layer| {
                let w_enc = directions(d_in / layers, 1.0);
                let w_dec = directions(d_out / layers * (layers - layer), norm);
                coder(method.init(w_enc, w_dec, Tensor::zeros([1], device), config))
            })
            .collect();
        return Ok(SparseCoder::of_layers(
            &each,
            centre(config, first, device)?,
        ));
    }
    let (w_enc, w_dec) = if config.transcodes() {
        (directions(d_in, 1.0), directions(d_out, norm))
    } else {
        let w_dec = directions(d_out, norm);
        (w_dec.clone(), w_dec)
    };
    let b_dec = centre(config, first, device)?;
    let mut weights = method.init(w_enc, w_dec, b_dec, config);
    if config.coder.skip_connection {
        weights = weights.with(SKIP, Tensor::<2>::zeros([d_out, d_in], device));
    }
    Ok(coder(weights))
}

/// Where `b_dec` starts, `[d_out]`.
fn centre(config: &RunConfig, first: &Batch, device: &Device) -> Result<Tensor<1>, SaeError> {
    let [n, d_out] = first.y.dims();
    let b_dec = if config.coder.b_dec_init == "zeros" {
        vec![0.0; d_out]
    } else {
        let rows = first
            .y
            .clone()
            .try_into_vec_as::<f32>()
            .map_err(|e| SaeError::Device {
                what: "the first batch",
                message: format!("{e:?}"),
            })?;
        if config.coder.b_dec_init == "mean" {
            mean(&rows, d_out)
        } else {
            geometric_median(&rows[..n.min(MEDIAN_ROWS) * d_out], d_out)
        }
    };
    Ok(Tensor::from_data(TensorData::new(b_dec, [d_out]), device))
}

/// `rows` independent directions, uniform on the sphere of radius `norm`, row by row.
pub(crate) fn random_directions(
    rng: &mut ChaCha8Rng,
    rows: usize,
    width: usize,
    norm: f64,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * width);
    let mut row = vec![0.0f64; width];
    for _ in 0..rows {
        for pair in row.chunks_mut(2) {
            // Box and Muller: two uniform numbers make two Gaussian ones.
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let angle = std::f64::consts::TAU * rng.random::<f64>();
            pair[0] = radius * angle.cos();
            if let Some(second) = pair.get_mut(1) {
                *second = radius * angle.sin();
            }
        }
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-300);
        out.extend(row.iter().map(|v| (v / length * norm) as f32)); // zeros for norm 0
    }
    out
}

/// Mean of the rows of `data` `[n, width]`.
pub(crate) fn mean(data: &[f32], width: usize) -> Vec<f32> {
    let n = (data.len() / width).max(1) as f64;
    let mut sum = vec![0.0f64; width];
    for row in data.chunks_exact(width) {
        for (s, v) in sum.iter_mut().zip(row) {
            *s += f64::from(*v);
        }
    }
    sum.iter().map(|s| (s / n) as f32).collect()
}

/// The point with the least sum of distances to the rows of `data` `[n, width]`, by Weiszfeld's iteration.
///
/// Unlike the mean, a few enormous rows don't move it.
pub(crate) fn geometric_median(data: &[f32], width: usize) -> Vec<f32> {
    let mut point: Vec<f64> = mean(data, width).into_iter().map(f64::from).collect();
    for _ in 0..100 {
        let mut weighted = vec![0.0f64; width];
        let mut weights = 0.0f64;
        for row in data.chunks_exact(width) {
            let squared: f64 = row
                .iter()
                .zip(&point)
                .map(|(v, p)| (f64::from(*v) - p).powi(2))
                .sum();
            // A row under the point itself would get infinite weight; the floor only bounds it.
            let weight = 1.0 / squared.sqrt().max(1e-9);
            weights += weight;
            for (s, v) in weighted.iter_mut().zip(row) {
                *s += weight * f64::from(*v);
            }
        }
        if weights == 0.0 {
            break;
        }
        let mut moved = 0.0f64;
        let mut size = 0.0f64;
        for (p, s) in point.iter_mut().zip(&weighted) {
            let next = s / weights;
            moved += (next - *p).powi(2);
            size += next * next;
            *p = next;
        }
        if moved <= 1e-12 * size {
            break;
        }
    }
    point.into_iter().map(|p| p as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_have_the_norm_and_the_seed_decides_them() {
        let draw = |seed| random_directions(&mut ChaCha8Rng::seed_from_u64(seed), 50, 7, 0.1);
        let rows = draw(1);
        assert_eq!(rows, draw(1));
        assert_ne!(rows, draw(2));
        for row in rows.chunks(7) {
            let norm: f32 = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((norm - 0.1).abs() < 1e-6);
        }
    }

    #[test]
    fn the_median_of_a_symmetric_cross_is_its_centre_whatever_one_outlier_does() {
        // Fermat point of a square's corners is where its diagonals cross.
        let square = [0.0f32, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0];
        let m = geometric_median(&square, 2);
        assert!((m[0] - 1.0).abs() < 1e-4 && (m[1] - 1.0).abs() < 1e-4);
        // Three points in a triangle with an angle above 120 degrees: the median is that vertex.
        let flat = [0.0f32, 0.0, 10.0, 1.0, -10.0, 1.0];
        let m = geometric_median(&flat, 2);
        assert!(m[0].abs() < 1e-3 && m[1].abs() < 2e-2, "{m:?}");
        let mut cloud = vec![1.0f32; 99];
        cloud.push(1e6);
        assert!((geometric_median(&cloud, 1)[0] - 1.0).abs() < 1e-3);
        assert!(mean(&cloud, 1)[0] > 1e4);
    }
}
