//! SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`, tensors `W_enc [d_in, d_sae]`, `b_enc [d_sae]`,
//! `W_dec [d_sae, d_in]`, `b_dec [d_in]`, and for jumprelu `threshold [d_sae]`. Checked against SAELens 6.54, which
//! reads what is written here without a warning. Flat `cfg.json` files from before version 6 are read too.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, Value, json};

use crate::coder::{Architecture, SparseCoder};
use crate::config::RunConfig;
use crate::dictionary::{Dictionary, Provenance};
use crate::error::SaeError;
use crate::files::{replace_folder, standing, write_synced};
use crate::tensors::{TensorReader, TensorWriter, Tensors, host};

/// The SAELens whose layout this is.
const SAE_LENS_VERSION: &str = "6.54.12";
/// Version of what stands under `metadata.lapidary`.
const FORMAT_VERSION: u64 = 1;
const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";
/// Widest activation and largest dictionary that a file may claim; far above any that fits a machine.
const LARGEST: u64 = 1 << 31;

pub(crate) fn save(dictionary: &Dictionary, dir: &Path) -> Result<(), SaeError> {
    let coder = &dictionary.coder;
    if coder.architecture == Architecture::BatchTopK {
        return Err(SaeError::Config {
            place: dir.display().to_string(),
            message:
                "a BatchTopK coder is stored as the JumpReLU that it becomes when training finishes"
                    .to_owned(),
        });
    }
    let is_ours = dir.join(CONFIG).exists() || !dir.exists();
    let is_empty = || fs::read_dir(dir).is_ok_and(|mut d| d.next().is_none());
    if !is_ours && !is_empty() {
        return Err(SaeError::format(
            dir,
            "folder",
            "something that is not a dictionary (no cfg.json)",
            "a new folder, an empty one, or an old dictionary to replace",
        ));
    }
    let (d_in, d_sae) = (coder.d_in(), coder.d_sae());
    let mut weights = TensorWriter::default();
    let w_enc = transpose(&host(&coder.w_enc)?, d_sae, d_in);
    weights.f32("W_enc", &[d_in, d_sae], &w_enc);
    weights.tensor("b_enc", &coder.b_enc)?;
    weights.tensor("W_dec", &coder.w_dec)?;
    weights.tensor("b_dec", &coder.b_dec)?;
    if let Some(threshold) = &coder.threshold {
        weights.tensor("threshold", threshold)?;
    }
    let text = serde_json::to_string_pretty(&cfg(dictionary)).expect("JSON values");
    replace_folder(dir, |folder| {
        weights.write(&folder.join(WEIGHTS), None)?;
        write_synced(&folder.join(CONFIG), text.as_bytes()).map_err(|e| SaeError::write(folder, e))
    })
}

fn cfg(dictionary: &Dictionary) -> Value {
    let (coder, from) = (&dictionary.coder, &dictionary.provenance);
    let mut cfg = json!({
        "architecture": coder.architecture.name(),
        "d_in": coder.d_in(),
        "d_sae": coder.d_sae(),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": coder.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAE_LENS_VERSION,
            "sae_lens_training_version": null,
            "model_name": from.model_name,
            "model_class_name": "HookedTransformer",
            "hook_name": from.hook_point,
            "hook_head_index": null,
            "context_size": from.context,
            "prepend_bos": from.prepend_bos,
            "dataset_path": from.corpus,
            "training_architecture": from.training_architecture,
            "lapidary": {
                "format_version": FORMAT_VERSION,
                "version": env!("CARGO_PKG_VERSION"),
                "steps": from.steps,
                "tokens": from.tokens,
                "normalization": from.normalization,
                "recipe": from.recipe,
            },
        },
    });
    if coder.architecture == Architecture::TopK {
        cfg["k"] = json!(coder.k);
        cfg["rescale_acts_by_decoder_norm"] = json!(false);
    }
    cfg
}

/// `cfg.json`, asked field by field.
struct Cfg {
    path: PathBuf,
    top: Map<String, Value>,
    metadata: Map<String, Value>,
}

