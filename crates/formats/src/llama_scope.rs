//! OpenMOSS's Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors` with two
//! `nn.Linear`s. Read only, as SAELens 6.54's loader reads it: activations were scaled to the norm
//! √d_model, which is folded in, and the one threshold is scaled alike.

use burn::tensor::Device;
use lapidary_coder::{Architecture, Dictionary, Provenance, SiteKeys};
use lapidary_io::Fields;

use crate::container::Container;
use crate::error::FormatError;
use crate::layout::Layout;
use crate::parts::{Latents, Parts, latents};
use crate::place::Place;

const CONFIG: &str = "hyperparams.json";
const WEIGHTS: &str = "final.safetensors";

pub(crate) struct LlamaScope;

impl Layout for LlamaScope {
    fn name(&self) -> &'static str {
        "llama_scope"
    }

    fn signature(&self) -> &'static str {
        "hyperparams.json with checkpoints/final.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        let there =
            place.means(CONFIG) || (place.means(WEIGHTS) && place.here_or_above(CONFIG).is_some());
        Ok(there.then(|| CONFIG.into()))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        place.expect(&[CONFIG, WEIGHTS])?;
        let path = place.here_or_above(CONFIG);
        let config = Fields::read(&path.unwrap_or_else(|| place.join(CONFIG)))?;
        config.only("act_fn", &["jumprelu"])?;
        config.only("norm_activation", &["dataset-wise"])?;
        let foreign = |found: &str, why: &str| FormatError::Foreign {
            path: place.join(CONFIG),
            found: found.into(),
            why: why.into(),
        };
        if config.flag("use_glu_encoder", false)? {
            return Err(foreign(
                "use_glu_encoder true",
                "no coder here has a gated encoder",
            ));
        }
        let (hook_in, hook_out) = (config.text("hook_point_in"), config.text("hook_point_out"));
        let transcodes = hook_out.is_some() && hook_in != hook_out;
        let d_in = config.size("d_model")?;
        let d_sae = config.size("d_sae")?;
        let norms = config.inner("dataset_average_activation_norm")?;
        let scale_of = |end: &str| match norms.number(end, 0.0)? {
            0.0 => Err(norms.wrong(end, "the average norm of activations, above 0")),
            norm => Ok((d_in as f64).sqrt() / norm),
        };
        let scale = scale_of("in")?;
        let scale_out = match transcodes {
            true => scale_of("out")?,
            false => scale,
        };
        if !config.has("jump_relu_threshold") {
            return Err(config
                .wrong("jump_relu_threshold", "a number, 0 or more")
                .into());
        }
        let threshold = config.number("jump_relu_threshold", 0.0)? * scale;

        let deeper = place.join("checkpoints").join(WEIGHTS);
        let weights = match place.means(WEIGHTS) {
            true => place.join(WEIGHTS),
            false => deeper,
        };
        let file = Container::open(&weights)?;
        let tensors = file.tensors()?;
        let known = [
            "encoder.weight",
            "encoder.bias",
            "decoder.weight",
            "decoder.bias",
        ];
        tensors.only(&known)?;
        let shape = [d_sae, d_in];
        let mut w_enc = latents(&tensors, "encoder.weight", shape, Latents::Rows)?;
        let mut w_dec = latents(&tensors, "decoder.weight", shape, Latents::Columns)?;
        let mut b_dec = tensors.f32("decoder.bias", &[d_in])?;
        let by = |values: &mut [f32], factor: f64| {
            for v in values {
                *v = (f64::from(*v) * factor) as f32;
            }
        };
        by(&mut w_enc, scale);
        by(&mut w_dec, 1.0 / scale_out);
        by(&mut b_dec, 1.0 / scale_out);
        let parts = Parts {
            architecture: Architecture::JumpRelu,
            apply_b_dec_to_input: false,
            w_enc,
            w_dec,
            b_dec,
            w_skip: None,
            vectors: vec![
                ("b_enc", tensors.f32("encoder.bias", &[d_sae])?),
                ("threshold", vec![threshold as f32; d_sae]),
            ],
        };
        Ok(Dictionary {
            coder: parts.coder(device).into(),
            provenance: Provenance {
                sites: SiteKeys {
                    hook_point: hook_in.map(str::to_owned),
                    hook_point_out: hook_out.filter(|_| transcodes).map(str::to_owned),
                    ..SiteKeys::default()
                }
                .into(),
                normalization: Some("dataset-wise".into()),
                ..Provenance::default()
            },
        })
    }
}
