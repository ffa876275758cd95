//! Llamascopium (once Language-Model-SAEs): `config.json` with `sae_type`, and
//! `sae_weights.safetensors` with `W_E` `[d_model, d_sae]` and `W_D` `[d_sae, d_model]`. Read only;
//! checked against llamascopium 2.0.0b34.
//!
//! `b_D` is not subtracted before encoding. With `sparsity_include_decoder_norm` latents are chosen
//! by their pre-activation times the norm of their decoder row. Weights of `norm_activation`
//! "dataset-wise" take activations scaled to the norm √d_model; the scale is folded in, so that
//! codes are those of raw activations.

use burn::tensor::Device;
use lapidary_coder::{Architecture, CoderError, Dictionary, Provenance, SiteKeys};
use lapidary_io::Fields;
use lapidary_io::tensors::Tensors;

use crate::container::Container;
use crate::error::FormatError;
use crate::layout::Layout;
use crate::parts::{Latents, Parts, latents};
use crate::place::Place;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "sae_weights.safetensors";
const THRESHOLD: &str = "activation_function.log_jumprelu_threshold";
/// Before the name of a hook point: the average norm of its activations.
const NORM: &str = "dataset_average_activation_norm.";

pub(crate) struct Llamascopium;

impl Layout for Llamascopium {
    fn name(&self) -> &'static str {
        "llamascopium"
    }

    fn signature(&self) -> &'static str {
        "config.json (sae_type) with sae_weights.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        if !place.has(CONFIG) || !place.means(WEIGHTS) {
            return Ok(None);
        }
        let typed = Fields::read(&place.join(CONFIG))?.has("sae_type");
        Ok(typed.then(|| self.signature().into()))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        place.expect(&[CONFIG, WEIGHTS])?;
        let config = Fields::read(&place.join(CONFIG))?;
        let foreign = |found: String, why: &str| FormatError::Foreign {
            path: place.join(CONFIG),
            found,
            why: why.into(),
        };
        let kind = config.text("sae_type").unwrap_or_default();
        if kind != "sae" {
            let found = format!("sae_type {kind:?}");
            return Err(foreign(found, "only its SAEs have a coder here"));
        }
        if config.flag("use_glu_encoder", false)? {
            let found = "use_glu_encoder true".into();
            return Err(foreign(found, "no coder here has a gated encoder"));
        }
        let (hook_in, hook_out) = (config.text("hook_point_in"), config.text("hook_point_out"));
        let transcodes = hook_in != hook_out;
        let d_in = config.size("d_model")?;
        let d_sae = d_in as f64 * config.number("expansion_factor", 0.0)?;
        if !(1.0..2f64.powi(31)).contains(&d_sae) {
            return Err(config
                .wrong(
                    "expansion_factor",
                    "a number, with d_sae from 1 to 2147483647",
                )
                .into());
        }
        let d_sae = d_sae as usize; // theirs cuts off what is not whole
        let file = Container::open(&place.join(WEIGHTS))?;
        let tensors = file.tensors()?;
        let norms: Vec<&str> = tensors.names().filter(|n| n.starts_with(NORM)).collect();
        let mut known = vec!["W_E", "b_E", "W_D", "b_D", THRESHOLD];
        known.extend(&norms);
        tensors.only(&known)?;
        let scale_of =
            |hook: Option<&str>| scale(&config, &tensors, hook.unwrap_or_default(), d_in);
        let (scale, scale_out) = (scale_of(hook_in)?, scale_of(hook_out)?);
        let shape = [d_sae, d_in];
        let biased = config.flag("use_decoder_bias", true)?;
        let mut parts = Parts {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: false,
            w_enc: latents(&tensors, "W_E", shape, Latents::Columns)?,
            w_dec: latents(&tensors, "W_D", shape, Latents::Rows)?,
            b_dec: match biased {
                true => divided(tensors.f32("b_D", &[d_in])?, scale_out),
                false => vec![0.0; d_in],
            },
            w_skip: None,
            vectors: vec![("b_enc", divided(tensors.f32("b_E", &[d_sae])?, scale))],
        };
        let weighed = config.flag("sparsity_include_decoder_norm", true)?;
        match config.text("act_fn").unwrap_or("relu") {
            "relu" => {}
            "jumprelu" => {
                parts.architecture = Architecture::JumpRelu;
                let logs = tensors.f32(THRESHOLD, &[d_sae])?;
                let norms = parts.decoder_norms();
                let each = logs.iter().zip(norms).map(|(log, norm)| {
                    let norm = if weighed { norm } else { 1.0 };
                    (f64::from(*log).exp() / norm / scale) as f32 // by a row of zeros: infinite
                });
                parts.vectors.push(("threshold", each.collect()));
            }
            "topk" => {
                parts.architecture = Architecture::TopK {
                    k: config.size_up_to("top_k", d_sae, "d_sae")?,
                };
                if weighed {
                    weigh(&mut parts);
                }
            }
            other => {
                let found = format!("act_fn {other:?}");
                let why = "what it chooses depends on the batch; make it a JumpReLU first";
                return Err(foreign(found, why));
            }
        }
        // Codes are those of raw activations, so rows take over how the two ends' scales differ.
        parts.w_dec = divided(parts.w_dec, scale_out / scale);
        Ok(Dictionary {
            coder: parts.coder(device).into(),
            provenance: Provenance {
                sites: SiteKeys {
                    hook_point: hook_in.map(str::to_owned),
                    hook_point_out: hook_out.filter(|_| transcodes).map(str::to_owned),
                    ..SiteKeys::default()
                }
                .into(),
                normalization: config.text("norm_activation").map(str::to_owned),
                ..Provenance::default()
            },
        })
    }
}

/// What activations are multiplied by before they are encoded.
fn scale(
    config: &Fields,
    tensors: &Tensors<'_>,
    hook: &str,
    d_in: usize,
) -> Result<f64, CoderError> {
    match config.text("norm_activation").unwrap_or("dataset-wise") {
        "inference" => Ok(1.0),
        "dataset-wise" => {
            let name = format!("{NORM}{hook}");
            let shape = tensors.shape(&name).unwrap_or_default();
            let norm = tensors.f32(&name, &shape)?.first().copied().unwrap_or(0.0);
            match norm > 0.0 {
                true => Ok((d_in as f64).sqrt() / f64::from(norm)),
                false => Err(CoderError::format(
                    tensors.path(),
                    format!("tensor `{name}`"),
                    norm.to_string(),
                    "an average norm, above 0",
                )),
            }
        }
        _ => Err(config
            .wrong(
                "norm_activation",
                "\"dataset-wise\" or \"inference\": others scale each token by its own norm",
            )
            .into()),
    }
}

fn divided(values: Vec<f32>, by: f64) -> Vec<f32> {
    let each = values.into_iter().map(|v| (f64::from(v) / by) as f32);
    each.collect()
}

/// Latents times the norms of their decoder rows, by which a TopK chooses them. Their values are
/// then larger by that norm than theirs, and rows have norm 1.
fn weigh(parts: &mut Parts) {
    let norms = parts.decoder_norms();
    let d_in = parts.d_in();
    for (i, norm) in norms.into_iter().enumerate() {
        let row = i * d_in..(i + 1) * d_in;
        for w in &mut parts.w_enc[row.clone()] {
            *w = (f64::from(*w) * norm) as f32;
        }
        for (_, values) in &mut parts.vectors {
            values[i] = (f64::from(values[i]) * norm) as f32;
        }
        if norm > 0.0 {
            for w in &mut parts.w_dec[row] {
                *w = (f64::from(*w) / norm) as f32;
            }
        }
    }
}
