//! sparsify's files.

use std::collections::BTreeMap;
use std::fs;

use burn::tensor::{Device, Tensor, TensorData};
use half::bf16;
use lapidary_coder::{Architecture, Coder, Sites};
use safetensors::tensor::Dtype;
use serde_json::json;

use crate::folder::{
    D, F, Foreign, assert_weights, f32s, fixture, host, numbers, opened, sparse, turned,
};

fn foreign() -> Foreign {
    let config = json!({"activation": "topk", "expansion_factor": 32, "normalize_decoder": true, "num_latents": F, "k": 2,
                        "multi_topk": false, "skip_connection": false, "transcode": false, "d_in": D});
    Foreign {
        config: ("cfg.json", config),
        weights: "sae.safetensors",
        tensors: BTreeMap::from([
            ("encoder.weight", f32s(&[F, D], &numbers(F * D, 1))),
            ("encoder.bias", f32s(&[F], &numbers(F, 2))),
            ("W_dec", f32s(&[F, D], &numbers(F * D, 3))),
            ("b_dec", f32s(&[D], &numbers(D, 4))),
        ]),
    }
}

#[test]
fn weights_lie_as_the_format_says() {
    let d = foreign().open().unwrap();
    assert_eq!(d.coder.architecture(), Architecture::TopK { k: 2 });
    assert!(sparse(&d).apply_b_dec_to_input);
    assert_weights(&d);
    // By closed form: of each row the two largest of W (x − b_dec) + b, if positive.
    let x = numbers(3 * D, 8);
    let codes = d.coder.encode(Tensor::from_data(
        TensorData::new(x.clone(), [3, D]),
        &Device::flex(),
    ));
    let (values, indices): (Vec<f32>, Vec<i32>) = (
        host(&codes.values),
        codes.indices.try_into_vec_as().unwrap(),
    );
    let (w, b, c) = (numbers(F * D, 1), numbers(F, 2), numbers(D, 4));
    for row in 0..3 {
        let mut pre: Vec<(f32, i32)> = (0..F)
            .map(|i| {
                let sum: f32 = (0..D).map(|j| w[i * D + j] * (x[row * D + j] - c[j])).sum();
                (sum + b[i], i as i32)
            })
            .collect();
        pre.sort_by(|p, q| q.0.total_cmp(&p.0));
        for place in 0..2 {
            assert!((values[row * 2 + place] - pre[place].0.max(0.0)).abs() < 1e-4);
            assert!(pre[place].0 <= 0.0 || indices[row * 2 + place] == pre[place].1);
        }
    }
}

#[test]
fn a_square_coder_is_read_by_the_format_and_not_by_its_shape() {
    let mut f = foreign();
    f.config.1["num_latents"] = json!(D);
    f.tensors
        .insert("encoder.weight", f32s(&[D, D], &numbers(D * D, 1)));
    f.tensors.insert("encoder.bias", f32s(&[D], &numbers(D, 2)));
    f.tensors.insert("W_dec", f32s(&[D, D], &numbers(D * D, 3)));
    let d = f.open().unwrap();
    assert_eq!(host(&d.coder.w_enc()), numbers(D * D, 1));
    assert_eq!(host(&d.coder.w_dec()), numbers(D * D, 3));
}

#[test]
fn older_files_have_fewer_keys() {
    let mut f = foreign();
    f.config.1 = json!({"expansion_factor": 3, "normalize_decoder": true, "num_latents": 0, "k": 2, "signed": false, "d_in": D});
    f.tensors
        .insert("encoder.weight", f32s(&[3 * D, D], &numbers(3 * D * D, 1)));
    f.tensors
        .insert("encoder.bias", f32s(&[3 * D], &numbers(3 * D, 2)));
    f.tensors
        .insert("W_dec", f32s(&[3 * D, D], &numbers(3 * D * D, 3)));
    assert_eq!(f.open().unwrap().coder.d_sae(), 3 * D);
}

#[test]
fn the_run_and_the_folder_say_where_it_belongs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("layers.10.mlp");
    fs::create_dir(&folder).unwrap();
    foreign().write(&folder);
    let run = json!({"model": "HuggingFaceTB/SmolLM2-135M", "dataset": "EleutherAI/text", "ctx_len": 2048});
    fs::write(dir.path().join("config.json"), run.to_string()).unwrap();
    let from = opened(&folder, None).unwrap().provenance;
    assert_eq!(from.sites, Sites::autoencoder("blocks.10.hook_mlp_out"));
    assert_eq!(
        from.model_name.as_deref(),
        Some("HuggingFaceTB/SmolLM2-135M")
    );
    assert_eq!(
        (from.context, from.corpus.as_deref()),
        (Some(2048), Some("EleutherAI/text"))
    );
}

