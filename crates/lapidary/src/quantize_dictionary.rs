//! A dictionary of any format to one in integers of 8 or 4 bits, and what that changes.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use lapidary_activations::Store;
use lapidary_coder::{AnyCoder, Dictionary, Weight, WeightKey, host};
use lapidary_formats::{Format, QuantizedDictionary, detect, folder_of, quantization};
use lapidary_io::StagedFolder;
use lapidary_quantize::{Bits, Calibration, Granularity};
use serde::Serialize;

use crate::dictionary_folder::check_replacement;
use crate::error::{Result, bail};
use crate::opened::{DictionaryOptions, open_dictionary, place_of_dictionary};
use crate::progress::{Progress, Stage, count};
use crate::quantize_effect::{Effect, measure_effect};
use crate::run_folder::write_json;

/// The report beside a quantized dictionary.
const REPORT: &str = "quantization.json";

/// How [`quantize_dictionary`] works.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Bits per number.
    pub bits: Bits,
    /// How many numbers of a row share a scale; by default all in 8 bits, and 32 in 4 bits.
    pub granularity: Option<Granularity>,
    /// How the range of a group is found.
    pub calibration: Calibration,
    /// A store of activations on which codes and reconstructions are compared.
    pub activations: Option<PathBuf>,
    /// Rows of the store, spread evenly over it; all if it has fewer.
    pub rows: u64,
    /// Replace a dictionary in the output folder.
    pub overwrite: bool,
}

/// What quantization changed, as `quantization.json` has it.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizationReport {
    /// Bits per number.
    pub bits: usize,
    /// Numbers that share a scale; none: all of a row.
    pub group: Option<usize>,
    /// `min-max` or `mse`.
    pub calibration: &'static str,
    /// Bytes of the original's files: those in its folder, or the one file that was given.
    pub bytes_before: u64,
    /// Bytes of the quantized dictionary's files, without the report.
    pub bytes_after: u64,
    /// Encoder rows before and after; none if the architecture has no encoder of its own.
    pub encoder: Option<Cosines>,
    /// Decoder rows before and after.
    pub decoder: Option<Cosines>,
    /// Codes and reconstructions before and after, if there was a store.
    #[serde(flatten)]
    pub effect: Option<Effect>,
    /// Where the original is.
    pub dictionary: String,
    /// The program's version.
    pub lapidary_version: &'static str,
}

/// Cosines between rows before and after, over all rows that are not zero.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cosines {
    /// The mean.
    pub cosine_mean: f64,
    /// The least.
    pub cosine_min: f64,
}

/// Writes the dictionary at `path` to the folder `out` with encoder and decoder rows in integers,
/// and `quantization.json` beside it.
///
/// # Errors
/// The dictionary or the store cannot be read, they do not fit, the dictionary is quantized
/// already, or the folder cannot be written or holds something else.
pub fn quantize_dictionary(
    path: &Path,
    how: DictionaryOptions,
    out: &Path,
    options: &QuantizeOptions,
    device: &Device,
    progress: &dyn Progress,
) -> Result<QuantizationReport> {
    // The folder is this process's from here to the end.
    let staged = StagedFolder::begin(out)?;
    let place = place_of_dictionary(path)?;
    refuse_quantized(&place, how)?;
    let original = open_dictionary(path, how, device)?;
    check_replacement(out, std::slice::from_ref(&place), options.overwrite)?;
    let bits = options.bits;
    let granularity = options.granularity.unwrap_or(match bits {
        Bits::Eight => Granularity::Row,
        Bits::Four => Granularity::Group32,
    });
    let store = options
        .activations
        .as_deref()
        .map(Store::open)
        .transpose()?;

    let stage = Stage::new(progress, "quantize", 1);
    let quantized = QuantizedDictionary::new(&original, bits, granularity, options.calibration)?;
    stage.done(format!("encoder and decoder rows in int{}", bits.count()));
    let rows = options.rows;
    let effect = store
        .map(|store| measure_effect(&original, quantized.dictionary(), &store, rows, progress))
        .transpose()?;

    let bytes_before = bytes_of(&place)?;
    let _lock = quantized.save(staged)?;
    // What was written is read, and its sample compared.
    lapidary_formats::open(out, Some(Format::Quantized), device)?;
    let of = |name| cosines(&original, quantized.dictionary(), name);
    let report = QuantizationReport {
        bits: bits.count(),
        group: granularity.group(),
        calibration: options.calibration.name(),
        bytes_before,
        bytes_after: bytes_of(out)?,
        encoder: of("w_enc")?,
        decoder: of("w_dec")?,
        effect,
        dictionary: path.display().to_string(),
        lapidary_version: env!("CARGO_PKG_VERSION"),
    };
    write_json(&out.join(REPORT), &report)?;
    Ok(report)
}

/// Refuses a dictionary that is in integers: its numbers would be rounded twice.
fn refuse_quantized(place: &Path, how: DictionaryOptions) -> Result<()> {
    let format = match how.format {
        Some(format) => format,
        None => detect(place)?,
    };
    if format != Format::Quantized {
        return Ok(());
    }
    let bits = quantization(place)?.map_or(0, |scheme| scheme.bits.count());
    bail!(
        "{}: found a dictionary that is quantized already (int{bits}), expected one in floating point: quantize the one that it was made of",
        place.display()
    );
}

/// Bytes of a file, or of the files in a dictionary's folder.
fn bytes_of(place: &Path) -> Result<u64> {
    if place.is_file() {
        return Ok(place.metadata()?.len());
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder_of(place)?)? {
        let path = entry?.path();
        if path.is_file() {
            bytes += path.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// Cosines between the rows of the weights of this name; none if there is no such weight, or
/// nothing but zeros.
fn cosines(before: &Dictionary, after: &Dictionary, name: &str) -> Result<Option<Cosines>> {
    let rows = |coder: &AnyCoder| {
        let weights = coder.weights().into_iter();
        let named = weights.filter(|(key, _)| key.name == name);
        named.collect::<Vec<(WeightKey, Weight)>>()
    };
    let (mut sum, mut rows_counted, mut least) = (0.0, 0_u64, 1.0_f64);
    for ((_, before), (_, after)) in rows(&before.coder).iter().zip(&rows(&after.coder)) {
        let (Weight::Matrix(before), Weight::Matrix(after)) = (before, after) else {
            continue;
        };
        let width = before.dims()[1].max(1);
        let (before, after) = (host(before)?, host(after)?);
        for (before, after) in before.chunks(width).zip(after.chunks(width)) {
            if before.iter().all(|x| *x == 0.0) {
                continue;
            }
            let cosine = cosine(before, after);
            sum += cosine;
            rows_counted += 1;
            least = least.min(cosine);
        }
    }
    Ok((rows_counted > 0).then(|| Cosines {
        cosine_mean: sum / rows_counted as f64,
        cosine_min: least,
    }))
}

/// The cosine of two rows; 0 if one is zero.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()).max(f64::MIN_POSITIVE)
}

impl QuantizationReport {
    /// How numbers are kept, in words.
    #[must_use]
    pub fn kind(&self) -> String {
        let shared = match self.group {
            None => "one scale per row".to_owned(),
            Some(group) => format!("one scale per {}", count(group as u64, "value")),
        };
        format!("int{}, {shared}, {}", self.bits, self.calibration)
    }
}
