//! SAELens 6: a folder with `cfg.json` and `sae_weights.safetensors`, tensors `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`,
//! `b_dec [d_in]` and whatever else an architecture has, under our names. Checked against SAELens 6.54, which
//! reads what is written here without a warning. Transcoders are `transcoder`, `skip_transcoder`, `jumprelu_transcoder` and
//! `jumprelu_skip_transcoder`, with `d_out` and `W_skip [d_out, d_in]`; of other architectures SAELens has none, and what is written here under
//! such names (`topk_transcoder`) it refuses. Flat `cfg.json` files from before version 6 are read too.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_io::{existing, write_synced};
use serde_json::{Map, Value, json};

use crate::coder::{Architecture, SKIP, SparseCoder, Weight};
use crate::cross_layer::{self, MOST_LAYERS};
use crate::dictionary::{Description, Dictionary, Provenance, recipe_of};
use crate::error::SaeError;
use crate::fields::Fields;
use crate::files::replace_folder;
use crate::model_loading::ModelLoading;
use crate::tensors::{TensorReader, TensorWriter, Tensors, host, transpose};
use crate::weights::is;

/// The SAELens whose layout this is.
const SAE_LENS_VERSION: &str = "6.54.12";
/// Version of what stands under `metadata.lapidary`.
const FORMAT_VERSION: u64 = 1;
const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";
/// What is replaced with a dictionary: its files, and the sample beside it.
const OWN_FILES: [&str; 3] = [CONFIG, WEIGHTS, "lapidary_sample.safetensors"];
/// `model_class_name` of what hook points are named after.
const TRANSFORMER_LENS: &str = "HookedTransformer";
/// `k` of a coder that has none.
const UNKNOWN_K: usize = 64;

pub(crate) fn save(dictionary: &Dictionary, dir: &Path) -> Result<(), SaeError> {
    if let Some(why) = dictionary.coder.architecture.method().not_stored() {
        return Err(SaeError::Config {
            place: dir.display().to_string(),
            message: why.to_owned(),
        });
    }
    only_ours(dir)?;
    let is_ours = |file: &Path| OWN_FILES.iter().any(|name| file == Path::new(name));
    replace_folder(dir, is_ours, |folder| write(dictionary, folder))
}

/// Writes the files of a dictionary that can be stored into a folder.
pub(crate) fn write(dictionary: &Dictionary, folder: &Path) -> Result<(), SaeError> {
    let coder = &dictionary.coder;
    let mut weights = TensorWriter::default();
    for (name, weight) in coder.weights.iter() {
        let there = stored_name(name);
        match weight {
            Weight::Matrix(t) if is(name, ENCODER) => {
                let [rows, columns] = t.dims();
                let values = transpose(&host(t)?, rows, columns);
                weights.f32(&there, &[columns, rows], &values);
            }
            Weight::Matrix(t) => weights.tensor(&there, t)?,
            Weight::Vector(t) => weights.tensor(&there, t)?,
        }
    }
    let text = serde_json::to_string_pretty(&cfg(dictionary)).expect("JSON values");
    weights.write(&folder.join(WEIGHTS), None)?;
    write_synced(&folder.join(CONFIG), text.as_bytes()).map_err(|e| SaeError::write(folder, e))
}