impl Cfg {
    fn read(path: PathBuf) -> Result<Self, SaeError> {
        let text = fs::read_to_string(&path).map_err(|e| SaeError::read(&path, e))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| SaeError::format(&path, "file", e.to_string(), "a JSON object"))?;
        let Value::Object(top) = value else {
            return Err(SaeError::format(
                &path,
                "file",
                show(&value),
                "a JSON object",
            ));
        };
        // From before version 6 the same facts stand at the top level.
        let metadata = match top.get("metadata") {
            Some(Value::Object(m)) if m.contains_key("sae_lens_version") => m.clone(),
            None | Some(Value::Null | Value::Object(_)) => top.clone(),
            Some(other) => {
                return Err(SaeError::format(
                    &path,
                    "metadata",
                    show(other),
                    "an object",
                ));
            }
        };
        Ok(Self {
            path,
            top,
            metadata,
        })
    }

    fn wrong(&self, field: &str, expected: &str) -> SaeError {
        let found = self.top.get(field).map_or("nothing".to_owned(), show);
        SaeError::format(&self.path, field, found, expected)
    }

    fn size(&self, field: &str) -> Result<usize, SaeError> {
        self.top
            .get(field)
            .and_then(Value::as_u64)
            .filter(|v| (1..LARGEST).contains(v))
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| self.wrong(field, "a whole number from 1 to 2147483647"))
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, SaeError> {
        match self.top.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    fn only(&self, field: &str, accepted: &[&str]) -> Result<(), SaeError> {
        match self.top.get(field) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(Value::String(s)) if accepted.contains(&s.as_str()) => Ok(()),
            Some(_) => Err(self.wrong(field, &format!("one of {accepted:?}"))),
        }
    }

    fn text(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .find_map(|n| self.metadata.get(*n).and_then(Value::as_str))
            .map(str::to_owned)
    }

    fn architecture(&self) -> Result<(Architecture, usize), SaeError> {
        let activation = ["activation_fn", "activation_fn_str"]
            .iter()
            .find_map(|n| Some((*n, self.top.get(*n)?.as_str()?)));
        let name = self.top.get("architecture").and_then(Value::as_str);
        match (name, activation) {
            (Some("standard") | None, Some((_, "topk"))) => {
                let k = self
                    .top
                    .get("activation_fn_kwargs")
                    .and_then(|v| v.get("k"))
                    .and_then(Value::as_u64)
                    .filter(|k| (1..LARGEST).contains(k))
                    .ok_or_else(|| {
                        self.wrong("activation_fn_kwargs", "an object with a whole number k")
                    })?;
                Ok((Architecture::TopK, k as usize))
            }
            (Some("standard"), None | Some((_, "relu"))) => Ok((Architecture::Standard, 64)),
            (Some("standard"), Some((field, _))) => Err(self.wrong(field, "\"relu\" or \"topk\"")),
            (Some("jumprelu"), _) => Ok((Architecture::JumpRelu, 64)),
            (Some("topk"), _) => Ok((Architecture::TopK, self.size("k")?)),
            _ => Err(self.wrong("architecture", "\"standard\", \"topk\" or \"jumprelu\"")),
        }
    }

    fn provenance(&self) -> Provenance {
        let ours = self
            .metadata
            .get("lapidary")
            .cloned()
            .unwrap_or(Value::Null);
        let number = |field: &str| ours.get(field).and_then(Value::as_u64);
        Provenance {
            model_name: self.text(&["model_name"]),
            hook_point: self.text(&["hook_name", "hook_point"]),
            context: self
                .metadata
                .get("context_size")
                .and_then(Value::as_u64)
                .and_then(|v| usize::try_from(v).ok()),
            prepend_bos: self.metadata.get("prepend_bos").and_then(Value::as_bool),
            corpus: self.text(&["dataset_path"]),
            training_architecture: self.text(&["training_architecture"]),
            steps: number("steps"),
            tokens: number("tokens"),
            normalization: ours
                .get("normalization")
                .and_then(Value::as_str)
                .map(str::to_owned),
            recipe: ours
                .get("recipe")
                .and_then(|r| serde_json::from_value::<RunConfig>(r.clone()).ok()),
        }
    }
}

fn show(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text
    }
}

