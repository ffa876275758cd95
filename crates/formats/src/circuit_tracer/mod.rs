//! circuit-tracer: a set of transcoders, one a layer, in `layer_N.safetensors` with `config.yaml`,
//! or a [cross-layer transcoder](cross_layer). Checked against circuit-tracer 0.5.0.
//!
//! Encoder and decoder are `[d_transcoder, d_model]` both, `W_skip` is `[d_model, d_model]`; a
//! JumpReLU where there is `activation_function.threshold`, else a ReLU. `config.yaml` says where
//! in each layer they read and write.

mod cross_layer;

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{AnyCoder, Architecture, Coder, CoderError, Dictionary, Provenance, Sites};
use lapidary_io::Fields;
use lapidary_io::tensors::TensorWriter;
use lapidary_io::write_synced;
use lapidary_model::HookPoint;
use serde_json::Value;

use crate::container::Container;
use crate::error::FormatError;
use crate::layout::Layout;
use crate::parts::{Latents, Parts, latents, sizes, thresholds};
use crate::place::Place;
use crate::{provenance, yaml};

const CONFIG: &str = "config.yaml";
const THRESHOLD: &str = "activation_function.threshold";

pub(crate) struct CircuitTracer;

impl Layout for CircuitTracer {
    fn name(&self) -> &'static str {
        "circuit_tracer"
    }

    fn signature(&self) -> &'static str {
        "layer_N.safetensors or W_enc_N.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        let any = |prefix| place.meant().iter().any(|n| numbered(n, prefix).is_some());
        let across = any(cross_layer::ENCODER) || any(cross_layer::DECODER);
        Ok(match (any("layer_"), across) {
            (true, _) => Some("layer_N.safetensors".into()),
            (_, true) => Some("W_enc_N.safetensors".into()),
            _ => None,
        })
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        let config = match place.here_or_above(CONFIG) {
            Some(path) => Some(yaml::read(&path)?),
            None => None,
        };
        let kind = config.as_ref().and_then(|c| c.text("model_kind"));
        let across = place.meant().iter().any(|n| {
            let number = numbered(n, cross_layer::ENCODER);
            number.or(numbered(n, cross_layer::DECODER)).is_some()
        });
        if across || kind == Some(cross_layer::KIND) {
            return cross_layer::read(place, config.as_ref(), device);
        }
        if let Some(config) = &config {
            config.only("model_kind", &["transcoder_set"])?;
            config.only("activation", &["relu", "jumprelu"])?;
            if config.has("k") {
                return Err(FormatError::Foreign {
                    path: place.path.clone(),
                    found: format!("k in {CONFIG}"),
                    why: "a set's transcoders are read as ReLU or JumpReLU".into(),
                });
            }
        }
        let path = place.only("one layer_N.safetensors", |n| {
            numbered(n, "layer_").is_some()
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let layer = numbered(&name, "layer_").unwrap_or_default();
        let file = Container::open(&path)?;
        let tensors = file.tensors()?;
        tensors.only(&["W_enc", "b_enc", "W_dec", "b_dec", "W_skip", THRESHOLD])?;
        // The format's one width is that of the decoder's bias, by which a matrix that lies
        // transposed is seen.
        let [d_sae, d_in] = sizes(&tensors, "W_enc", Latents::Rows)?;
        let shape = [d_sae, d_in];
        let mut parts = Parts {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: false,
            w_enc: latents(&tensors, "W_enc", shape, Latents::Rows)?,
            w_dec: latents(&tensors, "W_dec", shape, Latents::Rows)?,
            b_dec: tensors.f32("b_dec", &[d_in])?,
            w_skip: match tensors.has("W_skip") {
                true => Some(tensors.f32("W_skip", &[d_in, d_in])?),
                false => None,
            },
            vectors: vec![("b_enc", tensors.f32("b_enc", &[d_sae])?)],
        };
        if tensors.has(THRESHOLD) {
            parts.architecture = Architecture::JumpRelu;
            let read = thresholds(&tensors, THRESHOLD, d_sae)?;
            parts.vectors.push(("threshold", read));
        }
        Ok(Dictionary {
            coder: parts.coder(device).into(),
            provenance: of_set(config.as_ref(), layer)?,
        })
    }

    fn members(&self, place: &Place) -> Vec<String> {
        let numbered = |name: &String| Some((numbered(name, "layer_")?, name.clone()));
        let mut layers: Vec<(usize, String)> = place.meant().iter().filter_map(numbered).collect();
        layers.sort();
        layers.into_iter().map(|(_, name)| name).collect()
    }

    fn cannot_hold(&self, dictionary: &Dictionary) -> Option<String> {
        let coder = &dictionary.coder;
        if !dictionary.transcodes() {
            return Some("an autoencoder: it is for transcoders".into());
        }
        if let Some(coder) = coder.as_cross_layer() {
            return cross_layer::cannot_hold(dictionary, coder);
        }
        let other = coder.architecture();
        if !matches!(other, Architecture::Standard | Architecture::JumpRelu) {
            return Some(format!(
                "a {other} transcoder: its transcoders are ReLU and JumpReLU"
            ));
        }
        if coder.d_in() != coder.d_out() {
            return Some("a transcoder with two widths: its transcoders have one".into());
        }
        match ends(dictionary) {
            Some(_) => None,
            None => Some(
                "a transcoder that does not name its input and output hook points, or whose hook points are in two layers"
                    .into(),
            ),
        }
    }

    fn cannot_join(&self, dictionaries: &[Dictionary]) -> Option<String> {
        if dictionaries
            .iter()
            .any(|d| d.coder.as_cross_layer().is_some())
        {
            return Some("a cross-layer transcoder and another dictionary together".into());
        }
        let all: Vec<Ends> = dictionaries.iter().filter_map(ends).collect();
        let same = |a: &Ends, b: &Ends| a.input == b.input && a.output == b.output;
        if let Some(other) = all.iter().find(|e| !same(e, &all[0])) {
            return Some(format!(
                "transcoders of different places together: {} to {}, and {} to {}",
                all[0].input, all[0].output, other.input, other.output
            ));
        }
        let layers: BTreeSet<usize> = all.iter().map(|e| e.layer).collect();
        if layers.len() < all.len() {
            return Some("two transcoders of one layer".into());
        }
        let sizes = |d: &Dictionary| (d.coder.d_sae(), d.coder.d_in());
        let first = sizes(&dictionaries[0]);
        let other = dictionaries.iter().map(sizes).find(|s| *s != first);
        other.map(|other| {
            format!("transcoders of different sizes together: {first:?} and {other:?}")
        })
    }

    fn write(&self, dictionary: &Dictionary, folder: &Path) -> Result<(), CoderError> {
        let ends = ends(dictionary);
        let (coder, ends) = match (&dictionary.coder, ends) {
            (AnyCoder::CrossLayer(coder), _) => {
                return cross_layer::write(dictionary, coder, folder);
            }
            (AnyCoder::Sparse(coder), ends) => (coder, ends.expect("was asked for what it holds")),
        };
        let parts = Parts::of(coder)?;
        let (d_in, d_sae) = (parts.d_in(), parts.d_sae());
        let mut tensors = TensorWriter::default();
        tensors.f32("W_enc", &[d_sae, d_in], &parts.w_enc);
        tensors.f32("W_dec", &[d_sae, d_in], &parts.w_dec);
        tensors.f32("b_enc", &[d_sae], &parts.vector("b_enc"));
        tensors.f32("b_dec", &[d_in], &parts.b_dec);
        if parts.architecture == Architecture::JumpRelu {
            tensors.f32(THRESHOLD, &[d_sae], &parts.vector("threshold"));
        }
        if let Some(w_skip) = &parts.w_skip {
            tensors.f32("W_skip", &[d_in, d_in], w_skip);
        }
        tensors.write(&folder.join(layer_file(ends.layer)), None)?;
        let from = &dictionary.provenance;
        let model = from.model_name.as_deref().unwrap_or_default();
        let text = config([
            ("model_name", Value::from(model)),
            ("model_kind", "transcoder_set".into()),
            ("feature_input_hook", ends.input.into()),
            ("feature_output_hook", ends.output.into()),
            ("scan", model.into()),
            provenance::written(from),
        ]);
        write_synced(&folder.join(CONFIG), text.as_bytes())
            .map_err(|e| CoderError::write(folder, e))
    }

    fn file(&self, dictionary: &Dictionary) -> Option<String> {
        if dictionary.coder.as_cross_layer().is_some() {
            return None;
        }
        ends(dictionary).map(|ends| layer_file(ends.layer))
    }

    fn sample(&self, dictionary: &Dictionary) -> String {
        if dictionary.coder.as_cross_layer().is_some() {
            return crate::SAMPLE.into();
        }
        // Theirs counts the files that begin with `layer_`.
        match layer_of(dictionary.sites().first_read()) {
            Some((layer, _)) => format!("lapidary_sample_{layer}.safetensors"),
            None => crate::SAMPLE.into(),
        }
    }
}

