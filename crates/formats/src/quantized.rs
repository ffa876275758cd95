//! Our format of quantized dictionaries: `cfg.json` as in the format `saelens`, with what
//! [`KEY`] holds, and [`WEIGHTS`]. There each of `W_enc` and `W_dec`, one row per latent, is two
//! tensors: `W_enc.quantized`, I8 `[rows, columns]` or U8 `[rows, columns / 2]` of two integers of
//! 4 bits each, and `W_enc.scale`, F32 `[rows, groups]`. All other weights are F32. A dictionary is
//! dequantized when it is read.

use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{
    AnyCoder, Coder, CoderError, Description, Dictionary, Weight, WeightKey, host, matrix, vector,
    write_tensor,
};
use lapidary_io::tensors::{Bytes, TensorWriter, Tensors};
use lapidary_io::{Fields, FolderLock, StagedFolder, fill_folder, write_synced};
use lapidary_kernels::MappedFile;
use lapidary_quantize::{
    Bits, Calibration, Granularity, QuantizeError, QuantizedMatrix, Scheme, Symmetry,
};
use serde_json::json;

use crate::error::FormatError;
use crate::layout::Layout;
use crate::only_ours;
use crate::place::Place;
use crate::saelens::{
    CONFIG, Plan, QUANTIZATION as KEY, QUANTIZED_WEIGHTS as WEIGHTS, cfg, stored_name,
};
use crate::sample::{self, SAMPLE};

/// What the command writes beside the dictionary.
pub(crate) const REPORT: &str = "quantization.json";
/// Version of what is under [`KEY`] and of the tensors.
const FORMAT_VERSION: usize = 1;
/// The weights that are quantized: those with a row per latent.
const BY_LATENT: [&str; 2] = ["w_enc", "w_dec"];

pub(crate) struct Quantized;

impl Layout for Quantized {
    fn name(&self) -> &'static str {
        "quantized"
    }

    fn signature(&self) -> &'static str {
        "cfg.json with quantized_weights.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        if !place.has(CONFIG) {
            return Ok(None);
        }
        if place.means(WEIGHTS) {
            return Ok(Some(self.signature().into()));
        }
        if !place.means(CONFIG) {
            return Ok(None);
        }
        let cfg = Fields::read(&place.join(CONFIG))?;
        Ok(cfg.has(KEY).then(|| format!("cfg.json with {KEY}")))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        place.has_all(&[CONFIG, WEIGHTS])?;
        Ok(read(&place.folder, device)?)
    }

    fn describe(&self, place: &Place) -> Result<Option<Description>, FormatError> {
        place.has_all(&[CONFIG, WEIGHTS])?;
        Ok(Some(describe(&place.folder)?))
    }

    fn cannot_hold(&self, _dictionary: &Dictionary) -> Option<String> {
        Some("numbers in f32: the command quantize writes it".into())
    }
}

/// How the dictionary there is quantized.
pub(crate) fn scheme_at(place: &Place) -> Result<Scheme, FormatError> {
    place.has_all(&[CONFIG, WEIGHTS])?;
    Ok(scheme(&Fields::read(&place.join(CONFIG))?)?)
}

/// A dictionary whose encoder and decoder rows are integers.
pub struct QuantizedDictionary {
    dictionary: Dictionary,
    scheme: Scheme,
    /// The quantized ones among the weights.
    matrices: Vec<(WeightKey, QuantizedMatrix)>,
}

impl QuantizedDictionary {
    /// Quantizes the encoder and decoder rows of a dictionary in symmetric integers.
    ///
    /// # Errors
    /// A weight is not finite, or the device does not return it.
    pub fn new(
        original: &Dictionary,
        bits: Bits,
        granularity: Granularity,
        calibration: Calibration,
    ) -> Result<Self, FormatError> {
        let scheme = Scheme {
            bits,
            symmetry: Symmetry::Symmetric,
            granularity,
            calibration,
        };
        let coder = &original.coder;
        let (mut weights, mut matrices) = (vec![], vec![]);
        for (key, weight) in coder.weights() {
            let weight = match weight {
                Weight::Matrix(rows) if BY_LATENT.contains(&key.name) => {
                    let shape = rows.dims();
                    let quantized = QuantizedMatrix::quantize(&host(&rows)?, shape, scheme);
                    let quantized = quantized.map_err(|error| CoderError::Invalid {
                        place: format!("weight `{}`", stored_name(key)),
                        message: error.to_string(),
                    })?;
                    let rows = matrix(quantized.dequantize(), shape, &coder.device());
                    matrices.push((key, quantized));
                    rows.into()
                }
                other => other,
            };
            weights.push((key, weight));
        }
        let subtracts = coder.layers()[0].apply_b_dec_to_input;
        Ok(Self {
            dictionary: Dictionary {
                coder: AnyCoder::of_weights(coder.architecture(), subtracts, weights),
                provenance: original.provenance.clone(),
            },
            scheme,
            matrices,
        })
    }