#[test]
fn double_precision_is_read() {
    let mut f = foreign();
    for (dtype, _, bytes) in f.tensors.values_mut() {
        *dtype = Dtype::F64;
        let values = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        *bytes = values.flat_map(|v| f64::from(v).to_le_bytes()).collect();
    }
    assert_weights(&f.open().unwrap());
    for (file, config) in [
        ("topk_f64.pt", "AutoEncoderTopK"),
        ("gemma_scope_f64.npz", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(fixture(file), dir.path().join(file)).unwrap();
        let config = json!({"trainer": {"dict_class": config, "k": 2}}).to_string();
        if file.ends_with(".pt") {
            fs::write(dir.path().join("config.json"), config).unwrap();
        }
        assert_weights(&opened(dir.path(), None).unwrap());
    }
}

#[test]
fn half_precision_is_read() {
    let mut f = foreign();
    for (dtype, _, bytes) in f.tensors.values_mut() {
        *dtype = Dtype::BF16;
        let values = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        *bytes = values
            .flat_map(|v| bf16::from_f32(v).to_le_bytes())
            .collect();
    }
    assert_weights(&f.open().unwrap()); // the numbers are exact in bf16
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() {
    let refused = |change: &dyn Fn(&mut Foreign)| foreign().refused(change);
    let (cfg, weights) = ("DIR/cfg.json", "DIR/sae.safetensors");
    assert_eq!(
        refused(&|f| {
            f.tensors.insert(
                "encoder.weight",
                f32s(&[D, F], &turned(&numbers(F * D, 1), F, D)),
            );
        }),
        format!(
            "{weights}: tensor `encoder.weight`: found shape [4, 6], expected shape [6, 4] (this one lies transposed)"
        )
    );
    assert_eq!(
        refused(&|f| f.config.1["num_latents"] = json!(7)),
        format!("{weights}: tensor `encoder.weight`: found shape [6, 4], expected shape [7, 4]")
    );
    assert_eq!(
        refused(&|f| {
            f.tensors.remove("W_dec");
        }),
        format!(
            "{weights}: tensor `W_dec`: found only [b_dec, encoder.bias, encoder.weight], expected W_dec [6, 4]"
        )
    );
    assert_eq!(
        refused(&|f| {
            f.tensors
                .insert("W_skip", f32s(&[D, D], &numbers(D * D, 5)));
        }),
        format!(
            "{weights}: tensor `W_skip`: found a tensor that means nothing here, expected only [encoder.weight, encoder.bias, W_dec, b_dec]"
        )
    );
    assert_eq!(
        refused(&|f| f.config.1["k"] = json!(7)),
        format!("{cfg}: k: found 7, expected at most num_latents = 6")
    );
    assert_eq!(
        refused(&|f| f.config.1["k"] = json!(0)),
        format!("{cfg}: k: found 0, expected a whole number from 1 to 2147483647")
    );
    assert_eq!(
        refused(&|f| f.config.1["activation"] = json!("groupmax")),
        format!(
            "{cfg}: found activation \"groupmax\", which cannot be done exactly here: the largest latent of each of k groups is no TopK"
        )
    );
    assert!(
        refused(&|f| f.config.1["activation"] = json!("relu"))
            .contains("activation: found \"relu\"")
    );
    assert!(refused(&|f| f.config.1["signed"] = json!(true)).contains("found signed true"));
    assert!(
        refused(&|f| f.config.1["transcode"] = json!("yes")).contains("transcode: found \"yes\"")
    );
    assert_eq!(
        refused(&|f| f.tensors.get_mut("W_dec").unwrap().0 = Dtype::I32),
        format!("{weights}: tensor `W_dec`: found type I32, expected F32, F16, BF16 or F64")
    );
    assert_eq!(
        refused(&|f| {
            let eighth = (Dtype::F8_E4M3, vec![F, D], vec![0x38; F * D]);
            f.tensors.insert("W_dec", eighth);
        }),
        format!("{weights}: tensor `W_dec`: found type F8_E4M3, expected F32, F16, BF16 or F64")
    );
    assert_eq!(
        refused(&|f| f.tensors.get_mut("b_dec").unwrap().2[4..8]
            .copy_from_slice(&f32::INFINITY.to_le_bytes())),
        format!("{weights}: tensor `b_dec`: found inf at element 1, expected finite numbers")
    );
    // Numbers whose product overflows are an error before anything is allocated.
    assert!(
        refused(&|f| {
            f.config.1["num_latents"] = json!(0);
            f.config.1["d_in"] = json!(2_147_483_647u64);
            f.config.1["expansion_factor"] = json!(2_147_483_647u64);
        })
        .contains("sae.safetensors")
    );
}
