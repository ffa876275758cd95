//! Every model family computes what `transformers` computes: logits and hook points of small random
//! models, recorded by `scripts/make_model_fixtures.py`.

use crate::fixtures::{model, model_folder};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32);
    view.data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Largest difference over the largest magnitude.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(scale > 0.0 && worst.is_finite());
    worst / scale
}

/// `[batch, heads, pos, pos]`, as TransformerLens has patterns, as `[batch, pos, heads * pos]`.
fn by_query(pattern: &[f32], heads: usize, pos: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(pattern.len());
    for batch in pattern.chunks(heads * pos * pos) {
        for query in 0..pos {
            for head in batch.chunks(pos * pos) {
                rows.extend(&head[query * pos..(query + 1) * pos]);
            }
        }
    }
    rows
}

fn agrees_with_transformers(name: &str) {
    let model = model(name);
    let bytes = std::fs::read(model_folder(name).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = expected.tensor("tokens").unwrap();
    let ids: Vec<u32> = tokens
        .data()
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
        .collect();
    let sequences: Vec<&[u32]> = ids.chunks(tokens.shape()[1]).collect();

    let names = expected.names();
    // Some are recorded under another spelling.
    let recorded: BTreeMap<HookPoint, &str> = names
        .iter()
        .filter_map(|name| Some((name.parse().ok()?, *name)))
        .filter(|(hook, _)| *hook != HookPoint::Logits)
        .collect();
    let hooks: Vec<HookPoint> = recorded.keys().copied().collect();
    assert!(
        hooks.len() >= 2,
        "the fixture records {} hook points",
        hooks.len()
    );
    let run = HookedRun {
        capture: &hooks,
        logits: true,
        ..Default::default()
    };
    let output = model.run(model.tokens(&sequences).unwrap(), &run).unwrap();
    let logits = output.logits.unwrap();
    let error = relative_error(
        &logits.into_data().iter::<f32>().collect::<Vec<_>>(),
        &floats(&expected, "logits"),
    );
    println!("{name}: logits differ by {error:.1e}");
    assert!(error < 1e-4, "{name}: logits differ by {error}");
    for (hook, value) in output.captured {
        let mut found: Vec<f32> = value.into_data().iter::<f32>().collect();
        let mut expected = floats(&expected, recorded[&hook]);
        if matches!(hook, HookPoint::Block(_, BlockHook::Pattern)) {
            expected = by_query(&expected, model.config().n_heads, tokens.shape()[1]);
        }
        if hook == HookPoint::PosEmbed {
            found.truncate(expected.len()); // recorded once for the whole batch
        }
        let error = relative_error(&found, &expected);
        assert!(error < 1e-4, "{name}: {hook} differs by {error}");
    }
}

#[test]
fn gpt2_agrees_with_transformers() {
    agrees_with_transformers("gpt2");
}

#[test]
fn a_sharded_gpt2_agrees_with_transformers() {
    agrees_with_transformers("gpt2-sharded");
}

#[test]
fn gpt_neox_agrees_with_transformers() {
    agrees_with_transformers("neox");
}

#[test]
fn gpt_neox_one_after_the_other_agrees_with_transformers() {
    agrees_with_transformers("neox-serial");
}

#[test]
fn llama_with_linear_rope_scaling_agrees_with_transformers() {
    agrees_with_transformers("llama-linear");
}

#[test]
fn llama_3_rope_scaling_agrees_with_transformers() {
    agrees_with_transformers("llama-llama3");
}

#[test]
fn llama_with_yarn_agrees_with_transformers() {
    agrees_with_transformers("llama-yarn");
}

#[test]
fn mistral_beyond_its_window_agrees_with_transformers() {
    agrees_with_transformers("mistral");
}

#[test]
fn qwen2_with_a_window_in_upper_layers_agrees_with_transformers() {
    agrees_with_transformers("qwen2");
}

#[test]
fn qwen3_agrees_with_transformers() {
    agrees_with_transformers("qwen3");
}

#[test]
fn gemma2_agrees_with_transformers() {
    agrees_with_transformers("gemma2");
}

#[test]
fn gemma3_agrees_with_transformers() {
    agrees_with_transformers("gemma3");
}

#[test]
fn opt_agrees_with_transformers() {
    agrees_with_transformers("opt");
}

#[test]
fn phi_agrees_with_transformers() {
    agrees_with_transformers("phi");
}

#[test]
fn llama_with_grouped_queries_agrees_with_transformers() {
    agrees_with_transformers("llama-gqa");
}

#[test]
fn llama_with_tied_embeddings_agrees_with_transformers() {
    agrees_with_transformers("llama-tied");
}

#[test]
fn llama_in_bf16_agrees_with_transformers() {
    agrees_with_transformers("llama-bf16");
}

#[test]
fn a_pass_stops_after_the_last_hook_point_and_reads_the_same_there() {
    let model = model("llama-gqa");
    let hook: HookPoint = "blocks.1.hook_resid_mid".parse().unwrap();
    let tokens = || model.tokens(&[[3, 1, 4, 1, 5]]).unwrap();
    let early = model
        .run(
            tokens(),
            &HookedRun {
                capture: &[hook],
                ..Default::default()
            },
        )
        .unwrap();
    let full = model
        .run(
            tokens(),
            &HookedRun {
                capture: &[hook],
                logits: true,
                ..Default::default()
            },
        )
        .unwrap();
    assert!(early.logits.is_none());
    assert_eq!(
        early.captured[&hook].to_data(),
        full.captured[&hook].to_data()
    );
}

#[test]
fn replacing_a_hook_point_changes_what_follows_and_only_that() {
    let model = model("gpt2");
    let at: HookPoint = "blocks.0.hook_mlp_out".parse().unwrap();
    let [mid, post]: [HookPoint; 2] =
        ["blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"].map(|h| h.parse().unwrap());
    let tokens = || model.tokens(&[[3, 1, 4, 1, 5]]).unwrap();
    let zero = |x: burn::tensor::Tensor<3>| x.zeros_like();
    let plain = model
        .run(
            tokens(),
            &HookedRun {
                capture: &[mid, post],
                ..Default::default()
            },
        )
        .unwrap();
    let run = HookedRun {
        capture: &[mid, at, post],
        interventions: &[Intervention::function(at, &zero)],
        ..Default::default()
    };
    let ablated = model.run(tokens(), &run).unwrap();
    // Without the MLP's output the residual stream passes the layer's second half unchanged.
    assert_eq!(
        ablated.captured[&mid].to_data(),
        plain.captured[&mid].to_data()
    );
    assert_eq!(
        ablated.captured[&post].to_data(),
        ablated.captured[&mid].to_data()
    );
    assert_ne!(
        ablated.captured[&post].to_data(),
        plain.captured[&post].to_data()
    );
    assert!(
        ablated.captured[&at]
            .to_data()
            .iter::<f32>()
            .all(|v| v == 0.0)
    );
}

#[test]
fn a_hook_point_that_the_model_lacks_is_named() {
    let model = model("gpt2");
    let hook: HookPoint = "blocks.7.hook_resid_post".parse().unwrap();
    let run = HookedRun {
        capture: &[hook],
        ..Default::default()
    };
    let error = model
        .run(model.tokens(&[[0]]).unwrap(), &run)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("blocks.7.hook_resid_post") && error.contains("0 to 1"),
        "{error}"
    );
    assert!(
        model
            .tokens(&[[9999]])
            .unwrap_err()
            .to_string()
            .contains("9999")
    );
    assert!(
        model
            .tokens(&[vec![0; 33]])
            .unwrap_err()
            .to_string()
            .contains("32")
    );
}
