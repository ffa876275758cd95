//! Places in a model by the names of its modules, as tools on Hugging Face models have them.

use lapidary_model::{BlockHook, HookPoint};

/// The hook point of a module's output, if it has one. `module` is a path in the base model:
/// `layers.10`, `h.3.mlp`, `wte`. Gemma 2 and 3 normalize what a module puts out before it is
/// added, and no hook point stands before that.
pub(crate) fn of_module(module: &str, model: Option<&str>) -> Option<HookPoint> {
    let mut parts = module.split('.').collect::<Vec<_>>();
    while let Some("model" | "transformer" | "gpt_neox" | "language_model" | "decoder") =
        parts.first().copied()
    {
        parts.remove(0);
    }
    match parts[..] {
        ["embed_tokens" | "wte" | "embed_in"] => Some(HookPoint::Embed),
        ["layers" | "h", layer] => {
            Some(HookPoint::Block(layer.parse().ok()?, BlockHook::ResidPost))
        }
        ["layers" | "h", layer, inner] => {
            let normalized = model.is_some_and(|name| name.to_lowercase().contains("gemma"));
            let hook = match inner {
                "mlp" if !normalized => BlockHook::MlpOut,
                "attn" | "self_attn" | "attention" if !normalized => BlockHook::AttnOut,
                _ => return None,
            };
            Some(HookPoint::Block(layer.parse().ok()?, hook))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_hook_points_or_nothing() {
        let of = |module, model| of_module(module, model).map(|h: HookPoint| h.to_string());
        assert_eq!(
            of("layers.10", None).as_deref(),
            Some("blocks.10.hook_resid_post")
        );
        assert_eq!(
            of("h.3.mlp", None).as_deref(),
            Some("blocks.3.hook_mlp_out")
        );
        assert_eq!(
            of("model.layers.0.self_attn", None).as_deref(),
            Some("blocks.0.hook_attn_out")
        );
        assert_eq!(of("embed_tokens", None).as_deref(), Some("hook_embed"));
        assert_eq!(of("layers.3.mlp", Some("google/gemma-2-2b")), None);
        assert_eq!(of("layers.3.mlp.act", None), None);
        assert_eq!(of("layers.x", None), None);
        assert_eq!(of("lm_head", None), None);
    }
}
