//! `cfg.json`: what is written, and the questions that are asked of it.

use std::ops::Deref;
use std::path::PathBuf;

use lapidary_coder::{
    Architecture, ArchitectureKind, Coder, CoderError, Dictionary, MOST_LAYERS, ModelLoading,
    Provenance, SiteKeys, Sites,
};
use lapidary_io::Fields;
use lapidary_io::settings::Named;
use serde_json::{Map, Value, json};

/// The SAELens whose layout this is.
const SAE_LENS_VERSION: &str = "6.54.12";
/// Version of what stands under `metadata.lapidary`.
const FORMAT_VERSION: u64 = 1;
/// `model_class_name` of what hook points are named after.
const TRANSFORMER_LENS: &str = "HookedTransformer";

/// What is written of a dictionary.
pub(crate) fn cfg(dictionary: &Dictionary) -> Value {
    let (coder, from) = (&dictionary.coder, &dictionary.provenance);
    let mut cfg = json!({
        "architecture": stored_architecture(dictionary),
        "d_in": coder.d_in(),
        "d_sae": coder.d_sae(),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": coder.layers()[0].apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAE_LENS_VERSION,
            "sae_lens_training_version": null,
            "model_name": from.model_name,
            "other_model_name": from.sites.second_model(),
            "model_class_name": from.loading.class.as_deref().unwrap_or(TRANSFORMER_LENS),
            "model_from_pretrained_kwargs": from.loading.options,
            "hook_name": from.sites.first_read(),
            "hook_names": from.sites.are_several().then(|| from.sites.read()),
            "hook_names_out": match &from.sites {
                Sites::CrossLayer { to, .. } => Some(to),
                _ => None,
            },
            "hook_name_out": match &from.sites {
                Sites::Transcoder { to, .. } => to.as_ref(),
                _ => None,
            },
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
    if let Some(coder) = coder.as_cross_layer() {
        cfg["layers"] = json!(coder.layers().len());
    }
    let architecture = coder.architecture();
    for (key, value) in architecture.parameters() {
        cfg[key] = value;
    }
    if matches!(architecture, Architecture::TopK { .. }) {
        cfg["rescale_acts_by_decoder_norm"] = json!(false);
    }
    cfg
}

/// The name in `cfg.json`.
fn stored_architecture(dictionary: &Dictionary) -> String {
    let architecture = dictionary.coder.architecture();
    let name = architecture.name();
    let skips = dictionary.coder.layers()[0].w_skip().is_some();
    let kind = match (dictionary.sites(), skips) {
        (Sites::Autoencoder { .. }, _) => {
            return match is_readable_by_saelens(architecture) {
                true => name.to_owned(),
                false => own_name(architecture.kind()),
            };
        }
        (Sites::Crosscoder { .. } | Sites::TwoModels { .. }, _) => CROSSCODER,
        (Sites::CrossLayer { .. }, _) => CROSS_LAYER,
        (Sites::Transcoder { .. }, false) => "transcoder",
        (Sites::Transcoder { .. }, true) => "skip_transcoder",
    };
    match name {
        "standard" => kind.to_owned(),
        _ => format!("{name}_{kind}"),
    }
}

/// Whether SAELens does what such a coder does. It refuses names that it does not know.
const fn is_readable_by_saelens(architecture: Architecture) -> bool {
    match architecture {
        Architecture::Standard
        | Architecture::TopK { .. }
        | Architecture::JumpRelu
        | Architecture::Gated => true,
        Architecture::MatchingPursuit { pursuit, .. } => !pursuit.signed && !pursuit.refit,
        _ => false,
    }
}

/// The name of a coder that SAELens would misunderstand.
fn own_name(kind: ArchitectureKind) -> String {
    format!("lapidary_{kind}")
}

/// A coder of several hook points, which SAELens has not.
const CROSSCODER: &str = "crosscoder";

/// A coder of several layers, which SAELens has not.
const CROSS_LAYER: &str = "cross_layer_transcoder";

/// What kind of coder it is, whatever its architecture.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
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
pub(super) struct Cfg {
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
    pub(super) fn read(path: PathBuf) -> Result<Self, CoderError> {
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

    pub(super) fn refuse(&self, field: &str, expected: &str) -> CoderError {
        self.top.wrong(field, expected).into()
    }

    fn refuse_metadata(&self, field: &str, expected: &str) -> CoderError {
        self.metadata.wrong(field, expected).into()
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
    pub(super) fn k(&self) -> Result<usize, CoderError> {
        let old = self.top.inner("activation_fn_kwargs")?;
        Ok(match old.has("k") && (self.is_flat || !self.top.has("k")) {
            true => old.size("k")?,
            false => self.top.size("k")?,
        })
    }

    /// The architecture, and the kind of coder.
    pub(super) fn architecture(&self) -> Result<(ArchitectureKind, Kind), CoderError> {
        let stored = self.top.text("architecture");
        let (name, kind) = match stored.map(parse_architecture) {
            Some((name, kind)) => (Some(name), kind),
            None => (None, Kind::Autoencoder),
        };
        let found = self.of_kind(name, kind)?;
        Ok((found, kind))
    }

    fn of_kind(&self, name: Option<&str>, kind: Kind) -> Result<ArchitectureKind, CoderError> {
        match (name, self.activation()) {
            (Some("standard") | None, Some((_, "topk"))) => return Ok(ArchitectureKind::TopK),
            (Some("standard") | None, Some((field, other))) if other != "relu" => {
                return Err(self.refuse(field, "\"relu\" or \"topk\""));
            }
            _ => {}
        }
        // As SAELens takes files from before architectures had names.
        let name = name.or((self.is_flat && !self.top.has("architecture")).then_some("standard"));
        let stored = || {
            ArchitectureKind::all().filter(|a| {
                a.not_stored().is_none()
                    && match kind {
                        Kind::Autoencoder => true,
                        Kind::CrossLayer => a.crosses_layers(),
                        Kind::Crosscoder | Kind::Transcoder { .. } => a.has_encoder(),
                    }
            })
        };
        let found = stored().find(|a| name == Some(a.name()) || name == Some(&own_name(*a)));
        found.ok_or_else(|| {
            let names: Vec<String> = stored().map(|a| format!("{:?}", a.name())).collect();
            self.refuse("architecture", &format!("one of {}", names.join(", ")))
        })
    }

    /// The hook points, for a coder of this kind.
    pub(super) fn sites(&self, kind: Kind, layers: Option<usize>) -> Result<Sites, CoderError> {
        let at = self.metadata_text(&["hook_name", "hook_point"]);
        Ok(match (kind, layers) {
            (Kind::Autoencoder, _) => Sites::Autoencoder { at },
            (Kind::Transcoder { .. }, _) => Sites::Transcoder {
                from: at,
                to: self.metadata_text(&["hook_name_out"]),
            },
            (Kind::Crosscoder, _) => SiteKeys {
                hook_point: at,
                hook_points: self.hook_names("hook_names", None)?,
                other_model: self.metadata_text(&["other_model_name"]),
                ..SiteKeys::default()
            }
            .into(),
            (Kind::CrossLayer, layers) => Sites::CrossLayer {
                from: self.hook_names("hook_names", layers)?,
                to: self.hook_names("hook_names_out", layers)?,
            },
        })
    }

    /// The several hook points of a coder; `count`: as many.
    fn hook_names(&self, field: &str, count: Option<usize>) -> Result<Vec<String>, CoderError> {
        let names: Option<Vec<String>> = self.metadata.read_as(field);
        let expected = match count {
            Some(count) => format!("the hook points of {count} layers"),
            None => "the hook points of a crosscoder, two or more".to_owned(),
        };
        names
            .filter(|names| count.map_or(names.len() > 1, |count| names.len() == count))
            .ok_or_else(|| self.refuse_metadata(field, &expected))
    }

    /// Layers of a cross-layer transcoder, with what each reads, writes at a hook point, and has of
    /// latents.
    pub(super) fn layers(&self) -> Result<(usize, [usize; 3]), CoderError> {
        let layers = self.size_up_to("layers", MOST_LAYERS, "layers")?;
        let each = |field: &str| {
            let all = self.size(field)?;
            match all % layers {
                0 => Ok(all / layers),
                _ => Err(self.refuse(field, &format!("a multiple of the {layers} layers"))),
            }
        };
        if self.flag("rescale_acts_by_decoder_norm", false)? {
            let expected = "false, for a cross-layer transcoder";
            return Err(self.refuse("rescale_acts_by_decoder_norm", expected));
        }
        Ok((layers, [each("d_in")?, each("d_out")?, each("d_sae")?]))
    }

    /// What SAELens says of the model's activations, but for what is usual.
    pub(super) fn loading(&self) -> Result<ModelLoading, CoderError> {
        let said = |names: &[&str]| {
            let found = names.iter().find_map(|name| self.metadata.get(name));
            let usual = [Value::Null, json!(false), json!([null]), json!([])];
            found.filter(|value| !usual.contains(value)).cloned()
        };
        let head = |names: &[&'static str]| match said(names) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| {
                let name = names.iter().find(|name| self.metadata.has(name));
                self.refuse_metadata(name.unwrap_or(&names[0]), "null or the number of a head")
            }),
        };
        let options = match self.metadata.get("model_from_pretrained_kwargs") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(options)) => options.clone(),
            Some(_) => {
                let field = "model_from_pretrained_kwargs";
                return Err(self.refuse_metadata(field, "an object"));
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

    pub(super) fn provenance(&self, loading: ModelLoading, sites: Sites) -> Provenance {
        let ours = self
            .metadata
            .get("lapidary")
            .cloned()
            .unwrap_or(Value::Null);
        let number = |field: &str| ours.get(field).and_then(Value::as_u64);
        Provenance {
            model_name: self.metadata_text(&["model_name"]),
            sites,
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
            recipe: ours
                .get("recipe")
                .filter(|recipe| !recipe.is_null())
                .cloned(),
            loading,
        }
    }
}
