//! Initial weights: decoder rows in random directions, which the rows of the encoder share, and the
//! decoder bias at the centre of the data (Gao et al. 2024, appendix A; Bricken et al. 2023 for the
//! geometric median). A transcoder's encoder has directions of its own; its decoder may start at 0,
//! as sparsify's does, and its skip connection always does.

use burn::tensor::{Device, Tensor};
use lapidary_coder::{AnyCoder, CrossLayerTranscoder, SKIP, SparseCoder, host, matrix, vector};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::architectures::{StartContext, method};
use crate::batch::Batch;
use crate::error::SaeError;
use crate::recipe::{DecoderBiasStart, ResolvedRecipe};

/// At most this many activations of the first batch decide the geometric median.
const MEDIAN_ROWS: usize = 4096;

/// A coder ready to train; `first` decides where `b_dec` starts.
pub(crate) fn coder(
    recipe: &ResolvedRecipe,
    first: &Batch,
    device: &Device,
) -> Result<AnyCoder, SaeError> {
    let d_in = first.x.dims()[1];
    let d_out = first.y.dims()[1];
    let (d_sae, norm) = (recipe.coder.d_sae, recipe.coder.decoder_init_norm);
    let encoder_norm = recipe.coder.encoder_init_norm;
    recipe.check_memory(d_in, d_out)?;
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed());
    let mut directions = |width, norm: f64| -> Tensor<2> {
        let rows = random_directions(&mut rng, d_sae, width, norm);
        matrix(rows, [d_sae, width], device)
    };
    let method = method(recipe.coder.architecture);
    let given = StartContext {
        tables: &recipe.architectures,
        target_l0: recipe.coder.target_l0,
    };
    let coder = |weights| SparseCoder {
        architecture: recipe.architecture,
        apply_b_dec_to_input: recipe.coder.apply_b_dec_to_input,
        weights,
    };
    let layers = recipe.sites().layers();
    if layers > 1 {
        let each = (0..layers).map(|layer| {
            let width = d_in / layers;
            let x = first.x.clone().narrow(1, layer * width, width);
            let w_enc = directions(width, encoder_norm);
            let w_dec = directions(d_out / layers * (layers - layer), norm);
            let weights = method.init(
                w_enc,
                w_dec,
                Tensor::zeros([1], device),
                &recipe.architectures,
            );
            method.start(coder(weights), x, &given)
        });
        let each = each.collect();
        return Ok(CrossLayerTranscoder::new(each, centre(recipe, first, device)?).into());
    }
    let (w_enc, w_dec) = if recipe.sites().transcodes() {
        (directions(d_in, encoder_norm), directions(d_out, norm))
    } else {
        let w_dec = directions(d_out, norm);
        let w_enc = match encoder_norm == norm {
            true => w_dec.clone(),
            false => w_dec.clone() * (encoder_norm / norm),
        };
        (w_enc, w_dec)
    };
    let b_dec = centre(recipe, first, device)?;
    let mut weights = method.init(w_enc, w_dec, b_dec, &recipe.architectures);
    if recipe.coder.skip_connection {
        weights = weights.with(SKIP, Tensor::<2>::zeros([d_out, d_in], device));
    }
    Ok(method.start(coder(weights), first.x.clone(), &given).into())
}

/// Where `b_dec` starts, `[d_out]`.
fn centre(recipe: &ResolvedRecipe, first: &Batch, device: &Device) -> Result<Tensor<1>, SaeError> {
    let [n, d_out] = first.y.dims();
    let b_dec = match recipe.coder.b_dec_init {
        DecoderBiasStart::Zeros => vec![0.0; d_out],
        DecoderBiasStart::Mean => mean(&host(&first.y)?, d_out),
        DecoderBiasStart::GeometricMedian => {
            geometric_median(&host(&first.y)?[..n.min(MEDIAN_ROWS) * d_out], d_out)
        }
    };
    Ok(vector(b_dec, device))
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

/// The point with the least sum of distances to the rows of `data` `[n, width]`, by Weiszfeld's
/// iteration.
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
    use crate::recipe::Recipe;
    use burn::tensor::Distribution;
    use lapidary_coder::Coder;

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
    fn encoder_rows_start_along_decoder_rows_with_a_norm_of_their_own() {
        let settings = ["coder.d_sae=8", "coder.k=2"].map(str::to_owned);
        let recipe = Recipe::with_defaults(&settings).unwrap();
        let device = Device::flex();
        let first = Batch::of(Tensor::ones([3, 4], &device));
        let coder = coder(&recipe.resolve(4).unwrap(), &first, &device).unwrap();
        let coder = coder.as_sparse().unwrap();
        let [w_enc, w_dec] = [coder.w_enc(), coder.w_dec()].map(|w| host(&w).unwrap());
        for (e, d) in w_enc.iter().zip(&w_dec) {
            assert!((e - 0.4 * d).abs() < 1e-6, "{e} {d}");
        }
        let norm = w_dec[..4].iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_target_of_a_recipe_decides_how_many_latents_are_active_at_the_start() {
        let device = Device::flex();
        device.seed(3);
        let x = Tensor::random([512, 16], Distribution::Normal(0.0, 1.0), &device);
        let active = |target: &str| {
            let settings = ["coder.architecture=standard", "coder.d_sae=128", target];
            let recipe = Recipe::with_defaults(&settings.map(str::to_owned)).unwrap();
            let first = Batch::of(x.clone());
            let coder = coder(&recipe.resolve(16).unwrap(), &first, &device).unwrap();
            let coder = coder.as_sparse().unwrap();
            let pre = coder.centre(x.clone()).matmul(coder.w_enc().transpose());
            let pre = pre + coder.b_enc().unsqueeze();
            pre.greater_elem(0.0).float().sum().into_scalar::<f32>() / 512.0
        };
        let found = active("coder.target_l0=8");
        assert!((found / 16.0 - 1.0).abs() < 0.1, "{found}");
        let without = active("seed=0");
        assert!((without / 64.0 - 1.0).abs() < 0.1, "{without}");
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
