//! dictionary_learning: `ae.pt`, what `torch.save` makes of a state dict, and `config.json` with
//! what the trainer was told. Checked against dictionary-learning 0.1.0.
//!
//! The class decides what tensors mean (`trainer.dict_class`): a TopK and a BatchTopK have the same
//! ones. An `nn.Linear`'s encoder is `[dict_size, activation_dim]` and its decoder the other way
//! round; classes without one have `W_enc` and `W_dec` the other way round than that.

use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{Architecture, Coder, CoderError, Dictionary, Provenance, Sites};
use lapidary_io::Fields;
use lapidary_io::write_synced;
use lapidary_io::{tensors::Tensors, tensors::transpose};
use serde_json::json;

use crate::container::{Container, Stored, write_torch};
use crate::error::FormatError;
use crate::layout::Layout;
use crate::parts::{Latents, Parts, latents, sizes, thresholds};
use crate::place::Place;
use crate::provenance;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "ae.pt";

/// A class of theirs.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    AutoEncoder,
    AutoEncoderNew,
    Gated,
    TopK,
    BatchTopK,
    Matryoshka,
    JumpRelu,
}

impl Class {
    const ALL: [Self; 7] = [
        Self::AutoEncoder,
        Self::AutoEncoderNew,
        Self::Gated,
        Self::TopK,
        Self::BatchTopK,
        Self::Matryoshka,
        Self::JumpRelu,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AutoEncoder => "AutoEncoder",
            Self::AutoEncoderNew => "AutoEncoderNew",
            Self::Gated => "GatedAutoEncoder",
            Self::TopK => "AutoEncoderTopK",
            Self::BatchTopK => "BatchTopKSAE",
            Self::Matryoshka => "MatryoshkaBatchTopKSAE",
            Self::JumpRelu => "JumpReluAutoEncoder",
        }
    }

    /// The names of its tensors.
    fn tensors(self) -> &'static [&'static str] {
        match self {
            Self::AutoEncoder => &["bias", "encoder.weight", "encoder.bias", "decoder.weight"],
            Self::AutoEncoderNew => &[
                "encoder.weight",
                "encoder.bias",
                "decoder.weight",
                "decoder.bias",
            ],
            Self::Gated => &[
                "decoder_bias",
                "encoder.weight",
                "r_mag",
                "gate_bias",
                "mag_bias",
                "decoder.weight",
            ],
            Self::TopK | Self::BatchTopK => &[
                "encoder.weight",
                "encoder.bias",
                "decoder.weight",
                "b_dec",
                "k",
                "threshold",
            ],
            Self::Matryoshka => &[
                "W_enc",
                "b_enc",
                "W_dec",
                "b_dec",
                "k",
                "threshold",
                "group_sizes",
            ],
            Self::JumpRelu => &["W_enc", "b_enc", "W_dec", "b_dec", "threshold"],
        }
    }

    /// Those that have just these tensors, `k` and `threshold` aside, which old files lack.
    fn fitting(names: &[String]) -> Vec<Self> {
        let needed = |class: Self| {
            let own = class.tensors().iter();
            own.filter(move |n| class == Self::JumpRelu || !["k", "threshold"].contains(*n))
        };
        let fits = |class: &Self| {
            needed(*class).all(|own| names.iter().any(|n| n == own))
                && names.iter().all(|n| class.tensors().contains(&n.as_str()))
        };
        Self::ALL.into_iter().filter(fits).collect()
    }

    /// How its encoder lies; its decoder lies the other way.
    fn encoder(self) -> Latents {
        match self {
            Self::Matryoshka | Self::JumpRelu => Latents::Columns,
            _ => Latents::Rows,
        }
    }

    /// Names of encoder, decoder and `b_dec`.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::AutoEncoder => ["encoder.weight", "decoder.weight", "bias"],
            Self::AutoEncoderNew => ["encoder.weight", "decoder.weight", "decoder.bias"],
            Self::Gated => ["encoder.weight", "decoder.weight", "decoder_bias"],
            Self::TopK | Self::BatchTopK => ["encoder.weight", "decoder.weight", "b_dec"],
            Self::Matryoshka | Self::JumpRelu => ["W_enc", "W_dec", "b_dec"],
        }
    }

    fn subtracts(self) -> bool {
        !matches!(self, Self::AutoEncoderNew | Self::JumpRelu)
    }

    /// The one that holds such a coder.
    fn holding(dictionary: &Dictionary) -> Option<Self> {
        let coder = dictionary.coder.as_sparse()?;
        Some(match coder.architecture {
            Architecture::Standard if coder.apply_b_dec_to_input => Self::AutoEncoder,
            Architecture::Standard => Self::AutoEncoderNew,
            Architecture::TopK { .. } => Self::TopK,
            Architecture::JumpRelu => Self::JumpRelu,
            Architecture::Gated => Self::Gated,
            _ => return None,
        })
    }
}

