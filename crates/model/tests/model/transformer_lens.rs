//! Hook points and weights by role are TransformerLens's, in name, shape and value: against what
//! TransformerLens itself computed (`lens.safetensors`, written by
//! `scripts/make_model_fixtures.py`).

use crate::fixtures::{close, model, model_folder};
use burn::tensor::{Device, Tensor, activation};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel, Simplify};

/// Those that TransformerLens has and we have.
const FAMILIES: [&str; 10] = [
    "gpt2-sharded",
    "llama-gqa",
    "neox",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "opt",
    "phi",
];

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// Token ids of the fixture.
fn tokens(name: &str) -> Vec<Vec<u32>> {
    let bytes = std::fs::read(model_folder(name).join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("tokens").unwrap();
    let ids: Vec<u32> = view.data().chunks(8).map(|b| u32::from(b[0])).collect();
    ids.chunks(view.shape()[1]).map(<[u32]>::to_vec).collect()
}

/// Values of a lens.safetensors, its −∞ among them, which the reader of weights refuses.
fn lens(name: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(model_folder(name).join("lens.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut values: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(key, view)| {
            let floats = view.data().chunks(4);
            let floats = floats.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            (key, view.shape().to_vec(), floats.collect())
        })
        .collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values
}

#[test]
fn hook_points_are_those_of_transformer_lens() {
    for name in FAMILIES {
        let model = model(name);
        let mut seen = 0;
        for (key, shape, expected) in lens(name) {
            let Ok(at) = key.parse::<HookPoint>() else {
                let other = key.starts_with("simplified.") || key.starts_with("edited.");
                assert!(other, "{key}");
                continue;
            };
            let run = HookedRun {
                capture: &[at],
                ..Default::default()
            };
            let tokens = model.tokens(&tokens(name)).unwrap();
            let value = model.run(tokens, &run).unwrap().captured[&at].clone();
            let [batch, pos, width] = value.dims();
            let found = match at {
                // [batch, head, query, key] there
                HookPoint::Block(_, BlockHook::AttnScores) => {
                    let heads = model.heads(at).unwrap();
                    let value = value
                        .reshape([batch, pos, heads, width / heads])
                        .swap_dims(1, 2);
                    assert_eq!(value.dims().to_vec(), shape, "{key}");
                    host(value)
                }
                _ => {
                    assert_eq!(width, shape[2..].iter().product::<usize>(), "{key}");
                    host(value)
                }
            };
            close(&found, &expected, 1e-4, &format!("{name}: {key}"));
            seen += 1;
        }
        assert!(seen >= 4, "{name}: {seen} points");
    }
}

#[test]
fn single_heads_read_what_they_are_given_as_in_transformer_lens() {
    for name in FAMILIES {
        let model = model(name);
        let (last, d_model) = (model.config().n_layers() - 1, model.config().d_model);
        let at = |hook| HookPoint::Block(last, hook);
        let direction: Vec<f32> = (0..d_model).map(|i| (i as f32).sin()).collect();
        // As wide as the point: of its heads the interventions choose one.
        let added = |hook: BlockHook, factor: f32| {
            let heads = model.heads(at(hook)).unwrap();
            let all = Tensor::<1>::from_floats(direction.repeat(heads).as_slice(), &Device::flex());
            Intervention::add(at(hook), all * factor)
        };
        let kv_heads = model.config().n_kv_heads;
        let inputs = vec![
            added(BlockHook::QInput, 1.0).in_heads(&[1]),
            added(BlockHook::KInput, -1.0)
                .in_heads(&[0])
                .at_positions(&[2]),
            Intervention::zero(at(BlockHook::VInput))
                .in_heads(&[kv_heads - 1])
                .at_positions(&[3]),
        ];
        let mut cases = vec![("edited.inputs", inputs)];
        match kv_heads == model.config().n_heads {
            true => cases.push((
                "edited.attn_in",
                vec![added(BlockHook::AttnIn, 1.0).in_heads(&[1])],
            )),
            false => assert!(model.width(at(BlockHook::AttnIn)).is_err()),
        }
        let values = lens(name);
        for (key, interventions) in &cases {
            let run = HookedRun {
                interventions,
                logits: true,
                ..Default::default()
            };
            let tokens = model.tokens(&tokens(name)).unwrap();
            let found = host(model.run(tokens, &run).unwrap().logits.unwrap());
            let (.., expected) = values.iter().find(|(name, ..)| name == key).unwrap();
            close(&found, expected, 1e-4, &format!("{name}: {key}"));
        }
    }
}

#[test]
fn simplified_weights_are_those_of_transformer_lens() {
    for name in ["gpt2-sharded", "llama-gqa"] {
        let simplify = Simplify {
            fold_norms: true,
            center_writing: name.starts_with("gpt2"),
            center_unembedding: true,
            ..Default::default()
        };
        let model = model(name).simplified(simplify).unwrap();
        let c = model.config().clone();
        let group = c.n_heads / c.n_kv_heads;
        let heads = |of: &dyn Fn(usize) -> Tensor<2>, step: usize| {
            Some(
                (0..c.n_heads)
                    .step_by(step)
                    .flat_map(|h| host(of(h)))
                    .collect(),
            )
        };
        let biases = |of: &dyn Fn(usize) -> Option<Tensor<1>>, step: usize| {
            let all = (0..c.n_heads).step_by(step).map(|h| Some(host(of(h)?)));
            all.collect::<Option<Vec<_>>>().map(|all| all.concat())
        };
        for (key, _, expected) in lens(name) {
            let Some(role) = key.strip_prefix("simplified.") else {
                continue;
            };
            let found: Option<Vec<f32>> = match role.trim_start_matches("blocks.0.") {
                "embed.W_E" => Some(host(model.w_e())),
                "pos_embed.W_pos" => model.w_pos().map(host),
                "unembed.W_U" => Some(host(model.w_u())),
                "unembed.b_U" => model.b_u().map(host),
                "attn.W_Q" => heads(&|h| model.w_q(0, h), 1),
                "attn.W_K" | "attn._W_K" => heads(&|h| model.w_k(0, h), group),
                "attn.W_V" | "attn._W_V" => heads(&|h| model.w_v(0, h), group),
                "attn.W_O" => heads(&|h| model.w_o(0, h), 1),
                "attn.b_Q" => biases(&|h| model.b_q(0, h), 1),
                "attn.b_K" | "attn._b_K" => biases(&|h| model.b_k(0, h), group),
                "attn.b_V" | "attn._b_V" => biases(&|h| model.b_v(0, h), group),
                "attn.b_O" => model.b_o(0).map(host),
                "mlp.W_in" => Some(host(model.w_in(0))),
                "mlp.W_gate" => model.w_gate(0).map(host),
                "mlp.W_out" => Some(host(model.w_out(0))),
                "mlp.b_in" => model.b_in(0).map(host),
                "mlp.b_out" => model.b_out(0).map(host),
                other => panic!("{other}"),
            };
            // TransformerLens has zeros where a model has no bias.
            let found = found.unwrap_or_else(|| vec![0.0; expected.len()]);
            close(&found, &expected, 1e-4, &format!("{name}: {role}"));
        }
    }
}

#[test]
fn simplified_models_predict_the_same() {
    let ids: Vec<u32> = (0..19).map(|i| i * 5 % 50).collect();
    for name in [
        "gpt2",
        "neox",
        "llama-gqa",
        "llama-tied",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3",
        "opt",
        "phi",
    ] {
        let simplified = |simplify| model(name).simplified(simplify);
        let c = model(name).config().clone();
        let all = Simplify {
            fold_norms: true,
            center_writing: c.norm == lapidary_model::Norm::Layer,
            center_unembedding: c.logit_softcap.is_none(),
            fold_value_biases: true,
        };
        let log_p = |model: &LanguageModel| {
            let run = HookedRun {
                logits: true,
                ..Default::default()
            };
            let tokens = model.tokens(&[&ids]).unwrap();
            let logits = model.run(tokens, &run).unwrap().logits.unwrap();
            [
                host(logits.clone()),
                host(activation::log_softmax(logits, 2)),
            ]
        };
        let [plain_logits, plain] = log_p(&model(name));
        close(&log_p(&simplified(all).unwrap())[1], &plain, 1e-4, name);
        let folded = Simplify {
            center_unembedding: false,
            ..all
        };
        close(
            &log_p(&simplified(folded).unwrap())[0],
            &plain_logits,
            1e-4,
            name,
        );
        if !all.center_writing {
            let wrong = Simplify {
                center_writing: true,
                ..all
            };
            let error = simplified(wrong).err().unwrap().to_string();
            assert!(error.contains("norms do not centre"), "{error}");
        }
    }
    // Grouped heads share keys: query heads 0 and 1 read the first.
    let model = model("llama-gqa");
    assert_eq!(host(model.w_k(0, 0)), host(model.w_k(0, 1)));
    assert_ne!(host(model.w_k(0, 1)), host(model.w_k(0, 2)));
}