/// Refuses a place where anything else than a dictionary in this layout lies: it would be lost.
fn only_ours(dir: &Path) -> Result<(), SaeError> {
    if !dir.exists() {
        return Ok(());
    }
    let expected = "a new folder, an empty one, or an old dictionary to replace";
    if !dir.is_dir() {
        return Err(SaeError::format(dir, "folder", "a file", expected));
    }
    let entries = fs::read_dir(dir).map_err(|e| SaeError::read(dir, e))?;
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(|e| SaeError::read(dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !OWN_FILES.contains(&name.as_str()) || !entry.path().is_file() {
            return Err(SaeError::format(
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
        false => Err(SaeError::format(
            dir,
            "folder",
            "something that is not a dictionary (no cfg.json)",
            expected,
        )),
    }
}

/// Tensors that are looked at when they are there: a scale, which must be 1, and thresholds as their logarithms.
const HARMLESS: [&str; 2] = ["scaling_factor", "log_threshold"];

/// The one weight that is transposed in the file.
const ENCODER: &str = "w_enc";

/// `w_enc` is called `W_enc` there; vectors have the same names.
fn stored_name(name: &str) -> String {
    name.strip_prefix("w_")
        .map_or(name.to_owned(), |rest| format!("W_{rest}"))
}

fn cfg(dictionary: &Dictionary) -> Value {
    let (coder, from) = (&dictionary.coder, &dictionary.provenance);
    let mut cfg = json!({
        "architecture": stored_architecture(dictionary),
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
            "other_model_name": from.other_model,
            "model_class_name": from.loading.class.as_deref().unwrap_or(TRANSFORMER_LENS),
            "model_from_pretrained_kwargs": from.loading.options,
            "hook_name": from.hook_point,
            "hook_names": Some(&from.hook_points).filter(|points| !points.is_empty()),
            "hook_names_out": Some(&from.hook_points_out).filter(|points| !points.is_empty()),
            "hook_name_out": from.hook_point_out.as_ref().filter(|name| !name.is_empty()),
            "hook_head_index": from.loading.head,
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
    for (key, value) in [
        (
            "hook_head_index_out",
            from.loading.head_out.map(Value::from),
        ),
        ("seqpos_slice", from.loading.positions.clone()),
        (
            "exclude_special_tokens",
            from.loading.excluded_tokens.clone(),
        ),
    ] {
        if let Some(value) = value {
            cfg["metadata"][key] = value;
        }
    }
    if dictionary.transcodes() {
        cfg["d_out"] = json!(coder.d_out());
    }
    if let Some(layers) = coder.layers() {
        cfg["layers"] = json!(layers);
    }
    for (key, value) in coder.architecture.method().cfg(coder) {
        cfg[key] = value;
    }
    cfg
}

/// The name in `cfg.json`, but for what [`Method::cfg`](crate::coders::Method::cfg) says.
fn stored_architecture(dictionary: &Dictionary) -> String {
    let name = dictionary.coder.architecture.name();
    let kind = match (dictionary.transcodes(), dictionary.coder.w_skip()) {
        (false, _) if !dictionary.provenance.hook_points.is_empty() => CROSSCODER,
        (false, _) => return name.to_owned(),
        (true, _) if dictionary.coder.layers().is_some() => CROSS_LAYER,
        (true, None) => "transcoder",
        (true, Some(_)) => "skip_transcoder",
    };
    match name {
        "standard" => kind.to_owned(),
        _ => format!("{name}_{kind}"),
    }
}

/// A coder of several hook points, which SAELens has not.
const CROSSCODER: &str = "crosscoder";

/// A coder of several layers, which SAELens has not.
const CROSS_LAYER: &str = "cross_layer_transcoder";

/// What kind of coder it is, whatever its architecture.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Autoencoder,
    Crosscoder,
    CrossLayer,
    Transcoder { skips: bool },
}

/// What such a name says: the architecture's own, and the kind.
fn parse_architecture(stored: &str) -> (&str, Kind) {
    let skips = |skips| Kind::Transcoder { skips };
    let kinds = [
        (CROSS_LAYER, Kind::CrossLayer),
        ("skip_transcoder", skips(true)),
        ("transcoder", skips(false)),
        (CROSSCODER, Kind::Crosscoder),
    ];
    let found = kinds
        .into_iter()
        .find_map(|(name, kind)| Some((stored.strip_suffix(name)?, kind)));
    match found {
        Some(("", kind)) => ("standard", kind),
        Some((name, kind)) => (name.strip_suffix('_').unwrap_or(name), kind),
        None => (stored, Kind::Autoencoder),
    }
}

/// `cfg.json`, asked field by field.
pub(crate) struct Cfg {
    top: Fields,
    metadata: Fields,
    /// Whether the file is from before version 6: everything stands at the top level.
    is_flat: bool,
}

impl Deref for Cfg {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.top
    }
}

impl Cfg {
    fn read(path: PathBuf) -> Result<Self, SaeError> {
        let top = Fields::read(&path)?;
        let metadata = top.inner("metadata")?;
        // From before version 6 the same facts stand at the top level.
        let is_flat = !metadata.has("sae_lens_version");
        let metadata = match is_flat {
            true => top.clone(),
            false => metadata,
        };
        Ok(Self {
            top,
            metadata,
            is_flat,
        })
    }

    fn metadata_text(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .find_map(|n| self.metadata.text(n))
            .map(str::to_owned)
    }

    /// The activation function and the key that names it, in files from before version 6.
    fn activation(&self) -> Option<(&'static str, &str)> {
        ["activation_fn", "activation_fn_str"]
            .into_iter()
            .find_map(|n| Some((n, self.top.text(n)?)))
    }

    /// `k` of a TopK coder: where it stands depends on the version of the file.
    pub(crate) fn k(&self) -> Result<usize, SaeError> {
        let old = self.top.inner("activation_fn_kwargs")?;
        match old.has("k") && (self.is_flat || !self.top.has("k")) {
            true => old.size("k"),
            false => self.top.size("k"),
        }
    }

    /// The architecture, and the kind of coder.
    fn architecture(&self) -> Result<(Architecture, Kind), SaeError> {
        let stored = self.top.text("architecture");
        let (name, kind) = match stored.map(parse_architecture) {
            Some((name, kind)) => (Some(name), kind),
            None => (None, Kind::Autoencoder),
        };
        let found = self.of_kind(name, kind)?;
        Ok((found, kind))
    }

    fn of_kind(&self, name: Option<&str>, kind: Kind) -> Result<Architecture, SaeError> {
        match (name, self.activation()) {
            (Some("standard") | None, Some((_, "topk"))) => return Ok(Architecture::TopK),
            (Some("standard") | None, Some((field, other))) if other != "relu" => {
                return Err(self.wrong(field, "\"relu\" or \"topk\""));
            }
            _ => {}
        }
        // As SAELens takes files from before architectures had names.
        let name = name.or((self.is_flat && !self.top.has("architecture")).then_some("standard"));
        let stored = || {
            Architecture::ALL.into_iter().filter(|a| {
                let method = a.method();
                method.not_stored().is_none()
                    && match kind {
                        Kind::Autoencoder => true,
                        Kind::CrossLayer => method.crosses_layers(),
                        Kind::Crosscoder | Kind::Transcoder { .. } => method.has_encoder(),
                    }
            })
        };
        stored()
            .find(|a| {
                let others = a.method().other_names().iter().copied();
                std::iter::once(a.name())
                    .chain(others)
                    .any(|n| Some(n) == name)
            })
            .ok_or_else(|| {
                let names: Vec<String> = stored().map(|a| format!("{:?}", a.name())).collect();
                self.wrong("architecture", &format!("one of {}", names.join(", ")))
            })
    }

    /// The several hook points of a coder; `count`: as many.
    fn hook_names(&self, field: &str, count: Option<usize>) -> Result<Vec<String>, SaeError> {
        let names: Option<Vec<String>> = self.metadata.read_as(field);
        let expected = match count {
            Some(count) => format!("the hook points of {count} layers"),
            None => "the hook points of a crosscoder, two or more".to_owned(),
        };
        names
            .filter(|names| count.map_or(names.len() > 1, |count| names.len() == count))
            .ok_or_else(|| self.metadata.wrong(field, &expected))
    }

    /// Layers of a cross-layer transcoder, with what each reads, writes at a hook point, and has of latents.
    fn layers(&self) -> Result<(usize, [usize; 3]), SaeError> {
        let layers = self.size_up_to("layers", MOST_LAYERS, "layers")?;
        let each = |field: &str| {
            let all = self.size(field)?;
            match all % layers {
                0 => Ok(all / layers),
                _ => Err(self.wrong(field, &format!("a multiple of the {layers} layers"))),
            }
        };
        if self.flag("rescale_acts_by_decoder_norm", false)? {
            let expected = "false, for a cross-layer transcoder";
            return Err(self.wrong("rescale_acts_by_decoder_norm", expected));
        }
        Ok((layers, [each("d_in")?, each("d_out")?, each("d_sae")?]))
    }

    /// What SAELens says of the model's activations, but for what is usual.
    fn loading(&self) -> Result<ModelLoading, SaeError> {
        let said = |names: &[&str]| {
            let found = names.iter().find_map(|name| self.metadata.get(name));
            let usual = [Value::Null, json!(false), json!([null]), json!([])];
            found.filter(|value| !usual.contains(value)).cloned()
        };
        let head = |names: &[&'static str]| match said(names) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| {
                let name = names.iter().find(|name| self.metadata.has(name));
                self.metadata
                    .wrong(name.unwrap_or(&names[0]), "null or the number of a head")
            }),
        };
        let options = match self.metadata.get("model_from_pretrained_kwargs") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(options)) => options.clone(),
            Some(_) => {
                let field = "model_from_pretrained_kwargs";
                return Err(self.metadata.wrong(field, "an object"));
            }
        };
        let class = self.metadata_text(&["model_class_name"]);
        Ok(ModelLoading {
            class: class.filter(|class| class != TRANSFORMER_LENS),
            options,
            head: head(&["hook_head_index", "hook_point_head_index"])?,
            head_out: head(&["hook_head_index_out"])?,
            positions: said(&["seqpos_slice"]),
            excluded_tokens: said(&["exclude_special_tokens"]),
        })
    }

    fn provenance(&self, loading: ModelLoading) -> Provenance {
        let ours = self
            .metadata
            .get("lapidary")
            .cloned()
            .unwrap_or(Value::Null);
        let number = |field: &str| ours.get(field).and_then(Value::as_u64);
        Provenance {
            model_name: self.metadata_text(&["model_name"]),
            other_model: self.metadata_text(&["other_model_name"]),
            hook_point: self.metadata_text(&["hook_name", "hook_point"]),
            hook_points: vec![],
            hook_points_out: vec![],
            hook_point_out: self.metadata_text(&["hook_name_out"]),
            context: self
                .metadata
                .get("context_size")
                .and_then(Value::as_u64)
                .and_then(|v| usize::try_from(v).ok()),
            prepend_bos: self.metadata.get("prepend_bos").and_then(Value::as_bool),
            corpus: self.metadata_text(&["dataset_path"]),
            training_architecture: self.metadata_text(&["training_architecture"]),
            steps: number("steps"),
            tokens: number("tokens"),
            normalization: ours
                .get("normalization")
                .and_then(Value::as_str)
                .map(str::to_owned),
            recipe: ours.get("recipe").and_then(recipe_of),
            loading,
        }
    }
}