pub(crate) struct DictionaryLearning;

impl Layout for DictionaryLearning {
    fn name(&self) -> &'static str {
        "dictionary_learning"
    }

    fn signature(&self) -> &'static str {
        "ae.pt with config.json"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        if place.means(WEIGHTS) {
            return Ok(Some(WEIGHTS.into()));
        }
        let Some(names) = place.torch_names()? else {
            return Ok(None);
        };
        let fits = Class::fitting(&names);
        Ok(fits
            .first()
            .map(|class| format!("the tensors of a {}", class.name())))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        let path = match place.means(WEIGHTS) {
            true => place.join(WEIGHTS),
            false => place.only("one file .pt", |name| name.ends_with(".pt"))?,
        };
        let file = Container::open(&path)?;
        if let Some((name, value)) = file.others().first() {
            let found = format!("{value:?}").chars().take(60).collect::<String>();
            return Err(CoderError::format(&path, format!("`{name}`"), found, "a tensor").into());
        }
        let tensors = file.tensors()?;
        // A checkpoint's configuration lies a folder above it.
        let config = match place.here_or_above(CONFIG) {
            Some(path) => Some(Fields::read(&path)?),
            None => None,
        };
        let trainer = match &config {
            Some(config) => Some(config.inner("trainer")?),
            None => None,
        };
        if let Some(config) = &config
            && config.inner("buffer")?.text("io") == Some("in_and_out")
        {
            return Err(FormatError::Foreign {
                path,
                found: "a transcoder (buffer.io in_and_out)".into(),
                why: "its classes take b_dec, which belongs to the output, from the input".into(),
            });
        }
        let class = class(&tensors, trainer.as_ref())?;
        let parts = read(class, &tensors, trainer.as_ref())?;
        let ours = match &config {
            Some(config) => provenance::read(config)?,
            None => None,
        };
        let provenance = match (ours, &config, &trainer) {
            (Some(ours), ..) => ours,
            (None, Some(config), Some(trainer)) => of_trainer(class, config, trainer)?,
            _ => Provenance::default(),
        };
        Ok(Dictionary {
            coder: parts.coder(device).into(),
            provenance,
        })
    }

    fn cannot_hold(&self, dictionary: &Dictionary) -> Option<String> {
        if dictionary.coder.as_cross_layer().is_some() {
            return Some("a cross-layer transcoder: its coders have one layer".into());
        }
        if dictionary.sites().are_several() {
            return Some("a crosscoder: its coders have one place".into());
        }
        if dictionary.transcodes() {
            return Some("a transcoder: its configuration cannot say so".into());
        }
        match Class::holding(dictionary) {
            Some(_) => None,
            None => Some(format!(
                "a {} coder: its classes are ReLU, TopK, JumpReLU and gated",
                dictionary.coder.architecture()
            )),
        }
    }

    fn write(&self, dictionary: &Dictionary, folder: &Path) -> Result<(), CoderError> {
        let class = Class::holding(dictionary).expect("was asked for what it holds");
        let coder = dictionary.coder.as_sparse();
        let coder = coder.expect("was asked for what it holds");
        let k = coder.k();
        let parts = Parts::of(coder)?.subtracting(class.subtracts());
        let (d_in, d_sae) = (parts.d_in(), parts.d_sae());
        let encoder = match class.encoder() {
            Latents::Rows => (vec![d_sae, d_in], parts.w_enc.clone()),
            Latents::Columns => (vec![d_in, d_sae], transpose(&parts.w_enc, d_sae, d_in)),
        };
        let decoder = match class.encoder() {
            Latents::Rows => (vec![d_in, d_sae], transpose(&parts.w_dec, d_sae, d_in)),
            Latents::Columns => (vec![d_sae, d_in], parts.w_dec.clone()),
        };
        let [enc, dec, b_dec] = class.names();
        let mut tensors = vec![
            (enc, encoder.0, Stored::F32(encoder.1)),
            (dec, decoder.0, Stored::F32(decoder.1)),
            (b_dec, vec![d_in], Stored::F32(parts.b_dec.clone())),
        ];
        for (theirs, ours) in vectors(class) {
            tensors.push((theirs, vec![d_sae], Stored::F32(parts.vector(ours))));
        }
        if class == Class::TopK {
            let k = i32::try_from(k.unwrap_or(0)).unwrap_or(i32::MAX);
            tensors.push(("k", vec![], Stored::I32(vec![k])));
            tensors.push(("threshold", vec![], Stored::F32(vec![-1.0]))); // no threshold is set
        }
        write_torch(&folder.join(WEIGHTS), &tensors)?;

        let from = &dictionary.provenance;
        let hook = from.sites.first_read();
        let layer = hook.and_then(|h| h.parse::<lapidary_model::HookPoint>().ok()?.layer());
        let mut config = json!({
            "trainer": {
                "dict_class": class.name(),
                "activation_dim": d_in,
                "dict_size": d_sae,
                "k": k.filter(|_| class == Class::TopK),
                "steps": from.steps,
                "seed": from.recipe.as_ref().and_then(|recipe| recipe.get("seed")),
                "device": "cpu",
                "layer": layer,
                "lm_name": from.model_name.as_deref().unwrap_or_default(),
                "submodule_name": hook,
            },
            "buffer": { "d_submodule": d_in, "ctx_len": from.context, "device": "cpu" },
        });
        let (key, ours) = provenance::written(from);
        config[key] = ours;
        let text = serde_json::to_string_pretty(&config).expect("JSON values");
        write_synced(&folder.join(CONFIG), text.as_bytes())
            .map_err(|e| CoderError::write(folder, e))
    }
}

