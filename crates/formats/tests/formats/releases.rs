//! Formats that are only read: Gemma Scope, Llama Scope, Llamascopium, OpenAI.

use std::collections::BTreeMap;
use std::fs;

use lapidary_coder::{Architecture, Coder, Sites};
use serde_json::json;

use crate::folder::{
    D, F, Foreign, assert_weights, f32s, fixture, host, numbers, opened, sparse, turned,
};

#[test]
fn gemma_scope_is_read_from_npz_and_safetensors() {
    for name in ["gemma_scope.npz", "compressed.npz"] {
        let d = opened(&fixture(name), None).unwrap();
        assert_eq!(d.coder.architecture(), Architecture::JumpRelu);
        assert!(!sparse(&d).apply_b_dec_to_input);
        assert_weights(&d);
        let thresholds: Vec<f32> = numbers(F, 5).iter().map(|t| t.max(0.0)).collect();
        assert_eq!(host(&sparse(&d).threshold().unwrap()), thresholds);
    }
    let error = |name: &str| opened(&fixture(name), None).map(|_| ()).unwrap_err();
    assert_eq!(
        error("fortran.npz"),
        "DIR/fortran.npz: array `W_enc.npy`: found Fortran order, expected floats or integers, C order"
    );
    assert!(error("object.npz").contains("array `W_enc.npy`: found type |O, expected"));
    assert_eq!(
        error("integers.npz"),
        "DIR/integers.npz: tensor `b_enc`: found type I64, expected F32, F16, BF16 or F64"
    );
    let zeros = error("zeros.npz");
    let found = "DIR/zeros.npz: array `W_enc.npy`: found 33554560 bytes out of ";
    assert!(zeros.starts_with(found), "{zeros}");
    let bytes = fs::read(fixture("gemma_scope.npz")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("params.npz");
    for length in (0..bytes.len()).step_by(5) {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(opened(&path, None).is_err(), "cut at {length}");
    }

    let second = Foreign {
        config: ("config.json", json!({})),
        weights: "params.safetensors",
        tensors: BTreeMap::from([
            ("w_enc", f32s(&[D, F], &turned(&numbers(F * D, 1), F, D))),
            ("w_dec", f32s(&[F, D], &numbers(F * D, 3))),
            ("b_enc", f32s(&[F], &numbers(F, 2))),
            ("b_dec", f32s(&[D], &numbers(D, 4))),
            ("threshold", f32s(&[F], &[0.5; F])),
        ]),
    };
    assert_weights(&second.open().unwrap());
    let turned = second.refused(|f| {
        f.tensors.insert("w_enc", f32s(&[F, D], &numbers(F * D, 1)));
    });
    assert!(turned.contains("found shape ["), "{turned}");
}

fn llama_scope() -> Foreign {
    let norm = 4.0; // twice √4, so activations are halved
    Foreign {
        config: (
            "hyperparams.json",
            json!({"d_model": D, "d_sae": F, "jump_relu_threshold": 0.5, "act_fn": "jumprelu", "norm_activation": "dataset-wise",
                   "dataset_average_activation_norm": {"in": norm, "out": norm}, "use_glu_encoder": false,
                   "hook_point_in": "blocks.3.hook_resid_post", "hook_point_out": "blocks.3.hook_resid_post"}),
        ),
        weights: "checkpoints/final.safetensors",
        tensors: BTreeMap::from([
            ("encoder.weight", f32s(&[F, D], &numbers(F * D, 1))),
            ("encoder.bias", f32s(&[F], &numbers(F, 2))),
            (
                "decoder.weight",
                f32s(&[D, F], &turned(&numbers(F * D, 3), F, D)),
            ),
            ("decoder.bias", f32s(&[D], &numbers(D, 4))),
        ]),
    }
}

#[test]
fn llama_scope_takes_raw_activations() {
    let d = llama_scope().open().unwrap();
    let times = |values: Vec<f32>, by: f32| values.iter().map(|v| v * by).collect::<Vec<f32>>();
    assert_eq!(host(&d.coder.w_enc()), times(numbers(F * D, 1), 0.5));
    assert_eq!(host(&sparse(&d).b_enc()), numbers(F, 2));
    assert_eq!(host(&d.coder.w_dec()), times(numbers(F * D, 3), 2.0));
    assert_eq!(host(&d.coder.b_dec()), times(numbers(D, 4), 2.0));
    assert_eq!(host(&sparse(&d).threshold().unwrap()), [0.25; F]);
    let hook = "blocks.3.hook_resid_post";
    assert_eq!(d.provenance.sites, Sites::autoencoder(hook));

    // A transcoder has a scale for each end.
    let mut across = llama_scope();
    across.config.1["hook_point_out"] = json!("blocks.3.hook_mlp_out");
    across.config.1["dataset_average_activation_norm"]["out"] = json!(1.0);
    let t = across.open().unwrap();
    assert_eq!(host(&t.coder.w_enc()), host(&d.coder.w_enc()));
    assert_eq!(host(&t.coder.w_dec()), times(numbers(F * D, 3), 0.5));
    assert_eq!(host(&t.coder.b_dec()), times(numbers(D, 4), 0.5));
    assert_eq!(
        t.provenance.sites,
        Sites::transcoder(hook, "blocks.3.hook_mlp_out")
    );

    let refused = |change: &dyn Fn(&mut Foreign)| llama_scope().refused(change);
    assert!(
        refused(&|f| f.config.1["use_glu_encoder"] = json!(true))
            .contains("found use_glu_encoder true")
    );
    assert!(refused(&|f| f.config.1["act_fn"] = json!("topk")).contains("act_fn: found \"topk\""));
    assert!(
        refused(&|f| f.config.1["dataset_average_activation_norm"] = json!({}))
            .contains("dataset_average_activation_norm.in: found nothing")
    );
    assert!(
        refused(&|f| {
            f.config
                .1
                .as_object_mut()
                .unwrap()
                .remove("jump_relu_threshold");
        })
        .contains("jump_relu_threshold: found nothing")
    );
    let turned = refused(&|f| {
        f.tensors
            .insert("decoder.weight", f32s(&[F, D], &numbers(F * D, 3)));
    });
    assert!(turned.ends_with("tensor `decoder.weight`: found shape [6, 4], expected shape [4, 6] (this one lies transposed)"));
}

fn llamascopium(act_fn: &str) -> Foreign {
    let hook = "blocks.3.hook_resid_post";
    Foreign {
        config: (
            "config.json",
            json!({"sae_type": "sae", "d_model": D, "expansion_factor": 1.5, "act_fn": act_fn, "top_k": 2, "use_decoder_bias": true,
                   "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": true, "hook_point_in": hook,
                   "hook_point_out": hook}),
        ),
        weights: "sae_weights.safetensors",
        tensors: BTreeMap::from([
            ("W_E", f32s(&[D, F], &turned(&numbers(F * D, 1), F, D))),
            ("b_E", f32s(&[F], &numbers(F, 2))),
            ("W_D", f32s(&[F, D], &numbers(F * D, 3))),
            ("b_D", f32s(&[D], &numbers(D, 4))),
            (
                "dataset_average_activation_norm.blocks.3.hook_resid_post",
                f32s(&[], &[4.0]),
            ),
        ]),
    }
}

/// What Llamascopium computes of x: scaled, encoded, chosen by pre-activation times decoder norm,
/// decoded, scaled back.
fn theirs(act_fn: &str, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let as_f64 = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<f64>>();
    let (w_e, b_e) = (as_f64(numbers(F * D, 1)), as_f64(numbers(F, 2)));
    let (w_d, b_d) = (as_f64(numbers(F * D, 3)), as_f64(numbers(D, 4)));
    let scale = 0.5;
    let norm = |i: usize| {
        w_d[i * D..(i + 1) * D]
            .iter()
            .map(|w| w * w)
            .sum::<f64>()
            .sqrt()
    };
    let pre: Vec<f64> = (0..F)
        .map(|i| {
            b_e[i]
                + (0..D)
                    .map(|j| w_e[i * D + j] * f64::from(x[j]) * scale)
                    .sum::<f64>()
        })
        .collect();
    let weighed: Vec<f64> = (0..F).map(|i| pre[i] * norm(i)).collect();
    let mut order: Vec<usize> = (0..F).collect();
    order.sort_by(|a, b| weighed[*b].total_cmp(&weighed[*a]));
    let chosen = |i: usize| match act_fn {
        "relu" => pre[i] > 0.0,
        "jumprelu" => weighed[i] > 1.0,
        _ => pre[i] > 0.0 && order[..2].contains(&i),
    };
    let codes: Vec<f64> = (0..F)
        .map(|i| if chosen(i) { pre[i] } else { 0.0 })
        .collect();
    let back =
        (0..D).map(|j| (b_d[j] + (0..F).map(|i| codes[i] * w_d[i * D + j]).sum::<f64>()) / scale);
    let back = back.collect();
    (codes.iter().map(|c| c / scale).collect(), back)
}

#[test]
fn llamascopium_takes_raw_activations_and_weighs_by_decoder_norms() {
    use burn::tensor::{Device, Tensor, TensorData};
    let mut active = 0;
    for act_fn in ["relu", "jumprelu", "topk"] {
        let mut foreign = llamascopium(act_fn);
        if act_fn == "jumprelu" {
            foreign.tensors.insert(
                "activation_function.log_jumprelu_threshold",
                f32s(&[F], &[0.0; F]),
            );
        }
        let coder = foreign.open().unwrap().coder;
        let x = numbers(9 * D, 8);
        let input = Tensor::<2>::from_data(TensorData::new(x.clone(), [9, D]), &Device::flex());
        let codes = coder.encode(input);
        let reconstruction = host(&coder.decode(codes.clone()));
        let k = codes.values.dims()[1];
        let (values, indices): (Vec<f32>, Vec<i32>) = (
            host(&codes.values),
            codes.indices.try_into_vec_as().unwrap(),
        );
        for row in 0..9 {
            let (wanted, back) = theirs(act_fn, &x[row * D..(row + 1) * D]);
            let mut found = [0.0; F];
            for place in row * k..(row + 1) * k {
                found[indices[place] as usize] += f64::from(values[place]);
            }
            for (i, (a, b)) in found.iter().zip(&wanted).enumerate() {
                active += usize::from(*b > 0.0);
                // A TopK's latents are larger by the norms that it chooses by.
                let row = &numbers(F * D, 3)[i * D..(i + 1) * D];
                let norm = f64::from(row.iter().map(|w| w * w).sum::<f32>().sqrt());
                let b = if act_fn == "topk" { b * norm } else { *b };
                assert!(
                    (a - b).abs() < 1e-3 * b.abs().max(1.0),
                    "{act_fn}: {a} for {b}"
                );
            }
            for (a, b) in reconstruction[row * D..(row + 1) * D].iter().zip(&back) {
                assert!(
                    (f64::from(*a) - b).abs() < 1e-3 * b.abs().max(1.0),
                    "{act_fn}: {a} for {b}"
                );
            }
        }
    }
    assert!(active > 30, "{active}");
}

#[test]
fn llamascopium_that_no_coder_does_is_refused() {
    let refused = |change: &dyn Fn(&mut Foreign)| llamascopium("relu").refused(change);
    assert!(
        refused(&|f| f.config.1["act_fn"] = json!("batchtopk"))
            .contains("found act_fn \"batchtopk\"")
    );
    assert!(refused(&|f| f.config.1["sae_type"] = json!("clt")).contains("found sae_type \"clt\""));
    assert!(
        refused(&|f| f.config.1["norm_activation"] = json!("token-wise"))
            .contains("norm_activation: found \"token-wise\"")
    );
    assert!(
        refused(&|f| f.config.1["expansion_factor"] = json!(1e12))
            .contains("expansion_factor: found")
    );
    assert!(
        refused(&|f| {
            f.tensors
                .remove("dataset_average_activation_norm.blocks.3.hook_resid_post");
        })
        .contains(
            "tensor `dataset_average_activation_norm.blocks.3.hook_resid_post`: found only ["
        )
    );
    assert!(
        refused(&|f| {
            f.tensors
                .insert("W_E_glu", f32s(&[D, F], &numbers(F * D, 5)));
        })
        .contains("tensor `W_E_glu`: found a tensor that means nothing here")
    );
}

#[test]
fn openai_is_read_where_tokens_are_not_standardized() {
    let d = opened(&fixture("openai_relu.pt"), None).unwrap();
    assert_eq!(d.coder.architecture(), Architecture::Standard);
    assert!(sparse(&d).apply_b_dec_to_input);
    assert_weights(&d);
    let error = opened(&fixture("openai_topk.pt"), None)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        error,
        "DIR/openai_topk.pt: found activation TopK, which cannot be done exactly here: it standardizes each token by its own mean and spread"
    );
}
