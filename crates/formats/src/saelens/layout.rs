//! SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`, tensors
//! `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, `b_dec [d_in]` and whatever else an architecture
//! has, under our names. Checked against SAELens 6.54, which reads what is written here without a
//! warning. Transcoders are `transcoder`, `skip_transcoder`, `jumprelu_transcoder` and
//! `jumprelu_skip_transcoder`, with `d_out` and `W_skip [d_out, d_in]`; of other architectures
//! SAELens has none, and what is written here under such names (`topk_transcoder`) it refuses. Flat
//! `cfg.json` files from before version 6 are read too.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{
    AnyCoder, Architecture, ArchitectureKind, Coder, CoderError, Description, Dictionary,
    Provenance, SparseCoder, Weight, WeightKey, Weights, host, matrix, vector, write_tensor,
};
use lapidary_io::tensors::{TensorWriter, Tensors, transpose};
use lapidary_io::{Fields, existing, replace_folder, write_synced};
use lapidary_kernels::MappedFile;

use super::cfg::{Cfg, Kind, cfg};

const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";
/// What is replaced with a dictionary: its files, and the sample beside it.
const OWN_FILES: [&str; 3] = [CONFIG, WEIGHTS, "lapidary_sample.safetensors"];

/// Writes the folder `dir`. All of it stands, or what stood there before.
///
/// # Errors
/// The folder cannot be written, or something stands there that is not a dictionary.
pub fn save(dictionary: &Dictionary, dir: &Path) -> Result<(), CoderError> {
    if let Some(why) = dictionary.coder.architecture().kind().not_stored() {
        return Err(CoderError::Invalid {
            place: dir.display().to_string(),
            message: why.to_owned(),
        });
    }
    only_ours(dir)?;
    let is_ours = |file: &Path| OWN_FILES.iter().any(|name| file == Path::new(name));
    replace_folder(dir, is_ours, |folder| write(dictionary, folder))
}

/// Writes the files that [`save`] writes into `folder`, one by one, for a caller that makes the
/// folder whole.
///
/// # Errors
/// The folder cannot be written.
///
/// # Panics
/// Never: the configuration is made of JSON values.
pub fn write(dictionary: &Dictionary, folder: &Path) -> Result<(), CoderError> {
    let coder = &dictionary.coder;
    let mut weights = TensorWriter::default();
    for (key, weight) in coder.weights() {
        let there = stored_name(key);
        match weight {
            Weight::Matrix(t) if key.name == ENCODER => {
                let [rows, columns] = t.dims();
                let values = transpose(&host(&t)?, rows, columns);
                weights.f32(&there, &[columns, rows], &values);
            }
            Weight::Matrix(t) => write_tensor(&mut weights, &there, &t)?,
            Weight::Vector(t) => write_tensor(&mut weights, &there, &t)?,
        }
    }
    let text = serde_json::to_string_pretty(&cfg(dictionary)).expect("JSON values");
    weights.write(&folder.join(WEIGHTS), None)?;
    write_synced(&folder.join(CONFIG), text.as_bytes()).map_err(|e| CoderError::write(folder, e))
}

