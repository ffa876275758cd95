//! circuit-tracer's cross-layer transcoders: of each layer N `W_enc_N.safetensors` with `W_enc_N`
//! `[d_transcoder, d_model]`, `b_enc_N`, `b_dec_N` and, of a JumpReLU, `threshold_N`, and
//! `W_dec_N.safetensors` with `W_dec_N` `[d_transcoder, layers − N, d_model]`: what its latents
//! write at each layer from their own on. Checked against circuit-tracer 0.5.0.

use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{
    Architecture, Coder, CoderError, CrossLayerTranscoder, Dictionary, MOST_LAYERS, Provenance,
    Sites, SparseCoder, Weights, host, matrix, vector,
};
use lapidary_io::Fields;
use lapidary_io::tensors::TensorWriter;
use lapidary_io::write_synced;
use lapidary_model::HookPoint;
use serde_json::Value;

use super::{CONFIG, layer_of, numbered};
use crate::container::Container;
use crate::error::FormatError;
use crate::parts::thresholds;
use crate::place::Place;
use crate::provenance;

pub(super) const KIND: &str = "cross_layer_transcoder";
/// Before the number in the names of a layer's two files.
pub(super) const ENCODER: &str = "W_enc_";
pub(super) const DECODER: &str = "W_dec_";
/// Where their loader takes a cross-layer transcoder to read and write if nothing else is said.
const INPUT: &str = "hook_resid_mid";
const OUTPUT: &str = "hook_mlp_out";

fn file(prefix: &str, layer: usize) -> String {
    format!("{prefix}{layer}.safetensors")
}

/// How many layers there are, by the files of a folder.
fn layers(place: &Place) -> Result<usize, CoderError> {
    let wrong =
        |found: String, expected: String| CoderError::format(&place.path, "files", found, expected);
    if place.path.is_file() {
        let expected = "the folder, in which each layer has two".to_owned();
        return Err(wrong(
            "one file of a cross-layer transcoder".into(),
            expected,
        ));
    }
    let found = |prefix| {
        let layers = place.meant().iter().filter_map(|n| numbered(n, prefix));
        layers.max().map_or(0, |last| last.saturating_add(1))
    };
    let count = found(ENCODER).max(found(DECODER)).max(1);
    if count > MOST_LAYERS {
        return Err(wrong(
            format!("layer {}", count - 1),
            format!("at most {MOST_LAYERS} layers"),
        ));
    }
    for layer in 0..count {
        for prefix in [ENCODER, DECODER] {
            if !place.has(&file(prefix, layer)) {
                return Err(wrong(place.describe(), file(prefix, layer)));
            }
        }
    }
    Ok(count)
}

pub(super) fn read(
    place: &Place,
    config: Option<&Fields>,
    device: &Device,
) -> Result<Dictionary, FormatError> {
    if let Some(config) = config {
        config.only("model_kind", &[KIND])?;
        config.only("activation", &["relu", "jumprelu"])?;
        if config.has("k") {
            return Err(FormatError::Foreign {
                path: place.path.clone(),
                found: format!("k in {CONFIG}"),
                why: "cross-layer transcoders are read as ReLU or JumpReLU".into(),
            });
        }
    }
    let count = layers(place)?;
    let (mut sizes, mut jumps) = (None, false);
    let (mut each, mut b_dec) = (vec![], vec![]);
    for layer in 0..count {
        let named = |name: &str| format!("{name}_{layer}");
        let path = place.join(&file(ENCODER, layer));
        let container = Container::open(&path)?;
        let tensors = container.tensors()?;
        let [w_enc, b_enc, bias, threshold] = ["W_enc", "b_enc", "b_dec", "threshold"].map(&named);
        if layer == 0 {
            jumps = tensors.has(&threshold);
        }
        let mut known = vec![w_enc.as_str(), &b_enc, &bias];
        known.extend(jumps.then_some(threshold.as_str()));
        tensors.only(&known)?;
        // The biases say the sizes, so that a matrix that lies the other way is seen.
        let length = |name: &str| match tensors.shape(name).as_deref() {
            Some([n]) if *n > 0 => Ok(*n),
            other => Err(CoderError::format(
                &path,
                format!("tensor `{name}`"),
                other.map_or("none".into(), |shape| format!("shape {shape:?}")),
                "a vector",
            )),
        };
        let (d_sae, d) = match sizes {
            Some(sizes) => sizes,
            None => *sizes.insert((length(&b_enc)?, length(&bias)?)),
        };
        let mut weights = Weights::default()
            .with(
                "w_enc",
                matrix(tensors.f32(&w_enc, &[d_sae, d])?, [d_sae, d], device),
            )
            .with("b_enc", vector(tensors.f32(&b_enc, &[d_sae])?, device));
        b_dec.extend(tensors.f32(&bias, &[d])?);
        if jumps {
            let read = thresholds(&tensors, &threshold, d_sae)?;
            weights = weights.with("threshold", vector(read, device));
        }
        let container = Container::open(&place.join(&file(DECODER, layer)))?;
        let tensors = container.tensors()?;
        let name = named("W_dec");
        tensors.only(&[name.as_str()])?;
        let later = count - layer;
        let w_dec = tensors.f32(&name, &[d_sae, later, d])?;
        each.push(SparseCoder {
            architecture: match jumps {
                true => Architecture::JumpRelu,
                false => Architecture::Standard,
            },
            apply_b_dec_to_input: false,
            weights: weights.with("w_dec", matrix(w_dec, [d_sae, later * d], device)),
        });
    }
    Ok(Dictionary {
        coder: CrossLayerTranscoder::new(each, vector(b_dec, device)).into(),
        provenance: provenance_of(config, count)?,
    })
}