pub(crate) fn exists(dir: &Path) -> bool {
    existing(dir, CONFIG).join(CONFIG).exists()
}

/// What a folder says of its dictionary before any weight is read.
struct Plan {
    cfg: Cfg,
    architecture: Architecture,
    apply_b_dec_to_input: bool,
    /// `d_in`, `d_out`, `d_sae`.
    sizes: [usize; 3],
    layers: Option<usize>,
    /// The weights, under our names.
    shapes: Vec<(&'static str, Vec<usize>)>,
    provenance: Provenance,
}

impl Plan {
    fn read(dir: &Path) -> Result<Self, SaeError> {
        let cfg = Cfg::read(dir.join(CONFIG))?;
        let (architecture, kind) = cfg.architecture()?;
        let transcodes = matches!(kind, Kind::Transcoder { .. } | Kind::CrossLayer);
        let method = architecture.method();
        let (d_in, d_sae) = (cfg.size("d_in")?, cfg.size("d_sae")?);
        let d_out = match transcodes {
            true => cfg.size("d_out")?,
            false => d_in,
        };
        if cfg.only("normalize_activations", &["none"]).is_err() {
            let expected = "\"none\": others scale each token by its own norm, or by a factor that is not in the file";
            return Err(cfg.wrong("normalize_activations", expected));
        }
        cfg.only("reshape_activations", &["none", "hook_z"])?;
        let apply_b_dec_to_input = cfg.flag("apply_b_dec_to_input", !transcodes)?;
        if transcodes && apply_b_dec_to_input {
            return Err(cfg.wrong("apply_b_dec_to_input", "false, for a transcoder"));
        }
        let layers = match kind {
            Kind::CrossLayer => Some(cfg.layers()?),
            _ => None,
        };
        let mut shapes = match layers {
            Some((layers, each)) => cross_layer::shapes(architecture, layers, each),
            None => method.shapes(d_in, d_out, d_sae),
        };
        if kind == (Kind::Transcoder { skips: true }) {
            shapes.push((SKIP, vec![d_out, d_in]));
        }
        let mut provenance = cfg.provenance(cfg.loading()?);
        match transcodes && layers.is_none() {
            true => {
                provenance.hook_point_out.get_or_insert_default();
            }
            false => provenance.hook_point_out = None, // where what it reads is reconstructed
        }
        if kind == Kind::Crosscoder {
            provenance.hook_points = cfg.hook_names("hook_names", None)?;
        }
        if let Some((layers, [.., latents])) = layers {
            provenance.hook_points = cfg.hook_names("hook_names", Some(layers))?;
            provenance.hook_points_out = cfg.hook_names("hook_names_out", Some(layers))?;
            if method.takes_k() {
                cfg.size_up_to("k", latents, "latents of a layer")?;
            }
        }
        Ok(Self {
            cfg,
            architecture,
            apply_b_dec_to_input,
            sizes: [d_in, d_out, d_sae],
            layers: layers.map(|(layers, _)| layers),
            shapes,
            provenance,
        })
    }