    /// The dictionary as it is when it is read.
    #[must_use]
    pub const fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// Writes a folder that was begun, with a [`SAMPLE`]. Gives the lock of the finished folder.
    ///
    /// # Errors
    /// The folder cannot be written, or something stands there that is no dictionary.
    pub fn save(&self, staged: StagedFolder) -> Result<FolderLock, FormatError> {
        let architecture = self.dictionary.coder.architecture();
        if let Some(why) = architecture.kind().not_stored() {
            return Err(FormatError::CannotHold {
                path: staged.target().into(),
                format: Quantized.name(),
                what: format!("it as it is: {why}"),
            });
        }
        only_ours(staged.target())?;
        let lock = fill_folder(staged, |folder| -> Result<(), CoderError> {
            self.write(folder)?;
            sample::write(&self.dictionary.coder, folder, SAMPLE)
        })?;
        Ok(lock)
    }

    fn write(&self, folder: &Path) -> Result<(), CoderError> {
        let mut file = TensorWriter::default();
        for (key, weight) in self.dictionary.coder.weights() {
            let name = stored_name(key);
            let quantized = self.matrices.iter().find(|(of, _)| *of == key);
            match (quantized, weight) {
                (Some((_, quantized)), _) => {
                    let stored = Stored::new(key, quantized.shape(), self.scheme);
                    let [codes, scales] = stored.shapes;
                    file.bytes(&stored.codes, &codes, stored.kind, quantized.codes());
                    file.f32(&stored.scales, &scales, quantized.scales());
                }
                (None, Weight::Matrix(t)) => write_tensor(&mut file, &name, &t)?,
                (None, Weight::Vector(t)) => write_tensor(&mut file, &name, &t)?,
            }
        }
        let mut cfg = cfg(&self.dictionary);
        cfg[KEY] = json!({
            "format_version": FORMAT_VERSION,
            "bits": self.scheme.bits.count(),
            "scheme": "symmetric",
            "group": self.scheme.granularity.group(),
            "calibration": self.scheme.calibration.name(),
        });
        let text = format!("{cfg:#}");
        file.write(&folder.join(WEIGHTS), None)?;
        write_synced(&folder.join(CONFIG), text.as_bytes())
            .map_err(|e| CoderError::write(folder, e))
    }
}

/// The two tensors of a quantized matrix.
struct Stored {
    codes: String,
    scales: String,
    /// Of the integers, and of the scales.
    shapes: [[usize; 2]; 2],
    kind: Bytes,
}

impl Stored {
    fn new(key: WeightKey, [rows, columns]: [usize; 2], scheme: Scheme) -> Self {
        let name = stored_name(key);
        Self {
            codes: format!("{name}.quantized"),
            scales: format!("{name}.scale"),
            shapes: [
                [rows, scheme.bits.row_bytes(columns)],
                [rows, scheme.granularity.groups(columns)],
            ],
            kind: match scheme.bits {
                Bits::Eight => Bytes::Signed,
                Bits::Four => Bytes::Unsigned,
            },
        }
    }
}

/// What the configuration says of the integers.
fn scheme(cfg: &Fields) -> Result<Scheme, CoderError> {
    if !cfg.has(KEY) {
        return Err(cfg.wrong(KEY, "an object").into());
    }
    let said = cfg.inner(KEY)?;
    if said.size("format_version")? != FORMAT_VERSION {
        let expected = format!("{FORMAT_VERSION}, the only version that is known here");
        return Err(said.wrong("format_version", &expected).into());
    }
    if said.text("scheme") != Some("symmetric") {
        return Err(said.wrong("scheme", "\"symmetric\"").into());
    }
    let bits = Bits::new(said.size("bits")?).ok_or_else(|| said.wrong("bits", "8 or 4"))?;
    let group = said.has("group").then(|| said.size("group")).transpose()?;
    let granularity =
        Granularity::new(group).ok_or_else(|| said.wrong("group", "null, 32, 64 or 128"))?;
    let calibration = said.text("calibration").and_then(Calibration::of_name);
    let calibration =
        calibration.ok_or_else(|| said.wrong("calibration", "\"min-max\" or \"mse\""))?;
    Ok(Scheme {
        bits,
        symmetry: Symmetry::Symmetric,
        granularity,
        calibration,
    })
}

