//! OpenAI's sparse_autoencoder: a state dict in a `.pt` file with `pre_bias`, `encoder.weight`
//! `[n_latents, d]`, `latent_bias`, `decoder.weight` `[d, n_latents]`, counters, and the
//! activation's name. Read only.
//!
//! Their ReLU coders work on raw activations. Their TopK coders standardize each token first, its
//! mean taken off and its spread divided out, and undo that after decoding; no coder here does.

use burn::tensor::Device;
use lapidary_coder::{Architecture, CoderError, Dictionary, Provenance};

use crate::container::Container;
use crate::error::FormatError;
use crate::layout::Layout;
use crate::parts::{Latents, Parts, latents, sizes};
use crate::place::Place;

pub(crate) struct OpenAi;

impl Layout for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn signature(&self) -> &'static str {
        "a .pt with pre_bias and latent_bias"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        let names = place.torch_names()?.unwrap_or_default();
        let has = |name: &str| names.iter().any(|n| n == name);
        let there = has("pre_bias") && has("latent_bias");
        Ok(there.then(|| "tensors pre_bias and latent_bias".into()))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        let path = place.only("one file .pt", |name| name.ends_with(".pt"))?;
        let file = Container::open(&path)?;
        for (name, value) in file.others() {
            let found = format!("{value:?}").chars().take(60).collect::<String>();
            match name {
                "activation" if found == "String(\"ReLU\")" => {}
                "activation" if found == "String(\"TopK\")" => {
                    return Err(FormatError::Foreign {
                        path,
                        found: "activation TopK".into(),
                        why: "it standardizes each token by its own mean and spread".into(),
                    });
                }
                "activation" => {
                    let expected = "ReLU or TopK";
                    return Err(CoderError::format(&path, "`activation`", found, expected).into());
                }
                "activation_state_dict" => {}
                _ => {
                    return Err(
                        CoderError::format(&path, format!("`{name}`"), found, "a tensor").into(),
                    );
                }
            }
        }
        let tensors = file.tensors()?;
        tensors.only(&[
            "pre_bias",
            "encoder.weight",
            "latent_bias",
            "decoder.weight",
            "stats_last_nonzero",
            "latents_activation_frequency",
            "latents_mean_square",
        ])?;
        let shape = sizes(&tensors, "encoder.weight", Latents::Rows)?;
        let [d_sae, d_in] = shape;
        let parts = Parts {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: true,
            w_enc: latents(&tensors, "encoder.weight", shape, Latents::Rows)?,
            w_dec: latents(&tensors, "decoder.weight", shape, Latents::Columns)?,
            b_dec: tensors.f32("pre_bias", &[d_in])?,
            w_skip: None,
            vectors: vec![("b_enc", tensors.f32("latent_bias", &[d_sae])?)],
        };
        Ok(Dictionary {
            coder: parts.coder(device).into(),
            provenance: Provenance::default(),
        })
    }
}