/// The class that the configuration names, which the tensors must fit; without one, the class that
/// they fit alone.
fn class(tensors: &Tensors<'_>, trainer: Option<&Fields>) -> Result<Class, CoderError> {
    let names: Vec<String> = tensors.names().map(str::to_owned).collect();
    let fitting = Class::fitting(&names);
    if let Some(trainer) = trainer
        && trainer.has("dict_class")
    {
        let named = trainer.text("dict_class");
        let named = Class::ALL.into_iter().find(|c| Some(c.name()) == named);
        let all = Class::ALL.map(Class::name).join(", ");
        let named = named.ok_or_else(|| trainer.wrong("dict_class", &format!("one of {all}")))?;
        return match fitting.contains(&named) {
            true => Ok(named),
            false => Err(CoderError::format(
                tensors.path(),
                "tensors",
                format!("[{}]", names.join(", ")),
                format!(
                    "those of a {}: [{}]",
                    named.name(),
                    named.tensors().join(", ")
                ),
            )),
        };
    }
    let several = fitting.iter().map(|c| c.name());
    match fitting[..] {
        [only] => Ok(only),
        [] => Err(CoderError::format(
            tensors.path(),
            "tensors",
            format!("[{}]", names.join(", ")),
            "those of one of dictionary_learning's classes",
        )),
        _ => Err(CoderError::format(
            tensors.path(),
            "tensors",
            format!("those of {}", several.collect::<Vec<_>>().join(" and of ")),
            "a config.json beside, or a folder above, whose trainer.dict_class says which",
        )),
    }
}

/// Vectors of one number a latent: their name and ours.
fn vectors(class: Class) -> &'static [(&'static str, &'static str)] {
    match class {
        Class::AutoEncoder | Class::AutoEncoderNew | Class::TopK | Class::BatchTopK => {
            &[("encoder.bias", "b_enc")]
        }
        Class::Gated => &[
            ("gate_bias", "b_gate"),
            ("mag_bias", "b_mag"),
            ("r_mag", "r_mag"),
        ],
        Class::Matryoshka => &[("b_enc", "b_enc")],
        Class::JumpRelu => &[("b_enc", "b_enc"), ("threshold", "threshold")],
    }
}

