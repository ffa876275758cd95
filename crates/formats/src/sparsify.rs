//! EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder named after a module, under
//! a folder with the run's `config.json`. Checked against eai-sparsify 1.3.3.
//!
//! Encoder and decoder are `[num_latents, d_in]` both. The coder is a TopK on `x − b_dec`, or on
//! `x` if it is a transcoder (`transcode`: from a module's input to its output), perhaps with
//! `W_skip` `[d_in, d_in]` on top. Whether rows were kept at norm 1 (`normalize_decoder`) is a
//! matter of training alone.

use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{Architecture, Coder, CoderError, Dictionary, Provenance, Sites};
use lapidary_io::Fields;
use lapidary_io::tensors::TensorWriter;
use lapidary_io::write_synced;
use lapidary_model::{BlockHook, HookPoint};
use serde_json::{Value, json};

use crate::container::Container;
use crate::error::FormatError;
use crate::layout::Layout;
use crate::parts::{Latents, Parts, latents};
use crate::place::Place;
use crate::{hooks, provenance};

const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae.safetensors";

pub(crate) struct Sparsify;

impl Layout for Sparsify {
    fn name(&self) -> &'static str {
        "sparsify"
    }

    fn signature(&self) -> &'static str {
        "cfg.json with sae.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        let there = place.has(CONFIG) && place.means(WEIGHTS);
        Ok(there.then(|| self.signature().into()))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        place.expect(&[CONFIG, WEIGHTS])?;
        let cfg = Fields::read(&place.join(CONFIG))?;
        let foreign = |found: &str, why: &str| FormatError::Foreign {
            path: place.join(CONFIG),
            found: found.into(),
            why: why.into(),
        };
        match cfg.text("activation") {
            Some("topk") => {}
            None if !cfg.has("activation") => {} // older files have no other
            Some("groupmax") => {
                let why = "the largest latent of each of k groups is no TopK";
                return Err(foreign("activation \"groupmax\"", why));
            }
            _ => return Err(cfg.wrong("activation", "\"topk\" or \"groupmax\"").into()),
        }
        if cfg.flag("signed", false)? {
            return Err(foreign("signed true", "latents below 0 are no TopK's"));
        }
        let transcodes = cfg.flag("transcode", false)?;
        let skips = cfg.flag("skip_connection", false)?;
        if skips && !transcodes {
            let why = "only transcoders have one here";
            return Err(foreign("skip_connection without transcode", why));
        }
        let d_in = cfg.size("d_in")?;
        let d_sae = match cfg.number("num_latents", 0.0)? == 0.0 {
            true => d_in
                .checked_mul(cfg.size("expansion_factor")?)
                .ok_or_else(|| cfg.wrong("expansion_factor", "one that fits memory"))?,
            false => cfg.size("num_latents")?,
        };
        let k = cfg.size_up_to("k", d_sae, "num_latents")?;

        let file = Container::open(&place.join(WEIGHTS))?;
        let tensors = file.tensors()?;
        let mut known = vec!["encoder.weight", "encoder.bias", "W_dec", "b_dec"];
        if skips {
            known.push("W_skip");
        }
        tensors.only(&known)?;
        let shape = [d_sae, d_in];
        let parts = Parts {
            architecture: Architecture::TopK { k },
            apply_b_dec_to_input: !transcodes,
            w_enc: latents(&tensors, "encoder.weight", shape, Latents::Rows)?,
            w_dec: latents(&tensors, "W_dec", shape, Latents::Rows)?,
            b_dec: tensors.f32("b_dec", &[d_in])?,
            w_skip: match skips {
                true => Some(tensors.f32("W_skip", &[d_in, d_in])?),
                false => None,
            },
            vectors: vec![("b_enc", tensors.f32("encoder.bias", &[d_sae])?)],
        };
        Ok(Dictionary {
            coder: parts.coder(device).into(),
            provenance: match provenance::read(&cfg)? {
                Some(ours) => ours,
                None => of_run(place, transcodes)?,
            },
        })
    }

    fn cannot_hold(&self, dictionary: &Dictionary) -> Option<String> {
        let coder = &dictionary.coder;
        if coder.as_cross_layer().is_some() {
            return Some("a cross-layer transcoder: its coders have one layer".into());
        }
        if dictionary.sites().are_several() {
            return Some("a crosscoder: its coders have one place".into());
        }
        match coder.architecture() {
            Architecture::TopK { .. } if coder.d_in() == coder.d_out() => None,
            Architecture::TopK { .. } => {
                Some("a coder with two widths: its transcoders have one".into())
            }
            other => Some(format!("a {other} coder: its coders are TopK")),
        }
    }

    fn write(&self, dictionary: &Dictionary, folder: &Path) -> Result<(), CoderError> {
        let transcodes = dictionary.transcodes();
        let coder = dictionary.coder.as_sparse();
        let coder = coder.expect("was asked for what it holds");
        let parts = Parts::of(coder)?.subtracting(!transcodes);
        let (d_in, d_sae) = (parts.d_in(), parts.d_sae());
        let mut tensors = TensorWriter::default();
        tensors.f32("encoder.weight", &[d_sae, d_in], &parts.w_enc);
        tensors.f32("encoder.bias", &[d_sae], &parts.vector("b_enc"));
        tensors.f32("W_dec", &[d_sae, d_in], &parts.w_dec);
        tensors.f32("b_dec", &[d_in], &parts.b_dec);
        if let Some(w_skip) = &parts.w_skip {
            tensors.f32("W_skip", &[d_in, d_in], w_skip);
        }
        tensors.write(&folder.join(WEIGHTS), None)?;
        let unit = parts.decoder_norms().iter().all(|n| (n - 1.0).abs() < 1e-3);
        let recipe = dictionary.provenance.recipe.as_ref();
        let multi_topk = recipe.and_then(|recipe| recipe.pointer("/coder/multi_topk"));
        let mut cfg = json!({
            "activation": "topk",
            "expansion_factor": d_sae.div_ceil(d_in),
            "normalize_decoder": unit,
            "num_latents": d_sae,
            "k": coder.k(),
            "multi_topk": multi_topk.and_then(Value::as_bool).unwrap_or(false),
            "skip_connection": parts.w_skip.is_some(),
            "transcode": transcodes,
            "d_in": d_in,
        });
        let (key, ours) = provenance::written(&dictionary.provenance);
        cfg[key] = ours;
        let text = serde_json::to_string_pretty(&cfg).expect("JSON values");
        write_synced(&folder.join(CONFIG), text.as_bytes())
            .map_err(|e| CoderError::write(folder, e))
    }
}