/// The text of `config.yaml`: each value is JSON, which is YAML too.
fn config<const N: usize>(fields: [(&str, Value); N]) -> String {
    let line = |(key, value): (&str, Value)| format!("{key}: {value}\n");
    fields.into_iter().map(line).collect()
}

/// Where a transcoder reads and writes.
struct Ends {
    layer: usize,
    /// After `blocks.N.`.
    input: String,
    output: String,
}

fn ends(dictionary: &Dictionary) -> Option<Ends> {
    let Sites::Transcoder { from, to } = dictionary.sites() else {
        return None;
    };
    let (layer, input) = layer_of(from.as_deref())?;
    let (other, output) = layer_of(to.as_deref())?;
    (layer == other).then(|| Ends {
        layer,
        input: input.to_owned(),
        output: output.to_owned(),
    })
}

/// `blocks.N.name`
fn layer_of(hook: Option<&str>) -> Option<(usize, &str)> {
    let (layer, name) = hook?.strip_prefix("blocks.")?.split_once('.')?;
    Some((layer.parse().ok()?, name))
}

fn layer_file(layer: usize) -> String {
    format!("layer_{layer}.safetensors")
}

/// N of `prefixN.safetensors`.
fn numbered(name: &str, prefix: &str) -> Option<usize> {
    let number = name.strip_prefix(prefix)?.strip_suffix(".safetensors")?;
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|_| digits)
}

/// What the set's configuration says of a layer. What is said under our own key is of one layer,
/// that which was written last.
fn of_set(config: Option<&Fields>, layer: usize) -> Result<Provenance, CoderError> {
    let hook = |field: &str| {
        let name = config.and_then(|c| c.text(field))?;
        // Theirs are TransformerLens's, of which some have other names here.
        let hook = format!("blocks.{layer}.{name}");
        let known = hook.parse::<HookPoint>().map(|h| h.to_string());
        Some(known.unwrap_or(hook))
    };
    let (input, output) = (hook("feature_input_hook"), hook("feature_output_hook"));
    let ours = match config {
        Some(config) => provenance::read(config)?,
        None => None,
    };
    match ours {
        Some(ours) if ours.sites.first_read() == input.as_deref() => Ok(ours),
        _ => Ok(Provenance {
            model_name: config.and_then(|c| c.text("model_name")).map(str::to_owned),
            sites: Sites::Transcoder {
                from: input,
                to: output,
            },
            ..Provenance::default()
        }),
    }
}