fn read(
    class: Class,
    tensors: &Tensors<'_>,
    trainer: Option<&Fields>,
) -> Result<Parts, CoderError> {
    let [enc, dec, b_dec] = class.names();
    let lie = class.encoder();
    let other = match lie {
        Latents::Rows => Latents::Columns,
        Latents::Columns => Latents::Rows,
    };
    let shape = match trainer {
        Some(t) if t.has("dict_size") && t.has("activation_dim") => {
            [t.size("dict_size")?, t.size("activation_dim")?]
        }
        _ => sizes(tensors, enc, lie)?,
    };
    let [d_sae, d_in] = shape;
    let mut read = vec![];
    for (theirs, ours) in vectors(class) {
        let values = match *ours {
            "threshold" => thresholds(tensors, theirs, d_sae)?,
            _ => tensors.f32(theirs, &[d_sae])?,
        };
        read.push((*ours, values));
    }
    let architecture = match class {
        Class::AutoEncoder | Class::AutoEncoderNew => Architecture::Standard,
        Class::Gated => Architecture::Gated,
        Class::JumpRelu => Architecture::JumpRelu,
        Class::TopK => {
            let k = number_active(tensors, trainer, d_sae)?;
            Architecture::TopK { k }
        }
        Class::BatchTopK | Class::Matryoshka => {
            if class == Class::Matryoshka {
                groups(tensors, d_sae)?;
            }
            read.push(("threshold", vec![batch_threshold(tensors)?; d_sae]));
            Architecture::JumpRelu
        }
    };
    Ok(Parts {
        architecture,
        apply_b_dec_to_input: class.subtracts(),
        w_enc: latents(tensors, enc, shape, lie)?,
        w_dec: latents(tensors, dec, shape, other)?,
        b_dec: tensors.f32(b_dec, &[d_in])?,
        w_skip: None,
        vectors: read,
    })
}

/// `k` of the file, which must be that of the configuration where both have one.
fn number_active(
    tensors: &Tensors<'_>,
    trainer: Option<&Fields>,
    d_sae: usize,
) -> Result<usize, CoderError> {
    let stored = match tensors.has("k") {
        true => Some(tensors.whole("k")?),
        false => None,
    };
    let told = match trainer {
        Some(trainer) if trainer.has("k") => Some(trainer.size("k")? as u64),
        _ => None,
    };
    let wrong = |found: String, expected: String| {
        CoderError::format(tensors.path(), "tensor `k`", found, expected)
    };
    let k = match (stored, told) {
        (Some(a), Some(b)) if a != b => {
            return Err(wrong(a.to_string(), format!("{b}, as config.json has it")));
        }
        (Some(k), _) | (None, Some(k)) => k,
        (None, None) => return Err(wrong("nothing".into(), "k, here or in config.json".into())),
    };
    let most = d_sae as u64;
    match (1..=most).contains(&k) {
        true => Ok(k as usize),
        false => Err(wrong(k.to_string(), format!("1 to dict_size = {d_sae}"))),
    }
}

/// The one threshold of a BatchTopK; below 0 it was never set.
fn batch_threshold(tensors: &Tensors<'_>) -> Result<f32, CoderError> {
    let expected = "the threshold that inference uses";
    let wrong =
        |found: &str| CoderError::format(tensors.path(), "tensor `threshold`", found, expected);
    if !tensors.has("threshold") {
        return Err(wrong("nothing"));
    }
    let value = tensors.f32("threshold", &[])?[0];
    match value >= 0.0 {
        true => Ok(value),
        false => Err(wrong(&format!(
            "{value}: training ended before it was set (threshold_start_step)"
        ))),
    }
}

/// Groups must be all latents.
fn groups(tensors: &Tensors<'_>, d_sae: usize) -> Result<(), CoderError> {
    let sizes = tensors.wholes("group_sizes", d_sae)?;
    let sum = sizes.iter().try_fold(0u64, |sum, s| sum.checked_add(*s));
    match sum == Some(d_sae as u64) {
        true => Ok(()),
        false => Err(CoderError::format(
            tensors.path(),
            "tensor `group_sizes`",
            format!("{sizes:?}").chars().take(60).collect::<String>(),
            format!("sizes that add up to dict_size = {d_sae}"),
        )),
    }
}

/// What the trainer was told. A module's name is the user's own, but for the usual one of a
/// residual stream.
fn of_trainer(class: Class, config: &Fields, trainer: &Fields) -> Result<Provenance, FormatError> {
    let buffer = config.inner("buffer")?;
    let resid = trainer
        .text("submodule_name")
        .and_then(|name| name.strip_prefix("resid_post_layer_"))
        .and_then(|layer| layer.parse::<usize>().ok());
    let trained = match class {
        Class::BatchTopK => Some("batchtopk"),
        Class::Matryoshka => Some("matryoshka"),
        _ => None,
    };
    Ok(Provenance {
        model_name: trainer
            .text("lm_name")
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        sites: Sites::Autoencoder {
            at: resid.map(|layer| format!("blocks.{layer}.hook_resid_post")),
        },
        context: match buffer.has("ctx_len") {
            true => Some(buffer.size("ctx_len")?),
            false => None,
        },
        training_architecture: trained.map(str::to_owned),
        steps: trainer.read_as("steps"),
        ..Provenance::default()
    })
}
