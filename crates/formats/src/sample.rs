//! A sample beside a dictionary: a few inputs with their codes and reconstructions, by which
//! whoever opens it sees that it was read as it was meant.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{Coder, CoderError, host};
use lapidary_io::IoError;
use lapidary_io::tensors::{TensorWriter, Tensors};
use lapidary_kernels::{MappedFile, SparseCodes};

/// The sample's file. Whoever changes the weights on purpose removes it.
pub const SAMPLE: &str = "lapidary_sample.safetensors";

/// Inputs in a sample: encoder rows added up, each input larger than the one before, since
/// thresholds are not known.
const ROWS: usize = 5;
const LATENTS: usize = 6;
const GROWTH: f32 = 4.0;
/// How far values of a row may lie apart, in the largest of them.
const TOLERANCE: f32 = 1e-3;
/// Latents that may be chosen otherwise, one in so many: a value may lie on a boundary.
const EITHER_WAY: usize = 50;

/// What a coder makes of inputs, on the host.
struct Codes {
    /// Latent and value of each row, values not 0.
    rows: Vec<Vec<(usize, f32)>>,
    reconstruction: Vec<f32>,
}

fn encode(coder: &dyn Coder, x: Tensor<2>) -> Result<(SparseCodes, Codes), CoderError> {
    let codes = coder.encode(x.clone());
    let reconstruction = host(&coder.reconstruct(codes.clone(), x))?;
    let width = codes.values.dims()[1].max(1);
    let values = host(&codes.values)?;
    let indices = codes.indices.clone().into_data().convert::<i64>();
    let indices: Vec<i64> = indices.iter().collect();
    let pairs: Vec<(usize, f32)> = indices
        .into_iter()
        .map(|i| usize::try_from(i).unwrap_or_default())
        .zip(values)
        .collect();
    let rows = pairs
        .chunks(width)
        .map(|row| row.iter().copied().filter(|(_, v)| *v != 0.0).collect());
    let read = Codes {
        rows: rows.collect(),
        reconstruction,
    };
    Ok((codes, read))
}

/// Writes a coder's sample into a folder.
pub(crate) fn write(coder: &dyn Coder, folder: &Path, name: &str) -> Result<(), CoderError> {
    let rows = coder.w_enc();
    // A cross-layer transcoder's rows are as wide as one layer's hook point.
    let (width, w_enc) = (rows.dims()[1], host(&rows)?);
    let (d_in, d_sae) = (coder.d_in(), coder.d_sae());
    let of_layer = d_sae / coder.layers().len().max(1);
    let mut x = Vec::with_capacity(ROWS * d_in);
    let mut scale = 1.0;
    for row in 0..ROWS {
        let mut input = match coder.layers() {
            [only] if only.apply_b_dec_to_input => host(&coder.b_dec())?,
            _ => vec![0.0; d_in],
        };
        for i in 0..LATENTS {
            let latent = (row * LATENTS + i) * 7919 % d_sae; // a prime: latents from everywhere
            let direction = &w_enc[latent * width..][..width];
            let place = &mut input[latent / of_layer.max(1) * width..][..width];
            for (sum, w) in place.iter_mut().zip(direction) {
                *sum += scale * w;
            }
        }
        x.extend(input);
        scale *= GROWTH;
    }
    let input = Tensor::<2>::from_data(TensorData::new(x.clone(), [ROWS, d_in]), &coder.device());
    let (_, codes) = encode(coder, input)?;
    let width = codes.rows.iter().map(Vec::len).max().unwrap_or_default();
    let (mut values, mut indices) = (vec![], vec![]);
    for row in &codes.rows {
        let padding = std::iter::repeat_n((0, 0.0), width - row.len());
        for (latent, value) in row.iter().copied().chain(padding) {
            indices.push(latent as u64);
            values.push(value);
        }
    }
    let mut file = TensorWriter::default();
    file.f32("x", &[ROWS, d_in], &x);
    file.f32("values", &[ROWS, width], &values);
    file.u64("indices", &indices);
    let d_out = coder.d_out();
    file.f32("reconstruction", &[ROWS, d_out], &codes.reconstruction);
    Ok(file.write(&folder.join(name), None)?)
}

/// Checks a coder against the sample in a folder, if there is one.
pub(crate) fn check(coder: &dyn Coder, folder: &Path, name: &str) -> Result<(), CoderError> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(());
    }
    let bytes = MappedFile::open(&path).map_err(IoError::read(&path))?;
    let tensors = Tensors::parse(&path, &bytes)?;
    let (n, width) = match tensors.shape("values").as_deref() {
        Some([n, width]) if (1..=1024).contains(n) => (*n, *width),
        _ => (ROWS, 1),
    };
    let (d_in, d_out) = (coder.d_in(), coder.d_out());
    let x = tensors.f32("x", &[n, d_in])?;
    let values = tensors.f32("values", &[n, width])?;
    let indices = tensors.u64("indices", n * width)?;
    let reconstruction = tensors.f32("reconstruction", &[n, d_out])?;

    let device: Device = coder.device();
    let input = Tensor::<2>::from_data(TensorData::new(x, [n, d_in]), &device);
    let (_, codes) = encode(coder, input)?;
    let wrong = |field: &str, difference: String| CoderError::Invalid {
        place: path.display().to_string(),
        message: format!(
            "{field}: {difference}. Either the dictionary was read wrongly (another --format?), or its weights were changed since; in that case remove this file"
        ),
    };
    let (mut otherwise, mut active) = (0, 0);
    for (row, found) in codes.rows.iter().enumerate() {
        let stored = (row * width..(row + 1) * width)
            .map(|i| (indices[i], values[i]))
            .filter(|(_, v)| *v != 0.0);
        let stored: Vec<(u64, f32)> = stored.collect();
        active += stored.len().max(found.len());
        otherwise += found.len().saturating_sub(stored.len());
        let near = TOLERANCE * largest(stored.iter().map(|(_, v)| *v));
        let mut same = found.len() == stored.len();
        for (latent, value) in &stored {
            match found.iter().find(|(l, _)| *l as u64 == *latent) {
                None => {
                    otherwise += 1;
                    same = false;
                }
                Some((_, v)) if (v - value).abs() > near || v.is_nan() || value.is_nan() => {
                    let difference = format!(
                        "row {row}, latent {latent}: the sample has {value}, the dictionary gives {v}"
                    );
                    return Err(wrong("values", difference));
                }
                Some(_) => {}
            }
        }
        // A latent on the boundary moves the reconstruction by its value.
        let back = &reconstruction[row * d_out..(row + 1) * d_out];
        let ours = &codes.reconstruction[row * d_out..(row + 1) * d_out];
        let apart = largest(ours.iter().zip(back).map(|(a, b)| a - b));
        let size = largest(back.iter().copied());
        if same && apart > TOLERANCE * size {
            let difference = format!(
                "row {row}: the sample and the dictionary differ by {apart}, where values are up to {size}"
            );
            return Err(wrong("reconstruction", difference));
        }
    }
    if otherwise > 1 + active / EITHER_WAY {
        let difference = format!(
            "{otherwise} of {active} active latents differ between the sample and the dictionary"
        );
        return Err(wrong("indices", difference));
    }
    Ok(())
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |most, v| most.max(v.abs()))
}