    /// Refuses tensors that the coder does not have.
    fn only(&self, tensors: &Tensors<'_>) -> Result<(), SaeError> {
        let names = self.shapes.iter().map(|(name, _)| stored_name(name));
        let names: Vec<String> = names.collect();
        let known = names.iter().map(String::as_str).chain(HARMLESS);
        tensors.only(&known.collect::<Vec<_>>())
    }
}

pub(crate) fn describe(dir: &Path) -> Result<Description, SaeError> {
    let dir = &existing(dir, CONFIG);
    let plan = Plan::read(dir)?;
    let file = TensorReader::open(&dir.join(WEIGHTS))?;
    let tensors = file.tensors()?;
    plan.only(&tensors)?;
    for (name, shape) in &plan.shapes {
        let logs = is(name, "threshold") && !tensors.has(name);
        let stored = match logs {
            true => "log_threshold".to_owned(),
            false => stored_name(name),
        };
        match shape[..] {
            [rows, columns] if is(name, ENCODER) => tensors.check(&stored, &[columns, rows])?,
            _ => tensors.check(&stored, shape)?,
        }
    }
    let [d_in, d_out, d_sae] = plan.sizes;
    let takes_k = matches!(plan.architecture, Architecture::TopK);
    Ok(Description {
        architecture: plan.architecture.name(),
        k: takes_k.then(|| plan.cfg.k()).transpose()?,
        d_in,
        d_out,
        d_sae,
        layers: plan.layers,
        provenance: plan.provenance,
    })
}

pub(crate) fn load(dir: &Path, device: &Device) -> Result<Dictionary, SaeError> {
    let dir = &existing(dir, CONFIG);
    let plan = Plan::read(dir)?;
    let path = dir.join(WEIGHTS);
    let file = TensorReader::open(&path)?;
    let tensors = file.tensors()?;
    let read = |(name, shape): &(&'static str, Vec<usize>)| {
        let name = *name;
        let weight = match shape[..] {
            [rows, columns] if is(name, ENCODER) => {
                let values = tensors.f32(&stored_name(name), &[columns, rows])?;
                matrix(transpose(&values, columns, rows), [rows, columns], device)
            }
            [rows, columns] => {
                let values = tensors.f32(&stored_name(name), shape)?;
                matrix(values, [rows, columns], device)
            }
            _ if is(name, "threshold") => vector(thresholds(&tensors, name, shape)?, device),
            _ => vector(tensors.f32(name, shape)?, device),
        };
        Ok::<_, SaeError>((name, weight))
    };
    plan.only(&tensors)?;
    let weights = plan.shapes.iter().map(read).collect::<Result<_, _>>()?;
    let [.., d_sae] = plan.sizes;
    if tensors.has("scaling_factor")
        && tensors
            .f32("scaling_factor", &[d_sae])?
            .iter()
            .any(|s| (s - 1.0).abs() > 1e-5)
    {
        return Err(SaeError::format(
            &path,
            "tensor `scaling_factor`",
            "factors other than 1",
            "none, or all 1",
        ));
    }
    let coder = SparseCoder {
        architecture: plan.architecture,
        k: UNKNOWN_K.min(d_sae),
        apply_b_dec_to_input: plan.apply_b_dec_to_input,
        weights,
    };
    let method = plan.architecture.method();
    Ok(Dictionary {
        coder: method.read_cfg(&plan.cfg, coder)?,
        provenance: plan.provenance,
    })
}

fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Weight {
    Tensor::<2>::from_data(TensorData::new(values, shape), device).into()
}

fn vector(values: Vec<f32>, device: &Device) -> Weight {
    let n = values.len();
    Tensor::<1>::from_data(TensorData::new(values, [n]), device).into()
}

/// Thresholds may be infinite (a latent that never fires), and old training files hold their logarithm.
fn thresholds(tensors: &Tensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, SaeError> {
    if name == "threshold" && !tensors.has(name) && tensors.has("log_threshold") {
        let logs = tensors.f32("log_threshold", shape)?;
        return Ok(logs.iter().map(|t| t.exp()).collect());
    }
    tensors.f32_or_infinite(name, shape)
}