fn provenance_of(config: Option<&Fields>, count: usize) -> Result<Provenance, CoderError> {
    let hooks = |field: &str, usual: &str| -> Vec<String> {
        let name = config.and_then(|c| c.text(field)).unwrap_or(usual);
        let hook = |layer| {
            // Theirs are TransformerLens's, of which some have other names here.
            let hook = format!("blocks.{layer}.{name}");
            let known = hook.parse::<HookPoint>().map(|h| h.to_string());
            known.unwrap_or(hook)
        };
        (0..count).map(hook).collect()
    };
    let read = hooks("feature_input_hook", INPUT);
    let ours = match config {
        Some(config) => provenance::read(config)?,
        None => None,
    };
    Ok(match ours {
        Some(ours) if ours.sites.read() == read => ours,
        _ => Provenance {
            model_name: config.and_then(|c| c.text("model_name")).map(str::to_owned),
            sites: Sites::CrossLayer {
                from: read,
                to: hooks("feature_output_hook", OUTPUT),
            },
            ..Provenance::default()
        },
    })
}

/// The places in a layer at which it reads and writes, after `blocks.N.`, if it has every layer
/// from 0 on and these are the same in all.
fn ends(dictionary: &Dictionary, coder: &CrossLayerTranscoder) -> Option<[String; 2]> {
    let Sites::CrossLayer { from, to } = dictionary.sites() else {
        return None;
    };
    let count = coder.layers().len();
    let place = |hooks: &[String]| {
        let first = layer_of(hooks.first().map(String::as_str))?.1;
        let alike = hooks
            .iter()
            .enumerate()
            .all(|(layer, hook)| layer_of(Some(hook)).is_some_and(|found| found == (layer, first)));
        (alike && hooks.len() == count).then(|| first.to_owned())
    };
    Some([place(from)?, place(to)?])
}

/// What of a cross-layer transcoder the format has no place for.
pub(super) fn cannot_hold(dictionary: &Dictionary, coder: &CrossLayerTranscoder) -> Option<String> {
    let architecture = coder.architecture();
    if !matches!(
        architecture,
        Architecture::Standard | Architecture::JumpRelu
    ) {
        return Some(format!(
            "a {architecture} cross-layer transcoder: its own are ReLU and JumpReLU"
        ));
    }
    match ends(dictionary, coder) {
        Some(_) => None,
        None => Some(
            "this cross-layer transcoder: it must have the same input and the same output hook point in each layer, from layer 0 on"
                .into(),
        ),
    }
}

pub(super) fn write(
    dictionary: &Dictionary,
    coder: &CrossLayerTranscoder,
    folder: &Path,
) -> Result<(), CoderError> {
    let [input, output] = ends(dictionary, coder).expect("was asked for what it holds");
    let count = coder.layers().len();
    let b_dec = host(&coder.b_dec())?;
    let d = b_dec.len() / count;
    for (layer, own) in coder.layers().iter().enumerate() {
        let d_sae = own.d_sae();
        let mut encoder = TensorWriter::default();
        let w_enc = host(&own.w_enc())?;
        encoder.f32(&format!("W_enc_{layer}"), &[d_sae, d], &w_enc);
        encoder.f32(&format!("b_enc_{layer}"), &[d_sae], &host(&own.b_enc())?);
        encoder.f32(&format!("b_dec_{layer}"), &[d], &b_dec[layer * d..][..d]);
        if let Some(threshold) = own.threshold() {
            encoder.f32(&format!("threshold_{layer}"), &[d_sae], &host(&threshold)?);
        }
        encoder.write(&folder.join(file(ENCODER, layer)), None)?;
        let mut decoder = TensorWriter::default();
        let w_dec = host(&own.w_dec())?;
        decoder.f32(
            &format!("W_dec_{layer}"),
            &[d_sae, count - layer, d],
            &w_dec,
        );
        decoder.write(&folder.join(file(DECODER, layer)), None)?;
    }
    let from = &dictionary.provenance;
    let model = from.model_name.as_deref().unwrap_or_default();
    let text = super::config([
        ("model_name", Value::from(model)),
        ("model_kind", KIND.into()),
        ("feature_input_hook", input.into()),
        ("feature_output_hook", output.into()),
        ("scan", model.into()),
        provenance::written(from),
    ]);
    write_synced(&folder.join(CONFIG), text.as_bytes()).map_err(|e| CoderError::write(folder, e))
}