/// Refuses a place where anything else than a dictionary in this layout lies: it would be lost.
fn only_ours(dir: &Path) -> Result<(), CoderError> {
    if !dir.exists() {
        return Ok(());
    }
    let expected = "a new folder, an empty one, or an old dictionary to replace";
    if !dir.is_dir() {
        return Err(CoderError::format(dir, "folder", "a file", expected));
    }
    let entries = fs::read_dir(dir).map_err(|e| CoderError::read(dir, e))?;
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(|e| CoderError::read(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !OWN_FILES.contains(&name.as_str()) || !entry.path().is_file() {
            return Err(CoderError::format(
                dir,
                "folder",
                format!("something that is not a dictionary: `{name}`"),
                format!("{expected}: choose another folder, or move that away"),
            ));
        }
        names.push(name);
    }
    match names.is_empty() || names.iter().any(|name| name == CONFIG) {
        true => Ok(()),
        false => Err(CoderError::format(
            dir,
            "folder",
            "something that is not a dictionary (no cfg.json)",
            expected,
        )),
    }
}

/// Tensors that are looked at when they are there: a scale, which must be 1, and thresholds as
/// their logarithms.
const HARMLESS: [&str; 2] = ["scaling_factor", LOG_THRESHOLD];

/// The logarithms of thresholds, in SAELens's training files.
const LOG_THRESHOLD: &str = "log_threshold";

/// The one weight that is transposed in the file.
const ENCODER: &str = "w_enc";

/// `w_enc` is called `W_enc` there; vectors have the same names.
pub(crate) fn stored_name(key: WeightKey) -> String {
    let name = key.to_string();
    let rest = name.strip_prefix("w_").map(|rest| format!("W_{rest}"));
    rest.unwrap_or(name)
}

/// Whether there is a dictionary in `dir`.
#[must_use]
pub fn exists(dir: &Path) -> bool {
    existing(dir, CONFIG).join(CONFIG).exists()
}

/// What a folder says of its dictionary before any weight is read.
pub(crate) struct Plan {
    cfg: Cfg,
    kind: ArchitectureKind,
    apply_b_dec_to_input: bool,
    /// `d_in`, `d_out`, `d_sae`.
    sizes: [usize; 3],
    /// Latents of a layer.
    latents: usize,
    /// The weights, under our names.
    pub(crate) shapes: Vec<(WeightKey, Vec<usize>)>,
    provenance: Provenance,
}

impl Plan {
    pub(crate) fn read(dir: &Path) -> Result<Self, CoderError> {
        let cfg = Cfg::read(dir.join(CONFIG))?;
        let (architecture, kind) = cfg.architecture()?;
        let transcodes = matches!(kind, Kind::Transcoder { .. } | Kind::CrossLayer);
        let (d_in, d_sae) = (cfg.size("d_in")?, cfg.size("d_sae")?);
        let d_out = match transcodes {
            true => cfg.size("d_out")?,
            false => d_in,
        };
        if cfg.only("normalize_activations", &["none"]).is_err() {
            let expected = "\"none\": others scale each token by its own norm, or by a factor that is not in the file";
            return Err(cfg.refuse("normalize_activations", expected));
        }
        cfg.only("reshape_activations", &["none", "hook_z"])?;
        let apply_b_dec_to_input = cfg.flag("apply_b_dec_to_input", !transcodes)?;
        if transcodes && apply_b_dec_to_input {
            return Err(cfg.refuse("apply_b_dec_to_input", "false, for a transcoder"));
        }
        let layers = match kind {
            Kind::CrossLayer => Some(cfg.layers()?.0),
            _ => None,
        };
        let sizes = [d_in, d_out, d_sae];
        let skips = kind == (Kind::Transcoder { skips: true });
        let latents = d_sae / layers.unwrap_or(1);
        if layers.is_some() && architecture.takes_k() {
            cfg.size_up_to("k", latents, "latents of a layer")?;
        }
        let provenance = cfg.provenance(cfg.loading()?, cfg.sites(kind, layers)?);
        Ok(Self {
            kind: architecture,
            apply_b_dec_to_input,
            sizes,
            latents,
            shapes: AnyCoder::shapes(architecture, layers, sizes, skips),
            provenance,
            cfg,
        })
    }

    /// The architecture with its parameters.
    fn architecture(&self) -> Result<Architecture, CoderError> {
        let [d_in, d_out, _] = self.sizes;
        match self.kind {
            ArchitectureKind::TopK => {
                let k = self.cfg.k()?;
                match k <= self.latents {
                    true => Ok(Architecture::TopK { k }),
                    false => {
                        let expected = format!("at most d_sae = {}", self.latents);
                        Err(self.cfg.refuse("k", &expected))
                    }
                }
            }
            kind => Architecture::read_parameters(kind, &self.cfg, [d_in, d_out, self.latents]),
        }
    }

    /// `cfg.json`.
    pub(crate) fn cfg(&self) -> &Fields {
        &self.cfg
    }

    /// What is known of the dictionary before its weights.
    pub(crate) fn described(self) -> Result<Description, CoderError> {
        let [d_in, d_out, d_sae] = self.sizes;
        let takes_k = self.kind == ArchitectureKind::TopK;
        Ok(Description {
            architecture: self.kind,
            k: takes_k.then(|| self.cfg.k()).transpose()?,
            d_in,
            d_out,
            d_sae,
            provenance: self.provenance,
        })
    }

    /// The dictionary of these weights, all that `shapes` lists.
    pub(crate) fn dictionary(
        self,
        weights: Vec<(WeightKey, Weight)>,
    ) -> Result<Dictionary, CoderError> {
        let mut coder =
            AnyCoder::of_weights(self.architecture()?, self.apply_b_dec_to_input, weights);
        if let AnyCoder::Sparse(coder) = &mut coder
            && self.kind == ArchitectureKind::TopK
            && self.cfg.flag("rescale_acts_by_decoder_norm", false)?
        {
            coder.weights = rescaled(coder);
        }
        Ok(Dictionary {
            coder,
            provenance: self.provenance,
        })
    }

    /// Refuses tensors that the coder does not have.
    fn only(&self, tensors: &Tensors<'_>) -> Result<(), CoderError> {
        let names = self.shapes.iter().map(|(key, _)| stored_name(*key));
        let names: Vec<String> = names.collect();
        let known = names.iter().map(String::as_str).chain(HARMLESS);
        Ok(tensors.only(&known.collect::<Vec<_>>())?)
    }
}

/// What the folder `dir` says of its dictionary; of the weights only names, types and shapes are
/// looked at.
///
/// # Errors
/// As [`load`], but for values.
pub fn describe(dir: &Path) -> Result<Description, CoderError> {
    let dir = &existing(dir, CONFIG);
    let plan = Plan::read(dir)?;
    let path = dir.join(WEIGHTS);
    let bytes = MappedFile::open(&path).map_err(|e| CoderError::read(&path, e))?;
    let tensors = Tensors::parse(&path, &bytes)?;
    plan.only(&tensors)?;
    for (key, shape) in &plan.shapes {
        let logs = key.name == "threshold" && !tensors.has(&key.to_string());
        let stored = match logs {
            true => LOG_THRESHOLD.to_owned(),
            false => stored_name(*key),
        };
        match shape[..] {
            [rows, columns] if key.name == ENCODER => tensors.check(&stored, &[columns, rows])?,
            _ => tensors.check(&stored, shape)?,
        }
    }
    plan.described()
}

/// Reads the folder `dir`, in f32, f16 or bf16: whatever [`save`] writes, and SAELens's own.
///
/// # Errors
/// A file is missing, damaged, or says something that this program cannot do exactly.
pub fn load(dir: &Path, device: &Device) -> Result<Dictionary, CoderError> {
    let dir = &existing(dir, CONFIG);
    let plan = Plan::read(dir)?;
    let path = dir.join(WEIGHTS);
    let bytes = MappedFile::open(&path).map_err(|e| CoderError::read(&path, e))?;
    let tensors = Tensors::parse(&path, &bytes)?;
    let read = |(key, shape): &(WeightKey, Vec<usize>)| {
        let stored = stored_name(*key);
        let weight: Weight = match shape[..] {
            [rows, columns] if key.name == ENCODER => {
                let values = tensors.f32(&stored, &[columns, rows])?;
                matrix(transpose(&values, columns, rows), [rows, columns], device).into()
            }
            [rows, columns] => matrix(tensors.f32(&stored, shape)?, [rows, columns], device).into(),
            _ if key.name == "threshold" => {
                vector(thresholds(&tensors, *key, shape)?, device).into()
            }
            _ => vector(tensors.f32(&stored, shape)?, device).into(),
        };
        Ok::<_, CoderError>((*key, weight))
    };
    plan.only(&tensors)?;
    let weights: Vec<_> = plan.shapes.iter().map(read).collect::<Result<_, _>>()?;
    let [.., d_sae] = plan.sizes;
    if tensors.has("scaling_factor")
        && tensors
            .f32("scaling_factor", &[d_sae])?
            .iter()
            .any(|s| (s - 1.0).abs() > 1e-5)
    {
        return Err(CoderError::format(
            &path,
            "tensor `scaling_factor`",
            "factors other than 1",
            "none, or all 1",
        ));
    }
    plan.dictionary(weights)
}

/// Weights of a coder whose latents were compared after multiplication by their decoder norm: with
/// that folded in they are as they are.
fn rescaled(coder: &SparseCoder) -> Weights {
    let norms = coder.w_dec().square().sum_dim(1).sqrt(); // [d_sae, 1]
    let divisor = norms.clone().mask_fill(norms.clone().equal_elem(0.0), 1.0);
    let b_enc = coder.b_enc() * norms.clone().squeeze_dim(1);
    let weights = coder.weights.clone();
    weights
        .with("w_enc", coder.w_enc() * norms)
        .with("b_enc", b_enc)
        .with("w_dec", coder.w_dec() / divisor)
}

/// Thresholds may be infinite (a latent that never fires), and old training files hold their
/// logarithm.
fn thresholds(
    tensors: &Tensors<'_>,
    key: WeightKey,
    shape: &[usize],
) -> Result<Vec<f32>, CoderError> {
    let name = key.to_string();
    if key.layer.is_none() && !tensors.has(&name) && tensors.has(LOG_THRESHOLD) {
        let logs = tensors.f32(LOG_THRESHOLD, shape)?;
        return Ok(logs.iter().map(|t| t.exp()).collect());
    }
    Ok(tensors.f32_or_infinite(&name, shape)?)
}
