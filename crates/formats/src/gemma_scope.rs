//! Google's Gemma Scope: `params.npz` with `W_enc` `[d_in, d_sae]` and `W_dec` `[d_sae, d_in]`, and
//! Gemma Scope 2's `params.safetensors`, which spells them `w_enc` and `w_dec`. JumpReLU coders of
//! raw activations, from which `b_dec` is not subtracted. Read only.
//!
//! Nothing in the file says where it belongs; the folders of the release do:
//! `gemma-scope-2b-pt-res/layer_20/width_16k/…`. Transcoders have the same tensors, so those are
//! known by the release's name alone, or by their skip connection `affine_skip_connection`
//! `[d_in, d_out]`.

use burn::tensor::Device;
use lapidary_coder::{Architecture, CoderError, Dictionary, Provenance, Sites};
use lapidary_io::tensors::transpose;
use lapidary_model::{BlockHook, HookPoint};

use crate::container::Container;
use crate::error::FormatError;
use crate::layout::Layout;
use crate::parts::{Latents, Parts, latents, sizes, thresholds};
use crate::place::Place;

const SECOND: &str = "params.safetensors";
const SKIP: &str = "affine_skip_connection";

pub(crate) struct GemmaScope;

impl Layout for GemmaScope {
    fn name(&self) -> &'static str {
        "gemma_scope"
    }

    fn signature(&self) -> &'static str {
        "params.npz or params.safetensors"
    }

    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError> {
        let npz = !place.ending(".npz").is_empty();
        let there = npz || place.means(SECOND);
        Ok(there.then(|| if npz { "a file .npz" } else { SECOND }.into()))
    }

    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError> {
        let fits = |name: &str| name.ends_with(".npz") || name == SECOND;
        let path = place.only("one file of parameters", fits)?;
        let file = Container::open(&path)?;
        let tensors = file.tensors()?;
        // Only what the release says of itself: its own folder's name, and those below.
        let mut folders = place.components();
        let release = folders.iter().position(|name| name.contains("gemma-scope"));
        folders.truncate(release.map_or(0, |at| at + 1));
        let skips = tensors.has(SKIP);
        let transcodes = skips || folders.iter().any(|name| name.contains("transcoder"));
        let [enc, dec] = match tensors.has("W_enc") {
            true => ["W_enc", "W_dec"],
            false => ["w_enc", "w_dec"],
        };
        tensors.only(&[
            enc,
            dec,
            "b_enc",
            "b_dec",
            "threshold",
            "scaling_factor",
            SKIP,
        ])?;
        let shape = sizes(&tensors, enc, Latents::Columns)?;
        let [d_sae, d_in] = shape;
        let d_out = match transcodes {
            true => sizes(&tensors, dec, Latents::Rows)?[1],
            false => d_in,
        };
        if tensors.has("scaling_factor") {
            let all = tensors.f32("scaling_factor", &[d_sae])?;
            if all.iter().any(|s| (s - 1.0).abs() > 1e-5) {
                let field = "array `scaling_factor`";
                return Err(
                    CoderError::format(&path, field, "factors other than 1", "all 1").into(),
                );
            }
        }
        let parts = Parts {
            architecture: Architecture::JumpRelu,
            apply_b_dec_to_input: false,
            w_enc: latents(&tensors, enc, shape, Latents::Columns)?,
            w_dec: latents(&tensors, dec, [d_sae, d_out], Latents::Rows)?,
            b_dec: tensors.f32("b_dec", &[d_out])?,
            w_skip: match skips {
                true => Some(transpose(&tensors.f32(SKIP, &[d_in, d_out])?, d_in, d_out)),
                false => None,
            },
            vectors: vec![
                ("b_enc", tensors.f32("b_enc", &[d_sae])?),
                ("threshold", thresholds(&tensors, "threshold", d_sae)?),
            ],
        };
        Ok(Dictionary {
            coder: parts.coder(device).into(),
            provenance: of_release(&folders, transcodes),
        })
    }
}

/// What the release's folders say, innermost first.
fn of_release(folders: &[String], transcodes: bool) -> Provenance {
    let layer = folders.iter().find_map(|name| {
        let number = name.strip_prefix("layer_")?;
        number.split('_').next()?.parse::<usize>().ok()
    });
    let release = folders.iter().find(|name| name.contains("gemma-scope-"));
    let release = release.map_or("", String::as_str);
    let second = release.contains("gemma-scope-2-");
    let folder = |part: &str| second && folders.iter().any(|name| name.starts_with(part));
    let site = match release.rsplit('-').next() {
        _ if transcodes && second => Some(BlockHook::MlpIn),
        _ if transcodes => Some(BlockHook::Ln2),
        Some("res") => Some(BlockHook::ResidPost),
        Some("mlp") => Some(BlockHook::MlpOut),
        Some("att") => Some(BlockHook::Z),
        _ if folder("resid_post") => Some(BlockHook::ResidPost),
        _ if folder("mlp_out") => Some(BlockHook::MlpOut),
        _ if folder("attn_out") => Some(BlockHook::Z),
        _ => None,
    };
    let at = |site: Option<BlockHook>| site.zip(layer).map(|(s, l)| HookPoint::Block(l, s));
    let (hook, out) = (at(site), at(Some(BlockHook::MlpOut)));
    let model = release
        .split_once("gemma-scope-")
        .and_then(|(_, rest)| rest.split_once('-'))
        .filter(|(size, _)| matches!(*size, "2b" | "9b" | "27b"))
        .map(|(size, rest)| match rest.starts_with("it") {
            true => format!("google/gemma-2-{size}-it"),
            false => format!("google/gemma-2-{size}"),
        });
    Provenance {
        sites: match transcodes {
            true => Sites::Transcoder {
                from: hook.map(|h| h.to_string()),
                to: out.map(|h| h.to_string()),
            },
            false => Sites::Autoencoder {
                at: hook.map(|h| h.to_string()),
            },
        },
        context: model.as_ref().map(|_| 1024),
        prepend_bos: model.as_ref().map(|_| true),
        model_name: model,
        ..Provenance::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_model_and_hook_point() {
        let of = |path: &str| {
            let folders: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
            let from = of_release(&folders, path.contains("transcoders"));
            (from.model_name, from.sites.first_read().map(str::to_owned))
        };
        assert_eq!(
            of(
                "hub/models--google--gemma-scope-2b-pt-res/snapshots/0/layer_20/width_16k/average_l0_71"
            ),
            (
                Some("google/gemma-2-2b".into()),
                Some("blocks.20.hook_resid_post".into())
            )
        );
        assert_eq!(
            of("gemma-scope-9b-it-mlp/layer_3/width_16k").0.as_deref(),
            Some("google/gemma-2-9b-it")
        );
        assert_eq!(
            of("gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_41")
                .1
                .as_deref(),
            Some("blocks.5.ln2.hook_normalized")
        );
        assert_eq!(
            of("gemma-scope-2-1b-pt/resid_post/layer_13_width_16k_l0_medium")
                .1
                .as_deref(),
            Some("blocks.13.hook_resid_post")
        );
        assert_eq!(of("layer_3/width_16k"), (None, None));
    }
}