pub(crate) fn exists(dir: &Path) -> bool {
    standing(dir, CONFIG).join(CONFIG).exists()
}

pub(crate) fn load(dir: &Path, device: &Device) -> Result<Dictionary, SaeError> {
    let dir = &standing(dir, CONFIG);
    let cfg = Cfg::read(dir.join(CONFIG))?;
    let (architecture, k) = cfg.architecture()?;
    let (d_in, d_sae) = (cfg.size("d_in")?, cfg.size("d_sae")?);
    if architecture == Architecture::TopK && k > d_sae {
        return Err(cfg.wrong("k", &format!("at most d_sae = {d_sae}")));
    }
    cfg.only("normalize_activations", &["none"])?;
    cfg.only("reshape_activations", &["none", "hook_z"])?;
    let apply_b_dec_to_input = cfg.flag("apply_b_dec_to_input", true)?;
    let rescale =
        architecture == Architecture::TopK && cfg.flag("rescale_acts_by_decoder_norm", false)?;

    let path = dir.join(WEIGHTS);
    let file = TensorReader::open(&path)?;
    let tensors = file.tensors()?;
    let mut w_enc = transpose(&tensors.f32("W_enc", &[d_in, d_sae])?, d_in, d_sae);
    let mut b_enc = tensors.f32("b_enc", &[d_sae])?;
    let mut w_dec = tensors.f32("W_dec", &[d_sae, d_in])?;
    let b_dec = tensors.f32("b_dec", &[d_in])?;
    let threshold = match architecture {
        Architecture::JumpRelu => Some(thresholds(&tensors, d_sae)?),
        _ => None,
    };
    if tensors.has("scaling_factor")
        && tensors
            .f32("scaling_factor", &[d_sae])?
            .iter()
            .any(|s| *s != 1.0)
    {
        return Err(SaeError::format(
            &path,
            "tensor `scaling_factor`",
            "factors other than 1",
            "none, or all 1",
        ));
    }
    if rescale {
        // Latents were compared after multiplication by their decoder norm; with that folded in they are as they are.
        let rows = w_enc
            .chunks_exact_mut(d_in)
            .zip(w_dec.chunks_exact_mut(d_in));
        for ((w_enc, w_dec), b_enc) in rows.zip(&mut b_enc) {
            let norm = w_dec.iter().map(|w| w * w).sum::<f32>().sqrt();
            w_enc.iter_mut().for_each(|w| *w *= norm);
            *b_enc *= norm;
            if norm > 0.0 {
                w_dec.iter_mut().for_each(|w| *w /= norm);
            }
        }
    }
    let vector = |v: Vec<f32>| {
        let n = v.len();
        Tensor::<1>::from_data(TensorData::new(v, [n]), device)
    };
    let matrix = |v: Vec<f32>| Tensor::<2>::from_data(TensorData::new(v, [d_sae, d_in]), device);
    Ok(Dictionary {
        coder: SparseCoder {
            architecture,
            k: k.min(d_sae),
            apply_b_dec_to_input,
            w_enc: matrix(w_enc),
            b_enc: vector(b_enc),
            w_dec: matrix(w_dec),
            b_dec: vector(b_dec),
            threshold: threshold.map(vector),
        },
        provenance: cfg.provenance(),
    })
}

/// Thresholds may be infinite (a latent that never fires), and old training files hold their logarithm.
fn thresholds(tensors: &Tensors<'_>, d_sae: usize) -> Result<Vec<f32>, SaeError> {
    if !tensors.has("threshold") && tensors.has("log_threshold") {
        let logs = tensors.f32("log_threshold", &[d_sae])?;
        return Ok(logs.iter().map(|t| t.exp()).collect());
    }
    tensors.f32_or_infinite("threshold", &[d_sae])
}

/// `[rows, columns]` to `[columns, rows]`.
fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    // Tiles keep both sides in cache.
    const TILE: usize = 32;
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..columns).step_by(TILE) {
            for r in r0..(r0 + TILE).min(rows) {
                for c in c0..(c0 + TILE).min(columns) {
                    out[c * rows + r] = data[r * columns + c];
                }
            }
        }
    }
    out
}