/// What the folder says of its dictionary, and how it is quantized. Of the tensors, names and
/// shapes are checked: all that a coder has, and no other.
fn plan(folder: &Path, tensors: &Tensors<'_>) -> Result<(Plan, Scheme), CoderError> {
    let plan = Plan::read(folder)?;
    let scheme = scheme(plan.cfg())?;
    let mut known = vec![];
    for (key, shape) in &plan.shapes {
        match by_latent(*key, shape) {
            Some(shape) => {
                let stored = Stored::new(*key, shape, scheme);
                tensors.check(&stored.codes, &stored.shapes[0])?;
                tensors.check(&stored.scales, &stored.shapes[1])?;
                known.extend([stored.codes, stored.scales]);
            }
            None => {
                let name = stored_name(*key);
                tensors.check(&name, shape)?;
                known.push(name);
            }
        }
    }
    tensors.only(&known.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok((plan, scheme))
}

/// The shape of a weight that is quantized.
fn by_latent(key: WeightKey, shape: &[usize]) -> Option<[usize; 2]> {
    let shape = <[usize; 2]>::try_from(shape).ok()?;
    BY_LATENT.contains(&key.name).then_some(shape)
}

fn describe(folder: &Path) -> Result<Description, CoderError> {
    let path = folder.join(WEIGHTS);
    let bytes = MappedFile::open(&path).map_err(|e| CoderError::read(&path, e))?;
    let (plan, _) = plan(folder, &Tensors::parse(&path, &bytes)?)?;
    plan.described()
}

fn read(folder: &Path, device: &Device) -> Result<Dictionary, CoderError> {
    let path = folder.join(WEIGHTS);
    let bytes = MappedFile::open(&path).map_err(|e| CoderError::read(&path, e))?;
    let tensors = Tensors::parse(&path, &bytes)?;
    let (plan, scheme) = plan(folder, &tensors)?;
    let weight = |(key, shape): &(WeightKey, Vec<usize>)| {
        let name = stored_name(*key);
        let weight: Weight = match (by_latent(*key, shape), &shape[..]) {
            (Some(shape), _) => {
                let stored = Stored::new(*key, shape, scheme);
                matrix(
                    dequantized(&tensors, &stored, shape, scheme)?,
                    shape,
                    device,
                )
                .into()
            }
            (None, [rows, columns]) => {
                matrix(tensors.f32(&name, shape)?, [*rows, *columns], device).into()
            }
            // Infinite where a latent never fires.
            (None, _) if key.name == "threshold" => {
                vector(tensors.f32_or_infinite(&name, shape)?, device).into()
            }
            (None, _) => vector(tensors.f32(&name, shape)?, device).into(),
        };
        Ok::<_, CoderError>((*key, weight))
    };
    let weights = plan.shapes.iter().map(weight).collect::<Result<_, _>>()?;
    plan.dictionary(weights)
}

/// The numbers of a quantized matrix.
fn dequantized(
    tensors: &Tensors<'_>,
    stored: &Stored,
    shape: [usize; 2],
    scheme: Scheme,
) -> Result<Vec<f32>, CoderError> {
    let codes = tensors.bytes_of(&stored.codes, &stored.shapes[0], stored.kind)?;
    let scales = tensors.f32(&stored.scales, &stored.shapes[1])?;
    let quantized = QuantizedMatrix::from_parts(scheme, shape, codes, scales, vec![]);
    let quantized = quantized.map_err(|error| {
        let name = match error {
            QuantizeError::Scale { .. } => &stored.scales,
            _ => &stored.codes,
        };
        CoderError::Invalid {
            place: format!("{}: tensor `{name}`", tensors.path().display()),
            message: error.to_string(),
        }
    })?;
    Ok(quantized.dequantize())
}