/// What the run's configuration, a folder above, and the folder's own name say. A transcoder reads
/// the module's input: that of a whole layer is a hook point, that of its MLP, which is normalized
/// and weighed, is none.
fn of_run(place: &Place, transcodes: bool) -> Result<Provenance, FormatError> {
    let above = place.join("..").join("config.json");
    let run = match above.is_file() {
        true => Some(Fields::read(&above)?),
        false => None,
    };
    let text = |field: &str| run.as_ref().and_then(|r| r.text(field)).map(str::to_owned);
    let model = text("model");
    let module = place.components().into_iter().next().unwrap_or_default();
    let output = hooks::of_module(&module, model.as_deref());
    let input = match output {
        _ if !transcodes => output,
        Some(HookPoint::Block(layer, BlockHook::ResidPost)) => {
            Some(HookPoint::Block(layer, BlockHook::ResidPre))
        }
        _ => None,
    };
    let named = |hook: Option<HookPoint>| hook.map(|h| h.to_string());
    Ok(Provenance {
        sites: match transcodes {
            true => Sites::Transcoder {
                from: named(input),
                to: named(output),
            },
            false => Sites::Autoencoder { at: named(input) },
        },
        context: match &run {
            Some(run) if run.has("ctx_len") => Some(run.size("ctx_len")?),
            _ => None,
        },
        corpus: text("dataset"),
        model_name: model,
        ..Provenance::default()
    })
}
